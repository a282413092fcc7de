/** A WebSocket server that plays the edge: it hands every line and every frame to the test, and answers nothing by itself. */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { type WebSocket as ServerSocket, WebSocketServer } from "ws";
import type { EdgeFrame, HelloFrame, PageFrame, PushFrame } from "../../../lib/live/relay-protocol.ts";

/** Things that come in, for a test that waits for them in their order. */
function createInbox<T>() {
  const items: T[] = [];
  const takers: ((item: T) => void)[] = [];
  return {
    put(item: T) {
      const taker = takers.shift();
      if (taker) taker(item);
      else items.push(item);
    },
    take(what: string): Promise<T> {
      const item = items.shift();
      if (item !== undefined) return Promise.resolve(item);
      return new Promise((resolve, reject) => {
        const late = setTimeout(() => reject(new Error(`${what}: nothing within 3 s`)), 3_000);
        takers.push((taken) => {
          clearTimeout(late);
          resolve(taken);
        });
      });
    },
    pending: () => [...items],
  };
}

export type EdgeLine = {
  path: string;
  /** The subprotocols that the page offered. */
  offered: string[];
  /** The next frame from the page; the keepalive as its plain text. */
  next(): Promise<PageFrame | string>;
  /** Frames that came and were not taken. */
  pending(): (PageFrame | string)[];
  send(frame: EdgeFrame | Record<string, unknown>): void;
  sendText(text: string | Uint8Array): void;
  welcome(): void;
  /** Closes with a handshake. */
  close(code: number, reason?: string): void;
  /** Drops the TCP connection. */
  cut(): void;
  /** The code that the page closed with. */
  closed: Promise<number>;
};

export type Edge = {
  baseUrl: string;
  nextLine(): Promise<EdgeLine>;
  /** Takes the next line, reads its hello and welcomes it. */
  welcomed(): Promise<{ line: EdgeLine; hello: HelloFrame }>;
  /** Lines so far. */
  count(): number;
  stop(): Promise<void>;
};

export async function startEdge(): Promise<Edge> {
  const lines = createInbox<EdgeLine>();
  let count = 0;
  const server = new WebSocketServer({
    port: 0,
    host: "127.0.0.1",
    handleProtocols: () => "agent-session.v1",
  });
  server.on("connection", (socket, request) => {
    count++;
    const offered = request.headers["sec-websocket-protocol"]?.split(/,\s*/) ?? [];
    lines.put(edgeLine(socket, request.url ?? "", offered));
  });
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;

  const edge: Edge = {
    baseUrl: `http://127.0.0.1:${port}`,
    nextLine: () => lines.take("a line"),
    async welcomed() {
      const line = await edge.nextLine();
      const hello = await line.next();
      if (typeof hello === "string" || hello.type !== "hello") throw new Error("hello comes first");
      line.welcome();
      return { line, hello };
    },
    count: () => count,
    async stop() {
      for (const client of server.clients) client.terminate();
      server.close();
      await once(server, "close");
    },
  };
  return edge;
}

function edgeLine(socket: ServerSocket, path: string, offered: string[]): EdgeLine {
  const frames = createInbox<PageFrame | string>();
  socket.on("message", (data) => {
    const text = String(data);
    frames.put(text.startsWith("{") ? (JSON.parse(text) as PageFrame) : text);
  });
  const send = (frame: object) => socket.send(JSON.stringify(frame));
  return {
    path,
    offered,
    next: () => frames.take("a frame"),
    pending: frames.pending,
    send,
    sendText: (text) => socket.send(text),
    welcome: () =>
      send({
        type: "welcome",
        conversationId: "c1",
        registrationId: "r1",
        expiresAt: "2026-01-01T00:00:00Z",
      }),
    close: (code, reason) => socket.close(code, reason),
    cut: () => socket.terminate(),
    closed: new Promise((resolve) => socket.on("close", resolve)),
  };
}

/** A push of these results. */
export function pushOf(requestIds: string[], fields: Partial<PushFrame> = {}): PushFrame {
  return {
    type: "push",
    pushId: `push:${requestIds.join()}`,
    requestIds,
    delivery: "when_idle",
    text: `text of ${requestIds.join()}`,
    results: requestIds.map((requestId) => ({ requestId, success: true, output: "done" })),
    ...fields,
  };
}
