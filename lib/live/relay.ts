/**
 * The `relay` channel: lines of pages, each a WebSocket that the page holds to this object, and what is said over
 * them. A page's first frame, `hello`, registers its session; what is pushed, the page says in its own agent
 * conversation and acknowledges. Of several lines the newest speaks; the others stay attached, and when it goes the
 * next newest takes over.
 *
 * Lines hibernate: between two frames nothing of this need be in memory. What must outlive that is in the table of
 * lines, but for what is tried out at every frame, which is in the socket's attachment.
 * https://developers.cloudflare.com/durable-objects/best-practices/websockets/#websocket-hibernation-api
 */
import * as v from "valibot";
import { AppError, ConversationDeletedError } from "../errors.ts";
import {
  byteLength,
  type JsonObject,
  jsonObject,
  parseJsonObject,
  stringifyJson,
  validate,
} from "../json.ts";
import { isRequestId } from "../keys.ts";
import { type Logger, logFailure } from "../log.ts";
import { type After, orElse } from "../patience.ts";
import type { Channel, PushOutcome } from "../push/channel.ts";
import type { PushMessage } from "../push/message.ts";
import { type Caller, withProof } from "../registration.ts";
import {
  parseRegistration,
  type Registration,
  type SessionRecord,
  sessionDeadline,
  sessionRecord,
} from "../session-store.ts";
import { type Sql, tablesOf } from "../sql.ts";
import { createQueue, type Queue } from "../storage/queue.ts";
import { type AgentConversation, agentConversationOf } from "./agent-conversation.ts";
import type { DeliveryLoop } from "./delivery.ts";
import type { Records } from "./records.ts";
import {
  CLOSE_REFUSED,
  CLOSE_REPLACED,
  type EdgeFrame,
  MAX_RELAY_FRAME_BYTES,
  RELAY_PING,
  type RelayResult,
} from "./relay-protocol.ts";
import type { Turn } from "./turn.ts";

/** How long a page may take to acknowledge before nobody knows whether it heard, in ms. */
export const ACKNOWLEDGE_MS = 5_000;
/** How many pages may be attached; the oldest makes room. */
export const MAX_LINES = 16;
/** As many long ones as a frame holds. Each is looked up, and stands in the log. */
export const MAX_REQUEST_IDS = 500;
/** More frames of one page in a second are a flood. */
export const MAX_FRAMES_A_SECOND = 200;

const OPEN = 1;
const NORMAL_CLOSURE = 1000;
const INTERNAL_ERROR = 1011;

const anyRequestIds = v.array(v.pipe(v.string(), v.check(isRequestId, "must be a requestId")));
const requestIds = v.pipe(anyRequestIds, v.maxLength(MAX_REQUEST_IDS, `must be at most ${MAX_REQUEST_IDS}`));
/** A requestId, and behind `#` the how manieth time it was to be said again. */
const heardSchema = v.pipe(
  v.string(),
  v.transform((text) => {
    const [requestId = "", again = "0", ...rest] = text.split("#");
    return { requestId, again: rest.length === 0 && /^\d{1,9}$/.test(again) ? Number(again) : Number.NaN };
  }),
  v.check(({ requestId, again }) => isRequestId(requestId) && !Number.isNaN(again), "must be a requestId"),
);
const CALLER_HEADER = "x-caller";

/** The request that opens a line at the object of a conversation, for whoever was let in. */
export function relayRequest(caller: Caller): Request {
  const headers = { upgrade: "websocket", [CALLER_HEADER]: JSON.stringify(caller) };
  return new Request("https://live-conversation/relay", { headers });
}

/** Whom a request of `relayRequest` was made for. */
export function callerOf(request: Request): Caller {
  return JSON.parse(request.headers.get(CALLER_HEADER) ?? "") as Caller;
}

