/**
 * How a message reaches a live session. A channel is one file. Those that accept a session are tried in their
 * order, which is their precedence: one that cannot be reached lets the next one try.
 */
import type { Delivery } from "../result.ts";
import type { PushMessage } from "./message.ts";

/** `reply` is no channel to a session: the tool call that asked for the result waits for it. */
export const CHANNEL_NAMES = ["relay", "proxy", "monitor", "socket", "reply"] as const;
/** One of those, or the name of a provider (`providers.ts`), which a text of an earlier or a later version may call otherwise. */
export type ChannelName = string;

/**
 * What is known of a push that counts as delivered, the weakest first. `accepted`: whoever speaks to the agent took it.
 * `in_context`: the agent has it before it. `speaking`: the agent has begun an answer with it before it. `heard`: a page
 * says that its user was told.
 */
export const PROOFS = ["accepted", "in_context", "speaking", "heard"] as const;
export type Proof = (typeof PROOFS)[number];

/** What a channel may know of a session. */
export type PushableSession = {
  conversationId: string;
  registrationId: string;
  /** Who hosts the agent; ElevenLabs where it does not say. */
  provider?: string | undefined;
  /** Where a running call takes commands, with a provider that has an address for each. */
  controlUrl?: string | undefined;
  /** The URL exactly as it was registered; absent only for WebRTC. */
  wsUrl?: string | undefined;
  /** The agent's own id of the conversation, where the page knew it. */
  agentSessionId?: string | undefined;
  /** The same, where a server or a connection of our own vouches for it. */
  provenAgentSessionId?: string | undefined;
};

/**
 * What became of a push. `unreachable`: no connection came about. `refused`: the peer answered that it does not
 * want it. `ended`: it answered that the agent conversation is over. None of them was heard. `unconfirmed`: it was
 * sent, and nobody knows whether it was read.
 *
 * `manner`: how it was told, where the channel could not do as was asked. `httpStatus`: of an answer that was no success.
 */
export type PushOutcome =
  | { outcome: "delivered"; proof?: Proof; manner?: Delivery }
  | {
      outcome: "unreachable" | "refused" | "ended" | "unconfirmed";
      closeCode?: number;
      httpStatus?: number;
    };

export interface Channel {
  readonly name: ChannelName;
  /** The longest text it takes, in bytes of UTF-8, where that is less than any message has. */
  readonly maxBytes?: number | undefined;
  /** Whether the peer ignores what comes again under the same `pushId`, so that what is unconfirmed may be sent again. */
  readonly dedupes?: boolean;
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

/** Pushes by one channel, and tries again where the peer could not be reached, or knows what it has had. Never throws. */
export async function pushBy(
  channel: Channel,
  session: PushableSession,
  message: PushMessage,
  { now, wait, isThere }: PushOptions,
): Promise<PushOutcome> {
  const start = now();
  /** What an earlier try left open: nothing that is answered to a later one says that it was not heard. */
  let open: PushOutcome | null = null;
  for (let tries = 1; ; tries++) {
    if (!isThere()) return open ?? { outcome: "unreachable" };
    // A channel that breaks its promise not to throw may have sent something.
    const outcome = await channel
      .push(session, message)
      .catch((): PushOutcome => ({ outcome: "unconfirmed" }));
    if (outcome.outcome === "unconfirmed" && channel.dedupes === true) open = outcome;
    const mayRepeat =
      open === null
        ? outcome.outcome === "unreachable" && now() - start <= PATIENCE_MS
        : outcome.outcome !== "delivered";
    if (!mayRepeat || tries === MAX_TRIES)
      return outcome.outcome === "delivered" ? outcome : (open ?? outcome);
    await wait(PAUSES_MS[tries - 1] ?? 0);
  }
}
