/**
 * Two storages behind a circuit breaker: a primary, and a standby that carries on while the primary cannot.
 *
 * In good times every write that the primary has acknowledged is copied to the standby, after the answer, so
 * that an outage finds there what was true when it began: sessions that are still live, callbacks that were
 * settled already. When the primary fails, the request that noticed goes on with the standby, and so does
 * every request once three in a row have failed. What is written there is remembered by the standby and given
 * back (`write-back.ts`); until a partition has been given back, its keys are not looked for in the primary.
 */
import { StorageError, type StorageFailure } from "../errors.ts";
import type { Logger } from "../log.ts";
import { createBreaker } from "./breaker.ts";
import type { ScanPage, Storage, TtlSeconds, Write, WriteResults } from "./storage.ts";
import type { WriteBackOutcome } from "./write-back.ts";

/** What a storage must be able to do to stand by for another. */
export interface Standby {
  /** The storage while the primary is not asked. */
  readonly outage: Storage;
  /** The storage for a write that the primary was asked for and did not answer. */
  readonly tried: Storage;
  /** Takes over what the primary acknowledged at `at` (ms since the epoch). */
  copy(writes: readonly Write[], at: number): Promise<void>;
  /** Takes over a claim. Returns the text that stands here now: `value`, or what somebody claimed with here before. */
  copyClaim(key: string, value: string, ttlSeconds: TtlSeconds, at: number): Promise<string>;
  /** Gives a partition back to the primary. */
  writeBack(partition: string): Promise<WriteBackOutcome>;
}

export type RequestContext = {
  log: Logger;
  /** Keeps work alive after the answer has been given. */
  afterResponse: (work: Promise<unknown>) => void;
};

export type FallbackOptions = {
  primary: Storage;
  standby: Standby;
  /** Which keys stand together; see `Standby.writeBack`. */
  partitionOf: (key: string) => string;
  /** The clock, in ms since the epoch. */
  now: () => number;
  /** From 0 to 1, for jitter. */
  random?: () => number;
};

/**
 * After the primary has come back, each partition is asked for what it still holds before it is used. By the
 * end of this time the standby's own alarms, at most 15 s apart, have seen to the rest.
 */
const SETTLING_MS = 90_000;

/** How long a request waits for a partition to be given back before it goes on with the standby. */
const SETTLING_PATIENCE_MS = 1_500;

/** How many partitions one isolate remembers. Beyond that it asks again, which is only slower. */
const MAX_REMEMBERED = 10_000;

/** What one isolate knows; `forRequest` makes the storage that serves one request. */
export type Fallback = { forRequest(context: RequestContext): Storage };

