/** Everything that serves one request: the stores over one storage, the conversations' objects, the clock and the log. */
import type { AgentConversations } from "./agent-conversations.ts";
import type { AssistantSessions } from "./assistant-session.ts";
import type { StateStore } from "./conversation-state.ts";
import type { ConversationStore } from "./conversation-store.ts";
import type { LiveClient } from "./live/live-client.ts";
import type { Logger } from "./log.ts";
import type { Channel } from "./push/channel.ts";
import type { SessionStore } from "./session-store.ts";
import type { ElseAsk } from "./storage/fallback.ts";
import type { Storage } from "./storage/storage.ts";

export type Core = {
  storage: Storage;
  /** Redis, or else a conversation's or record's object. */
  elseAsk: ElseAsk;
  sessions: SessionStore;
  conversations: ConversationStore;
  /** The orchestrator's. */
  states: StateStore;
  /** The assistant's. */
  memories: AssistantSessions;
  /** Which conversation an agent conversation belongs to. */
  agentConversations: AgentConversations;
  /** The conversations' objects. */
  live: LiveClient;
  /** In the order of their precedence; what a session could be reached by. */
  channels: readonly Channel[];
  log: Logger;
  /** The clock, in ms since the epoch. */
  now: () => number;
  wait: (ms: number) => Promise<void>;
  /** Keeps work alive after the answer has been given. */
  afterResponse: (work: Promise<unknown>) => void;
};
