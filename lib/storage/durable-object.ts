/**
 * Storage on SQLite Durable Objects: one `StorageObject` for each partition, so that what must be written
 * together lives together. Nothing here needs the Workers runtime; the object itself is `storage-object.ts`.
 *
 * Objects cannot be enumerated. Keys that stand alone in their partition are therefore noted in one more
 * object, the directory, in parallel with the write. The directory may know too much, never too little: its
 * entries live at least as long as their keys, a delete leaves them to expire, and `scan` asks the objects
 * themselves before it names a key.
 */
import { StorageError } from "../errors.ts";
import type { Standby } from "./fallback.ts";
import { decodeIndexCursor, indexPage } from "./index-order.ts";
import { type Storage, ttlMillis, type Write, type WriteResults } from "./storage.ts";
import type { Answer, DirectoryNote, StorageObject, WriteOutcome } from "./storage-object.ts";
import type { WriteOrigin } from "./write-back.ts";
import { checkWrites } from "./write-check.ts";

export type DurableObjectStorageOptions = {
  namespace: DurableObjectNamespace<StorageObject>;
  /** The partition of a key; a key that is its own partition stands alone. */
  partitionOf: (key: string) => string;
  /** Milliseconds since the epoch; decides what has expired. */
  now: () => number;
  /** For a standby: what its writes are. Left out where the objects are themselves the storage. */
  origin?: WriteOrigin;
};

/** No partition has this name: keys and ids do not begin with a colon. */
const DIRECTORY = ":directory";

/** Each key of a page costs a call to its object, and a free Workers plan allows 50 of them a request. */
const SCAN_PAGE = 40;

