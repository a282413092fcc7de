/**
 * The story of a callback, in the order in which it happens: claim its requestId and look for the session,
 * side by side; push the result or keep it; settle everything in one commit.
 *
 * Exactly once while nothing dies: only the holder of the claim pushes, and a settled callback is answered
 * as a duplicate. A handler that dies after its claim leaves a lease that runs out, so that the sender's
 * retry is processed: at least once then.
 */
import * as v from "valibot";
import type { CallbackRecord, CallbackResult } from "./callback-store.ts";
import type { Message } from "./conversation-store.ts";
import { type Core, commitStubbornly } from "./core.ts";
import { InvalidRequestError } from "./errors.ts";
import { handOverBacklog } from "./handover.ts";
import { type JsonObject, jsonObject, jsonValue, validate } from "./json.ts";
import { isConversationId, isRequestId } from "./keys.ts";
import { type ChannelName, chooseChannel, pushWithRetries } from "./push/channel.ts";
import { messageForResult, resultText } from "./push/message.ts";
import { isLive, type SessionRecord } from "./session-store.ts";

const callbackRequestSchema = v.object({
  requestId: v.pipe(
    v.string(),
    v.check(isRequestId, "must be 1 to 128 letters, digits, dots, dashes, underscores or colons"),
  ),
  conversationId: v.optional(
    v.pipe(
      v.string(),
      v.check(isConversationId, "must be 1 to 128 letters, digits, dots, dashes or underscores"),
    ),
  ),
  success: v.optional(v.boolean(), true),
  output: v.optional(jsonValue),
  error: v.optional(jsonValue),
  toolName: v.optional(v.pipe(v.string(), v.maxLength(256, "must be at most 256 characters"))),
  mode: v.optional(v.picklist(["speak", "context"]), "speak"),
  metadata: v.optional(jsonObject),
});

export type Callback = { conversationId: string; result: CallbackResult };

/**
 * Reads a callback from a request body. `conversationId` is the one of the path, where it has one.
 * Throws InvalidRequestError, also where nothing says which conversation the result belongs to.
 */
export function parseCallback(body: JsonObject, pathConversationId?: string): Callback {
  const { conversationId, ...result } = validate(callbackRequestSchema, body);
  if (
    pathConversationId !== undefined &&
    conversationId !== undefined &&
    conversationId !== pathConversationId
  ) {
    throw new InvalidRequestError("The body names another conversation than the path.", [
      { path: "conversationId", message: "must be the conversation of the path" },
    ]);
  }
  const owner = pathConversationId ?? conversationId;
  if (owner === undefined) {
    throw new InvalidRequestError("Nothing says which conversation the result belongs to.", [
      { path: "conversationId", message: "is required" },
    ]);
  }
  return { conversationId: owner, result };
}

/** Why a result waits in the backlog. */
export type QueuedReason = "session_expired" | "session_not_found" | "no_push_channel" | "push_failed";

export type CallbackOutcome =
  | { kind: "delivered"; channel: ChannelName }
  | { kind: "queued"; reason: QueuedReason }
  | { kind: "duplicate"; delivered: boolean; channel?: ChannelName }
  | { kind: "in_progress"; retryAfterSeconds: number };

type Delivery =
  | { delivered: true; channel: ChannelName; attempts: number }
  | { delivered: false; reason: QueuedReason; attempts: number };

/** Processes one callback. Throws StorageError where the result could not be kept; then nothing is acknowledged. */
export async function receiveCallback(
  { conversationId, result }: Callback,
  core: Core,
): Promise<CallbackOutcome> {
  const { sessions, callbacks } = core;
  const log = core.log.with({ conversationId, callbackRequestId: result.requestId });
  log.info("callback.received", { success: result.success, mode: result.mode });

  const reading = sessions.get(conversationId);
  // Its failure is looked at when it is our turn to push, not before.
  reading.catch(() => {});
  const claim = await callbacks.claim(conversationId, result);
  if (claim.kind === "in_progress") return claim;
  if (claim.kind === "settled") {
    log.info("callback.duplicate", { status: claim.record.status });
    return duplicateOf(claim.record);
  }

  let session: SessionRecord | null;
  let delivery: Delivery;
  try {
    session = await reading;
    delivery = await deliver(result, session, { ...core, log }, conversationId);
  } catch (error) {
    // Nothing was pushed, so the sender's retry need not wait for the lease to run out.
    await callbacks.release(conversationId, claim.record).catch(() => {});
    throw error;
  }
  if (!delivery.delivered && core.now() >= Date.parse(claim.record.leaseUntil ?? "")) {
    // We were stalled for so long that the claim may be another's by now; what it settles stands.
    return { kind: "in_progress", retryAfterSeconds: 1 };
  }
  await settle(conversationId, claim.record, delivery, core);
  if (delivery.delivered) {
    log.info("callback.delivered", { channel: delivery.channel, attempts: delivery.attempts });
    return { kind: "delivered", channel: delivery.channel };
  }
  log.warn("callback.queued", { reason: delivery.reason, detail: EXPLANATION[delivery.reason] });
  // A session may have been registered between our look for one and the settlement; it saw an empty backlog
  // then, so it is our turn to hand over.
  core.afterResponse(() => handOverBacklog(conversationId, core, session?.registrationId));
  return { kind: "queued", reason: delivery.reason };
}

