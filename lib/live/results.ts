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
 * What is being said or `unconfirmed` also goes back where it was before by `disprove`. An operator may have anything
 * that is not being said said `again`: it waits as if it were new.
 *
 * A result that was told twice without a confirmation is given up: it stays `unconfirmed` and is settled.
 */
import { parseExactly } from "../json.ts";
import { lastOf } from "../last-of.ts";
import { earlier, earliest } from "../patience.ts";
import type { ChannelName, Proof, PushOutcome } from "../push/channel.ts";
import type { Delivery, Result } from "../result.ts";
import { type Sql, type SqlValue, tablesOf } from "../sql.ts";
import type { TtlSeconds } from "../storage/storage.ts";
import { type AgentConversation, isSame } from "./agent-conversation.ts";
import { createHeldRows } from "./held-rows.ts";

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

/** What nobody is known to have heard, though somebody was to. */
export const FAILED: readonly ResultStatus[] = ["unconfirmed", "expired", "dropped"];

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
  httpStatus?: number;
  /** What is known of it, where it was delivered. */
  proof?: Proof;
  /** How it was told, where the channel could not do as was asked. */
  manner?: Delivery;
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
  /** How often it was to be said again. */
  again: number;
};

export type Insertion =
  | { kind: "new"; row: ResultRow; superseded: string[]; dropped: string[] }
  | { kind: "known"; row: ResultRow }
  /** The same requestId with another result. */
  | { kind: "reused" };

/** Results that are not settled: how many there are of each status, and the newest of them. */
export type OpenResults = { counts: Partial<Record<ResultStatus, number>>; results: ResultRow[] };

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
  again: number;
  waits_since: number | null;
  logged: string | null;
  in_history: number;
  unfinished: number;
  deliver_by: number | null;
};

