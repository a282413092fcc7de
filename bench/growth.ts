/**
 * What becomes of a request as there is more of everything: sessions in Redis, results in one conversation, lines in one
 * process. `npm run bench:growth`, about four minutes; `-- --write` puts the table into README.md and the plot into docs.
 */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { startGateway } from "../dev/gateway.ts";
import { startRedis } from "../test/support/redis.ts";
import { markdownOf, median, percentile, printTable, type Table } from "./figures.ts";
import { type Request, sendAll } from "./load.ts";
import {
  AFTER_ANSWER_MS,
  callback,
  fresh,
  LOGGED_MS,
  REGISTERED_LATELY_MS,
  registration,
} from "./operations.ts";
import { brief, linePlot } from "./plot.ts";
import type { Workerd } from "./workerd.ts";
import { ourScript, startScript } from "./workers.ts";
import { attachPage, CONNECTIONS, startOutside } from "./world.ts";
import { machine, replaceBetween } from "./write.ts";

const DOCS = join(import.meta.dirname, "../docs");
const MEASURED = 350;
const ROUNDS = 7;
const API = "/agent-conversations/api";

type Cost = { µs: number; p50: number };

/** CPU time a request, and how long it takes, one at a time. */
async function costOf(
  workerd: Workerd,
  request: (i: number) => Request,
  requests = MEASURED,
  settlesMs = AFTER_ANSWER_MS,
): Promise<Cost> {
  const wanted = Array.from({ length: requests }, (_, i) => request(i));
  const before = await workerd.cpuMs();
  const times = await sendAll(workerd.url, wanted, { connections: 1 });
  await sleep(settlesMs);
  return {
    µs: (((await workerd.cpuMs()) - before) * 1_000) / requests,
    p50: percentile(times, 0.5),
  };
}

const read = (id: string): Request => ({ method: "GET", path: `${API}/${id}/session` });

type Growing = { name: string; unit: string; rows: [count: number, cost: Cost, other: string][] };

type World = {
  workerd: Workerd;
  agentUrl: string;
  redis: NonNullable<Awaited<ReturnType<typeof startRedis>>>;
};

/** Sessions of other conversations, with their records and places in the index, written past the Worker. */
async function growSessions({ workerd, agentUrl, redis }: World): Promise<Growing> {
  const { client } = redis;
  await client.flushall();
  const id = fresh("grown");
  await sendAll(workerd.url, [registration(id, agentUrl)], { connections: 1 });
  await sleep(REGISTERED_LATELY_MS);
  const session = (await client.get(`elevenlabs:session:${id}`)) ?? "";
  const record = (await client.get(`elevenlabs:conversation:${id}`)) ?? "";
  const used = async () => Number(/used_memory:(\d+)/.exec(await client.info("memory"))?.[1]);
  const empty = await used();
  const rows: Growing["rows"] = [];
  let written = 0;
  await costOf(workerd, () => read(id), 1_000);
  for (const count of [1e2, 1e4, 1e6]) {
    while (written < count) {
      const batch = client.pipeline();
      for (const end = Math.min(count, written + 5_000); written < end; written++) {
        const other = `${id}_${written}`;
        batch.set(`elevenlabs:session:${other}`, session.replaceAll(id, other), "EX", 600);
        batch.set(`elevenlabs:conversation:${other}`, record.replaceAll(id, other), "EX", 2_592_000);
        batch.zadd("elevenlabs:conversations", Date.now() - 1_000, other);
      }
      await batch.exec();
    }
    // Its own may have run out meanwhile.
    await sendAll(workerd.url, [registration(id, agentUrl)], { connections: 1 });
    const cost = await costOf(workerd, () => read(id));
    const list = await costOf(workerd, () => ({ method: "GET", path: `${API}/list?limit=20` }), 50);
    const bytes = ((await used()) - empty) / count;
    rows.push([
      count,
      cost,
      `list of 20: p50 ${list.p50.toFixed(1)} ms; ${bytes.toFixed(0)} bytes of Redis each`,
    ]);
  }
  await client.flushall();
  return { name: "session read", unit: "sessions in Redis", rows };
}

