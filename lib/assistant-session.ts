/**
 * The assistant's memory of a conversation: what the user is looking for, and what was said last. One record
 * under `session:{id}`, which lives 1,800 s from the last read or write. (A *session* everywhere else in this
 * product is a live browser connection, `session-store.ts`; assistants call their memory so, and the names of
 * these functions are theirs.)
 *
 * Fields that the schema does not know are kept as they are. Only `domain` must be given: whoever saves less
 * than everything says that the rest is not known, so it gets the neutral value of its field.
 */
import * as v from "valibot";
import {
  isJsonObject,
  type JsonObject,
  jsonNumber,
  parseExactly,
  requireShallow,
  stringifyJson,
  validate,
} from "./json.ts";
import { conversationIdOf, keys } from "./keys.ts";
import type { Logger } from "./log.ts";
import type { TextStorage } from "./storage/storage.ts";
import { createTtlStore } from "./ttl-store.ts";

export const MEMORY_TTL_SECONDS = 1800;
/** Of the stored text, in UTF-8. As much as a request may bring. */
export const MAX_MEMORY_BYTES = 64 * 1024;

const DOMAINS = ["shopping", "hotel", "restaurants", "flights", "location", "general"] as const;
const PRICE = "must be null or a number of at least 0, of no more digits than a double carries";

const text = v.string("must be text");
const anyObject = v.custom<Record<string, unknown>>(isJsonObject, "must be a JSON object");
const textOrNull = v.nullable(v.string("must be text or null"));

export const sessionStateSchema = v.object({
  domain: v.picklist(DOMAINS, `must be one of ${DOMAINS.join(", ")}`),
  brand: v.optional(textOrNull, null),
  category: v.optional(textOrNull, null),
  /** In whatever currency the assistant speaks of. */
  price: v.optional(v.nullable(v.pipe(jsonNumber(PRICE), v.minValue(0, PRICE))), null),
  city: v.optional(textOrNull, null),
  gender: v.optional(v.nullable(v.picklist(["men", "women"], "must be men, women or null")), null),
  /** What the user's intent is about, in fields of its own kind. */
  intentSpecific: v.optional(anyObject, () => ({})),
  lastQuery: v.optional(text, ""),
  lastAnswer: v.optional(text, ""),
  lastImageUrl: v.optional(textOrNull),
});
export type SessionState = v.InferOutput<typeof sessionStateSchema>;
/** What `saveSession` takes: every field but `domain` may be left out. */
export type SessionStateInput = v.InferInput<typeof sessionStateSchema>;

export const sessionChangesSchema = v.partial(sessionStateSchema);
/** What `updateSession` takes: any of the fields. */
export type SessionChanges = v.InferInput<typeof sessionChangesSchema>;

/**
 * Every method rejects with StorageError where the storage does not answer, and InvalidIdError for what
 * cannot be an id.
 */
export interface AssistantSessions {
  /** The memory, or null. Reading it makes it live another 1,800 s. */
  getSession(conversationId: string): Promise<SessionState | null>;
  /** Writes the whole memory and returns it, complete. Rejects with InvalidRequestError and RecordTooLargeError. */
  saveSession(conversationId: string, state: SessionStateInput | JsonObject): Promise<SessionState>;
  /** Returns whether there was one. */
  clearSession(conversationId: string): Promise<boolean>;
  /**
   * Replaces the named fields whole and returns the new memory; null where there is none, and then nothing is
   * created. Of updates at the same time none is lost. Rejects as `saveSession` does.
   */
  updateSession(conversationId: string, changes: SessionChanges | JsonObject): Promise<SessionState | null>;
  /** Makes the memory live another 1,800 s and returns that; null where there is none. */
  refreshSessionTTL(conversationId: string): Promise<number | null>;
}

export type AssistantSessionsOptions = { storage: TextStorage; log: Logger };

export function createAssistantSessions({ storage, log }: AssistantSessionsOptions): AssistantSessions {
  const records = createTtlStore<SessionState>({
    storage,
    log,
    keyOf: (id) => keys.memory(conversationIdOf(id)),
    schema: sessionStateSchema,
    ttlSeconds: MEMORY_TTL_SECONDS,
    policy: "sliding",
    upgrade: upgradeMemory,
    codec: { parse: parseExactly, stringify: stringifyJson },
    maxBytes: MAX_MEMORY_BYTES,
  });

  return {
    getSession: (conversationId) => records.get(conversationId),

    async saveSession(conversationId, state) {
      const complete = completed(state);
      await records.set(conversationId, complete);
      return complete;
    },

    clearSession: (conversationId) => records.delete(conversationId),

    async updateSession(conversationId, changes) {
      requireShallow(changes);
      validate(sessionChangesSchema, changes);
      return records.update(conversationId, (current) => completed({ ...current, ...changes }));
    },

    refreshSessionTTL: (conversationId) => records.touch(conversationId),
  };
}

/** The first version knew of an intent only whether it was specific. */
function upgradeMemory(value: unknown): unknown {
  if (!isJsonObject(value) || typeof value.intentSpecific !== "boolean") return value;
  return { ...value, intentSpecific: {} };
}

/** The state with every field, unknown ones included. Throws InvalidRequestError. */
function completed(state: object): SessionState {
  requireShallow(state);
  return { ...state, ...validate(sessionStateSchema, state) };
}