/** What a page may say, by type. */
const FRAMES = {
  hello: v.object({
    type: v.literal("hello"),
    session: v.optional(jsonObject),
    agentSessionId: v.optional(
      v.pipe(v.string(), v.nonEmpty("must not be empty"), v.maxLength(256, "must be at most 256 characters")),
    ),
    heard: v.optional(v.array(heardSchema)),
  }),
  ack: v.object({ type: v.literal("ack"), requestIds }),
  nack: v.object({ type: v.literal("nack"), requestIds, reason: v.optional(v.string(), "") }),
  mode: v.object({ type: v.literal("mode"), mode: v.picklist(["speaking", "listening"]) }),
  activity: v.object({ type: v.literal("activity") }),
  bye: v.object({ type: v.literal("bye") }),
} as const;
type FrameType = keyof typeof FRAMES;
type Frame = { [T in FrameType]: v.InferOutput<(typeof FRAMES)[T]> }[FrameType];

/** What a socket carries through hibernation, at most 16 KiB. */
type Attachment = { id: string; caller: Caller; isAgentSpeaking: boolean };

/** A page that has been welcomed. `since` in ms. */
type Line = { id: string; socket: WebSocket; session: SessionRecord; since: number };
type Row = { id: string; session: string; since: number };

const SCHEMA = `CREATE TABLE IF NOT EXISTS lines (
  place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, session TEXT NOT NULL, since INTEGER NOT NULL
);`;

/** What is remembered of a socket while the object is in memory. */
type Peer = { inTurn: Queue; second: number; frames: number };

/** A push that is on its way: the results that are neither acknowledged nor refused yet. */
type Push = { lineId: string; open: Set<string>; wasRefused: boolean; end: (outcome: PushOutcome) => void };

export type RelayOptions = {
  conversationId: string;
  sql: Sql;
  /** Every socket that the runtime has accepted for the relay, those of an earlier life of the object included. */
  sockets: () => readonly WebSocket[];
  /** Reads a stored session; null where it cannot. */
  parseSession: (text: string) => SessionRecord | null;
  /** Throws SessionUrlNotAllowedError where a page's session must not be dialled. */
  requireAllowed: (registration: Registration) => void;
  records: Pick<Records, "attach" | "detach">;
  delivery: () => Pick<DeliveryLoop, "acknowledge" | "refuse" | "hear" | "wake">;
  turn: Turn;
  log: Logger;
  /** The clock, in ms since the epoch. */
  now: () => number;
  after: After;
};

export type Relay = ReturnType<typeof createRelay>;

