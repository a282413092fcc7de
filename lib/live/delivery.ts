/**
 * The delivery of a conversation's results, in the order in which it happens: a result is taken in (`receive`);
 * the loop looks who is there, says what is due, and writes down what became of it; whoever sent a result and
 * still waits is told. There is one loop in a conversation, so nothing is said twice and nothing overtakes.
 *
 * The loop awaits Redis and the agent, and the world goes on meanwhile. So nothing that was read before an await
 * is relied on after it: `results.say` decides anew, in one transaction, what may still be said.
 */
import { type LogFields, type Logger, logFailure } from "../log.ts";
import { type After, orElse, pause } from "../patience.ts";
import { type Channel, type ChannelName, type Proof, type PushOutcome, pushBy } from "../push/channel.ts";
import { messageOf, messageOfProgress, type Telling } from "../push/message.ts";
import type { Delivery, Progress, Result } from "../result.ts";
import type { SessionRecord } from "../session-store.ts";
import type { SpanAttributes, Trace } from "../trace.ts";
import { type AgentConversation, agentConversationOf, isSame } from "./agent-conversation.ts";
import type { ResultReceipt } from "./receipts.ts";
import {
  channelOf,
  howTold,
  RETRY_MS,
  type ResultRow,
  type ResultStatus,
  type Results,
  type WaitingReason,
} from "./results.ts";
import { LONGEST_HOLD_MS, type Turn } from "./turn.ts";

/** The longest that a sender waits for the outcome of its result, in ms. The loop goes on without it. */
export const SENDER_WAITS_MS = 8_000;

/** A tool call is no agent conversation: what it may have heard is told again to whoever is there. */
const TOOL_CALL: AgentConversation = { agentSessionId: null, urlDigest: null, registrationId: "" };
/** Of how many tasks it is remembered which progress is the newest. */
const MAX_UNDERWAY = 1_000;

/** How a result was told, and what is known of it. */
export type Told = { channel?: ChannelName; proof?: Proof; manner?: Delivery };

/** What the sender of a callback is told. */
export type CallbackAnswer =
  /** Without a channel where the page told it by itself. */
  | ({ kind: "delivered" } & Told)
  | { kind: "queued"; reason: WaitingReason | "pending" }
  /** Settled at once without being said. */
  | { kind: "settled"; status: ResultStatus }
  | ({ kind: "duplicate"; delivered: boolean } & Told)
  /** Nothing but the id of a task says whose it is, and there is no such task. */
  | { kind: "unknown_task" }
  /** The requestId was used before, for another result. */
  | { kind: "reused" }
  /** The conversation was deleted. */
  | { kind: "discarded" };

/** What a span may say of an answer. */
export function outcomeOf(answer: CallbackAnswer): SpanAttributes {
  const { kind: outcome } = answer;
  switch (outcome) {
    case "delivered":
      return { outcome, channel: answer.channel };
    case "queued":
      return { outcome, reason: answer.reason };
    case "settled":
      return { outcome, reason: answer.status };
    default:
      return { outcome };
  }
}

/** Who is there to be told; `hadSession` says whether anybody ever was. */
export type Presence = { session: SessionRecord | null; hadSession: boolean };

/** A result that a page has told, and the how manieth time it was to be said then. */
export type Heard = { requestId: string; again: number };

export type DeliveryLoopOptions = {
  results: Results;
  /** In the order of their precedence. */
  channels: readonly Channel[];
  turn: Turn;
  /** Looks who is there, and brings the history up to date on the way. Never rejects because Redis is down. */
  look: () => Promise<Presence>;
  /** Gives a result to the tool call that waits for it; null where none does. Resolves with what became of it. */
  offer: (result: Result) => Promise<PushOutcome> | null;
  /** Whether a session that was seen a moment ago still counts: it was neither ended nor replaced, and lives. */
  isThere: (session: SessionRecord) => boolean;
  /** The agent conversation of a session is over, as whoever hosts it says. */
  end: (session: SessionRecord) => Promise<void>;
  /** Told what became of results, in the turn in which it was written down. */
  note: (type: ResultReceipt, requestIds: readonly string[]) => void;
  /** Called when the loop rests, for whoever asks when something has to be done next. */
  rested: () => void;
  log: Logger;
  trace: Trace;
  /** The clock, in ms since the epoch. */
  now: () => number;
  after: After;
};

