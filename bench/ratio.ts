/**
 * How many times the floor ours costs where there is a budget, as exactly as a machine can say that is not quiet: many
 * small batches in turns, of which the cheaper half counts, because what else the machine does only ever adds; and
 * several pairs of processes, because each has its own luck with caches and compilers, of some percent for its life.
 * `npm run bench:ratio`; `-- --write` puts the table into README.md.
 */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { startGateway } from "../dev/gateway.ts";
import { startRedis } from "../test/support/redis.ts";
import { markdownOf, printTable, type Table } from "./figures.ts";
import { type Measured, measure } from "./measure.ts";
import { OPERATIONS, type Operation, REGISTERED_LATELY_MS } from "./operations.ts";
import { bareScript, ourScript, startScript } from "./workers.ts";
import { startOutside, startPlace } from "./world.ts";
import { machine, replaceBetween } from "./write.ts";

/** The operations with a budget, and how many batches of them for each pair, of how many requests. */
const BUDGETED = [
  { name: "register, known", batches: 20, requests: 100 },
  { name: "session read", batches: 20, requests: 160 },
  { name: "callback, by socket", batches: 14, requests: 90 },
] as const;
/**
 * How many requests of each come before the first batch: what V8 compiles meanwhile is the cost of a start, and a process
 * that serves a while has it behind it. Ours is some twenty times as long as the floor.
 */
const WARM_UP = 4_000;
const PAIRS = 5;

type Pair = readonly [floor: Measured, ours: Measured];
type Costs = [floorUs: number, oursUs: number];

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** The mean of the cheaper half. */
const steady = (costs: readonly number[]) =>
  mean(costs.toSorted((a, b) => a - b).slice(0, Math.ceil(costs.length / 2)));

async function costsOf(
  operation: Operation,
  { batches, requests }: { batches: number; requests: number },
  pair: Pair,
): Promise<Costs> {
  for (const subject of pair) await measure(subject, operation, WARM_UP);
  await sleep(REGISTERED_LATELY_MS);
  const costs: [floor: number[], ours: number[]] = [[], []];
  for (let batch = 0; batch < batches; batch++) {
    for (const i of batch % 2 === 0 ? ([0, 1] as const) : ([1, 0] as const))
      costs[i].push(await measure(pair[i], operation, requests));
  }
  return [steady(costs[0]), steady(costs[1])];
}

function rowOf(name: string, pairs: readonly Costs[]): string[] {
  const [floor, ours] = ([0, 1] as const).map((i) => mean(pairs.map((costs) => costs[i]))) as Costs;
  const ratios = pairs.map(([floorUs, oursUs]) => oursUs / floorUs);
  const range = `${Math.min(...ratios).toFixed(2)}–${Math.max(...ratios).toFixed(2)}`;
  return [name, (ours / floor).toFixed(2), range, floor.toFixed(0), ours.toFixed(0)];
}

/** Returns whether it could be done. */
async function run(): Promise<boolean> {
  if (process.platform !== "linux") {
    console.error("CPU time is read from /proc, so this benchmark runs on Linux only.");
    return false;
  }
  const redis = await startRedis({ covers: "the benchmark, all of it" });
  if (redis === null) return false;
  const outside = await startOutside(redis.url);
  const gateway = await startGateway({ redisUrl: redis.url, token: outside.token });
  const { agentUrl, bindings } = outside;
  try {
    const scripts = [await bareScript(), await ourScript()];
    const costs = BUDGETED.map((): Costs[] => []);
    for (let i = 0; i < PAIRS; i++) {
      const pair: Measured[] = [];
      try {
        for (const script of scripts) {
          const workerd = await startScript(script, gateway, { bindings, filesIn: "memory" });
          const name = script.name === "ours" ? "ours" : "floor";
          const has = { lines: false, proxy: false, stores: true };
          const place = await startPlace({ url: workerd.url, prefix: `${name}${i}`, agentUrl, has });
          pair.push({ ...workerd, name, place });
        }
        for (const [j, { name, ...size }] of BUDGETED.entries()) {
          const operation = OPERATIONS.find((candidate) => candidate.name === name);
          if (operation === undefined) throw new Error(`There is no operation ${name}.`);
          costs[j]?.push(await costsOf(operation, size, pair as unknown as Pair));
        }
      } finally {
        for (const { stop } of pair) await stop();
      }
    }
    const table: Table = {
      header: ["operation", "ours ÷ floor", "by pair of processes", "floor µs", "ours µs"],
      rows: BUDGETED.map(({ name }, i) => rowOf(name, costs[i] ?? [])),
    };
    printTable(table);
    if (process.argv.includes("--write")) {
      const text = `${machine()}\n\n${markdownOf(table)}`;
      await replaceBetween(join(import.meta.dirname, "README.md"), "ratio", text);
    }
    return true;
  } finally {
    await gateway.close();
    await outside.close();
    await redis.stop();
  }
}

if (!(await run())) process.exitCode = 1;
// Connections that are kept alive would keep the process.
process.exit();
