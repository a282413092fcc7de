/**
 * Redis, or else the object that a record belongs to. An instance never decides by itself that Redis is down:
 * where its own request failed it asks the object, which tries Redis too before it answers from what it keeps.
 */
import { isUnavailable } from "../errors.ts";
import { callObject } from "../rpc.ts";
import type { Breaker } from "./breaker.ts";
import type { RecordObjects } from "./durable-object.ts";
import { checkWrites, type Storage, type TextStorage, ttlMillis, type WriteResults } from "./storage.ts";
import { updateBySwapping } from "./swap.ts";

/** What `redis` says; where Redis is out of reach, what the object says. A refusal of Redis is passed on. */
export type ElseAsk = <T>(redis: () => Promise<T>, object: () => Promise<T>) => Promise<T>;

/** While the breaker is open the object is asked at once: that only saves the wait. */
export function createElseAsk(breaker: Breaker): ElseAsk {
  return async (redis, object) => {
    if (!breaker.mayTry()) return object();
    try {
      return await redis();
    } catch (error) {
      if (!isUnavailable(error)) throw error;
      return object();
    }
  };
}

/** How long an object may take, its own try of Redis included, in ms. */
const ASK_MS = 2_000;

/**
 * Texts each of which has one writer, its object: read in Redis, or else there, and written there. A commit is
 * of one record.
 */
export function createRecordStorage(redis: Storage, elseAsk: ElseAsk, namespace: RecordObjects): TextStorage {
  const { name } = redis;
  const objectOf = (key: string) => namespace.get(namespace.idFromName(key));

  const storage: TextStorage = {
    name,
    get: (key) =>
      elseAsk(
        () => redis.get(key),
        () => callObject("get", ASK_MS, () => objectOf(key).read(key)),
      ),

    getAndTouch: (key, ttlSeconds) =>
      elseAsk(
        () => redis.getAndTouch(key, ttlSeconds),
        () => callObject("getAndTouch", ASK_MS, () => objectOf(key).read(key, ttlSeconds)),
      ),

    async update(key, change, ttlSeconds) {
      ttlMillis(ttlSeconds);
      // Read there too: while it keeps something, Redis may have what stood before.
      const read = () => callObject("update", ASK_MS, () => objectOf(key).read(key));
      return updateBySwapping(name, read, change, (expected, next) =>
        callObject("update", ASK_MS, () => objectOf(key).swap(key, expected, next, ttlSeconds), {
          once: true,
        }),
      );
    },

    async commit(writes) {
      checkWrites(writes);
      const [first] = writes;
      if (first === undefined) return [] as never;
      if (writes.some(({ key }) => key !== first.key)) throw new TypeError("a commit is of one record");
      const outcomes = await callObject("commit", ASK_MS, () => objectOf(first.key).write([...writes]));
      return outcomes as WriteResults<typeof writes>;
    },

    ping: () => redis.ping(),
    health: () => redis.health?.() ?? { usingFallback: false },
  };
  return storage;
}
