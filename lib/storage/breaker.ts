/**
 * A circuit breaker before a storage: after some failures in a row nobody waits for it any more, and one call
 * at a time, after 1, 2, 4 … s with jitter, finds out whether it is back. It only saves waiting: who is
 * refused here asks elsewhere or says that the storage is out of reach, which is what the wait would have ended
 * in.
 */
import { isUnavailable, StorageError, type StorageFailure } from "../errors.ts";
import type { Storage, StorageHealth } from "./storage.ts";

const FIRST_TRY_MS = 1_000;

/** An instance asks many keys for many callers: a single failure is no outage, and it may rest for a while. */
export const OF_AN_INSTANCE = { failuresToOpen: 3, longestWaitMs: 30_000 } as const;
/** An object asks for one record and can go on without; but what it keeps is to be back within seconds. */
export const OF_AN_OBJECT = { failuresToOpen: 1, longestWaitMs: 5_000 } as const;

export type BreakerOptions = {
  /** The clock, in ms since the epoch. */
  now: () => number;
  failuresToOpen: number;
  longestWaitMs: number;
  /** From 0 to 1; a wait is between half and all of its full length. */
  random?: () => number;
};

export interface Breaker {
  /** Whether a call may be made: always while it is closed, now and then while it is open. */
  mayTry(): boolean;
  /** Closes it. Returns for how long it was open, in ms; null where it was closed already. */
  succeeded(): number | null;
  /** Counts a failure. Returns whether this one opened it. */
  failed(failure: StorageFailure): boolean;
  /** What went wrong last, while it is open. */
  openBecause(): StorageFailure | null;
  /** When it failed last, in ms since the epoch; null while it is closed. */
  failedAt(): number | null;
  /** When a call may be made again, in ms since the epoch; null while it is closed. */
  nextTryAt(): number | null;
}

export function createBreaker(options: BreakerOptions): Breaker {
  const { now, failuresToOpen, longestWaitMs, random = Math.random } = options;
  let failures = 0;
  let open: {
    since: number;
    waitMs: number;
    nextTryAt: number;
    because: StorageFailure;
    failedAt: number;
  } | null = null;

  const jittered = (ms: number) => ms * (0.5 + random() / 2);

  return {
    mayTry() {
      if (open === null) return true;
      if (now() < open.nextTryAt) return false;
      // Put off at once, so that nobody else tries meanwhile, and again even if this caller dies.
      open.waitMs = Math.min(2 * open.waitMs, longestWaitMs);
      open.nextTryAt = now() + jittered(open.waitMs);
      return true;
    },

    succeeded() {
      failures = 0;
      const openMs = open === null ? null : now() - open.since;
      open = null;
      return openMs;
    },

    failed(because) {
      failures += 1;
      if (open !== null) {
        open.because = because;
        open.failedAt = now();
        // The try itself may have taken as long as the wait before the next one.
        open.nextTryAt = now() + jittered(open.waitMs);
      }
      if (open !== null || failures < failuresToOpen) return false;
      const nextTryAt = now() + jittered(FIRST_TRY_MS);
      open = { since: now(), waitMs: FIRST_TRY_MS, nextTryAt, because, failedAt: now() };
      return true;
    },

    openBecause: () => open?.because ?? null,
    failedAt: () => open?.failedAt ?? null,
    nextTryAt: () => open?.nextTryAt ?? null,
  };
}

/** What an instance likes to hear of its storage. */
export type BreakerEvents = {
  degraded?: (operation: string, failure: StorageFailure) => void;
  /** `downMs`: how long nobody waited for it. `failedAt`: when it was known to be down last, in ms since the epoch. */
  recovered?: (downMs: number, failedAt: number) => void;
};

/**
 * The storage as a breaker watches it. `refuses`: while the breaker is open, calls fail at once with what went
 * wrong last. Otherwise every call is made: for what nobody else can answer, waiting is better than a no.
 */
export function withBreaker(
  storage: Storage,
  breaker: Breaker,
  { refuses, degraded, recovered }: BreakerEvents & { refuses: boolean },
): Storage {
  const { name } = storage;

  async function ask<T>(operation: string, call: () => Promise<T>): Promise<T> {
    if (refuses && !breaker.mayTry()) {
      throw new StorageError(name, operation, breaker.openBecause() ?? "timeout");
    }
    try {
      const result = await call();
      noteSuccess();
      return result;
    } catch (error) {
      if (isUnavailable(error)) {
        if (breaker.failed(error.failure)) degraded?.(operation, error.failure);
      } else if (error instanceof StorageError) {
        // A refusal is an answer.
        noteSuccess();
      }
      throw error;
    }
  }

  function noteSuccess(): void {
    const failedAt = breaker.failedAt();
    const downMs = breaker.succeeded();
    if (downMs !== null && failedAt !== null) recovered?.(downMs, failedAt);
  }

  return {
    name,
    health(): StorageHealth {
      const lastError = breaker.openBecause();
      return lastError === null ? { usingFallback: false } : { usingFallback: true, lastError };
    },
    get: (key) => ask("get", () => storage.get(key)),
    getMany: (keys) => ask("getMany", () => storage.getMany(keys)),
    getAndTouch: (key, ttlSeconds) => ask("getAndTouch", () => storage.getAndTouch(key, ttlSeconds)),
    ttl: (key) => ask("ttl", () => storage.ttl(key)),
    range: (key, start, stop) => ask("range", () => storage.range(key, start, stop)),
    listIndex: (key, query) => ask("listIndex", () => storage.listIndex(key, query)),
    readLog: (key, query) => ask("readLog", () => storage.readLog(key, query)),
    update: (key, change, ttlSeconds) => ask("update", () => storage.update(key, change, ttlSeconds)),
    commit: (writes) => ask("commit", () => storage.commit(writes)),
    ping: () => ask("ping", () => storage.ping()),
  };
}
