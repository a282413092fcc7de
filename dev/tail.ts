/**
 * `npm run tail`: the Worker's log, one line for people an event.
 *
 *     npm run tail -- [--conversation ID] [--request ID] [--level warn]            the log of `npm start`
 *     npm run tail -- --deployed [--name WORKER] …                                  a deployment, from now on
 *     npm run dev | npm run tail -- -                                               whatever is piped
 *
 * It follows until Ctrl-C; with `--no-follow` it ends where the kept log does.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { readLog } from "./log-file.ts";
import { createLogReader, isWanted, LOG_LEVELS, pretty } from "./log-lines.ts";

const ROOT = resolve(import.meta.dirname, "..");

function readOptions() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    allowNegative: true,
    options: {
      conversation: { type: "string" },
      request: { type: "string" },
      level: { type: "string", default: "info" },
      deployed: { type: "boolean", default: false },
      name: { type: "string" },
      follow: { type: "boolean", default: true },
      "persist-to": { type: "string", default: join(ROOT, ".wrangler/state") },
    },
  });
  const level = LOG_LEVELS.find((known) => known === values.level);
  if (level === undefined) throw new Error(`--level must be one of ${LOG_LEVELS.join(", ")}.`);
  const [source, ...others] = positionals;
  if (others.length > 0 || (source !== undefined && source !== "-"))
    throw new Error(
      `Unexpected argument: ${others[0] ?? source}. Only "-", for standard input, has no name.`,
    );
  return { ...values, level, isPiped: source === "-" };
}

type Options = ReturnType<typeof readOptions>;

/** What wrangler says of a deployment. It filters by text itself, so that a busy one is not sampled. */
async function* deployedLog({ conversation, name }: Options): AsyncGenerator<string> {
  const wrangler = join(ROOT, "node_modules/wrangler/bin/wrangler.js");
  const child = spawn(
    process.execPath,
    [
      ...[wrangler, "tail", ...(name === undefined ? [] : [name]), "--format", "json"],
      ...(conversation === undefined ? [] : ["--search", conversation]),
    ],
    {
      cwd: ROOT,
      stdio: ["inherit", "pipe", "inherit"],
      env: { ...process.env, WRANGLER_WRITE_LOGS: "false" },
    },
  );
  const ended = new Promise<number | null>((done) => child.once("close", done));
  yield* child.stdout.setEncoding("utf8");
  const code = await ended;
  if (code !== 0) throw new Error(`wrangler tail has ended with exit code ${code}.`);
}

function sourceOf(options: Options): AsyncIterable<string> {
  if (options.isPiped) return process.stdin.setEncoding("utf8");
  if (options.deployed) return deployedLog(options);
  const directory = resolve(options["persist-to"]);
  if (!existsSync(join(directory, "log.ndjson")))
    console.error("There is no log yet: `npm start` keeps one. For a deployment: --deployed.");
  return readLog(directory, { follows: options.follow });
}

async function main(): Promise<void> {
  const options = readOptions();
  const filter = { conversationId: options.conversation, requestId: options.request, level: options.level };
  const colours = process.stdout.isTTY && process.stdout.hasColors() && process.env.NO_COLOR === undefined;
  const read = createLogReader();
  for await (const piece of sourceOf(options)) {
    for (const line of read(piece)) if (isWanted(line, filter)) console.log(pretty(line, { colours }));
  }
}

// Whoever read our output is gone (`npm run tail | head`).
process.stdout.on("error", () => process.exit(0));
main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exit(1);
});
