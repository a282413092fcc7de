/** `npm run setup`: deploys to Cloudflare in one go. What it does stands in `deployment.ts`; here is the real world. */
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { VARIABLE_NAMES } from "../lib/config.ts";
import { SetupFailure, setUp, type World, type WranglerRun } from "./deployment.ts";

const ROOT = resolve(import.meta.dirname, "..");
const WRANGLER = join(ROOT, "node_modules/wrangler/bin/wrangler.js");

/** What wrangler is told: to keep no log, and nothing of ours that it does not need. */
function wranglerEnvironment(outputPath: string): NodeJS.ProcessEnv {
  const environment: NodeJS.ProcessEnv = { ...process.env };
  for (const name of VARIABLE_NAMES) delete environment[name];
  return {
    ...environment,
    WRANGLER_WRITE_LOGS: "false",
    WRANGLER_HIDE_BANNER: "true",
    WRANGLER_OUTPUT_FILE_PATH: outputPath,
  };
}

const wrangler: World["wrangler"] = async (args, { input, shows = false } = {}) => {
  const directory = mkdtempSync(join(tmpdir(), "edge-agent-sessions-setup-"));
  const outputPath = join(directory, "output.ndjson");
  try {
    const child = spawn(process.execPath, [WRANGLER, ...args], {
      cwd: ROOT,
      env: wranglerEnvironment(outputPath),
      stdio: [
        input === undefined ? "inherit" : "pipe",
        ...(shows ? ["inherit", "inherit"] : ["pipe", "pipe"]),
      ] as ("inherit" | "pipe")[],
    });
    // It may end without reading; its exit code says so.
    child.stdin?.on("error", () => {}).end(input);
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding("utf8").on("data", (piece: string) => {
        output += piece;
      });
    }
    const exitCode = await new Promise<number>((done, fail) => {
      child.once("error", fail).once("close", (code) => done(code ?? 1));
    });
    return { exitCode, output, targets: targetsIn(outputPath) };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
};

/** What `wrangler deploy` notes of where it deployed to. */
function targetsIn(path: string): WranglerRun["targets"] {
  if (!existsSync(path)) return [];
  const notes = readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as { type: string; targets?: string[] });
  return notes.flatMap(({ type, targets = [] }) => (type === "deploy" ? targets : []));
}

/** Asks at the terminal; what is hidden is not echoed. */
const askHere: World["ask"] = async (question, { isHidden = false } = {}) => {
  let isMuted = false;
  const output = new Writable({
    write(chunk, _encoding, done) {
      if (!isMuted) process.stdout.write(chunk);
      done();
    },
  });
  const terminal = createInterface({ input: process.stdin, output, terminal: true });
  try {
    const answered = terminal.question(question);
    isMuted = isHidden;
    return (await answered).trim();
  } finally {
    terminal.close();
    if (isHidden) process.stdout.write("\n");
  }
};

const world: World = {
  environment: process.env,
  wrangler,
  fetch: (url, init) => fetch(url, init),
  ask: process.stdin.isTTY && process.stdout.isTTY ? askHere : null,
  print: (text) => console.log(text),
  wait: (ms) => sleep(ms),
  now: () => Date.now(),
};

try {
  await setUp(process.argv.slice(2), world);
} catch (error) {
  console.error(error instanceof SetupFailure ? error.message : error);
  process.exit(1);
}
