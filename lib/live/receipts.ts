/**
 * Receipts: what became of a conversation's results, tasks and sessions, for a server that the operator named. They
 * hold ids, times and outcomes, never contents. Each is a row from the moment in which it happened until somebody has
 * taken it. It is sent at once, in the background, and again by the alarm, always with the same id and the same body;
 * nothing waits for it, whatever the receiver does.
 *
 * What the runner of tools is told without being asked goes the same way. Who is not configured is told nothing, and
 * costs nothing.
 */
import { stringifyJson } from "../json.ts";
import { type Logger, logFailure } from "../log.ts";
import type { Destination, Posted, SignedMessage } from "../outbound.ts";
import { earliest } from "../patience.ts";
import { type Channel, type ChannelName, chooseChannel, type Proof } from "../push/channel.ts";
import type { Delivery } from "../result.ts";
import { isLive, type SessionRecord } from "../session-store.ts";
import { type Sql, type SqlValue, type Tables, tablesOf } from "../sql.ts";
import { channelOf, howTold, type ResultRow, type Results } from "./results.ts";

export type ResultReceipt =
  | "result.delivered"
  | "result.unconfirmed"
  | "result.expired"
  | "result.superseded";
export type ReceiptType = ResultReceipt | "task.cancelled" | "session.started" | "session.ended";

/** Whom a receipt is for. */
export type Recipient = "events" | "runner";

/** Null for who is told nothing. */
export type Destinations = Readonly<Record<Recipient, Destination | null>>;

/** A closed list, so that no content gets into a receipt by the way. Times are ISO 8601. */
export type ReceiptData = {
  requestId?: string;
  registrationId?: string;
  taskId?: string;
  channel?: ChannelName | null;
  proof?: Proof;
  manner?: Delivery;
  status?: string;
  reason?: string;
  /** How often it was tried to say it. */
  attempts?: number;
  receivedAt?: string;
  settledAt?: string;
};

const [SECOND, MINUTE, HOUR] = [1_000, 60_000, 3_600_000];
/** The pauses behind each try that failed, in ms; behind the last try a receipt is dropped. */
export const RECEIPT_RETRY_MS: readonly number[] = [
  5 * SECOND,
  5 * MINUTE,
  30 * MINUTE,
  2 * HOUR,
  5 * HOUR,
  10 * HOUR,
  14 * HOUR,
];
/** How long a receiver may take, in ms. */
export const RECEIPT_DEADLINE_MS = 15_000;
/** How many may wait for one recipient; the oldest makes room. */
export const MAX_RECEIPTS = 500;
/**
 * How many are on their way to one recipient at the same time. An object has six connections that wait for an answer;
 * pushes and Redis need theirs, however long a receiver hangs.
 * https://developers.cloudflare.com/workers/platform/limits/#simultaneous-open-connections
 */
const SENT_AT_ONCE = 2;
/** By then what was on its way has come to something, or the object has died with it. */
const ABANDONED_MS = RECEIPT_DEADLINE_MS + 5_000;

