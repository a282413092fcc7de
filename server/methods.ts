/**
 * The HTTP API as methods, for whoever is trusted with it: a backend by its API token, another Worker by a service
 * binding. Requests and answers have the types of the schemas that the edge itself reads and writes them by.
 */
import type * as v from "valibot";
import type {
  AcknowledgedAnswer,
  AgainAnswer,
  AllAgainAnswer,
  ConnectionListAnswer,
  ConversationListAnswer,
  CreatedAnswer,
  DeletedAnswer,
  deliveredAnswer,
  duplicateAnswer,
  HistoryAnswer,
  LiveSessionListAnswer,
  MessageStoredAnswer,
  notSaidAnswer,
  OutageListAnswer,
  progressAnswer,
  queuedAnswer,
  RatesAnswer,
  RegisteredAnswer,
  ResultListAnswer,
  SessionAnswer,
  SettledListAnswer,
  SignedUrlAnswer,
  TaskCancelledAnswer,
  TaskListAnswer,
  TokenAnswer,
  TouchedAnswer,
  WaitingListAnswer,
} from "../functions/answers.ts";
import type { ProblemCode } from "../functions/problem-codes.ts";
import type { tokenRequestSchema } from "../lib/agent-conversations.ts";
import type { SessionChanges, SessionState, SessionStateInput } from "../lib/assistant-session.ts";
import type { newConversationSchema, newMessageSchema } from "../lib/conversation-store.ts";
import type { JsonObject } from "../lib/json.ts";
import { isConversationId, isTaskId } from "../lib/keys.ts";
import type { callbackSchema, progressSchema } from "../lib/result.ts";
import type { RegistrationRequest, renewalSchema } from "../lib/session-store.ts";
import type { allAgainSchema } from "../lib/settled-results.ts";
import { type Exchange, ServerClientError, type ServerRequest } from "./exchange.ts";

export type TokenRequest = v.InferInput<typeof tokenRequestSchema>;
export type CreateConversationRequest = v.InferInput<typeof newConversationSchema> & TokenRequest;
export type MessageRequest = v.InferInput<typeof newMessageSchema>;
export type RenewalRequest = v.InferInput<typeof renewalSchema>;
export type CallbackRequest = v.InferInput<typeof callbackSchema>;
export type ProgressRequest = v.InferInput<typeof progressSchema>;

export type CallbackAnswer = v.InferOutput<
  typeof deliveredAnswer | typeof duplicateAnswer | typeof notSaidAnswer | typeof queuedAnswer
>;
export type ProgressAnswer = v.InferOutput<typeof progressAnswer | typeof notSaidAnswer>;

export type PageQuery = {
  /** How many at most, up to 100. */
  limit?: number | undefined;
  /** `nextBefore` of the page before. */
  before?: string | undefined;
};

export type ResultQuery = PageQuery & {
  status?: ResultListAnswer["results"][number]["status"] | undefined;
  /** Whether to tell what the results say, too. */
  content?: boolean | undefined;
};

/** `cursor` is `nextCursor` of the page before. */
export type CursorQuery = { limit?: number | undefined; cursor?: string | undefined };

export type SettledQuery = PageQuery & {
  status?: ResultQuery["status"];
  /** Only what nobody is known to have heard. */
  failed?: boolean | undefined;
  conversationId?: string | undefined;
  requestId?: string | undefined;
};

export type AllAgainRequest = v.InferInput<typeof allAgainSchema>;

/**
 * Every method rejects with ServerClientError. What is not there is null where something was to be read or changed, and
 * an error nowhere.
 */
export interface ServerClient {
  /** Begins a conversation. Where an answer was lost it is not asked for again by itself. */
  createConversation(request?: CreateConversationRequest): Promise<CreatedAnswer>;
  /** The conversations with the newest activity first; `cursor` is `nextCursor` of the page before. */
  listConversations(query?: CursorQuery): Promise<ConversationListAnswer>;
  /** A token for a page, for an hour. */
  issueToken(conversationId: string, request?: TokenRequest): Promise<Required<TokenAnswer>>;
  /** A conversation and the newest page of its messages, oldest first. */
  readConversation(conversationId: string, query?: PageQuery): Promise<HistoryAnswer | null>;
  /** `everything`: state and memory of the id go too. */
  deleteConversation(conversationId: string, query?: { everything?: boolean }): Promise<DeletedAnswer>;
  /** Adds a message; one without an `id` is given one, so that it stands there once however often it is sent. */
  writeMessage(conversationId: string, message: MessageRequest): Promise<MessageStoredAnswer>;

