/**
 * How soon a push follows its callback: from the moment in which the request is sent until the frame has arrived, at a
 * page's line or at the provider behind the proxy, and until the sender has its answer. Both ends are in this process,
 * so there is one clock. Reading a session, which asks Redis once and no object, is measured beside them.
 */
import { Agent } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { openPage, type PushReceived } from "../test/support/page.ts";
import { metadata, type ProviderConversation, startProvider } from "../test/support/provider.ts";
import { connectPage } from "../test/support/proxied-page.ts";
import { median, percentile, type Table, withRange } from "./figures.ts";
import { type Request, send } from "./load.ts";
import type { Workerd } from "./workerd.ts";
import { AGENT_ID, agentBindings, apiOf, type Gateway, type Script, startScript } from "./workers.ts";

/** Each is told once in a round. */
const CONVERSATIONS = 220;
/** The first ones of a round are not counted: connections are opened. */
const NOT_COUNTED = 20;
const IN_FLIGHT = 16;
const ROUNDS = 5;

/** An object that nobody calls leaves memory after ten seconds, in ms. */
const ASLEEP_AFTER_MS = 12_000;
/** What is pushed by the proxy is to the agent its user who speaks, and what waits for silence is held, in ms. */
const SPEAKS_MS = 1_700;

/** One request; both in ms since it was sent. */
type Sent = { arrived: Promise<number>; answered: Promise<number> };

type Kind = {
  name: string;
  workerd: Workerd;
  inFlight: number;
  /** Nothing has happened for so long before, in ms. */
  afterMs: number;
  conversationIds: readonly string[];
  send: (url: string, conversationId: string, agent: Agent) => Sent;
  /** When another one may be sent. */
  isOver: (sent: Sent) => Promise<unknown>;
};

/** Of one round, in ms; the CPU time of workerd is that of one request. */
type Times = { arrived: number[]; answered: number[]; cpuMs: number };

function readSession(url: string, conversationId: string, agent: Agent): Sent {
  const sentAt = performance.now();
  const request: Request = { method: "GET", path: `${apiOf(conversationId)}/session` };
  const answered = send(url, request, agent).then(() => performance.now() - sentAt);
  return { arrived: answered, answered };
}

let callbacks = 0;
/** Called when the frame with the result of a requestId has arrived. */
const expected = new Map<string, () => void>();

function callBack(url: string, conversationId: string, agent: Agent): Sent {
  const requestId = `task_${callbacks++}`;
  const output = {
    found: 3,
    cheapest: { carrier: "KL", price: "184.20 EUR", departs: "2026-12-01T09:40:00Z" },
  };
  const request: Request = {
    method: "POST",
    path: `${apiOf(conversationId)}/callback`,
    json: { requestId, toolName: "search_flights", output },
  };
  const { promise: arrived, resolve, reject } = Promise.withResolvers<number>();
  const sentAt = performance.now();
  expected.set(requestId, () => resolve(performance.now() - sentAt));
  const answered = send(url, request, agent).then((text) => {
    const ms = performance.now() - sentAt;
    if (JSON.parse(text).delivered !== true) throw new Error(`A result was not delivered: ${text}`);
    return ms;
  });
  answered.catch(reject);
  return { arrived, answered };
}

function arrive(requestId: string): void {
  expected.get(requestId)?.();
  expected.delete(requestId);
}

async function perform({ workerd, ...kind }: Kind): Promise<Times> {
  await sleep(kind.afterMs);
  const cpuBefore = await workerd.cpuMs();
  const agent = new Agent({ keepAlive: true });
  const sent: Sent[] = [];
  const left = kind.conversationIds.values();
  const busy = async () => {
    for (const conversationId of left) {
      const one = kind.send(workerd.url, conversationId, agent);
      sent.push(one);
      await kind.isOver(one);
    }
  };
  try {
    await Promise.all(Array.from({ length: kind.inFlight }, busy));
    const counted = sent.slice(NOT_COUNTED);
    const times = {
      arrived: await Promise.all(counted.map(({ arrived }) => arrived)),
      answered: await Promise.all(counted.map(({ answered }) => answered)),
    };
    return { ...times, cpuMs: ((await workerd.cpuMs()) - cpuBefore) / sent.length };
  } finally {
    await Promise.allSettled(sent.map(({ answered }) => answered));
    agent.destroy();
  }
}

// --- Who hears it -----------------------------------------------------------------------------------------------

