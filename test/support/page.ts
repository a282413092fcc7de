/** A page that holds a line to the Worker, over a real WebSocket; what the browser client does by itself a test does by hand. */
import { WebSocket } from "ws";
import { handshake } from "./handshake.ts";

export type Received = { type: string; [field: string]: unknown };
export type PushReceived = Received & {
  pushId: string;
  requestIds: string[];
  delivery: string;
  text: string;
};

export type PageOptions = {
  token?: string;
  origin?: string;
  /** Besides the bearer. */
  subprotocols?: string[];
  /** Whether it offers to compress frames, as browsers do. Default: it does. */
  compresses?: boolean;
};

export type Page = Awaited<ReturnType<typeof openPage>>;

/** Opens a line of a conversation and resolves when the handshake is over; rejects with the status where it is refused. */
export async function openPage(
  base: URL,
  conversationId: string,
  { token, origin, subprotocols = ["agent-session.v1"], compresses = true }: PageOptions = {},
) {
  const url = new URL(`/agent-conversations/api/${conversationId}/stream`, base);
  url.protocol = "ws:";
  const offered = [...subprotocols, ...(token === undefined ? [] : [`bearer.${token}`])];
  const socket = new WebSocket(url.href, offered, {
    perMessageDeflate: compresses,
    ...(origin === undefined ? {} : { origin }),
  });
  const frames: (Received | string)[] = [];
  const waiting = new Set<() => void>();
  let closing: { code: number; reason: string } | null = null;
  const wake = () => {
    for (const look of waiting) look();
  };
  socket.on("message", (data) => {
    const text = String(data);
    frames.push(text.startsWith("{") ? (JSON.parse(text) as Received) : text);
    wake();
  });
  socket.on("close", (code, reason) => {
    closing = { code, reason: String(reason) };
    wake();
  });
  await handshake(socket);
  socket.on("error", () => {});

  /** Resolves with what `find` finds, now or soon; rejects after `ms`. */
  function eventually<T>(what: string, find: () => T | null | undefined, ms = 8_000): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const timer = setTimeout(
      () => reject(new Error(`no ${what}; came: ${JSON.stringify(frames)}, ${JSON.stringify(closing)}`)),
      ms,
    );
    const look = () => {
      const found = find();
      if (found !== null && found !== undefined) resolve(found);
    };
    waiting.add(look);
    look();
    return promise.finally(() => {
      clearTimeout(timer);
      waiting.delete(look);
    });
  }

  const page = {
    socket,
    /** Everything that came, in order. */
    frames,
    protocol: () => socket.protocol,
    send: (frame: unknown) => socket.send(typeof frame === "string" ? frame : JSON.stringify(frame)),
    /** Says hello and resolves with the welcome. */
    async hello(fields: object = {}): Promise<Received> {
      page.send({ type: "hello", ...fields });
      return page.frame("welcome");
    },
    /** The `n`th frame of a type, the first by default. */
    frame: (type: string, n = 1): Promise<Received> =>
      eventually(`frame ${n} of ${type}`, () => page.framesOf(type)[n - 1]),
    framesOf: (type: string): Received[] =>
      frames.filter((frame): frame is Received => typeof frame === "object" && frame.type === type),
    push: (n = 1): Promise<PushReceived> => page.frame("push", n) as Promise<PushReceived>,
    pushes: (): PushReceived[] => page.framesOf("push") as PushReceived[],
    ack: (requestIds: string[]) => page.send({ type: "ack", requestIds }),
    /** How the line was closed, now or soon. */
    closed: () => eventually("close", () => closing),
    isOpen: () => socket.readyState === WebSocket.OPEN,
    /** Says nothing more, not even goodbye. */
    vanish: () => socket.terminate(),
    leave() {
      page.send({ type: "bye" });
      socket.close(1000);
    },
    eventually,
  };
  return page;
}
