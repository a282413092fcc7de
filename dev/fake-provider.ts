/**
 * ElevenLabs for a laptop, and for tests: as much of its API as the product and the official SDK use for a
 * conversation in text. Its agent has no voice and no model. It says, in one human line each, what it is told, and
 * answers in a sentence that repeats it; who asks it to research something lets it call its server tool.
 *
 * - `GET /v1/convai/conversation/get-signed-url?agent_id=` with the key in `xi-api-key`
 * - WebSocket `/v1/convai/conversation?agent_id=[&conversation_signature=]`, where each connection is a new
 *   conversation
 * - WebSocket `/agent`, which ElevenLabs does not have: a self-hosted agent, whose URL takes a push from whoever
 *   dials it
 */
import { randomBytes, randomUUID } from "node:crypto";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type {
  AgentChatResponsePart,
  AgentResponse,
  ConversationMetadata,
  Interruption,
  Ping,
} from "@elevenlabs/types";
import { type WebSocket, WebSocketServer } from "ws";
import { type ClientFrame, describeFrame, oneLine, parseClientFrame } from "./client-frames.ts";
import { progressIn, replyTo, type Wish, wishIn } from "./provider-reply.ts";

export type ServerFrame = ConversationMetadata | Ping | AgentChatResponsePart | AgentResponse | Interruption;

export type FakeProviderOptions = {
  /** 0, the default, takes any free port. */
  port?: number;
  host?: string;
  /** What must come as `xi-api-key`; without it no key is good. */
  apiKey?: string;
  /** The server tool of its agents: its URL, and what its secret header is. Without it they have none. */
  tool?: { url: string; secret: string };
  /** The pause before each few words of an answer. Default 0: it comes at once. */
  pauseMs?: number;
  /** Before each ping. Default 2,000. */
  pingEveryMs?: number;
  /** Milliseconds since the epoch, by which signatures become too old. */
  now?: () => number;
  /** Called with every well-formed frame, as it arrives. */
  onFrame?: (frame: ClientFrame) => void;
  /** Where the human lines go; standard output by default. */
  log?: (line: string) => void;
};

/** One connection. What it holds grows while it lasts, oldest first. */
export type ProviderConversation = {
  readonly id: string;
  readonly agentId: string;
  /** The subprotocols that the client offered. */
  readonly offered: readonly string[];
  /** The query of the URL that it opened. */
  readonly query: URLSearchParams;
  /** Every well-formed frame. */
  readonly frames: readonly ClientFrame[];
  /** What was said to the agent as if by the user. */
  readonly told: readonly string[];
  /** What it was told silently. */
  readonly noted: readonly string[];
  /** What it answered. */
  readonly said: readonly string[];
  /** As much of the current answer as it has said; empty where it says nothing. */
  readonly saying: string;
  /** How often it was told something as if by the user while it was speaking. */
  readonly interruptions: number;
  readonly isOpen: boolean;
  /** Sends what the agent would send by itself. */
  send(frame: ServerFrame): void;
  /** Ends it, with a normal closure by default. */
  hangUp(code?: number, reason?: string): void;
};

export type FakeProvider = {
  /** The origin of the API. */
  url: string;
  /** The self-hosted agent: what a browser would register as `sessionUrl`. */
  agentUrl: string;
  /** Every conversation since the start, oldest first. */
  conversations: readonly ProviderConversation[];
  /**
   * Resolves with what `find` returns, as soon as that is not undefined: it is asked now, and after whatever
   * happens here. Rejects after ten seconds.
   */
  until<T>(find: (conversations: readonly ProviderConversation[]) => T | undefined): Promise<T>;
  /** Ends all conversations with 1001 and the server with them. */
  close(): Promise<void>;
};

const SIGNATURE_LIFETIME_MS = 15 * 60_000;
/** No frame of the protocol but audio comes near this. */
const MAX_FRAME_BYTES = 1024 * 1024;
const UNTIL_LIMIT_MS = 10_000;
const WORDS_AT_ONCE = 3;
/** How long an agent's tool waits for a result where its user does, in seconds; and how long it has in all, in ms. */
const [TOOL_WAITS_SECONDS, TOOL_LIMIT_MS] = [20, 30_000];

const NORMAL = 1000;
const GOING_AWAY = 1001;
const POLICY_VIOLATION = 1008;

/** Behind the path of a request, which is all that is looked at. */
const NO_HOST = "http://provider.invalid";

/** What a signed URL stands for; it opens one conversation. */
type Signature = { agentId: string; conversationId: string | undefined; expiresAt: number };

/**
 * Starts the provider. A malformed frame ends its conversation with 1008 "Invalid message received", as
 * ElevenLabs does; a close frame is answered once everything before it has been heard.
 *
 * Throws the server's error if the port is taken.
 */
