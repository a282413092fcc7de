/**
 * The Durable Object that holds the keys of one partition (one conversation, or one key that stands alone)
 * in SQLite. `durable-object.ts` is its only caller.
 *
 * Every call brings the caller's clock, and a key is there while that clock is before its expiry; the rows
 * themselves go by an alarm, in real time. An object with no keys left deletes everything it has, tables
 * included, so that it costs nothing; tables are therefore made by the first write, never by a read.
 */
import { DurableObject } from "cloudflare:workers";
import { type IndexEntry, type TtlSeconds, ttlMillis, type Write } from "./storage.ts";

type Kind = "string" | "list" | "index";
type KeyRow = { kind: Kind; value: string | null; expires_at: number | null };
export type WriteOutcome = string | boolean | number | null;

/** An answer that crosses the RPC boundary: an exception would lose its class on the way. */
export type Answer<T> = { value: T } | { wrongKind: true };

/** A key that the directory is told of; `renewOnly` where the write cannot have brought it into being. */
export type DirectoryNote = { key: string; ttlSeconds: TtlSeconds; renewOnly?: true };

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

/** Longer than any request takes between its note in the directory and its write: see `forget`. */
const NOTE_SETTLES_MS = 60_000;

class WrongKind extends Error {}

export class StorageObject extends DurableObject {
  #hasTables: boolean;
  #alarmAt: number | null = null;

  constructor(ctx: DurableObjectState, env: Cloudflare.Env) {
    super(ctx, env);
    this.#hasTables = this.#rows("SELECT 1 FROM sqlite_master WHERE name = 'keys'").length > 0;
    ctx.blockConcurrencyWhile(async () => {
      this.#alarmAt = await ctx.storage.getAlarm();
    });
  }

  ping(): void {}

  get(key: string, now: number): Answer<string | null> {
    return answer(() => this.#find(key, now, "string")?.value ?? null);
  }

  /** Keys of another kind read as absent, as Redis's MGET has it. */
  getMany(keys: string[], now: number): (string | null)[] {
    return keys.map((key) => this.#find(key, now)?.value ?? null);
  }

  async getAndTouch(key: string, ttlSeconds: TtlSeconds, now: number): Promise<Answer<string | null>> {
    return this.#change(() => {
      const row = this.#find(key, now, "string");
      if (row) this.#touch(key, ttlSeconds, now);
      return row?.value ?? null;
    });
  }

  /** Milliseconds the key still lives; Infinity for ever; null where nothing stands. */
  ttlMs(key: string, now: number): number | null {
    const row = this.#find(key, now);
    return row ? (row.expires_at ?? Number.POSITIVE_INFINITY) - now : null;
  }

  range(key: string, start: number, stop: number, now: number): Answer<string[]> {
    return answer(() => {
      if (!this.#find(key, now, "list")) return [];
      const length = this.#length(key);
      const from = start < 0 ? Math.max(0, length + start) : start;
      const to = stop < 0 ? length + stop : stop;
      return this.#rows<{ value: string }>(
        "SELECT value FROM items WHERE key = ? ORDER BY seq LIMIT ? OFFSET ?",
        key,
        Math.max(0, to - from + 1),
        from,
      ).map(({ value }) => value);
    });
  }

  /** Up to `limit` entries below `after`, highest score first. */
  listIndex(
    key: string,
    limit: number,
    after: IndexEntry | null,
    minScore: number | null,
    now: number,
  ): Answer<IndexEntry[]> {
    return answer(() => {
      if (!this.#find(key, now, "index")) return [];
      return this.#rows<IndexEntry>(
        `SELECT member, score FROM scores
         WHERE key = ? AND score >= ? AND (score, member) < (?, ?)
         ORDER BY score DESC, member DESC LIMIT ?`,
        key,
        minScore ?? Number.NEGATIVE_INFINITY,
        after?.score ?? Number.POSITIVE_INFINITY,
        after?.member ?? "",
        limit,
      );
    });
  }

  /** Applies the writes in order, all or nothing. */
  async apply(writes: Write[], now: number): Promise<Answer<WriteOutcome[]>> {
    return this.#change(() => writes.map((write) => this.#apply(write, now)));
  }

