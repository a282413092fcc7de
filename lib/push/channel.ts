/**
 * How a message reaches a live session. A channel is one file. Those that accept a session are tried in their
 * order, which is their precedence: one that cannot be reached lets the next one try.
 */
import type { Delivery } from "../result.ts";
import type { PushMessage } from "./message.ts";

/** `reply` is no channel to a session: the tool call that asked for the result waits for it. */
export type ChannelName = "relay" | "proxy" | "monitor" | "socket" | "reply";

/** What a channel may know of a session. */
export type PushableSession = {
  conversationId: string;
  registrationId: string;
  /** The URL exactly as it was registered; absent only for WebRTC. */
  wsUrl?: string | undefined;
  /** The agent's own id of the conversation, where the page knew it. */
  agentSessionId?: string | undefined;
  /** The same, where a server or a connection of our own vouches for it. */
  provenAgentSessionId?: string | undefined;
};

/**
 * What became of a push. `unreachable`: no connection came about. `refused`: the peer answered that it does not
 * want it. Neither was heard. `unconfirmed`: it was sent, and nobody knows whether it was read.
 */
export type PushOutcome =
  | { outcome: "delivered" }
  | { outcome: "unreachable" | "refused" | "unconfirmed"; closeCode?: number };

export interface Channel {
  readonly name: ChannelName;
  /** Whether the session can be reached this way, by its looks alone, with a result of this delivery. */
  accepts(session: PushableSession, delivery: Delivery): boolean;
  /** Sends one message and finds out whether the peer read it. Bounded in time; never throws. */
  push(session: PushableSession, message: PushMessage): Promise<PushOutcome>;
}

/** The channel that a session is reached by, whatever is to be told; null where there is none. */
export function chooseChannel(channels: readonly Channel[], session: PushableSession): Channel | null {
  return (
    channels.find((channel) => channel.accepts(session, "when_idle")) ??
    channels.find((channel) => channel.accepts(session, "silent")) ??
    null
  );
}

/** A push is tried this often, as long as nothing was sent and the first try is not too long ago. */
const MAX_TRIES = 3;
const PAUSES_MS = [100, 400];
const PATIENCE_MS = 2_000;

export type PushOptions = {
  now: () => number;
  wait: (ms: number) => Promise<void>;
  /** Asked before every try: the session may end meanwhile. */
  isThere: () => boolean;
};

/** Pushes by one channel, and tries again where the peer could not be reached. Never throws. */
export async function pushBy(
  channel: Channel,
  session: PushableSession,
  message: PushMessage,
  { now, wait, isThere }: PushOptions,
): Promise<PushOutcome> {
  const start = now();
  for (let tries = 1; ; tries++) {
    if (!isThere()) return { outcome: "unreachable" };
    // A channel that breaks its promise not to throw may have sent something.
    const outcome = await channel
      .push(session, message)
      .catch((): PushOutcome => ({ outcome: "unconfirmed" }));
    if (outcome.outcome !== "unreachable" || tries === MAX_TRIES || now() - start > PATIENCE_MS)
      return outcome;
    await wait(PAUSES_MS[tries - 1] ?? 0);
  }
}