  /** Registers the live session, or renews a registration. */
  registerSession(
    conversationId: string,
    registration: RegistrationRequest | RenewalRequest | JsonObject,
  ): Promise<RegisteredAnswer>;
  readSession(conversationId: string): Promise<SessionAnswer | null>;
  /** Ends the session, or only the one of this registration. */
  endSession(conversationId: string, query?: { registrationId?: string }): Promise<DeletedAnswer>;
  /** A URL that starts one conversation with a listed agent. */
  signUrl(conversationId: string, query: { agentId: string }): Promise<SignedUrlAnswer>;

  /** What became of the results, newest first. */
  listResults(conversationId: string, query?: ResultQuery): Promise<ResultListAnswer>;
  /** These were told to the user by other means. */
  acknowledgeResults(conversationId: string, requestIds: readonly string[]): Promise<AcknowledgedAnswer>;
  /** Has results said again, whatever became of them. Where an answer was lost it is not asked for again by itself. */
  sayAgain(conversationId: string, requestIds: readonly string[]): Promise<AgainAnswer>;
  /** Who was there, newest first. */
  listConnections(conversationId: string): Promise<ConnectionListAnswer>;
  listTasks(conversationId: string, query?: PageQuery): Promise<TaskListAnswer>;
  /** Null where there is no such task. */
  cancelTask(conversationId: string, taskId: string): Promise<TaskCancelledAnswer | null>;

  /** What became of the results of all conversations, settled last first. */
  listSettledResults(query?: SettledQuery): Promise<SettledListAnswer>;
  /** Has everything said that failed since a time; go on with `nextCursor` until there is none. */
  sayFailedAgain(request: AllAgainRequest): Promise<AllAgainAnswer>;
  /** What is not settled, in the conversations that were active last. */
  listWaiting(query?: CursorQuery): Promise<WaitingListAnswer>;
  /** Who is live, among the conversations that were active last. */
  listLiveSessions(query?: CursorQuery): Promise<LiveSessionListAnswer>;
  /** How much was settled in each minute of the last hour. */
  readRates(): Promise<RatesAnswer>;
  /** When the storage could not be reached. */
  listOutages(): Promise<OutageListAnswer>;

  /** Brings the result of a task. However often it is sent, it is said once, by its `requestId`. */
  callBack(callback: CallbackRequest): Promise<CallbackAnswer>;
  /** Tells how far a task has come. */
  reportProgress(progress: ProgressRequest): Promise<ProgressAnswer>;

  /** The orchestrator's state. */
  readState(conversationId: string): Promise<JsonObject | null>;
  writeState(conversationId: string, state: object): Promise<JsonObject>;
  deleteState(conversationId: string): Promise<DeletedAnswer>;
  touchState(conversationId: string): Promise<TouchedAnswer | null>;

  /** The assistant's memory. */
  readMemory(conversationId: string): Promise<SessionState | null>;
  writeMemory(conversationId: string, memory: SessionStateInput | JsonObject): Promise<SessionState>;
  /** Replaces the named fields. */
  changeMemory(conversationId: string, changes: SessionChanges | JsonObject): Promise<SessionState | null>;
  deleteMemory(conversationId: string): Promise<DeletedAnswer>;
  touchMemory(conversationId: string): Promise<TouchedAnswer | null>;
}

/** The headers that let a request in. `body` is the text that is sent, "" where there is none. */
export type Credential = (body: string) => Promise<Record<string, string>>;

export type Credentials = {
  /** Of a server. */
  server: Credential;
  /** Of a sender of callbacks, for one message however often it is sent; `id` is the message's. */
  webhook: (id: string) => Credential;
};

