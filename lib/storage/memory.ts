/**
 * Storage in memory, for unit tests and for use outside Workers. The clock is handed in, so that a test can
 * walk up to the last millisecond of a TTL.
 *
 * A key is one record, whatever it holds: lists are bounded by their writes, indexes by their pruning. An
 * operation costs the same however many records there are, except for those that look at all of something:
 * `scan`, `listIndex`, and `remove` and `prune` within their key.
 */
import { StorageError } from "../errors.ts";
import { type BoundedRecords, createBoundedRecords } from "./bounded-records.ts";
import { compareIndexEntries, decodeIndexCursor, indexPage } from "./index-order.ts";
import { type Storage, type TtlSeconds, ttlMillis, type Write, type WriteResults } from "./storage.ts";
import { checkWrites } from "./write-check.ts";

export type MemoryStorageOptions = {
  /** Milliseconds since the epoch. */
  now: () => number;
  /**
   * How many keys at most; when they are reached, the fifth that was written longest ago goes. What has expired
   * counts until it is noticed, by a call for its key or by a sweep, at most every 5 minutes. 1,000.
   */
  maxRecords?: number;
};

/** A list begins at its `start`: to shift an array is O(n), so dropped entries go when they are half of it. */
type Content =
  | { kind: "string"; value: string }
  | { kind: "list"; items: string[]; start: number }
  | { kind: "index"; scores: Map<string, number> };
type Kind = Content["kind"];
type ContentOf<K extends Kind> = Extract<Content, { kind: K }>;
type Records = BoundedRecords<Content>;

const SCAN_PAGE = 100;

