/**
 * The stores of edge-agent-sessions, for a Worker or a program of one's own: the records and keys of the deployed
 * service, in Upstash Redis or in memory. No Durable Object is needed: a change that reads before it writes compares
 * and sets in Redis, so that of changes at the same time none is lost.
 *
 * Nothing is opened or asked before a record is.
 */
import {
  type AssistantSessions,
  createAssistantSessions as assistantSessionsOver,
} from "../lib/assistant-session.ts";
import {
  type ConversationState,
  createStateStore,
  type StateStoreOptions as FullStateStoreOptions,
  type StateStore,
  type StateStoreHealth,
  getConversationStore as storeOfThisIsolate,
} from "../lib/conversation-state.ts";
import { type JsonObject, requireShallow } from "../lib/json.ts";
import { conversationIdOf, keys } from "../lib/keys.ts";
import { createLogger, type Logger } from "../lib/log.ts";
import {
  parseRegistration,
  type RegistrationRequest,
  type SessionRecord,
  type SessionStorage,
  sessionRecord,
  createSessionStore as sessionStoreOver,
} from "../lib/session-store.ts";
import {
  createMemoryStorage as createMemory,
  type MemoryStorage,
  type MemoryStorageOptions,
} from "../lib/storage/memory.ts";
import { createUpstashStorage, type UpstashStorageOptions } from "../lib/storage/upstash.ts";

export {
  type AssistantSessions,
  type SessionChanges,
  type SessionState,
  type SessionStateInput,
  sessionStateSchema,
} from "../lib/assistant-session.ts";
export {
  type ConversationState,
  type StateStore,
  type StateStoreHealth,
  StoreClosedError,
} from "../lib/conversation-state.ts";
export {
  type ConversationRecord,
  conversationRecordSchema,
  type Message,
  newConversationSchema,
  newMessageSchema,
} from "../lib/conversation-store.ts";
export {
  AppError,
  InvalidIdError,
  InvalidRequestError,
  type Issue,
  RecordTooLargeError,
  StorageError,
  type StorageFailure,
} from "../lib/errors.ts";
export type { JsonObject, JsonValue } from "../lib/json.ts";
export type { LogEvent, LogFields, Logger } from "../lib/log.ts";
export { callbackSchema, progressSchema } from "../lib/result.ts";
export {
  type RegistrationRequest,
  registrationRequestSchema,
  type SessionRecord,
  type SessionStorage,
  sessionRecordSchema,
} from "../lib/session-store.ts";
export type { MemoryStorage } from "../lib/storage/memory.ts";
export type { Storage, TextStorage } from "../lib/storage/storage.ts";
export { createUpstashStorage, type UpstashStorageOptions } from "../lib/storage/upstash.ts";

/** Where the records are: a database of Upstash, or a storage that several stores share. */
export type Place = UpstashStorageOptions | { storage: SessionStorage };

export type StoreOptions = Place & {
  /** Told of a record that cannot be read. Default: one line of JSON on the console, which holds key and reasons. */
  log?: Logger | undefined;
  /** The clock, in ms since the epoch. Default: the system's. */
  now?: (() => number) | undefined;
};

export type StateStoreOptions = StoreOptions & Pick<FullStateStoreOptions, "keyPrefix" | "ttlSeconds">;

export interface SessionStore {
  /** The live session of a conversation with its raw payload, or null. Reading does not make it live longer. */
  get(conversationId: string): Promise<SessionRecord | null>;
  /**
   * Registers the live session of a conversation for 600 s, in place of an earlier one, and returns its record. Without
   * `sessionPayload` the whole registration is the raw payload. Rejects with InvalidRequestError where nothing makes it
   * push-capable.
   */
  set(conversationId: string, registration: RegistrationRequest | JsonObject): Promise<SessionRecord>;
  /** Removes the session, or only the one of this registration. Returns whether it was there. */
  delete(conversationId: string, registrationId?: string): Promise<boolean>;
  /** Seconds the session still lives, rounded up; 0 where there is none. */
  secondsLeft(conversationId: string): Promise<number>;
}

/**
 * The live sessions. Every method rejects with StorageError where the storage does not answer, and InvalidIdError for
 * what cannot be an id.
 */
export function createSessionStore(options: StoreOptions): SessionStore {
  const { storage, log, now } = completed(options);
  const records = sessionStoreOver(storage, log);
  return {
    get: async (conversationId) => records.get(conversationIdOf(conversationId)),

    async set(conversationId, registration) {
      requireShallow(registration);
      const session = sessionRecord(
        conversationIdOf(conversationId),
        parseRegistration(registration as JsonObject),
        crypto.randomUUID(),
        now(),
      );
      await records.set(session);
      return session;
    },

    async delete(conversationId, registrationId) {
      const id = conversationIdOf(conversationId);
      if (registrationId !== undefined) return records.delete(id, registrationId);
      const [deleted] = await storage.commit([{ type: "delete", key: keys.session(id) }]);
      return deleted;
    },

    async secondsLeft(conversationId) {
      const session = await records.get(conversationIdOf(conversationId));
      return session === null ? 0 : records.secondsLeft(session, now());
    },
  };
}

/** The assistant's memory of conversations. */
export function createAssistantSessions(options: StoreOptions): AssistantSessions {
  return assistantSessionsOver(completed(options));
}

/** The orchestrator's state of conversations; a store of one's own. */
export class RedisConversationStore implements StateStore {
  readonly #store: StateStore;

  /** Throws RangeError for a prefix or a time to live that cannot be. */
  constructor(options: StateStoreOptions) {
    this.#store = createStateStore(completed(options));
  }

  initialize(): Promise<void> {
    return this.#store.initialize();
  }

  get(conversationId: string): Promise<ConversationState | null> {
    return this.#store.get(conversationId);
  }

  set(conversationId: string, state: ConversationState): Promise<void> {
    return this.#store.set(conversationId, state);
  }

  delete(conversationId: string): Promise<boolean> {
    return this.#store.delete(conversationId);
  }

  refreshTTL(conversationId: string): Promise<number | null> {
    return this.#store.refreshTTL(conversationId);
  }

  getHealth(): Promise<StateStoreHealth> {
    return this.#store.getHealth();
  }

  close(): Promise<void> {
    return this.#store.close();
  }
}

/**
 * The one store of this process or isolate: the first call brings the options, later ones need none. After `close` the
 * next call is the first again. Throws TypeError where nobody has brought options yet.
 */
export function getConversationStore(options?: StateStoreOptions): StateStore {
  return storeOfThisIsolate(options && completed(options));
}

/** Texts in the memory of this process, for tests: the 1,000 that were used last, unless told otherwise. */
export function createMemoryStorage(options: Partial<MemoryStorageOptions> = {}): MemoryStorage {
  return createMemory({ now: Date.now, ...options });
}

function completed<O extends StoreOptions>(options: O) {
  const { now = Date.now, log = createLogger({ now }) } = options;
  const storage: SessionStorage = "storage" in options ? options.storage : createUpstashStorage(options);
  return { ...options, storage, log, now };
}
