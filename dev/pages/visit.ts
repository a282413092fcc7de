/**
 * A visit of the example pages, without the page: it comes to a conversation, shows what was said there, talks
 * to the agent through the official SDK, and hears of tasks that have finished. What a frontend of your own would
 * do stands here; `page.ts` only draws it.
 */
import { Conversation } from "@elevenlabs/client";
import {
  type AgentSession,
  type AgentSessionStatus,
  createAgentSession,
  type Push,
} from "../../client/index.ts";
import type { PageName, Pass, PassRequest, TaskAnswer, TaskRequest } from "./backend.ts";

export type ShownMessage = {
  /** The same for the same message, however often it is shown. */
  id: string;
  from: "user" | "agent" | "task";
  text: string;
};

/** What the agent has started, as the edge lists it. */
export type ShownTask = {
  taskId: string;
  tool: string;
  status: "processing" | "failed" | "done" | "cancelled" | "expired";
  /** How far it is. */
  progress?: { seq: number; text: string };
};

/** How far a task is, or what has become of it. */
export function standOf({ status, progress }: ShownTask): string {
  return status === "processing" ? (progress?.text ?? "under way") : status;
}

/** `ended`: the agent hung up, or another tab has taken over; `start` begins again. */
export type AgentStatus = "connecting" | "connected" | "waiting to try again" | "ended";

export type VisitStatus = {
  agent: AgentStatus;
  /** Why the agent is not connected, in the words of the SDK. */
  reason: string;
  /** The line of the relay; the proxy has none. */
  line: AgentSessionStatus | null;
};

export type VisitOptions = {
  /** The two pages, by the way on which results come: see the README. */
  channel: PageName;
  /** The page's own server, which knows who the user is and holds the secrets. */
  backend: Backend;
  /** The conversation to come back to; without it a new one begins. */
  conversationId?: string | undefined;
  onMessage: (message: ShownMessage) => void;
  onStatus: (status: VisitStatus) => void;
  /** The newest tasks, the newest first, whenever they may have changed. */
  onTasks?: (tasks: readonly ShownTask[]) => void;
  /** A push of the relay, as it came. */
  onPush?: (push: Push) => void;
  /** What else makes a client, for tests. */
  createSession?: typeof createAgentSession;
};

export interface Backend {
  pass(request: PassRequest): Promise<Pass>;
  /** Resolves with what the task's runner was answered. */
  finishTask(request: TaskRequest): Promise<TaskAnswer>;
}

export interface Visit {
  readonly conversationId: string;
  readonly status: VisitStatus;
  /** Says something to the agent. False where nobody is there to hear it. */
  say(text: string): boolean;
  /** Resolves with what the task's runner was answered. */
  finishTask(task?: Omit<TaskRequest, "conversationId">): Promise<TaskAnswer>;
  /** Nobody wants the result of a task any more. */
  cancelTask(taskId: string): Promise<void>;
  /** Connects to the agent, where the visit has ended, rests or waits. */
  start(): void;
  /** Hangs up, until `start`. */
  rest(): void;
  /** Hangs up for good. */
  leave(): void;
}

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;
const REMEMBERING_TRIES = 5;
const TASKS_SHOWN = 5;
/** How often the edge is asked about tasks that are under way. By proxy nobody tells the page. */
const LOOK_MS = 2_000;
/** A token is not used for its last minute. */
const TOKEN_MARGIN_MS = 60_000;
/** Close code: another connection of this conversation has taken over. */
const REPLACED = 4001;
/** The agent's longest conversation was reached: whoever wants another begins it. */
const TOO_LONG = "max_duration_exceeded";

/** `address` is where the backend is; `key` is what `npm start` printed with the page's address. */
export function createBackend(address: string, key: string): Backend {
  async function ask<T>(path: string, body: object): Promise<T> {
    const response = await fetch(`${address}/backend/${path}`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
      body: JSON.stringify(body),
    });
    if (!response.ok) throw new Error(await response.text());
    return (await response.json()) as T;
  }
  return {
    pass: (request) => ask("pass", request),
    finishTask: (request) => ask("task", request),
  };
}

/**
 * Comes to the conversation and shows its history; the connection to the agent follows by itself. Throws where the
 * backend or the edge do not answer.
 */
