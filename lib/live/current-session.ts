/**
 * The object's copy of the current registration, and when it counts. Redis is the authority for the session; but
 * a replica may lag behind a registration that has just come here, and Redis may be down. So for 10 s the copy
 * wins over an absent record, and always over an older one; while Redis does not answer it is all there is. `ended` voids it, and
 * it dies with the same 600 s as the record, because it holds what opens the session.
 */
import { isLive, type SessionRecord, sessionDeadline } from "../session-store.ts";
import { type Sql, tablesOf } from "../sql.ts";

/** How long a replica of Redis may lag, in ms. */
const REPLICA_LAG_MS = 10_000;

/** What Redis has still to be told: to store the record, or to delete it. */
export type Unsaved = "set" | "delete";

/** `record` is null once the session was ended; `registrationId` is null where any was. */
export type SessionCopy = {
  registrationId: string | null;
  record: SessionRecord | null;
  /** When it came here, or ended, in ms. */
  since: number;
  diesAt: number;
  unsaved: Unsaved | null;
};

type Row = {
  registration_id: string | null;
  record: string | null;
  since: number;
  dies_at: number;
  unsaved: Unsaved | null;
};

const SCHEMA = `CREATE TABLE IF NOT EXISTS session (
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  registration_id TEXT, record TEXT, since INTEGER NOT NULL, dies_at INTEGER NOT NULL, unsaved TEXT
);`;

export type CurrentSession = ReturnType<typeof createCurrentSession>;

/**
 * `parse` reads a stored record, null where it cannot. `lifetimeMs` is how long an ending is remembered. `changed` is
 * told when another registration, or none, is the current one, in the same turn.
 */
export function createCurrentSession(
  database: Sql,
  codec: { parse: (text: string) => SessionRecord | null; stringify: (record: SessionRecord) => string },
  lifetimeMs: number,
  changed: (before: SessionRecord | null, after: SessionRecord | null) => void,
) {
  const sql = tablesOf(database, "session", SCHEMA);
  /** What the table holds; nobody else writes it. */
  let held = read();

  function read(): SessionCopy | null {
    const [row] = sql.rows<Row>("SELECT * FROM session");
    if (row === undefined) return null;
    const record = row.record === null ? null : codec.parse(row.record);
    const { registration_id: registrationId, since, dies_at: diesAt, unsaved } = row;
    return { registrationId, record, since, diesAt, unsaved };
  }

  function write(copy: SessionCopy): void {
    const { registrationId, record, since, diesAt, unsaved } = copy;
    sql.run(
      "INSERT OR REPLACE INTO session VALUES (1, ?, ?, ?, ?, ?)",
      registrationId,
      record === null ? null : codec.stringify(record),
      since,
      diesAt,
      unsaved,
    );
    const before = held?.record ?? null;
    held = copy;
    if (before?.registrationId !== record?.registrationId) changed(before, record);
  }

  function clear(): void {
    if (held !== null) sql.run("DELETE FROM session");
    held = null;
  }

  const current = {
    exists: sql.exist,
    forgetTables(): void {
      sql.forget();
      held = null;
    },

    /**
     * The copy as it stands at `now`, an ended one included; null where there is none or its time is over, which is that of
     * its session.
     */
    copy: (now: number): SessionCopy | null => (held !== null && now < held.diesAt ? held : null),

    /** Takes a registration over. */
    set(record: SessionRecord, now: number, unsaved: Unsaved | null): void {
      const diesAt = sessionDeadline(record) ?? now + lifetimeMs;
      write({ registrationId: record.registrationId, record, since: now, diesAt, unsaved });
    },

    /** Voids a registration, or whichever there is. */
    end(registrationId: string | null, now: number, unsaved: Unsaved | null): void {
      write({ registrationId, record: null, since: now, diesAt: now + lifetimeMs, unsaved });
    },

    /** Changes the record of the copy, if it is of this registration; it is the same registration still. */
    amend(registrationId: string, change: Partial<SessionRecord>): void {
      if (held?.record == null || held.registrationId !== registrationId) return;
      write({ ...held, record: { ...held.record, ...change } });
    },

    /** Redis has been told of this copy, unless another has taken its place meanwhile. */
    saved({ registrationId, since }: Pick<SessionCopy, "registrationId" | "since">): void {
      const isIt = held?.registrationId === registrationId && held.since === since;
      if (held !== null && isIt && held.unsaved !== null) write({ ...held, unsaved: null });
    },

    /** Deletes a copy whose time is over, for good. */
    tidy(now: number): void {
      if (held === null || held.diesAt > now) return;
      const { record } = held;
      clear();
      if (record !== null) changed(record, null);
    },

    clear,

    diesAt: (): number | null => held?.diesAt ?? null,

    /** The session that counts at `now`, given what Redis has; a record of Redis that was news is taken over. */
    choose(inRedis: SessionRecord | null, now: number): SessionRecord | null {
      const copy = current.copy(now);
      if (copy !== null && hasEnded(inRedis, copy)) return null;
      const live = copy?.record ?? null;
      const outlasts = copy !== null && (copy.unsaved !== null || now - copy.since < REPLICA_LAG_MS);
      if (live !== null && (inRedis === null ? outlasts : isOlder(inRedis, live))) return live;
      if (inRedis === null || !isLive(inRedis, now)) return null;
      const isKnown = live?.registrationId === inRedis.registrationId && live.renewedAt === inRedis.renewedAt;
      if (!isKnown) current.set(inRedis, now - REPLICA_LAG_MS, null);
      return inRedis;
    },

    /** Whether a session that was chosen a moment ago lives, and has been neither ended nor replaced here since. */
    isThere(session: SessionRecord, now: number): boolean {
      const { registrationId, agentSessionId } = session;
      if (!isLive(session, now)) return false;
      const copy = current.copy(now);
      if (copy === null) return true;
      return copy.record?.registrationId === registrationId && copy.record.agentSessionId === agentSessionId;
    },

    /** The session that counts while Redis does not answer. */
    alone: (now: number): SessionRecord | null => current.copy(now)?.record ?? null,
  };
  return current;
}

/** Whether a session, wherever it stands, was ended here. */
export function hasEnded(session: SessionRecord | null, copy: SessionCopy): boolean {
  if (session === null || copy.record !== null) return false;
  if (copy.registrationId !== null) return session.registrationId === copy.registrationId;
  return Date.parse(session.createdAt) <= copy.since;
}

/** Whether `b` has taken the place of `a`: a later registration, or a later renewal of the same. */
export function isOlder(a: SessionRecord, b: SessionRecord): boolean {
  if (a.registrationId !== b.registrationId) return Date.parse(a.createdAt) < Date.parse(b.createdAt);
  return Date.parse(a.renewedAt ?? a.createdAt) < Date.parse(b.renewedAt ?? b.createdAt);
}
