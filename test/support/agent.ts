/** A WebSocket server that stands for a self-hosted agent and behaves as a test wants it to. */
import { createServer as createHttpServer } from "node:http";
import { createServer, type Socket } from "node:net";
import { WebSocketServer } from "ws";

export type AgentBehaviour =
  /** Reads and completes the closing handshake. */
  | "reads"
  /** Closes with 1008 at the first frame, as ElevenLabs does with a malformed one. */
  | "refuses-frames"
  /** Reads the first frame, and then goes away with 1011, as a server does that breaks. */
  | "breaks"
  /** Drops the TCP connection after the first frame. */
  | "drops"
  /** Reads, and never answers the closing handshake. */
  | "never-closes"
  /** Takes the TCP connection and never answers the opening handshake. */
  | "silent"
  /** Answers the opening handshake with 403. */
  | "forbids"
  /** Answers the opening handshake with a redirect to somewhere else. */
  | "redirects";

export type TestAgent = {
  url: string;
  /** Text frames received, in order. */
  frames: string[];
  /** TCP connections taken. */
  connections: () => number;
  /** Those of them that are still there. */
  open: () => number;
  /** Resolves when `count` frames have come; rejects after five seconds. */
  received(count: number): Promise<string[]>;
  close(): Promise<void>;
};

export async function startAgent(behaviour: AgentBehaviour = "reads", redirectTo = ""): Promise<TestAgent> {
  const frames: string[] = [];
  const waiting = new Set<() => void>();
  const sockets = new Set<Socket>();
  let connections = 0;
  const websockets = new WebSocketServer({ noServer: true });
  websockets.on("connection", (socket) => {
    socket.on("message", (data) => {
      frames.push(String(data));
      for (const wake of waiting) wake();
      // The library would answer a close frame by itself.
      if (behaviour === "never-closes") socket.close = () => {};
      if (behaviour === "refuses-frames") socket.close(1008, "Invalid message received");
      if (behaviour === "breaks") socket.close(1011, "internal error");
      if (behaviour === "drops") socket.terminate();
    });
  });

  const http = createHttpServer();
  http.on("upgrade", (request, socket, head) => {
    if (behaviour === "forbids") return socket.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
    if (behaviour === "redirects") {
      return socket.end(`HTTP/1.1 302 Found\r\nlocation: ${redirectTo}\r\ncontent-length: 0\r\n\r\n`);
    }
    return websockets.handleUpgrade(request, socket, head, (opened) =>
      websockets.emit("connection", opened, request),
    );
  });
  const server = behaviour === "silent" ? createServer() : http;
  server.on("connection", (socket: Socket) => {
    connections += 1;
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };

  return {
    url: `ws://127.0.0.1:${port}/agent?token=agent-secret`,
    frames,
    connections: () => connections,
    open: () => sockets.size,
    received(count) {
      const { promise, resolve, reject } = Promise.withResolvers<string[]>();
      const timer = setTimeout(() => reject(new Error(`${frames.length} of ${count} frames came`)), 5_000);
      const look = () => frames.length >= count && resolve(frames);
      waiting.add(look);
      look();
      return promise.finally(() => {
        clearTimeout(timer);
        waiting.delete(look);
      });
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