/** The methods, over whatever carries their requests. */
export function createMethods(ask: Exchange, { server, webhook }: Credentials): ServerClient {
  type Options = Pick<ServerRequest, "query" | "body"> & Partial<ServerRequest>;

  async function request<T>(
    method: ServerRequest["method"],
    path: string,
    options: Options = {},
  ): Promise<T> {
    return ask<T>({ method, path, credential: server, isRepeatable: true, ...options });
  }

  async function ofConversation<T>(
    method: ServerRequest["method"],
    conversationId: string,
    rest = "",
    options: Options = {},
  ): Promise<T> {
    return request(method, `/agent-conversations/api/${segment(conversationId)}${rest}`, options);
  }

  async function ofRecord<T>(
    method: ServerRequest["method"],
    kind: "state" | "memory",
    conversationId: string,
    rest = "",
    options: Options = {},
  ): Promise<T> {
    return request(method, `/${kind}/api/${segment(conversationId)}${rest}`, options);
  }

  async function found<T>(code: ProblemCode, answer: Promise<T>): Promise<T | null> {
    try {
      return await answer;
    } catch (error) {
      if (error instanceof ServerClientError && error.code === code) return null;
      throw error;
    }
  }

  async function send<T>(body: object): Promise<T> {
    return request("POST", "/callback", { body, credential: webhook(crypto.randomUUID()) });
  }

  return {
    // Asked for a second time it would leave a conversation that nobody knows.
    createConversation: (body = {}) =>
      request("POST", "/agent-conversations/api/new", { body, isRepeatable: false }),
    listConversations: (query) => request("GET", "/agent-conversations/api/list", { query }),
    issueToken: (id, body = {}) => ofConversation("POST", id, "/token", { body }),
    readConversation: (id, query) =>
      found("conversation_not_found", ofConversation("GET", id, "", { query })),
    deleteConversation: (id, query) => ofConversation("DELETE", id, "", { query }),
    writeMessage: (id, message) =>
      ofConversation("POST", id, "/message", { body: { id: crypto.randomUUID(), ...message } }),

    registerSession: (id, body) => ofConversation("POST", id, "/session", { body }),
    readSession: (id) => found("session_not_found", ofConversation("GET", id, "/session")),
    endSession: (id, query) => ofConversation("DELETE", id, "/session", { query }),
    signUrl: (id, query) => ofConversation("GET", id, "/signed-url", { query }),

    listResults: (id, query) => ofConversation("GET", id, "/results", { query }),
    acknowledgeResults: (id, requestIds) =>
      ofConversation("POST", id, "/results/ack", { body: { requestIds } }),
    // Asked for a second time it would be said twice.
    sayAgain: (id, requestIds) =>
      ofConversation("POST", id, "/results/again", { body: { requestIds }, isRepeatable: false }),
    listConnections: (id) => ofConversation("GET", id, "/connections"),
    listTasks: (id, query) => ofConversation("GET", id, "/tasks", { query }),
    cancelTask: async (id, taskId) =>
      isTaskId(taskId) ? found("task_not_found", ofConversation("DELETE", id, `/tasks/${taskId}`)) : null,

    listSettledResults: (query) => request("GET", "/console/api/results", { query }),
    sayFailedAgain: (body) => request("POST", "/console/api/results/again", { body }),
    listWaiting: (query) => request("GET", "/console/api/waiting", { query }),
    listLiveSessions: (query) => request("GET", "/console/api/sessions", { query }),
    readRates: () => request("GET", "/console/api/rates"),
    listOutages: () => request("GET", "/console/api/outages"),

    callBack: send,
    reportProgress: send,

    readState: (id) => found("state_not_found", ofRecord("GET", "state", id)),
    writeState: (id, body) => ofRecord("PUT", "state", id, "", { body }),
    deleteState: (id) => ofRecord("DELETE", "state", id),
    touchState: (id) => found("state_not_found", ofRecord("POST", "state", id, "/touch")),

    readMemory: (id) => found("memory_not_found", ofRecord("GET", "memory", id)),
    writeMemory: (id, body) => ofRecord("PUT", "memory", id, "", { body }),
    changeMemory: (id, body) => found("memory_not_found", ofRecord("PATCH", "memory", id, "", { body })),
    deleteMemory: (id) => ofRecord("DELETE", "memory", id),
    touchMemory: (id) => found("memory_not_found", ofRecord("POST", "memory", id, "/touch")),
  };
}

/** An id as it stands in a path, where `..` and `list` would lead elsewhere. Throws ServerClientError. */
function segment(conversationId: string): string {
  if (isConversationId(conversationId)) return conversationId;
  throw new ServerClientError("invalid_id", "This cannot be the id of a conversation.");
}