export function createMemoryStorage({ now, maxRecords = 1000 }: MemoryStorageOptions): Storage {
  const name = "memory";
  const records: Records = createBoundedRecords({ now, maxRecords });

  function contentOf<K extends Kind>(
    operation: string,
    key: string,
    kind: K,
    { find } = records,
  ): ContentOf<K> | undefined {
    const content = find(key)?.content;
    if (content && content.kind !== kind) {
      throw new StorageError(name, operation, "rejected", {
        cause: new TypeError("the key holds another kind of value"),
      });
    }
    return content as ContentOf<K> | undefined;
  }

  function expiryOf(ttlSeconds: TtlSeconds): number {
    return now() + (ttlMillis(ttlSeconds) ?? Number.POSITIVE_INFINITY);
  }

  function putText(key: string, value: string, ttlSeconds: TtlSeconds, { put } = records): void {
    put(key, { kind: "string", value }, expiryOf(ttlSeconds));
  }

  /** Whether a write may meet a key of another kind. An emptied list or index is taken to stand still. */
  function kindsMayClash(writes: readonly Write[]): boolean {
    const kinds = new Map<string, Kind | undefined>();
    return writes.some((write) => {
      const kind = kinds.has(write.key) ? kinds.get(write.key) : records.find(write.key)?.content.kind;
      kinds.set(write.key, kindAfter(write, kind));
      const needed = kindNeeded(write);
      return needed !== undefined && kind !== undefined && kind !== needed;
    });
  }

  /** Applies the writes to copies of what they are about, so that what cannot be applied as a whole is refused as a whole. */
  function rehearse(writes: readonly Write[]): void {
    const copies: Records = createBoundedRecords({ now, maxRecords: Number.POSITIVE_INFINITY });
    for (const key of new Set(writes.map(({ key }) => key))) {
      const record = records.find(key);
      if (record) copies.put(key, structuredClone(record.content), record.expiresAt);
    }
    for (const write of writes) apply(write, copies);
  }

  function apply(write: Write, records: Records): string | boolean | number | null {
    const { key } = write;
    switch (write.type) {
      case "set": {
        if (write.onlyIfAbsent && records.find(key)) return null;
        const previous = write.returnPrevious ? contentOf("commit", key, "string", records) : undefined;
        putText(key, write.value, write.ttlSeconds, records);
        return previous?.value ?? null;
      }
      case "create": {
        const standing = contentOf("commit", key, "string", records);
        if (!standing) putText(key, write.value, write.ttlSeconds, records);
        return standing?.value ?? write.value;
      }
      case "touch": {
        const record = records.find(key);
        if (record) records.put(key, record.content, expiryOf(write.ttlSeconds));
        return null;
      }
      case "delete":
        return records.delete(key);
      case "append": {
        const list = contentOf("commit", key, "list", records) ?? { kind: "list", items: [], start: 0 };
        list.items.push(write.value);
        const dropped = Math.max(0, list.items.length - list.start - write.maxLength);
        list.start += dropped;
        if (list.start > list.items.length / 2) {
          list.items = list.items.slice(list.start);
          list.start = 0;
        }
        records.put(key, list, expiryOf(write.ttlSeconds));
        return dropped;
      }
      case "remove": {
        const list = contentOf("commit", key, "list", records);
        if (!list) return 0;
        const before = list.items.slice(list.start);
        list.items = before.filter((item) => item !== write.value);
        list.start = 0;
        if (list.items.length === 0) records.delete(key);
        return before.length - list.items.length;
      }
      case "index": {
        const record = records.find(key);
        const index = contentOf("commit", key, "index", records) ?? { kind: "index", scores: new Map() };
        index.scores.set(write.member, write.score);
        records.put(key, index, record?.expiresAt ?? Number.POSITIVE_INFINITY);
        return null;
      }
      case "unindex": {
        const index = contentOf("commit", key, "index", records);
        const removed = index?.scores.delete(write.member) ?? false;
        if (index?.scores.size === 0) records.delete(key);
        return removed;
      }
      case "prune": {
        const index = contentOf("commit", key, "index", records);
        if (!index) return 0;
        const before = index.scores.size;
        for (const [member, score] of index.scores) if (score < write.belowScore) index.scores.delete(member);
        if (index.scores.size === 0) records.delete(key);
        return before - index.scores.size;
      }
    }
  }

  const storage: Storage = {
    name,

    async get(key) {
      return contentOf("get", key, "string")?.value ?? null;
    },

    async getMany(keys) {
      return keys.map((key) => {
        const content = records.find(key)?.content;
        return content?.kind === "string" ? content.value : null;
      });
    },

    async getAndTouch(key, ttlSeconds) {
      ttlMillis(ttlSeconds);
      const text = contentOf("getAndTouch", key, "string");
      if (text) records.put(key, text, expiryOf(ttlSeconds));
      return text?.value ?? null;
    },

    async ttl(key) {
      const record = records.find(key);
      return record ? (record.expiresAt - now()) / 1000 : null;
    },

    async range(key, start, stop) {
      const list = contentOf("range", key, "list");
      if (!list) return [];
      const length = list.items.length - list.start;
      const from = start < 0 ? Math.max(0, length + start) : start;
      const to = stop < 0 ? length + stop : stop;
      return list.items.slice(list.start + from, list.start + Math.max(from, to + 1));
    },

    async listIndex(key, { limit, cursor, minScore = Number.NEGATIVE_INFINITY }) {
      const after = cursor === undefined ? undefined : decodeIndexCursor(cursor);
      const scores = contentOf("listIndex", key, "index")?.scores ?? new Map<string, number>();
      const rest = [...scores]
        .map(([member, score]) => ({ member, score }))
        .filter((entry) => entry.score >= minScore && (!after || compareIndexEntries(after, entry) < 0))
        .sort(compareIndexEntries);
      return indexPage(rest, limit);
    },

    async scan(prefix, cursor) {
      const keys = records
        .keys()
        .filter((key) => key.startsWith(prefix) && (cursor === undefined || key > cursor))
        .filter((key) => records.find(key)?.content.kind === "string")
        .sort();
      const page = keys.slice(0, SCAN_PAGE);
      const last = page.at(-1);
      return keys.length > SCAN_PAGE && last !== undefined ? { keys: page, cursor: last } : { keys: page };
    },

    async ping() {},

    async commit<const W extends readonly Write[]>(writes: W) {
      checkWrites(writes);
      if (kindsMayClash(writes)) rehearse(writes);
      return writes.map((write) => apply(write, records)) as WriteResults<W>;
    },

    async claim(key, value, ttlSeconds) {
      const [standing] = await storage.commit([{ type: "create", key, value, ttlSeconds }]);
      return standing === value ? null : standing;
    },

    async compareAndSet(key, expected, next, ttlSeconds) {
      ttlMillis(ttlSeconds);
      const standing = contentOf("compareAndSet", key, "string")?.value;
      if (standing !== expected) return false;
      if (next === null) records.delete(key);
      else putText(key, next, ttlSeconds);
      return true;
    },
  };
  return storage;
}

/** The kind a key must be of, where it stands, for the write to be possible; undefined where any will do. */
function kindNeeded(write: Write): Kind | undefined {
  switch (write.type) {
    case "set":
      return write.returnPrevious ? "string" : undefined;
    case "create":
      return "string";
    case "append":
    case "remove":
      return "list";
    case "index":
    case "unindex":
    case "prune":
      return "index";
    case "touch":
    case "delete":
      return undefined;
  }
}

/** The kind a key is of after the write, if it was of `kind` before. */
function kindAfter(write: Write, kind: Kind | undefined): Kind | undefined {
  switch (write.type) {
    case "set":
      return write.onlyIfAbsent ? (kind ?? "string") : "string";
    case "create":
      return "string";
    case "append":
      return "list";
    case "index":
      return "index";
    case "delete":
      return undefined;
    case "touch":
    case "remove":
    case "unindex":
    case "prune":
      return kind;
  }
}
