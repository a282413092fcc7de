/**
 * The results of one conversation: the table, and the state machine that its rows go through. Pure and
 * synchronous: the clock comes in, and whatever happens in between happens between two calls. Every method is
 * one transaction.
 *
 * | status | means | leaves by |
 * |---|---|---|
 * | `waiting` | nobody has been told | `say`; `expire`; a newer result of its topic; the cap of 200; `acknowledge`; `cancel` |
 * | `saying` | a frame may be on its way | `conclude`: delivered, or nothing was sent → where it was; else, or by `recover` after a restart → `unconfirmed` |
 * | `unconfirmed` | it may have been heard | `say`, once more, in another agent conversation; `acknowledge`; `expire` |
 * | `delivered`, `expired`, `superseded`, `dropped`, `cancelled` | settled | forgotten 48 h later |
 *
 * What is being said or `unconfirmed` also goes back where it was before by `disprove`.
 *
 * A result that was told twice without a confirmation is given up: it stays `unconfirmed` and is settled.
 */
import type { ChannelName, PushOutcome } from "../push/channel.ts";
import type { Delivery, Result } from "../result.ts";
import { type Sql, type SqlValue, tablesOf } from "../sql.ts";
import type { TtlSeconds } from "../storage/storage.ts";
import { type AgentConversation, isSame } from "./agent-conversation.ts";

export const RESULT_STATUSES = [
  "waiting",
  "saying",
  "unconfirmed",
  "delivered",
  "expired",
  "superseded",
  "dropped",
  "cancelled",
] as const;
export type ResultStatus = (typeof RESULT_STATUSES)[number];

/** Why a result that was looked at waits. */
export type WaitingReason =
  | "session_expired"
  | "session_not_found"
  | "no_push_channel"
  | "push_failed"
  | "unconfirmed"
  | "agent_busy";

export const MAX_WAITING = 200;
/** How long a settled result is known, so that a retry of its sender is a duplicate. */
export const SETTLED_MS = 48 * 3600 * 1000;
/** The pauses before a result that the live session did not take is tried there again; the last one repeats. */
export const RETRY_MS = [60_000, 300_000, 1_800_000] as const;
/** A sender was told `pending`, and then the object died: by then somebody looks after the result. */
const ABANDONED_MS = 30_000;
const MAX_ATTEMPTS_SHOWN = 20;

export type Attempt = {
  /** ISO 8601. */
  at: string;
  channel: ChannelName;
  outcome: "pending" | PushOutcome["outcome"];
  closeCode?: number;
};

/** One row, read. */
export type ResultRow = {
  seq: number;
  requestId: string;
  /** The result as it was stored; null once its conversation was deleted. */
  text: string | null;
  delivery: Delivery;
  status: ResultStatus;
  /** Why it waits; null while nobody has looked. */
  reason: WaitingReason | null;
  attempts: Attempt[];
  /** How often it may have been heard. */
  tellings: number;
  /** Where it may have been heard last. */
  toldTo: AgentConversation | null;
  /** Where it is being said now. */
  sayingTo: AgentConversation | null;
  /** The registration that did not take it. */
  failedFor: string | null;
  retryAt: number | null;
  receivedAt: number;
  settledAt: number | null;
  /** How often it was settled by being given up; something may have been heard of it later. */
  givenUp: number;
};

export type Insertion =
  | { kind: "new"; row: ResultRow; superseded: string[]; dropped: string[] }
  | { kind: "known"; row: ResultRow }
  /** The same requestId with another result. */
  | { kind: "reused" };

export type ResultQuery = { status?: ResultStatus; limit: number; before?: number };

type Row = {
  seq: number;
  request_id: string;
  text: string | null;
  delivery: Delivery;
  status: ResultStatus;
  reason: WaitingReason | null;
  attempts: string;
  tellings: number;
  told_to: string | null;
  saying_to: string | null;
  failed_for: string | null;
  failures: number;
  retry_at: number | null;
  received_at: number;
  settled_at: number | null;
  given_up: number;
};

