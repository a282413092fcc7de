/**
 * The Durable Object that holds the keys of one partition (one conversation, or one key that stands alone)
 * in SQLite. `durable-object.ts` is its only caller. Beside a primary it is the standby: it keeps a copy of
 * what the primary has acknowledged, takes the writes of an outage, and gives them back by its alarm.
 *
 * Every call brings the caller's clock, and a key is there while that clock is before its expiry; the rows
 * themselves go by an alarm, in real time. An object with no keys left deletes everything it has, tables
 * included, so that it costs nothing; tables are therefore made by the first write, never by a read.
 */
import { DurableObject } from "cloudflare:workers";
import { StorageError, type StorageFailure } from "../errors.ts";
import { type IndexEntry, type Storage, type TtlSeconds, ttlMillis, type Write } from "./storage.ts";
import {
  giveBackText,
  isTextWrite,
  repeatable,
  type TextSynced,
  type UnsyncedText,
  type WriteBackOutcome,
  type WriteOrigin,
} from "./write-back.ts";

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
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, value TEXT, expires_at INTEGER, written_at REAL NOT NULL
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
  CREATE INDEX IF NOT EXISTS scores_in_order ON scores (key, score, member);
  CREATE TABLE IF NOT EXISTS unsynced (
    key TEXT PRIMARY KEY, base TEXT, tried TEXT NOT NULL, written_at REAL NOT NULL, version TEXT NOT NULL
  ) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS journal (seq INTEGER PRIMARY KEY AUTOINCREMENT, write TEXT NOT NULL);`;

/** How long the alarm waits before it tries the primary again: doubling, with jitter, so that not all come at once. */
const FIRST_WRITE_BACK_MS = 1_000;
const MAX_WRITE_BACK_MS = 15_000;
/** By then the copy of whatever the primary acknowledged before an outage has arrived. */
const COPIES_ARRIVE_MS = 5_000;
/** Longer than one request to the primary takes at most, and how often to look meanwhile. */
const [BUSY_MS, BUSY_LOOK_MS] = [3_000, 20];
/** Writes given back in one commit. */
const REPLAY_CHUNK = 100;

/** Longer than any request takes between its note in the directory and its write: see `forget`. */
const NOTE_SETTLES_MS = 60_000;

class WrongKind extends Error {}

/** `version` is new with every write, so that one which comes while another is on its way is not forgotten. */
type UnsyncedRow = { key: string; base: string | null; tried: string; written_at: number; version: string };

export class StorageObject<Env = unknown> extends DurableObject<Env> {
  /** What this object stands by for; null where it is itself the storage. */
  protected readonly primary: Storage | null = null;
  #hasTables: boolean;
  #alarmAt: number | null = null;
  #writeBackAt: number | null = null;
  #busyUntil = 0;
  #writeBackDelayMs = FIRST_WRITE_BACK_MS;

  constructor(ctx: DurableObjectState, env: Env) {
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

  async getAndTouch(
    key: string,
    ttlSeconds: TtlSeconds,
    now: number,
    origin?: WriteOrigin,
  ): Promise<Answer<string | null>> {
    return this.#change(() => {
      const row = this.#find(key, now, "string");
      if (row) this.#write({ type: "touch", key, ttlSeconds }, now, origin);
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

  /** Applies the writes in order, all or nothing. A copy is as old as `now` says, and gives way to what is newer. */
  async apply(writes: Write[], now: number, origin?: WriteOrigin): Promise<Answer<WriteOutcome[]>> {
    return this.#change(() => writes.map((write) => this.#write(write, now, origin)));
  }

  async compareAndSet(
    key: string,
    expected: string,
    next: string | null,
    ttlSeconds: TtlSeconds,
    now: number,
    origin?: WriteOrigin,
  ): Promise<Answer<boolean>> {
    return this.#change(() => {
      const standing = this.#find(key, now, "string")?.value;
      if (standing !== expected) return false;
      const write: Write =
        next === null ? { type: "delete", key } : { type: "set", key, value: next, ttlSeconds };
      this.#write(write, now, origin);
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
        this.#put(key, "string", String(now), latest, now);
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

  /** Gives back what is due, deletes what has expired, and everything where nothing is left. */
  override async alarm(): Promise<void> {
    this.#alarmAt = null;
    const now = Date.now();
    if (this.#isUnsynced() && now >= (this.#writeBackAt ?? 0)) {
      this.#writeBackAt = null;
      this.#writeBackDelayMs = Math.min(2 * this.#writeBackDelayMs, MAX_WRITE_BACK_MS);
      await this.writeBack(now);
    }
    if (this.#hasTables) this.#rows("DELETE FROM keys WHERE expires_at <= ?", now);
    await this.#tidy();
  }

  // --- As a standby ----------------------------------------------------------------------------------------------

  /**
   * Gives everything that the primary lacks back to it; where it still fails, the alarm tries again. One at a
   * time: two replays side by side could end with the older one's writes.
   */
  async writeBack(now: number): Promise<WriteBackOutcome> {
    // Whoever is at it may have been cancelled together with its request, and then never says that it is done.
    while (Date.now() < this.#busyUntil) await scheduler.wait(BUSY_LOOK_MS);
    if (this.primary === null || !this.#isUnsynced()) return { clean: true };
    this.#stayBusy();
    try {
      return await this.#giveBack(this.primary, now);
    } finally {
      this.#busyUntil = 0;
    }
  }

  /** Says that giving back gets on; without word of it for a while, somebody else may begin. */
  #stayBusy(): void {
    this.#busyUntil = Date.now() + BUSY_MS;
  }

  async #giveBack(primary: Storage, now: number): Promise<WriteBackOutcome> {
    let failure: StorageFailure | undefined;
    try {
      await this.#replayJournal(primary, now);
      await this.#giveBackTexts(primary, now);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      failure = error.failure;
    }
    const clean = !this.#isUnsynced();
    if (clean) {
      this.#writeBackAt = null;
      this.#writeBackDelayMs = FIRST_WRITE_BACK_MS;
      await this.#tidy();
    }
    return failure === undefined ? { clean } : { clean, failure };
  }

  async #replayJournal(primary: Storage, now: number): Promise<void> {
    for (;;) {
      const rows = this.#rows<{ seq: number; write: string }>(
        "SELECT seq, write FROM journal ORDER BY seq LIMIT ?",
        REPLAY_CHUNK,
      );
      const last = rows.at(-1);
      if (last === undefined) return;
      const writes = rows.map(({ write }) => JSON.parse(write) as Write);
      const lists = new Set(writes.filter(({ type }) => type === "append").map(({ key }) => key));
      const touches = [...lists].flatMap((key): Write[] => {
        const row = this.#find(key, now);
        return row ? [{ type: "touch", key, ttlSeconds: secondsLeft(row, now) }] : [];
      });
      await primary.commit([...repeatable(writes), ...touches]);
      this.#stayBusy();
      this.#rows("DELETE FROM journal WHERE seq <= ?", last.seq);
    }
  }

  async #giveBackTexts(primary: Storage, now: number): Promise<void> {
    const rows = this.#rows<UnsyncedRow>("SELECT * FROM unsynced ORDER BY written_at");
    const standing = await primary.getMany(rows.map(({ key }) => key));
    for (const [i, row] of rows.entries()) {
      const text = this.#unsyncedText(row, now);
      // Should the answer be lost, ours is among what the primary may have.
      if (text.mine && !text.tried.includes(text.mine.text)) {
        this.#rows(
          "UPDATE unsynced SET tried = json_insert(tried, '$[#]', ?) WHERE key = ?",
          text.mine.text,
          row.key,
        );
      }
      const outcome = await giveBackText(primary, text, standing[i] ?? null);
      this.#markSynced(row, outcome, now);
      this.#stayBusy();
    }
  }

  #unsyncedText({ key, base, tried }: UnsyncedRow, now: number): UnsyncedText {
    const row = this.#find(key, now);
    const mine = row?.value == null ? null : { text: row.value, ttlSeconds: secondsLeft(row, now) };
    return { key, base, tried: JSON.parse(tried) as string[], mine };
  }

  /** Forgets that a text was unsynced, unless more was learnt of it while it was on its way. */
  #markSynced({ key, version, written_at }: UnsyncedRow, outcome: TextSynced, now: number): void {
    if (outcome.kind === "raced") return;
    // What looks newer may be older, and its copy still on the way here.
    if (outcome.kind === "superseded" && now - written_at < COPIES_ARRIVE_MS) return;
    const [current] = this.#rows<UnsyncedRow>("SELECT * FROM unsynced WHERE key = ?", key);
    if (current?.version !== version) return;
    this.#rows("DELETE FROM unsynced WHERE key = ?", key);
    // Only the copy gives way: how long the newer text lives is the primary's to know.
    if (outcome.kind === "superseded") {
      this.#rows("UPDATE keys SET value = ?, written_at = ? WHERE key = ?", outcome.text, now, key);
    }
  }

  #isUnsynced(): boolean {
    return (
      this.#hasTables &&
      this.#rows("SELECT 1 WHERE EXISTS (SELECT 1 FROM unsynced) OR EXISTS (SELECT 1 FROM journal)").length >
        0
    );
  }

  /** Applies one write, and remembers where the primary does not have it for certain. */
  #write(write: Write, now: number, origin: WriteOrigin | undefined): WriteOutcome {
    const row = this.#find(write.key, now);
    if (origin === "copy") return this.#copy(write, row, now);
    if (origin === "outage" || origin === "tried") {
      if (isTextWrite(write, row?.kind))
        this.#rememberText(write, row?.value ?? null, now, origin === "tried");
      else if (write.type !== "touch")
        this.#rows("INSERT INTO journal (write) VALUES (?)", JSON.stringify(write));
    }
    return this.#apply(write, now);
  }

  /**
   * Takes over what the primary has acknowledged, unless something newer stands here. A `create` is a claim:
   * it gives way to what was written here during an outage, and says so by its outcome.
   */
  #copy(write: Write, row: KeyRow | undefined, at: number): WriteOutcome {
    const { key } = write;
    if (write.type === "create") {
      const isUnsynced = this.#rows("SELECT 1 FROM unsynced WHERE key = ?", key).length > 0;
      if (isUnsynced && row?.value != null) return row.value;
      this.#put(key, "string", write.value, expiryOf(write.ttlSeconds, at), at);
      return write.value;
    }
    if (write.type === "set" && write.onlyIfAbsent && row) return null;
    if (this.#isOutdated(write, at)) {
      // The copy of a write that was acknowledged before ours, overtaken on its way: it is no newer.
      if (write.type === "set") this.#rememberTried(key, write.value);
      return null;
    }
    if (write.type === "set" || write.type === "delete")
      this.#rows("DELETE FROM unsynced WHERE key = ?", key);
    return this.#apply(write, at);
  }

  #isOutdated(write: Write, at: number): boolean {
    return (
      this.#rows(
        `SELECT 1 FROM unsynced WHERE key = ?1 AND written_at >= ?2
         UNION ALL SELECT 1 FROM keys WHERE key = ?1 AND kind = 'string' AND written_at > ?2`,
        write.key,
        at,
      ).length > 0
    );
  }

  #rememberTried(key: string, value: string): void {
    this.#rows(
      "UPDATE unsynced SET tried = json_insert(tried, '$[#]', ?), version = hex(randomblob(8)) WHERE key = ?",
      value,
      key,
    );
  }

  #rememberText(write: Write, base: string | null, now: number, wasTried: boolean): void {
    const { key } = write;
    const [known] = this.#rows<UnsyncedRow>("SELECT * FROM unsynced WHERE key = ?", key);
    const tried = known ? (JSON.parse(known.tried) as string[]) : [];
    if (wasTried && "value" in write) tried.push(write.value);
    this.#rows(
      "INSERT OR REPLACE INTO unsynced VALUES (?, ?, ?, ?, hex(randomblob(8)))",
      key,
      known ? known.base : base,
      JSON.stringify(tried),
      now,
    );
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
  #put(key: string, kind: Kind, value: string | null, expiresAt: number | null, now: number): void {
    this.#rows("DELETE FROM keys WHERE key = ? AND kind <> 'string'", key);
    this.#rows("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?)", key, kind, value, expiresAt, now);
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
        if (write.onlyIfAbsent && this.#find(key, now)) return null;
        const previous = write.returnPrevious ? this.#find(key, now, "string") : undefined;
        this.#put(key, "string", write.value, expiryOf(write.ttlSeconds, now), now);
        return previous?.value ?? null;
      }
      case "create": {
        const standing = this.#find(key, now, "string");
        if (standing) return standing.value;
        this.#put(key, "string", write.value, expiryOf(write.ttlSeconds, now), now);
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
        if (!this.#find(key, now, "list")) this.#put(key, "list", null, null, now);
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
        if (!this.#find(key, now, "index")) this.#put(key, "index", null, null, now);
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
   * Leaves the object with an alarm no later than it is needed, or with nothing at all. An alarm that comes
   * too early (its key was touched meanwhile) costs one look, which is cheaper than moving it each time.
   */
  async #tidy(): Promise<void> {
    if (!this.#hasTables) return;
    const isUnsynced = this.#isUnsynced();
    // A whole number, because alarms are: one that comes a fraction early and asks for the same millisecond again
    // is taken for done.
    if (isUnsynced)
      this.#writeBackAt ??= Math.ceil(Date.now() + this.#writeBackDelayMs * (0.5 + Math.random() / 2));
    const [state] = this.#rows<{ empty: number; earliest: number | null }>(
      "SELECT NOT EXISTS (SELECT 1 FROM keys) AS empty, (SELECT min(expires_at) FROM keys) AS earliest",
    );
    if (state?.empty === 1 && !isUnsynced) {
      this.#hasTables = false;
      this.#alarmAt = null;
      await Promise.all([this.ctx.storage.deleteAlarm(), this.ctx.storage.deleteAll()]);
      return;
    }
    const never = Number.POSITIVE_INFINITY;
    const due = Math.min(state?.earliest ?? never, isUnsynced ? (this.#writeBackAt ?? never) : never);
    if (due < (this.#alarmAt ?? never)) {
      this.#alarmAt = Math.ceil(due);
      await this.ctx.storage.setAlarm(this.#alarmAt);
    }
  }
}

function secondsLeft({ expires_at }: KeyRow, now: number): TtlSeconds {
  return expires_at === null ? null : (expires_at - now) / 1000;
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
