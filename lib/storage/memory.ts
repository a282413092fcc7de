/**
 * Storage in a Map, for unit tests and for use outside Workers. The clock is handed in, so that a test can
 * walk up to the last millisecond of a TTL.
 *
 * The Map's own order is the order of last writes, because every write inserts its key anew: the oldest
 * record is always the first, and eviction needs no second structure.
 */
import { StorageError } from "../errors.ts";
import { compareIndexEntries, decodeIndexCursor, indexPage } from "./index-order.ts";
import { type Storage, type TtlSeconds, ttlMillis, type Write, type WriteResults } from "./storage.ts";
import { checkWrites } from "./write-check.ts";

export type MemoryStorageOptions = {
  /** Milliseconds since the epoch. */
  now: () => number;
  /** How many keys at most; when they are reached, the fifth that was written longest ago goes. 1,000. */
  maxRecords?: number;
};

type Content =
  | { kind: "string"; value: string }
  | { kind: "list"; items: string[] }
  | { kind: "index"; scores: Map<string, number> };
type Kind = Content["kind"];
type ContentOf<K extends Kind> = Extract<Content, { kind: K }>;

/** Present strictly while now < expiresAt (ms, Infinity for ever). */
type Entry = { content: Content; expiresAt: number };

const SWEEP_EVERY_MS = 5 * 60_000;
const SCAN_PAGE = 100;

