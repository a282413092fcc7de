/**
 * What the routes answer, as schemas: their handlers' types and `openapi.json` follow from them. Handlers import the
 * types alone, so the Worker carries none of it.
 */
import * as v from "valibot";
import { sessionStateSchema } from "../lib/assistant-session.ts";
import { conversationRecordSchema, storedMessageSchema } from "../lib/conversation-store.ts";
import { isoTimestamp, jsonObject } from "../lib/json.ts";
import { CONNECTION_EVENTS } from "../lib/live/connections.ts";
import { RESULT_STATUSES } from "../lib/live/results.ts";
import { PROOFS } from "../lib/push/channel.ts";
import { deliverySchema } from "../lib/result.ts";
import { providerSchema, transportSchema } from "../lib/session-store.ts";
import { onHangupSchema } from "../lib/task.ts";

const success = v.literal(true);
const conversationId = v.string();
const wholeNumber = v.pipe(v.number(), v.integer(), v.minValue(0));
/** Which there are is said in openapi.json alone: clients take what a later version may add. */
export const channel = v.string();
const proof = v.picklist(PROOFS);
/** How it was told: what is known of it, and the manner where the channel could not do as was asked. */
const told = {
  channel: v.optional(channel),
  proof: v.optional(proof),
  manner: v.optional(deliverySchema),
};

/* Conversations */

/** Fields that a later version has stored are shown too, as in a message and a memory. */
export const conversationAnswer = v.looseObject(v.omit(conversationRecordSchema, ["deletedAt"]).entries);

export const messageAnswer = v.looseObject({ ...storedMessageSchema.entries, content: v.string() });

/** The token is left out where nothing signs it. */
const token = { token: v.optional(v.string()), tokenExpiresAt: v.optional(isoTimestamp) };

export const createdAnswer = v.object({
  success,
  conversationId,
  conversation: conversationAnswer,
  ...token,
});
export type CreatedAnswer = v.InferOutput<typeof createdAnswer>;

export const tokenAnswer = v.object({ success, conversationId, ...token });
export type TokenAnswer = v.InferOutput<typeof tokenAnswer>;

export const conversationListAnswer = v.object({
  conversations: v.array(conversationAnswer),
  nextCursor: v.optional(v.string()),
});
export type ConversationListAnswer = v.InferOutput<typeof conversationListAnswer>;

export const historyAnswer = v.looseObject({
  ...conversationAnswer.entries,
  messages: v.array(messageAnswer),
  nextBefore: v.optional(v.string()),
});
export type HistoryAnswer = v.InferOutput<typeof historyAnswer>;

export const messageStoredAnswer = v.object({ success, message: messageAnswer });
export type MessageStoredAnswer = v.InferOutput<typeof messageStoredAnswer>;

export const deletedAnswer = v.object({ success, deleted: v.boolean() });
export type DeletedAnswer = v.InferOutput<typeof deletedAnswer>;

/* Sessions */

export const registeredAnswer = v.object({
  success,
  message: v.literal("Session registered"),
  conversationId,
  registrationId: v.string(),
  ttl: v.literal(600),
  expiresAt: isoTimestamp,
});
export type RegisteredAnswer = v.InferOutput<typeof registeredAnswer>;

export const sessionAnswer = v.object({
  active: v.literal(true),
  conversationId,
  registrationId: v.string(),
  createdAt: isoTimestamp,
  expiresAt: isoTimestamp,
  ttl: wholeNumber,
  provider: v.optional(providerSchema),
  transport: v.optional(transportSchema),
  agentSessionId: v.optional(v.string()),
  channel: v.nullable(channel),
});
export type SessionAnswer = v.InferOutput<typeof sessionAnswer>;

export const signedUrlAnswer = v.object({ signedUrl: v.string(), expiresAt: isoTimestamp });
export type SignedUrlAnswer = v.InferOutput<typeof signedUrlAnswer>;

/* Results and tasks */

const attempt = v.object({
  at: isoTimestamp,
  channel,
  outcome: v.picklist(["pending", "delivered", "unreachable", "refused", "ended", "unconfirmed"]),
  closeCode: v.optional(v.number()),
  httpStatus: v.optional(v.number()),
  proof: v.optional(proof),
  manner: v.optional(deliverySchema),
});

export const resultAnswer = v.object({
  requestId: v.string(),
  status: v.picklist(RESULT_STATUSES),
  delivery: deliverySchema,
  ...told,
  receivedAt: isoTimestamp,
  settledAt: v.optional(isoTimestamp),
  attempts: v.array(attempt),
  content: v.optional(v.unknown()),
});
export const resultListAnswer = v.object({
  results: v.array(resultAnswer),
  nextBefore: v.optional(v.string()),
});
export type ResultListAnswer = v.InferOutput<typeof resultListAnswer>;