  async compareAndSet(
    key: string,
    expected: string,
    next: string | null,
    ttlSeconds: TtlSeconds,
    now: number,
  ): Promise<Answer<boolean>> {
    return this.#change(() => {
      const standing = this.#find(key, now, "string")?.value;
      if (standing !== expected) return false;
      if (next === null) this.#remove(key);
      else this.#put(key, "string", next, expiryOf(ttlSeconds, now));
      return true;
    });
  }

  // --- As a directory of the keys that stand alone: one row a key, whose value says when it was last noted ----

  /** An entry only ever lives longer by a note, so that no order of concurrent notes hides a living key. */
  async note(notes: DirectoryNote[], now: number): Promise<void> {
    await this.#change(() => {
      for (const { key, ttlSeconds, renewOnly } of notes) {
        const known = this.#find(key, now);
        if (!known && renewOnly) continue;
        const expiresAt = expiryOf(ttlSeconds, now);
        const forEver = expiresAt === null || (known && known.expires_at === null);
        const latest = forEver ? null : Math.max(expiresAt, known?.expires_at ?? 0);
        this.#put(key, "string", String(now), latest);
      }
    });
  }

  /** Up to `limit` noted keys that begin with `prefix` and come after `after`, in ascending order. */
  noted(prefix: string, after: string, limit: number, now: number): string[] {
    if (!this.#hasTables) return [];
    return this.#rows<{ key: string }>(
      `SELECT key FROM keys
       WHERE key >= ?1 AND key > ?2 AND substr(key, 1, length(?1)) = ?1 AND (expires_at IS NULL OR expires_at > ?3)
       ORDER BY key LIMIT ?4`,
      prefix,
      after,
      now,
      limit,
    ).map(({ key }) => key);
  }

  /** Drops entries whose keys were found gone, but none so young that its write may still be on the way. */
  async forget(keys: string[], now: number): Promise<void> {
    await this.#change(() => {
      for (const key of keys) {
        const noted = this.#find(key, now);
        if (noted && now - Number(noted.value) >= NOTE_SETTLES_MS) this.#remove(key);
      }
    });
  }

  /** Whether a text stands at `key`. */
  holdsString(key: string, now: number): boolean {
    return this.#find(key, now)?.kind === "string";
  }

  /** Deletes what has expired, and everything where nothing is left. */
  override async alarm(): Promise<void> {
    this.#alarmAt = null;
    if (this.#hasTables) this.#rows("DELETE FROM keys WHERE expires_at <= ?", Date.now());
    await this.#tidy();
  }

  // --- Rows ------------------------------------------------------------------------------------------------------

  #rows<T extends Record<string, SqlStorageValue>>(query: string, ...bindings: SqlStorageValue[]): T[] {
    return this.ctx.storage.sql.exec<T>(query, ...bindings).toArray();
  }

  /** The living row of a key. Throws WrongKind where it is not of `kind`. */
  #find(key: string, now: number, kind?: Kind): KeyRow | undefined {
    if (!this.#hasTables) return undefined;
    const [row] = this.#rows<KeyRow>(
      "SELECT kind, value, expires_at FROM keys WHERE key = ? AND (expires_at IS NULL OR expires_at > ?)",
      key,
      now,
    );
    if (row && kind && row.kind !== kind) throw new WrongKind();
    return row;
  }

  /** Writes the row of a key; the entries of a list or index that stood there go, be it living or expired. */
  #put(key: string, kind: Kind, value: string | null, expiresAt: number | null): void {
    this.#rows("DELETE FROM keys WHERE key = ? AND kind <> 'string'", key);
    this.#rows("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)", key, kind, value, expiresAt);
  }

  #remove(key: string): void {
    this.#rows("DELETE FROM keys WHERE key = ?", key);
  }

  #touch(key: string, ttlSeconds: TtlSeconds, now: number): void {
    this.#rows("UPDATE keys SET expires_at = ? WHERE key = ?", expiryOf(ttlSeconds, now), key);
  }

  #length(key: string): number {
    return (
      this.#rows<{ length: number }>("SELECT count(*) AS length FROM items WHERE key = ?", key)[0]?.length ??
      0
    );
  }

  /** Runs a change as one transaction, then sees to the alarm. */
  async #change<T>(change: () => T): Promise<Answer<T>> {
    const outcome = answer(() => {
      const hadTables = this.#hasTables;
      try {
        return this.ctx.storage.transactionSync(() => {
          if (!this.#hasTables) this.#rows(SCHEMA);
          this.#hasTables = true;
          return change();
        });
      } catch (error) {
        this.#hasTables = hadTables;
        throw error;
      }
    });
    await this.#tidy();
    return outcome;
  }

  #apply(write: Write, now: number): WriteOutcome {
    const { key } = write;
    switch (write.type) {
      case "set": {
        const previous = write.returnPrevious ? this.#find(key, now, "string") : undefined;
        this.#put(key, "string", write.value, expiryOf(write.ttlSeconds, now));
        return previous?.value ?? null;
      }
      case "create": {
        const standing = this.#find(key, now, "string");
        if (standing) return standing.value;
        this.#put(key, "string", write.value, expiryOf(write.ttlSeconds, now));
        return write.value;
      }
      case "touch":
        if (this.#find(key, now)) this.#touch(key, write.ttlSeconds, now);
        return null;
      case "delete": {
        const stood = this.#find(key, now) !== undefined;
        this.#remove(key);
        return stood;
      }
      case "append": {
        if (!this.#find(key, now, "list")) this.#put(key, "list", null, null);
        this.#touch(key, write.ttlSeconds, now);
        this.#rows(
          "INSERT INTO items SELECT ?1, coalesce(max(seq), 0) + 1, ?2 FROM items WHERE key = ?1",
          key,
          write.value,
        );
        const surplus = Math.max(0, this.#length(key) - write.maxLength);
        if (surplus > 0)
          this.#rows(
            "DELETE FROM items WHERE key = ?1 AND seq IN (SELECT seq FROM items WHERE key = ?1 ORDER BY seq LIMIT ?2)",
            key,
            surplus,
          );
        return surplus;
      }
      case "remove": {
        if (!this.#find(key, now, "list")) return 0;
        const removed = this.#rows(
          "DELETE FROM items WHERE key = ? AND value = ? RETURNING 1",
          key,
          write.value,
        );
        if (this.#length(key) === 0) this.#remove(key);
        return removed.length;
      }
      case "index":
        if (!this.#find(key, now, "index")) this.#put(key, "index", null, null);
        this.#rows(
          "INSERT INTO scores VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET score = excluded.score",
          key,
          write.member,
          write.score,
        );
        return null;
      case "unindex": {
        if (!this.#find(key, now, "index")) return false;
        const removed = this.#rows(
          "DELETE FROM scores WHERE key = ? AND member = ? RETURNING 1",
          key,
          write.member,
        );
        this.#removeEmptyIndex(key);
        return removed.length > 0;
      }
      case "prune": {
        if (!this.#find(key, now, "index")) return 0;
        const removed = this.#rows(
          "DELETE FROM scores WHERE key = ? AND score < ? RETURNING 1",
          key,
          write.belowScore,
        );
        this.#removeEmptyIndex(key);
        return removed.length;
      }
    }
  }

  #removeEmptyIndex(key: string): void {
    this.#rows("DELETE FROM keys WHERE key = ?1 AND NOT EXISTS (SELECT 1 FROM scores WHERE key = ?1)", key);
  }

  /**
   * Leaves the object with an alarm no later than its earliest expiry, or with nothing at all. An alarm that
   * comes too early (its key was touched meanwhile) costs one look, which is cheaper than moving it each time.
   */
  async #tidy(): Promise<void> {
    if (!this.#hasTables) return;
    const [state] = this.#rows<{ empty: number; earliest: number | null }>(
      "SELECT NOT EXISTS (SELECT 1 FROM keys) AS empty, (SELECT min(expires_at) FROM keys) AS earliest",
    );
    if (state?.empty === 1) {
      this.#hasTables = false;
      this.#alarmAt = null;
      await Promise.all([this.ctx.storage.deleteAlarm(), this.ctx.storage.deleteAll()]);
    } else if (
      state &&
      state.earliest !== null &&
      state.earliest < (this.#alarmAt ?? Number.POSITIVE_INFINITY)
    ) {
      this.#alarmAt = state.earliest;
      await this.ctx.storage.setAlarm(state.earliest);
    }
  }
}

function answer<T>(work: () => T): Answer<T> {
  try {
    return { value: work() };
  } catch (error) {
    if (error instanceof WrongKind) return { wrongKind: true };
    throw error;
  }
}

function expiryOf(ttlSeconds: TtlSeconds, now: number): number | null {
  const millis = ttlMillis(ttlSeconds);
  return millis === null ? null : now + millis;
}
