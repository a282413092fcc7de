/**
 * Handing over the backlog: everything that waited is told to the live session as one push, oldest first.
 * An entry leaves the backlog only in the commit that says it was delivered.
 */
import { type CallbackRecord, type CallbackResult, LEASE_SECONDS } from "./callback-store.ts";
import type { Core } from "./core.ts";
import { keys } from "./keys.ts";
import { type ChannelName, chooseChannel, pushWithRetries } from "./push/channel.ts";
import { messageForBacklog } from "./push/message.ts";
import { isLive, type SessionRecord } from "./session-store.ts";
import type { Write } from "./storage/storage.ts";

/** Enough for any real sequence of reconnects; a bound, so that a handler ends whatever happens. */
const MAX_ROUNDS = 10;

/**
 * Hands over what waits in a conversation, if it has a live session that can be pushed to. Only one handler
 * does so at a time. One that finds another at work leaves: the other looks again after it has let go, so
 * that a session registered meanwhile is served too. Never throws: whoever registered has been answered.
 */
export async function handOverBacklog(conversationId: string, core: Core): Promise<void> {
  const { conversations, sessions, storage, log } = core;
  const holder = crypto.randomUUID();
  let tried: SessionRecord["registrationId"] | undefined;
  try {
    for (let round = 0; round < MAX_ROUNDS; round++) {
      const requestIds = await conversations.backlog(conversationId);
      if (requestIds.length === 0) return;
      const session = await sessions.get(conversationId);
      if (session === null || session.registrationId === tried) return;

      const key = keys.handover(conversationId);
      if ((await storage.claim(key, holder, LEASE_SECONDS)) !== null) return;
      try {
        const done = await handOverOnce(conversationId, requestIds, session, core);
        tried = done ? undefined : session.registrationId;
      } finally {
        await storage.compareAndSet(key, holder, null, null);
      }
    }
  } catch (error) {
    log.error("request.failed", {
      conversationId,
      operation: "backlog hand-over",
      error: error instanceof Error ? error.name : typeof error,
    });
  }
}

/** Returns whether the backlog was handed over. */
async function handOverOnce(
  conversationId: string,
  requestIds: readonly string[],
  session: SessionRecord,
  core: Core,
): Promise<boolean> {
  const { channels, conversations, storage, callbacks, log, now, wait } = core;
  const channel = chooseChannel(channels, session);
  if (channel === null) return false;

  const waiting = await readWaiting(conversationId, requestIds, core);
  const results = waiting.flatMap(({ result }) => (result === null ? [] : [result]));
  const [first, ...rest] = results;
  if (first !== undefined) {
    const message = messageForBacklog([first, ...rest]);
    const stillLive = () => isLive(session, now());
    const { outcome, attempts } = await pushWithRetries(channel, session, message, { stillLive, wait });
    if (!outcome.ok) {
      const closeCode = "closeCode" in outcome ? outcome.closeCode : undefined;
      log.warn("push.failed", {
        conversationId,
        channel: channel.name,
        failure: outcome.failure,
        closeCode,
        attempts,
      });
      return false;
    }
  }

  const settledAt = new Date(now()).toISOString();
  const writes = waiting.flatMap(({ requestId, record }): Write[] => [
    conversations.dequeueWrite(conversationId, requestId),
    ...(record === null
      ? []
      : [callbacks.setWrite(conversationId, delivered(record, channel.name, settledAt))]),
  ]);
  await storage.commit([...writes, ...conversations.briefActivityWrites(conversationId)]);
  if (first !== undefined) {
    log.info("backlog.delivered", { conversationId, channel: channel.name, results: results.length });
  }
  return true;
}

/** `result` is null where neither the callback's record nor the history still has it. */
type Waiting = { requestId: string; record: CallbackRecord | null; result: CallbackResult | null };

/**
 * What waits, oldest first. A backlog may outlive the records of its callbacks; then the history tells what
 * they brought. What was delivered in the meantime is not told again.
 */
async function readWaiting(
  conversationId: string,
  requestIds: readonly string[],
  { conversations, callbacks }: Core,
): Promise<Waiting[]> {
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