type Sending = { since: number; done: Promise<void> };
type Row = { seq: number; id: string; type: ReceiptType; body: string; failures: number };

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS receipts (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    recipient TEXT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    body TEXT NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    due_at INTEGER NOT NULL
  );
  CREATE INDEX IF NOT EXISTS receipts_due ON receipts (recipient, due_at);`;

export type ReceiptsOptions = {
  conversationId: string;
  sql: Sql;
  destinations: Destinations;
  post: (message: SignedMessage) => Promise<Posted>;
  log: Logger;
  /** The clock, in ms since the epoch. */
  now: () => number;
  /** Called when what was due has been sent, for whoever asks when the next is. */
  rested: () => void;
};

export type Receipts = ReturnType<typeof createReceipts>;

export function createReceipts(options: ReceiptsOptions) {
  const { conversationId, destinations, post, log, now } = options;
  const recipients = (["events", "runner"] as const).filter((recipient) => destinations[recipient] !== null);
  let opened: Tables | null = null;
  /** What is known of those that wait, until that changes. */
  const known = new Map<Recipient, { waiting: number; dueAt: number | null }>();
  /** What is on its way, by its `seq`, and since when. */
  const underWay = { events: new Map<number, Sending>(), runner: new Map<number, Sending>() };
  let called: Promise<void> | null = null;

  /** Not looked at before anything is to be known: most conversations have no receipts. */
  function tables(): Tables {
    opened ??= tablesOf(options.sql, "receipts", SCHEMA);
    return opened;
  }

  function change<T extends Record<string, SqlValue>>(statement: string, ...bindings: SqlValue[]): T[] {
    known.clear();
    return tables().rows<T>(statement, ...bindings);
  }

  function overview(recipient: Recipient): { waiting: number; dueAt: number | null } {
    const before = known.get(recipient);
    if (before !== undefined) return before;
    const [found = { waiting: 0, dueAt: null }] = tables().rows<{ waiting: number; dueAt: number | null }>(
      "SELECT count(*) AS waiting, min(due_at) AS dueAt FROM receipts WHERE recipient = ?",
      recipient,
    );
    known.set(recipient, found);
    return found;
  }

  function noteDropped({ id: webhookId, type, failures }: Row, reason: "given_up" | "too_many"): void {
    log.warn("event.dropped", { webhookId, type, reason, tries: failures });
  }

  async function sendOne(row: Row, destination: Destination): Promise<void> {
    const { seq, id, type, body, failures } = row;
    const { outcome, status } = await post({
      ...destination,
      id,
      body,
      now,
      deadlineMs: RECEIPT_DEADLINE_MS,
    });
    if (outcome === "accepted") return void change("DELETE FROM receipts WHERE seq = ?", seq);
    if (failures === 0) log.warn("event.failed", { webhookId: id, type, failure: outcome, status });
    const pause = RECEIPT_RETRY_MS[failures];
    if (pause === undefined) {
      const dropped = change("DELETE FROM receipts WHERE seq = ? RETURNING seq", seq);
      if (dropped.length > 0) noteDropped({ ...row, failures: failures + 1 }, "given_up");
    } else {
      change("UPDATE receipts SET failures = failures + 1, due_at = ? WHERE seq = ?", now() + pause, seq);
    }
  }

  /** Sends what is due, as far as there is room. */
  function fill(recipient: Recipient): void {
    const destination = destinations[recipient];
    const sending = underWay[recipient];
    const { dueAt } = overview(recipient);
    if (destination === null || dueAt === null || dueAt > now() || sending.size >= SENT_AT_ONCE) return;
    const due = tables().rows<Row>(
      "SELECT * FROM receipts WHERE recipient = ? AND due_at <= ? ORDER BY seq LIMIT ?",
      recipient,
      now(),
      SENT_AT_ONCE,
    );
    for (const row of due) {
      if (sending.has(row.seq) || sending.size >= SENT_AT_ONCE) continue;
      sending.set(row.seq, { since: now(), done: sendInTurn(recipient, row, destination) });
    }
  }

  async function sendInTurn(recipient: Recipient, row: Row, destination: Destination): Promise<void> {
    const sending = underWay[recipient];
    try {
      await sendOne(row, destination);
      sending.delete(row.seq);
      fill(recipient);
    } catch (error) {
      // The alarm looks after what is left.
      sending.delete(row.seq);
      logFailure(log, "receipts", error);
    }
    if (sending.size === 0) options.rested();
  }

  /** Begins to send what is due. */
  function send(): void {
    // Behind whatever noted it, which may be within a transaction.
    called ??= Promise.resolve().then(() => {
      called = null;
      try {
        for (const recipient of recipients) fill(recipient);
      } catch (error) {
        logFailure(log, "receipts", error);
      }
    });
  }

  return {
    /** Whether anybody wants to be told what happens. */
    areWanted: destinations.events !== null,

    /** Writes down what has just happened, and begins to send it; nothing of that needs to be waited for. */
    note(type: ReceiptType, data: ReceiptData, recipient: Recipient = "events"): void {
      if (!recipients.includes(recipient)) return;
      const timestamp = new Date(now()).toISOString();
      change(
        "INSERT INTO receipts (recipient, id, type, body, due_at) VALUES (?, ?, ?, ?, ?)",
        recipient,
        `evt_${crypto.randomUUID()}`,
        type,
        stringifyJson({ type, timestamp, data: { conversationId, ...data } }),
        now(),
      );
      if (overview(recipient).waiting > MAX_RECEIPTS) {
        const oldest = "(SELECT min(seq) FROM receipts WHERE recipient = ?)";
        const [row] = change<Row>(`DELETE FROM receipts WHERE seq = ${oldest} RETURNING *`, recipient);
        if (row !== undefined) noteDropped(row, "too_many");
      }
      send();
    },

    send,

    /** Resolves when nothing is on its way. */
    async rest(): Promise<void> {
      for (;;) {
        await called;
        const sending = recipients.flatMap((recipient) => [...underWay[recipient].values()]);
        if (called === null && sending.length === 0) return;
        await Promise.all(sending.map(({ done }) => done));
      }
    },

    /** When something has to be done next, in ms; null for never. */
    nextDue(): number | null {
      const due = recipients.flatMap((recipient) => {
        const sending = [...underWay[recipient].values()];
        if (sending.length === 0) return overview(recipient).dueAt ?? [];
        const [later] = tables().rows<{ dueAt: number | null }>(
          "SELECT min(due_at) AS dueAt FROM receipts WHERE recipient = ? AND due_at > ?",
          recipient,
          now(),
        );
        return [later?.dueAt ?? [], ...sending.map(({ since }) => since + ABANDONED_MS)].flat();
      });
      return earliest(...due);
    },

    isEmpty: () => recipients.every((recipient) => overview(recipient).waiting === 0),

    /** The conversation was deleted: what has not been sent of it never is. What the runner is to know it gets. */
    wipe(): void {
      if (destinations.events !== null) change("DELETE FROM receipts WHERE recipient = 'events'");
    },

    exist: () => tables().exist(),

    forgetTables(): void {
      tables().forget();
      known.clear();
    },
  };
}

/** What tells of results: `requestIds` have just become what `type` says. */
export function resultReceipts(receipts: Receipts, results: Pick<Results, "get">) {
  return (type: ResultReceipt, requestIds: readonly string[]): void => {
    if (!receipts.areWanted) return;
    for (const requestId of requestIds) {
      const row = results.get(requestId);
      if (row !== null) receipts.note(type, dataOf(row));
    }
  };
}

function dataOf({ requestId, status, attempts, receivedAt, settledAt }: ResultRow): ReceiptData {
  const { proof, manner } = howTold(status, attempts);
  return {
    requestId,
    status,
    channel: channelOf(status, attempts),
    ...(proof === undefined ? {} : { proof }),
    ...(manner === undefined ? {} : { manner }),
    attempts: attempts.length,
    receivedAt: new Date(receivedAt).toISOString(),
    ...(settledAt === null ? {} : { settledAt: new Date(settledAt).toISOString() }),
  };
}

/** What tells of sessions: the registration that is current has become another, or none. */
export function sessionReceipts(receipts: Receipts, channels: readonly Channel[], now: () => number) {
  const dataOf = (session: SessionRecord): ReceiptData => ({
    registrationId: session.registrationId,
    channel: session.channel ?? chooseChannel(channels, session)?.name ?? null,
  });
  return (before: SessionRecord | null, after: SessionRecord | null): void => {
    if (!receipts.areWanted) return;
    if (before !== null) {
      const reason = !isLive(before, now()) ? "expired" : after === null ? "ended" : "replaced";
      receipts.note("session.ended", { ...dataOf(before), reason });
    }
    if (after !== null) receipts.note("session.started", dataOf(after));
  };
}
