/** Every route: what it takes, whom it lets in, what it answers. A test holds it against the app. */
import * as v from "valibot";
import { toolQuerySchema } from "../functions/agent-tools.ts";
import * as answers from "../functions/answers.ts";
import { DEFAULT_CONSOLE_LIMIT, settledQuerySchema } from "../functions/console.ts";
import { deletionSchema } from "../functions/conversations.ts";
import type { ProblemCode } from "../functions/problem-codes.ts";
import { DEFAULT_RESULT_LIMIT, resultQuerySchema } from "../functions/results.ts";
import { DEFAULT_TASK_LIMIT, taskQuerySchema } from "../functions/tasks.ts";
import { listLimitSchema } from "../lib/conversation-store.ts";
import { CONVERSATION_SUBPROTOCOL, SDK_PARAMETERS } from "../lib/elevenlabs.ts";
import { BEARER_SUBPROTOCOL_PREFIX, RELAY_SUBPROTOCOL } from "../lib/live/relay-protocol.ts";
import { NAMED } from "./named.ts";
import type { Schema } from "./schemas.ts";

/** Whom a route lets in, besides nobody in particular. */
export type Credential = "none" | "server" | "conversation" | "socket" | "webhook";

export type Parameter = { schema: Schema; description: string; required?: true };

export type Answer = {
  description: string;
  schema?: Schema;
  /** `application/json`, where there is a schema. */
  mediaTypes?: readonly string[];
  headers?: readonly string[];
  /** Whether a browser keeps it, and asks for it again by its etag. */
  isFile?: true;
};

export type Route = {
  method: "get" | "post" | "put" | "patch" | "delete";
  path: string;
  id: string;
  tag: Tag;
  summary: string;
  description?: string;
  credential: Credential;
  query?: Record<string, Parameter>;
  headers?: Record<string, Parameter>;
  body?: { schema: Schema; isOptional?: true; example?: unknown };
  answers: Record<number, Answer>;
  /** Beside those that the rest of the description implies. */
  problems?: readonly ProblemCode[];
  /** What must be in order before the route is reached. */
  needs?: "nothing" | "configuration" | "feature";
  /** Whether it cannot do without the storage. */
  isStored?: false;
};

export const TAGS = {
  Conversations: "What outlives a session: a conversation and its messages.",
  Sessions: "What is live right now, and can be told something.",
  "Results and tasks": "What was to be said, and what is still being worked on.",
  Webhooks: "What comes from other systems: results of tasks, reports, calls of the agent's tools.",
  "State and memory": "What orchestrators and assistants keep beside a conversation. For servers only.",
  Operation: "For load balancers, and for whoever operates the service.",
} as const;
export type Tag = keyof typeof TAGS;

const API = "/agent-conversations/api";
const CONVERSATION = `${API}/{id}`;
const text = v.string();

const limit = (fallback: number): Parameter => ({
  schema: listLimitSchema(fallback).entries.limit,
  description: "How many a page has at most.",
});
const before = (schema: Schema): Parameter => ({ schema, description: "The nextBefore of the page before." });

const AGENT_ID: Parameter = {
  schema: text,
  description: "One of ELEVENLABS_AGENT_IDS. Every other is `forbidden`.",
  required: true,
};
const UPGRADE = {
  upgrade: { schema: v.literal("websocket"), description: "This is a WebSocket.", required: true },
  "sec-websocket-protocol": {
    schema: text,
    description: `The subprotocol of the route, and \`${BEARER_SUBPROTOCOL_PREFIX}\` with the credential behind it, which is never selected.`,
    required: true,
  },
} as const satisfies Record<string, Parameter>;

const PAGE = { description: "HTML.", schema: text, mediaTypes: ["text/html"] } as const;
const ACCEPTED = "The WebSocket is open.";

const CALLBACK = {
  method: "post",
  tag: "Webhooks",
  credential: "webhook",
  description:
    "Answered within 8 s. The body is the result of a task, the progress of one, or a report of ElevenLabs. A body that is signed names its conversation itself, or by its task.",
  body: {
    schema: v.union([NAMED.Callback, NAMED.Progress, NAMED.Report]),
    example: { requestId: "r1", conversationId: "demo", output: "Your table is booked for eight." },
  },
  answers: {
    200: { description: "It is settled, or a report was taken.", schema: answers.callbackAnswer },
    202: { description: "It is kept, or on its way.", schema: answers.keptAnswer },
  },
  problems: ["request_id_reused"],
} as const satisfies Partial<Route>;

