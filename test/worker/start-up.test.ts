/** How long the Worker that is deployed takes to start, beside an empty one: in CPU time, which others do not disturb. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, inject, test } from "vitest";
import { EMPTY, OBJECTS, type Script, startScript } from "../../bench/workers.ts";

const STARTS = 5;
/** Twice is usual. A table that is built at every start, or a library that is loaded for nothing, shows in this. */
const MOST = 4;

/** From the start of the process to its first answer, in ms of CPU time. */
async function startMs(script: Script): Promise<number> {
  const workerd = await startScript(script, { url: "http://127.0.0.1:1", token: "t" });
  try {
    await (await fetch(`${workerd.url}/nothing`)).text();
    return await workerd.cpuMs();
  } finally {
    await workerd.stop();
  }
}

// CPU time is read from /proc.
test.runIf(process.platform === "linux")(
  `the Worker that is deployed starts in at most ${MOST} times what an empty one takes`,
  async () => {
    const source = readFileSync(join(inject("bundleDirectory"), "index.js"), "utf8");
    const ours: Script = { name: "ours", source, objects: OBJECTS };
    const times = { empty: [] as number[], ours: [] as number[] };
    for (let i = 0; i < STARTS; i++) {
      times.empty.push(await startMs(EMPTY));
      times.ours.push(await startMs(ours));
    }
    expect(Math.min(...times.ours)).toBeLessThanOrEqual(MOST * Math.min(...times.empty));
  },
);
