/**
 * The client: it watches an agent conversation through the SDK's callbacks, keeps a line to the edge while that
 * conversation lives, and says in it what the edge sends, each result once.
 */
import type { PageSession, ProgressFrame, PushFrame, WelcomeFrame } from "../lib/live/relay-protocol.ts";
import { type AgentConversation, idOf, isOpen, knowsIfOpen } from "./agent-conversation.ts";
import { createLine, type Line } from "./line.ts";
import type { Page } from "./page.ts";
import { createSaid, type Said } from "./said.ts";
import { createSpeaking } from "./speaking.ts";

/**
 * `idle`: nothing is attached. `connecting`: attached, not welcomed yet. `live`: results can arrive.
 * `reconnecting`: the line was lost and comes back by itself. `replaced`: another page has taken over.
 * `closed`: for good.
 */
export type AgentSessionStatus = "idle" | "connecting" | "live" | "reconnecting" | "replaced" | "closed";

/** What the page is told about a push before the agent is. */
export type Push = Omit<PushFrame, "type">;

/** How far a task is whose result is still to come. */
export type Progress = Omit<ProgressFrame, "type">;

/** Who the edge takes the page for: what `attach` resolves with. */
export type Welcome = Omit<WelcomeFrame, "type">;

export type AgentSessionOptions = {
  /** The origin of the deployment, as in `https://agent.example.com`. */
  baseUrl: string;
  conversationId: string;
  /** Called before a push is said. What it throws is caught and shown on the console. */
  onPush?: (push: Push) => void;
  /** Called before the agent is told how far a task is. What it throws is caught and shown on the console. */
  onProgress?: (progress: Progress) => void;
  /** Called when the status has changed. What it throws is caught and shown on the console. */
  onStatus?: (status: AgentSessionStatus) => void;
} & (
  | {
      /** The conversation token. It opens no new line once it has expired: a longer visit needs `getToken`. */
      token: string;
      getToken?: never;
    }
  | {
      /** Asked for a conversation token whenever a line is opened. Where it fails it is asked again, later. */
      getToken: () => string | Promise<string>;
      token?: never;
    }
);

/** Why an `attach` came to nothing. */
export type AgentSessionErrorCode = "ended" | "refused" | "replaced" | "superseded" | "closed";

export class AgentSessionError extends Error {
  override readonly name = "AgentSessionError";
  readonly code: AgentSessionErrorCode;

  constructor(code: AgentSessionErrorCode, reason = "") {
    super(reason || code);
    this.code = code;
  }
}

/** Observers for `Conversation.startSession` or `useConversation`. They change nothing and never throw. */
export type AgentSessionCallbacks = {
  onModeChange: (event: { mode: string }) => void;
  onStatusChange: (event: { status: string }) => void;
  onDisconnect: () => void;
  onAgentChatResponsePart: (part: { type: string }) => void;
  onVadScore: (event: { vadScore: number }) => void;
  onMessage: (message: { role?: string; source?: string }) => void;
};

export interface AgentSession {
  readonly callbacks: AgentSessionCallbacks;
  readonly status: AgentSessionStatus;
  /** The URL for the proxy channel: give it to the SDK as `signedUrl`, and the token as `authorization`. */
  proxyUrl(agentId: string): string;
  /**
   * Registers the agent conversation as the live session of this conversation, and says in it what arrives.
   * Attaching what is attached already changes nothing; another agent conversation takes its place.
   *
   * Resolves when the edge has welcomed the page, however long that takes. Rejects with AgentSessionError where
   * it never will; a rejection that nobody looks at stays silent.
   */
  attach(conversation: AgentConversation, session?: PageSession): Promise<Welcome>;
  /** Says goodbye for good. Repeating it does nothing. */
  close(): void;
}

/** What is attached: one agent conversation. */
type Attachment = {
  conversation: AgentConversation;
  id: string | undefined;
  session: PageSession | undefined;
  said: Said;
  line: Line;
  welcomed: Promise<Welcome>;
  resolve: (welcome: Welcome) => void;
  reject: (error: AgentSessionError) => void;
  /** Takes its listeners from the page. */
  forgetPage: () => void;
};

