/** A page whose SDK connects to its agent through us, over a real WebSocket. */
import { WebSocket } from "ws";
import { handshake } from "./handshake.ts";
import type { Frame } from "./provider.ts";

export type ProxiedPageOptions = {
  agentId?: string;
  token?: string;
  origin?: string;
  /** What the SDK puts behind the URL. */
  query?: string;
  subprotocols?: string[];
};

export type ProxiedPage = Awaited<ReturnType<typeof connectPage>>;

/** Connects and resolves when the handshake is over; rejects with the status where it is refused. */
export async function connectPage(
  base: URL,
  conversationId: string,
  {
    agentId = "agent_1",
    token,
    origin,
    query = "&source=js_sdk&version=1.25.0",
    subprotocols = ["convai"],
  }: ProxiedPageOptions = {},
) {
  const url = new URL(`/agent-conversations/api/${conversationId}/connect?agentId=${agentId}${query}`, base);
  url.protocol = "ws:";
  const offered = [...subprotocols, ...(token === undefined ? [] : [`bearer.${token}`])];
  const socket = new WebSocket(url.href, offered, {
    perMessageDeflate: false,
    ...(origin === undefined ? {} : { origin }),
  });
  const frames: Frame[] = [];
  const waiting = new Set<() => void>();
  const closing = Promise.withResolvers<{ code: number; reason: string }>();
  socket.on("message", (data, isBinary) => {
    frames.push({ data: data as Buffer, isBinary });
    for (const look of waiting) look();
  });
  socket.on("close", (code, reason) => closing.resolve({ code, reason: String(reason) }));
  await handshake(socket);
  socket.on("error", () => {});

  const page = {
    socket,
    /** Everything that came, in order. */
    frames,
    protocol: () => socket.protocol,
    say: (event: object) => socket.send(JSON.stringify(event)),
    /** Resolves when `count` frames have come; rejects after `ms`. */
    received(count: number, ms = 5_000): Promise<Frame[]> {
      const { promise, resolve, reject } = Promise.withResolvers<Frame[]>();
      const timer = setTimeout(() => reject(new Error(`${frames.length} of ${count} frames came`)), ms);
      const look = () => frames.length >= count && resolve(frames);
      waiting.add(look);
      look();
      return promise.finally(() => {
        clearTimeout(timer);
        waiting.delete(look);
      });
    },
    /** How it was closed, now or soon. */
    closed: (): Promise<{ code: number; reason: string }> => closing.promise,
    vanish: () => socket.terminate(),
  };
  return page;
}