export const acknowledgedAnswer = v.object({ success, acknowledged: v.array(v.string()) });
export type AcknowledgedAnswer = v.InferOutput<typeof acknowledgedAnswer>;

export const againAnswer = v.object({ success, again: v.array(v.string()) });
export type AgainAnswer = v.InferOutput<typeof againAnswer>;

export const connectionAnswer = v.object({
  at: isoTimestamp,
  event: v.picklist(CONNECTION_EVENTS),
  registrationId: v.string(),
  channel: v.optional(v.nullable(v.string())),
  agentSessionId: v.optional(v.string()),
});
export const connectionListAnswer = v.object({ connections: v.array(connectionAnswer) });
export type ConnectionListAnswer = v.InferOutput<typeof connectionListAnswer>;

export const taskAnswer = v.object({
  taskId: v.string(),
  tool: v.string(),
  status: v.picklist(["processing", "failed", "done", "cancelled", "expired"]),
  onHangup: onHangupSchema,
  createdAt: isoTimestamp,
  deadline: isoTimestamp,
  deliverBy: v.optional(isoTimestamp),
  topic: v.optional(v.string()),
  overAt: v.optional(isoTimestamp),
  progress: v.optional(v.object({ seq: wholeNumber, text: v.string(), at: isoTimestamp })),
});
export const taskListAnswer = v.object({
  tasks: v.array(taskAnswer),
  nextBefore: v.optional(v.string()),
});
export type TaskListAnswer = v.InferOutput<typeof taskListAnswer>;

export const taskCancelledAnswer = v.object({ success, cancelled: v.boolean() });
export type TaskCancelledAnswer = v.InferOutput<typeof taskCancelledAnswer>;

/* Callbacks */

const received = v.literal(true);
const notDelivered = v.literal(false);

/** Without a channel where the page has told it by itself meanwhile. */
export const deliveredAnswer = v.object({
  received,
  delivered: v.literal(true),
  status: v.literal("delivered"),
  ...told,
});
export const duplicateAnswer = v.object({
  received,
  delivered: v.boolean(),
  status: v.literal("duplicate"),
  ...told,
});
export const notSaidAnswer = v.object({
  received,
  delivered: notDelivered,
  status: v.picklist([
    "expired",
    "superseded",
    "dropped",
    "cancelled",
    "unconfirmed",
    "discarded",
    "ignored",
  ]),
});
export const queuedAnswer = v.object({
  received,
  delivered: notDelivered,
  status: v.literal("queued"),
  reason: v.picklist([
    "session_expired",
    "session_not_found",
    "no_push_channel",
    "push_failed",
    "unconfirmed",
    "agent_busy",
    "pending",
  ]),
});
export const progressAnswer = v.object({
  received,
  delivered: notDelivered,
  status: v.literal("progress"),
});
export const reportAnswer = v.object({
  received,
  status: v.picklist(["appended", "acknowledged", "discarded"]),
});
export type ReportAnswer = v.InferOutput<typeof reportAnswer>;
export type NotSaidStatus = v.InferOutput<typeof notSaidAnswer>["status"];

export const callbackAnswer = v.union([deliveredAnswer, duplicateAnswer, notSaidAnswer, reportAnswer]);
export const keptAnswer = v.union([queuedAnswer, progressAnswer]);
export type SettledCallbackAnswer = v.InferOutput<typeof callbackAnswer>;
export type KeptCallbackAnswer = v.InferOutput<typeof keptAnswer>;

/* Tools of the agent */

export const toolStartedAnswer = v.object({
  ok: v.literal(true),
  say: v.string(),
  result: v.object({ requestId: v.string(), status: v.literal("processing") }),
});
export const toolDoneAnswer = v.object({
  ok: v.boolean(),
  say: v.string(),
  result: v.object({
    requestId: v.string(),
    status: v.literal("completed"),
    success: v.boolean(),
    output: v.optional(v.unknown()),
    error: v.optional(v.unknown()),
  }),
});
export const toolRefusedAnswer = v.object({
  ok: v.literal(false),
  say: v.string(),
  code: v.picklist([
    "feature_disabled",
    "invalid_request",
    "payload_too_large",
    "conversation_not_found",
    "runner_unavailable",
    "storage_unavailable",
    "rate_limited",
    "internal_error",
  ]),
});
export const toolAnswer = v.union([toolStartedAnswer, toolDoneAnswer, toolRefusedAnswer]);
export type ToolAnswerBody = v.InferOutput<typeof toolAnswer>;

/* State and memory */

export const stateAnswer = jsonObject;

const { lastImageUrl, ...always } = sessionStateSchema.entries;
const alwaysThere = Object.fromEntries(
  Object.entries(always).map(([name, field]) => [name, "wrapped" in field ? field.wrapped : field]),
);
export const memoryAnswer = v.looseObject({ ...alwaysThere, lastImageUrl });