/** `session` is what a page gets; `leave` ends what is attached and lets `attach` be called again. */
export function openAgentSession(
  page: Page,
  options: AgentSessionOptions,
): { session: AgentSession; leave: () => void } {
  const path = `${options.baseUrl.replace(/^http/, "ws").replace(/\/+$/, "")}/agent-conversations/api/${encodeURIComponent(options.conversationId)}`;
  const saidIn = createSaid(page, options.conversationId);
  const speaking = createSpeaking(page, (frame) => attached?.line.send(frame));
  let status: AgentSessionStatus = "idle";
  let attached: Attachment | null = null;
  /** What the SDK reported last. */
  let sdkStatus: string | undefined;

  /** The same function, but what it throws goes to the console. */
  function quiet<A extends unknown[]>(work: (...args: A) => void): (...args: A) => void {
    return (...args) => {
      try {
        work(...args);
      } catch (error) {
        page.complain(error);
      }
    };
  }

  const tellPush = quiet((push: Push) => options.onPush?.(push));
  const tellProgress = quiet((progress: Progress) => options.onProgress?.(progress));
  const tellStatus = quiet((to: AgentSessionStatus) => options.onStatus?.(to));

  /** Always the last thing that is done: the page may call anything from its `onStatus`. */
  function become(to: AgentSessionStatus): void {
    if (to === status) return;
    status = to;
    tellStatus(to);
  }

  /** Ends what is attached; the caller says what becomes of the status. */
  function detach(error: AgentSessionError): void {
    if (attached === null) return;
    const { line, reject, forgetPage } = attached;
    attached = null;
    line.pause();
    forgetPage();
    speaking.reset();
    reject(error);
  }

  function leave(): void {
    if (attached === null) return;
    detach(new AgentSessionError("ended"));
    become("idle");
  }

  function canSpeak(attachment: Attachment): boolean {
    return attachment === attached && isOpen(attachment.conversation, sdkStatus);
  }

  function sdkEnded(): void {
    // An earlier agent conversation may say goodbye when the next one is already there.
    if (attached && knowsIfOpen(attached.conversation) && canSpeak(attached)) return;
    leave();
  }

  function receive(attachment: Attachment, push: Push): void {
    const { said, line } = attachment;
    const again = new Map(push.results?.map((result) => [result.requestId, result.again]));
    /** What is to be said again is another thing to say. */
    const nameOf = (requestId: string) =>
      requestId + (again.get(requestId) ? `#${again.get(requestId)}` : "");
    const known = push.requestIds.filter((requestId) => said.has(nameOf(requestId)));
    const unknown = push.requestIds.filter((requestId) => !known.includes(requestId));
    if (known.length > 0) line.send({ type: "ack", requestIds: known });
    if (unknown.length === 0) return;
    const nack = (reason: string) => line.send({ type: "nack", requestIds: unknown, reason });
    if (known.length > 0) {
      // One text tells them all. The edge learns what is left, and a new hello makes it try again.
      nack("partly_said");
      line.reconnect();
      return;
    }
    if (!canSpeak(attachment)) return void nack("conversation_closed");
    tellPush(push);
    if (!canSpeak(attachment)) return void nack("conversation_closed");
    if (!say(attachment, push)) return void nack("send_failed");
    said.add(unknown.map(nameOf));
    line.send({ type: "ack", requestIds: unknown });
  }

  /** Returns whether the SDK took it. */
  function say(
    { conversation }: Attachment,
    { delivery, text }: { delivery: string; text: string },
  ): boolean {
    try {
      if (delivery === "silent") conversation.sendContextualUpdate(text);
      else conversation.sendUserMessage(text);
      return true;
    } catch (error) {
      page.complain(error);
      return false;
    }
  }

  /** It is told if that is possible now; nobody waits to hear that it was. */
  function report(attachment: Attachment, progress: Progress): void {
    if (!canSpeak(attachment) || attachment.said.has(progress.requestId)) return;
    tellProgress(progress);
    if (canSpeak(attachment)) say(attachment, progress);
  }

  function attach(conversation: AgentConversation, session?: PageSession): Promise<Welcome> {
    const id = session?.agentSessionId ?? idOf(conversation);
    if (attached !== null && (attached.conversation === conversation || (id && attached.id === id))) {
      attached.conversation = conversation;
      attached.session = session ?? attached.session;
      return attached.welcomed;
    }
    const { welcomed, resolve, reject } = promise<Welcome>();
    if (status === "closed") {
      reject(new AgentSessionError("closed"));
      return welcomed;
    }
    detach(new AgentSessionError("superseded"));

    let isHidden = false;
    const line = createLine(page, {
      url: `${path}/stream`,
      getToken: () => options.getToken?.() ?? options.token ?? "",
      hello: () => ({
        type: "hello",
        ...(attachment.session && { session: attachment.session }),
        ...(id && { agentSessionId: id }),
        ...(attachment.said.isWhole() && { heard: attachment.said.all() }),
      }),
      onWelcome({ type: _, ...welcome }) {
        resolve(welcome);
        speaking.repeat();
        become("live");
      },
      onFrame(frame) {
        if (isPush(frame)) receive(attachment, frame);
        if (isProgress(frame)) report(attachment, frame);
      },
      onLost() {
        if (status === "live") become("reconnecting");
      },
      onEnd(why, reason) {
        detach(new AgentSessionError(why, reason));
        become(why === "replaced" ? "replaced" : "idle");
      },
    });
    const listeners = [
      page.on("pagehide", () => {
        isHidden = true;
        line.pause();
        become("reconnecting");
      }),
      page.on("pageshow", () => {
        if (!isHidden) return;
        isHidden = false;
        if (canSpeak(attachment)) line.resume();
        else leave();
      }),
      page.on("online", line.wake),
      page.on("offline", line.wake),
    ];
    const attachment: Attachment = {
      conversation,
      id,
      session,
      said: saidIn(id ?? conversation),
      line,
      welcomed,
      resolve,
      reject,
      forgetPage: () => {
        for (const forget of listeners) forget();
      },
    };
    attached = attachment;
    become("connecting");
    if (attached === attachment) line.resume();
    return welcomed;
  }

  const session: AgentSession = {
    callbacks: {
      onModeChange: quiet(({ mode }) => speaking.mode(mode)),
      onStatusChange: quiet((event) => {
        sdkStatus = event.status;
        // A start that fails says only this, and never `onDisconnect`.
        if (sdkStatus === "disconnecting" || sdkStatus === "disconnected") sdkEnded();
      }),
      onDisconnect: quiet(() => {
        sdkStatus = "disconnected";
        sdkEnded();
      }),
      onAgentChatResponsePart: quiet(({ type }) => speaking.textPart(type)),
      onVadScore: quiet(({ vadScore }) => speaking.voice(vadScore)),
      onMessage: quiet(({ role, source }) => speaking.message(role ?? source)),
    },
    get status() {
      return status;
    },
    proxyUrl: (agentId) => `${path}/connect?agentId=${encodeURIComponent(agentId)}`,
    attach,
    close() {
      detach(new AgentSessionError("closed"));
      become("closed");
    },
  };
  return { session, leave };
}

/** A promise that rejects without a word where nobody looks. */
function promise<T>() {
  let resolve!: (value: T) => void;
  let reject!: (error: AgentSessionError) => void;
  const welcomed = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  welcomed.catch(() => {});
  return { welcomed, resolve, reject };
}

/** What can be said and acknowledged; anything else is ignored. */
function isPush(frame: Record<string, unknown>): frame is PushFrame {
  const { type, requestIds } = frame;
  return (
    type === "push" &&
    Array.isArray(requestIds) &&
    requestIds.length > 0 &&
    requestIds.every((requestId) => typeof requestId === "string") &&
    isSayable(frame)
  );
}

function isProgress(frame: Record<string, unknown>): frame is ProgressFrame {
  return frame.type === "progress" && typeof frame.requestId === "string" && isSayable(frame);
}

function isSayable({ delivery, text }: Record<string, unknown>): boolean {
  const isKnown = delivery === "when_idle" || delivery === "interrupt" || delivery === "silent";
  return isKnown && typeof text === "string";
}