const EXPLANATION: Record<QueuedReason, string> = {
  session_expired: "The live session ended before the result came; it waits for the user's return.",
  session_not_found: "The conversation never had a live session; the result waits for one.",
  no_push_channel: "The live session cannot be pushed to; the result waits in the conversation.",
  push_failed: "The live session did not take the result; it waits in the conversation.",
};

async function deliver(
  result: CallbackResult,
  session: SessionRecord | null,
  { channels, conversations, log, now, wait }: Core,
  conversationId: string,
): Promise<Delivery> {
  if (session === null) {
    const conversation = await conversations.get(conversationId);
    const hadSession = conversation?.lastSessionAt !== undefined;
    return { delivered: false, reason: hadSession ? "session_expired" : "session_not_found", attempts: 0 };
  }
  const channel = chooseChannel(channels, session);
  if (channel === null) return { delivered: false, reason: "no_push_channel", attempts: 0 };

  const stillLive = () => isLive(session, now());
  const { outcome, attempts } = await pushWithRetries(channel, session, messageForResult(result), {
    stillLive,
    wait,
  });
  if (outcome.ok) return { delivered: true, channel: channel.name, attempts };
  if (outcome.failure === "expired") return { delivered: false, reason: "session_expired", attempts };
  log.warn("push.failed", {
    channel: channel.name,
    failure: outcome.failure,
    closeCode: outcome.closeCode,
    attempts,
  });
  return { delivered: false, reason: "push_failed", attempts };
}

async function settle(
  conversationId: string,
  claimed: CallbackRecord,
  delivery: Delivery,
  core: Core,
): Promise<void> {
  const { callbacks, conversations, now } = core;
  const { leaseUntil: _, ...record } = claimed;
  const settledAt = new Date(now()).toISOString();
  const message = conversations.messageWrite(conversationId, historyMessage(claimed.result, settledAt));

  if (delivery.delivered) {
    const { channel, attempts } = delivery;
    const [dropped] = await commitStubbornly(
      [
        message,
        callbacks.setWrite(conversationId, { ...record, status: "delivered", channel, attempts, settledAt }),
        ...conversations.briefActivityWrites(conversationId),
      ],
      core,
    );
    conversations.reportDropped(conversationId, "messages.dropped", dropped);
    return;
  }
  const [droppedMessages, droppedBacklog] = await commitStubbornly(
    [
      message,
      conversations.enqueueWrite(conversationId, claimed.result.requestId),
      callbacks.setWrite(conversationId, {
        ...record,
        status: "queued",
        attempts: delivery.attempts,
        settledAt,
      }),
      ...conversations.activityWrites(conversationId),
    ],
    core,
  );
  conversations.reportDropped(conversationId, "messages.dropped", droppedMessages);
  conversations.reportDropped(conversationId, "backlog.dropped", droppedBacklog);
}

/** A result in the history: whole, under its requestId, so that writing it twice leaves one message. */
function historyMessage(result: CallbackResult, timestamp: string): Message {
  return {
    id: result.requestId,
    role: "tool",
    content: resultText(result),
    source: "callback",
    timestamp,
    ...(result.toolName === undefined ? {} : { toolName: result.toolName }),
    // A text is the content already.
    ...(result.output === undefined || typeof result.output === "string"
      ? {}
      : { toolOutput: result.output }),
    status: result.success ? "completed" : "failed",
  };
}

function duplicateOf({ status, channel }: CallbackRecord): CallbackOutcome {
  const delivered = status === "delivered";
  return { kind: "duplicate", delivered, ...(channel === undefined ? {} : { channel }) };
}