export const touchedAnswer = v.object({ success, ttl: wholeNumber });
export type TouchedAnswer = v.InferOutput<typeof touchedAnswer>;

/* Of all conversations */

const { content: _, ...ofResult } = resultAnswer.entries;

export const settledAnswer = v.object({
  ...ofResult,
  id: v.string(),
  conversationId,
  settledAt: isoTimestamp,
});
export const settledListAnswer = v.object({
  results: v.array(settledAnswer),
  nextBefore: v.optional(v.string()),
});
export type SettledListAnswer = v.InferOutput<typeof settledListAnswer>;

const openCounts = { waiting: wholeNumber, unconfirmed: wholeNumber };

export const waitingAnswer = v.object({
  conversationId,
  lastActivityAt: isoTimestamp,
  ...openCounts,
  results: v.array(resultAnswer),
});
export const waitingListAnswer = v.object({
  conversations: v.array(waitingAnswer),
  /** How many conversations' objects did not answer. */
  unanswered: wholeNumber,
  nextCursor: v.optional(v.string()),
});
export type WaitingListAnswer = v.InferOutput<typeof waitingListAnswer>;

export const liveSessionAnswer = v.object({
  ...v.omit(sessionAnswer, ["active"]).entries,
  lastActivityAt: isoTimestamp,
  /** Left out where the conversation's object did not answer. */
  ...v.partial(v.object(openCounts)).entries,
});
export const liveSessionListAnswer = v.object({
  sessions: v.array(liveSessionAnswer),
  nextCursor: v.optional(v.string()),
});
export type LiveSessionListAnswer = v.InferOutput<typeof liveSessionListAnswer>;

export const ratesAnswer = v.object({
  minutes: v.array(
    v.object({ at: isoTimestamp, delivered: wholeNumber, failed: wholeNumber, other: wholeNumber }),
  ),
  isPartial: v.boolean(),
});
export type RatesAnswer = v.InferOutput<typeof ratesAnswer>;

export const outageListAnswer = v.object({
  outages: v.array(v.object({ driver: v.string(), startedAt: isoTimestamp, endedAt: isoTimestamp })),
});
export type OutageListAnswer = v.InferOutput<typeof outageListAnswer>;

export const allAgainAnswer = v.object({
  success,
  again: wholeNumber,
  unanswered: wholeNumber,
  nextCursor: v.optional(v.string()),
});
export type AllAgainAnswer = v.InferOutput<typeof allAgainAnswer>;

/* Health */

const storageHealth = {
  connected: v.boolean(),
  latencyMs: v.number(),
  usingFallback: v.boolean(),
  lastError: v.optional(v.string()),
};
export const healthAnswer = v.object({
  status: v.picklist(["ok", "degraded"]),
  storage: v.object(storageHealth),
});
export const unavailableAnswer = v.object({
  status: v.literal("unavailable"),
  storage: v.object(storageHealth),
});
export type HealthAnswer = v.InferOutput<typeof healthAnswer> | v.InferOutput<typeof unavailableAnswer>;

export const configProblem = v.object({ variable: v.string(), message: v.string() });
const problems = v.array(configProblem);

export const configAnswer = v.object({
  version: v.string(),
  features: v.object({
    agent: v.boolean(),
    auth: v.boolean(),
    monitor: v.boolean(),
    runner: v.boolean(),
    events: v.boolean(),
    rateLimits: v.boolean(),
  }),
  storage: v.picklist(["upstash", "embedded"]),
  channels: v.array(channel),
  providers: v.array(
    v.object({
      name: providerSchema,
      manners: v.object({ when_idle: deliverySchema, interrupt: deliverySchema, silent: deliverySchema }),
      proof,
      dedupes: v.boolean(),
    }),
  ),
  ttlSeconds: v.object({
    session: v.literal(600),
    conversation: v.nullable(v.number()),
    state: v.number(),
  }),
  problems,
});
export type ConfigAnswer = v.InferOutput<typeof configAnswer>;
export const wrongConfigAnswer = v.object({ version: v.string(), problems });
export type WrongConfigAnswer = v.InferOutput<typeof wrongConfigAnswer>;

export const completeAnswer = v.object({ status: v.literal("ok"), problems });
export type CompleteAnswer = v.InferOutput<typeof completeAnswer>;
export const incompleteAnswer = v.object({ status: v.literal("misconfigured"), problems });
export type IncompleteAnswer = v.InferOutput<typeof incompleteAnswer>;

/* Problems */

/** RFC 9457, and what this service adds. */
export const problemAnswer = v.object({
  type: v.literal("about:blank"),
  title: v.string(),
  status: v.pipe(v.number(), v.integer()),
  detail: v.string(),
  code: v.string(),
  requestId: v.string(),
  errors: v.optional(v.array(v.object({ path: v.string(), message: v.string() }))),
  success: v.literal(false),
});
export type ProblemAnswer = v.InferOutput<typeof problemAnswer>;
