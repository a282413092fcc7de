/**
 * The providers besides ElevenLabs, as far as a push needs them: one server that speaks the part of each API that tells a
 * running call something. It does what is asked of it, and goes wrong as it is told to. Requests and answers are typed by
 * the vendors' own SDKs, where those have types; nothing here was compared with the live services.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type { Vapi } from "@vapi-ai/server-sdk";
import type * as Live from "openai/resources/live/live";
import type * as Realtime from "openai/resources/realtime/realtime";
import type { CallUpdateLiveParams, CallUpdateLiveResponse } from "retell-sdk/resources/call";
import type {
  ActionAddAIAssistantMessagesParams,
  ActionAddAIAssistantMessagesResponse,
} from "telnyx/resources/calls/actions";
import { type WebSocket, WebSocketServer } from "ws";

/**
 * How a call goes wrong. A `slow` one does not, it takes its time; the next two have done what was asked for before they do; `silent` never answers, whatever it
 * did. A sideband that `fails`, `limits`, `redirects`, `refuses_key` or has `ended` does not open.
 */
export type CallFault =
  | "slow"
  | "applies_then_fails"
  | "applies_then_silent"
  | "silent"
  | "fails"
  | "limits"
  | "redirects"
  | "refuses_key"
  | "ended"
  | "refuses"
  | "errs_with_200"
  | "floods";

/** One call, and what its agent was told. */
export type FakeCall = {
  /** Requests and frames as they came, the oldest first. */
  seen: { method: string; path: string; authorization: string | undefined; body: unknown }[];
  /** What the agent has before it, once each; spoken of at once, or only known. */
  told: { text: string; speaks: boolean }[];
  /** What goes wrong with the next so many requests or connections. */
  fault: { kind: CallFault; times: number } | null;
  /** Whether its agent is making a response (OpenAI Realtime only). */
  isBusy: boolean;
  /** Whether it never answers what asks its agent to speak, or hangs up then (OpenAI Realtime only). */
  isMute: boolean;
  hangsUp: boolean;
  /** Whether its sidebands stay open when they are asked to close. */
  clings: boolean;
  /** How many sidebands are open. */
  sidebands: number;
  /** The ids of commands that were taken. */
  commandIds: Set<string>;
};

export type FakeVoiceProviders = {
  /** The origin of every API. */
  url: string;
  /** A call by its id; it begins when it is first asked for. */
  call(id: string): FakeCall;
  /** Lets a call go wrong. */
  fail(id: string, kind: CallFault, times?: number): void;
  close(): Promise<void>;
};

/** What the Worker needs to reach them all. */
export function variablesOf({ url }: Pick<FakeVoiceProviders, "url">): Record<string, string> {
  const accounts = ["OPENAI", "TELNYX", "RETELL", "VAPI", "ULTRAVOX"];
  return Object.fromEntries(
    accounts.flatMap((account) => [
      [`${account}_API_KEY`, `${account.toLowerCase()}-key`],
      [`${account}_API_URL`, url],
    ]),
  );
}

/** Shorter than anybody waits. */
const SLOW_MS = 1_000;
/** Several MB, of which nobody should read much. */
const FLOOD = Buffer.alloc(10 * 1024 * 1024, "x");

