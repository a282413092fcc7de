/**
 * What the proxy adds to a frame: a page sends one and the provider answers it, through the proxy and over a
 * connection of their own, in turns or side by side, so that whatever else the machine does meets both. What a frame
 * costs is compared with a proxy that only passes it on (`bare-proxy.ts`).
 */
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { WebSocket } from "ws";
import { median, percentile, type Table, withRange } from "./figures.ts";
import { PONG, USER_AUDIO } from "./frames.ts";
import type { Workerd } from "./workerd.ts";
import {
  AGENT_ID,
  agentBindings,
  apiOf,
  bareProxyScript,
  type Gateway,
  type Script,
  startScript,
} from "./workers.ts";

const ROUNDS = 5;
const FRAMES = [
  { frame: PONG, name: "short", compresses: false },
  { frame: USER_AUDIO, name: "audio, 4 KiB", compresses: false },
  { frame: USER_AUDIO, name: "the same, compressed by the page", compresses: true },
];

/** As often as a page sends audio, or more often. */
const PACE_MS = 25;
const PACED = 160;
const ONE_BY_ONE = 1_000;
const IN_FLIGHT = 32;
const FLOOD = 5_000;

/** Round trips of one round, in ms. */
type Times = { direct: number[]; proxied: number[] };
/** How long FLOOD round trips took over each connection, and the CPU time of workerd for them, in ms. */
type Flood = Record<"direct" | "bare" | "ours", { ms: number; cpuMs: number }>;

/** A connection on which every frame is answered by one, in order; through a workerd or through none. */
type Line = { roundTrip: (frame: string) => Promise<number>; workerd: Workerd | null };

function lineOf(socket: WebSocket, workerd: Workerd | null): Line {
  const sent: { at: number; answered: (ms: number) => void }[] = [];
  socket.on("message", () => {
    const first = sent.shift();
    first?.answered(performance.now() - first.at);
  });
  return {
    workerd,
    roundTrip(frame) {
      const { promise, resolve } = Promise.withResolvers<number>();
      sent.push({ at: performance.now(), answered: resolve });
      socket.send(frame);
      return promise;
    },
  };
}

/** Opens a connection, which begins with the metadata of its agent conversation. */
async function openLine(url: string, compresses: boolean, workerd: Workerd | null): Promise<Line> {
  const socket = new WebSocket(url.replace(/^http/, "ws"), ["convai"], {
    perMessageDeflate: compresses && { threshold: 0 },
  });
  await once(socket, "message");
  return lineOf(socket, workerd);
}

type Lines = Record<"direct" | "bare" | "ours", Line>;

/** Side by side, half a pace apart. */
async function paced({ direct, ours }: Lines, frame: string): Promise<Times> {
  const trips = { direct: [] as Promise<number>[], proxied: [] as Promise<number>[] };
  const begin = performance.now();
  for (let i = 0; i < 2 * PACED; i++) {
    await sleep(Math.max(0, begin + (i * PACE_MS) / 2 - performance.now()));
    if (i % 2 === 0) trips.direct.push(direct.roundTrip(frame));
    else trips.proxied.push(ours.roundTrip(frame));
  }
  return { direct: await Promise.all(trips.direct), proxied: await Promise.all(trips.proxied) };
}

/** The next one when the answer is there. */
async function oneByOne({ direct, ours }: Lines, frame: string): Promise<Times> {
  const times: Times = { direct: [], proxied: [] };
  for (let i = 0; i < ONE_BY_ONE; i++) {
    times.direct.push(await direct.roundTrip(frame));
    times.proxied.push(await ours.roundTrip(frame));
  }
  return times;
}

async function flooded(lines: Lines, frame: string): Promise<Flood> {
  const pour = async ({ roundTrip, workerd }: Line) => {
    const [begin, cpuBefore] = [performance.now(), (await workerd?.cpuMs()) ?? 0];
    let left = FLOOD;
    const busy = async () => {
      while (left-- > 0) await roundTrip(frame);
    };
    await Promise.all(Array.from({ length: IN_FLIGHT }, busy));
    return { ms: performance.now() - begin, cpuMs: ((await workerd?.cpuMs()) ?? 0) - cpuBefore };
  };
  return { direct: await pour(lines.direct), bare: await pour(lines.bare), ours: await pour(lines.ours) };
}