/** Attaches a page that acknowledges what it is told. */
async function attachPage(url: string, conversationId: string): Promise<void> {
  const page = await openPage(new URL(url), conversationId);
  page.socket.on("message", (data) => {
    const frame = JSON.parse(String(data)) as PushReceived;
    if (frame.type !== "push") return;
    for (const requestId of frame.requestIds) arrive(requestId);
    page.ack(frame.requestIds);
  });
  await page.hello({ agentSessionId: `agent_${conversationId}` });
}

/** The provider shows that it is there when it is told something, as it has to for a push to be delivered. */
function listen({ agentSessionId, say, socket }: ProviderConversation): void {
  say(metadata(agentSessionId));
  socket.on("message", (data) => {
    const requestId = /request (task_\d+)/.exec(String(data))?.[1];
    if (requestId === undefined) return;
    arrive(requestId);
    say({ type: "ping", ping_event: { event_id: 1 } });
  });
}

const namesOf = (what: string) => Array.from({ length: CONVERSATIONS }, (_, i) => `${what}_${i}`);

// --- The table --------------------------------------------------------------------------------------------------

const HEADER = [
  ...["callback to frame", "in flight", "ratio", "frame p50 ms", "frame p99 ms"],
  ...["answer p50 ms", "answer p99 ms", "workerd µs"],
];

export async function measurePushes(ours: Script, gateway: Gateway): Promise<Table[]> {
  const provider = await startProvider({ greet: listen });
  const bindings = agentBindings(provider.url);
  const workerd = await startScript(ours, gateway, { bindings, filesIn: "memory" });
  const onDisk = await startScript(ours, gateway, { bindings, filesIn: "disk" });
  const [lines, proxied, linesOnDisk] = [namesOf("line"), namesOf("proxied"), namesOf("on_disk")];
  const isAnswered = ({ answered }: Sent) => answered;
  // The answer comes when the provider has had time to object.
  const hasArrived = ({ arrived }: Sent) => arrived;
  const relay = {
    name: "relay",
    workerd,
    afterMs: 0,
    conversationIds: lines,
    send: callBack,
    isOver: isAnswered,
  };
  const proxy = { ...relay, name: "proxy", afterMs: SPEAKS_MS, conversationIds: proxied, isOver: hasArrived };
  const read = { ...relay, name: "session read", send: readSession };
  const kinds: Kind[] = [
    { ...relay, name: "relay, hibernating", afterMs: ASLEEP_AFTER_MS, inFlight: 1 },
    { ...relay, inFlight: 1 },
    { ...relay, inFlight: IN_FLIGHT },
    { ...relay, name: "relay, files on disk", workerd: onDisk, conversationIds: linesOnDisk, inFlight: 1 },
    { ...proxy, inFlight: 1 },
    { ...proxy, inFlight: IN_FLIGHT },
    { ...read, inFlight: 1 },
    { ...read, inFlight: IN_FLIGHT },
  ];
  const rounds = kinds.map((): Times[] => []);
  try {
    for (const id of lines) await attachPage(workerd.url, id);
    for (const id of linesOnDisk) await attachPage(onDisk.url, id);
    for (const id of proxied) await connectPage(new URL(workerd.url), id, { agentId: AGENT_ID });
    // For the compiler's sake.
    for (const kind of kinds.slice(1)) await perform(kind);
    for (let round = 0; round < ROUNDS; round++) {
      for (const [i, kind] of kinds.entries()) rounds[i]?.push(await perform(kind));
    }
    const readOf = ({ inFlight }: Kind) =>
      rounds[kinds.findIndex((kind) => kind.send === readSession && kind.inFlight === inFlight)] ?? [];
    return [{ header: HEADER, rows: kinds.map((kind, i) => rowOf(kind, rounds[i] ?? [], readOf(kind))) }];
  } finally {
    await workerd.stop();
    await onDisk.stop();
    await provider.close();
  }
}

function rowOf({ name, inFlight, send }: Kind, rounds: Times[], read: Times[]): string[] {
  const of = (times: Times[], what: "arrived" | "answered", share: number) =>
    times.map((round) => percentile(round[what], share));
  const ratio = median(of(rounds, "arrived", 0.5)) / median(of(read, "arrived", 0.5));
  const shown = (what: "arrived" | "answered", share: number) => withRange(of(rounds, what, share), 1);
  const isPush = send === callBack;
  return [
    ...[name, String(inFlight), ratio.toFixed(1)],
    ...(isPush ? [shown("arrived", 0.5), shown("arrived", 0.99)] : ["", ""]),
    ...[shown("answered", 0.5), shown("answered", 0.99)],
    withRange(rounds.map(({ cpuMs }) => cpuMs * 1_000)),
  ];
}
