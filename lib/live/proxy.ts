/**
 * The `proxy` channel: the page's SDK connects here as if it were the provider, and this object to the provider with
 * the account's key. Every frame passes both ways, untouched and in order; what is pushed goes upstream between the
 * page's own frames. Nothing is originated towards the page: what the SDK hears first must be the provider's.
 *
 * There is one connection a conversation, page and provider together: whichever goes first takes the other with it,
 * and a page that connects anew takes the place of the one before. While it stands the object stays in memory.
 */
import type { NoConversation, SdkParameters } from "../elevenlabs.ts";
import { ConversationDeletedError } from "../errors.ts";
import { byteLength } from "../json.ts";
import { type Logger, logFailure } from "../log.ts";
import { ENOUGH } from "../patience.ts";
import type { Channel, PushOutcome } from "../push/channel.ts";
import { NOT_TAKEN } from "../push/dial.ts";
import type { PushMessage } from "../push/message.ts";
import { frameOf } from "../push/socket.ts";
import { type SessionRecord, sessionRecord } from "../session-store.ts";
import { createProviderEvents, type ProviderEvents, type Reading } from "./provider-events.ts";
import { CLOSE_REFUSED, CLOSE_REPLACED } from "./relay-protocol.ts";
import { createTranscript, type Transcript, type TranscriptOptions } from "./transcript.ts";
import type { Turn } from "./turn.ts";

/** Who does not read is cut off when so much waits for it, in bytes. */
export const MAX_WAITING_BYTES = 4 * 1024 * 1024;
/** A provider that does not want a frame closes at once; one that has not by then, in ms, does not mind it. */
export const OBJECTS_WITHIN_MS = 300;
/** How long it takes the provider at most to show that it is there, in ms: it pings more often than that. */
export const SHOWS_WITHIN_MS = 5_000;
/** The longest id of an agent conversation that a session takes. */
const MAX_AGENT_SESSION_ID = 256;
/** The texts that were pushed last; a provider that repeats what it was told as the user's words is not believed. */
const MAX_PUSHED_TEXTS = 20;

const NORMAL_CLOSURE = 1000;
const INTERNAL_ERROR = 1011;
const TRY_AGAIN_LATER = 1013;
/** What one side is told of the other that went without a word. */
const LOST = { code: INTERNAL_ERROR, reason: "The connection was lost." } as const;

/** What a page's developer reads in the close event. */
const NO_AGENT: Record<NoConversation["failure"], string> = {
  unreachable: "The agent's provider cannot be reached.",
  refused: "The agent's provider does not let this agent be started.",
};

const AGENT_ID = "agentId";

/** The request that connects a page to an agent, at the object of a conversation. */
export function proxyRequest(agentId: string, parameters: SdkParameters): Request {
  const query = new URLSearchParams({ ...parameters, [AGENT_ID]: agentId });
  return new Request(`https://live-conversation/proxy?${query}`, { headers: { upgrade: "websocket" } });
}

/** What a request of `proxyRequest` asks for; null for any other request. */
export function agentOf(request: Request): { agentId: string; parameters: SdkParameters } | null {
  const { pathname, searchParams } = new URL(request.url);
  if (pathname !== "/proxy") return null;
  const { [AGENT_ID]: agentId = "", ...parameters } = Object.fromEntries(searchParams);
  return { agentId, parameters };
}

export type ProxyOptions = {
  conversationId: string;
  /** Opens a conversation with the agent: a WebSocket, not yet accepted. Bounded in time; never throws. */
  open: (
    agentId: string,
    parameters: SdkParameters,
    signal: AbortSignal,
  ) => Promise<{ socket: WebSocket } | NoConversation>;
  isDeleted: () => boolean;
  /**
   * Makes the session of a connection the current one; `then` is called when it is. Returns whether it replaced
   * another. Throws ConversationDeletedError.
   */
  attach: (session: SessionRecord, then: () => void) => Promise<boolean>;
  /** The connection of this registration is over. */
  detach: (registrationId: string) => Promise<void>;
  turn: Turn;
  /** Brings the loop to look whether it may speak. */
  wake: () => void;
  /** Takes what was said; null where that is nobody's business. */
  appendTranscript: TranscriptOptions["append"] | null;
  log: Logger;
  /** The clock, in ms since the epoch. */
  now: () => number;
  wait: (ms: number, signal?: AbortSignal) => Promise<void>;
};

