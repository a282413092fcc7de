/**
 * Where the CPU time of a request goes: a profile of V8 while one operation is sent, by function, our bundle not
 * minified. `node bench/profile.ts "callback, by socket"`. Native work (SQLite, sockets, the kernel) shows as
 * `(program)`, so a share here is one of the time in which V8 knew where it was.
 */
import { setTimeout as sleep } from "node:timers/promises";
import WebSocket from "ws";
import { startGateway } from "../dev/gateway.ts";
import { startRedis } from "../test/support/redis.ts";
import { printTable } from "./figures.ts";
import { AFTER_ANSWER_MS, OPERATIONS, REGISTERED_LATELY_MS } from "./operations.ts";
import { ourScript, startScript } from "./workers.ts";
import { startOutside, startPlace } from "./world.ts";

const PORT = 9_229;
const ROWS = 60;

type Node = { id: number; callFrame: { functionName: string; lineNumber: number }; children?: number[] };
type Profile = { nodes: Node[]; samples: number[]; timeDeltas: number[] };

/** The inspector of the Worker, by the one method that a profile needs. */
async function inspect(): Promise<{
  call: (method: string, params?: object) => Promise<unknown>;
  close(): void;
}> {
  const listed = await fetch(`http://127.0.0.1:${PORT}/json`);
  const targets = (await listed.json()) as { id: string; webSocketDebuggerUrl: string }[];
  const url = targets[0]?.webSocketDebuggerUrl ?? "";
  const socket = new WebSocket(url);
  await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
  const waiting = new Map<number, (result: unknown) => void>();
  socket.on("message", (data) => {
    const { id, result } = JSON.parse(String(data)) as { id?: number; result?: unknown };
    if (id !== undefined) waiting.get(id)?.(result);
  });
  let calls = 0;
  return {
    call: (method, params = {}) =>
      new Promise((resolve) => {
        const id = ++calls;
        waiting.set(id, resolve);
        socket.send(JSON.stringify({ id, method, params }));
      }),
    close: () => socket.close(),
  };
}

/** Time by function, in ms: its own, and with all that it called. */
function timesOf({ nodes, samples, timeDeltas }: Profile): Map<string, { own: number; whole: number }> {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const parents = new Map(nodes.flatMap(({ id, children = [] }) => children.map((child) => [child, id])));
  const nameOf = ({ callFrame }: Node) =>
    `${callFrame.functionName || "(anonymous)"}:${callFrame.lineNumber + 1}`;
  const times = new Map<string, { own: number; whole: number }>();
  for (const [i, sample] of samples.entries()) {
    const ms = (timeDeltas[i] ?? 0) / 1_000;
    const seen = new Set<string>();
    for (let id: number | undefined = sample; id !== undefined; id = parents.get(id)) {
      const node = byId.get(id);
      if (node === undefined) break;
      const name = nameOf(node);
      const time = times.get(name) ?? { own: 0, whole: 0 };
      if (id === sample) time.own += ms;
      if (!seen.has(name)) time.whole += ms;
      seen.add(name);
      times.set(name, time);
    }
  }
  return times;
}

async function run(name: string): Promise<boolean> {
  const operation = OPERATIONS.find((candidate) => candidate.name === name);
  if (operation === undefined) {
    console.error(`No such operation; there are: ${OPERATIONS.map((known) => known.name).join("; ")}.`);
    return false;
  }
  const ours = await ourScript({ isMinified: false });
  const redis = await startRedis({ covers: "the profile" });
  if (redis === null) return false;
  const outside = await startOutside(redis.url);
  const gateway = await startGateway({ redisUrl: redis.url, token: outside.token });
  const { bindings, agentUrl } = outside;
  const args = [`--inspector-addr=127.0.0.1:${PORT}`];
  const workerd = await startScript(ours, gateway, { args, bindings });
  try {
    const has = { lines: true, proxy: true, stores: true };
    const place = await startPlace({ url: workerd.url, prefix: "profiled", agentUrl, has });
    const sendOf = async (count: number) => {
      const batch = place.batch(operation);
      await operation.prepare?.(batch, count);
      return Array.from({ length: count }, (_, i) => operation.request(batch, i));
    };
    await place.send(await sendOf(operation.warmUp));
    await sleep(REGISTERED_LATELY_MS);
    const count = operation.requests * 10;
    const requests = await sendOf(count);
    const inspector = await inspect();
    await inspector.call("Profiler.enable");
    await inspector.call("Profiler.setSamplingInterval", { interval: 200 });
    await inspector.call("Profiler.start");
    await place.send(requests);
    await sleep(AFTER_ANSWER_MS);
    const { profile } = (await inspector.call("Profiler.stop")) as { profile: Profile };
    inspector.close();
    const us = (ms: number) => ((ms * 1_000) / count).toFixed(1);
    const times = [...timesOf(profile)];
    const top = (by: "own" | "whole") =>
      times
        .toSorted(([, a], [, b]) => b[by] - a[by])
        .slice(0, ROWS)
        .map(([key, time]) => [key, us(time.own), us(time.whole)]);
    for (const by of ["own", "whole"] as const) {
      console.log(`\nby ${by} time`);
      printTable({ header: ["function:line", "own µs", "whole µs"], rows: top(by) });
    }
    return true;
  } finally {
    await workerd.stop();
    await gateway.close();
    await outside.close();
    await redis.stop();
  }
}

if (!(await run(process.argv[2] ?? ""))) process.exitCode = 1;
// Pages that are attached would keep the process.
process.exit();
