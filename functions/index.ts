/** The Worker: the fetch handler, the entrypoint of other Workers, and the Durable Objects. */
import { type AssistantSessions, createAssistantSessions } from "../lib/assistant-session.ts";
import { openConversation } from "../lib/elevenlabs.ts";
import { type JsonObject, parseExactly, stringifyJson } from "../lib/json.ts";
import { LiveConversation as Live, type LiveConversationParts } from "../lib/live/live-conversation.ts";
import { createLogger } from "../lib/log.ts";
import { type After, endedInTime } from "../lib/patience.ts";
import { requireAllowedUrl } from "../lib/registration.ts";
import type { Answer } from "../lib/rpc.ts";
import { RecordObject, type RecordObjectParts } from "../lib/storage/record-object.ts";
import { app } from "./app.ts";
import { channelsOf, configOf, embeddedStorage, OUT_OF_REACH, redisOf } from "./compose.ts";
import type { Bindings } from "./context.ts";

export { AgentSessions } from "./entrypoint.ts";

/** The one place where a conversation's results are said. */
export class LiveConversation extends Live<Bindings> {
  protected override partsOf(env: Bindings, after: After): LiveConversationParts {
    const parsed = configOf(env);
    if (!parsed.ok) {
      return {
        storage: OUT_OF_REACH,
        channels: [],
        requireAllowed: () => {},
        openAgent: async () => ({ failure: "unreachable" }),
        keepsTranscripts: false,
        conversationTtlSeconds: null,
        outbound: { runner: null, events: null },
        featureEnabled: false,
      };
    }
    const { config } = parsed;
    const storage = redisOf(config, endedInTime(after)) ?? embeddedStorage(env);
    return {
      storage,
      channels: channelsOf(config, storage, after),
      requireAllowed: (registration) => requireAllowedUrl(registration, config),
      openAgent: (agentId, parameters, signal) =>
        openConversation(config.elevenLabs, agentId, parameters, signal),
      keepsTranscripts: config.elevenLabs.transcripts,
      conversationTtlSeconds: config.conversationTtlSeconds,
      outbound: config.outbound,
      featureEnabled: config.featureEnabled,
    };
  }
}

/** The one place where a record of state or memory is written; without a Redis, the storage itself. */
export class StorageObject extends RecordObject<Bindings> {
  readonly #memories: AssistantSessions = createAssistantSessions({
    storage: this.storage,
    log: createLogger({ now: () => Date.now() }),
  });

  protected override partsOf(env: Bindings): RecordObjectParts {
    const parsed = configOf(env);
    if (!parsed.ok) return { redis: OUT_OF_REACH, keepsCopies: true };
    return { redis: redisOf(parsed.config), keepsCopies: parsed.config.outageCopies };
  }

  /** Changes fields of the assistant's memory, given as JSON. Returns the new memory as JSON, null where there is none. */
  updateMemory(conversationId: string, changes: string): Promise<Answer<string | null>> {
    return this.changing(async () => {
      const memory = await this.#memories.updateSession(conversationId, parseExactly(changes) as JsonObject);
      return memory === null ? null : stringifyJson(memory);
    });
  }
}

export default { fetch: app.fetch };
