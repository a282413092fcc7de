/** The schemas that have a name in the document, and what is said of them and of their fields. */
import * as v from "valibot";
import * as answers from "../functions/answers.ts";
import { acknowledgementSchema } from "../functions/results.ts";
import { tokenRequestSchema } from "../lib/agent-conversations.ts";
import { sessionChangesSchema, sessionStateSchema } from "../lib/assistant-session.ts";
import { newConversationSchema, newMessageSchema } from "../lib/conversation-store.ts";
import { jsonObject } from "../lib/json.ts";
import { CALL_ID } from "../lib/keys.ts";
import type { Provider } from "../lib/push/provider.ts";
import { PROVIDER_NAMES, PROVIDERS } from "../lib/push/providers.ts";
import { callbackSchema, progressSchema } from "../lib/result.ts";
import { registrationRequestSchema, renewalSchema } from "../lib/session-store.ts";
import { allAgainSchema } from "../lib/settled-results.ts";
import { toolCallSchema } from "../lib/task.ts";
import { type JsonSchema, namedSchemas } from "./schemas.ts";

/** What ElevenLabs reports; of a transcript more is asked, which is its own affair. */
const reportSchema = v.looseObject({ type: v.string(), data: jsonObject });

export const NAMED = {
  NewConversation: v.object({ ...newConversationSchema.entries, ...tokenRequestSchema.entries }),
  TokenRequest: tokenRequestSchema,
  NewMessage: newMessageSchema,
  Registration: registrationRequestSchema,
  Renewal: renewalSchema,
  Acknowledgement: acknowledgementSchema,
  Callback: callbackSchema,
  Progress: progressSchema,
  Report: reportSchema,
  ToolCall: toolCallSchema,
  State: answers.stateAnswer,
  NewMemory: sessionStateSchema,
  MemoryChanges: sessionChangesSchema,
  Memory: answers.memoryAnswer,
  Conversation: answers.conversationAnswer,
  Message: answers.messageAnswer,
  ConversationCreated: answers.createdAnswer,
  TokenIssued: answers.tokenAnswer,
  ConversationList: answers.conversationListAnswer,
  History: answers.historyAnswer,
  MessageStored: answers.messageStoredAnswer,
  Deleted: answers.deletedAnswer,
  SessionRegistered: answers.registeredAnswer,
  Session: answers.sessionAnswer,
  SignedUrl: answers.signedUrlAnswer,
  Result: answers.resultAnswer,
  ResultList: answers.resultListAnswer,
  Acknowledged: answers.acknowledgedAnswer,
  Again: answers.againAnswer,
  Connection: answers.connectionAnswer,
  ConnectionList: answers.connectionListAnswer,
  SettledResult: answers.settledAnswer,
  SettledResultList: answers.settledListAnswer,
  Waiting: answers.waitingAnswer,
  WaitingList: answers.waitingListAnswer,
  LiveSession: answers.liveSessionAnswer,
  LiveSessionList: answers.liveSessionListAnswer,
  Rates: answers.ratesAnswer,
  OutageList: answers.outageListAnswer,
  EverythingAgain: allAgainSchema,
  EverythingIsAgain: answers.allAgainAnswer,
  Task: answers.taskAnswer,
  TaskList: answers.taskListAnswer,
  TaskCancelled: answers.taskCancelledAnswer,
  Delivered: answers.deliveredAnswer,
  Duplicate: answers.duplicateAnswer,
  NotSaid: answers.notSaidAnswer,
  Queued: answers.queuedAnswer,
  ProgressTaken: answers.progressAnswer,
  ReportTaken: answers.reportAnswer,
  ToolStarted: answers.toolStartedAnswer,
  ToolDone: answers.toolDoneAnswer,
  ToolRefused: answers.toolRefusedAnswer,
  Touched: answers.touchedAnswer,
  Health: answers.healthAnswer,
  Unavailable: answers.unavailableAnswer,
  ConfigProblem: answers.configProblem,
  Config: answers.configAnswer,
  WrongConfig: answers.wrongConfigAnswer,
  ConfigComplete: answers.completeAnswer,
  ConfigIncomplete: answers.incompleteAnswer,
  Problem: answers.problemAnswer,
} as const;

type Name = keyof typeof NAMED;

const CURSOR = "Where the next page begins; left out on the last one.";
const CHANNEL = "How the live session is told.";