export async function startVisit(options: VisitOptions): Promise<Visit> {
  const { channel, backend, onMessage, onStatus, onTasks, onPush } = options;
  const { createSession = createAgentSession } = options;
  let pass = await backend.pass({ conversationId: options.conversationId });
  const { conversationId, edgeUrl, agentId } = pass;
  const api = `${edgeUrl}/agent-conversations/api/${conversationId}`;

  const session: AgentSession = createSession({
    baseUrl: edgeUrl,
    conversationId,
    getToken,
    onPush(push) {
      onPush?.(push);
      for (const { requestId, output, error } of push.results)
        show({ id: `callback:${requestId}`, from: "task", text: textOf(output ?? error) });
    },
    onProgress: () => void showTasks(),
    onStatus: (line) => channel === "relay" && become({ line }),
  });

  let status: VisitStatus = { agent: "connecting", reason: "", line: channel === "relay" ? "idle" : null };
  let conversation: Conversation | undefined;
  /** Counts the agent conversations of this visit: what an earlier one still says is not about the current. */
  let run = 0;
  let failures = 0;
  let pause: ReturnType<typeof setTimeout> | undefined;
  /** Counts the looks at the tasks: what an earlier one brings is old. */
  let look = 0;
  let nextLook: ReturnType<typeof setTimeout> | undefined;
  const shown = new Set<string>();

  function become(change: Partial<VisitStatus>): void {
    status = { ...status, ...change };
    onStatus(status);
  }

  function show(message: ShownMessage): void {
    if (shown.has(message.id)) return;
    shown.add(message.id);
    onMessage(message);
  }

  async function getToken(): Promise<string> {
    if (Date.parse(pass.tokenExpiresAt) - Date.now() < TOKEN_MARGIN_MS)
      pass = await backend.pass({ conversationId });
    return pass.token;
  }

  async function askEdge<T>(path: string, init: RequestInit = {}): Promise<T> {
    const headers = { "content-type": "application/json", authorization: `Bearer ${await getToken()}` };
    const response = await fetch(api + path, { ...init, headers });
    if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
    return (await response.json()) as T;
  }

  /** So that a page that comes back shows what was said before. A message of the same id is kept once. */
  async function remember({ id, from, text }: ShownMessage): Promise<void> {
    const body = JSON.stringify({ id, role: from, content: text });
    for (let tries = 0; tries < REMEMBERING_TRIES; tries++) {
      try {
        return void (await askEdge("/message", { method: "POST", body }));
      } catch {
        await new Promise((resolve) => setTimeout(resolve, FIRST_PAUSE_MS * 2 ** tries));
      }
    }
    console.warn("a message could not be kept");
  }

  async function showHistory(): Promise<void> {
    type Stored = { id: string; role: string; content: string };
    const { messages } = await askEdge<{ messages: Stored[] }>("");
    for (const { id, role, content } of messages)
      show({ id, from: role === "user" || role === "agent" ? role : "task", text: content });
  }

  /** Shows the tasks, now and as long as one is under way. */
  async function showTasks(): Promise<void> {
    const mine = ++look;
    clearTimeout(nextLook);
    let isUnderWay = true;
    try {
      const { tasks } = await askEdge<{ tasks: ShownTask[] }>(`/tasks?limit=${TASKS_SHOWN}`);
      if (mine !== look) return;
      isUnderWay = tasks.some((task) => task.status === "processing");
      onTasks?.(tasks);
    } catch {
      // The edge is not there now.
    }
    if (mine === look && isUnderWay) nextLook = setTimeout(showTasks, LOOK_MS);
  }

  function stopLooking(): void {
    look++;
    clearTimeout(nextLook);
  }

  /** The two ways to the agent. Everything else is the same. */
  async function address(): Promise<{ signedUrl: string; authorization?: string }> {
    if (channel === "proxy") return { signedUrl: session.proxyUrl(agentId), authorization: await getToken() };
    return askEdge<{ signedUrl: string }>(`/signed-url?agentId=${encodeURIComponent(agentId)}`);
  }

  /** Ends what there is; what it still says is about an earlier run. */
  function hangUp(): void {
    run++;
    clearTimeout(pause);
    void conversation?.endSession();
    conversation = undefined;
  }

  async function connect(): Promise<void> {
    hangUp();
    const mine = run;
    become({ agent: "connecting", reason: "" });
    const { callbacks } = session;
    let agentSessionId = "";
    try {
      const { signedUrl, authorization } = await address();
      const started = await Conversation.startSession({
        signedUrl,
        ...(authorization === undefined ? {} : { authorization }),
        textOnly: true,
        ...callbacks,
        onConnect(event) {
          agentSessionId = event.conversationId;
        },
        onMessage(message) {
          callbacks.onMessage(message);
          if (message.role !== "agent") return;
          // It may have started one, or told of one.
          void showTasks();
          const id = `${agentSessionId}:${message.event_id ?? crypto.randomUUID()}`;
          const said: ShownMessage = { id, from: "agent", text: message.message };
          show(said);
          void remember(said);
        },
        onDisconnect(details) {
          callbacks.onDisconnect();
          if (details.reason !== "error") return lost(mine, details.reason, false);
          const isOver = details.closeCode === REPLACED || details.context.type === TOO_LONG;
          lost(mine, details.message, !isOver);
        },
      });
      if (mine !== run) return void started.endSession();
      if (!started.isOpen()) return;
      conversation = started;
      failures = 0;
      become({ agent: "connected", reason: "" });
      if (channel === "relay") await session.attach(started);
    } catch (error) {
      const { message, closeCode } = error as { message: string; closeCode?: number };
      if (conversation === undefined) lost(mine, message, closeCode !== REPLACED);
      else if (mine === run) become({ reason: message });
    }
  }

  function lost(which: number, reason: string, mayComeBack: boolean): void {
    if (which !== run) return;
    conversation = undefined;
    clearTimeout(pause);
    if (mayComeBack) {
      pause = setTimeout(connect, Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** failures++));
    }
    become({ agent: mayComeBack ? "waiting to try again" : "ended", reason });
  }

  await showHistory();
  void showTasks();
  void connect();
  return {
    conversationId,
    get status() {
      return status;
    },
    say(text) {
      if (conversation === undefined) return false;
      const said: ShownMessage = { id: crypto.randomUUID(), from: "user", text };
      show(said);
      void remember(said);
      conversation.sendUserMessage(text);
      return true;
    },
    finishTask: (task = {}) => backend.finishTask({ ...task, conversationId }),
    async cancelTask(taskId) {
      await askEdge(`/tasks/${encodeURIComponent(taskId)}`, { method: "DELETE" });
      await showTasks();
    },
    start() {
      void showTasks();
      if (conversation === undefined && status.agent !== "connecting") void connect();
    },
    rest() {
      stopLooking();
      hangUp();
      become({ agent: "ended", reason: "" });
    },
    leave() {
      stopLooking();
      hangUp();
      session.close();
    },
  };
}

function textOf(output: unknown): string {
  return typeof output === "string" ? output : (JSON.stringify(output) ?? "");
}