export function createFallback({
  primary,
  standby,
  partitionOf,
  now,
  random = Math.random,
}: FallbackOptions): Fallback {
  const breaker = createBreaker({ now, random });
  /** Partitions that this isolate has left something of in the standby. */
  const leftBehind = new Set<string>();
  /** Partitions that were asked since the primary came back, and had nothing left. */
  const settled = new Set<string>();

  function mustBeAsked(partition: string): boolean {
    return leftBehind.has(partition) || (breaker.closedSince(SETTLING_MS) && !settled.has(partition));
  }

  function leaveBehind(partition: string): void {
    settled.delete(partition);
    remember(leftBehind, partition);
  }

  function remember(partitions: Set<string>, partition: string): void {
    if (partitions.size >= MAX_REMEMBERED) partitions.clear();
    partitions.add(partition);
  }

  /**
   * Sees to it that the primary has everything that belongs to these keys. Returns whether it has; `onFailure`
   * is told where the primary failed.
   */
  async function settle(
    keys: readonly string[],
    onFailure: (failure: StorageFailure) => void,
  ): Promise<boolean> {
    const partitions = [...new Set(keys.map(partitionOf))].filter(mustBeAsked);
    const outcomes = await Promise.all(
      partitions.map(async (partition) => {
        const { clean, failure } = await within(SETTLING_PATIENCE_MS, standby.writeBack(partition));
        if (failure !== undefined) onFailure(failure);
        if (clean) {
          leftBehind.delete(partition);
          remember(settled, partition);
        }
        return clean;
      }),
    );
    return outcomes.every((clean) => clean);
  }

  /**
   * A claim must hold in both places before anybody acts on it: at the onset of an outage another request may
   * have claimed the same in the standby a moment ago. Returns what stands in the way, or null.
   */
  async function confirm(key: string, value: string, ttlSeconds: TtlSeconds): Promise<string | null> {
    const standing = await standby.copyClaim(key, value, ttlSeconds, now()).catch(() => value);
    if (standing === value) return null;
    await primary.compareAndSet(key, value, null, null);
    return standing;
  }

  /** Asks the primary, beside the request, whether it is back. */
  async function probe(log: Logger): Promise<void> {
    try {
      await primary.ping();
    } catch (error) {
      if (error instanceof StorageError) breaker.probeFailed(error.failure);
      return;
    }
    settled.clear();
    const downMs = breaker.close();
    if (downMs !== null) log.info("storage.recovered", { driver: primary.name, downMs });
  }

  function forRequest({ log, afterResponse }: RequestContext): Storage {
    /** A request that has failed over stays there: it waits for the primary once at most, and reads its own writes. */
    let failedOver = false;

    function failOver(operation: string, failure: StorageFailure): void {
      if (failedOver) return;
      failedOver = true;
      if (breaker.failed(failure)) {
        log.warn("storage.degraded", {
          driver: primary.name,
          operation,
          failure,
          fallback: standby.outage.name,
        });
      }
    }

    /**
     * Does one thing with the primary, or with the standby where that is no use. `copiesOf` says which writes
     * a success amounts to; without it nothing was written.
     */
    async function run<T>(
      keys: readonly string[],
      act: (storage: Storage) => Promise<T>,
      copiesOf?: (result: T) => readonly Write[],
    ): Promise<T> {
      /** What is written to the standby is looked for there until it has been given back. */
      const onStandby = (storage: Storage): Promise<T> => {
        if (copiesOf) for (const key of keys) leaveBehind(partitionOf(key));
        return act(storage);
      };

      if (failedOver || breaker.isOpen()) {
        if (breaker.mayProbe()) afterResponse(probe(log));
        return onStandby(standby.outage);
      }
      if (!(await settle(keys, (failure) => failOver("writeBack", failure)))) {
        failedOver = true;
        return onStandby(standby.outage);
      }
      let result: T;
      try {
        result = await act(primary);
      } catch (error) {
        if (!(error instanceof StorageError)) throw error;
        failOver(error.operation, error.failure);
        return onStandby(standby.tried);
      }
      breaker.succeeded();
      const copies = copiesOf?.(result) ?? [];
      // Best effort: a copy that is lost is missed only if the primary fails before the key is written again.
      if (copies.length > 0) afterResponse(standby.copy(copies, now()).catch(() => {}));
      return result;
    }

    return {
      name: primary.name,
      health() {
        const usingFallback = failedOver || breaker.isOpen();
        const lastError = breaker.lastError();
        return { usingFallback, ...(usingFallback && lastError ? { lastError } : {}) };
      },

      get: (key) => run([key], (storage) => storage.get(key)),
      getMany: (keys) => run(keys, (storage) => storage.getMany(keys)),
      ttl: (key) => run([key], (storage) => storage.ttl(key)),
      range: (key, start, stop) => run([key], (storage) => storage.range(key, start, stop)),
      listIndex: (key, query) => run([key], (storage) => storage.listIndex(key, query)),
      ping: () => run([], (storage) => storage.ping()),

      getAndTouch: (key, ttlSeconds) =>
        run(
          [key],
          (storage) => storage.getAndTouch(key, ttlSeconds),
          (text) => (text === null ? [] : [{ type: "touch", key, ttlSeconds }]),
        ),

      // What was left behind and would be found must be given back first; such keys are their own partitions.
      scan: (prefix, cursor) =>
        run(
          [...leftBehind].filter((key) => key.startsWith(prefix)),
          (storage) => scan(storage, prefix, cursor),
        ),

      async commit<const W extends readonly Write[]>(writes: W): Promise<WriteResults<W>> {
        const keys = writes.map(({ key }) => key);
        return run(
          keys,
          (storage) => storage.commit(writes),
          (results) => writes.flatMap((write, i) => copyOf(write, results[i])),
        );
      },

      claim: (key, value, ttlSeconds) =>
        run(
          [key],
          async (storage) => {
            const standing = await storage.claim(key, value, ttlSeconds);
            return standing === null && storage === primary ? confirm(key, value, ttlSeconds) : standing;
          },
          () => [],
        ),

      compareAndSet: (key, expected, next, ttlSeconds) =>
        run(
          [key],
          (storage) => storage.compareAndSet(key, expected, next, ttlSeconds),
          (done) => {
            if (!done) return [];
            return next === null
              ? [{ type: "delete", key }]
              : [{ type: "set", key, value: next, ttlSeconds }];
          },
        ),
    };
  }

  return { forRequest };
}

/** What a write that the primary has acknowledged amounts to. */
function copyOf(write: Write, result: unknown): Write[] {
  if (write.type !== "create") return [write];
  const { key, value, ttlSeconds } = write;
  return result === value ? [{ type: "set", key, value, ttlSeconds }] : [];
}

/**
 * A page of a scan, with a cursor that says whose it is: one of the other storage begins again, and keys that
 * were given before come again, as the interface allows.
 */
async function scan(storage: Storage, prefix: string, cursor?: string): Promise<ScanPage> {
  const own = `${storage.name}:`;
  const page = await storage.scan(prefix, cursor?.startsWith(own) ? cursor.slice(own.length) : undefined);
  return page.cursor === undefined ? page : { ...page, cursor: own + page.cursor };
}

/** What `work` says within `ms`; after that, or where the standby itself fails, that it is not clean. */
async function within(ms: number, work: Promise<WriteBackOutcome>): Promise<WriteBackOutcome> {
  const { promise: late, resolve } = Promise.withResolvers<WriteBackOutcome>();
  const timer = setTimeout(() => resolve({ clean: false, failure: "timeout" }), ms);
  try {
    return await Promise.race([work.catch(() => ({ clean: false })), late]);
  } finally {
    clearTimeout(timer);
  }
}