export function createRelay(options: RelayOptions) {
  const { conversationId, sockets, records, delivery, turn, now, after } = options;
  const sql = tablesOf(options.sql, "lines", SCHEMA);
  const peers = new Map<string, Peer>();
  const pushes = new Map<string, Push>();
  /** A hello must find the line that the one before it made: it may be of the same page. */
  const greeting = createQueue();
  /** The newest last. */
  let lines = recall();

  /** The lines of an earlier life whose sockets are still there. */
  function recall(): Line[] {
    const rows = sql.rows<Row>("SELECT id, session, since FROM lines ORDER BY place");
    if (rows.length === 0) return [];
    const open = new Map(
      sockets()
        .filter(isOpen)
        .map((socket) => [attachmentOf(socket).id, socket]),
    );
    return rows.flatMap(({ id, session: text, since }) => {
      const [socket, session] = [open.get(id), options.parseSession(text)];
      if (socket !== undefined && session !== null) return [{ id, socket, session, since }];
      sql.run("DELETE FROM lines WHERE id = ?", id);
      return [];
    });
  }
  noteSpeaker();

  const newest = (): Line | null => lines.at(-1) ?? null;

  /** Nothing is known of who speaks but what the newest line reported. */
  function noteSpeaker(): void {
    turn.note({ type: "unknown" });
    const line = lines.at(-1);
    if (line !== undefined && attachmentOf(line.socket).isAgentSpeaking)
      turn.note({ type: "agent_speaking" });
  }

  function peerOf(id: string): Peer {
    const known = peers.get(id) ?? { inTurn: createQueue(), second: 0, frames: 0 };
    peers.set(id, known);
    return known;
  }

  function isFlood(peer: Peer): boolean {
    const second = Math.floor(now() / 1000);
    if (peer.second !== second) Object.assign(peer, { second, frames: 0 });
    peer.frames += 1;
    return peer.frames > MAX_FRAMES_A_SECOND;
  }

  /** Takes a line off, and what was on its way over it with it. */
  function detach(line: Line): void {
    const wasNewest = line === newest();
    lines = lines.filter((other) => other !== line);
    sql.run("DELETE FROM lines WHERE id = ?", line.id);
    for (const push of pushes.values()) if (push.lineId === line.id) push.end({ outcome: "unconfirmed" });
    if (wasNewest) noteSpeaker();
  }

  function replace(line: Line): void {
    detach(line);
    send(line.socket, { type: "replaced" });
    close(line.socket, CLOSE_REPLACED, "replaced");
  }

  /** A line is over, because the page `left`, or was lost. */
  async function end(line: Line, left: boolean): Promise<void> {
    detach(line);
    const { registrationId } = line.session;
    if (await records.detach(registrationId, left)) options.log.info("session.ended", { registrationId });
    delivery().wake();
  }

  /** Ends a socket that broke a rule. */
  async function refuse(socket: WebSocket, reason: string, code = CLOSE_REFUSED): Promise<void> {
    options.log.warn("relay.refused", { reason, closeCode: code });
    close(socket, code, reason);
    await closed(socket);
  }

  async function closed(socket: WebSocket): Promise<void> {
    const { id } = attachmentOf(socket);
    peers.delete(id);
    const line = lineOf(id);
    if (line !== null) await end(line, false);
  }

  function lineOf(id: string): Line | null {
    return lines.find((line) => line.id === id) ?? null;
  }

  async function take(socket: WebSocket, frame: Frame): Promise<void> {
    const line = lineOf(attachmentOf(socket).id);
    if (frame.type === "hello") {
      return line === null ? greeting(() => greet(socket, frame)) : refuse(socket, "hello comes once");
    }
    if (line === null) {
      // One that was replaced may still be talking.
      return isOpen(socket) ? refuse(socket, "hello comes first") : undefined;
    }
    switch (frame.type) {
      case "ack":
        delivery().acknowledge(frame.requestIds);
        return settle(line, frame.requestIds, false);
      case "nack":
        options.log.info("relay.nack", {
          callbackRequestIds: frame.requestIds,
          reason: wordOf(frame.reason),
        });
        delivery().refuse(frame.requestIds, await agentConversationOf(line.session));
        return settle(line, frame.requestIds, true);
      case "mode":
        return noteMode(line, frame.mode === "speaking");
      case "activity":
        if (line === newest()) turn.note({ type: "user_activity", at: now() });
        return;
      case "bye":
        close(socket, NORMAL_CLOSURE, "bye");
        return end(line, true);
    }
  }

  function settle(line: Line, requestIds: readonly string[], isRefusal: boolean): void {
    for (const push of pushes.values()) {
      const isOfIt = requestIds.filter((requestId) => push.lineId === line.id && push.open.delete(requestId));
      if (isRefusal && isOfIt.length > 0) push.wasRefused = true;
      if (push.open.size > 0) continue;
      push.end(push.wasRefused ? { outcome: "refused" } : { outcome: "delivered", proof: "heard" });
    }
  }

  function noteMode(line: Line, isAgentSpeaking: boolean): void {
    line.socket.serializeAttachment({ ...attachmentOf(line.socket), isAgentSpeaking } satisfies Attachment);
    if (line !== newest()) return;
    turn.note({ type: isAgentSpeaking ? "agent_speaking" : "agent_listening" });
    if (!isAgentSpeaking) delivery().wake();
  }

  /** Attaching is the registration. */
  async function greet(socket: WebSocket, frame: v.InferOutput<typeof FRAMES.hello>): Promise<void> {
    if (!isOpen(socket)) return;
    const { id, caller } = attachmentOf(socket);
    const registration = registrationOf(frame, caller);
    options.requireAllowed(registration);
    const session: SessionRecord = {
      ...sessionRecord(conversationId, registration, crypto.randomUUID(), now()),
      channel: "relay",
    };
    const to: AgentConversation = await agentConversationOf(session);
    const { agentSessionId, registrationId } = session;
    if (agentSessionId !== undefined) {
      // The same page has come back.
      for (const line of lines.filter((other) => other.session.agentSessionId === agentSessionId))
        replace(line);
      // A list that is too long proves nothing, as none does.
      const { heard } = frame;
      if (heard !== undefined && heard.length <= MAX_REQUEST_IDS) delivery().hear(heard, agentSessionId);
    }
    const replaced = await records.attach(session, to, () => {
      if (!isOpen(socket)) return;
      const since = now();
      sql.run("INSERT INTO lines (id, session, since) VALUES (?, ?, ?)", id, stringifyJson(session), since);
      lines.push({ id, socket, session, since });
      noteSpeaker();
      const expiresAt = new Date(sessionDeadline(session) ?? 0).toISOString();
      send(socket, { type: "welcome", conversationId, registrationId, expiresAt });
    });
    options.log.info(replaced ? "session.replaced" : "session.registered", {
      registrationId,
      transport: session.transport,
      channel: "relay",
    });
    // The page was gone before it was welcomed.
    if (lineOf(id) === null) await records.detach(registrationId, false);
    const [oldest] = lines;
    if (lines.length > MAX_LINES && oldest !== undefined) replace(oldest);
    delivery().wake();
  }

  const channel: Channel = {
    name: "relay",
    accepts: ({ registrationId }) => newest()?.session.registrationId === registrationId,
    async push({ registrationId }, message) {
      const line = newest();
      if (line?.session.registrationId !== registrationId || !isOpen(line.socket))
        return { outcome: "unreachable" };
      const { progress, delivery, text } = message;
      if (progress !== undefined) {
        const isSent = send(line.socket, { type: "progress", ...progress, delivery, text });
        return isSent ? { outcome: "delivered" } : { outcome: "unreachable" };
      }
      const pushId = crypto.randomUUID();
      const { promise, resolve } = Promise.withResolvers<PushOutcome>();
      const push: Push = {
        lineId: line.id,
        open: new Set(message.requestIds),
        wasRefused: false,
        end: resolve,
      };
      pushes.set(pushId, push);
      try {
        if (!send(line.socket, pushFrame(pushId, message))) return { outcome: "unreachable" };
        return await orElse(promise, ACKNOWLEDGE_MS, () => ({ outcome: "unconfirmed" }), after);
      } finally {
        pushes.delete(pushId);
      }
    },
  };

  return {
    channel,

    /** The session of the newest line, and since when that is attached, in ms; null where there is none. */
    connection(): { session: SessionRecord; since: number } | null {
      return newest();
    },

    /** Takes a socket that the runtime has just accepted. `caller` is who opened it. */
    accept(socket: WebSocket, caller: Caller): void {
      const attachment: Attachment = { id: crypto.randomUUID(), caller, isAgentSpeaking: false };
      socket.serializeAttachment(attachment);
      // Of those that have not said hello, nobody waits for ever.
      const silent = sockets().filter(
        (other) => other !== socket && isOpen(other) && !lineOf(attachmentOf(other).id),
      );
      for (const other of silent.slice(0, Math.max(0, silent.length - MAX_LINES + 1))) {
        close(other, CLOSE_REFUSED, "hello did not come");
      }
    },

    /** A frame has come. Never throws. */
    async receive(socket: WebSocket, message: string | ArrayBuffer): Promise<void> {
      if (!isOpen(socket)) return;
      const peer = peerOf(attachmentOf(socket).id);
      if (isFlood(peer)) return refuse(socket, "too many frames");
      if (typeof message !== "string") return refuse(socket, "frames are text");
      if (byteLength(message) > MAX_RELAY_FRAME_BYTES) return refuse(socket, "a frame is too long");
      // Answered by the runtime, unless it came before that was told so.
      if (message === RELAY_PING) return;
      await peer.inTurn(async () => {
        if (!isOpen(socket)) return;
        try {
          const frame = frameOf(message);
          if (typeof frame === "object") return await take(socket, frame);
          options.log.info("relay.unknown_frame", { type: frame });
        } catch (error) {
          // What the page said is wrong, or the conversation is over for good; anything else may pass.
          if (error instanceof AppError && error.code !== "storage_unavailable") {
            return refuse(socket, error instanceof ConversationDeletedError ? error.code : describe(error));
          }
          logFailure(options.log, "relay", error);
          return refuse(socket, "internal_error", INTERNAL_ERROR);
        }
      });
    },

    /** A socket was closed. */
    closed,

    /** Ends the line of a registration, or all of them; the pages do not come back by themselves. */
    end(reason: string, registrationId?: string): void {
      for (const line of lines.filter(({ session }) =>
        [undefined, session.registrationId].includes(registrationId),
      )) {
        detach(line);
        close(line.socket, CLOSE_REPLACED, reason);
      }
    },

    exist: sql.exist,

    isEmpty: () => lines.length === 0,

    forgetTables(): void {
      sql.forget();
    },
  };
}