export interface DeliveryLoop {
  /**
   * Takes a result in and resolves with what became of it, after 8 s at the latest. `text` is what the callback says
   * as JSON, without what the ticket of its task adds, which is forgotten sooner; the result of a task that
   * `isCancelled` is kept and not said.
   */
  receive(result: Result, text: string, requestId: string, isCancelled?: boolean): Promise<CallbackAnswer>;
  /** Says how far a task is, if anybody is there now; the newest word counts. Returns whether it is news. */
  progress(progress: Progress): boolean;
  /** Brings the loop to look for what is due. */
  wake(): void;
  /** Resolves when the loop rests. */
  rest(): Promise<void>;
  /** After a restart: what was on its way may have been heard. */
  recover(): void;
  /** Settles what must not be said any more. */
  expire(): void;
  /** Settles what a page says it has told its user. Returns the ids that this settled. */
  acknowledge(requestIds: readonly string[]): string[];
  /** Nobody wants to hear of a result any more. Returns whether it waited. */
  cancel(requestId: string): boolean;
  /**
   * An operator wants results said again, whatever became of them. `onlyFailed`: those that nobody is known to have heard.
   * `settledAt`: those that are settled since then (ms), one for each. Returns the ids of those that wait for it now.
   */
  again(requestIds: readonly string[], onlyFailed: boolean, settledAt?: readonly number[]): string[];
  /** A page says that it has not told its agent these results, and will not. */
  refuse(requestIds: readonly string[], to: AgentConversation): void;
  /** A page says which results it has told in its agent conversation: those, and no others. */
  hear(heard: readonly Heard[], agentSessionId: string): void;
  /** The conversation is gone, which settled these results: tells whoever still waits. */
  discard(requestIds: readonly string[]): void;
}

type Sender = { answered: Promise<CallbackAnswer>; answer: (answer: CallbackAnswer) => void; log: Logger };

