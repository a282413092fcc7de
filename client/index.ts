/** The browser client of edge-agent-sessions: what a page imports. */
import { type AgentSession, type AgentSessionOptions, openAgentSession } from "./agent-session.ts";
import { thisPage } from "./page.ts";

export type { PageSession, RelayResult } from "../lib/live/relay-protocol.ts";
export type { AgentConversation } from "./agent-conversation.ts";
export {
  type AgentSession,
  type AgentSessionCallbacks,
  AgentSessionError,
  type AgentSessionErrorCode,
  type AgentSessionOptions,
  type AgentSessionStatus,
  type Progress,
  type Push,
  type Welcome,
} from "./agent-session.ts";

/**
 * Lets results of background work be said in the live agent conversation of this page. Nothing happens until
 * `attach` is called. Never throws.
 *
 * ```ts
 * const session = createAgentSession({ baseUrl, conversationId, getToken });
 * const conversation = await Conversation.startSession({ agentId, ...session.callbacks });
 * await session.attach(conversation, { transport: "webrtc" });
 * ```
 */
export function createAgentSession(options: AgentSessionOptions): AgentSession {
  return openAgentSession(thisPage, options).session;
}
