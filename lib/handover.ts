/**
 * Handing over the backlog: everything that waited is told to the live session as one push, oldest first.
 * An entry leaves the backlog only in the commit that says it was delivered.
 */
import { type CallbackRecord, type CallbackResult, LEASE_SECONDS } from "./callback-store.ts";
import { type Core, commitStubbornly } from "./core.ts";
import { keys } from "./keys.ts";
import { logFailure } from "./log.ts";
import { type ChannelName, chooseChannel, pushWithRetries } from "./push/channel.ts";
import { messageForBacklog } from "./push/message.ts";
import { isLive, type SessionRecord } from "./session-store.ts";
import type { Write } from "./storage/storage.ts";

/** Enough for the fullest backlog and a few storage errors; a bound, so that a handler ends whatever happens. */
const MAX_ROUNDS = 12;
/** How long to wait before looking again, where another is at work or the storage failed. */
const LOOK_AGAIN_MS = 1_000;
/** Results looked at in one round: more than one message has room for, and little enough to read at once. */
const RESULTS_PER_ROUND = 50;

/**
 * Hands over what waits in a conversation, if it has a live session that can be pushed to. Only one handler
 * does so at a time; one that finds another at work, or the storage failing, looks again a moment later.
 * `exceptTo` is a registration that is known not to take it. Never throws: nobody waits for it.
 */
export async function handOverBacklog(conversationId: string, core: Core, exceptTo?: string): Promise<void> {
  const { log, wait } = core;
  let failedFor = exceptTo;
  for (let round = 0; round < MAX_ROUNDS; round++) {
    try {
      const outcome = await handOverRound(conversationId, core, failedFor);
      if (outcome.kind === "over") return;
      if (outcome.kind === "failed") failedFor = outcome.registrationId;
      if (outcome.kind === "held") await wait(LOOK_AGAIN_MS);
    } catch (error) {
      logFailure(log, "backlog hand-over", conversationId, error);
      await wait(LOOK_AGAIN_MS);
    }
  }
}

type Round =
  /** Nothing waits, or nobody is there who could take it. */
  | { kind: "over" }
  /** Another handler is at it. */
  | { kind: "held" }
  /** The session of this registration did not take it; a later one may. */
  | { kind: "failed"; registrationId: string }
  /** As much as goes into one message was handed over; more may wait. */
  | { kind: "handed over" };

async function handOverRound(conversationId: string, core: Core, failedFor?: string): Promise<Round> {
  const { conversations, sessions, storage } = core;
  if ((await conversations.backlog(conversationId)).length === 0) return { kind: "over" };
  const session = await sessions.get(conversationId);
  if (session === null || session.registrationId === failedFor) return { kind: "over" };

  const key = keys.handover(conversationId);
  const holder = crypto.randomUUID();
  if ((await storage.claim(key, holder, LEASE_SECONDS)) !== null) return { kind: "held" };
  try {
    const done = await handOverOnce(conversationId, session, core);
    return done ? { kind: "handed over" } : { kind: "failed", registrationId: session.registrationId };
  } finally {
    await storage.compareAndSet(key, holder, null, null).catch(() => {});
  }
}

/** Returns whether the session took what the message had room for. */
async function handOverOnce(conversationId: string, session: SessionRecord, core: Core): Promise<boolean> {
  const { channels, conversations, callbacks, log, now, wait } = core;
  const channel = chooseChannel(channels, session);
  if (channel === null) return false;

  // Read under the claim: what another handler has handed over in the meantime is not here any more.
  const waiting = await readWaiting(conversationId, core);
  const toTell = waiting.filter((entry) => entry.result !== null);
  const [first, ...rest] = toTell.flatMap(({ result }) => (result === null ? [] : [result]));
  let told = 0;
  if (first !== undefined) {
    const push = messageForBacklog([first, ...rest]);
    const stillLive = () => isLive(session, now());
    const { outcome, attempts } = await pushWithRetries(channel, session, push.message, { stillLive, wait });
    if (!outcome.ok) {
      const closeCode = "closeCode" in outcome ? outcome.closeCode : undefined;
      const { failure } = outcome;
      log.warn("push.failed", { conversationId, channel: channel.name, failure, closeCode, attempts });
      return false;
    }
    told = push.told;
  }

  const settledAt = new Date(now()).toISOString();
  const toldIds = new Set(toTell.slice(0, told).map(({ requestId }) => requestId));
  const writes = waiting.flatMap(({ requestId, record, result }): Write[] => {
    if (result !== null && !toldIds.has(requestId)) return [];
    if (record === null && result === null)
      log.warn("backlog.dropped", { conversationId, callbackRequestId: requestId });
    return [
      conversations.dequeueWrite(conversationId, requestId),
      ...(record === null || result === null
        ? []
        : [callbacks.setWrite(conversationId, delivered(record, channel.name, settledAt))]),
    ];
  });
  await commitStubbornly([...writes, ...conversations.briefActivityWrites(conversationId)], core);
  if (told > 0) log.info("backlog.delivered", { conversationId, channel: channel.name, results: told });
  return true;
}

/** `result` is null where neither the callback's record nor the history still has it. */
type Waiting = { requestId: string; record: CallbackRecord | null; result: CallbackResult | null };

/**
 * What waits, oldest first. A backlog may outlive the records of its callbacks; then the history tells what
 * they brought. What was delivered in the meantime is not told again.
 */
async function readWaiting(conversationId: string, { conversations, callbacks }: Core): Promise<Waiting[]> {
  const requestIds = (await conversations.backlog(conversationId)).slice(0, RESULTS_PER_ROUND);
  const records = await callbacks.getMany(conversationId, requestIds);
  const history = records.includes(null) ? await conversations.messages(conversationId) : [];
  return requestIds.map((requestId, i) => {
    const record = records[i] ?? null;
    if (record !== null)
      return { requestId, record, result: record.status === "delivered" ? null : record.result };
    const message = history.find(({ id }) => id === requestId);
    if (message === undefined) return { requestId, record, result: null };
    const { toolName, content, status } = message;
    const success = status !== "failed";
    return {
      requestId,
      record,
      result: {
        requestId,
        toolName,
        success,
        mode: "speak",
        ...(success ? { output: content } : { error: content }),
      },
    };
  });
}

function delivered(record: CallbackRecord, channel: ChannelName, settledAt: string): CallbackRecord {
  return { ...record, status: "delivered", channel, attempts: record.attempts + 1, settledAt };
}
