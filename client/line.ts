/**
 * The line to the edge: one WebSocket at a time, opened again whenever it is lost, until it is told to stop or
 * the edge says that it must not come back. Knows frames by their type only.
 */
import type {
  BEARER_SUBPROTOCOL_PREFIX,
  CLOSE_REFUSED,
  CLOSE_REPLACED,
  HelloFrame,
  MAX_RELAY_FRAME_BYTES,
  PageFrame,
  RELAY_PING,
  RELAY_SUBPROTOCOL,
  WelcomeFrame,
} from "../lib/live/relay-protocol.ts";
import type { Page } from "./page.ts";

// Types only are shared with the edge: the compiler holds these to them.
const SUBPROTOCOL: typeof RELAY_SUBPROTOCOL = "agent-session.v1";
const BEARER: typeof BEARER_SUBPROTOCOL_PREFIX = "bearer.";
const PING: typeof RELAY_PING = "ping";
const REPLACED: typeof CLOSE_REPLACED = 4001;
const REFUSED: typeof CLOSE_REFUSED = 1008;
const MAX_FRAME_BYTES: typeof MAX_RELAY_FRAME_BYTES = 65_536;

/** `WebSocket.OPEN`. */
const OPEN = 1;

/** From the request for a token to the welcome. */
const CONNECT_MS = 10_000;
/** Without any frame for this long the page asks whether the edge is still there … */
const PING_AFTER_MS = 25_000;
/** … and takes the line for lost where nothing comes back. */
const PONG_WITHIN_MS = 10_000;
/** The longest wait before a new try: doubled from the first to the last, and then any part of it ("full jitter"). */
const FIRST_BACKOFF_MS = 1_000;
const LONGEST_BACKOFF_MS = 30_000;
/** A line that lived this long owes nothing to the failures before it. */
const STEADY_AFTER_MS = 10_000;

export type LineOptions = {
  url: string;
  getToken: () => string | Promise<string>;
  /** What is said first on each new socket. */
  hello: () => HelloFrame;
  onWelcome: (welcome: WelcomeFrame) => void;
  /** A frame of another type; nothing is known of it but that it is an object. */
  onFrame: (frame: Record<string, unknown>) => void;
  /** The socket was lost; a new one is on its way. */
  onLost: () => void;
  /** The edge wants no more of this line. */
  onEnd: (why: "replaced" | "refused", reason: string) => void;
};

export interface Line {
  /** Sends a frame if the edge has welcomed the page. Returns whether it was sent. */
  send(frame: PageFrame): boolean;
  /** Says goodbye and lets go, until `resume`. */
  pause(): void;
  /** Connects, where the line is paused. */
  resume(): void;
  /** Begins anew, with a new hello. */
  reconnect(): void;
  /** The network changed: looks whether the socket still lives, or tries now what would be tried later. */
  wake(): void;
}

/** A line that is paused; `resume` opens it. Never throws. */
export function createLine(page: Page, options: LineOptions): Line {
  let socket: WebSocket | null = null;
  let phase: "paused" | "waiting" | "connecting" | "live" = "paused";
  let liveSince = 0;
  let failures = 0;
  /** What a `getToken` that answers late finds changed. */
  let attempt = 0;
  /** There is one thing at a time that is waited for. */
  let cancelTimer = () => {};

  function wait(ms: number, work: () => void): void {
    cancelTimer();
    cancelTimer = page.after(ms, work);
  }

  async function connect(): Promise<void> {
    const mine = ++attempt;
    phase = "connecting";
    wait(CONNECT_MS, () => lost(0, ""));
    try {
      const token = await options.getToken();
      if (mine !== attempt) return;
      const opened = page.openSocket(options.url, [SUBPROTOCOL, BEARER + token]);
      socket = opened;
      opened.onopen = () => sendHello(opened);
      opened.onmessage = ({ data }) => receive(data);
      opened.onclose = ({ code, reason }) => lost(code, reason);
    } catch (error) {
      page.complain(error);
      if (mine === attempt) lost(0, "");
    }
  }

  function sendHello(opened: WebSocket): void {
    const { heard, ...rest } = options.hello();
    const hello = JSON.stringify({ ...rest, heard });
    const fits = new TextEncoder().encode(hello).length <= MAX_FRAME_BYTES;
    opened.send(fits ? hello : JSON.stringify(rest));
  }

  /** Lets go of the socket at once: on a dead network the browser would wait for its close event. */
  function drop(): void {
    cancelTimer();
    attempt++;
    if (socket === null) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(1000);
    socket = null;
  }

  function lost(code: number, reason: string): void {
    const wasLive = phase === "live";
    drop();
    if (code === REPLACED || (code === REFUSED && !wasLive)) {
      phase = "paused";
      options.onEnd(code === REPLACED ? "replaced" : "refused", reason);
      return;
    }
    if (wasLive && page.now() - liveSince >= STEADY_AFTER_MS) failures = 0;
    phase = "waiting";
    wait(page.random() * Math.min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** failures++), connect);
    options.onLost();
  }

  function ping(): void {
    socket?.send(PING);
    wait(PONG_WITHIN_MS, () => lost(0, ""));
  }

  function receive(data: unknown): void {
    if (phase === "live") wait(PING_AFTER_MS, ping);
    const frame = parseFrame(data);
    if (frame === null) return;
    if (frame.type === "replaced") {
      lost(REPLACED, "");
    } else if (phase === "live") {
      options.onFrame(frame);
    } else if (isWelcome(frame)) {
      phase = "live";
      liveSince = page.now();
      wait(PING_AFTER_MS, ping);
      options.onWelcome(frame);
    }
  }

  function send(frame: PageFrame): boolean {
    if (phase !== "live" || socket?.readyState !== OPEN) return false;
    socket.send(JSON.stringify(frame));
    return true;
  }

  function connectNow(): void {
    failures = 0;
    void connect();
  }

  return {
    send,
    pause() {
      // An open socket has said hello, welcomed or not.
      if (socket?.readyState === OPEN) socket.send(JSON.stringify({ type: "bye" } satisfies PageFrame));
      phase = "paused";
      drop();
    },
    resume() {
      if (phase === "paused") connectNow();
    },
    reconnect: () => lost(0, ""),
    wake() {
      if (phase === "waiting") connectNow();
      else if (phase === "live") ping();
    },
  };
}

function parseFrame(data: unknown): Record<string, unknown> | null {
  if (typeof data !== "string") return null;
  try {
    const frame: unknown = JSON.parse(data);
    return typeof frame === "object" && frame !== null ? (frame as Record<string, unknown>) : null;
  } catch {
    // `pong` among others.
    return null;
  }
}

function isWelcome(frame: Record<string, unknown>): frame is WelcomeFrame {
  return frame.type === "welcome" && typeof frame.registrationId === "string";
}
