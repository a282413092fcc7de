/**
 * What a request costs: CPU time of the processes that serve it, ours beside a floor that makes the same Redis requests
 * and the same object call and does nothing else, and beside what people would otherwise write. `npm run bench`;
 * README.md says how to read it. `--write` puts the tables into README.md and the plots into docs.
 *
 * First ours and the floor are recorded, and have to do the same; then all are measured, in turns.
 */
import { deepStrictEqual } from "node:assert/strict";
import { startGateway } from "../dev/gateway.ts";
import { startRedis } from "../test/support/redis.ts";
import { median, printTable, type Table, withRange } from "./figures.ts";
import { measureFrames } from "./first-frames.ts";
import { measureLoads } from "./loads.ts";
import { type Measured, measure } from "./measure.ts";
import { OPERATIONS, type Operation, SUBJECTS, type SubjectName } from "./operations.ts";
import { commandsOf, type Doings, outlineOf, record } from "./recording.ts";
import { measureStart } from "./sizes.ts";
import { measureStores } from "./stores.ts";
import { hasPeers, type Subject, startExpress } from "./subjects.ts";
import { bareScript, type Gateway, ourScript, type Script, startScript } from "./workers.ts";
import { type Outside, startOutside, startPlace } from "./world.ts";
import { writeFigures } from "./write.ts";

const ROUNDS = 5;

/** CPU time a request, in µs, of every round. */
export type Costs = Map<SubjectName, number[]>;

async function startSubjects(
  scripts: { floor: Script; ours: Script },
  outside: Outside,
  gateway: Gateway,
  withPeers: boolean,
): Promise<Measured[]> {
  const { bindings, redisUrl, runnerUrl, signingSecret, agentUrl } = outside;
  const ofWorkerd = async (
    name: SubjectName,
    script: Script,
    more: Record<string, string> = {},
  ): Promise<Subject> => {
    const workerd = await startScript(script, gateway, {
      bindings: { ...bindings, ...more },
      // What a disk adds is the machine's.
      filesIn: "memory",
    });
    return { ...workerd, name };
  };
  const service = { redisUrl, runnerUrl, signingSecret };
  const subjects = [
    await ofWorkerd("floor, no object", scripts.floor, { WITHOUT_OBJECTS: "true" }),
    await ofWorkerd("floor", scripts.floor),
    await ofWorkerd("ours", scripts.ours),
    ...(withPeers
      ? [await startExpress({ ...service, workers: 1 }), await startExpress({ ...service, workers: 2 })]
      : []),
  ];
  const prefixes: Record<SubjectName, string> = {
    "floor, no object": "f0",
    floor: "f1",
    ours: "ours",
    express: "e1",
    "express ×2": "e2",
  };
  const measured: Measured[] = [];
  for (const subject of subjects) {
    const { name, url } = subject;
    const hasLines = name !== "floor, no object";
    const place = await startPlace({
      url,
      prefix: prefixes[name],
      agentUrl,
      has: { lines: hasLines, proxy: name === "ours", stores: true },
    });
    measured.push({ ...subject, place });
  }
  return measured;
}

async function compare(subjects: Measured[], operations: readonly Operation[]): Promise<Map<string, Costs>> {
  const costs = new Map(operations.map(({ name }): [string, Costs] => [name, new Map()]));
  for (const operation of operations) {
    for (const subject of subjects.filter(({ name }) => operation.by.includes(name)))
      await measure(subject, operation, operation.warmUp);
  }
  for (let round = 0; round < ROUNDS; round++) {
    // Nobody is always the first.
    subjects.reverse();
    for (const operation of operations) {
      for (const subject of subjects.filter(({ name }) => operation.by.includes(name))) {
        const µs = await measure(subject, operation, operation.requests);
        const of = costs.get(operation.name);
        of?.set(subject.name, [...(of.get(subject.name) ?? []), µs]);
      }
    }
  }
  return costs;
}

// --- The tables ------------------------------------------------------------------------------------------------