export function createMemoryStorage({ now, maxRecords = 1000 }: MemoryStorageOptions): Storage {
  const name = "memory";
  const entries = new Map<string, Entry>();
  let sweptAt = now();

  function find(key: string): Entry | undefined {
    const entry = entries.get(key);
    if (entry && now() >= entry.expiresAt) {
      entries.delete(key);
      return undefined;
    }
    return entry;
  }

  function contentOf<K extends Kind>(operation: string, key: string, kind: K): ContentOf<K> | undefined {
    const content = find(key)?.content;
    if (content && content.kind !== kind) throw wrongKind(operation);
    return content as ContentOf<K> | undefined;
  }

  function wrongKind(operation: string): StorageError {
    return new StorageError(name, operation, "rejected", {
      cause: new TypeError("the key holds another kind of value"),
    });
  }

  function expiryOf(ttlSeconds: TtlSeconds): number {
    return now() + (ttlMillis(ttlSeconds) ?? Number.POSITIVE_INFINITY);
  }

  function put(key: string, entry: Entry): void {
    if (now() - sweptAt >= SWEEP_EVERY_MS) sweep();
    if (!entries.delete(key)) makeRoom();
    entries.set(key, entry);
  }

  function makeRoom(): void {
    if (entries.size < maxRecords) return;
    let surplus = Math.ceil(maxRecords / 5);
    for (const key of entries.keys()) {
      if (surplus-- === 0) break;
      entries.delete(key);
    }
  }

  function sweep(): void {
    sweptAt = now();
    for (const [key, entry] of entries) if (sweptAt >= entry.expiresAt) entries.delete(key);
  }

  function touch(key: string, entry: Entry, ttlSeconds: TtlSeconds): void {
    put(key, { ...entry, expiresAt: expiryOf(ttlSeconds) });
  }

  /**
   * Walks through the kinds of the keys as they would become, so that a commit that cannot be applied as a
   * whole is refused as a whole.
   */
  function checkKinds(writes: readonly Write[]): void {
    const kinds = new Map<string, Kind | undefined>();
    for (const write of writes) {
      const kind = kinds.has(write.key) ? kinds.get(write.key) : find(write.key)?.content.kind;
      const needed = kindNeeded(write);
      if (needed && kind && kind !== needed) throw wrongKind("commit");
      if (write.type === "delete") kinds.set(write.key, undefined);
      else if (write.type === "set" || write.type === "create") kinds.set(write.key, "string");
      else if (write.type === "append") kinds.set(write.key, "list");
      else if (write.type === "index") kinds.set(write.key, "index");
    }
  }

  function apply(write: Write): string | boolean | number | null {
    switch (write.type) {
      case "set": {
        const previous = write.returnPrevious ? contentOf("commit", write.key, "string") : undefined;
        put(write.key, {
          content: { kind: "string", value: write.value },
          expiresAt: expiryOf(write.ttlSeconds),
        });
        return previous?.value ?? null;
      }
      case "create": {
        const standing = contentOf("commit", write.key, "string");
        if (standing) return standing.value;
        put(write.key, {
          content: { kind: "string", value: write.value },
          expiresAt: expiryOf(write.ttlSeconds),
        });
        return write.value;
      }
      case "touch": {
        const entry = find(write.key);
        if (entry) touch(write.key, entry, write.ttlSeconds);
        return null;
      }
      case "delete":
        return find(write.key) !== undefined && entries.delete(write.key);
      case "append": {
        const list = contentOf("commit", write.key, "list") ?? { kind: "list", items: [] };
        list.items.push(write.value);
        const dropped = list.items.splice(0, Math.max(0, list.items.length - write.maxLength));
        put(write.key, { content: list, expiresAt: expiryOf(write.ttlSeconds) });
        return dropped.length;
      }
      case "remove": {
        const list = contentOf("commit", write.key, "list");
        if (!list) return 0;
        const kept = list.items.filter((item) => item !== write.value);
        const removed = list.items.length - kept.length;
        list.items = kept;
        if (kept.length === 0) entries.delete(write.key);
        return removed;
      }
      case "index": {
        const entry = find(write.key);
        const index = contentOf("commit", write.key, "index") ?? { kind: "index", scores: new Map() };
        index.scores.set(write.member, write.score);
        put(write.key, { content: index, expiresAt: entry?.expiresAt ?? Number.POSITIVE_INFINITY });
        return null;
      }
      case "unindex": {
        const index = contentOf("commit", write.key, "index");
        const removed = index?.scores.delete(write.member) ?? false;
        if (index?.scores.size === 0) entries.delete(write.key);
        return removed;
      }
      case "prune": {
        const index = contentOf("commit", write.key, "index");
        if (!index) return 0;
        const before = index.scores.size;
        for (const [member, score] of index.scores) if (score < write.belowScore) index.scores.delete(member);
        if (index.scores.size === 0) entries.delete(write.key);
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
        const content = find(key)?.content;
        return content?.kind === "string" ? content.value : null;
      });
    },

    async getAndTouch(key, ttlSeconds) {
      ttlMillis(ttlSeconds);
      const value = contentOf("getAndTouch", key, "string")?.value ?? null;
      const entry = find(key);
      if (entry) touch(key, entry, ttlSeconds);
      return value;
    },

    async ttl(key) {
      const entry = find(key);
      return entry ? (entry.expiresAt - now()) / 1000 : null;
    },

    async range(key, start, stop) {
      const items = contentOf("range", key, "list")?.items ?? [];
      const from = start < 0 ? Math.max(0, items.length + start) : start;
      const to = stop < 0 ? items.length + stop : stop;
      return items.slice(from, Math.max(from, to + 1));
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
      const keys = [...entries.keys()]
        .filter((key) => key.startsWith(prefix) && (cursor === undefined || key > cursor))
        .filter((key) => find(key)?.content.kind === "string")
        .sort();
      const page = keys.slice(0, SCAN_PAGE);
      const last = page.at(-1);
      return keys.length > SCAN_PAGE && last !== undefined ? { keys: page, cursor: last } : { keys: page };
    },

    async ping() {},

    async commit<const W extends readonly Write[]>(writes: W) {
      checkWrites(writes);
      checkKinds(writes);
      return writes.map(apply) as WriteResults<W>;
    },

    async claim(key, value, ttlSeconds) {
      const [standing] = await storage.commit([{ type: "create", key, value, ttlSeconds }]);
      return standing === value ? null : standing;
    },

    async compareAndSet(key, expected, next, ttlSeconds) {
      ttlMillis(ttlSeconds);
      const standing = contentOf("compareAndSet", key, "string")?.value;
      if (standing !== expected) return false;
      if (next === null) entries.delete(key);
      else put(key, { content: { kind: "string", value: next }, expiresAt: expiryOf(ttlSeconds) });
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