export async function startFakeVoiceProviders({
  port = 0,
}: {
  port?: number;
} = {}): Promise<FakeVoiceProviders> {
  const calls = new Map<string, FakeCall>();
  const sockets = new Set<Socket>();
  const websockets = new WebSocketServer({ noServer: true });

  function call(id: string): FakeCall {
    const known = calls.get(id) ?? {
      seen: [],
      told: [],
      fault: null,
      isBusy: false,
      isMute: false,
      hangsUp: false,
      clings: false,
      sidebands: 0,
      commandIds: new Set(),
    };
    calls.set(id, known);
    return known;
  }

  function faultOf(target: FakeCall): CallFault | null {
    const { fault } = target;
    if (fault === null) return null;
    fault.times -= 1;
    if (fault.times <= 0) target.fault = null;
    return fault.kind;
  }

  const http = createServer(async (request, response) => {
    const route = routeOf(request);
    if (route === null) return void response.writeHead(404).end();
    const target = call(route.id);
    const body = JSON.parse(await textOf(request)) as unknown;
    const { method = "", url: path = "", headers } = request;
    const key = headers.authorization ?? headers["x-api-key"]?.toString();
    target.seen.push({ method, path, authorization: key, body });
    const fault = faultOf(target);
    if (fault === null || fault === "slow" || fault.startsWith("applies")) route.apply(target, body as never);
    if (fault === "slow") await sleep(SLOW_MS);
    respond(response, fault, route);
  });

  http.on("upgrade", (request, socket: Socket, head) => {
    const { pathname, searchParams } = new URL(request.url ?? "", "http://provider");
    const liveId = /^\/v1\/live\/sessions\/([^/]+)\/attach$/.exec(pathname)?.[1];
    const realtimeId = pathname === "/v1/realtime" ? searchParams.get("call_id") : null;
    const id = liveId === undefined ? realtimeId : decodeURIComponent(liveId);
    const target = call(id ?? "");
    const { url: path = "", headers } = request;
    target.seen.push({ method: "GET", path, authorization: headers.authorization, body: null });
    const fault = faultOf(target);
    const status = fault === null ? undefined : HANDSHAKES[fault];
    if (status !== undefined || id === null) {
      socket.end(`HTTP/1.1 ${status ?? "404 Not Found"}\r\ncontent-length: 0\r\n\r\n`);
      return;
    }
    if (fault === "silent") return;
    websockets.handleUpgrade(request, socket, head, (opened) => {
      const answer = liveId === undefined ? answerRealtime : answerLive;
      target.sidebands += 1;
      opened.on("close", () => {
        target.sidebands -= 1;
      });
      // What answers the other side's closing frame.
      if (target.clings) opened.close = () => {};
      opened.on("message", (data) => {
        const frame = JSON.parse(String(data)) as { type: string };
        target.seen.push({ method: "frame", path, authorization: undefined, body: frame });
        const answerNow = () => answer(opened, target, fault, frame as never);
        if (fault === "slow") setTimeout(answerNow, SLOW_MS);
        else answerNow();
      });
    });
  });
  http.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    socket.on("error", () => {});
  });
  await new Promise<void>((resolve) => http.listen(port, "127.0.0.1", resolve));

  return {
    url: `http://127.0.0.1:${(http.address() as AddressInfo).port}`,
    call,
    fail(id, kind, times = Number.POSITIVE_INFINITY) {
      call(id).fault = { kind, times };
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => http.close(resolve));
    },
  };
}

/* HTTP ------------------------------------------------------------------------------------------------- */

type Route = {
  id: string;
  apply: (target: FakeCall, body: never) => void;
  yes: { status: number; body?: object };
  /** What it answers where the call is over. */
  over: { status: number; body: object };
};

/** Telnyx: https://developers.telnyx.com, "Add messages to an AI assistant". */
function addMessages(target: FakeCall, body: ActionAddAIAssistantMessagesParams): void {
  if (body.command_id !== undefined && target.commandIds.has(body.command_id)) return;
  if (body.command_id !== undefined) target.commandIds.add(body.command_id);
  for (const message of body.messages ?? []) {
    target.told.push({ text: String(message.content), speaks: body.trigger_response === true });
  }
}

/** Retell: https://docs.retellai.com/api-references/update-live-call */
function updateLiveCall(target: FakeCall, { call_control }: CallUpdateLiveParams): void {
  const { additional_context = "", trigger_response = false } = call_control ?? {};
  if (additional_context !== "") target.told.push({ text: additional_context, speaks: trigger_response });
}

