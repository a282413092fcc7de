/**
 * Everything the flows of the domain need, wired together once: the stores over one storage, the channels,
 * the clock and the log.
 */
import { type AssistantSessions, createAssistantSessions } from "./assistant-session.ts";
import { type CallbackStore, createCallbackStore } from "./callback-store.ts";
import { createStateStore, type StateStore } from "./conversation-state.ts";
import { type ConversationStore, createConversationStore } from "./conversation-store.ts";
import { StorageError } from "./errors.ts";
import type { Logger } from "./log.ts";
import type { Channel } from "./push/channel.ts";
import { createSessionStore, type SessionStore } from "./session-store.ts";
import type { Storage, TtlSeconds, Write, WriteResults } from "./storage/storage.ts";
import type { Turns } from "./turns.ts";

export type Core = {
  storage: Storage;
  sessions: SessionStore;
  conversations: ConversationStore;
  callbacks: CallbackStore;
  /** The orchestrator's. */
  states: StateStore;
  /** The assistant's. */
  memories: AssistantSessions;
  /** In the order of their precedence. */
  channels: readonly Channel[];
  log: Logger;
  /** The clock, in ms since the epoch. */
  now: () => number;
  wait: (ms: number) => Promise<void>;
  /** Does the work beside the answer, and keeps it alive after the answer has been given. */
  afterResponse: (work: () => Promise<unknown>) => void;
};

export type CoreOptions = Pick<Core, "storage" | "channels" | "log" | "now" | "wait" | "afterResponse"> & {
  conversationTtlSeconds: TtlSeconds;
  stateTtlSeconds: number;
  /** Where the assistant's memory is kept, if not in `storage`. */
  memoryStorage?: Storage | undefined;
  /** Of this isolate. */
  turns: Turns;
};

export function createCore(options: CoreOptions): Core {
  const { conversationTtlSeconds, stateTtlSeconds, memoryStorage, turns, ...given } = options;
  const { storage, log, now, wait } = given;
  return {
    ...given,
    sessions: createSessionStore(storage, log),
    conversations: createConversationStore({ storage, log, now, ttlSeconds: conversationTtlSeconds }),
    callbacks: createCallbackStore(storage, log, now),
    states: createStateStore({ storage, log, now, ttlSeconds: stateTtlSeconds }),
    memories: createAssistantSessions({
      storage: memoryStorage ?? storage,
      log,
      contention: { turns, wait },
    }),
  };
}

/** Waits between the attempts of `commitStubbornly`, in ms. */
const SETTLE_RETRIES_MS = [200, 600];

/**
 * Commits what must not be lost because a push has already happened: a storage error is tried again while the
 * claim holds. Every write may be one that is applied twice without harm. Throws StorageError in the end.
 */
export async function commitStubbornly<const W extends readonly Write[]>(
  writes: W,
  { storage, wait }: Pick<Core, "storage" | "wait">,
): Promise<WriteResults<W>> {
  for (const ms of SETTLE_RETRIES_MS) {
    try {
      return await storage.commit(writes);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      await wait(ms);
    }
  }
  return storage.commit(writes);
}