// --- The tables -------------------------------------------------------------------------------------------------

const HEADER = [
  ...["proxy, frames", "pace", "ratio", "added a frame p50 ms", "added a frame p99 ms"],
  ...["direct p50 ms", "direct p99 ms", "proxied p50 ms", "proxied p99 ms"],
];

function rowOf(name: string, pace: string, rounds: Times[]): string[] {
  const of = (what: keyof Times, share: number) => rounds.map((round) => percentile(round[what], share));
  // There and back are two frames.
  const added = (share: number) =>
    rounds.map(({ direct, proxied }) => (percentile(proxied, share) - percentile(direct, share)) / 2);
  const ratio = median(of("proxied", 0.5)) / median(of("direct", 0.5));
  return [
    ...[name, pace, ratio.toFixed(1), withRange(added(0.5), 2), withRange(added(0.99), 2)],
    ...[withRange(of("direct", 0.5), 2), withRange(of("direct", 0.99), 2)],
    ...[withRange(of("proxied", 0.5), 2), withRange(of("proxied", 0.99), 2)],
  ];
}

const FLOOD_HEADER = [
  ...["proxy, as fast as it goes", "ratio", "bare µs a frame", "ours µs a frame"],
  ...["direct frames/s", "bare frames/s", "ours frames/s"],
];

function floodRowOf(name: string, rounds: Flood[]): string[] {
  const frames = 2 * FLOOD;
  const cpuOf = (what: keyof Flood) => rounds.map((round) => (round[what].cpuMs * 1_000) / frames);
  const perSecond = (what: keyof Flood) =>
    withRange(rounds.map((round) => (frames * 1_000) / round[what].ms));
  const [bare, ours] = [cpuOf("bare"), cpuOf("ours")];
  return [
    ...[name, (median(ours) / median(bare)).toFixed(2), withRange(bare), withRange(ours)],
    ...[perSecond("direct"), perSecond("bare"), perSecond("ours")],
  ];
}

export async function measureEchoes(ours: Script, gateway: Gateway): Promise<Table[]> {
  const provider = new Worker(join(import.meta.dirname, "echo-provider.ts"));
  const [providerUrl] = (await once(provider, "message")) as [string];
  const bindings = agentBindings(providerUrl);
  const bare = await startScript(await bareProxyScript(), gateway, { bindings });
  const workerd = await startScript(ours, gateway, { bindings });
  const linesOf = async (name: string, compresses: boolean): Promise<Lines> => ({
    direct: await openLine(providerUrl, false, null),
    bare: await openLine(`${bare.url}/${name}`, compresses, bare),
    ours: await openLine(`${workerd.url}${apiOf(name)}/connect?agentId=${AGENT_ID}`, compresses, workerd),
  });
  try {
    const kinds = [];
    for (const [i, kind] of FRAMES.entries()) {
      const lines = await linesOf(`echo_${i}`, kind.compresses);
      // For the compiler's sake.
      await oneByOne(lines, kind.frame);
      await flooded(lines, kind.frame);
      const [paced, oneByOnes, floods]: [Times[], Times[], Flood[]] = [[], [], []];
      kinds.push({ ...kind, lines, paced, oneByOnes, floods });
    }
    for (let round = 0; round < ROUNDS; round++) {
      for (const { frame, lines, ...kind } of kinds) {
        kind.paced.push(await paced(lines, frame));
        kind.oneByOnes.push(await oneByOne(lines, frame));
        kind.floods.push(await flooded(lines, frame));
      }
    }
    const rows = kinds.flatMap(({ name, paced, oneByOnes }) => [
      rowOf(name, "40 a second", paced),
      rowOf(name, "one by one", oneByOnes),
    ]);
    const floods = kinds.map((kind) => floodRowOf(kind.name, kind.floods));
    return [
      { header: HEADER, rows },
      { header: FLOOD_HEADER, rows: floods },
    ];
  } finally {
    await workerd.stop();
    await bare.stop();
    await provider.terminate();
  }
}
