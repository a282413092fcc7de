/**
 * What is measured: one request of an ordinary size for each thing that the service is asked. Whoever does not know an
 * operation is left out of its row.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { PUBLISH_AFTER_MS } from "../lib/live/exchange.ts";
import type { Request } from "./load.ts";

/**
 * `floor` makes the same Redis requests and the same object call and does nothing else; `floor, no object` leaves the
 * object out too. `express` is what people write by hand, in one process and in a cluster of two.
 */
export const SUBJECTS = ["floor, no object", "floor", "ours", "express", "express ×2"] as const;
export type SubjectName = (typeof SUBJECTS)[number];

/** Where the requests of one batch go. */
export type Batch = {
  /** Of this subject alone. */
  conversationId: (i: number) => string;
  agentUrl: string;
  /** Sends requests that are not measured. */
  send: (requests: readonly Request[]) => Promise<unknown>;
};

export type Operation = {
  name: string;
  /** The row of a table in which "express" and "floor" take part, too. */
  by: readonly SubjectName[];
  /** How many are measured in a round. */
  requests: number;
  /** How many are made before the first round, for the compiler's sake. */
  warmUp: number;
  /** Over how many conversations of which kind: each is a file, and files are what an object call costs most. */
  over: "known" | "lines" | "proxied" | "quiet" | "new";
  /** Done before each batch, for as many requests, and not measured. */
  prepare?: (batch: Batch, requests: number) => Promise<void>;
  request: (batch: Batch, i: number) => Request;
  /** How long the work goes on after the answers, in ms, where there are objects; `AFTER_ANSWER_MS` by default. */
  settlesMs?: number;
};

/** For this long after a registration its object does not look for the session, so a callback would do less than usual. */
export const REGISTERED_LATELY_MS = 1_100;
/** Work after the answer counts too. */
export const AFTER_ANSWER_MS = 100;

/** What was settled is given to the log a little later. */
export const LOGGED_MS = PUBLISH_AFTER_MS + 300;

const apiOf = (conversationId: string) => `/agent-conversations/api/${conversationId}`;
export const agentSessionOf = (conversationId: string) => `conv_${conversationId}`;

let names = 0;
/** An id that was never used before. */
export const fresh = (what: string) => `${what}_${names++}`;

export const OUTPUT = {
  found: 3,
  cheapest: { carrier: "KL", price: "184.20 EUR", departs: "2026-12-01T09:40:00Z" },
};

export const registration = (conversationId: string, agentUrl: string): Request => ({
  method: "POST",
  path: `${apiOf(conversationId)}/session`,
  json: {
    sessionUrl: agentUrl,
    sessionPayload: { signedUrl: agentUrl, agent: "support", language: "en", userId: "user_42" },
    transport: "websocket",
    agentSessionId: agentSessionOf(conversationId),
  },
});

export const callback = (conversationId: string, requestId: string, status = 200): Request => ({
  method: "POST",
  path: `${apiOf(conversationId)}/callback`,
  json: { requestId, toolName: "search_flights", output: OUTPUT },
  status,
});

const message = (conversationId: string): Request => ({
  method: "POST",
  path: `${apiOf(conversationId)}/message`,
  json: { role: "user", content: "Is there a train to Rome tomorrow before noon, and what does it cost?" },
  status: 201,
});

const STATE = { step: "payment", basket: [{ sku: "A-17", count: 2 }], attempts: 1, language: "en" };
const MEMORY = { domain: "general", category: "trains", city: "Rome", lastQuery: "trains to Rome" };

const EVERYBODY = SUBJECTS;
const ALL_BUT_NO_OBJECT = SUBJECTS.filter((name) => name !== "floor, no object");

/** How many results wait for who comes back. */
const WAITING = 10;
/** Each is told once in a round: what is pushed to a voice takes a while to be said. */
const PROXIED = 40;

const idsOf = ({ conversationId }: Batch, requests: number) =>
  Array.from({ length: requests }, (_, i) => conversationId(i));