/** A conversation of each size, asked in turns: what disturbs one disturbs all. */
async function growResults({ workerd, agentUrl }: World): Promise<Growing> {
  const counts = [10, 100, 1_000, 10_000];
  const grown = counts.map((count) => ({ count, id: fresh("grown"), costs: [] as Cost[] }));
  for (const { count, id } of grown) {
    await sendAll(workerd.url, [registration(id, agentUrl)], { connections: 1 });
    const wanted = Array.from({ length: count }, () => callback(id, fresh("task")));
    await sendAll(workerd.url, wanted, { connections: CONNECTIONS });
  }
  for (let round = 0; round < ROUNDS; round++) {
    for (const { id, costs } of round % 2 === 0 ? grown : grown.toReversed()) {
      await sendAll(workerd.url, [registration(id, agentUrl)], { connections: 1 });
      await sleep(REGISTERED_LATELY_MS);
      costs.push(await costOf(workerd, () => callback(id, fresh("task")), MEASURED / ROUNDS, LOGGED_MS));
    }
  }
  const rows: Growing["rows"] = [];
  for (const { count, id, costs } of grown) {
    const list = await costOf(workerd, () => ({ method: "GET", path: `${API}/${id}/results?limit=50` }), 50);
    const cost = { µs: median(costs.map(({ µs }) => µs)), p50: median(costs.map(({ p50 }) => p50)) };
    rows.push([count, cost, `50 results listed: p50 ${list.p50.toFixed(1)} ms`]);
  }
  return { name: "callback, by socket", unit: "results in the conversation", rows };
}

/** Of a line: two files of the process, and three more while its object is in memory. */
async function roomFor(workerd: Workerd, lines: number): Promise<boolean> {
  for (let waitedMs = 0; waitedMs < 20_000; waitedMs += 250) {
    const { open, limit } = await workerd.files();
    if (open + 5 * lines < limit - 200) return true;
    await sleep(250);
  }
  return false;
}

async function growLines({ workerd }: World): Promise<Growing> {
  const prefix = fresh("line");
  const rows: Growing["rows"] = [];
  const empty = await workerd.rssBytes();
  let attached = 0;
  for (const count of [10, 100, 1_000, 10_000]) {
    while (attached < count && (await roomFor(workerd, 50))) {
      const batch = Array.from(
        { length: Math.min(50, count - attached) },
        (_, i) => `${prefix}_${attached + i}`,
      );
      await Promise.all(batch.map((id) => attachPage(workerd.url, id)));
      attached += batch.length;
    }
    const told = (i: number) => callback(`${prefix}_${i % 10}`, fresh("task"));
    // For the compiler's sake.
    if (rows.length === 0) await costOf(workerd, told);
    const cost = await costOf(workerd, told, MEASURED, LOGGED_MS);
    const kibibytes = ((await workerd.rssBytes()) - empty) / 1_024 / attached;
    rows.push([attached, cost, `${kibibytes.toFixed(0)} KiB of memory a line`]);
    // More files than the process may open.
    if (attached < count) break;
  }
  return { name: "callback, by relay", unit: "lines in the process", rows };
}

async function run(): Promise<boolean> {
  const redis = await startRedis({ covers: "the benchmark, all of it" });
  if (redis === null) return false;
  const ours = await ourScript();
  const outside = await startOutside(redis.url);
  const gateway = await startGateway({ redisUrl: redis.url, token: outside.token });
  const { agentUrl, bindings } = outside;
  const found: Growing[] = [];
  try {
    for (const grow of [growSessions, growResults, growLines]) {
      const workerd = await startScript(ours, gateway, { bindings, filesIn: "memory" });
      try {
        // For the compiler's sake.
        const ids = Array.from({ length: 400 }, (_, i) => fresh(`warm_${i % 50}`));
        await sendAll(
          workerd.url,
          ids.map((id) => registration(id, agentUrl)),
          { connections: CONNECTIONS },
        );
        await sendAll(
          workerd.url,
          ids.map((id) => callback(id, fresh("task"))),
          { connections: CONNECTIONS },
        );
        found.push(await grow({ workerd, agentUrl, redis }));
      } finally {
        await workerd.stop();
      }
    }
  } finally {
    await gateway.close();
    await outside.close();
    await redis.stop();
  }
  const table: Table = {
    header: ["operation", "with so many", "CPU µs", "p50 ms", "besides"],
    rows: found.flatMap(({ name, unit, rows }) =>
      rows.map(([count, { µs, p50 }, other]) => [
        ...[name, `${brief(count)} ${unit}`, µs.toFixed(0), p50.toFixed(2), other],
      ]),
    ),
  };
  printTable(table);
  if (!process.argv.includes("--write")) return true;
  await replaceBetween(
    join(import.meta.dirname, "README.md"),
    "growth",
    [machine(), markdownOf(table)].join("\n\n"),
  );
  const plot = linePlot({
    title: "CPU time a request, µs, as there is more of everything",
    x: "sessions in Redis · results in the conversation · lines in the process",
    y: "µs",
    series: found.map(({ name, rows }) => ({
      name,
      points: rows.map(([count, { µs }]) => [count, µs] as const),
    })),
  });
  await writeFile(join(DOCS, "figure-growth.svg"), plot);
  return true;
}

if (!(await run())) process.exitCode = 1;
// Pages that are attached would keep the process.
process.exit();
