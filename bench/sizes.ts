/** How big are the Worker that is deployed and the client that a page loads, and how long the Worker takes to start. */
import { spawnSync } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { median, type Table, withRange } from "./figures.ts";
import { type Gateway, type Script, startScript } from "./workers.ts";

const ROOT = join(import.meta.dirname, "..");
const STARTS = 9;

/** Answers, and does nothing else. */
const EMPTY: Script = {
  name: "bare",
  source: `export default { fetch: () => new Response("") };`,
  objects: {},
};

/** What a page loads for each entry point, in files. Built as the package's script says, into a directory that goes. */
async function clientFiles(): Promise<{ core: string[]; withHook: string[] }> {
  const directory = await mkdtemp(join(tmpdir(), "client-"));
  try {
    const { scripts } = JSON.parse(await readFile(join(ROOT, "package.json"), "utf8"));
    const [, ...args] = scripts["build:client"].split(" && ")[0].split(" ");
    const esbuild = join(ROOT, "node_modules/.bin/esbuild");
    const build = spawnSync(esbuild, [...args, `--outdir=${directory}`], { cwd: ROOT, encoding: "utf8" });
    if (build.status !== 0) throw new Error(`The client does not build:\n${build.stderr}`);
    const withImports = async (file: string): Promise<string[]> => {
      const code = await readFile(join(directory, file), "utf8");
      const imported = [...code.matchAll(/from"\.\/([^"]+)"/g)].map(([, name]) => withImports(name ?? ""));
      return [code, ...(await Promise.all(imported)).flat()];
    };
    return { core: await withImports("index.js"), withHook: await withImports("react.js") };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** From the start of the process to its first answer, in ms. */
async function startMs(script: Script, gateway: Gateway): Promise<number> {
  const begin = performance.now();
  const workerd = await startScript(script, gateway);
  try {
    await (await fetch(`${workerd.url}/nothing`)).text();
    return performance.now() - begin;
  } finally {
    await workerd.stop();
  }
}

function rowOf(name: string, files: readonly string[]): string[] {
  const kibibytes = (sizes: number[]) => (sizes.reduce((sum, size) => sum + size, 0) / 1_024).toFixed(1);
  const bytes = files.map((file) => Buffer.from(file));
  return [
    name,
    kibibytes(bytes.map(({ byteLength }) => byteLength)),
    kibibytes(bytes.map((file) => gzipSync(file, { level: 9 }).byteLength)),
  ];
}

export async function measureSizes(ours: Script, gateway: Gateway): Promise<Table[]> {
  const { core, withHook } = await clientFiles();
  const starts = { ours: [] as number[], empty: [] as number[] };
  for (let i = 0; i < STARTS; i++) {
    starts.empty.push(await startMs(EMPTY, gateway));
    starts.ours.push(await startMs(ours, gateway));
  }
  return [
    {
      header: ["what is loaded", "KiB", "KiB gzip"],
      rows: [rowOf("Worker", [ours.source]), rowOf("client", core), rowOf("client with its hook", withHook)],
    },
    {
      header: ["start to first answer", "added ms", "ms"],
      rows: [
        ["workerd with an empty Worker", "", withRange(starts.empty)],
        ["with ours", (median(starts.ours) - median(starts.empty)).toFixed(0), withRange(starts.ours)],
      ],
    },
  ];
}
