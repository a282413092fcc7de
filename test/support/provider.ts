/**
 * ElevenLabs as far as an agent conversation needs it: signed URLs over HTTP, and the WebSocket that each of them
 * opens. What it answers and says is the test's.
 */
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { type WebSocket, WebSocketServer } from "ws";

export type Frame = { data: Buffer; isBinary: boolean };

/** One agent conversation, as the provider has it. */
export type ProviderConversation = {
  agentSessionId: string;
  /** Path and query of the URL that opened it. */
  path: string;
  headers: IncomingHttpHeaders;
  socket: WebSocket;
  /** What came, in order. */
  frames: Frame[];
  /** Says an event. */
  say(event: object): void;
  /** Resolves when `count` frames have come; rejects after five seconds. */
  received(count: number): Promise<Frame[]>;
  /** How it was closed from the other side. */
  closed: Promise<{ code: number; reason: string }>;
};

export type ProviderOptions = {
  /** Answers a request for a signed URL. Default: with one. */
  answer?: (response: ServerResponse, signedUrl: string) => void;
  /** Takes an upgrade in place of opening a conversation. Returns whether it did. */
  upgrade?: (socket: Socket, request: IncomingMessage) => boolean;
  /** What is said to a new conversation first. Default: its metadata, at once. */
  greet?: (conversation: ProviderConversation) => void;
};

export type TestProvider = {
  /** The origin of its API. */
  url: string;
  /** How it behaves from now on. */
  options: ProviderOptions;
  /** The requests for signed URLs. */
  asked: { path: string; headers: IncomingHttpHeaders }[];
  conversations: ProviderConversation[];
  /** The conversation that is opened as the `count`th, from 1; rejects after five seconds. */
  opened(count: number): Promise<ProviderConversation>;
  close(): Promise<void>;
};

export const SIGNATURE = "provider-signature-7f3a";

export function metadata(agentSessionId: string, format = "pcm_16000"): object {
  return {
    type: "conversation_initiation_metadata",
    conversation_initiation_metadata_event: {
      conversation_id: agentSessionId,
      agent_output_audio_format: format,
      user_input_audio_format: "pcm_16000",
    },
  };
}

export async function startProvider(options: ProviderOptions = {}): Promise<TestProvider> {
  const sign: ProviderOptions["answer"] = (response, signedUrl) =>
    response.end(JSON.stringify({ signed_url: signedUrl }));
  const greetWithMetadata: ProviderOptions["greet"] = (conversation) =>
    conversation.say(metadata(conversation.agentSessionId));
  const asked: TestProvider["asked"] = [];
  const conversations: ProviderConversation[] = [];
  const sockets = new Set<Socket>();
  const waiting = new Set<() => void>();
  const look = () => {
    for (const wake of waiting) wake();
  };
  const until = <T>(find: () => T | undefined, what: () => string): Promise<T> => {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const timer = setTimeout(() => reject(new Error(what())), 5_000);
    const wake = () => {
      const found = find();
      if (found !== undefined) resolve(found);
    };
    waiting.add(wake);
    wake();
    return promise.finally(() => {
      clearTimeout(timer);
      waiting.delete(wake);
    });
  };

  const websockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });
  websockets.on("connection", (socket: WebSocket, request: IncomingMessage) => {
    const frames: Frame[] = [];
    const closing = Promise.withResolvers<{ code: number; reason: string }>();
    const conversation: ProviderConversation = {
      agentSessionId: `conv_${conversations.length + 1}`,
      path: request.url ?? "",
      headers: request.headers,
      socket,
      frames,
      say: (event) => socket.send(JSON.stringify(event)),
      received: (count) =>
        until(
          () => (frames.length >= count ? frames : undefined),
          () => `${frames.length} of ${count} frames came`,
        ),
      closed: closing.promise,
    };
    socket.on("message", (data, isBinary) => {
      frames.push({ data: data as Buffer, isBinary });
      look();
    });
    socket.on("close", (code, reason) => closing.resolve({ code, reason: String(reason) }));
    socket.on("error", () => {});
    conversations.push(conversation);
    (provider.options.greet ?? greetWithMetadata)(conversation);
    look();
  });

  const server = createServer((request, response) => {
    asked.push({ path: request.url ?? "", headers: request.headers });
    const { port } = server.address() as { port: number };
    const agentId = new URL(request.url ?? "", "http://provider").searchParams.get("agent_id");
    const query = `agent_id=${agentId}&conversation_signature=${SIGNATURE}`;
    (provider.options.answer ?? sign)(response, `ws://127.0.0.1:${port}/v1/convai/conversation?${query}`);
  });
  server.on("upgrade", (request, socket, head) => {
    const { upgrade } = provider.options;
    if (upgrade?.(socket as Socket, request)) return;
    websockets.handleUpgrade(request, socket, head, (opened) =>
      websockets.emit("connection", opened, request),
    );
  });
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };

  const provider: TestProvider = {
    url: `http://127.0.0.1:${port}`,
    options,
    asked,
    conversations,
    opened: (count) =>
      until(
        () => conversations[count - 1],
        () => `${conversations.length} of ${count} conversations were opened`,
      ),
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return provider;
}
