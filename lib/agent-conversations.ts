/**
 * Which conversation of ours an agent conversation belongs to, so that what ElevenLabs reports of it afterwards finds
 * its place. Written where a server names the agent conversation, and never on the word of a page.
 */
import * as v from "valibot";
import { keys } from "./keys.ts";
import type { Logger } from "./log.ts";
import type { TextStorage, TtlSeconds } from "./storage/storage.ts";
import { createTtlStore } from "./ttl-store.ts";

const recordSchema = v.object({ version: v.optional(v.number(), 1), conversationId: v.string() });

export interface AgentConversations {
  /** Notes whose it is, for as long as a conversation lives. The newest word counts. */
  set(agentSessionId: string, conversationId: string): Promise<void>;
  /** The conversation, or null. */
  find(agentSessionId: string): Promise<string | null>;
}

export type AgentConversationsOptions = { storage: TextStorage; log: Logger; ttlSeconds: TtlSeconds };

export function createAgentConversations(options: AgentConversationsOptions): AgentConversations {
  const records = createTtlStore({
    ...options,
    keyOf: keys.agentConversation,
    schema: recordSchema,
    policy: "on-write",
  });
  return {
    set: (agentSessionId, conversationId) => records.set(agentSessionId, { version: 1, conversationId }),
    find: async (agentSessionId) => (await records.get(agentSessionId))?.conversationId ?? null,
  };
}