export const OPERATIONS: readonly Operation[] = [
  {
    name: "register, known",
    by: EVERYBODY,
    requests: 200,
    warmUp: 1_500,
    over: "known",
    request: ({ conversationId, agentUrl }, i) => registration(conversationId(i), agentUrl),
  },
  {
    name: "register, new",
    by: EVERYBODY,
    requests: 40,
    warmUp: 40,
    over: "new",
    request: ({ conversationId, agentUrl }, i) => registration(conversationId(i), agentUrl),
    settlesMs: 400,
  },
  {
    name: "session read",
    by: ALL_BUT_NO_OBJECT,
    requests: 400,
    warmUp: 2_000,
    over: "known",
    request: ({ conversationId }, i) => ({ method: "GET", path: `${apiOf(conversationId(i))}/session` }),
  },
  {
    name: "message",
    by: ALL_BUT_NO_OBJECT,
    requests: 200,
    warmUp: 500,
    over: "known",
    request: ({ conversationId }, i) => message(conversationId(i)),
  },
  {
    name: "history, 50 messages",
    by: ALL_BUT_NO_OBJECT,
    requests: 100,
    warmUp: 300,
    over: "lines",
    request: ({ conversationId }, i) => ({ method: "GET", path: apiOf(conversationId(i)) }),
  },
  {
    name: "state set",
    by: ALL_BUT_NO_OBJECT,
    requests: 200,
    warmUp: 500,
    over: "known",
    request: ({ conversationId }, i) => ({
      method: "PUT",
      path: `/state/api/${conversationId(i)}`,
      json: STATE,
    }),
  },
  {
    name: "state get",
    by: ALL_BUT_NO_OBJECT,
    requests: 300,
    warmUp: 500,
    over: "known",
    request: ({ conversationId }, i) => ({ method: "GET", path: `/state/api/${conversationId(i)}` }),
  },
  {
    name: "memory patch",
    by: ALL_BUT_NO_OBJECT,
    requests: 200,
    warmUp: 400,
    over: "known",
    request: ({ conversationId }, i) => ({
      method: "PATCH",
      path: `/memory/api/${conversationId(i)}`,
      json: { city: "Florence" },
    }),
  },
  {
    name: "memory get",
    by: ALL_BUT_NO_OBJECT,
    requests: 300,
    warmUp: 500,
    over: "known",
    request: ({ conversationId }, i) => ({ method: "GET", path: `/memory/api/${conversationId(i)}` }),
  },
  {
    name: "tool call",
    by: ALL_BUT_NO_OBJECT,
    requests: 150,
    warmUp: 300,
    over: "known",
    request: ({ conversationId }, i) => ({
      method: "POST",
      path: "/agent-tools",
      json: { tool: "search", conversation_id: agentSessionOf(conversationId(i)), args: { to: "Rome" } },
    }),
  },
  {
    name: "callback, by socket",
    by: EVERYBODY,
    requests: 150,
    warmUp: 600,
    over: "known",
    request: ({ conversationId }, i) => callback(conversationId(i), fresh("task")),
    settlesMs: LOGGED_MS,
  },
  {
    name: "callback, by relay",
    by: ALL_BUT_NO_OBJECT,
    requests: 150,
    warmUp: 400,
    over: "lines",
    request: ({ conversationId }, i) => callback(conversationId(i), fresh("task")),
    settlesMs: LOGGED_MS,
  },
  {
    name: "callback, by proxy",
    by: ["ours"],
    requests: PROXIED,
    warmUp: PROXIED,
    over: "proxied",
    request: ({ conversationId }, i) => callback(conversationId(i), fresh("task")),
    settlesMs: LOGGED_MS,
  },
  {
    name: "callback, queued",
    by: EVERYBODY,
    requests: 150,
    warmUp: 300,
    over: "quiet",
    request: ({ conversationId }, i) => callback(conversationId(i), fresh("task"), 202),
  },
  {
    name: "callback, again",
    by: ALL_BUT_NO_OBJECT,
    requests: 150,
    warmUp: 300,
    over: "quiet",
    prepare: async (batch, requests) => {
      const ids = idsOf(batch, requests);
      again = ids.map(() => fresh("again"));
      await batch.send(ids.map((id, i) => callback(id, again[i] ?? "", 202)));
    },
    request: ({ conversationId }, i) => callback(conversationId(i), again[i] ?? ""),
  },
  {
    name: `return, ${WAITING} waiting`,
    by: ALL_BUT_NO_OBJECT,
    requests: 15,
    warmUp: 30,
    over: "new",
    prepare: async (batch, requests) => {
      const ids = idsOf(batch, requests);
      for (let i = 0; i < WAITING; i++) await batch.send(ids.map((id) => callback(id, fresh("task"), 202)));
      await sleep(AFTER_ANSWER_MS);
    },
    request: ({ conversationId, agentUrl }, i) => registration(conversationId(i), agentUrl),
    settlesMs: LOGGED_MS,
  },
];

/** The requestIds of the batch that is told twice. */
let again: string[] = [];

/** What the operations find in the conversations of a subject when they begin. */
export async function furnish(
  batch: Batch,
  conversations: { known: number; lines: number },
  lineOf: (i: number) => string,
): Promise<void> {
  const known = idsOf(batch, conversations.known);
  await batch.send(known.map((id) => registration(id, batch.agentUrl)));
  await batch.send(known.map((id) => ({ method: "PUT", path: `/state/api/${id}`, json: STATE })));
  await batch.send(known.map((id) => ({ method: "PUT", path: `/memory/api/${id}`, json: MEMORY })));
  const lines = Array.from({ length: conversations.lines }, (_, i) => lineOf(i));
  for (let i = 0; i < 50; i++) await batch.send(lines.map((id) => message(id)));
}