export function createDeliveryLoop(options: DeliveryLoopOptions): DeliveryLoop {
  const { results, channels, turn, look, isThere, end, note, trace, now, after } = options;
  const wait = (ms: number) => pause(ms, undefined, after);
  /** Who waits for the outcome of the first telling, by requestId. */
  const senders = new Map<string, Sender>();
  let loop: Promise<void> | null = null;
  let isCalled = false;
  /** The newest progress of each task that is still to be said. */
  const underway = new Map<string, Progress>();
  /** Which progress of a task was taken last, by its id; of so many tasks. */
  const newestSeq = new Map<string, number>();
  /** Since when results have been held back because somebody speaks. */
  let heldSince: number | null = null;

  function expect(requestId: string, log: Logger): Sender {
    const { promise: answered, resolve: answer } = Promise.withResolvers<CallbackAnswer>();
    const sender = { answered, answer, log };
    senders.set(requestId, sender);
    return sender;
  }

  function answerOf({ answered }: Sender): Promise<CallbackAnswer> {
    return orElse(answered, SENDER_WAITS_MS, () => ({ kind: "queued", reason: "pending" }), after);
  }

  function settled(requestIds: readonly string[], answer: CallbackAnswer): void {
    for (const requestId of requestIds) {
      senders.get(requestId)?.answer(answer);
      senders.delete(requestId);
    }
  }

  function logOf(requestId: string): Logger {
    return senders.get(requestId)?.log ?? options.log.with({ callbackRequestId: requestId });
  }

  /**
   * The one line of a result that has been settled, however that came about, so that lines can be counted. What is
   * found out of one that had been given up is another event.
   */
  function logSettled(requestIds: readonly string[], fields: LogFields = {}): void {
    for (const requestId of requestIds) {
      const row = results.get(requestId);
      if (row === null || row.settledAt === null) continue;
      const { status, delivery, attempts, receivedAt, settledAt, givenUp, again } = row;
      const wasCounted = givenUp > (status === "unconfirmed" ? 1 : 0);
      logOf(requestId).info(wasCounted ? "result.corrected" : "result.settled", {
        status,
        channel: channelOf(status, attempts),
        proof: howTold(status, attempts).proof,
        attempts: attempts.length,
        ms: settledAt - receivedAt,
        delivery,
        ...(again === 0 ? {} : { again }),
        ...fields,
      });
    }
  }

  function noteSettled(
    status: "expired" | "superseded" | "dropped" | "cancelled",
    requestIds: readonly string[],
  ): void {
    logSettled(requestIds);
    if (status === "expired" || status === "superseded") note(`result.${status}`, requestIds);
    settled(requestIds, { kind: "settled", status });
  }

  /** Says why results wait, and tells whoever still waits for an answer. */
  function leaveWaiting(
    rows: readonly ResultRow[],
    reason: WaitingReason,
    retry: { failedFor?: string; retryAt?: number } = {},
  ): void {
    const requestIds = rows.map(({ requestId }) => requestId);
    results.excuse(requestIds, reason, retry);
    for (const { requestId, reason: earlier } of rows) {
      if (earlier !== null && !senders.has(requestId)) continue;
      const level = reason === "agent_busy" ? "info" : "warn";
      logOf(requestId)[level]("callback.queued", { reason, detail: EXPLANATION[reason] });
    }
    settled(requestIds, { kind: "queued", reason });
  }

  /** What nobody has been told of yet: neither why it waits, nor what became of it. */
  function awaited(): ResultRow[] {
    const bySeq = new Map(results.unexamined().map((row) => [row.seq, row]));
    for (const requestId of senders.keys()) {
      const row = results.get(requestId);
      if (row !== null && row.settledAt === null && row.status !== "saying") bySeq.set(row.seq, row);
    }
    return [...bySeq.values()];
  }

  /** Tells whoever waits for a result that was settled without the loop. */
  function answerSettled(): void {
    for (const requestId of senders.keys()) {
      const row = results.get(requestId);
      if (row === null) settled([requestId], { kind: "discarded" });
      else if (row.status === "delivered")
        settled([requestId], { kind: "delivered", ...howTold(row.status, row.attempts) });
      else if (row.settledAt !== null) settled([requestId], { kind: "settled", status: row.status });
    }
  }

  function expire(): void {
    noteSettled("expired", results.expire(now()));
  }

  /** One look at who is there, and everything that is due said to them. */
  async function pass(): Promise<void> {
    const { session, hadSession } = await look();
    expire();
    if (session === null) {
      underway.clear();
      return leaveWaiting(awaited(), hadSession ? "session_expired" : "session_not_found");
    }
    const reception = await sayResults(session);
    if (reception === "gone") return wake();
    if (reception === "heard" && underway.size > 0) await sayProgress(session);
    // What could not be said now is old news later.
    else underway.clear();
  }

  /** Says everything that is due. `failed`: the session did not take it. `gone`: it is not there any more. */
  async function sayResults(session: SessionRecord): Promise<"heard" | "failed" | "gone"> {
    const to = await agentConversationOf(session);
    const due = results.due(to, now());
    const held = due.filter(({ delivery }) => delivery === "when_idle" && isHeld());
    hold(held);

    // What this session did not take before goes by itself, behind the others, so that it holds nobody up.
    const isSilent = (row: ResultRow) => row.delivery === "silent";
    for (const isRetry of [false, true]) {
      const rows = due.filter(
        (row) => !held.includes(row) && (row.failedFor === to.registrationId) === isRetry,
      );
      if (rows.length === 0) continue;
      const spoken = rows.filter((row) => !isSilent(row));
      const delivery = spoken.some((row) => row.delivery === "interrupt") ? "interrupt" : "when_idle";
      // An agent that wants no context may well want to speak.
      const receptions = [
        await say(rows.filter(isSilent), "silent", session, to),
        await say(spoken, delivery, session, to),
      ];
      if (receptions.includes("gone")) return "gone";
      if (receptions.includes("failed")) return "failed";
    }
    return "heard";
  }

  /** Says how far tasks are whose results are still to come. Results go first: as soon as one comes, this ends. */
  async function sayProgress(session: SessionRecord): Promise<void> {
    const busyUntil = turn.busyUntil(now());
    for (const [requestId, progress] of underway) {
      if (isCalled || !isThere(session)) return wake();
      if (progress.delivery === "when_idle" && busyUntil !== null) continue;
      underway.delete(requestId);
      const channel = channels.find((candidate) => candidate.accepts(session, progress.delivery));
      if (channel === undefined || results.get(requestId) !== null) continue;
      const { outcome } = await channel.push(session, messageOfProgress(progress, channel));
      options.log.info("task.progress", { callbackRequestId: requestId, channel: channel.name, outcome });
    }
    if (underway.size > 0 && busyUntil !== null) after(Math.max(0, busyUntil - now()), wake);
  }

  /** Whether results that wait for silence must go on waiting. */
  function isHeld(): boolean {
    return turn.busyUntil(now()) !== null && (heldSince === null || now() < heldSince + LONGEST_HOLD_MS);
  }

  function hold(rows: readonly ResultRow[]): void {
    if (rows.length === 0) {
      heldSince = null;
      return;
    }
    heldSince ??= now();
    const retryAt = Math.min(turn.busyUntil(now()) ?? now(), heldSince + LONGEST_HOLD_MS);
    leaveWaiting(rows, "agent_busy", { retryAt });
    after(Math.max(0, retryAt - now()), wake);
  }

  /**
   * Says rows of one kind, in as few messages as they fit into. `failed`: the session did not take them. `gone`: it
   * is not there any more, so somebody has to look again.
   */
  async function say(
    rows: readonly ResultRow[],
    delivery: Delivery,
    session: SessionRecord,
    to: AgentConversation,
  ): Promise<"heard" | "failed" | "gone"> {
    if (rows.length === 0) return "heard";
    const { registrationId } = to;
    const isHere = () => isThere(session);
    const accepting = channels.filter((channel) => channel.accepts(session, delivery));
    for (let rest = rows; rest.length > 0; ) {
      if (!isHere()) return "gone";
      if (accepting.length === 0) {
        leaveWaiting(rest, "no_push_channel", { failedFor: registrationId });
        return "heard";
      }
      const { requestIds, reception } = await sayBy(accepting, rest, delivery, session, to, isHere);
      rest = rest.filter(({ requestId }) => !requestIds.includes(requestId));
      if (reception === "heard") continue;
      // Those behind it were not tried, and are with it.
      if (reception === "failed") leaveWaiting(rest, "push_failed", { retryAt: now() + RETRY_MS[0] });
      return reception;
    }
    return "heard";
  }

  /** Sends one message by the first channel that is reached. Returns whom it told of, and whether it was heard. */
  async function sayBy(
    accepting: readonly Channel[],
    rows: readonly ResultRow[],
    delivery: Delivery,
    session: SessionRecord,
    to: AgentConversation,
    isHere: () => boolean,
  ): Promise<{ requestIds: readonly string[]; reception: "heard" | "failed" | "gone" }> {
    const tellings = rows.flatMap(tellingOf);
    const [first, ...others] = tellings;
    if (first === undefined)
      return { requestIds: rows.map(({ requestId }) => requestId), reception: "heard" };
    let requestIds: readonly string[] = [];
    for (const [i, channel] of accepting.entries()) {
      const whole = messageOf([first, ...others], delivery, channel);
      requestIds = whole.requestIds;
      const saying = results.say(requestIds, channel.name, to, now());
      const [head, ...tail] = tellings.filter(({ result }) => saying.includes(result.requestId));
      // Everything was settled meanwhile.
      if (head === undefined) break;
      const message =
        saying.length === requestIds.length ? whole : messageOf([head, ...tail], delivery, channel);
      const outcome = await traced(saying, channel.name, delivery, () =>
        pushBy(channel, session, message, { now, wait, isThere: isHere }),
      );
      const concluded = results.conclude(saying, outcome, now());
      const isUnreached = outcome.outcome === "unreachable";
      if (isUnreached && !isHere()) return { requestIds, reception: "gone" };
      if (outcome.outcome === "ended") {
        logFailed(concluded, channel.name, outcome);
        // Whatever becomes of its record, it is over here.
        if (isHere()) await end(session).catch((error: unknown) => logFailure(options.log, "ended", error));
        // The registration goes on with another agent conversation, which nothing was tried with.
        else results.excuse(concluded, "session_expired");
        return { requestIds, reception: "gone" };
      }
      const isLast = !isUnreached || i === accepting.length - 1;
      if (concluded.length > 0) noteOutcome(concluded, channel.name, outcome, isLast);
      if (outcome.outcome === "delivered") break;
      if (isLast) return { requestIds, reception: "failed" };
    }
    return { requestIds, reception: "heard" };
  }

  function tellingOf({ text, tellings, again }: ResultRow): Telling[] {
    return text === null ? [] : [{ result: results.parse(text), perhapsHeard: tellings > 0, again }];
  }

  function traced(
    requestIds: readonly string[],
    channel: ChannelName,
    delivery: Delivery | undefined,
    push: () => Promise<PushOutcome>,
  ): Promise<PushOutcome> {
    const [callbackRequestId] = requestIds;
    const attributes = { callbackRequestId, results: requestIds.length, channel, delivery };
    return trace("push", attributes, async (note) => {
      const outcome = await push();
      note(outcome);
      return outcome;
    });
  }

  function logFailed(
    requestIds: readonly string[],
    channel: ChannelName,
    { outcome, ...detail }: PushOutcome,
  ): void {
    options.log.warn("push.failed", { channel, failure: outcome, callbackRequestIds: requestIds, ...detail });
  }

  /** Logs what became of a push, and tells the senders. */
  function noteOutcome(
    requestIds: string[],
    channel: ChannelName,
    pushed: PushOutcome,
    isLast: boolean,
  ): void {
    const { outcome, ...told } = pushed;
    if (outcome === "delivered") {
      logSettled(requestIds);
      note("result.delivered", requestIds);
      settled(requestIds, { kind: "delivered", channel, ...told });
      return;
    }
    logFailed(requestIds, channel, pushed);
    if (outcome === "unconfirmed") noteUnconfirmed(requestIds);
    if (!isLast) return;
    const reason = outcome === "unconfirmed" ? "unconfirmed" : "push_failed";
    for (const requestId of requestIds) {
      if (senders.has(requestId))
        logOf(requestId).warn("callback.queued", { reason, detail: EXPLANATION[reason] });
    }
    settled(requestIds, { kind: "queued", reason });
  }

  /** Some of them have been given up, which settles them. */
  function noteUnconfirmed(requestIds: readonly string[]): void {
    logSettled(requestIds);
    note("result.unconfirmed", requestIds);
  }

  /** The tool call that asked for a result is given it; where that has gone, it is pushed like any other. */
  async function replyBy(requestId: string, told: Promise<PushOutcome>): Promise<void> {
    const saying = results.say([requestId], "reply", TOOL_CALL, now());
    const outcome = await traced(saying, "reply", undefined, () => told);
    const concluded = results.conclude(saying, outcome, now());
    if (concluded.length > 0) noteOutcome(concluded, "reply", outcome, outcome.outcome !== "unreachable");
    wake();
  }

  async function run(): Promise<void> {
    while (isCalled) {
      isCalled = false;
      try {
        await pass();
      } catch (error) {
        // The alarm looks after what is left.
        logFailure(options.log, "delivery", error);
      }
      answerSettled();
    }
    loop = null;
    options.rested();
  }

  function wake(): void {
    isCalled = true;
    loop ??= run();
  }

  function acknowledge(requestIds: readonly string[]): string[] {
    const [callbackRequestId] = requestIds;
    const acknowledged = trace("acknowledge", { callbackRequestId }, (noteOf) => {
      const settledNow = results.acknowledge(requestIds, now());
      noteOf({ results: settledNow.length });
      return settledNow;
    });
    logSettled(acknowledged, { acknowledged: true });
    note("result.delivered", acknowledged);
    answerSettled();
    return acknowledged;
  }

  return {
    receive(result, text, requestId, isCancelled = false) {
      const { requestId: id } = result;
      const log = options.log.with({ callbackRequestId: id, requestId });
      const insertion = results.insert(result, text, now(), isCancelled);
      if (insertion.kind === "reused") return Promise.resolve({ kind: "reused" });
      log.info(insertion.kind === "new" ? "callback.received" : "callback.duplicate", {
        status: insertion.row.status,
        delivery: result.delivery,
      });
      const { row } = insertion;
      if (insertion.kind === "known") {
        const sender = senders.get(id);
        if (sender !== undefined) return answerOf(sender);
        // Its first telling ended with an earlier life of this object, before anybody had looked at it.
        const isUnexamined = row.status === "waiting" && row.reason === null;
        if (!isUnexamined) return Promise.resolve(duplicateOf(row));
      } else {
        noteSettled("superseded", insertion.superseded);
        noteSettled("dropped", insertion.dropped);
        underway.delete(id);
        if (row.status !== "waiting") {
          logSettled([id], { requestId });
          if (row.status === "expired") note("result.expired", [id]);
          wake();
          return Promise.resolve({ kind: "settled", status: row.status });
        }
      }
      const sender = expect(id, log);
      const reply = insertion.kind === "new" ? options.offer(result) : null;
      if (reply !== null) void replyBy(id, reply);
      wake();
      return answerOf(sender);
    },

    progress(progress) {
      const { requestId, seq } = progress;
      if (results.get(requestId) !== null || seq <= (newestSeq.get(requestId) ?? -1)) return false;
      newestSeq.delete(requestId);
      newestSeq.set(requestId, seq);
      const [oldest] = newestSeq.keys();
      if (newestSeq.size > MAX_UNDERWAY && oldest !== undefined) newestSeq.delete(oldest);
      underway.set(requestId, progress);
      wake();
      return true;
    },

    wake,
    rest: async () => {
      while (loop !== null) await loop;
    },
    recover: () => noteUnconfirmed(results.recover(now())),
    expire,

    acknowledge,

    cancel(requestId) {
      const wasWaiting = results.cancel(requestId, now());
      if (wasWaiting) noteSettled("cancelled", [requestId]);
      return wasWaiting;
    },

    again(requestIds, onlyFailed, settledAt) {
      const before = new Map(requestIds.map((requestId) => [requestId, results.get(requestId)?.status]));
      const waiting = results.again(requestIds, onlyFailed, now(), settledAt);
      for (const requestId of waiting) {
        logOf(requestId).info("result.again", { status: before.get(requestId) ?? null });
      }
      if (waiting.length > 0) wake();
      return waiting;
    },

    refuse(requestIds, to) {
      const isToldHere = ({ sayingTo, toldTo }: ResultRow) => {
        const told = sayingTo ?? toldTo;
        return told !== null && isSame(told, to);
      };
      const refused = results.disprove(
        (row) => requestIds.includes(row.requestId) && isByRelay(row) && isToldHere(row),
        "refused",
        { failedFor: to.registrationId, retryAt: now() + RETRY_MS[0] },
      );
      if (refused.length > 0) noteOutcome(refused, "relay", { outcome: "refused" }, true);
    },

    hear(heard, agentSessionId) {
      const isOfNow = ({ requestId, again }: Heard) => results.get(requestId)?.again === again;
      acknowledge(heard.filter(isOfNow).map(({ requestId }) => requestId));
      // Where it was told by the same page and is not in its list, it was lost on the way.
      results.disprove(
        (row) => isByRelay(row) && (row.sayingTo ?? row.toldTo)?.agentSessionId === agentSessionId,
        "unreachable",
      );
    },

    discard(requestIds) {
      logSettled(requestIds, { reason: "conversation_deleted" });
      settled([...senders.keys()], { kind: "discarded" });
    },
  };
}

const EXPLANATION: Record<WaitingReason, string> = {
  session_expired: "The live session ended before the result came; it waits for the user's return.",
  session_not_found: "The conversation never had a live session; the result waits for one.",
  no_push_channel: "The live session cannot be pushed to; the result waits in the conversation.",
  push_failed: "The live session did not take the result; it waits in the conversation.",
  unconfirmed:
    "The live session was told and did not confirm it; it is told once more in the next conversation.",
  agent_busy: "Somebody is speaking; the result is said when the turn ends.",
};

function isByRelay({ attempts }: ResultRow): boolean {
  return attempts.at(-1)?.channel === "relay";
}

function duplicateOf(row: ResultRow): CallbackAnswer {
  const delivered = row.status === "delivered";
  return { kind: "duplicate", delivered, ...howTold(row.status, row.attempts) };
}
