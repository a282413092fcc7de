/**
 * Which conversation of ours an agent conversation belongs to, so that what its agent asks for, and what ElevenLabs
 * reports of it afterwards, finds its place. A server's word, or that of a connection of our own, is proof. A page's
 * is a claim: it counts for what the agent asks for, as long as nobody has said otherwise before.
 */
import * as v from "valibot";
import { isAgentSessionId, isCallId, keys } from "./keys.ts";
import type { Logger } from "./log.ts";
import type { TextStorage, TtlSeconds } from "./storage/storage.ts";
import { createTtlStore } from "./ttl-store.ts";

const recordSchema = v.object({
  version: v.optional(v.number(), 1),
  conversationId: v.string(),
  /** Whether a page alone says so. */
  isClaimed: v.optional(v.boolean()),
});

export const tokenRequestSchema = v.object({
  /** Which agent conversation the token's holder talks to: the server's word, which opens the monitor, and calls of other providers. */
  agentSessionId: v.optional(
    v.pipe(v.string(), v.check(isCallId, "must be 1 to 256 printable ASCII characters without blanks")),
  ),
});

export interface AgentConversations {
  /** Notes whose it is, for as long as a conversation lives. The newest word counts. Ids that no agent has are left out. */
  set(agentSessionId: string, conversationId: string): Promise<void>;
  /** Notes whose a page says it is; the first word counts. Likewise. */
  claim(agentSessionId: string, conversationId: string): Promise<void>;
  /** The conversation, or null. */
  find(agentSessionId: string): Promise<{ conversationId: string; isProven: boolean } | null>;
}

export type AgentConversationsOptions = { storage: TextStorage; log: Logger; ttlSeconds: TtlSeconds };

export function createAgentConversations(options: AgentConversationsOptions): AgentConversations {
  const { storage } = options;
  const records = createTtlStore({
    ...options,
    keyOf: keys.agentConversation,
    schema: recordSchema,
    policy: "on-write",
  });
  return {
    async set(agentSessionId, conversationId) {
      if (!isAgentSessionId(agentSessionId)) return;
      await records.set(agentSessionId, { version: 1, conversationId });
    },
    async claim(agentSessionId, conversationId) {
      if (!isAgentSessionId(agentSessionId)) return;
      const record = { version: 1, conversationId, isClaimed: true };
      await storage.commit([records.createWrite(agentSessionId, record)]);
    },
    async find(agentSessionId) {
      if (!isAgentSessionId(agentSessionId)) return null;
      const record = await records.get(agentSessionId);
      return record === null
        ? null
        : { conversationId: record.conversationId, isProven: record.isClaimed !== true };
    },
  };
}
