/**
 * One outbound WebSocket of a Worker: open it, write one frame, close it, and learn from the closing
 * handshake whether the peer read the frame. A peer answers a close frame only after it has read what came
 * before it, and says 1008 or the like where it did not want it.
 *
 * Workers open outbound sockets by `fetch` with an Upgrade header, on http(s) URLs
 * (developers.cloudflare.com/workers/examples/websockets/#write-a-websocket-client).
 */
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
export async function dialAndSend({ url, headers, frame, isReady }: DialOptions): Promise<PushOutcome> {
  const opened = await open(url, headers);
  if ("outcome" in opened) return opened;
  const { socket } = opened;

  const { promise, resolve } = Promise.withResolvers<PushOutcome>();
  const timer = setTimeout(() => {
    resolve({ outcome: sent ? "unconfirmed" : "unreachable" });
    socket.close(NORMAL_CLOSURE);
  }, DIAL_DEADLINE_MS);
  let sent = false;
  const send = () => {
    sent = true;
    socket.send(frame);
    socket.close(NORMAL_CLOSURE, "delivered");
  };
  socket.addEventListener("message", ({ data }) => {
    if (!sent && isReady?.(data)) send();
  });
  socket.addEventListener("close", ({ code }) =>
    resolve(sent ? judge(code) : { outcome: "refused", closeCode: code }),
  );
  socket.addEventListener("error", () => resolve({ outcome: sent ? "unconfirmed" : "unreachable" }));
  socket.accept();
  if (isReady === undefined) send();

  const result = await promise;
  clearTimeout(timer);
  return result;
}

async function open(
  url: URL,
  headers: Record<string, string> = {},
): Promise<{ socket: WebSocket } | PushOutcome> {
  const target = new URL(url);
  target.protocol = url.protocol === "ws:" ? "http:" : "https:";
  // Cleared once the socket is open: the signal of the handshake would otherwise cut the socket too.
  const deadline = new AbortController();
  const timer = setTimeout(() => deadline.abort(), DIAL_DEADLINE_MS);
  try {
    const response = await fetch(target, {
      headers: { ...headers, Upgrade: "websocket" },
      redirect: "manual",
      signal: deadline.signal,
    });
    if (response.webSocket) return { socket: response.webSocket };
    await response.body?.cancel();
    return { outcome: response.status >= 500 ? "unreachable" : "refused" };
  } catch {
    return { outcome: "unreachable" };
  } finally {
    clearTimeout(timer);
  }
}

/** Closing codes that say of what came before them that it was not taken: https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1 */
const NOT_TAKEN = new Set([1003, 1007, 1008, 1009, 1010]);

function judge(closeCode: number): PushOutcome {
  if (closeCode === NORMAL_CLOSURE || closeCode === NO_STATUS) return { outcome: "delivered" };
  return { outcome: NOT_TAKEN.has(closeCode) ? "refused" : "unconfirmed", closeCode };
}
