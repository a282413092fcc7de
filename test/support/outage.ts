/**
 * Users of the product during an outage: many conversations, each with a browser, a task runner and a chat
 * of its own, who do things one after the other and remember what they were told. Afterwards they say what
 * of it is not true.
 */
import { WebSocketServer } from "ws";
import type { TestWorker } from "./worker.ts";

/** Sends a request to any instance of the Worker. */
export type Send = TestWorker["fetch"];

const API = "/agent-conversations/api";

/** By then everything that was kept during an outage stands in Redis, or somebody has forgotten it. */
const GIVEN_BACK_MS = 15_000;
/** How often a sender tries again where it was told to. */
const MAX_TRIES = 40;

export type OutageReport = {
  operations: number;
  acknowledged: number;
  /** What was acknowledged and is not there, in words. */
  lost: string[];
  /** Callbacks that reached an agent more than once. */
  duplicated: string[];
  /** Callbacks that were acknowledged and reached no agent, not even at the last hand-over. */
  undelivered: string[];
  /** Answers that were neither an acknowledgement nor a request to try again. */
  unexpected: string[];
  slowestMs: number;
};

type Acknowledged = {
  conversationId: string;
  /** The last registration; null before the first. */
  registrationId: string | null;
  callbacks: string[];
  messages: string[];
  state: string | null;
  /** Of the memory; null while there is none. */
  fields: string[] | null;
};

/** Something that happens once a share of the operations, from 0 to 1, is done. `inSilence`: while nobody does anything. */
export type Moment = { share: number; inSilence?: boolean; happen: () => Promise<void> | void };

export type Users = {
  /** Does `operations` things, spread over all conversations, and each of `moments` once its share is done. */
  act(operations: number, moments: readonly Moment[]): Promise<void>;
  /** Forgets what was acknowledged so far, where it is known to be gone for good. */
  forget(): void;
  /** Looks for everything that was acknowledged. */
  report(): Promise<OutageReport>;
  close(): Promise<void>;
};

