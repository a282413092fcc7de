/**
 * Where the parts are put together: from the environment to a configuration, a storage and channels (once
 * for each isolate, because they hold no request), and from those to the core that serves one request.
 */
import { type Config, type ParsedConfig, parseConfig } from "../lib/config.ts";
import { type Core, createCore } from "../lib/core.ts";
import { partitionOf } from "../lib/keys.ts";
import type { Logger } from "../lib/log.ts";
import type { Channel } from "../lib/push/channel.ts";
import { createMonitorChannel } from "../lib/push/monitor.ts";
import { createSocketChannel } from "../lib/push/socket.ts";
import { createDurableObjectStandby, createDurableObjectStorage } from "../lib/storage/durable-object.ts";
import { createFallback, type RequestContext } from "../lib/storage/fallback.ts";
import { createMemoryStorage } from "../lib/storage/memory.ts";
import type { Storage } from "../lib/storage/storage.ts";
import { withTimeBudget } from "../lib/storage/time-budget.ts";
import { createUpstashStorage } from "../lib/storage/upstash.ts";
import { createTurns, type Turns } from "../lib/turns.ts";
import type { Bindings } from "./context.ts";

const now = () => Date.now();
const wait = (ms: number) => scheduler.wait(ms);

const configs = new WeakMap<Bindings, ParsedConfig>();

/** The configuration of this isolate, parsed once. */
export function configOf(env: Bindings): ParsedConfig {
  const known = configs.get(env) ?? parseConfig(env);
  configs.set(env, known);
  return known;
}

/** What one isolate has, whatever it is asked. */
type Parts = {
  storageFor: (request: RequestContext) => Storage;
  /** Where the assistant's memory is kept, if not where everything else is. */
  memoryStorage: Storage | undefined;
  channels: readonly Channel[];
  turns: Turns;
};

const parts = new WeakMap<Config, Parts>();

function partsOf(config: Config, env: Bindings): Parts {
  const known = parts.get(config) ?? {
    storageFor: storageOf(config, env),
    memoryStorage: config.useRedisSessions ? undefined : createMemoryStorage({ now }),
    channels: channelsOf(config),
    turns: createTurns(),
  };
  parts.set(config, known);
  return known;
}

/** Upstash with the Durable Objects standing by, or the Durable Objects alone. */
function storageOf(config: Config, { STORAGE_OBJECTS: namespace }: Bindings): Parts["storageFor"] {
  const primary = primaryOf(config);
  // A deployment may leave the objects out; then nothing stands by.
  if (namespace === undefined && primary !== null) return () => primary;
  if (namespace === undefined) throw new TypeError("embedded storage needs the STORAGE_OBJECTS binding");
  const objects = { namespace, partitionOf, now };
  if (primary === null) {
    const embedded = createDurableObjectStorage(objects);
    return () => embedded;
  }
  const fallback = createFallback({
    primary,
    standby: createDurableObjectStandby(objects),
    partitionOf,
    now,
  });
  return (request) => fallback.forRequest(request);
}

/** The storage that the Durable Objects stand by for; null where there is none. */
export function primaryOf({ storage }: Config): Storage | null {
  return storage.kind === "upstash" ? createUpstashStorage(storage) : null;
}

/** In the order of their precedence. */
function channelsOf({ elevenLabs, pushAllowedHosts: allowedHosts }: Config): Channel[] {
  return [
    ...(elevenLabs.monitor ? [createMonitorChannel({ apiKey: elevenLabs.apiKey, allowedHosts })] : []),
    createSocketChannel(allowedHosts),
  ];
}

/** The core that serves one request. `waitUntil` keeps work alive after the answer. */
export function coreFor(
  config: Config,
  env: Bindings,
  log: Logger,
  waitUntil: (work: Promise<unknown>) => void,
): Core {
  const { storageFor, ...ofIsolate } = partsOf(config, env);
  const storage = withTimeBudget(storageFor({ log, afterResponse: waitUntil }), now);
  return createCore({
    ...ofIsolate,
    storage,
    conversationTtlSeconds: config.conversationTtlSeconds,
    stateTtlSeconds: config.stateTtlSeconds,
    log,
    now,
    wait,
    afterResponse(work) {
      storage.renew();
      waitUntil(work());
    },
  });
}