/** Vapi: https://docs.vapi.ai/calls/call-features */
function control(
  target: FakeCall,
  body: { type: "add-message" } & Vapi.ClientInboundMessageAddMessage,
): void {
  if (body.type !== "add-message") return;
  target.told.push({ text: body.message.content ?? "", speaks: body.triggerResponseEnabled !== false });
}

/** Ultravox: https://docs.ultravox.ai/apps/datamessages. It has no SDK with types. */
type UserTextMessage = {
  type: "user_text_message";
  text: string;
  urgency?: "immediate" | "soon" | "later";
};

function sendDataMessage(target: FakeCall, body: UserTextMessage): void {
  if (body.type === "user_text_message")
    target.told.push({ text: body.text, speaks: body.urgency !== "later" });
}

const TELNYX_OK: ActionAddAIAssistantMessagesResponse = { data: { result: "ok" } };
const RETELL_OK: CallUpdateLiveResponse = { success: true };

const ROUTES: readonly {
  method: string;
  path: RegExp;
  apply: Route["apply"];
  yes: Route["yes"];
  over: Route["over"];
}[] = [
  {
    method: "POST",
    path: /^\/v2\/calls\/([^/]+)\/actions\/ai_assistant_add_messages$/,
    apply: addMessages,
    yes: { status: 200, body: TELNYX_OK },
    over: { status: 422, body: { errors: [{ code: "90018", title: "Call has already ended" }] } },
  },
  {
    method: "PATCH",
    path: /^\/v2\/update-live-call\/([^/]+)$/,
    apply: updateLiveCall,
    yes: { status: 200, body: RETELL_OK },
    over: { status: 404, body: { status: "error", message: "call not found" } },
  },
  {
    method: "POST",
    path: /^\/api\/calls\/([^/]+)\/send_data_message$/,
    apply: sendDataMessage,
    yes: { status: 204 },
    // The same for a call that nobody has joined yet.
    over: { status: 422, body: { detail: "Call is not active" } },
  },
  {
    method: "POST",
    path: /^\/([^/]+)\/control$/,
    apply: control,
    yes: { status: 200, body: {} },
    over: { status: 404, body: { message: "Call not found" } },
  },
];

function routeOf({ method, url = "" }: IncomingMessage): Route | null {
  for (const { path, ...route } of ROUTES) {
    const id = path.exec(url)?.[1];
    if (id !== undefined && route.method === method) return { ...route, id: decodeURIComponent(id) };
  }
  return null;
}

function respond(response: ServerResponse, fault: CallFault | null, { yes, over }: Route): void {
  const json = ({ status, body }: { status: number; body?: object }) =>
    response
      .writeHead(status, { "content-type": "application/json" })
      .end(body === undefined ? undefined : JSON.stringify(body));
  switch (fault) {
    case null:
    case "slow":
      return void json(yes);
    case "applies_then_fails":
    case "fails":
      return void json({ status: 503, body: { message: "try again" } });
    case "applies_then_silent":
    case "silent":
      return;
    case "limits":
      return void json({ status: 429, body: { errors: [{ code: "10011" }] } });
    case "redirects":
      return void response.writeHead(307, { location: "/elsewhere" }).end();
    case "refuses_key":
      return void json({ status: 401, body: { message: "unauthorized" } });
    case "ended":
      return void json(over);
    case "refuses":
      return void json({ status: 400, body: { message: "no" } });
    case "errs_with_200":
      return void json({ status: 200, body: { error: "something went wrong" } });
    case "floods":
      return void response.writeHead(200, { "content-type": "application/json" }).end(FLOOD);
  }
}

async function textOf(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return Buffer.concat(parts).toString();
}

/* Sidebands -------------------------------------------------------------------------------------------- */

const HANDSHAKES: Partial<Record<CallFault, string>> = {
  fails: "503 Service Unavailable",
  limits: "429 Too Many Requests",
  redirects: "302 Found\r\nlocation: /elsewhere",
  refuses_key: "401 Unauthorized",
  ended: "404 Not Found",
  errs_with_200: "200 OK",
};