export async function startFakeProvider(options: FakeProviderOptions = {}): Promise<FakeProvider> {
  const { port = 0, host = "127.0.0.1", apiKey, pauseMs = 0, pingEveryMs = 2_000 } = options;
  const { now = Date.now, onFrame, log = console.log, tool } = options;
  const conversations: ProviderConversation[] = [];
  const signatures = new Map<string, Signature>();
  const watchers = new Set<() => void>();

  function changed(): void {
    for (const look of watchers) look();
  }

  function answerTo(request: IncomingMessage): { status: number; body: object } {
    const { pathname, searchParams } = new URL(request.url ?? "/", NO_HOST);
    const agentId = searchParams.get("agent_id");
    if (request.method !== "GET" || pathname !== "/v1/convai/conversation/get-signed-url")
      return refusal(404, "not_found", "There is nothing here.");
    if (apiKey === undefined || request.headers["xi-api-key"] !== apiKey)
      return refusal(401, "invalid_api_key", "Invalid API key");
    if (!agentId) return refusal(422, "missing_agent_id", "agent_id is required");

    const signature = randomBytes(16).toString("hex");
    const conversationId =
      searchParams.get("include_conversation_id") === "true" ? newConversationId() : undefined;
    signatures.set(signature, { agentId, conversationId, expiresAt: now() + SIGNATURE_LIFETIME_MS });
    const signed = new URL(`${websocketOrigin}/v1/convai/conversation`);
    signed.searchParams.set("agent_id", agentId);
    if (conversationId !== undefined) signed.searchParams.set("conversation_id", conversationId);
    signed.searchParams.set("conversation_signature", signature);
    return { status: 200, body: { signed_url: signed.href } };
  }

  /** Takes the signature away with the first use; null where it opens nothing. */
  function redeem(signature: string, agentId: string): Signature | null {
    const signed = signatures.get(signature);
    if (signed === undefined || signed.agentId !== agentId) return null;
    signatures.delete(signature);
    return now() < signed.expiresAt ? signed : null;
  }

  /** Refusals come after the handshake, because a browser cannot read a refused one. */
  function open(socket: WebSocket, request: IncomingMessage): void {
    // Without a listener a broken connection would end the process; `close` follows and needs no answer.
    socket.on("error", () => {});
    const { pathname, searchParams: query } = new URL(request.url ?? "/", NO_HOST);
    const isSelfHosted = pathname === "/agent";
    const agentId = query.get("agent_id") ?? (isSelfHosted ? "demo" : "");
    const signature = query.get("conversation_signature");
    const signed = signature === null ? undefined : redeem(signature, agentId);
    if (agentId === "" || signed === null) {
      socket.close(POLICY_VIOLATION, agentId === "" ? "agent_id is missing" : "Invalid signature");
      return;
    }
    const id = signed?.conversationId ?? newConversationId();
    const offered = request.headers["sec-websocket-protocol"]?.split(/,\s*/) ?? [];
    const { conversation, hear, begin, end } = converse(socket, { id, agentId, offered, query });
    conversations.push(conversation);
    if (isSelfHosted) begin();
    socket.on("message", (data, isBinary) => {
      const frame = isBinary ? null : parseClientFrame(data.toString());
      if (frame === null) {
        log("demo agent: could not read a frame, closing the conversation");
        socket.close(POLICY_VIOLATION, "Invalid message received");
        return;
      }
      // The first frame a client gets is the metadata, and it gets it for its own first one.
      begin();
      const line = describeFrame(frame);
      if (line !== null) log(`demo agent ${line}`);
      hear(frame);
      onFrame?.(frame);
      changed();
    });
    socket.on("close", () => {
      end();
      changed();
    });
    changed();
  }

  function converse(
    socket: WebSocket,
    facts: Pick<ProviderConversation, "id" | "agentId" | "offered" | "query">,
  ) {
    const frames: ClientFrame[] = [];
    const told: string[] = [];
    const noted: string[] = [];
    const said: string[] = [];
    let notedUntil = 0;
    /** Whose results its tool has answered with. */
    const answered = new Set<string>();
    let lastEventId = 0;
    let interruptions = 0;
    let unanswered = 0;
    let saying = "";
    let pings: NodeJS.Timeout | undefined;
    /** Answers come one after the other. */
    let talking = Promise.resolve();

    const isOpen = () => socket.readyState === socket.OPEN;
    function send(frame: ServerFrame): void {
      if (isOpen()) socket.send(JSON.stringify(frame));
    }

    function ping(): void {
      send({ type: "ping", ping_event: { event_id: ++lastEventId } });
    }

    async function say(text: string): Promise<void> {
      const event_id = ++lastEventId;
      const part = (type: "start" | "delta" | "stop", piece = "") =>
        send({ type: "agent_chat_response_part", text_response_part: { text: piece, type, event_id } });
      part("start");
      for (const [piece] of text.matchAll(new RegExp(`(?:\\S+\\s*){1,${WORDS_AT_ONCE}}`, "g"))) {
        if (pauseMs > 0) await sleep(pauseMs);
        part("delta", piece);
        saying += piece;
        changed();
      }
      part("stop");
      send({ type: "agent_response", agent_response_event: { agent_response: text, event_id } });
      said.push(text);
      saying = "";
      unanswered--;
      changed();
    }

    /** Calls the tool, as one that is configured with a URL, a secret header and a body. Returns what is to be said. */
    async function callTool({ url, secret }: { url: string; secret: string }, wish: Wish): Promise<string> {
      const body = JSON.stringify({
        tool_name: "research",
        tool_args: { query: wish.query },
        conversation_id: facts.id,
      });
      log(`demo agent calls its tool${wish.waits ? " and waits" : ""}: ${oneLine(body)}`);
      try {
        const response = await fetch(wish.waits ? `${url}?wait=${TOOL_WAITS_SECONDS}` : url, {
          method: "POST",
          headers: { "content-type": "application/json", "x-webhook-secret": secret },
          body,
          signal: AbortSignal.timeout(TOOL_LIMIT_MS),
        });
        const { say, result } = (await response.json()) as {
          say?: string;
          result?: { requestId: string; status: string };
        };
        if (result?.status === "completed") answered.add(result.requestId);
        return say ?? `My tool answers ${response.status}.`;
      } catch {
        return "My tool does not answer.";
      }
    }

    function hear(frame: ClientFrame): void {
      frames.push(frame);
      if (!("type" in frame)) return;
      if (frame.type === "contextual_update") noted.push(frame.text);
      if (frame.type !== "user_message") return;
      const text = frame.text ?? `(rich content ${frame.rich_content_id})`;
      told.push(text);
      const wish = wishIn(text);
      const reply = tool !== undefined && wish !== null ? callTool(tool, wish) : replyTo(text, news());
      if (unanswered > 0) interruptions++;
      unanswered++;
      talking = talking.then(async () => say(await reply));
    }

    /** What it was told silently since it last told of that, but how far tasks are whose results it has told. */
    function news(): string[] {
      const isOver = (context: string) => progressIn(context).some(([requestId]) => answered.has(requestId));
      const known = noted.slice(notedUntil).filter((context) => !isOver(context));
      notedUntil = noted.length;
      return known;
    }

    const conversation: ProviderConversation = {
      ...facts,
      frames,
      told,
      noted,
      said,
      get saying() {
        return saying;
      },
      get interruptions() {
        return interruptions;
      },
      get isOpen() {
        return isOpen();
      },
      send,
      hangUp: (code = NORMAL, reason = "") => socket.close(code, reason),
    };
    return {
      conversation,
      hear,
      begin() {
        if (pings !== undefined) return;
        send({
          type: "conversation_initiation_metadata",
          conversation_initiation_metadata_event: {
            conversation_id: facts.id,
            agent_output_audio_format: "pcm_16000",
            user_input_audio_format: "pcm_16000",
          },
        });
        // Not at once: in Node the SDK loses what comes together with the metadata.
        pings = setInterval(ping, pingEveryMs);
      },
      end: () => clearInterval(pings),
    };
  }

  const websockets = new WebSocketServer({
    noServer: true,
    maxPayload: MAX_FRAME_BYTES,
    handleProtocols: (offered) => (offered.has("convai") ? "convai" : false),
  });
  const server = createServer((request, response) => {
    const { status, body } = answerTo(request);
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
  });
  server.on("upgrade", (request, stream, head) => {
    const { pathname } = new URL(request.url ?? "/", NO_HOST);
    if (pathname === "/v1/convai/conversation" || pathname === "/agent")
      websockets.handleUpgrade(request, stream, head, (socket) => open(socket, request));
    else stream.end("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, resolve);
  });
  const authority = `${host.includes(":") ? `[${host}]` : host}:${(server.address() as AddressInfo).port}`;
  const websocketOrigin = `ws://${authority}`;

  return {
    url: `http://${authority}`,
    agentUrl: `${websocketOrigin}/agent?agent_id=demo`,
    conversations,
    until<T>(find: (conversations: readonly ProviderConversation[]) => T | undefined): Promise<T> {
      const { promise, resolve, reject } = Promise.withResolvers<T>();
      const look = () => {
        const found = find(conversations);
        if (found !== undefined) resolve(found);
      };
      const heard = () => JSON.stringify(conversations.map(({ told, noted }) => ({ told, noted })));
      const timer = setTimeout(
        () => reject(new Error(`it did not come about at the provider: ${heard()}`)),
        UNTIL_LIMIT_MS,
      );
      watchers.add(look);
      look();
      return promise.finally(() => {
        clearTimeout(timer);
        watchers.delete(look);
      });
    },
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of websockets.clients) {
        socket.close(GOING_AWAY);
        setTimeout(() => socket.terminate(), 500).unref();
      }
      server.closeAllConnections();
      await closed;
    },
  };
}

function refusal(status: number, code: string, message: string): { status: number; body: object } {
  return { status, body: { detail: { status: code, message } } };
}

function newConversationId(): string {
  return `conv_${randomUUID().replaceAll("-", "")}`;
}
