/**
 * Everything the flows of the domain need, wired together once: the stores over one storage, the channels,
 * the clock and the log.
 */
import { type CallbackStore, createCallbackStore } from "./callback-store.ts";
import { type ConversationStore, createConversationStore } from "./conversation-store.ts";
import type { Logger } from "./log.ts";
import type { Channel } from "./push/channel.ts";
import { createSessionStore, type SessionStore } from "./session-store.ts";
import type { Storage, TtlSeconds } from "./storage/storage.ts";

export type Core = {
  storage: Storage;
  sessions: SessionStore;
  conversations: ConversationStore;
  callbacks: CallbackStore;
  /** In the order of their precedence. */
  channels: readonly Channel[];
  log: Logger;
  /** The clock, in ms since the epoch. */
  now: () => number;
  wait: (ms: number) => Promise<void>;
  /** Keeps the work alive after the answer has been given. */
  afterResponse: (work: Promise<unknown>) => void;
};

export type CoreOptions = Pick<Core, "storage" | "channels" | "log" | "now" | "wait" | "afterResponse"> & {
  conversationTtlSeconds: TtlSeconds;
};

export function createCore({ conversationTtlSeconds, ...given }: CoreOptions): Core {
  const { storage, log, now } = given;
  return {
    ...given,
    sessions: createSessionStore(storage, log),
    conversations: createConversationStore({ storage, log, now, ttlSeconds: conversationTtlSeconds }),
    callbacks: createCallbackStore(storage, log, now),
  };
}
