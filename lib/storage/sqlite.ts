/**
 * A storage in SQLite: what embedded storage keeps one partition in (`record-object.ts`), and, on `node:sqlite`,
 * a storage for unit tests. All of it is synchronous; `now` (ms since the epoch) comes with each call, and a
 * key is there while that clock is before its expiry. The rows themselves go by `deleteExpired`.
 */
import { StorageError } from "../errors.ts";
import { type Sql, tablesOf } from "../sql.ts";
import { decodeIndexCursor, indexPage } from "./index-order.ts";
import {
  checkWrites,
  decodeLogEntryId,
  expiryAt,
  type IndexEntry,
  type LogEntry,
  type LogQuery,
  type Storage,
  surplusOf,
  type TtlSeconds,
  ttlMillis,
  type Write,
  type WriteOutcome,
  type WriteResults,
} from "./storage.ts";

type Kind = "string" | "list" | "index" | "log";
type KeyRow = { kind: Kind; value: string | null; expires_at: number | null };

/** The place of an entry of a log is its time in ms, and room for as many entries in that. */
const A_MILLISECOND = 256;
/** So many entries of a log too many are dropped at once. */
const TRIMMED_TOGETHER = 100;

/** A key's expiry, `NULL` for ever. Entries of lists and indexes go with their key. */
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS keys (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, value TEXT, expires_at INTEGER
  ) WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS keys_by_expiry ON keys (expires_at) WHERE expires_at IS NOT NULL;
  CREATE TABLE IF NOT EXISTS items (
    key TEXT NOT NULL REFERENCES keys ON DELETE CASCADE, seq INTEGER NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (key, seq)
  ) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS scores (
    key TEXT NOT NULL REFERENCES keys ON DELETE CASCADE, member TEXT NOT NULL, score REAL NOT NULL,
    PRIMARY KEY (key, member)
  ) WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS scores_in_order ON scores (key, score, member);`;

export type SqliteKeys = ReturnType<typeof createSqliteKeys>;

/** The keys of one database. Throws StorageError (`rejected`) where a key holds another kind. */
export function createSqliteKeys(database: Sql, name = "sqlite") {
  const sql = tablesOf(database, "keys", SCHEMA);

  /** The living row of a key. */
  function find(key: string, now: number, operation?: string, kind?: Kind): KeyRow | undefined {
    const [row] = sql.rows<KeyRow>(
      "SELECT kind, value, expires_at FROM keys WHERE key = ? AND (expires_at IS NULL OR expires_at > ?)",
      key,
      now,
    );
    if (row && kind && row.kind !== kind) {
      throw new StorageError(name, operation ?? "commit", "rejected", {
        cause: new TypeError("the key holds another kind of value"),
      });
    }
    return row;
  }

  /** Writes the row of a key; the entries of a list or index that stood there go, be it living or expired. */
  function put(key: string, kind: Kind, value: string | null, expiresAt: number | null): void {
    sql.run("DELETE FROM keys WHERE key = ? AND kind <> 'string'", key);
    sql.run("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)", key, kind, value, expiresAt);
  }

  function touch(key: string, ttlSeconds: TtlSeconds, now: number): void {
    sql.run("UPDATE keys SET expires_at = ? WHERE key = ?", expiryAt(now, ttlSeconds), key);
  }

  function remove(key: string): void {
    sql.run("DELETE FROM keys WHERE key = ?", key);
  }

  function lengthOf(key: string): number {
    return (
      sql.rows<{ length: number }>("SELECT count(*) AS length FROM items WHERE key = ?", key)[0]?.length ?? 0
    );
  }

  function apply(write: Write, now: number): WriteOutcome {
    const { key } = write;
    switch (write.type) {
      case "set":
        put(key, "string", write.value, expiryAt(now, write.ttlSeconds));
        return null;
      case "create": {
        const stands = find(key, now) !== undefined;
        if (!stands) put(key, "string", write.value, expiryAt(now, write.ttlSeconds));
        return !stands;
      }
      case "get": {
        const row = find(key, now, "commit", "string");
        if (row && write.ttlSeconds !== undefined) touch(key, write.ttlSeconds, now);
        return row?.value ?? null;
      }
      case "touch": {
        const stands = find(key, now) !== undefined;
        if (stands) touch(key, write.ttlSeconds, now);
        return stands;
      }
      case "delete": {
        const stood = find(key, now) !== undefined;
        remove(key);
        return stood;
      }
      case "append": {
        if (!find(key, now, "commit", "list")) put(key, "list", null, null);
        touch(key, write.ttlSeconds, now);
        sql.run(
          "INSERT INTO items SELECT ?1, coalesce(max(seq), 0) + 1, ?2 FROM items WHERE key = ?1",
          key,
          write.value,
        );
        const before = lengthOf(key) - 1;
        const surplus = surplusOf(write, before);
        if (surplus > 0) dropOldest(key, surplus);
        return before;
      }
      case "remove": {
        if (!find(key, now, "commit", "list")) return 0;
        const removed = sql.rows(
          "DELETE FROM items WHERE key = ? AND value = ? RETURNING 1",
          key,
          write.value,
        );
        if (lengthOf(key) === 0) remove(key);
        return removed.length;
      }
      case "index":
        if (!find(key, now, "commit", "index")) put(key, "index", null, null);
        sql.run(
          "INSERT INTO scores VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET score = excluded.score",
          key,
          write.member,
          write.score,
        );
        return null;
      case "unindex":
        return dropScores(key, now, "member = ?", write.member) > 0;
      case "prune":
        return dropScores(key, now, "score < ?", write.belowScore);
      case "log": {
        // Beside the kind of a log stands how many entries it has, because to count them is to read them all.
        const standing = find(key, now, "commit", "log");
        if (standing === undefined) put(key, "log", "0", null);
        // Behind every other, also where the clock has gone back.
        sql.run(
          "INSERT INTO items SELECT ?1, max(coalesce(max(seq), 0) + 1, ?2), ?3 FROM items WHERE key = ?1",
          key,
          Math.floor(now) * A_MILLISECOND,
          write.value,
        );
        const length = Number(standing?.value ?? 0) + 1;
        const surplus = length > write.maxLength + TRIMMED_TOGETHER ? length - write.maxLength : 0;
        if (surplus > 0) dropOldest(key, surplus);
        sql.run("UPDATE keys SET value = ? WHERE key = ?", String(length - surplus), key);
        return null;
      }
    }
  }

  /** Drops members of an index, and the index with the last of them. Returns how many. */
  function dropScores(key: string, now: number, condition: string, operand: string | number): number {
    if (!find(key, now, "commit", "index")) return 0;
    const dropped = sql.rows(`DELETE FROM scores WHERE key = ? AND ${condition} RETURNING 1`, key, operand);
    sql.run("DELETE FROM keys WHERE key = ?1 AND NOT EXISTS (SELECT 1 FROM scores WHERE key = ?1)", key);
    return dropped.length;
  }

  function placeOf(id: string): number {
    const { at, number } = decodeLogEntryId(id);
    return at * A_MILLISECOND + Math.min(number, A_MILLISECOND);
  }

  function dropOldest(key: string, count: number): void {
    sql.run(
      "DELETE FROM items WHERE key = ?1 AND seq IN (SELECT seq FROM items WHERE key = ?1 ORDER BY seq LIMIT ?2)",
      key,
      count,
    );
  }

  return {
    get: (key: string, now: number): string | null => find(key, now, "get", "string")?.value ?? null,

    /** Keys of another kind read as absent, as Redis's MGET has it. */
    getMany: (keys: readonly string[], now: number) =>
      keys.map((key) => {
        const row = find(key, now);
        return row?.kind === "string" ? row.value : null;
      }),

    /** Milliseconds the key still lives; Infinity for ever; null where nothing stands. */
    ttlMs(key: string, now: number): number | null {
      const row = find(key, now);
      return row ? (row.expires_at ?? Number.POSITIVE_INFINITY) - now : null;
    },

    range(key: string, start: number, stop: number, now: number): string[] {
      if (!find(key, now, "range", "list")) return [];
      const length = lengthOf(key);
      const from = start < 0 ? Math.max(0, length + start) : start;
      const to = stop < 0 ? length + stop : stop;
      const limit = Math.max(0, to - from + 1);
      return sql
        .rows<{ value: string }>(
          "SELECT value FROM items WHERE key = ? ORDER BY seq LIMIT ? OFFSET ?",
          key,
          limit,
          from,
        )
        .map(({ value }) => value);
    },

    /** Up to `limit` entries below `after`, highest score first. */
    listIndex(
      key: string,
      limit: number,
      after: IndexEntry | null,
      minScore: number | null,
      now: number,
    ): IndexEntry[] {
      if (!find(key, now, "listIndex", "index")) return [];
      return sql
        .rows<IndexEntry>(
          `SELECT member, score FROM scores
           WHERE key = ? AND score >= ? AND (score, member) < (?, ?)
           ORDER BY score DESC, member DESC LIMIT ?`,
          key,
          minScore ?? Number.NEGATIVE_INFINITY,
          after?.score ?? Number.POSITIVE_INFINITY,
          after?.member ?? "",
          limit,
        )
        .map(({ member, score }) => ({ member, score }));
    },

    /** Newest first. */
    readLog(key: string, { limit, before, since }: LogQuery, now: number): LogEntry[] {
      const end = before === undefined ? Number.POSITIVE_INFINITY : placeOf(before);
      if (!find(key, now, "readLog", "log")) return [];
      return sql
        .rows<{ seq: number; value: string }>(
          "SELECT seq, value FROM items WHERE key = ? AND seq < ? AND seq >= ? ORDER BY seq DESC LIMIT ?",
          key,
          end,
          Math.ceil(since ?? 0) * A_MILLISECOND,
          limit,
        )
        .map(({ seq, value }) => ({
          id: `${Math.floor(seq / A_MILLISECOND)}-${seq % A_MILLISECOND}`,
          value,
        }));
    },

    /** Applies the writes in order, all or nothing. */
    apply: (writes: readonly Write[], now: number): WriteOutcome[] =>
      sql.transaction(() => writes.map((write) => apply(write, now))),

    /** Replaces the text at `key` (removes it where `next` is null) if exactly `expected` stands there. */
    replace: (
      key: string,
      expected: string,
      next: string | null,
      ttlSeconds: TtlSeconds,
      now: number,
    ): boolean =>
      sql.transaction(() => {
        if (find(key, now, "update", "string")?.value !== expected) return false;
        if (next === null) remove(key);
        else put(key, "string", next, expiryAt(now, ttlSeconds));
        return true;
      }),

    deleteExpired(now: number): void {
      sql.run("DELETE FROM keys WHERE expires_at <= ?", now);
    },

    /** When the next key expires (ms), null where none does; undefined where there are no keys at all. */
    nextExpiry(): number | null | undefined {
      const [state] = sql.rows<{ count: number; earliest: number | null }>(
        "SELECT count(*) AS count, min(expires_at) AS earliest FROM keys",
      );
      return state === undefined || state.count === 0 ? undefined : state.earliest;
    },

    hasTables: sql.exist,
    forgetTables: sql.forget,
  };
}

/** The keys as a `Storage`. */
export function createSqliteStorage(keys: SqliteKeys, now: () => number, name = "sqlite"): Storage {
  const storage: Storage = {
    name,
    get: async (key) => keys.get(key, now()),
    getMany: async (names) => keys.getMany(names, now()),

    async getAndTouch(key, ttlSeconds) {
      const [text] = await storage.commit([{ type: "get", key, ttlSeconds }]);
      return text;
    },

    async ttl(key) {
      const millis = keys.ttlMs(key, now());
      return millis === null ? null : millis / 1000;
    },

    range: async (key, start, stop) => keys.range(key, start, stop, now()),

    async listIndex(key, { limit, cursor, minScore }) {
      const after = cursor === undefined ? null : decodeIndexCursor(cursor);
      return indexPage(keys.listIndex(key, limit + 1, after, minScore ?? null, now()), limit);
    },

    readLog: async (key, query) => keys.readLog(key, query, now()),

    async update(key, change, ttlSeconds) {
      ttlMillis(ttlSeconds);
      const standing = keys.get(key, now());
      const next = standing === null ? undefined : change(standing);
      return standing !== null && next !== undefined && keys.replace(key, standing, next, ttlSeconds, now());
    },

    async ping() {},

    async commit<const W extends readonly Write[]>(writes: W) {
      checkWrites(writes);
      return (writes.length === 0 ? [] : keys.apply(writes, now())) as WriteResults<W>;
    },
  };
  return storage;
}