type Frame = string | ArrayBuffer;

/** A page and the agent it talks to. */
type Connection = {
  page: WebSocket;
  /** Null until it is open. */
  provider: WebSocket | null;
  /** What the page says before the provider is there. */
  early: Frame[];
  earlyBytes: number;
  opening: AbortController;
  events: ProviderEvents;
  transcript: Transcript | null;
  /** Null until the agent conversation has begun and is registered, and once it must not be pushed to any more. */
  session: SessionRecord | null;
  /** When it was registered, in ms. */
  since: number;
  hasBegun: boolean;
  /** Called at the provider's next frame. */
  expecting: Set<() => void>;
  pushedTexts: string[];
  isOver: boolean;
  /** Resolves when it is over, with the provider's closing code if it was the provider. */
  over: PromiseWithResolvers<number | null>;
};

type Closing = { code: number; reason: string };

export type AgentProxy = ReturnType<typeof createProxy>;

export function createProxy(options: ProxyOptions) {
  const { conversationId, attach, detach, turn, wake, now, wait, log } = options;
  let current: Connection | null = null;

  /** Ends a connection on both sides, each with what it is to be told. */
  function end(connection: Connection, toPage: Closing, toProvider: Closing, byProvider = false): void {
    if (connection.isOver) return;
    connection.isOver = true;
    connection.opening.abort();
    connection.early = [];
    close(connection.page, toPage);
    if (connection.provider !== null) close(connection.provider, toProvider);
    connection.over.resolve(byProvider ? toPage.code : null);
    connection.transcript?.end();
    if (current === connection) {
      current = null;
      turn.note({ type: "unknown" });
    }
    const { session } = connection;
    if (session !== null) void leave(connection, session.registrationId, toPage.code);
  }

  async function leave(connection: Connection, registrationId: string, closeCode: number): Promise<void> {
    connection.session = null;
    try {
      await detach(registrationId);
      log.info("session.ended", { registrationId, channel: "proxy", closeCode });
    } catch (error) {
      logFailure(log, "proxy", error);
    }
  }

  /** We end it. */
  function cutOff(connection: Connection, code: number, reason: string): void {
    end(connection, { code, reason }, { code: NORMAL_CLOSURE, reason });
  }

  /** Somebody does not read. */
  function overflow(connection: Connection, whose: "page" | "provider"): void {
    log.warn("proxy.refused", { reason: `the ${whose} does not read`, closeCode: TRY_AGAIN_LATER });
    cutOff(connection, TRY_AGAIN_LATER, `The ${whose} does not read what it is sent.`);
  }

  /** Passes a frame on. */
  function pass(connection: Connection, frame: Frame, to: WebSocket, whose: "page" | "provider"): void {
    try {
      to.send(frame);
    } catch {
      cutOff(connection, INTERNAL_ERROR, `The ${whose} went.`);
      return;
    }
    if (to.bufferedAmount > MAX_WAITING_BYTES) overflow(connection, whose);
  }

  function fromPage(connection: Connection, frame: Frame): void {
    if (connection.isOver) return;
    const { provider } = connection;
    if (provider !== null) {
      pass(connection, frame, provider, "provider");
      note(connection, connection.events.fromPage(frame, now()));
    } else {
      connection.early.push(frame);
      connection.earlyBytes += typeof frame === "string" ? byteLength(frame) : frame.byteLength;
      if (connection.earlyBytes > MAX_WAITING_BYTES) overflow(connection, "provider");
    }
  }

  function fromProvider(connection: Connection, frame: Frame): void {
    if (connection.isOver) return;
    pass(connection, frame, connection.page, "page");
    for (const look of connection.expecting) look();
    connection.expecting.clear();
    note(connection, connection.events.fromProvider(frame, now()));
  }

  function note(connection: Connection, { began, turn: events = [], said }: Reading): void {
    if (connection !== current) return;
    const expected = turn.busyUntil(now());
    for (const event of events) turn.note(event);
    // It becomes quiet sooner than those who wait for it were told.
    if ((turn.busyUntil(now()) ?? 0) < (expected ?? 0)) wake();
    if (began !== undefined && !connection.hasBegun) void begin(connection, began);
    if (said !== undefined && !(said.role === "user" && connection.pushedTexts.includes(said.text)))
      connection.transcript?.hear(said);
  }

  /** The agent conversation has an id: it is a session from now on, vouched for by the provider itself. */
  async function begin(connection: Connection, id: string): Promise<void> {
    connection.hasBegun = true;
    if (options.appendTranscript !== null) {
      const { agentSpeaksUntil } = connection.events;
      connection.transcript = createTranscript({
        agentSessionId: id,
        append: options.appendTranscript,
        agentSpeaksUntil,
        log,
        now,
        wait,
      });
    }
    const known = id.length <= MAX_AGENT_SESSION_ID ? { agentSessionId: id, provenAgentSessionId: id } : {};
    const session: SessionRecord = {
      ...sessionRecord(
        conversationId,
        { ...known, sessionPayload: null, transport: "websocket", extra: {} },
        crypto.randomUUID(),
        now(),
      ),
      channel: "proxy",
    };
    const { registrationId, transport } = session;
    let isAttached = false;
    try {
      const replaced = await attach(session, () => {
        if (connection.isOver) return;
        Object.assign(connection, { session, since: now() });
        isAttached = true;
      });
      log.info(replaced ? "session.replaced" : "session.registered", {
        registrationId,
        transport,
        channel: "proxy",
      });
      // It was over before it was known.
      if (!isAttached) await detach(registrationId);
      wake();
    } catch (error) {
      if (error instanceof ConversationDeletedError) cutOff(connection, CLOSE_REFUSED, error.code);
      else logFailure(log, "proxy", error);
    }
  }

  async function openProvider(
    connection: Connection,
    agentId: string,
    parameters: SdkParameters,
  ): Promise<void> {
    const opened = await options.open(agentId, parameters, connection.opening.signal);
    if ("failure" in opened) {
      if (connection.isOver) return;
      log.warn("provider.failed", { failure: opened.failure, status: opened.status });
      cutOff(connection, INTERNAL_ERROR, NO_AGENT[opened.failure]);
      return;
    }
    const { socket } = opened;
    listen(socket, {
      frame: (frame) => fromProvider(connection, frame),
      closed: (closing) => end(connection, closing, closing, true),
    });
    if (connection.isOver) return close(socket, { code: NORMAL_CLOSURE, reason: "" });
    connection.provider = socket;
    const { early } = connection;
    connection.early = [];
    for (const frame of early) fromPage(connection, frame);
  }

  /** Sends a frame upstream, and finds out whether the provider took it. */
  async function say(connection: Connection, provider: WebSocket, frame: string): Promise<PushOutcome> {
    const shown = Promise.withResolvers<void>();
    connection.expecting.add(shown.resolve);
    try {
      provider.send(frame);
    } catch {
      return { outcome: "unreachable" };
    }
    const patience = new AbortController();
    const { signal } = patience;
    try {
      return await Promise.race([
        connection.over.promise.then(judge),
        Promise.all([shown.promise, wait(OBJECTS_WITHIN_MS, signal)]).then(
          (): PushOutcome => ({ outcome: "delivered", proof: "accepted" }),
        ),
        wait(SHOWS_WITHIN_MS, signal).then((): PushOutcome => ({ outcome: "unconfirmed" })),
      ]);
    } finally {
      patience.abort(ENOUGH);
      connection.expecting.delete(shown.resolve);
    }
  }

  function pushing(message: PushMessage, connection: Connection): string {
    if (message.delivery !== "silent") {
      // To the agent it is the user who speaks now.
      turn.note({ type: "user_activity", at: now() });
      connection.pushedTexts = [...connection.pushedTexts, message.text].slice(-MAX_PUSHED_TEXTS);
    }
    return JSON.stringify(frameOf(message));
  }

  const channel: Channel = {
    name: "proxy",
    accepts: ({ registrationId }) => current?.session?.registrationId === registrationId,
    async push({ registrationId }, message) {
      const connection = current;
      if (connection?.session?.registrationId !== registrationId || connection.provider === null)
        return { outcome: "unreachable" };
      return say(connection, connection.provider, pushing(message, connection));
    },
  };

  return {
    channel,

    /** The session of the connection, and since when it is registered, in ms; null where there is none. */
    connection(): { session: SessionRecord; since: number } | null {
      const { session = null, since = 0 } = current ?? {};
      return session === null ? null : { session, since };
    },

    /** Takes a page's socket, not yet accepted, and connects it to an agent. Whoever was connected is replaced. */
    connect(page: WebSocket, agentId: string, parameters: SdkParameters): void {
      if (current !== null) cutOff(current, CLOSE_REPLACED, "replaced");
      const connection: Connection = {
        page,
        provider: null,
        early: [],
        earlyBytes: 0,
        opening: new AbortController(),
        events: createProviderEvents(),
        transcript: null,
        session: null,
        since: 0,
        hasBegun: false,
        expecting: new Set(),
        pushedTexts: [],
        isOver: false,
        over: Promise.withResolvers(),
      };
      listen(page, {
        frame: (frame) => fromPage(connection, frame),
        closed: (closing) => end(connection, closing, closing),
      });
      current = connection;
      if (options.isDeleted()) cutOff(connection, CLOSE_REFUSED, "conversation_deleted");
      else {
        openProvider(connection, agentId, parameters).catch((error: unknown) => {
          logFailure(log, "proxy", error);
          cutOff(connection, INTERNAL_ERROR, NO_AGENT.unreachable);
        });
      }
    },

    /** Pushes nothing more to a registration, or to whichever there is. The page and its agent talk on. */
    release(registrationId?: string): void {
      if (current !== null && [undefined, current.session?.registrationId].includes(registrationId))
        current.session = null;
    },

    /** Ends whatever is connected; the page reads why. */
    end(reason: string): void {
      if (current !== null) cutOff(current, CLOSE_REPLACED, reason);
    },

    isEmpty: () => current === null,
  };
}