export function createDurableObjectStorage(options: DurableObjectStorageOptions): Storage {
  const { namespace, partitionOf, now, origin } = options;
  const name = "durable-object";

  /** A new stub each time: one that has thrown may be broken for good. */
  const objectOf = (key: string) => objectNamed(partitionOf(key));
  const objectNamed = (partition: string) => namespace.get(namespace.idFromName(partition));
  const standsAlone = (key: string) => partitionOf(key) === key;

  async function ask<T>(operation: string, call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (cause) {
      throw cause instanceof StorageError
        ? cause
        : new StorageError(name, operation, "server_error", { cause });
    }
  }

  async function askKind<T>(operation: string, call: () => Promise<Answer<T>>): Promise<T> {
    const answer = await ask(operation, call);
    if ("value" in answer) return answer.value;
    throw new StorageError(name, operation, "rejected", {
      cause: new TypeError("the key holds another kind of value"),
    });
  }

  async function note(operation: string, notes: DirectoryNote[]): Promise<void> {
    const alone = notes.filter(({ key }) => standsAlone(key));
    if (alone.length > 0) await ask(operation, () => objectNamed(DIRECTORY).note(alone, now()));
  }

  const storage: Storage = {
    name,

    get: (key) => askKind("get", () => objectOf(key).get(key, now())),

    async getMany(keys) {
      const values = new Map<string, string | null>();
      await Promise.all(
        [...Map.groupBy(new Set(keys), partitionOf)].map(async ([partition, group]) => {
          const texts = await ask("getMany", () => objectNamed(partition).getMany(group, now()));
          group.forEach((key, i) => {
            values.set(key, texts[i] ?? null);
          });
        }),
      );
      return keys.map((key) => values.get(key) ?? null);
    },

    async getAndTouch(key, ttlSeconds) {
      ttlMillis(ttlSeconds);
      const [value] = await Promise.all([
        askKind("getAndTouch", () => objectOf(key).getAndTouch(key, ttlSeconds, now(), origin)),
        note("getAndTouch", [{ key, ttlSeconds, renewOnly: true }]),
      ]);
      return value;
    },

    async ttl(key) {
      const millis = await ask("ttl", () => objectOf(key).ttlMs(key, now()));
      return millis === null ? null : millis / 1000;
    },

    range: (key, start, stop) => askKind("range", () => objectOf(key).range(key, start, stop, now())),

    async listIndex(key, { limit, cursor, minScore }) {
      const after = cursor === undefined ? null : decodeIndexCursor(cursor);
      const entries = await askKind("listIndex", () =>
        objectOf(key).listIndex(key, limit + 1, after, minScore ?? null, now()),
      );
      return indexPage(entries, limit);
    },

    async scan(prefix, cursor = "") {
      const noted = await ask("scan", () => objectNamed(DIRECTORY).noted(prefix, cursor, SCAN_PAGE, now()));
      const standing = await Promise.all(
        noted.map((key) => ask("scan", () => objectOf(key).holdsString(key, now()))),
      );
      const gone = noted.filter((_, i) => !standing[i]);
      if (gone.length > 0) await ask("scan", () => objectNamed(DIRECTORY).forget(gone, now()));
      const keys = noted.filter((_, i) => standing[i]);
      const last = noted.at(-1);
      return noted.length === SCAN_PAGE && last !== undefined ? { keys, cursor: last } : { keys };
    },

    ping: () => ask("ping", () => objectNamed(DIRECTORY).ping()),

    async commit<const W extends readonly Write[]>(writes: W) {
      checkWrites(writes);
      const results: WriteOutcome[] = [];
      const groups = Map.groupBy(writes.keys(), (i) => partitionOf(at(writes, i).key));
      await Promise.all([
        ...[...groups].map(async ([partition, positions]) => {
          const group = positions.map((i) => at(writes, i));
          const outcomes = await askKind("commit", () => objectNamed(partition).apply(group, now(), origin));
          positions.forEach((position, i) => {
            results[position] = at(outcomes, i);
          });
        }),
        note("commit", writes.flatMap(noteOf)),
      ]);
      return results as WriteResults<W>;
    },

    async claim(key, value, ttlSeconds) {
      const [standing] = await storage.commit([{ type: "create", key, value, ttlSeconds }]);
      return standing === value ? null : standing;
    },

    async compareAndSet(key, expected, next, ttlSeconds) {
      ttlMillis(ttlSeconds);
      const [replaced] = await Promise.all([
        askKind("compareAndSet", () =>
          objectOf(key).compareAndSet(key, expected, next, ttlSeconds, now(), origin),
        ),
        next === null ? undefined : note("compareAndSet", [{ key, ttlSeconds, renewOnly: true }]),
      ]);
      return replaced;
    },
  };
  return storage;
}

/**
 * The same objects as the standby of a primary. The objects must know that primary (see `StorageObject`),
 * because they give back to it by themselves.
 */
export function createDurableObjectStandby(options: Omit<DurableObjectStorageOptions, "origin">): Standby {
  const { namespace, now } = options;
  const withOrigin = (origin: WriteOrigin) => createDurableObjectStorage({ ...options, origin });
  return {
    outage: withOrigin("outage"),
    tried: withOrigin("tried"),
    async copy(writes, at) {
      await createDurableObjectStorage({ ...options, now: () => at, origin: "copy" }).commit(writes);
    },
    async copyClaim(key, value, ttlSeconds, at) {
      const copy = createDurableObjectStorage({ ...options, now: () => at, origin: "copy" });
      return (await copy.claim(key, value, ttlSeconds)) ?? value;
    },
    writeBack: (partition) => namespace.get(namespace.idFromName(partition)).writeBack(now()),
  };
}

/** What the directory has to know of a write. Lists and indexes are not scanned, and a delete leaves its note. */
function noteOf(write: Write): DirectoryNote[] {
  switch (write.type) {
    case "set":
    case "create":
      return [{ key: write.key, ttlSeconds: write.ttlSeconds }];
    case "touch":
      return [{ key: write.key, ttlSeconds: write.ttlSeconds, renewOnly: true }];
    default:
      return [];
  }
}

function at<T>(items: readonly T[], position: number): T {
  const item = items[position];
  if (item === undefined) throw new RangeError(`nothing at ${position}`);
  return item;
}
