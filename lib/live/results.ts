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
 * | `delivered`, `expired`, `superseded`, `dropped`, `cancelled` | settled | forgotten 48 h later, within the next hour; of a deleted conversation with its tombstone |
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
import { type Sql, tablesOf } from "../sql.ts";
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
/** How long at least a settled result is known, so that a retry of its sender is a duplicate. */
export const SETTLED_MS = 48 * 3600 * 1000;
/** What is to be forgotten within this time, in ms, is forgotten together, because all rows are looked through for it. */
export const FORGOTTEN_TOGETHER_MS = 3600 * 1000;
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
  topic: string | null;
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
  deliver_by: number | null;
};

const GIVEN_UP = "INTEGER NOT NULL DEFAULT 0";
const AGAIN = "INTEGER NOT NULL DEFAULT 0";
/** The text is the last column, so that a look at the others need not pass it. */
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS results (
    seq INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
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
    text TEXT
  );`;

/** What a row is when it comes in, but for what comes with it. */
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
} satisfies Partial<Row>;

const RETIRED_INDEXES = [
  "results_unsettled",
  "results_not_in_history",
  "results_unfinished",
  "results_settled",
];

/** What is known of the whole table. Times in ms, null where there is no such row. */
type Overview = {
  /** When the first row is forgotten, expires by its own wish, or with its conversation. */
  forgottenAt: number | null;
  lateAt: number | null;
  overAt: number | null;
  abandonedAt: number | null;
  retryAt: number | null;
};

/** Whether a row may still be said. */
const isOpen = ({ settled_at, status }: Row) =>
  settled_at === null && (status === "waiting" || status === "unconfirmed");

const isTold = ({ settled_at, told_to, saying_to }: Row) =>
  settled_at === null && (told_to !== null || saying_to !== null);

/** Since when a row waits. */
const waitsSince = ({ waits_since, received_at }: Row) => waits_since ?? received_at;

export type Results = ReturnType<typeof createResults>;

export type ResultsOptions = {
  sql: Sql;
  /** How long a result waits, from its arrival; null for ever. */
  ttlSeconds: TtlSeconds;
};

export function createResults({ sql: database, ttlSeconds }: ResultsOptions) {
  const later = { given_up: GIVEN_UP, again: AGAIN, waits_since: "INTEGER", logged: "TEXT" };
  const tables = tablesOf(database, "results", SCHEMA, later, RETIRED_INDEXES);
  const held = createHeldRows<Row>(tables);
  const { find } = held;
  /** A row is read with every step of its result, and never changed. */
  const read = lastOf(readingOf);
  const waitsMs = ttlSeconds === null ? null : ttlSeconds * 1000;

  /** Rows that may still be said, oldest first; a long text may be missing. */
  const openRows = () => held.those(isOpen);

  function overview(): Overview {
    const settledAt = held.firstSettledAt();
    const found: Overview = {
      forgottenAt: settledAt === null ? null : settledAt + SETTLED_MS + FORGOTTEN_TOGETHER_MS,
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

  /** Work that changes each of these results by one statement: all of them or none. */
  function eachOf<T>(these: readonly T[], work: (one: T) => boolean): T[] {
    return these.length <= 1 ? these.filter(work) : held.transaction(() => these.filter(work));
  }

  /** Settles rows without having said them. Returns their ids. */
  function settle(status: ResultStatus, now: number, rows: readonly Row[]): string[] {
    const fields = { status, settled_at: now, retry_at: null } as const;
    return eachOf(held.whole(rows), (row) => held.set(row, fields)).map(({ request_id }) => request_id);
  }

  function lastAttemptIs(row: Row, change: Partial<Attempt>): string {
    const attempts = JSON.parse(row.attempts) as Attempt[];
    const last = attempts.pop();
    return JSON.stringify(last === undefined ? attempts : [...attempts, { ...last, ...change }]);
  }

  /** It may have been heard where it was being said. */
  function markUnconfirmed(row: Row, attempts: string, now: number): boolean {
    const isGivenUp = row.tellings + 1 > 1;
    return held.set(row, {
      status: "unconfirmed",
      reason: "unconfirmed",
      attempts,
      tellings: row.tellings + 1,
      told_to: row.saying_to,
      saying_to: null,
      retry_at: null,
      settled_at: isGivenUp ? now : null,
      given_up: row.given_up + (isGivenUp ? 1 : 0),
    });
  }

  const results = {
    /** The result that a stored text holds, not to be changed. It is asked for with each step of its way. */
    parse: lastOf((text: string) => parseExactly(text) as Result),

    exist: tables.exist,
    forgetTables(): void {
      tables.forget();
      held.forgetTable();
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
        const given = {
          request_id: requestId,
          delivery,
          topic,
          deliver_by: deliverBy,
          status: settledAs ?? ("waiting" as const),
          received_at: now,
          settled_at: settledAs === null ? null : now,
          text,
        };
        const row = held.insert(given, NEW_ROW);
        if (row === undefined) return known();
        const isBefore = (other: Row) => isOpen(other) && other.topic === topic && other.seq !== row.seq;
        const superseded =
          topic === null || settledAs !== null ? [] : settle("superseded", now, held.those(isBefore));
        return { kind: "new", row: read(row), superseded, dropped: hasRoom() ? [] : dropOldest() };
      };
      const hasRoom = () => countOf("waiting") <= MAX_WAITING;
      const dropOldest = () =>
        settle("dropped", now, held.those(({ status }) => status === "waiting").slice(0, -MAX_WAITING));
      const known = (): Insertion => {
        const row = find(requestId);
        if (row === undefined) throw new TypeError("a row that stands is not there");
        const isOther = row.text !== null && row.text !== text;
        return isOther ? { kind: "reused" } : { kind: "known", row: read(row) };
      };
      // Where nothing can go with it, one statement is a transaction of its own.
      const isAlone = topic === null && countOf("waiting") < MAX_WAITING;
      return isAlone ? take() : held.transaction(take);
    },

    /** Settles what must not be said any more, and forgets what was settled long ago. Returns the ids of the former. */
    expire(now: number): string[] {
      const { forgottenAt, lateAt, overAt } = overview();
      const isDue = (at: number | null) => at !== null && at <= now;
      if (![forgottenAt, lateAt, overAt].some(isDue)) return [];
      return held.transaction(() => {
        const isOver = (row: Row) =>
          isDue(row.deliver_by) || isDue(waitsMs === null ? null : waitsSince(row) + waitsMs);
        const expired = settle(
          "expired",
          now,
          held.those((row) => isOpen(row) && isOver(row)),
        );
        if (isDue(forgottenAt)) held.run("DELETE FROM results WHERE settled_at <= ?", now - SETTLED_MS);
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
      for (const { requestId, retryAt } of toldHere) {
        const row = retryAt === null ? undefined : find(requestId);
        if (row !== undefined) held.set(row, { retry_at: null });
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
        return held.set(row, saying);
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
        if (outcome === "unconfirmed") return markUnconfirmed(row, attempts, now);
        if (outcome === "delivered") {
          const delivered = { status: "delivered", attempts, saying_to: null, retry_at: null } as const;
          return held.set(row, { ...delivered, settled_at: now });
        }
        const { registrationId } = JSON.parse(row.saying_to ?? "{}") as AgentConversation;
        const pause = RETRY_MS[Math.min(row.failures, RETRY_MS.length - 1)] ?? 0;
        // Whoever is there next is told; there is nothing to try again where the conversation is over.
        const isOver = outcome === "ended";
        return held.set(row, {
          status: row.tellings > 0 ? "unconfirmed" : "waiting",
          reason: isOver ? "session_expired" : "push_failed",
          attempts,
          saying_to: null,
          failed_for: registrationId,
          failures: row.failures + 1,
          retry_at: isOver ? null : now + pause,
        });
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
      eachOf(requestIds, (requestId) => {
        const row = find(requestId);
        if (row === undefined || !isOpen(row)) return false;
        return held.set(row, { reason, failed_for: failedFor, retry_at: retryAt });
      });
    },

    /** A registration is to be tried again with what it did not take, or could not be told. */
    forgive(registrationId: string): void {
      const forgiven = openRows().filter(({ failed_for }) => failed_for === registrationId);
      eachOf(held.whole(forgiven), (row) => held.set(row, { failed_for: null }));
    },

    /** Who heard them says so, early or late. Returns the ids that this settled. */
    acknowledge(requestIds: readonly string[], now: number): string[] {
      return eachOf(requestIds, (requestId) => {
        const row = find(requestId);
        const isStanding =
          row?.status === "waiting" || row?.status === "saying" || row?.status === "unconfirmed";
        if (row === undefined || !isStanding) return false;
        // It is the last telling that was heard, unless nobody was reached by it.
        const wasOpen = ["pending", "unconfirmed"].includes(read(row).attempts.at(-1)?.outcome ?? "");
        return held.set(row, {
          status: "delivered",
          attempts: wasOpen ? lastAttemptIs(row, { outcome: "delivered", proof: "heard" }) : row.attempts,
          retry_at: null,
          // One that had been given up is settled anew.
          settled_at: now,
        });
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
      return held.transaction(() => {
        const told = held.read("status = 'saying' OR (status = 'unconfirmed' AND text IS NOT NULL)");
        const wrong = told.filter((row) => {
          if (!isIt(read(row))) return false;
          const tellings = row.status === "saying" ? row.tellings : row.tellings - 1;
          return held.set(row, {
            status: tellings > 0 ? "unconfirmed" : "waiting",
            reason: "push_failed",
            attempts: lastAttemptIs(row, { outcome }),
            tellings,
            // Of two tellings, the first was to an agent conversation that is over.
            told_to: row.status === "saying" ? row.told_to : null,
            saying_to: null,
            failed_for: failedFor,
            retry_at: retryAt,
            settled_at: null,
          });
        });
        return wrong.map(({ request_id }) => request_id);
      });
    },

    /** After a restart: a frame that was on its way may have been heard. Returns the ids. */
    recover(now: number): string[] {
      const saying = held.unsettled().filter(({ status }) => status === "saying");
      return eachOf(held.whole(saying), (row) =>
        markUnconfirmed(row, lastAttemptIs(row, { outcome: "unconfirmed" }), now),
      ).map(({ request_id }) => request_id);
    },

    /** Whether anything that is not settled may have been heard. */
    hasTold: () => held.some(isTold),

    /** An agent conversation has become known by its id: what was told there, or is being told, was told to that id. */
    identify(to: AgentConversation): void {
      if (to.agentSessionId === null) return;
      const isHere = (text: string | null) => {
        const known = JSON.parse(text ?? "null") as AgentConversation | null;
        return known !== null && known.agentSessionId === null && isSame(known, to);
      };
      const told = held.those((row) => isTold(row) && (isHere(row.told_to) || isHere(row.saying_to)));
      const text = JSON.stringify(to);
      eachOf(held.whole(told), (row) =>
        held.set(row, {
          ...(isHere(row.told_to) ? { told_to: text } : {}),
          ...(isHere(row.saying_to) ? { saying_to: text } : {}),
        }),
      );
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

    /** It is written with the next step of each, or by `writeMarks`; whoever dies before gives them again. */
    markInHistory(requestIds: readonly string[]): void {
      for (const requestId of requestIds) {
        const row = find(requestId);
        if (row?.in_history === 0) held.mark(row, { in_history: 1 });
      }
    },

    writeMarks: held.writeMarks,

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
      held
        .read(
          "(?1 IS NULL OR status = ?1) AND (?2 IS NULL OR seq < ?2) ORDER BY seq DESC LIMIT ?3",
          status ?? null,
          before ?? null,
          limit,
        )
        .map(read),

    /**
     * Results are to be said again, whatever became of them, unless they are being said. `onlyFailed`: only those that
     * nobody is known to have heard. They wait as if they were new, for as long as a new one does. Returns the ids of those
     * that do; no more may wait than otherwise. `settledAt`: when each was settled, in ms, as far as is known to who asks:
     * what became of it since is left alone.
     */
    again(
      requestIds: readonly string[],
      onlyFailed: boolean,
      now: number,
      settledAt?: readonly number[],
    ): string[] {
      return held.transaction(() => {
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
          return held.set(row, {
            status: "waiting",
            reason: null,
            tellings: mayHaveHeard ? 1 : 0,
            told_to: null,
            failed_for: null,
            failures: 0,
            retry_at: null,
            deliver_by: null,
            settled_at: null,
            given_up: 0,
            again: row.again + 1,
            waits_since: now,
          });
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
    cancel(requestId: string, now: number): boolean {
      const row = find(requestId);
      return row !== undefined && isOpen(row) && settle("cancelled", now, [row]).length > 0;
    },

    /**
     * The conversation was deleted: nothing is said any more, and what was said is not kept. Returns the ids of those
     * that this settled.
     */
    wipe: (now: number): string[] =>
      held.transaction(() => {
        const dropped = settle("dropped", now, held.unsettled());
        held.run("UPDATE results SET text = NULL, topic = NULL, in_history = 1");
        return dropped;
      }),

    /** The conversation's deletion is over: its ids are as good as new. */
    forgetWiped: (): void => held.run("DELETE FROM results WHERE text IS NULL"),

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
