/**
 * What live connections cost: how soon a push follows its callback, what the proxy adds to a frame, what memory an
 * idle line takes, and how big the Worker and the client are. `npm run bench:connections`; README.md says how to read
 * it. Names of parts behind it leave out the others.
 */
import { startGateway } from "../dev/gateway.ts";
import { startRedis } from "../test/support/redis.ts";
import { measureEchoes } from "./echoes.ts";
import { printTable, type Table } from "./figures.ts";
import { measureIdle } from "./idle.ts";
import { measurePushes } from "./pushes.ts";
import { measureSizes } from "./sizes.ts";
import { type Gateway, ourScript, type Script } from "./workers.ts";

const PARTS: Record<string, (ours: Script, gateway: Gateway) => Promise<Table[]>> = {
  pushes: measurePushes,
  echoes: measureEchoes,
  idle: measureIdle,
  sizes: measureSizes,
};

/** Returns whether it could be done. */
async function run(names: readonly string[]): Promise<boolean> {
  if (process.platform !== "linux") {
    console.error("CPU time and memory are read from /proc, so this benchmark runs on Linux only.");
    return false;
  }
  const parts = names.map((name) => PARTS[name]);
  const ours = await ourScript();
  const redis = await startRedis({ covers: "the benchmark, all of it" });
  if (redis === null) return false;
  const gateway = await startGateway({ redisUrl: redis.url, token: "a-token-that-opens-nothing-else" });
  try {
    for (const part of parts) {
      if (part === undefined) throw new Error(`The parts are ${Object.keys(PARTS).join(", ")}.`);
      for (const table of await part(ours, gateway)) {
        printTable(table);
        console.log();
      }
    }
    return true;
  } finally {
    await gateway.close();
    await redis.stop();
  }
}

const given = process.argv.slice(2);
if (!(await run(given.length > 0 ? given : Object.keys(PARTS)))) process.exitCode = 1;