/** A page's frame; the type of one that is not known. Throws InvalidRequestError. */
function frameOf(text: string): Frame | string {
  const frame: JsonObject = parseJsonObject(text);
  const { type } = validate(v.object({ type: v.string() }), frame);
  return Object.hasOwn(FRAMES, type) ? validate(FRAMES[type as FrameType], frame) : wordOf(type);
}

/** What a page's hello registers: a session of its own, or none that could be dialled. Throws InvalidRequestError. */
function registrationOf(
  { session, agentSessionId }: v.InferOutput<typeof FRAMES.hello>,
  caller: Caller,
): Registration {
  const body: JsonObject = session ?? { sessionPayload: null };
  const registration = parseRegistration(body, true);
  const id = registration.agentSessionId ?? agentSessionId;
  return withProof(id === undefined ? registration : { ...registration, agentSessionId: id }, caller);
}

function pushFrame(pushId: string, { requestIds, delivery, text, results, again }: PushMessage): EdgeFrame {
  const shown = results.map(
    ({ requestId, success, toolName, output, error }): RelayResult => ({
      requestId,
      success,
      ...(toolName === undefined ? {} : { toolName }),
      ...(output === undefined ? {} : { output }),
      ...(error === undefined ? {} : { error }),
      ...(again?.[requestId] === undefined ? {} : { again: again[requestId] }),
    }),
  );
  return { type: "push", pushId, requestIds: [...requestIds], delivery, text, results: shown };
}

function send(socket: WebSocket, frame: EdgeFrame): boolean {
  try {
    socket.send(stringifyJson(frame));
    return true;
  } catch {
    return false;
  }
}

/** Reasons have at most 123 bytes: https://www.rfc-editor.org/rfc/rfc6455#section-5.5 */
function close(socket: WebSocket, code: number, reason: string): void {
  try {
    socket.close(code, reason.slice(0, 120));
  } catch {
    // It is closed already.
  }
}

function isOpen(socket: WebSocket): boolean {
  return socket.readyState === OPEN;
}

function attachmentOf(socket: WebSocket): Attachment {
  return socket.deserializeAttachment() as Attachment;
}

/** What a page called something, as far as it may stand in a log. */
function wordOf(text: string): string {
  return /^[\w.:-]{1,64}$/.test(text) ? text : "(not a word)";
}

/** Our own words for what is wrong: a page's developer reads them in the close event. */
function describe(error: AppError): string {
  const issues = "issues" in error ? (error.issues as readonly { path: string; message: string }[]) : [];
  const [issue] = issues;
  return issue === undefined ? error.message : `${issue.path} ${issue.message}`;
}