/** The median of the rounds' own ratios: what disturbs a round disturbs both. */
function ratioOf(ours: readonly number[] = [], other: readonly number[] = []): string {
  if (other.length === 0) return "";
  return median(ours.map((value, round) => value / (other[round] ?? Number.NaN))).toFixed(2);
}

function costTable(costs: Map<string, Costs>, doings: Map<string, Doings>): Table {
  const rows = [...costs].map(([name, of]) => {
    const ours = of.get("ours");
    const done = doings.get(name);
    const counts =
      done === undefined
        ? ["", "", "", ""]
        : [commandsOf(done), done.redis.length, done.objectCalls, done.rowsWritten].map(String);
    return [
      name,
      ...(["floor", "express", "express ×2"] as const).map((other) => ratioOf(ours, of.get(other))),
      ...SUBJECTS.map((subject) => {
        const values = of.get(subject);
        return values === undefined ? "" : withRange(values);
      }),
      ...counts,
    ];
  });
  return {
    title: "CPU time a request, µs",
    header: [
      ...["operation", "ours ÷ floor", "÷ express", "÷ express ×2"],
      ...SUBJECTS.map((name) => `${name} µs`),
      ...["Redis commands", "round trips", "object calls", "rows written"],
    ],
    rows,
  };
}

async function memoryTable(subjects: readonly Measured[]): Promise<Table> {
  const rows = await Promise.all(
    SUBJECTS.flatMap((name) => subjects.filter((subject) => subject.name === name)).map(
      async ({ name, rssBytes }) => [name, ((await rssBytes()) / 1_024 / 1_024).toFixed(0)],
    ),
  );
  return { title: "Memory after all of that", header: ["", "RSS MiB"], rows };
}

/** Only what is named by `--only=` is measured, where anything is. */
const only = process.argv.find((argument) => argument.startsWith("--only="))?.slice("--only=".length);

/** Returns whether it could be done. */
async function run(): Promise<boolean> {
  if (process.platform !== "linux") {
    console.error("CPU time is read from /proc, so this benchmark runs on Linux only.");
    return false;
  }
  const begin = performance.now();
  const redis = await startRedis({ covers: "the benchmark, all of it" });
  if (redis === null) return false;
  const withPeers = hasPeers();
  const scripts = { floor: await bareScript(), ours: await ourScript() };
  const outside = await startOutside(redis.url);
  const gateway = await startGateway({ redisUrl: redis.url, token: outside.token });
  let subjects: Measured[] = [];
  try {
    const operations = OPERATIONS.filter(({ name }) => only === undefined || name.includes(only));
    const doneByFloor = await record(scripts.floor, outside, operations);
    const doings = await record(scripts.ours, outside, operations);
    for (const [name, done] of doneByFloor) {
      const done_ = doings.get(name);
      if (done_ !== undefined) deepStrictEqual(outlineOf(done), outlineOf(done_), `${name}: ${NOT_ALIKE}`);
    }
    await redis.client.flushall();
    subjects = await startSubjects(scripts, outside, gateway, withPeers);
    const costs = await compare(subjects, operations);
    const tables: Table[] = [];
    const show = (table: Table) => {
      tables.push(table);
      console.log(`\n${table.title}`);
      printTable(table);
    };
    show(costTable(costs, doings));
    if (only !== undefined) return true;
    show(await measureLoads(subjects));
    show(await measureFrames(subjects, gateway, withPeers));
    show(await memoryTable(subjects));
    show(await measureStores({ redisUrl: redis.url, gateway }, withPeers));
    show(await measureStart(scripts.ours, gateway));
    console.log(`\n${((performance.now() - begin) / 60_000).toFixed(1)} minutes`);
    if (process.argv.includes("--write")) await writeFigures({ tables, costs, doings });
    return true;
  } finally {
    for (const { stop } of subjects) await stop();
    await gateway.close();
    await outside.close();
    await redis.stop();
  }
}

const NOT_ALIKE = "the floor does not do the same as ours; bring bare-worker.ts up to date";

if (!(await run())) process.exitCode = 1;
// Pages that are attached would keep the process.
process.exit();
