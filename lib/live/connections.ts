/**
 * Who was there: each registration that became the current one of its conversation, and how each ended. Nothing is
 * decided by it; people read it.
 */
import { isLive, type SessionRecord } from "../session-store.ts";
import { type Sql, tablesOf } from "../sql.ts";

/** `replaced`: by the registration after it. `expired`: its 600 s were over. */
export const CONNECTION_EVENTS = ["registered", "replaced", "ended", "expired"] as const;

export type ConnectionEvent = {
  /** ISO 8601. */
  at: string;
  event: (typeof CONNECTION_EVENTS)[number];
  registrationId: string;
  /** The way it is reached, where it is a connection of ours; null where it lost that. */
  channel?: string | null;
  agentSessionId?: string;
};

/** Older ones are forgotten. */
export const MAX_CONNECTION_EVENTS = 50;
/** So many more may stand, because each is a row that a deletion writes, too. */
const SLACK = 50;

const SCHEMA = `CREATE TABLE IF NOT EXISTS connections (seq INTEGER PRIMARY KEY, content TEXT NOT NULL);`;

export type Connections = ReturnType<typeof createConnections>;

export function createConnections(database: Sql) {
  const sql = tablesOf(database, "connections", SCHEMA);

  return {
    /** Another registration, or none, is the current one, at `now` (ms): one row, whatever that means for the one before. */
    changed(before: SessionRecord | null, after: SessionRecord | null, now: number): void {
      const over = !before || !isLive(before, now) ? "expired" : after === null ? "ended" : "replaced";
      const events: ConnectionEvent[] = [
        ...(after === null ? [] : [eventOf("registered", after, now)]),
        ...(before === null ? [] : [eventOf(over, before, now)]),
      ];
      if (events.length === 0) return;
      const [row] = sql.rows<{ seq: number }>(
        "INSERT INTO connections (content) VALUES (?) RETURNING seq",
        JSON.stringify(events),
      );
      const surplus = (row?.seq ?? 0) - MAX_CONNECTION_EVENTS;
      if (surplus > 0 && surplus % SLACK === 0) sql.run("DELETE FROM connections WHERE seq <= ?", surplus);
    },

    /** Newest first. */
    list: (): ConnectionEvent[] =>
      sql
        .rows<{ content: string }>(
          `SELECT content FROM connections ORDER BY seq DESC LIMIT ${MAX_CONNECTION_EVENTS}`,
        )
        // A row of the first version is one event.
        .flatMap(({ content }) => JSON.parse(content) as ConnectionEvent | ConnectionEvent[])
        .slice(0, MAX_CONNECTION_EVENTS),

    wipe: (): void => void sql.run("DELETE FROM connections"),

    exist: sql.exist,
    forgetTables: sql.forget,
  };
}

function eventOf(
  event: ConnectionEvent["event"],
  { registrationId, channel, agentSessionId }: SessionRecord,
  at: number,
): ConnectionEvent {
  return {
    at: new Date(at).toISOString(),
    event,
    registrationId,
    ...(channel === undefined ? {} : { channel }),
    ...(agentSessionId === undefined ? {} : { agentSessionId }),
  };
}