/** Listens to a socket and accepts it, half open: whoever closes it is answered with what the other side is told. */
function listen(
  socket: WebSocket,
  on: { frame: (frame: Frame) => void; closed: (closing: Closing) => void },
): void {
  socket.binaryType = "arraybuffer";
  socket.addEventListener("message", ({ data }) => on.frame(data as Frame));
  socket.addEventListener("close", ({ code, reason }) => {
    const closing = canBeSent(code) ? { code, reason } : LOST;
    on.closed(closing);
    close(socket, closing);
  });
  socket.addEventListener("error", () => on.closed(LOST));
  socket.accept({ allowHalfOpen: true });
}

function close(socket: WebSocket, { code, reason }: Closing): void {
  try {
    socket.close(code, reason);
  } catch {
    // It is closed already.
  }
}

/** Whether a closing code may stand in a close frame: https://www.rfc-editor.org/rfc/rfc6455#section-7.4 */
function canBeSent(code: number): boolean {
  return (
    (code >= 1000 && code <= 1014 && ![1004, 1005, 1006].includes(code)) || (code >= 3000 && code < 5000)
  );
}

/** What became of a push while which the connection ended. */
function judge(closeCode: number | null): PushOutcome {
  if (closeCode === null) return { outcome: "unconfirmed" };
  return { outcome: NOT_TAKEN.has(closeCode) ? "refused" : "unconfirmed", closeCode };
}