export const ROUTES: readonly Route[] = [
  {
    method: "post",
    path: `${API}/new`,
    id: "createConversation",
    tag: "Conversations",
    summary: "Begin a conversation",
    credential: "server",
    body: { schema: NAMED.NewConversation, example: { metadata: { user: "u1" } } },
    answers: {
      201: { description: "The conversation, and a token for a page.", schema: NAMED.ConversationCreated },
    },
  },
  {
    method: "get",
    path: `${API}/list`,
    id: "listConversations",
    tag: "Conversations",
    summary: "List conversations, newest activity first",
    credential: "server",
    query: { limit: limit(20), cursor: { schema: text, description: "The nextCursor of the page before." } },
    answers: { 200: { description: "One page.", schema: NAMED.ConversationList } },
    problems: ["invalid_request"],
  },
  {
    method: "post",
    path: `${CONVERSATION}/token`,
    id: "issueToken",
    tag: "Conversations",
    summary: "Issue a token for a page",
    description: "It opens the routes of this conversation that a page may use, for an hour.",
    credential: "server",
    body: { schema: NAMED.TokenRequest, isOptional: true },
    answers: { 200: { description: "The token.", schema: NAMED.TokenIssued } },
  },
  {
    method: "get",
    path: CONVERSATION,
    id: "readConversation",
    tag: "Conversations",
    summary: "Read a conversation and its newest messages",
    description: "A page has at most 1 MiB of messages, but always one.",
    credential: "conversation",
    query: { limit: limit(50), before: before(text) },
    answers: { 200: { description: "The conversation and one page of its history.", schema: NAMED.History } },
    problems: ["invalid_request", "conversation_not_found"],
  },
  {
    method: "delete",
    path: CONVERSATION,
    id: "deleteConversation",
    tag: "Conversations",
    summary: "Delete a conversation",
    description: "Messages, results and session go with it. For 48 hours whoever writes to it is told so.",
    credential: "server",
    query: {
      everything: {
        schema: deletionSchema.entries.everything,
        description: "Whether the state and the memory of the id go too.",
      },
    },
    answers: { 200: { description: "It is gone.", schema: NAMED.Deleted } },
  },
  {
    method: "post",
    path: `${CONVERSATION}/message`,
    id: "writeMessage",
    tag: "Conversations",
    summary: "Write a message into the history",
    description:
      "A message of at most 64 KiB as it is stored. A conversation that does not exist yet is created.",
    credential: "conversation",
    body: { schema: NAMED.NewMessage, example: { role: "user", content: "A table for two, please." } },
    answers: { 201: { description: "The message as it is stored.", schema: NAMED.MessageStored } },
    problems: ["conversation_deleted"],
  },
  {
    method: "post",
    path: `${CONVERSATION}/session`,
    id: "registerSession",
    tag: "Sessions",
    summary: "Register the live session, or renew it",
    description: "It lives 600 s. What waited is handed over to it.",
    credential: "conversation",
    body: {
      schema: v.union([NAMED.Registration, NAMED.Renewal]),
      example: {
        sessionUrl: "wss://api.elevenlabs.io/v1/convai/conversation?agent_id=a&conversation_signature=s",
      },
    },
    answers: { 200: { description: "It is live.", schema: NAMED.SessionRegistered } },
    problems: ["session_replaced", "session_url_not_allowed", "conversation_deleted"],
  },
  {
    method: "get",
    path: `${CONVERSATION}/session`,
    id: "readSession",
    tag: "Sessions",
    summary: "Ask whether there is a live session",
    credential: "conversation",
    answers: { 200: { description: "There is.", schema: NAMED.Session } },
    problems: ["session_not_found"],
  },
  {
    method: "delete",
    path: `${CONVERSATION}/session`,
    id: "endSession",
    tag: "Sessions",
    summary: "End the live session",
    credential: "conversation",
    query: {
      registrationId: { schema: text, description: "Only if this registration is still the current one." },
    },
    answers: { 200: { description: "There is none, or another one.", schema: NAMED.Deleted } },
  },
  {
    method: "get",
    path: `${CONVERSATION}/stream`,
    id: "openLine",
    tag: "Sessions",
    summary: "Open the line of the relay (WebSocket)",
    description: `The page's first frame is \`hello\`; results come as \`push\` frames. The frames are described in \`lib/live/relay-protocol.ts\`. The subprotocol is \`${RELAY_SUBPROTOCOL}\`. An Origin must be our own or listed.`,
    credential: "socket",
    headers: UPGRADE,
    answers: { 101: { description: ACCEPTED, headers: ["sec-websocket-protocol"] } },
    problems: ["upgrade_required", "invalid_request"],
  },
  {
    method: "get",
    path: `${CONVERSATION}/connect`,
    id: "connectAgent",
    tag: "Sessions",
    summary: "Talk to the agent through the edge (WebSocket)",
    description: `The frames are those of ElevenLabs, with the edge's between them. The subprotocol is \`${CONVERSATION_SUBPROTOCOL}\`. An Origin must be our own or listed.`,
    credential: "socket",
    query: {
      agentId: AGENT_ID,
      ...Object.fromEntries(
        SDK_PARAMETERS.map((name) => [name, { schema: text, description: "Of the SDK; handed on." }]),
      ),
    },
    headers: UPGRADE,
    answers: { 101: { description: ACCEPTED, headers: ["sec-websocket-protocol"] } },
    problems: ["upgrade_required", "invalid_request"],
  },
  {
    method: "get",
    path: `${CONVERSATION}/signed-url`,
    id: "signUrl",
    tag: "Sessions",
    summary: "Get a URL that starts a conversation with an agent",
    credential: "conversation",
    query: { agentId: AGENT_ID },
    answers: {
      200: { description: "It starts one conversation, within 15 minutes.", schema: NAMED.SignedUrl },
    },
    problems: ["provider_refused", "provider_unavailable"],
    isStored: false,
  },
  {
    method: "get",
    path: `${CONVERSATION}/results`,
    id: "listResults",
    tag: "Results and tasks",
    summary: "List what became of results, newest first",
    credential: "conversation",
    query: {
      limit: limit(DEFAULT_RESULT_LIMIT),
      before: before(resultQuerySchema.entries.before),
      status: { schema: resultQuerySchema.entries.status, description: "Only those that stand so." },
      content: { schema: resultQuerySchema.entries.content, description: "Whether to show what they say." },
    },
    answers: { 200: { description: "One page.", schema: NAMED.ResultList } },
  },
  {
    method: "post",
    path: `${CONVERSATION}/results/ack`,
    id: "acknowledgeResults",
    tag: "Results and tasks",
    summary: "Say that results were told by the page itself",
    credential: "conversation",
    body: { schema: NAMED.Acknowledgement, example: { requestIds: ["r1"] } },
    answers: { 200: { description: "They are settled.", schema: NAMED.Acknowledged } },
  },
  {
    method: "post",
    path: `${CONVERSATION}/results/again`,
    id: "sayAgain",
    tag: "Results and tasks",
    summary: "Have results said again",
    description: "Whatever became of them. They wait as if they were new.",
    credential: "server",
    body: { schema: NAMED.Acknowledgement, example: { requestIds: ["r1"] } },
    answers: { 200: { description: "They wait for it.", schema: NAMED.Again } },
    problems: ["conversation_deleted"],
  },
  {
    method: "get",
    path: `${CONVERSATION}/connections`,
    id: "listConnections",
    tag: "Sessions",
    summary: "List who was there, newest first",
    credential: "server",
    answers: { 200: { description: "Registrations, and how they ended.", schema: NAMED.ConnectionList } },
  },
  {
    method: "get",
    path: `${CONVERSATION}/tasks`,
    id: "listTasks",
    tag: "Results and tasks",
    summary: "List what the agent asked for, newest first",
    credential: "conversation",
    query: { limit: limit(DEFAULT_TASK_LIMIT), before: before(taskQuerySchema.entries.before) },
    answers: { 200: { description: "One page.", schema: NAMED.TaskList } },
  },
  {
    method: "delete",
    path: `${CONVERSATION}/tasks/{taskId}`,
    id: "cancelTask",
    tag: "Results and tasks",
    summary: "Cancel a task",
    description: "Its result, should it come all the same, is kept and not said.",
    credential: "conversation",
    answers: { 200: { description: "It is cancelled, or was over.", schema: NAMED.TaskCancelled } },
    problems: ["task_not_found"],
  },
  { ...CALLBACK, path: "/callback", id: "callBack", summary: "Bring a result" },
  {
    ...CALLBACK,
    path: `${CONVERSATION}/callback`,
    id: "callBackConversation",
    summary: "Bring a result of one conversation",
  },
  {
    method: "post",
    path: "/agent-tools",
    id: "callTool",
    tag: "Webhooks",
    summary: "Start a task for the agent",
    description:
      "Agents speak what their tools answer, so whoever was let in is answered 200, with words that can be spoken.",
    credential: "webhook",
    query: {
      wait: {
        schema: toolQuerySchema.entries.wait,
        description: "How long to wait for the result, in seconds.",
      },
    },
    headers: {
      system__conversation_id: { schema: text, description: "Stands for conversation_id in the body." },
    },
    body: {
      schema: NAMED.ToolCall,
      example: { tool: "book_table", args: { seats: 2 }, conversation_id: "conv_1" },
    },
    answers: { 200: { description: "What the agent is to say.", schema: answers.toolAnswer } },
    needs: "configuration",
  },
  ...stateRoutes(),
  ...memoryRoutes(),
  ...consoleRoutes(),
  {
    method: "get",
    path: "/health",
    id: "health",
    tag: "Operation",
    summary: "Ask whether anything can be stored",
    description: "The storage is asked at most once in 5 s.",
    credential: "none",
    answers: {
      200: { description: "It can.", schema: NAMED.Health },
      503: { description: "It cannot.", schema: NAMED.Unavailable },
    },
    needs: "nothing",
  },
  {
    method: "get",
    path: "/config",
    id: "config",
    tag: "Operation",
    summary: "Show what is switched on",
    credential: "server",
    answers: {
      200: { description: "What is switched on, and what is wrong.", schema: NAMED.Config },
      503: { description: "What is wrong.", schema: NAMED.WrongConfig },
    },
    needs: "nothing",
  },
  {
    method: "get",
    path: "/config/health",
    id: "configHealth",
    tag: "Operation",
    summary: "Ask whether the configuration is complete",
    credential: "server",
    answers: {
      200: { description: "It is.", schema: NAMED.ConfigComplete },
      503: { description: "It is not.", schema: NAMED.ConfigIncomplete },
    },
    needs: "nothing",
  },
  {
    method: "get",
    path: "/openapi.json",
    id: "openApi",
    tag: "Operation",
    summary: "This document",
    credential: "none",
    answers: fileAnswers({ description: "OpenAPI 3.1.", schema: NAMED.State }),
    problems: ["not_found"],
    needs: "nothing",
  },
  {
    method: "get",
    path: "/docs",
    id: "docs",
    tag: "Operation",
    summary: "This document, to be read",
    description: "One page that loads nothing and runs nothing.",
    credential: "none",
    answers: fileAnswers({ ...PAGE, headers: ["content-security-policy"] }),
    problems: ["not_found"],
    needs: "nothing",
  },
  {
    method: "get",
    path: "/console",
    id: "console",
    tag: "Operation",
    summary: "The console: what becomes of results, who is there, and whether all is well",
    description: "A page that asks for the API token, and loads nothing from elsewhere.",
    credential: "none",
    answers: fileAnswers({ ...PAGE, headers: ["content-security-policy"] }),
    problems: ["not_found"],
    needs: "nothing",
  },
  {
    method: "get",
    path: "/console/{file}",
    id: "consoleFile",
    tag: "Operation",
    summary: "A file of the console",
    credential: "none",
    answers: fileAnswers({
      description: "The file.",
      schema: text,
      mediaTypes: ["text/html", "text/javascript", "text/css", "image/svg+xml"],
      headers: ["content-security-policy"],
    }),
    problems: ["not_found"],
    needs: "nothing",
  },
];

