/**
 * The orchestrator's state of a conversation: one JSON object under `conv:{id}`, which lives an hour from the
 * last write. What is in it is the orchestrator's business; it comes back as it was written, Dates included.
 *
 * Not to be confused with `conversation-store.ts`, which holds the conversations themselves and their messages. `getConversationStore` is the store of this isolate by the name that orchestrators know;
 * `createStateStore` makes one of your own, with another prefix or another time to live.
 *
 * How a Date is stored, and why no data can be taken for one, stands in `dated-json.ts`: in the record it is
 * `{"$date": "<ISO 8601>"}`, in an HTTP answer an ISO 8601 text. A text that looks like a date stays a text.
 */
import * as v from "valibot";
import { type DatedObject, parseDated, stringifyDated } from "./dated-json.ts";
import { AppError, InvalidRequestError, StorageError } from "./errors.ts";
import { isJsonObject, requireShallow } from "./json.ts";
import { conversationIdOf, keys, statePrefixOf } from "./keys.ts";
import type { Logger } from "./log.ts";
import type { TextStorage } from "./storage/storage.ts";
import { createTtlStore } from "./ttl-store.ts";

export const STATE_TTL_SECONDS = 3600;
export const MAX_STATE_TTL_SECONDS = 30 * 24 * 3600;
/** Of the stored text, in UTF-8. As much as a request may bring. */
export const MAX_STATE_BYTES = 64 * 1024;

/** A plain object; neither a list nor an instance of anything, because those would come back as something else. */
const stateSchema = v.custom<DatedObject>(isPlainObject, "must be a JSON object");
export type ConversationState = v.InferOutput<typeof stateSchema>;

export type StateStoreOptions = {
  storage: TextStorage;
  log: Logger;
  /** The clock, in ms since the epoch. */
  now: () => number;
  /** What the keys begin with, taken literally. Default `conv:`. Stores must not share one that is the beginning of another. */
  keyPrefix?: string;
  /** Seconds from the last write, whole, at most 30 days. Default 3,600. */
  ttlSeconds?: number;
};

export type StateStoreHealth = {
  /** Whether the storage that ought to be used answers. */
  connected: boolean;
  latencyMs: number;
  /** Whether something stands in for it, so that states are kept all the same. */
  usingFallback: boolean;
  /** What went wrong last, as a `StorageFailure`. */
  lastError?: string;
};

/** The store was closed. */
export class StoreClosedError extends AppError {
  override readonly name = "StoreClosedError";
  readonly code = "store_closed";
  constructor() {
    super("The store has been closed.");
  }
}

/**
 * Every method rejects with StorageError where the storage does not answer, InvalidIdError for what cannot be
 * an id, and StoreClosedError once the store is closed.
 */
export interface StateStore {
  /** Resolves when the storage answers. Nothing has to be initialised; this only says early what would fail later. */
  initialize(): Promise<void>;
  /** The state, or null. Reading does not make it live longer. */
  get(conversationId: string): Promise<ConversationState | null>;
  /**
   * Writes the whole state and restarts its time to live. Rejects with InvalidRequestError where it is no
   * plain object or nested deeper than 100 levels, RecordTooLargeError above 64 KiB.
   */
  set(conversationId: string, state: ConversationState): Promise<void>;
  /** Returns whether there was one. */
  delete(conversationId: string): Promise<boolean>;
  /** Restarts the time to live and returns it in seconds; null where there is no state. */
  refreshTTL(conversationId: string): Promise<number | null>;
  /** Never rejects because of the storage: that it does not answer is the answer. */
  getHealth(): Promise<StateStoreHealth>;
  /** Ends the use of this store; the storage stays as it is. */
  close(): Promise<void>;
}

/** A store of states over `storage`. Throws RangeError for a prefix or a time to live that cannot be. */
export function createStateStore(options: StateStoreOptions): StateStore {
  const { storage, log, now, ttlSeconds = STATE_TTL_SECONDS } = options;
  const prefix = statePrefixOf(options.keyPrefix ?? keys.state(""));
  if (!Number.isInteger(ttlSeconds) || ttlSeconds < 1 || ttlSeconds > MAX_STATE_TTL_SECONDS) {
    throw new RangeError(`ttlSeconds must be a whole number from 1 to ${MAX_STATE_TTL_SECONDS}`);
  }
  const records = createTtlStore({
    storage,
    log,
    keyOf: (id) => keys.state(conversationIdOf(id), prefix),
    schema: stateSchema,
    ttlSeconds,
    policy: "on-write",
    codec: { parse: parseDated, stringify: stringifyDated },
    maxBytes: MAX_STATE_BYTES,
  });
  let isClosed = false;

  function requireOpen(): void {
    if (isClosed) throw new StoreClosedError();
  }

  return {
    async initialize() {
      requireOpen();
      await storage.ping();
    },

    async get(conversationId) {
      requireOpen();
      return records.get(conversationId);
    },

    async set(conversationId, state) {
      requireOpen();
      if (!isPlainObject(state)) throw new InvalidRequestError("A state must be a JSON object.");
      requireShallow(state);
      await records.set(conversationId, state);
    },

    async delete(conversationId) {
      requireOpen();
      return records.delete(conversationId);
    },

    async refreshTTL(conversationId) {
      requireOpen();
      return records.touch(conversationId);
    },

    async getHealth() {
      requireOpen();
      const start = now();
      let failure: string | undefined;
      try {
        await storage.ping();
      } catch (error) {
        if (!(error instanceof StorageError)) throw error;
        failure = error.failure;
      }
      const { usingFallback, lastError = failure } = storage.health?.() ?? { usingFallback: false };
      return {
        connected: failure === undefined && !usingFallback,
        latencyMs: now() - start,
        usingFallback,
        ...(lastError === undefined ? {} : { lastError }),
      };
    },

    async close() {
      isClosed = true;
    },
  };
}

let ofThisIsolate: StateStore | undefined;

/**
 * The store of this isolate: made by the first call, which brings the options, and the same for every later
 * one, which need not bring any. Nothing is opened or asked before a state is. A Worker has its storage only
 * once it has its environment, which is why the first call cannot be without; it belongs where the Worker is
 * put together. The storage must be one that any request may use (a driver, not a request's own wrapping).
 * After `close` the next call is the first again. Throws TypeError where nobody has brought options yet.
 */
export function getConversationStore(options?: StateStoreOptions): StateStore {
  if (ofThisIsolate !== undefined) return ofThisIsolate;
  if (options === undefined) {
    throw new TypeError("the first call of getConversationStore in an isolate must bring its options");
  }
  const { close, ...rest } = createStateStore(options);
  const store: StateStore = {
    ...rest,
    async close() {
      if (ofThisIsolate === store) ofThisIsolate = undefined;
      await close();
    },
  };
  ofThisIsolate = store;
  return store;
}

function isPlainObject(value: unknown): value is DatedObject {
  if (!isJsonObject(value)) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  // An object of another realm has another Object.prototype, whose own prototype is null all the same.
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}
