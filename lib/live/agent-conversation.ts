/**
 * One run of the agent on the provider's side: what knows whether it has heard something. A reload begins a new
 * one, which knows nothing of the earlier. It is identified by `agentSessionId` where that is known, else by the
 * session's URL, else by the registration; a URL that never changes (a self-hosted agent) is one agent
 * conversation until an id says otherwise.
 */
import type { SessionRecord } from "../session-store.ts";

export type AgentConversation = {
  agentSessionId: string | null;
  /** The SHA-256 of the session's URL, which holds tokens and must not outlive the session. */
  urlDigest: string | null;
  registrationId: string;
};

/** Of each record, for as long as somebody holds it. */
const known = new WeakMap<SessionRecord, Promise<AgentConversation>>();

/** The agent conversation of a session, found out once for each record. */
export function agentConversationOf(session: SessionRecord): Promise<AgentConversation> {
  const conversation = known.get(session) ?? identify(session);
  known.set(session, conversation);
  return conversation;
}

async function identify(session: SessionRecord): Promise<AgentConversation> {
  const { agentSessionId = null, wsUrl, registrationId } = session;
  return { agentSessionId, urlDigest: wsUrl === undefined ? null : await digest(wsUrl), registrationId };
}

/** Whether who heard something there has heard it here. */
export function isSame(a: AgentConversation, b: AgentConversation): boolean {
  if (a.agentSessionId !== null && b.agentSessionId !== null) return a.agentSessionId === b.agentSessionId;
  if (a.urlDigest !== null && b.urlDigest !== null) return a.urlDigest === b.urlDigest;
  return a.registrationId === b.registrationId;
}

async function digest(text: string): Promise<string> {
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
  return btoa(String.fromCharCode(...bytes));
}
