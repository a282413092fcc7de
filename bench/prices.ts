/**
 * Public price lists, in US dollars, without the free allowances; as they stood when they were read.
 *
 * - Workers: https://developers.cloudflare.com/workers/platform/pricing/
 * - Durable Objects: https://developers.cloudflare.com/durable-objects/platform/pricing/ (each RPC is a request; twenty
 *   incoming WebSocket messages are one; the entries of an index and each `setAlarm` are rows; duration is that of
 *   128 MB, and an object that may hibernate costs none)
 * - Upstash Redis, pay as you go: https://upstash.com/docs/redis/overall/billing (commands of a transaction count singly)
 */
export const PRICES_READ = "2026-11-21";

const MILLION = 1e6;

export const PRICES = {
  workerRequest: 0.3 / MILLION,
  workerCpuMs: 0.02 / MILLION,
  objectRequest: 0.15 / MILLION,
  objectGbSecond: 12.5 / MILLION,
  rowWritten: 1 / MILLION,
  objectGbMonth: 0.2,
  redisCommand: 0.2 / 100_000,
  redisGbMonth: 0.25,
} as const;

export const LIMITS = {
  /** Of one Upstash database; beyond it commands are delayed. */
  redisCommandsPerSecond: 10_000,
  /** Of one Upstash database, pay as you go. */
  redisBytes: 100e9,
  /** Of one object, a soft limit: https://developers.cloudflare.com/durable-objects/reference/faq/ */
  objectRequestsPerSecond: 1_000,
} as const;

/** What an object is billed as holding while it may not hibernate. */
export const OBJECT_GB = 0.128;
