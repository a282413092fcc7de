/**
 * Callback received → frame at the page, one at a time, in ms: ours, the service written by hand, and PartyServer, which
 * only broadcasts what it is sent: it keeps nothing, waits for no acknowledgement and tells nobody what became of it.
 */
import { Agent } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { WebSocket } from "ws";
import { median, percentile, type Table, withRange } from "./figures.ts";
import { type Request, send } from "./load.ts";
import type { Measured } from "./measure.ts";
import { AFTER_ANSWER_MS, callback, fresh, OUTPUT } from "./operations.ts";
import { partyScript } from "./party.ts";
import { type Gateway, startScript } from "./workers.ts";
import { attachPage } from "./world.ts";

const PAGES = 20;
const CALLBACKS = 150;
const ROUNDS = 3;

type Line = {
  name: string;
  url: string;
  cpuMs: () => Promise<number>;
  request: (i: number, requestId: string) => Request;
};
type Round = { p50: number; p99: number; µs: number };

const arrivals = new Map<string, (at: number) => void>();
const told = (requestId: string) => {
  arrivals.get(requestId)?.(performance.now());
  arrivals.delete(requestId);
};

async function perform({ url, cpuMs, request }: Line): Promise<Round> {
  const agent = new Agent({ keepAlive: true });
  const times: number[] = [];
  const before = await cpuMs();
  for (let i = 0; i < CALLBACKS; i++) {
    const requestId = fresh("task");
    const arrived = new Promise<number>((resolve) => arrivals.set(requestId, resolve));
    const begin = performance.now();
    const [at] = await Promise.all([arrived, send(url, request(i % PAGES, requestId), agent)]);
    times.push(at - begin);
  }
  await sleep(AFTER_ANSWER_MS);
  agent.destroy();
  const µs = (((await cpuMs()) - before) * 1_000) / CALLBACKS;
  return { p50: percentile(times, 0.5), p99: percentile(times, 0.99), µs };
}

/** A page of PartyServer: whatever is sent to its room comes here. */
async function joinParty(url: string, room: string): Promise<void> {
  const socket = new WebSocket(`${url.replace("http", "ws")}/parties/relay/${room}`, {
    perMessageDeflate: false,
  });
  await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
  socket.on("message", (data) => told((JSON.parse(String(data)) as { requestId: string }).requestId));
}

export async function measureFrames(
  subjects: readonly Measured[],
  gateway: Gateway,
  withPeers: boolean,
): Promise<Table> {
  const lines: Line[] = [];
  for (const { name, url, cpuMs } of subjects.filter((subject) => subject.name !== "floor, no object")) {
    const pageOf = (i: number) => `${name.replaceAll(/\W/g, "")}_frame_${i}`;
    for (let i = 0; i < PAGES; i++) await attachPage(url, pageOf(i), told);
    lines.push({ name, url, cpuMs, request: (i, requestId) => callback(pageOf(i), requestId) });
  }
  const party = withPeers ? await startScript(await partyScript(), gateway, { filesIn: "memory" }) : null;
  if (party !== null) {
    for (let i = 0; i < PAGES; i++) await joinParty(party.url, `room-${i}`);
    lines.push({
      name: "PartyServer, broadcast",
      url: party.url,
      cpuMs: party.cpuMs,
      request: (i, requestId) => ({
        method: "POST",
        path: `/parties/relay/room-${i}`,
        json: { requestId, toolName: "search_flights", output: OUTPUT },
      }),
    });
  }
  try {
    const rounds = new Map(lines.map(({ name }): [string, Round[]] => [name, []]));
    for (const line of lines) await perform(line);
    for (let round = 0; round < ROUNDS; round++) {
      for (const line of lines) rounds.get(line.name)?.push(await perform(line));
    }
    const ours = median((rounds.get("ours") ?? []).map(({ p99 }) => p99));
    return {
      title: "Callback to frame at the page, one at a time",
      header: ["", "ours ÷ it, p99", "p50 ms", "p99 ms", "CPU µs"],
      rows: [...rounds].map(([name, of]) => [
        name,
        (ours / median(of.map(({ p99 }) => p99))).toFixed(2),
        withRange(
          of.map(({ p50 }) => p50),
          2,
        ),
        withRange(
          of.map(({ p99 }) => p99),
          2,
        ),
        withRange(of.map(({ µs }) => µs)),
      ]),
    };
  } finally {
    await party?.stop();
  }
}
