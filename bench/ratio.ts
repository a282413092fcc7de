/**
 * How many times the floor ours costs where there is a budget, as exactly as a machine can say that is not quiet: many
 * small batches in turns, of which the cheaper half counts, because what else the machine does only ever adds.
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

/** The operations with a budget, and how many batches of them, of how many requests. */
const BUDGETED = [
  { name: "register, known", batches: 100, requests: 100 },
  { name: "session read", batches: 100, requests: 160 },
  { name: "callback, by socket", batches: 50, requests: 90 },
] as const;

/** The mean of the cheaper half. */
function steady(costs: readonly number[]): number {
  const half = costs.toSorted((a, b) => a - b).slice(0, Math.ceil(costs.length / 2));
  return half.reduce((sum, cost) => sum + cost, 0) / half.length;
}

const secondOnes = <T>(items: readonly T[], first: 0 | 1) => items.filter((_, i) => i % 2 === first);

async function rowOf(
  operation: Operation,
  { batches, requests }: { batches: number; requests: number },
  subjects: readonly [floor: Measured, ours: Measured],
): Promise<string[]> {
  for (const subject of subjects) await measure(subject, operation, operation.warmUp);
  await sleep(REGISTERED_LATELY_MS);
  const costs: [floor: number[], ours: number[]] = [[], []];
  for (let batch = 0; batch < batches; batch++) {
    for (const i of batch % 2 === 0 ? ([0, 1] as const) : ([1, 0] as const))
      costs[i].push(await measure(subjects[i], operation, requests));
  }
  const [floor, ours] = costs;
  const ratio = (of: (costs: number[]) => number[]) => steady(of(ours)) / steady(of(floor));
  // Two ratios of the same, from every second batch: how far they are apart is how good the figure is.
  const halves = ([0, 1] as const).map((first) => ratio((all) => secondOnes(all, first)).toFixed(2));
  return [
    operation.name,
    ratio((all) => all).toFixed(2),
    halves.join(", "),
    steady(floor).toFixed(0),
    steady(ours).toFixed(0),
  ];
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
  const subjects: Measured[] = [];
  try {
    const scripts = { floor: await bareScript(), ours: await ourScript() } as const;
    for (const name of ["floor", "ours"] as const) {
      const workerd = await startScript(scripts[name], gateway, { bindings, filesIn: "memory" });
      const has = { lines: false, proxy: false, stores: true };
      const place = await startPlace({ url: workerd.url, prefix: name, agentUrl, has });
      subjects.push({ ...workerd, name, place });
    }
    const rows: string[][] = [];
    for (const { name, ...size } of BUDGETED) {
      const operation = OPERATIONS.find((candidate) => candidate.name === name);
      if (operation === undefined) throw new Error(`There is no operation ${name}.`);
      rows.push(await rowOf(operation, size, subjects as [Measured, Measured]));
    }
    const table: Table = {
      header: ["operation", "ours ÷ floor", "of every second batch", "floor µs", "ours µs"],
      rows,
    };
    printTable(table);
    if (process.argv.includes("--write")) {
      const text = `${machine()}\n\n${markdownOf(table)}`;
      await replaceBetween(join(import.meta.dirname, "README.md"), "ratio", text);
    }
    return true;
  } finally {
    for (const { stop } of subjects) await stop();
    await gateway.close();
    await outside.close();
    await redis.stop();
  }
}

if (!(await run())) process.exitCode = 1;
// Connections that are kept alive would keep the process.
process.exit();
