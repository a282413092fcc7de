/**
 * The frames of the relay, `GET …/:id/stream`: what a page and the edge say to each other. JSON texts, but for
 * the two of the keepalive. The browser client imports types from here and nothing else, so this file holds
 * nothing that a page would have to download.
 */

/** Selected by the edge, as it was offered. The token travels as a second offer, which is never selected. */
export const RELAY_SUBPROTOCOL = "agent-session.v1";
export const BEARER_SUBPROTOCOL_PREFIX = "bearer.";

/** The keepalive; answered without waking the conversation's object. */
export const RELAY_PING = "ping";
export const RELAY_PONG = "pong";

/** Another line has taken the place of this one. */
export const CLOSE_REPLACED = 4001;
/** The page broke a rule, which the reason names. */
export const CLOSE_REFUSED = 1008;

/** The longest frame that a page may send, in bytes of UTF-8. */
export const MAX_RELAY_FRAME_BYTES = 65_536;

/** When results are said: when nobody is speaking, at once, or as context without the agent speaking. */
export type RelayDelivery = "when_idle" | "interrupt" | "silent";

/** The live session that a page registers, as in the body of `POST …/session`. Fields of its own are kept. */
export type PageSession = {
  /** The conversation URL that the page was given; without it the session is reached by its line alone. */
  sessionUrl?: string;
  /** The raw push-capable payload; where it is left out, the whole object is. */
  sessionPayload?: unknown;
  /** The page's own note, ISO 8601. */
  expiresAt?: string;
  agentSessionId?: string;
  transport?: "websocket" | "webrtc";
  metadata?: Record<string, unknown>;
  [kept: string]: unknown;
};

/** The page's first frame: attaching is the registration. */
export type HelloFrame = {
  type: "hello";
  session?: PageSession;
  agentSessionId?: string;
  /**
   * Every result that was said in this agent conversation, by its requestId; `{requestId}#{again}` where it was to be
   * said again. Left out where that is not known for sure.
   */
  heard?: string[];
};
/** Was said to the agent. */
export type AckFrame = { type: "ack"; requestIds: string[] };
/** Was not said, and will not be. */
export type NackFrame = { type: "nack"; requestIds: string[]; reason: string };
/** What the agent is doing. */
export type ModeFrame = { type: "mode"; mode: "speaking" | "listening" };
/** A sign of the user speaking. */
export type ActivityFrame = { type: "activity" };
/** The page goes; the session ends with it. */
export type ByeFrame = { type: "bye" };

export type PageFrame = HelloFrame | AckFrame | NackFrame | ModeFrame | ActivityFrame | ByeFrame;

export type WelcomeFrame = {
  type: "welcome";
  conversationId: string;
  registrationId: string;
  /** ISO 8601. */
  expiresAt: string;
};

/** A result as a page is told it. */
export type RelayResult = {
  requestId: string;
  success: boolean;
  toolName?: string;
  output?: unknown;
  error?: unknown;
  /** An operator wants it said once more, though it may have been said already: for the how manieth time. */
  again?: number;
};

/** Something to say to the agent: `text`, which tells one or more results. */
export type PushFrame = {
  type: "push";
  pushId: string;
  requestIds: string[];
  delivery: RelayDelivery;
  text: string;
  results: RelayResult[];
};

/** How far a task has come, to say to the agent. Nobody waits for an acknowledgement, and a page may ignore it. */
export type ProgressFrame = {
  type: "progress";
  requestId: string;
  /** A higher one is newer. */
  seq: number;
  delivery: RelayDelivery;
  text: string;
};

/** Followed by close 4001. */
export type ReplacedFrame = { type: "replaced" };

export type EdgeFrame = WelcomeFrame | PushFrame | ProgressFrame | ReplacedFrame;
