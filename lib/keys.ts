/**
 * Every id is checked here before a key is built from it, and every key of the product is built here, so
 * that the whole key space can be seen at once. The colon separates segments; conversation ids hold none.
 */
import { InvalidIdError } from "./errors.ts";

export const CONVERSATION_ID = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;
export const REQUEST_ID = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$/;
/** The conversation that a task belongs to, and 128 random bits in base64url. */
export const TASK_ID = /^([A-Za-z0-9][A-Za-z0-9_.-]{0,127}):([A-Za-z0-9_-]{22})$/;
export const PROVIDER_ID = /^[A-Za-z0-9_-]{1,128}$/;
/** Calls of providers have ids of many forms, base64 among them. What a URL would take for a step up is none. */
export const CALL_ID = /^(?!\.{1,2}$)[\x21-\x7e]{1,256}$/;
/** Path segments of the HTTP contract that stand where a conversation id would. */
export const RESERVED = new Set(["new", "list"]);

export function isConversationId(id: string): boolean {
  return CONVERSATION_ID.test(id) && !RESERVED.has(id);
}

/** Ids of requests: as conversation ids, and the colon; or the id of a task. */
export function isRequestId(id: string): boolean {
  return REQUEST_ID.test(id) || isTaskId(id);
}

/** Whether an id has the form of a task's, which names its conversation. */
export function isTaskId(id: string): boolean {
  return conversationOfTask(id) !== null;
}

/** The conversation of the task that an id names by its form; null where it has another. */
export function conversationOfTask(id: string): string | null {
  const conversationId = TASK_ID.exec(id)?.[1];
  return conversationId !== undefined && isConversationId(conversationId) ? conversationId : null;
}

/** A new id of a task, which nobody can guess. */
export function newTaskId(conversationId: string): string {
  const random = crypto.getRandomValues(new Uint8Array(16));
  const text = btoa(String.fromCharCode(...random));
  return `${conversationId}:${text.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
}

/** The provider's ids of agent conversations, where they are to name a record or to stand in a URL. */
export function isAgentSessionId(id: string): boolean {
  return PROVIDER_ID.test(id);
}

/** Any provider's ids of calls. In a URL they are encoded, never spliced; no record is named by them. */
export function isCallId(id: string): boolean {
  return CALL_ID.test(id);
}

/** The provider's ids of agents. */
export function isAgentId(id: string): boolean {
  return PROVIDER_ID.test(id);
}

/** Returns `id` if it can name a conversation (or another record of ours). Throws InvalidIdError. */
export function conversationIdOf(id: string): string {
  if (!isConversationId(id)) {
    throw new InvalidIdError(
      "An id is 1 to 128 letters, digits, dots, dashes or underscores, begins with a letter or digit, and is neither new nor list.",
    );
  }
  return id;
}

const STATE_PREFIX = "conv:";
const MEMORY_PREFIX = "session:";
const TAKEN_PREFIXES = ["elevenlabs:", MEMORY_PREFIX];

export const keys = {
  session: (conversationId: string) => `elevenlabs:session:${conversationId}`,
  conversation: (conversationId: string) => `elevenlabs:conversation:${conversationId}`,
  messages: (conversationId: string) => `elevenlabs:conversation:${conversationId}:messages`,
  conversations: "elevenlabs:conversations",
  /** What became of results, over all conversations. */
  settledResults: "elevenlabs:results",
  /** When the storage could not be reached. */
  outages: "elevenlabs:outages",
  /** What a tool call asked for. */
  task: (taskId: string) => `elevenlabs:task:${taskId}`,
  /** Which conversation an agent conversation belongs to. */
  agentConversation: (agentSessionId: string) => `elevenlabs:agent-conversation:${agentSessionId}`,
  /** That a provider refused the key of a variable. */
  refusedKey: (variable: string) => `elevenlabs:refused-key:${variable}`,
  /** The orchestrator's state; another instance of the store may keep its records under another prefix. */
  state: (conversationId: string, prefix = STATE_PREFIX) => `${prefix}${conversationId}`,
  /** The assistant's memory. */
  memory: (conversationId: string) => `${MEMORY_PREFIX}${conversationId}`,
} as const;

/**
 * Checks the key prefix of a store of the orchestrator's state, and returns it. It may hold any character, but must not reach into the records of other kinds. Throws RangeError.
 */
export function statePrefixOf(prefix: string): string {
  if (prefix === "" || prefix.length > 128 || !prefix.isWellFormed()) {
    throw new RangeError("keyPrefix must be 1 to 128 characters");
  }
  if (prefix.startsWith(":")) throw new RangeError("keyPrefix must not begin with a colon");
  if (TAKEN_PREFIXES.some((taken) => prefix.startsWith(taken))) {
    throw new RangeError("keyPrefix belongs to records of another kind");
  }
  return prefix;
}

const OF_A_CONVERSATION = /^elevenlabs:(?:session|conversation|task):([^:]+)/;

/**
 * Which keys stand together: a storage that keeps its keys in many places (one Durable Object each) keeps
 * all keys of one conversation in one place, so that they can be written all or nothing. Every other key
 * stands alone.
 */
export function partitionOf(key: string): string {
  return OF_A_CONVERSATION.exec(key)?.[1] ?? key;
}
