/** How big are the Worker that is deployed and the client that a page loads, and how long the Worker takes to start. */
import { spawnSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { median, type Table, withRange } from "./figures.ts";
import { EMPTY, type Gateway, type Script, startScript } from "./workers.ts";

const ROOT = join(import.meta.dirname, "..");
const STARTS = 9;

/** What a page loads for each entry point, in files, built as for the package. */
async function clientFiles(): Promise<{ core: string[]; withHook: string[] }> {
  const build = spawnSync("npm", ["run", "build:package"], { cwd: ROOT, encoding: "utf8" });
  if (build.status !== 0) throw new Error(`The client does not build:\n${build.stderr}`);
  const withImports = async (file: string): Promise<string[]> => {
    const code = await readFile(file, "utf8");
    const imported = [...code.matchAll(/from"(\.[^"]+)"/g)].map(([, name]) =>
      withImports(join(dirname(file), name ?? "")),
    );
    return [code, ...(await Promise.all(imported)).flat()];
  };
  const client = join(ROOT, "dist/package/client");
  return {
    core: await withImports(join(client, "index.js")),
    withHook: await withImports(join(client, "react.js")),
  };
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

async function startsOf(ours: Script, gateway: Gateway): Promise<{ ours: number[]; empty: number[] }> {
  const starts = { ours: [] as number[], empty: [] as number[] };
  for (let i = 0; i < STARTS; i++) {
    starts.empty.push(await startMs(EMPTY, gateway));
    starts.ours.push(await startMs(ours, gateway));
  }
  return starts;
}

/** The Worker alone: its size, and what it adds to the start of an empty one, each pair of starts by itself. */
export async function measureStart(ours: Script, gateway: Gateway): Promise<Table> {
  const starts = await startsOf(ours, gateway);
  const added = starts.ours.map((ms, i) => ms - (starts.empty[i] ?? Number.NaN));
  const [, size = "", compressed = ""] = rowOf("Worker", [ours.source]);
  return {
    title: "The Worker that is deployed",
    header: ["KiB", "KiB gzip", "start, added to an empty Worker's, ms", "an empty Worker's, ms"],
    rows: [[size, compressed, withRange(added), withRange(starts.empty)]],
  };
}

export async function measureSizes(ours: Script, gateway: Gateway): Promise<Table[]> {
  const { core, withHook } = await clientFiles();
  const starts = await startsOf(ours, gateway);
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
