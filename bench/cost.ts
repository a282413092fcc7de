/**
 * What a request costs beside a bare handler (`bare-worker.ts`) that makes the same Redis requests and the same
 * object call: CPU time of workerd for registering a session of a known conversation, for reading it, and for a
 * callback that is delivered. `npm run bench`; README.md says how to read it.
 *
 * First both Workers are recorded, and have to do the same; then they are measured, in turns.
 */
import { deepStrictEqual } from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import { startGateway } from "../dev/gateway.ts";
import { startAgent } from "../test/support/agent.ts";
import { startRedis } from "../test/support/redis.ts";
import { median, printTable, withRange } from "./figures.ts";
import { sendAll } from "./load.ts";
import { OPERATIONS, type Operation } from "./operations.ts";
import { AFTER_ANSWER_MS, type Doings, outlineOf, REGISTERED_LATELY_MS, record } from "./recording.ts";
import type { Workerd } from "./workerd.ts";
import { bareScript, ourScript, type Script, startScript } from "./workers.ts";

/** Both Workers have as many, because each is a file, and files are what an object call costs most. */
const CONVERSATIONS = 200;
const CONNECTIONS = 16;
const ROUNDS = 5;

type Measured = { name: Script["name"]; workerd: Workerd };
/** CPU time a request, in µs, of every round. */
type Figures = Record<Script["name"], number[]>;
type Outside = { redisUrl: string; agentUrl: string; token: string };

async function compare(
  scripts: readonly Script[],
  { redisUrl, agentUrl, token }: Outside,
): Promise<Figures[]> {
  const gateway = await startGateway({ redisUrl, token });
  const workers: Measured[] = [];
  const figures = OPERATIONS.map((): Figures => ({ bare: [], ours: [] }));

  const send = ({ name, workerd }: Measured, { request }: Operation, count: number) => {
    const conversationId = (i: number) => `${name}_${i % CONVERSATIONS}`;
    const requests = Array.from({ length: count }, (_, i) => request(conversationId(i), agentUrl));
    return sendAll(workerd.url, requests, { connections: CONNECTIONS });
  };

  const measure = async (worker: Measured, operation: Operation) => {
    // One for each beforehand: an object that was evicted is loaded, and what is due once a minute is done.
    await send(worker, operation, CONVERSATIONS);
    await sleep(AFTER_ANSWER_MS);
    const before = await worker.workerd.cpuMs();
    await send(worker, operation, operation.requests);
    await sleep(AFTER_ANSWER_MS);
    return (((await worker.workerd.cpuMs()) - before) * 1_000) / operation.requests;
  };

  try {
    for (const script of scripts) {
      workers.push({ name: script.name, workerd: await startScript(script, gateway) });
    }
    for (const operation of OPERATIONS) {
      for (const worker of workers) await send(worker, operation, operation.warmUp);
    }
    for (let round = 0; round < ROUNDS; round++) {
      // Neither is always the first.
      workers.reverse();
      for (const [i, operation] of OPERATIONS.entries()) {
        for (const worker of workers) figures[i]?.[worker.name].push(await measure(worker, operation));
        await sleep(REGISTERED_LATELY_MS);
      }
    }
    return figures;
  } finally {
    for (const { workerd } of workers) await workerd.stop();
    await gateway.close();
  }
}

// --- The table -------------------------------------------------------------------------------------------------

const HEADER = [
  ...["operation", "bare µs", "ours µs", "ratio"],
  ...["Redis commands", "round trips", "object calls", "rows written"],
];

function rowOf({ name }: Operation, { bare, ours }: Figures, { redis, ...counts }: Doings): string[] {
  const commands = redis.reduce((sum, request) => sum + request.commands.length, 0);
  const ratio = (median(ours) / median(bare)).toFixed(2);
  const { objectCalls, rowsWritten } = counts;
  return [
    ...[name, withRange(bare), withRange(ours), ratio],
    ...[commands, redis.length, objectCalls, rowsWritten].map(String),
  ];
}

function printSize(source: string): void {
  const bundle = Buffer.from(source);
  const kib = (bytes: number) => `${(bytes / 1024).toFixed(1)} KiB`;
  console.log(`\nbundle: ${kib(bundle.byteLength)}, ${kib(gzipSync(bundle).byteLength)} gzip`);
}

/** Returns whether it could be done. */
async function run(): Promise<boolean> {
  if (process.platform !== "linux") {
    console.error("CPU time is read from /proc, so this benchmark runs on Linux only.");
    return false;
  }
  const [bare, ours] = [await bareScript(), await ourScript()];
  const redis = await startRedis({ covers: "the benchmark, all of it" });
  if (redis === null) return false;
  const agent = await startAgent();
  try {
    const outside = { redisUrl: redis.url, agentUrl: agent.url, token: "a-token-that-opens-nothing-else" };
    const doneByBare = await record(bare, outside);
    const doings = await record(ours, outside);
    deepStrictEqual(doneByBare.map(outlineOf), doings.map(outlineOf), NOT_ALIKE);
    const figures = await compare([bare, ours], outside);
    const rows = OPERATIONS.flatMap((operation, i) => {
      const [measured, done] = [figures[i], doings[i]];
      return measured === undefined || done === undefined ? [] : [rowOf(operation, measured, done)];
    });
    printTable({ header: HEADER, rows });
    printSize(ours.source);
    return true;
  } finally {
    await agent.close();
    await redis.stop();
  }
}

const NOT_ALIKE = "the bare handler does not do the same as ours; bring bare-worker.ts up to date";

if (!(await run())) process.exitCode = 1;