/** Of what is the same until the next deployment. */
function fileAnswers(answer: Answer): Record<number, Answer> {
  return {
    200: { ...answer, isFile: true },
    304: { description: "It is still the one that was kept.", headers: answer.headers ?? [], isFile: true },
  };
}

function consoleRoutes(): Route[] {
  const path = "/console/api";
  const common = { tag: "Operation", credential: "server" } as const;
  const page = {
    limit: limit(DEFAULT_CONSOLE_LIMIT),
    cursor: { schema: text, description: "The nextCursor of the page before." },
  };
  return [
    {
      ...common,
      method: "get",
      path: `${path}/results`,
      id: "listSettled",
      summary: "List what became of results, of all conversations",
      description: "The newest 10,000 that were settled, without what they say.",
      query: {
        limit: limit(DEFAULT_CONSOLE_LIMIT),
        before: before(text),
        status: { schema: settledQuerySchema.entries.status, description: "Only those that stand so." },
        failed: {
          schema: settledQuerySchema.entries.failed,
          description: "Only those that nobody is known to have heard: unconfirmed, expired, dropped.",
        },
        conversationId: {
          schema: settledQuerySchema.entries.conversationId,
          description: "Only those of one conversation.",
        },
        requestId: {
          schema: settledQuerySchema.entries.requestId,
          description: "Only those of one requestId.",
        },
      },
      answers: { 200: { description: "One page.", schema: NAMED.SettledResultList } },
    },
    {
      ...common,
      method: "post",
      path: `${path}/results/again`,
      id: "sayFailedAgain",
      summary: "Have everything said that failed since a time",
      description: "Newest first, as much as one request may; nextCursor says that there is more.",
      body: { schema: NAMED.EverythingAgain, example: { since: "2026-01-01T00:00:00Z" } },
      answers: { 200: { description: "They wait for it.", schema: NAMED.EverythingIsAgain } },
    },
    {
      ...common,
      method: "get",
      path: `${path}/waiting`,
      id: "listWaiting",
      summary: "List what is not settled, in the conversations that were active last",
      description: "At most 40 conversations are asked; unanswered says how many of them did not answer.",
      query: page,
      answers: { 200: { description: "Those in which anything waits.", schema: NAMED.WaitingList } },
    },
    {
      ...common,
      method: "get",
      path: `${path}/sessions`,
      id: "listLiveSessions",
      summary: "List live sessions, among the conversations that were active last",
      description:
        "At most 40 conversations are looked at. What waits is left out where a conversation's object does not answer.",
      query: page,
      answers: { 200: { description: "Those that are live.", schema: NAMED.LiveSessionList } },
    },
    {
      ...common,
      method: "get",
      path: `${path}/rates`,
      id: "readRates",
      summary: "Count what was settled in each minute of the last hour",
      answers: { 200: { description: "The minutes.", schema: NAMED.Rates } },
    },
    {
      ...common,
      method: "get",
      path: `${path}/outages`,
      id: "listOutages",
      summary: "List when the storage could not be reached",
      answers: { 200: { description: "Outages, as the instances found them.", schema: NAMED.OutageList } },
    },
  ];
}

