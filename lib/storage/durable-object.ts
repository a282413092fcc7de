/**
 * Storage on SQLite Durable Objects, for embedded storage: one `RecordObject` for each partition, so that what
 * must be written together lives together. Nothing here needs the Workers runtime.
 */
import { callObject } from "../rpc.ts";
import { decodeIndexCursor, indexPage } from "./index-order.ts";
import type { RecordObject } from "./record-object.ts";
import {
  checkWrites,
  decodeLogEntryId,
  type Storage,
  ttlMillis,
  type Write,
  type WriteOutcome,
  type WriteResults,
} from "./storage.ts";
import { updateBySwapping } from "./swap.ts";

export type RecordObjects = DurableObjectNamespace<RecordObject<unknown>>;

export type DurableObjectStorageOptions = {
  namespace: RecordObjects;
  /** The partition of a key. */
  partitionOf: (key: string) => string;
  /** Milliseconds since the epoch; decides what has expired. */
  now: () => number;
};

/** How long one call of an object may take. They are local to their data, and quick. */
const CALL_MS = 3_000;

export function createDurableObjectStorage(options: DurableObjectStorageOptions): Storage {
  const { namespace, partitionOf, now } = options;
  const name = "durable-object";

  /** A new stub each time: one that has thrown may be broken for good. */
  const objectNamed = (partition: string) => namespace.get(namespace.idFromName(partition));
  const objectOf = (key: string) => objectNamed(partitionOf(key));

  const storage: Storage = {
    name,

    get: (key) => callObject("get", CALL_MS, () => objectOf(key).get(key, now())),

    async getMany(keys) {
      const values = new Map<string, string | null>();
      await Promise.all(
        [...Map.groupBy(new Set(keys), partitionOf)].map(async ([partition, group]) => {
          const texts = await callObject("getMany", CALL_MS, () =>
            objectNamed(partition).getMany(group, now()),
          );
          group.forEach((key, i) => {
            values.set(key, texts[i] ?? null);
          });
        }),
      );
      return keys.map((key) => values.get(key) ?? null);
    },

    async getAndTouch(key, ttlSeconds) {
      const [text] = await storage.commit([{ type: "get", key, ttlSeconds }]);
      return text;
    },

    async ttl(key) {
      const millis = await callObject("ttl", CALL_MS, () => objectOf(key).ttlMs(key, now()));
      return millis === null ? null : millis / 1000;
    },

    range: (key, start, stop) =>
      callObject("range", CALL_MS, () => objectOf(key).range(key, start, stop, now())),

    async listIndex(key, { limit, cursor, minScore }) {
      const after = cursor === undefined ? null : decodeIndexCursor(cursor);
      const entries = await callObject("listIndex", CALL_MS, () =>
        objectOf(key).listIndex(key, limit + 1, after, minScore ?? null, now()),
      );
      return indexPage(entries, limit);
    },

    readLog: async (key, query) => {
      if (query.before !== undefined) decodeLogEntryId(query.before);
      return callObject("readLog", CALL_MS, () => objectOf(key).readLog(key, query, now()));
    },

    async update(key, change, ttlSeconds) {
      ttlMillis(ttlSeconds);
      const read = () => storage.get(key);
      return updateBySwapping(name, read, change, (expected, next) =>
        callObject("update", CALL_MS, () => objectOf(key).replace(key, expected, next, ttlSeconds, now()), {
          once: true,
        }),
      );
    },

    ping: async () => void (await callObject("ping", CALL_MS, () => objectNamed(NOBODY).ping())),

    async commit<const W extends readonly Write[]>(writes: W) {
      checkWrites(writes);
      const outcomes: WriteOutcome[] = writes.map(() => null);
      await Promise.all(
        [...Map.groupBy(writes.entries(), ([, { key }]) => partitionOf(key))].map(
          async ([partition, group]) => {
            const ofGroup = await callObject("commit", CALL_MS, () =>
              objectNamed(partition).apply(
                group.map(([, write]) => write),
                now(),
              ),
            );
            for (const [i, [place]] of group.entries()) outcomes[place] = ofGroup[i] ?? null;
          },
        ),
      );
      return outcomes as WriteResults<W>;
    },
  };
  return storage;
}

/** No partition has this name, since keys and ids do not begin with a colon; the object behind it stays empty. */
const NOBODY = ":ping";