/** By the name of a schema: what it is, under "", and what its fields are. */
const SAID: { [N in Name]?: { [field: string]: string } } = {
  NewConversation: {
    agentId: "The agent that the conversation is with; kept, never acted on.",
    metadata: "Kept as it is.",
    agentSessionId: "The provider's id of the running conversation, which the token then vouches for.",
  },
  TokenRequest: {
    agentSessionId: "The provider's id of the running conversation, which the token then vouches for.",
  },
  NewMessage: {
    id: "Makes a repeated request harmless.",
    role: "A conversation token writes user and agent only.",
    source: "With a conversation token always page.",
    timestamp: "The time of arrival, where it is left out.",
  },
  Registration: {
    "": "The live session of a page. Fields of its own are kept. Without sessionPayload the whole body is the raw payload.",
    provider:
      "Who hosts the agent. With any other than elevenlabs agentSessionId is required, and a page's word counts only with a token that names the same.",
    controlUrl: "Where a call of Vapi takes commands.",
    sessionUrl:
      "The conversation URL, whole, with its token. May be left out for webrtc, and with another provider than ElevenLabs.",
    sessionPayload: "The session as the SDK made it. Stored as it came; never shown.",
    expiresAt: "A note of the sender; kept, never acted on.",
    agentSessionId: "The provider's id of the running conversation.",
  },
  Renewal: {
    "": "Makes a registration live another 600 s.",
    registrationId: "The current registration's.",
    agentSessionId: "The provider's id of the running conversation, if it has been learned since.",
  },
  Acknowledgement: { requestIds: "Of which results, at most 200." },
  Callback: {
    "": "The result of a task.",
    requestId: "Identifies the result: what comes again under it is a duplicate. Of a task, its taskId.",
    conversationId:
      "Whose it is; may be left out where the path or a taskId says so, and the body is not signed.",
    success: "Whether the task went well.",
    output: "What came of it.",
    error: "Why it failed.",
    delivery: "When it is said: when nobody is speaking (when_idle), at once, or as context only.",
    mode: "The earlier name of delivery: speak is when_idle, context is silent.",
    deliverBy: "Not said after this moment.",
    topic: "A newer result of the same topic takes the place of one that still waits.",
  },
  Progress: { "": "How far a task is; the result is still to come.", requestId: "The taskId." },
  Report: { "": "What ElevenLabs sends when a conversation is over, with its own signature." },
  ToolCall: {
    "": "What the agent asks for. One of tool and tool_name must be there.",
    tool_name: "Stands for tool.",
    tool_args: "Stands for args.",
    args: "Handed to the runner as they are.",
    conversation_id: "The provider's id of the agent conversation.",
    system__conversation_id: "Stands for conversation_id; also taken as a header of this name.",
    conversationId: "Ours, for agents that know it.",
    deliverBy: "The result is not said after this moment.",
    topic: "Of the result: a newer one takes the place of one that still waits.",
    onHangup: "What becomes of the work when everybody has gone.",
  },
  State: { "": "Any JSON object. It comes back as it was written." },
  NewMemory: { "": "Fields that are not named here are kept as well." },
  MemoryChanges: { "": "The top-level fields to replace. Fields that are not named here are kept as well." },
  Memory: { price: "In whatever currency the assistant speaks of." },
  Conversation: { createdAt: "ISO 8601." },
  Message: {
    id: "Of a result: callback: and its requestId.",
    content: "The text. Of a result that is no text, its JSON.",
    toolOutput: "The output of a result that is no text, as it came.",
  },
  TokenIssued: { token: "A JWT for this conversation." },
  ConversationCreated: { token: "Left out where no SESSION_TOKEN_SECRET is configured." },
  ConversationList: { nextCursor: CURSOR },
  History: {
    messages: "Oldest first.",
    nextBefore: "Where older messages begin; left out where there are none.",
  },
  SessionRegistered: { ttl: "Seconds." },
  Session: { ttl: "Seconds that are left.", channel: `${CHANNEL} Null where it cannot be.` },
  SignedUrl: {
    signedUrl: "Opens one conversation with the agent.",
    expiresAt: "A conversation that has begun outlives it.",
  },
  Result: {
    channel: "How it was said.",
    settledAt: "Since when nothing more will happen to it.",
    attempts: "The newest twenty.",
    content: "With content=true: the result as it came in.",
  },
  ResultList: { results: "Newest first.", nextBefore: CURSOR },
  Acknowledged: { acknowledged: "Those that this has settled." },
  Again: { again: "Those that wait for it now. What is being said is not among them." },
  Connection: {
    event: "replaced: by the registration after it. expired: its 600 s were over.",
    channel: "Of a connection to the edge; null where that was lost.",
  },
  ConnectionList: { connections: "The newest fifty, newest first." },
  SettledResult: { id: "Names the entry in the log." },
  SettledResultList: {
    "": "At most 2,000 entries are looked through: a page may hold few, or none, and others come after it.",
    results: "Settled last first.",
    nextBefore: CURSOR,
  },
  Waiting: {
    waiting: "How many wait or are being said.",
    unconfirmed: "How many may have been heard.",
    results: "The newest twenty.",
  },
  WaitingList: { nextCursor: CURSOR, unanswered: "Of how many conversations it is not known what waits." },
  LiveSession: {
    ttl: "Seconds that are left.",
    channel: `${CHANNEL} Null where it cannot be.`,
    waiting: "How many wait or are being said.",
    unconfirmed: "How many may have been heard.",
  },
  LiveSessionList: { nextCursor: CURSOR },
  Rates: {
    minutes: "At most sixty, oldest first.",
    isPartial: "There were more than can be looked through; the minutes begin later.",
  },
  OutageList: { outages: "Those that are over, newest first." },
  EverythingAgain: { since: "From when on.", cursor: "The nextCursor of the answer before." },
  EverythingIsAgain: {
    again: "How many wait for it now.",
    unanswered: "Of how many conversations it is not known.",
    nextCursor: "There are more: where to go on.",
  },
  Task: {
    taskId: "The requestId of its result.",
    deadline: "By then its result must have come.",
    overAt: "Since when it is not processing any more.",
    progress: "The newest that was told.",
  },
  TaskList: { tasks: "Newest first.", nextBefore: CURSOR },
  TaskCancelled: { cancelled: "Whether its result was still to come." },
  Delivered: {
    "": "The live session read it.",
    channel: "Left out where the page has told it by itself meanwhile.",
  },
  Duplicate: { "": "This requestId came before.", delivered: "How it stands." },
  NotSaid: {
    "": "Too late, replaced, cancelled, or of a conversation that was deleted; progress that is no news.",
  },
  Queued: { "": "Kept; said as soon as it can be." },
  ProgressTaken: { "": "It is news, and is said if anybody is there." },
  ReportTaken: {
    "": "appended: a transcript stands in the history. acknowledged: nothing was to be done. discarded: the conversation was deleted.",
  },
  ToolStarted: { say: "Words for the agent to speak." },
  ToolDone: { "": "With wait: the result came in time.", say: "Words for the agent to speak." },
  ToolRefused: { "": "Nothing was started.", say: "Words for the agent to speak." },
  Touched: { ttl: "Seconds that it now has left." },
  Health: { "": "degraded: Redis is down, and the objects stand in for it." },
  Config: { "": "Names of variables, never their values." },
  ConfigProblem: { variable: "Its name." },
  Problem: {
    "": "RFC 9457 problem details.",
    code: "Stable; what to decide by.",
    detail: "For people. May change.",
    requestId: "As in x-request-id.",
    errors: "What is wrong, by its dotted path. Never what was sent.",
  },
};