const GIVEN_UP = "INTEGER NOT NULL DEFAULT 0";
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS results (
    seq INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    text TEXT,
    delivery TEXT NOT NULL,
    topic TEXT,
    deliver_by INTEGER,
    status TEXT NOT NULL,
    reason TEXT,
    attempts TEXT NOT NULL DEFAULT '[]',
    tellings INTEGER NOT NULL DEFAULT 0,
    told_to TEXT,
    saying_to TEXT,
    failed_for TEXT,
    failures INTEGER NOT NULL DEFAULT 0,
    retry_at INTEGER,
    in_history INTEGER NOT NULL DEFAULT 0,
    received_at INTEGER NOT NULL,
    settled_at INTEGER,
    given_up ${GIVEN_UP}
  );
  CREATE INDEX IF NOT EXISTS results_open ON results (status, seq) WHERE settled_at IS NULL;
  CREATE INDEX IF NOT EXISTS results_settled ON results (settled_at) WHERE settled_at IS NOT NULL;
  CREATE INDEX IF NOT EXISTS results_not_in_history ON results (seq) WHERE in_history = 0;`;

/** What is known of the whole table. Times in ms, null where there is no such row. */
type Overview = {
  /** 1 where there are any rows at all, any that may be said, any that the history lacks. */
  rows: number;
  open: number;
  notInHistory: number;
  /** When the first row is forgotten, expires by its own wish, or with its conversation. */
  forgottenAt: number | null;
  lateAt: number | null;
  overAt: number | null;
  abandonedAt: number | null;
  retryAt: number | null;
};
const NOTHING: Overview = {
  rows: 0,
  open: 0,
  notInHistory: 0,
  forgottenAt: null,
  lateAt: null,
  overAt: null,
  abandonedAt: null,
  retryAt: null,
};

/** Rows that may still be said. */
const OPEN = "settled_at IS NULL AND status IN ('waiting', 'unconfirmed')";

export type Results = ReturnType<typeof createResults>;

export type ResultsOptions = {
  sql: Sql;
  /** How long a result waits, from its arrival; null for ever. */
  ttlSeconds: TtlSeconds;
};

export function createResults({ sql: database, ttlSeconds }: ResultsOptions) {
  const tables = tablesOf(database, "results", SCHEMA, { given_up: GIVEN_UP });
  const sql: Sql = {
    ...tables,
    rows<T extends Record<string, SqlValue>>(statement: string, ...bindings: SqlValue[]): T[] {
      if (!statement.startsWith("SELECT")) known = null;
      return tables.rows<T>(statement, ...bindings);
    },
  };
  /** What was found out of the whole table, until it changes. */
  let known: Overview | null = null;
  const waitsMs = ttlSeconds === null ? null : ttlSeconds * 1000;

  function overview(): Overview {
    if (known !== null) return known;
    const [found] = sql.rows<Overview>(
      `SELECT EXISTS (SELECT 1 FROM results) AS rows,
         EXISTS (SELECT 1 FROM results WHERE ${OPEN}) AS open,
         EXISTS (SELECT 1 FROM results WHERE in_history = 0 AND text IS NOT NULL) AS notInHistory,
         (SELECT min(settled_at) + ${SETTLED_MS} FROM results WHERE settled_at IS NOT NULL) AS forgottenAt,
         (SELECT min(deliver_by) FROM results WHERE ${OPEN}) AS lateAt,
         (SELECT min(received_at) + ${waitsMs ?? "NULL"} FROM results WHERE ${OPEN}) AS overAt,
         (SELECT min(received_at) + ${ABANDONED_MS} FROM results WHERE ${OPEN} AND reason IS NULL) AS abandonedAt,
         (SELECT min(retry_at) FROM results WHERE ${OPEN}) AS retryAt`,
    );
    known = found ?? NOTHING;
    return known;
  }

  function rows(condition: string, ...bindings: SqlValue[]): Row[] {
    return sql.rows<Row>(`SELECT * FROM results WHERE ${condition}`, ...bindings);
  }

  function find(requestId: string): Row | undefined {
    return rows("request_id = ?", requestId)[0];
  }

  /** Settles rows without having said them. Returns their ids. */
  function settle(status: ResultStatus, now: number, condition: string, ...bindings: SqlValue[]): string[] {
    return sql
      .rows<{ request_id: string }>(
        `UPDATE results SET status = ?, settled_at = ?, retry_at = NULL WHERE ${condition} RETURNING request_id`,
        status,
        now,
        ...bindings,
      )
      .map(({ request_id }) => request_id);
  }

  function lastAttemptIs(row: Row, change: Partial<Attempt>): string {
    const attempts = JSON.parse(row.attempts) as Attempt[];
    const last = attempts.pop();
    return JSON.stringify(last === undefined ? attempts : [...attempts, { ...last, ...change }]);
  }

  /** It may have been heard where it was being said. */
  function markUnconfirmed(row: Row, attempts: string, now: number): void {
    const isGivenUp = row.tellings + 1 > 1;
    sql.rows(
      `UPDATE results SET status = 'unconfirmed', reason = 'unconfirmed', attempts = ?, tellings = tellings + 1,
         told_to = saying_to, saying_to = NULL, retry_at = NULL, settled_at = ?, given_up = given_up + ?
       WHERE seq = ?`,
      attempts,
      isGivenUp ? now : null,
      isGivenUp ? 1 : 0,
      row.seq,
    );
  }

  const results = {
    exist: tables.exist,
    forgetTables(): void {
      tables.forget();
      known = null;
    },

    isEmpty: () => overview().rows === 0,
    /** Whether anything may still be said. */
    hasOpen: () => overview().open === 1,

    get(requestId: string): ResultRow | null {
      const row = find(requestId);
      return row === undefined ? null : read(row);
    },

    /**
     * Takes a result in. `text` is the result as JSON; the same text again is the same result. One of a task that
     * `isCancelled` is settled at once.
     */
    insert(result: Result, text: string, now: number, isCancelled = false): Insertion {
      return sql.transaction((): Insertion => {
        const { requestId, delivery, topic = null } = result;
        const known = find(requestId);
        if (known !== undefined) {
          const isOther = known.text !== null && known.text !== text;
          return isOther ? { kind: "reused" } : { kind: "known", row: read(known) };
        }
        const deliverBy = result.deliverBy === undefined ? null : Date.parse(result.deliverBy);
        const isLate = deliverBy !== null && deliverBy <= now;
        const settledAs: ResultStatus | null = isCancelled ? "cancelled" : isLate ? "expired" : null;
        const superseded =
          topic === null || settledAs !== null
            ? []
            : settle("superseded", now, `${OPEN} AND topic = ?`, topic);
        sql.rows(
          `INSERT INTO results (request_id, text, delivery, topic, deliver_by, status, received_at, settled_at)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
          requestId,
          text,
          delivery,
          topic,
          deliverBy,
          settledAs ?? "waiting",
          now,
          settledAs === null ? null : now,
        );
        const dropped = settle(
          "dropped",
          now,
          `seq IN (SELECT seq FROM results WHERE settled_at IS NULL AND status = 'waiting'
                   ORDER BY seq DESC LIMIT -1 OFFSET ?)`,
          MAX_WAITING,
        );
        const row = find(requestId);
        if (row === undefined) throw new TypeError("a row that was inserted is not there");
        return { kind: "new", row: read(row), superseded, dropped };
      });
    },

    /** Settles what must not be said any more, and forgets what was settled long ago. Returns the ids of the former. */
    expire(now: number): string[] {
      const { forgottenAt, lateAt, overAt } = overview();
      if (![forgottenAt, lateAt, overAt].some((at) => at !== null && at <= now)) return [];
      return sql.transaction(() => {
        const expired = settle(
          "expired",
          now,
          `${OPEN} AND (deliver_by <= ? OR received_at <= ?)`,
          now,
          waitsMs === null ? 0 : now - waitsMs,
        );
        sql.rows("DELETE FROM results WHERE settled_at <= ?", now - SETTLED_MS);
        return expired;
      });
    },

    /**
     * What may be said to this agent conversation, oldest first: everything, as soon as anything calls for it (it
     * is new, or its retry is due, or this registration was not tried yet); nothing otherwise.
     */
    due(to: AgentConversation, now: number): ResultRow[] {
      const open = rows(`${OPEN} ORDER BY seq`).map(read);
      const [sayable, toldHere] = [open.filter(isNew), open.filter((row) => !isNew(row))];
      // There is nothing to try again where it was told already.
      for (const { seq } of toldHere) {
        sql.rows("UPDATE results SET retry_at = NULL WHERE seq = ? AND retry_at IS NOT NULL", seq);
      }
      const callsForIt = ({ reason, retryAt, failedFor }: ResultRow) =>
        reason === null || failedFor !== to.registrationId || (retryAt !== null && retryAt <= now);
      return sayable.some(callsForIt) ? sayable : [];

      function isNew({ toldTo }: ResultRow): boolean {
        return toldTo === null || !isSame(toldTo, to);
      }
    },

    /**
     * Marks results as being said, before the frame goes out, and notes the attempt. Returns the ids of those that
     * still may be: what was settled meanwhile, or is being said, is not among them.
     */
    say(requestIds: readonly string[], channel: ChannelName, to: AgentConversation, now: number): string[] {
      return sql.transaction(() =>
        requestIds.filter((requestId) => {
          const [row] = rows(`request_id = ? AND ${OPEN}`, requestId);
          if (row === undefined) return false;
          const attempt: Attempt = { at: new Date(now).toISOString(), channel, outcome: "pending" };
          const attempts = [...(JSON.parse(row.attempts) as Attempt[]), attempt].slice(-MAX_ATTEMPTS_SHOWN);
          sql.rows(
            "UPDATE results SET status = 'saying', attempts = ?, saying_to = ? WHERE seq = ?",
            JSON.stringify(attempts),
            JSON.stringify(to),
            row.seq,
          );
          return true;
        }),
      );
    },

    /**
     * Writes down what became of results that were being said. One that was acknowledged or settled meanwhile is
     * left alone. Returns the ids of those that it settled or left open, that is, of those still being said.
     */
    conclude(requestIds: readonly string[], { outcome, ...detail }: PushOutcome, now: number): string[] {
      return sql.transaction(() =>
        requestIds.filter((requestId) => {
          const [row] = rows("request_id = ? AND status = 'saying'", requestId);
          if (row === undefined) return false;
          const attempts = lastAttemptIs(row, { outcome, ...detail });
          if (outcome === "unconfirmed") markUnconfirmed(row, attempts, now);
          else if (outcome === "delivered") {
            sql.rows(
              `UPDATE results SET status = 'delivered', attempts = ?, saying_to = NULL, retry_at = NULL, settled_at = ?
               WHERE seq = ?`,
              attempts,
              now,
              row.seq,
            );
          } else {
            const { registrationId } = JSON.parse(row.saying_to ?? "{}") as AgentConversation;
            const pause = RETRY_MS[Math.min(row.failures, RETRY_MS.length - 1)] ?? 0;
            sql.rows(
              `UPDATE results SET status = ?, reason = 'push_failed', attempts = ?, saying_to = NULL, failed_for = ?,
                 failures = failures + 1, retry_at = ? WHERE seq = ?`,
              row.tellings > 0 ? "unconfirmed" : "waiting",
              attempts,
              registrationId,
              now + pause,
              row.seq,
            );
          }
          return true;
        }),
      );
    },

    /**
     * Says why results wait, where that is not known from an attempt. `failedFor`: the registration that does not take
     * them; `retryAt`: when that is to be tried again.
     */
    excuse(
      requestIds: readonly string[],
      reason: WaitingReason,
      { failedFor = null, retryAt = null }: { failedFor?: string | null; retryAt?: number | null } = {},
    ): void {
      sql.transaction(() => {
        for (const requestId of requestIds) {
          sql.rows(
            `UPDATE results SET reason = ?, failed_for = ?, retry_at = ? WHERE request_id = ? AND ${OPEN}`,
            reason,
            failedFor,
            retryAt,
            requestId,
          );
        }
      });
    },

    /** Who heard them says so, early or late. Returns the ids that this settled. */
    acknowledge(requestIds: readonly string[], now: number): string[] {
      return sql.transaction(() =>
        requestIds.filter((requestId) => {
          const row = find(requestId);
          const isOpen =
            row?.status === "waiting" || row?.status === "saying" || row?.status === "unconfirmed";
          if (row === undefined || !isOpen) return false;
          sql.rows(
            "UPDATE results SET status = 'delivered', attempts = ?, retry_at = NULL, settled_at = ? WHERE seq = ?",
            // It is the last telling that was heard, unless nobody was reached by it.
            ["pending", "unconfirmed"].includes(read(row).attempts.at(-1)?.outcome ?? "")
              ? lastAttemptIs(row, { outcome: "delivered" })
              : row.attempts,
            now,
            row.seq,
          );
          return true;
        }),
      );
    },

    /**
     * Whoever was told last proves that it was not heard: it stands where it stood before, and is tried again, at
     * `retryAt` with the registration `failedFor`, at once with any other. Returns the ids.
     */
    disprove(
      isIt: (row: ResultRow) => boolean,
      outcome: "refused" | "unreachable",
      { failedFor = null, retryAt = null }: { failedFor?: string | null; retryAt?: number | null } = {},
    ): string[] {
      return sql.transaction(() =>
        rows("status = 'saying' OR (status = 'unconfirmed' AND text IS NOT NULL)")
          .filter((row) => isIt(read(row)))
          .map((row) => {
            const tellings = row.status === "saying" ? row.tellings : row.tellings - 1;
            sql.rows(
              `UPDATE results SET status = ?, reason = 'push_failed', attempts = ?, tellings = ?, told_to = ?,
                 saying_to = NULL, failed_for = ?, retry_at = ?, settled_at = NULL WHERE seq = ?`,
              tellings > 0 ? "unconfirmed" : "waiting",
              lastAttemptIs(row, { outcome }),
              tellings,
              // Of two tellings, the first was to an agent conversation that is over.
              row.status === "saying" ? row.told_to : null,
              failedFor,
              retryAt,
              row.seq,
            );
            return row.request_id;
          }),
      );
    },

    /** After a restart: a frame that was on its way may have been heard. Returns the ids. */
    recover(now: number): string[] {
      return sql.transaction(() =>
        rows("status = 'saying'").map((row) => {
          markUnconfirmed(row, lastAttemptIs(row, { outcome: "unconfirmed" }), now);
          return row.request_id;
        }),
      );
    },

    /** An agent conversation has become known by its id: what was told there, or is being told, was told to that id. */
    identify(to: AgentConversation): void {
      if (to.agentSessionId === null) return;
      sql.transaction(() => {
        for (const column of ["told_to", "saying_to"] as const) {
          for (const row of rows(`settled_at IS NULL AND ${column} IS NOT NULL`)) {
            const known = JSON.parse(row[column] ?? "null") as AgentConversation;
            if (known.agentSessionId === null && isSame(known, to)) {
              sql.rows(`UPDATE results SET ${column} = ? WHERE seq = ?`, JSON.stringify(to), row.seq);
            }
          }
        }
      });
    },

    /** Results that nobody has looked at yet, or was told why they wait. */
    unexamined: (): ResultRow[] => rows(`${OPEN} AND reason IS NULL ORDER BY seq`).map(read),

    /** Results that the history does not have for certain, oldest first. */
    notInHistory: (limit: number): ResultRow[] =>
      overview().notInHistory === 0
        ? []
        : rows("in_history = 0 AND text IS NOT NULL ORDER BY seq LIMIT ?", limit).map(read),

    markInHistory(requestIds: readonly string[]): void {
      sql.transaction(() => {
        for (const requestId of requestIds) {
          sql.rows("UPDATE results SET in_history = 1 WHERE request_id = ?", requestId);
        }
      });
    },

    /** Newest first; `before` is a `seq`. */
    list: ({ status, limit, before }: ResultQuery): ResultRow[] =>
      rows(
        "(?1 IS NULL OR status = ?1) AND (?2 IS NULL OR seq < ?2) ORDER BY seq DESC LIMIT ?3",
        status ?? null,
        before ?? null,
        limit,
      ).map(read),

    /** Nobody wants to hear it any more. Returns whether it waited. */
    cancel: (requestId: string, now: number): boolean =>
      settle("cancelled", now, `request_id = ? AND ${OPEN}`, requestId).length > 0,

    /**
     * The conversation was deleted: nothing is said any more, and what was said is not kept. Returns the ids of those
     * that this settled.
     */
    wipe: (now: number): string[] =>
      sql.transaction(() => {
        const dropped = settle("dropped", now, "settled_at IS NULL");
        sql.rows("UPDATE results SET text = NULL, topic = NULL, in_history = 1");
        return dropped;
      }),

    /**
     * When something has to be done next, in ms; null for never. `isLive`: whether anybody is there to be told;
     * `mayPush`: whether anybody may be.
     */
    nextDue(isLive: boolean, mayPush = true): number | null {
      const { forgottenAt, lateAt, overAt, abandonedAt, retryAt } = overview();
      const dues = [
        forgottenAt,
        lateAt,
        overAt,
        mayPush ? abandonedAt : null,
        isLive && mayPush ? retryAt : null,
      ].filter((at) => at !== null);
      return dues.length === 0 ? null : Math.min(...dues);
    },
  };
  return results;
}

function read(row: Row): ResultRow {
  return {
    seq: row.seq,
    requestId: row.request_id,
    text: row.text,
    delivery: row.delivery,
    status: row.status,
    reason: row.reason,
    attempts: JSON.parse(row.attempts) as Attempt[],
    tellings: row.tellings,
    toldTo: row.told_to === null ? null : (JSON.parse(row.told_to) as AgentConversation),
    sayingTo: row.saying_to === null ? null : (JSON.parse(row.saying_to) as AgentConversation),
    failedFor: row.failed_for,
    retryAt: row.retry_at,
    receivedAt: row.received_at,
    settledAt: row.settled_at,
    givenUp: row.given_up,
  };
}