const GIVEN_UP = "INTEGER NOT NULL DEFAULT 0";
const AGAIN = "INTEGER NOT NULL DEFAULT 0";
const UNFINISHED = "INTEGER NOT NULL DEFAULT 1";
/**
 * What is `unfinished` stays in the one index of it from its arrival until there is nothing more to do: an index by
 * status, or one for each thing that is lacking, would be written with every step of a row, and is billed as a row.
 */
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
    given_up ${GIVEN_UP},
    again ${AGAIN},
    waits_since INTEGER,
    logged TEXT,
    unfinished ${UNFINISHED}
  );
  CREATE INDEX IF NOT EXISTS results_unfinished ON results (seq) WHERE unfinished = 1;
  CREATE INDEX IF NOT EXISTS results_settled ON results (settled_at) WHERE settled_at IS NOT NULL;`;

/** What a row is when it comes in, but for what comes with it: the defaults of the schema. */
const NEW_ROW = {
  reason: null,
  attempts: "[]",
  tellings: 0,
  told_to: null,
  saying_to: null,
  failed_for: null,
  failures: 0,
  retry_at: null,
  given_up: 0,
  again: 0,
  waits_since: null,
  logged: null,
  in_history: 0,
  unfinished: 1,
} satisfies Partial<Row>;

const RETIRED_INDEXES = ["results_unsettled", "results_not_in_history"];

/** What is known of the whole table. Times in ms, null where there is no such row. */
type Overview = {
  /** When the first row is forgotten, expires by its own wish, or with its conversation. */
  forgottenAt: number | null;
  lateAt: number | null;
  overAt: number | null;
  abandonedAt: number | null;
  retryAt: number | null;
};

/** Rows that may still be said. */
const OPEN = "unfinished = 1 AND settled_at IS NULL AND status IN ('waiting', 'unconfirmed')";
const isOpen = ({ settled_at, status }: Row) =>
  settled_at === null && (status === "waiting" || status === "unconfirmed");

const isTold = ({ settled_at, told_to, saying_to }: Row) =>
  settled_at === null && (told_to !== null || saying_to !== null);

/** Since when a row waits. */
const WAITS_SINCE = "coalesce(waits_since, received_at)";
const waitsSince = ({ waits_since, received_at }: Row) => waits_since ?? received_at;

export type Results = ReturnType<typeof createResults>;

export type ResultsOptions = {
  sql: Sql;
  /** How long a result waits, from its arrival; null for ever. */
  ttlSeconds: TtlSeconds;
};

export function createResults({ sql: database, ttlSeconds }: ResultsOptions) {
  const later = {
    given_up: GIVEN_UP,
    again: AGAIN,
    waits_since: "INTEGER",
    logged: "TEXT",
    unfinished: UNFINISHED,
  };
  const tables = tablesOf(database, "results", SCHEMA, later, RETIRED_INDEXES);
  const held = createHeldRows<Row>(tables);
  const { change, find, rows: sqlRows, transaction } = held;
  const sql: Sql = { ...tables, rows: sqlRows, transaction };
  /** A row is read with every step of its result, and never changed. */
  const read = lastOf(readingOf);
  const waitsMs = ttlSeconds === null ? null : ttlSeconds * 1000;

  /** Rows that may still be said, oldest first; a long text may be missing. */
  const openRows = () => held.those(isOpen);

  function overview(): Overview {
    const settledAt = held.firstSettledAt();
    const found: Overview = {
      forgottenAt: settledAt === null ? null : settledAt + SETTLED_MS,
      lateAt: null,
      overAt: null,
      abandonedAt: null,
      retryAt: null,
    };
    for (const row of held.kept()) {
      if (!isOpen(row)) continue;
      found.lateAt = earlier(found.lateAt, row.deliver_by);
      found.retryAt = earlier(found.retryAt, row.retry_at);
      if (waitsMs !== null) found.overAt = earlier(found.overAt, waitsSince(row) + waitsMs);
      if (row.reason === null) found.abandonedAt = earlier(found.abandonedAt, waitsSince(row) + ABANDONED_MS);
    }
    return found;
  }

  function countOf(status: "waiting"): number {
    let count = 0;
    for (const row of held.kept()) if (row.status === status) count += 1;
    return count;
  }

  function rows(condition: string, ...bindings: SqlValue[]): Row[] {
    return sql.rows<Row>(`SELECT * FROM results WHERE ${condition}`, ...bindings);
  }

  /** Work that changes each of these results by one statement: all of them or none. */
  function eachOf(requestIds: readonly string[], work: (requestId: string) => boolean): string[] {
    const isAlone = requestIds.length <= 1;
    return isAlone ? requestIds.filter(work) : sql.transaction(() => requestIds.filter(work));
  }

  /** Settles rows without having said them. Returns their ids. */
  function settle(status: ResultStatus, now: number, condition: string, ...bindings: SqlValue[]): string[] {
    return change(
      `UPDATE results SET status = ?, settled_at = ?, retry_at = NULL WHERE ${condition}`,
      status,
      now,
      ...bindings,
    ).map(({ request_id }) => request_id);
  }

  function lastAttemptIs(row: Row, change: Partial<Attempt>): string {
    const attempts = JSON.parse(row.attempts) as Attempt[];
    const last = attempts.pop();
    return JSON.stringify(last === undefined ? attempts : [...attempts, { ...last, ...change }]);
  }

  /** It may have been heard where it was being said. */
  function markUnconfirmed(row: Row, attempts: string, now: number): void {
    const isGivenUp = row.tellings + 1 > 1;
    change(
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
    /** The result that a stored text holds, not to be changed. It is asked for with each step of its way. */
    parse: lastOf((text: string) => parseExactly(text) as Result),

    exist: tables.exist,
    forgetTables(): void {
      tables.forget();
      held.forget();
    },

    isEmpty: () => !held.hasRows(),
    /** Whether anything may still be said. */
    hasOpen: () => held.some(isOpen),

    get(requestId: string): ResultRow | null {
      const row = find(requestId);
      return row === undefined ? null : read(row);
    },

    /**
     * Takes a result in. `text` is the result as JSON; the same text again is the same result. One of a task that
     * `isCancelled` is settled at once.
     */
    insert(result: Result, text: string, now: number, isCancelled = false): Insertion {
      const { requestId, delivery, topic = null } = result;
      const deliverBy = result.deliverBy === undefined ? null : Date.parse(result.deliverBy);
      const isLate = deliverBy !== null && deliverBy <= now;
      const settledAs: ResultStatus | null = isCancelled ? "cancelled" : isLate ? "expired" : null;
      const take = (): Insertion => {
        const status = settledAs ?? "waiting";
        const settledAt = settledAs === null ? null : now;
        const row = held.insert(
          `INSERT OR IGNORE INTO results
             (request_id, text, delivery, topic, deliver_by, status, received_at, settled_at)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
          [requestId, text, delivery, topic, deliverBy, status, now, settledAt],
          {
            ...NEW_ROW,
            request_id: requestId,
            text,
            delivery,
            deliver_by: deliverBy,
            status,
            received_at: now,
            settled_at: settledAt,
          },
        );
        if (row === undefined) return known();
        const superseded =
          topic === null || settledAs !== null
            ? []
            : settle("superseded", now, `${OPEN} AND topic = ? AND seq <> ?`, topic, row.seq);
        return { kind: "new", row: read(row), superseded, dropped: hasRoom() ? [] : dropOldest() };
      };
      const hasRoom = () => countOf("waiting") <= MAX_WAITING;
      const dropOldest = () =>
        settle(
          "dropped",
          now,
          `seq IN (SELECT seq FROM results WHERE unfinished = 1 AND settled_at IS NULL AND status = 'waiting'
                   ORDER BY seq DESC LIMIT -1 OFFSET ?)`,
          MAX_WAITING,
        );
      const known = (): Insertion => {
        const row = find(requestId);
        if (row === undefined) throw new TypeError("a row that stands is not there");
        const isOther = row.text !== null && row.text !== text;
        return isOther ? { kind: "reused" } : { kind: "known", row: read(row) };
      };
      // Where nothing can go with it, one statement is a transaction of its own.
      const isAlone = topic === null && countOf("waiting") < MAX_WAITING;
      return isAlone ? take() : sql.transaction(take);
    },

    /** Settles what must not be said any more, and forgets what was settled long ago. Returns the ids of the former. */
    expire(now: number): string[] {
      const { forgottenAt, lateAt, overAt } = overview();
      if (![forgottenAt, lateAt, overAt].some((at) => at !== null && at <= now)) return [];
      return sql.transaction(() => {
        const expired = settle(
          "expired",
          now,
          `${OPEN} AND (deliver_by <= ? OR ${WAITS_SINCE} <= ?)`,
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
      const open = held.whole(openRows()).map(read);
      const [sayable, toldHere] = [open.filter(isNew), open.filter((row) => !isNew(row))];
      // There is nothing to try again where it was told already.
      for (const { seq, retryAt } of toldHere) {
        if (retryAt !== null) change("UPDATE results SET retry_at = NULL WHERE seq = ?", seq);
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
      return eachOf(requestIds, (requestId) => {
        const row = find(requestId);
        if (row === undefined || !isOpen(row)) return false;
        const attempt: Attempt = { at: new Date(now).toISOString(), channel, outcome: "pending" };
        const attempts = [...(JSON.parse(row.attempts) as Attempt[]), attempt].slice(-MAX_ATTEMPTS_SHOWN);
        const saying = {
          status: "saying",
          attempts: JSON.stringify(attempts),
          saying_to: JSON.stringify(to),
        } as const;
        const isDone = held.set(row, saying, OPEN);
        // What is remembered said otherwise: somebody else has written.
        if (!isDone) held.forget();
        return isDone;
      });
    },

    /**
     * Writes down what became of results that were being said. One that was acknowledged or settled meanwhile is
     * left alone. Returns the ids of those that it settled or left open, that is, of those still being said.
     */
    conclude(requestIds: readonly string[], { outcome, ...detail }: PushOutcome, now: number): string[] {
      return eachOf(requestIds, (requestId) => {
        const row = find(requestId);
        if (row?.status !== "saying") return false;
        const attempts = lastAttemptIs(row, { outcome, ...detail });
        if (outcome === "unconfirmed") markUnconfirmed(row, attempts, now);
        else if (outcome === "delivered") {
          held.set(row, { status: "delivered", attempts, saying_to: null, retry_at: null, settled_at: now });
        } else {
          const { registrationId } = JSON.parse(row.saying_to ?? "{}") as AgentConversation;
          const pause = RETRY_MS[Math.min(row.failures, RETRY_MS.length - 1)] ?? 0;
          // Whoever is there next is told; there is nothing to try again where the conversation is over.
          const isOver = outcome === "ended";
          change(
            `UPDATE results SET status = ?, reason = ?, attempts = ?, saying_to = NULL, failed_for = ?,
               failures = failures + 1, retry_at = ? WHERE seq = ?`,
            row.tellings > 0 ? "unconfirmed" : "waiting",
            isOver ? "session_expired" : "push_failed",
            attempts,
            registrationId,
            isOver ? null : now + pause,
            row.seq,
          );
        }
        return true;
      });
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
      const statement = `UPDATE results SET reason = ?, failed_for = ?, retry_at = ? WHERE request_id = ? AND ${OPEN}`;
      eachOf(requestIds, (requestId) => change(statement, reason, failedFor, retryAt, requestId).length > 0);
    },

    /** A registration is to be tried again with what it did not take, or could not be told. */
    forgive(registrationId: string): void {
      if (openRows().some(({ failed_for }) => failed_for === registrationId))
        change(`UPDATE results SET failed_for = NULL WHERE failed_for = ? AND ${OPEN}`, registrationId);
    },

    /** Who heard them says so, early or late. Returns the ids that this settled. */
    acknowledge(requestIds: readonly string[], now: number): string[] {
      return eachOf(requestIds, (requestId) => {
        const row = find(requestId);
        const isStanding =
          row?.status === "waiting" || row?.status === "saying" || row?.status === "unconfirmed";
        if (row === undefined || !isStanding) return false;
        // One that had been given up is settled anew.
        const isAnew = row.settled_at !== null;
        change(
          `UPDATE results SET status = 'delivered', attempts = ?, retry_at = NULL, settled_at = ?
             ${isAnew ? ", unfinished = 1" : ""} WHERE seq = ?`,
          // It is the last telling that was heard, unless nobody was reached by it.
          ["pending", "unconfirmed"].includes(read(row).attempts.at(-1)?.outcome ?? "")
            ? lastAttemptIs(row, { outcome: "delivered", proof: "heard" })
            : row.attempts,
          now,
          row.seq,
        );
        // It may have been the first that is forgotten.
        if (isAnew) held.forget();
        return true;
      });
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
                 saying_to = NULL, failed_for = ?, retry_at = ?, settled_at = NULL, unfinished = 1 WHERE seq = ?`,
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
      const saying = held.unsettled().filter(({ status }) => status === "saying");
      if (saying.length === 0) return [];
      return sql.transaction(() =>
        saying.map((row) => {
          markUnconfirmed(row, lastAttemptIs(row, { outcome: "unconfirmed" }), now);
          return row.request_id;
        }),
      );
    },

    /** Whether anything that is not settled may have been heard. */
    hasTold: () => held.some(isTold),

    /** An agent conversation has become known by its id: what was told there, or is being told, was told to that id. */
    identify(to: AgentConversation): void {
      if (to.agentSessionId === null) return;
      const told = held.those(isTold);
      if (told.length === 0) return;
      sql.transaction(() => {
        for (const column of ["told_to", "saying_to"] as const) {
          for (const row of told) {
            const known = JSON.parse(row[column] ?? "null") as AgentConversation | null;
            if (known !== null && known.agentSessionId === null && isSame(known, to)) {
              change(`UPDATE results SET ${column} = ? WHERE seq = ?`, JSON.stringify(to), row.seq);
            }
          }
        }
      });
    },

    /** Results that nobody has looked at yet, or was told why they wait. */
    unexamined(): ResultRow[] {
      const isUnexamined = (row: Row) => isOpen(row) && row.reason === null;
      return held.whole(held.those(isUnexamined)).map(read);
    },

    /** Results that the history does not have for certain, oldest first; all of them where `limit` is negative. */
    notInHistory(limit: number): ResultRow[] {
      const lacking = held.notInHistory();
      return held.whole(limit < 0 ? lacking : lacking.slice(0, limit)).map(read);
    },

    lacksHistory: (): boolean => held.lacksHistory(),

    markInHistory(requestIds: readonly string[]): void {
      eachOf(requestIds, (requestId) => {
        const row = find(requestId);
        return row !== undefined && held.set(row, { in_history: 1 });
      });
    },

    /** What is not settled: the newest `limit`, newest first, and how many there are of each status. */
    open(limit: number): OpenResults {
      const unsettled = held.unsettled();
      const newest = limit === 0 ? [] : unsettled.slice(-limit).reverse();
      const counts: OpenResults["counts"] = {};
      for (const { status } of unsettled) counts[status] = (counts[status] ?? 0) + 1;
      return { counts, results: held.whole(newest).map(read) };
    },

    /** Newest first; `before` is a `seq`. */
    list: ({ status, limit, before }: ResultQuery): ResultRow[] =>
      rows(
        "(?1 IS NULL OR status = ?1) AND (?2 IS NULL OR seq < ?2) ORDER BY seq DESC LIMIT ?3",
        status ?? null,
        before ?? null,
        limit,
      ).map(read),

    /**
     * Results are to be said again, whatever became of them, unless they are being said. `onlyFailed`: only those that
     * nobody is known to have heard. They wait as if they were new, for as long as a new one does. Returns the ids of those that do; no more may wait than otherwise. `settledAt`: when each was settled, in
     * ms, as far as is known to who asks: what became of it since is left alone.
     */
    again(
      requestIds: readonly string[],
      onlyFailed: boolean,
      now: number,
      settledAt?: readonly number[],
    ): string[] {
      return sql.transaction(() => {
        let waiting = countOf("waiting");
        return requestIds.filter((requestId, i) => {
          const row = find(requestId);
          if (row === undefined || row.text === null || row.status === "saying") return false;
          if (settledAt !== undefined && row.settled_at !== settledAt[i]) return false;
          if (onlyFailed && !FAILED.includes(row.status)) return false;
          const waits = row.status === "waiting";
          if (!waits && waiting >= MAX_WAITING) return false;
          if (!waits) waiting += 1;
          const mayHaveHeard = row.status === "delivered" || row.tellings > 0;
          sql.rows(
            `UPDATE results SET status = 'waiting', reason = NULL, tellings = ?, told_to = NULL, failed_for = NULL,
               failures = 0, retry_at = NULL, deliver_by = NULL, settled_at = NULL, given_up = 0,
               again = again + 1, waits_since = ?, unfinished = 1 WHERE seq = ?`,
            mayHaveHeard ? 1 : 0,
            now,
            row.seq,
          );
          return true;
        });
      });
    },

    /** Whether the log of settled results lacks any. */
    lacksLog: (): boolean => held.lacksLog(),

    /** Settled results that the log of them does not have for certain, oldest first. */
    notLogged: (limit: number): ResultRow[] => held.notLogged().slice(0, limit).map(read),

    /** The log has them, as they were when they were read. */
    markLogged(settled: readonly ResultRow[]): void {
      const asSettled = new Map(
        settled.map(({ requestId, status, settledAt }) => [requestId, `${status}${settledAt}`]),
      );
      eachOf([...asSettled.keys()], (requestId) => {
        const row = find(requestId);
        return row !== undefined && held.set(row, { logged: asSettled.get(requestId) ?? null });
      });
    },

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
      return earliest(
        forgottenAt,
        lateAt,
        overAt,
        mayPush ? abandonedAt : null,
        isLive && mayPush ? retryAt : null,
      );
    },
  };
  return results;
}

/** How a result was told; nothing where no attempt came to that: it was not delivered, or the page told it by itself. */
export function howTold(
  status: ResultStatus,
  attempts: readonly Attempt[],
): Pick<Partial<Attempt>, "channel" | "proof" | "manner"> {
  const last = attempts.at(-1);
  if (status !== "delivered" || last?.outcome !== "delivered") return {};
  const { channel, proof, manner } = last;
  return {
    channel,
    ...(proof === undefined ? {} : { proof }),
    ...(manner === undefined ? {} : { manner }),
  };
}

/** The channel by which a result was told, or was last tried to be where it was not; null where there is none. */
export function channelOf(status: ResultStatus, attempts: readonly Attempt[]): ChannelName | null {
  const told = status === "delivered" ? howTold(status, attempts) : attempts.at(-1);
  return told?.channel ?? null;
}

function readingOf(row: Row): ResultRow {
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
    again: row.again,
  };
}
