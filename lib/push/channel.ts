/**
 * How a message reaches a live session. A channel is one file; `chooseChannel` takes the first that accepts
 * the session, so their order is their precedence.
 */
import type { PushMessage } from "./message.ts";

export type ChannelName = "relay" | "proxy" | "monitor" | "socket";

/** What a channel may know of a session. */
export type PushableSession = {
  conversationId: string;
  /** The URL exactly as it was registered; absent only for WebRTC. */
  wsUrl?: string | undefined;
  /** The agent's own id of the conversation, where the page knew it. */
  agentSessionId?: string | undefined;
};

/**
 * Why a push failed. `unreachable`: no connection came about, and nothing was sent. `refused`: the peer
 * answered and does not want it. `deadline`: no answer in time. `disconnected`: the connection broke after
 * the frame was sent, so that nobody knows whether it was read.
 */
export type PushFailure = "unreachable" | "refused" | "deadline" | "disconnected";

export type PushResult = { ok: true } | { ok: false; failure: PushFailure; closeCode?: number };

export interface Channel {
  readonly name: ChannelName;
  /** Whether the session can be reached this way, by its looks alone. */
  accepts(session: PushableSession): boolean;
  /** Sends one message and finds out whether the peer read it. Bounded in time; never throws. */
  push(session: PushableSession, message: PushMessage): Promise<PushResult>;
}

export function chooseChannel(channels: readonly Channel[], session: PushableSession): Channel | null {
  return channels.find((channel) => channel.accepts(session)) ?? null;
}

/** A push is tried this often, as long as nothing was sent. */
export const MAX_PUSH_ATTEMPTS = 3;
const BACKOFF_MS = [100, 400];

export type Attempts = {
  /** Asked before every attempt: the session may expire meanwhile. */
  stillLive: () => boolean;
  wait: (ms: number) => Promise<void>;
};

export type PushOutcome = PushResult | { ok: false; failure: "expired" };

/**
 * Pushes with up to three attempts. Only `unreachable` is tried again: after anything else the peer may
 * have read the frame, or has said that it will not.
 */
export async function pushWithRetries(
  channel: Channel,
  session: PushableSession,
  message: PushMessage,
  { stillLive, wait }: Attempts,
): Promise<{ outcome: PushOutcome; attempts: number }> {
  for (let attempts = 0; ; ) {
    if (!stillLive()) return { outcome: { ok: false, failure: "expired" }, attempts };
    const outcome = await channel.push(session, message);
    attempts += 1;
    if (outcome.ok || outcome.failure !== "unreachable" || attempts === MAX_PUSH_ATTEMPTS) {
      return { outcome, attempts };
    }
    await wait(BACKOFF_MS[attempts - 1] ?? 0);
  }
}