let events = 0;
const nextEventId = () => `event_${++events}`;

function emit(socket: WebSocket, event: Live.ServerEvent | Realtime.RealtimeServerEvent): void {
  socket.send(JSON.stringify(event));
}

/** https://developers.openai.com/api/docs/guides/voice-server-controls */
function answerLive(
  socket: WebSocket,
  target: FakeCall,
  fault: CallFault | null,
  frame: Live.CommentaryAppendEvent | Live.ThinkingAppendEvent,
): void {
  const { event_id, content } = frame;
  const correlation = typeof event_id === "string" ? { client_event_id: event_id } : {};
  // What the session says and hears is reflected to whoever is attached.
  const delta = fault === "floods" ? FLOOD.toString("latin1") : "AAAA";
  const audio: Live.OutputAudioDeltaEvent = {
    type: "session.output_audio.delta",
    delta,
    start_ms: 0,
    end_ms: 20,
  };
  emit(socket, audio);
  if (fault === "refuses") {
    const error: Live.Error = {
      type: "invalid_request_error",
      code: "too_long",
      message: "no",
      ...correlation,
    };
    emit(socket, { type: "error", event_id: nextEventId(), error, ...correlation });
    return;
  }
  const isCommentary = frame.type === "session.commentary.append";
  target.told.push({ text: content, speaks: isCommentary });
  if (fault === "applies_then_fails") socket.terminate();
  if (fault === "applies_then_fails" || fault === "applies_then_silent") return;
  emit(socket, {
    type: isCommentary ? "session.commentary.appended" : "session.thinking.appended",
    event_id: nextEventId(),
    start_ms: 0,
    end_ms: 0,
    ...correlation,
  });
}

/** https://developers.openai.com/api/docs/guides/realtime-server-controls */
function answerRealtime(
  socket: WebSocket,
  target: FakeCall,
  fault: CallFault | null,
  frame:
    | Realtime.ConversationItemCreateEvent
    | Realtime.ResponseCreateEvent
    | Realtime.ResponseCancelEvent
    | Realtime.OutputAudioBufferClearEvent,
): void {
  const refuse = (code: string) =>
    emit(socket, {
      type: "error",
      event_id: nextEventId(),
      error: { type: "invalid_request_error", code, message: "no", event_id: frame.event_id ?? null },
    });
  const done = (status: "completed" | "cancelled") => {
    target.isBusy = false;
    emit(socket, { type: "response.done", event_id: nextEventId(), response: { status } });
  };
  switch (frame.type) {
    case "conversation.item.create": {
      if (fault === "refuses") {
        refuse("invalid_value");
        break;
      }
      const { content = [] } = frame.item as Realtime.RealtimeConversationItemUserMessage;
      target.told.push({ text: content[0]?.text ?? "", speaks: false });
      if (fault === "applies_then_fails") socket.terminate();
      if (fault === "applies_then_fails" || fault === "applies_then_silent") break;
      if (fault === "floods") socket.send(FLOOD.toString("latin1"));
      emit(socket, { type: "conversation.item.added", event_id: nextEventId(), item: frame.item });
      break;
    }
    case "response.create": {
      if (target.hangsUp) socket.terminate();
      if (target.isMute || target.hangsUp) break;
      if (target.isBusy) {
        refuse("conversation_already_has_active_response");
        setTimeout(() => done("completed"), 20);
        break;
      }
      const last = target.told.at(-1);
      if (last !== undefined) last.speaks = true;
      emit(socket, {
        type: "response.created",
        event_id: nextEventId(),
        response: { status: "in_progress" },
      });
      break;
    }
    case "response.cancel":
      if (target.hangsUp) socket.terminate();
      else if (target.isBusy) done("cancelled");
      else refuse("response_cancel_not_active");
  }
}