/** What names a call of a provider, of those that there are. */
function callsOf(isOne: (provider: Provider) => boolean, further: readonly string[]): JsonSchema {
  return {
    required: ["provider", "agentSessionId", ...further],
    properties: {
      provider: { enum: PROVIDER_NAMES.filter((name) => isOne(PROVIDERS[name])) },
      agentSessionId: { type: "string", pattern: CALL_ID.source },
      ...Object.fromEntries(further.map((field) => [field, { type: "string" }])),
    },
  };
}

/** What valibot cannot say of one field by itself. */
const BETWEEN_FIELDS: { [N in Name]?: JsonSchema } = {
  Registration: {
    anyOf: [
      { required: ["sessionUrl"], properties: { sessionUrl: { type: "string" } } },
      { required: ["transport"], properties: { transport: { const: "webrtc" } } },
      callsOf((provider) => provider.controlUrlOf === undefined, []),
      callsOf((provider) => provider.controlUrlOf !== undefined, ["controlUrl"]),
    ],
  },
  ToolCall: {
    anyOf: [
      { required: ["tool"], properties: { tool: { type: "string" } } },
      { required: ["tool_name"], properties: { tool_name: { type: "string" } } },
    ],
  },
};

/** `components.schemas`. Throws where a field is spoken of that does not exist. */
export function componentSchemas(): Record<string, JsonSchema> {
  const schemas = namedSchemas(NAMED);
  for (const [name, fields] of Object.entries(SAID)) {
    const schema = schemas[name] ?? {};
    const properties = (schema.properties ?? {}) as Record<string, JsonSchema>;
    for (const [field, description] of Object.entries(fields)) {
      const described = field === "" ? schema : properties[field];
      if (described === undefined) throw new TypeError(`${name} has no field ${field}`);
      described.description = description;
    }
  }
  for (const [name, beyond] of Object.entries(BETWEEN_FIELDS)) Object.assign(schemas[name] ?? {}, beyond);
  // Who changes fields leaves the others as they are.
  const changes = (schemas.MemoryChanges?.properties ?? {}) as Record<string, JsonSchema>;
  for (const field of Object.values(changes)) delete field.default;
  return schemas;
}
