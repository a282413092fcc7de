/**
 * One outbound WebSocket of a Worker: open it, write one frame, close it, and learn from the closing
 * handshake whether the peer read the frame. A peer answers a close frame only after it has read what came
 * before it, and says 1008 or the like where it did not want it.
 *
 * Workers open outbound sockets by `fetch` with an Upgrade header, on http(s) URLs
 * (developers.cloudflare.com/workers/examples/websockets/#write-a-websocket-client).
 */
import { type After, after, LATE } from "../patience.ts";
import type { PushOutcome } from "./channel.ts";

/** How long the opening handshake, and likewise the closing handshake, may take. */
export const DIAL_DEADLINE_MS = 5_000;

export type DialOptions = {
  url: URL;
  headers?: Record<string, string>;
  /** The text frame to send. */
  frame: string;
  /** Where the peer must speak first: true for the frame that says it is ready. */
  isReady?: (frame: unknown) => boolean;
};

const NORMAL_CLOSURE = 1000;
const NO_STATUS = 1005;

/** Dials, sends one frame and closes. Redirects are not followed: they could lead anywhere. Never throws. */
export async function dialAndSend(
  { url, headers, frame, isReady }: DialOptions,
  by: After = after,
): Promise<PushOutcome> {
  const cut = new AbortController();
  const takeBackOpening = by(DIAL_DEADLINE_MS, () => cut.abort(LATE));
  const opened = await openSocket(url, headers ?? {}, cut.signal);
  takeBackOpening();
  if ("outcome" in opened) return { outcome: opened.outcome };
  const saying = say(opened.socket, frame, isReady);
  const takeBack = by(DIAL_DEADLINE_MS, () => {
    try {
      saying.giveUp();
    } finally {
      // The signal cuts the socket, too: whoever does not close it would hold it for as long as it likes.
      cut.abort(LATE);
    }
  });
  try {
    return await saying.outcome;
  } finally {
    takeBack();
  }
}

function say(
  socket: WebSocket,
  frame: string,
  isReady: DialOptions["isReady"],
): { outcome: Promise<PushOutcome>; giveUp(): void } {
  const { promise: outcome, resolve } = Promise.withResolvers<PushOutcome>();
  let sent = false;
  const fail = () => resolve({ outcome: sent ? "unconfirmed" : "unreachable" });
  const send = () => {
    sent = true;
    socket.send(frame);
    socket.close(NORMAL_CLOSURE, "delivered");
  };
  if (isReady !== undefined)
    socket.addEventListener("message", ({ data }) => {
      if (!sent && isReady(data)) send();
    });
  socket.addEventListener("close", ({ code }) =>
    resolve(sent ? judge(code) : { outcome: "refused", closeCode: code }),
  );
  socket.addEventListener("error", fail);
  socket.accept();
  if (isReady === undefined) send();
  return {
    outcome,
    giveUp() {
      fail();
      socket.close(NORMAL_CLOSURE);
    },
  };
}

/** No connection came about: nobody answered, or the peer did not want one. `status` is that of its answer. */
export type NotOpened = { outcome: "unreachable" | "refused"; status?: number };

/**
 * Opens a WebSocket, not yet accepted. Redirects are not followed. `signal` gives up; aborted later, it would cut the
 * socket too. Never throws.
 */
export async function openSocket(
  url: URL,
  headers: Record<string, string>,
  signal: AbortSignal,
): Promise<{ socket: WebSocket } | NotOpened> {
  try {
    // Of `ws:` and `wss:`, `http:` and `https:`.
    const response = await fetch(url.href.replace(/^ws/, "http"), {
      headers: { ...headers, Upgrade: "websocket" },
      redirect: "manual",
      signal,
    });
    if (response.webSocket) return { socket: response.webSocket };
    await response.body?.cancel();
    const { status } = response;
    return { outcome: status >= 500 ? "unreachable" : "refused", status };
  } catch {
    return { outcome: "unreachable" };
  }
}

/** Closing codes that say of what came before them that it was not taken: https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1 */
export const NOT_TAKEN: ReadonlySet<number> = new Set([1003, 1007, 1008, 1009, 1010]);

function judge(closeCode: number): PushOutcome {
  if (closeCode === NORMAL_CLOSURE || closeCode === NO_STATUS)
    return { outcome: "delivered", proof: "accepted" };
  return { outcome: NOT_TAKEN.has(closeCode) ? "refused" : "unconfirmed", closeCode };
}