function stateRoutes(): Route[] {
  const path = "/state/api/{id}";
  const common = { tag: "State and memory", credential: "server" } as const;
  return [
    {
      ...common,
      method: "get",
      path,
      id: "readState",
      summary: "Read the orchestrator's state",
      answers: { 200: { description: "The object itself.", schema: NAMED.State } },
      problems: ["state_not_found"],
    },
    {
      ...common,
      method: "put",
      path,
      id: "writeState",
      summary: "Write the orchestrator's state",
      body: { schema: NAMED.State, example: { step: 1 } },
      answers: { 200: { description: "The object itself.", schema: NAMED.State } },
    },
    {
      ...common,
      method: "delete",
      path,
      id: "deleteState",
      summary: "Delete the orchestrator's state",
      answers: { 200: { description: "It is gone.", schema: NAMED.Deleted } },
    },
    {
      ...common,
      method: "post",
      path: `${path}/touch`,
      id: "touchState",
      summary: "Make the orchestrator's state live anew",
      answers: { 200: { description: "It does.", schema: NAMED.Touched } },
      problems: ["state_not_found"],
    },
  ];
}

function memoryRoutes(): Route[] {
  const path = "/memory/api/{id}";
  const common = { tag: "State and memory", credential: "server" } as const;
  return [
    {
      ...common,
      method: "get",
      path,
      id: "readMemory",
      summary: "Read the assistant's memory",
      description: "Reading makes it live another 1,800 s.",
      answers: { 200: { description: "The whole memory.", schema: NAMED.Memory } },
      problems: ["memory_not_found"],
    },
    {
      ...common,
      method: "put",
      path,
      id: "writeMemory",
      summary: "Write the assistant's memory",
      body: { schema: NAMED.NewMemory, example: { domain: "shopping", brand: "Acme" } },
      answers: { 200: { description: "The whole memory.", schema: NAMED.Memory } },
    },
    {
      ...common,
      method: "patch",
      path,
      id: "changeMemory",
      summary: "Change fields of the assistant's memory",
      description: "Of changes at the same time none is lost.",
      body: { schema: NAMED.MemoryChanges, example: { city: "Lisbon" } },
      answers: { 200: { description: "The whole memory.", schema: NAMED.Memory } },
      problems: ["memory_not_found"],
    },
    {
      ...common,
      method: "delete",
      path,
      id: "deleteMemory",
      summary: "Delete the assistant's memory",
      answers: { 200: { description: "It is gone.", schema: NAMED.Deleted } },
    },
    {
      ...common,
      method: "post",
      path: `${path}/touch`,
      id: "touchMemory",
      summary: "Make the assistant's memory live anew",
      answers: { 200: { description: "It does.", schema: NAMED.Touched } },
      problems: ["memory_not_found"],
    },
  ];
}