/** `send` chooses an instance; `random` from 0 to 1 decides who does what, so that a run can be repeated. */
export async function startUsers(fetchAny: Send, count: number, random: () => number): Promise<Users> {
  const frames: string[] = [];
  const agent = new WebSocketServer({ host: "127.0.0.1", port: 0 });
  agent.on("connection", (socket) => socket.on("message", (data) => frames.push(String(data))));
  await new Promise((resolve) => agent.once("listening", resolve));
  const agentUrl = `ws://127.0.0.1:${(agent.address() as { port: number }).port}/`;

  let operations = 0;
  let acknowledged = 0;
  let slowestMs = 0;
  let serial = 0;
  const unexpected: string[] = [];
  const lost: string[] = [];
  const everyone: Acknowledged[] = Array.from({ length: count }, (_, i) => ({
    conversationId: `outage-${i}`,
    registrationId: null,
    callbacks: [],
    messages: [],
    state: null,
    fields: null,
  }));
  const isDelivered = new Map<string, boolean>();

  async function send(method: string, path: string, json?: object): Promise<Response> {
    const start = performance.now();
    const response = await fetchAny(path, json === undefined ? { method } : { method, json });
    slowestMs = Math.max(slowestMs, performance.now() - start);
    return response;
  }

  /** Sends until it is acknowledged, as a sender does who is told to try again. */
  async function insist(
    method: string,
    path: string,
    json?: object,
  ): Promise<Record<string, unknown> | null> {
    for (let i = 0; i < MAX_TRIES; i++) {
      operations += 1;
      const response = await send(method, path, json);
      const body = (await response.json()) as Record<string, unknown>;
      if (response.ok) {
        acknowledged += 1;
        return body;
      }
      if (![409, 429, 503].includes(response.status)) {
        unexpected.push(`${method} ${path}: ${response.status} ${JSON.stringify(body)}`);
        return null;
      }
      await new Promise((resolve) => setTimeout(resolve, 25 * (1 + i)));
    }
    unexpected.push(`${method} ${path}: never acknowledged`);
    return null;
  }

  const register = async (user: Acknowledged): Promise<void> => {
    const body = await insist("POST", `${API}/${user.conversationId}/session`, { sessionUrl: agentUrl });
    if (body) user.registrationId = String(body.registrationId);
  };

  const things: ((user: Acknowledged) => Promise<void>)[] = [
    register,
    async (user) => {
      const requestId = `task-${serial++}`;
      const callback = { requestId, conversationId: user.conversationId, output: `output of ${requestId}.` };
      // Senders repeat themselves: at the same time, and when they have been answered.
      const copies = random() < 0.3 ? 2 : 1;
      const answers = await Promise.all(
        Array.from({ length: copies }, () => insist("POST", "/callback", callback)),
      );
      if (answers.every((answer) => answer === null)) return;
      user.callbacks.push(requestId);
      isDelivered.set(
        requestId,
        answers.some((answer) => answer?.delivered === true),
      );
      if (random() < 0.3) await insist("POST", "/callback", callback);
    },
    async (user) => {
      const body = await insist("POST", `${API}/${user.conversationId}/message`, {
        role: "user",
        content: `message ${serial++}`,
      });
      if (body) user.messages.push((body.message as { id: string }).id);
    },
    async (user) => {
      const path = `/state/api/${user.conversationId}`;
      const value = `state ${serial++}`;
      if (await insist("PUT", path, { value })) user.state = value;
    },
    // Fields are only ever added, so each that was acknowledged must be there in the end.
    async (user) => {
      const path = `/memory/api/${user.conversationId}`;
      const field = `field${serial++}`;
      if (user.fields === null) {
        if (await insist("PUT", path, { domain: "general" })) user.fields = [];
      } else if (await insist("PATCH", path, { [field]: true })) user.fields?.push(field);
    },
    // Whoever has registered is seen to be live; an instance that reaches Redis while the object did not may be
    // some seconds late.
    async (user) => {
      const deadline = Date.now() + GIVEN_BACK_MS;
      for (;;) {
        operations += 1;
        const response = await send("GET", `${API}/${user.conversationId}/session`);
        if (response.ok) acknowledged += 1;
        if (response.status !== 404 || user.registrationId === null) return;
        if (Date.now() > deadline) {
          lost.push(`${user.conversationId}: session not found while it was live`);
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, 250));
      }
    },
  ];

  async function messagesOf(conversationId: string): Promise<string[]> {
    const ids: string[] = [];
    for (let before = ""; ; ) {
      const response = await send("GET", `${API}/${conversationId}?limit=100${before}`);
      if (!response.ok) return ids;
      const page = (await response.json()) as { messages: { id: string }[]; nextBefore?: string };
      ids.unshift(...page.messages.map(({ id }) => id));
      if (page.nextBefore === undefined) return ids;
      before = `&before=${page.nextBefore}`;
    }
  }

  /** What was acknowledged to a user and is not there, in words. */
  async function missingOf(user: Acknowledged): Promise<string[]> {
    const { conversationId, registrationId, callbacks, messages, state, fields } = user;
    const missing: string[] = [];
    const ids = await messagesOf(conversationId);
    for (const id of [...callbacks.map((requestId) => `callback:${requestId}`), ...messages]) {
      if (!ids.includes(id)) missing.push(`${id} is not in the history`);
    }
    if (new Set(ids).size !== ids.length) missing.push("a message stands twice");
    if (registrationId !== null) {
      const found = await send("GET", `${API}/${conversationId}/session`);
      const current = found.ok
        ? ((await found.json()) as { registrationId: string }).registrationId
        : found.status;
      if (current !== registrationId) missing.push("the last registration is not the one that stands");
    }
    if (state !== null) {
      const found = await send("GET", `/state/api/${conversationId}`);
      const value = found.ok ? ((await found.json()) as { value: string }).value : found.status;
      if (value !== state) missing.push(`state is ${value} instead of ${state}`);
    }
    if (fields !== null) {
      const found = await send("GET", `/memory/api/${conversationId}`);
      const memory = found.ok ? ((await found.json()) as object) : {};
      for (const field of fields) if (!(field in memory)) missing.push(`${field} is not in the memory`);
    }
    return missing;
  }

  return {
    async act(total, moments) {
      const pending = [...moments];
      let atWork = 0;
      let silence: Promise<void> = Promise.resolve();

      async function nextMoment(): Promise<void> {
        const [moment] = pending;
        if (moment === undefined || operations / total < moment.share) return;
        pending.shift();
        if (!moment.inSilence) return moment.happen();
        silence = (async () => {
          while (atWork > 0) await new Promise((resolve) => setTimeout(resolve, 5));
          await moment.happen();
        })();
      }

      const one = async (user: Acknowledged): Promise<void> => {
        while (operations < total) {
          await nextMoment();
          // Whoever waited for one silence may have come to the next.
          for (let before = null as Promise<void> | null; before !== silence; ) {
            before = silence;
            await before;
          }
          atWork += 1;
          await things[Math.floor(random() * things.length)]?.(user);
          atWork -= 1;
        }
      };
      await Promise.all(everyone.map(one));
    },

    forget() {
      for (const user of everyone) {
        Object.assign(user, { registrationId: null, callbacks: [], messages: [], state: null, fields: null });
      }
    },

    async report() {
      for (const user of everyone) {
        // What was kept is given back within seconds.
        const deadline = Date.now() + GIVEN_BACK_MS;
        let missing = await missingOf(user);
        while (missing.length > 0 && Date.now() < deadline) {
          await new Promise((resolve) => setTimeout(resolve, 100));
          missing = await missingOf(user);
        }
        lost.push(...missing.map((what) => `${user.conversationId}: ${what}`));
        // Whatever still waits is handed over to whoever comes back.
        if (user.callbacks.length > 0) await register(user);
      }
      const told = (requestId: string) =>
        frames.filter((frame) => frame.includes(`output of ${requestId}.`)).length;
      const acknowledgedCallbacks = everyone.flatMap(({ callbacks }) => callbacks);
      const deadline = Date.now() + 5_000;
      const isUntold = (requestId: string) => told(requestId) === 0;
      while (acknowledgedCallbacks.some(isUntold) && Date.now() < deadline) {
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      return {
        operations,
        acknowledged,
        lost,
        duplicated: [...isDelivered.keys()].filter((requestId) => told(requestId) > 1),
        undelivered: acknowledgedCallbacks.filter(isUntold),
        unexpected,
        slowestMs,
      };
    },

    async close() {
      for (const socket of agent.clients) socket.terminate();
      await new Promise((resolve) => agent.close(resolve));
    },
  };
}
