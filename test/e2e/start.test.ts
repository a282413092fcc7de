/** `npm start` as a person meets it: what it prints, the three curl lines, Ctrl-C, and what can go wrong. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { startRedis } from "../support/redis.ts";

const START_LIMIT_MS = 60_000;
const PRINTED = /^3\. .*\ncurl .*\n/m;

type Started = {
  child: ChildProcess;
  /** Everything printed so far, standard output and error together. */
  printed(): string;
  /** Resolves when `pattern` has been printed; rejects when the process ends before, or after a minute. */
  prints(pattern: RegExp): Promise<void>;
  /** The curl lines, in order. */
  curls(): string[];
  /** Resolves with the exit code when the process has ended and its output is read. */
  ended: Promise<number | null>;
};

let directory: string;
let port: number;
const running: Started[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "start-test-"));
  port = await freePort();
});
afterEach(async () => {
  for (const { child, ended } of running.splice(0)) {
    child.kill("SIGTERM");
    await ended;
  }
  await rm(directory, { recursive: true, force: true });
});

function start(environment: Record<string, string> = {}): Started {
  // Only what a shell has: a developer's own REDIS_URL or API_TOKEN must not decide the outcome.
  const { PATH = "", HOME = "" } = process.env;
  const child = spawn(process.execPath, ["dev/start.ts", "--persist-to", join(directory, "state")], {
    env: { PATH, HOME, TMPDIR: directory, PORT: String(port), ...environment },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  const listeners = new Set<() => void>();
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (chunk: string) => {
      output += chunk;
      for (const listener of listeners) listener();
    });
  }
  const ended = once(child, "close").then(([code]) => code as number | null);
  const started: Started = {
    child,
    printed: () => output,
    prints(pattern) {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const look = () => pattern.test(output) && resolve();
      const fail = (why: string) => reject(new Error(`${why} before ${pattern} was printed:\n${output}`));
      const timer = setTimeout(() => fail("too much time went by"), START_LIMIT_MS);
      listeners.add(look);
      look();
      void ended.then((code) => fail(`the process ended with ${code}`));
      return promise.finally(() => {
        clearTimeout(timer);
        listeners.delete(look);
      });
    },
    curls: () => output.match(/^curl .*$/gm) ?? [],
    ended,
  };
  running.push(started);
  return started;
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address() as { port: number };
  probe.close();
  await once(probe, "close");
  return port;
}

/** Runs a printed line as a person would, in a shell; where there is no curl, makes the same request. */
async function run(line: string): Promise<unknown> {
  try {
    const { stdout } = await promisify(execFile)("sh", ["-c", `${line} --silent --show-error`]);
    return JSON.parse(stdout);
  } catch (error) {
    if ((error as { code?: unknown }).code !== 127) throw error;
    const [, url = ""] = /(http:\S+)/.exec(line) ?? [];
    const [, body] = / -d '(.*)'/.exec(line) ?? [];
    const post = { method: "POST", headers: { "content-type": "application/json" }, body: body ?? "" };
    return (await fetch(url, body === undefined ? {} : post)).json();
  }
}

/** The living descendants of a process. Linux tells; elsewhere the list is empty. */
function descendants(pid: number): number[] {
  if (!existsSync("/proc/self/stat")) return [];
  const children = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((candidate) => statOf(candidate)?.parent === pid);
  return [...children, ...children.flatMap(descendants)];
}

/** A zombie has ended: whether somebody has collected it is not our doing. */
function isAlive(pid: number): boolean {
  return !["Z", "X", undefined].includes(statOf(pid)?.state);
}

function statOf(pid: number): { state: string; parent: number } | undefined {
  try {
    const [state = "", parent] = (readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1) ?? "").split(
      " ",
    );
    return { state, parent: Number(parent) };
  } catch {
    return undefined;
  }
}

describe("npm start", () => {
  test("tells the whole story in three curl lines, keeps it, and leaves nothing behind", async () => {
    const first = start();
    await first.prints(PRINTED);
    const [register = "", callback = "", read = ""] = first.curls();

    expect(first.curls()).toHaveLength(3);
    expect(await run(register)).toMatchObject({ success: true, conversationId: "demo", ttl: 600 });
    expect(await run(callback)).toMatchObject({ delivered: true, status: "delivered", channel: "socket" });
    await first.prints(/^demo agent heard: .*The report is ready/m);
    expect(await run(callback)).toMatchObject({ status: "duplicate" });

    const processes = descendants(first.child.pid as number);
    if (process.platform === "linux") expect(processes.length).toBeGreaterThan(2);
    first.child.kill("SIGINT");
    expect(await first.ended).toBe(0);
    expect(processes.filter(isAlive)).toEqual([]);
    expect(readdirSync(directory)).toEqual(["state"]);

    const second = start();
    await second.prints(PRINTED);
    expect(await run(read)).toMatchObject({
      conversationId: "demo",
      messages: [{ content: expect.stringContaining("The report is ready") }],
    });
    second.child.kill("SIGTERM");
    expect(await second.ended).toBe(0);
  }, 90_000);

  test("gives the Worker what its environment says, and hides secrets from the process list", async () => {
    const secret = "s3cr3t-$HOME-\"'";
    const started = start({
      REQUIRE_AUTH: "true",
      API_TOKEN: secret,
      SESSION_TOKEN_SECRET: "another",
      WEBHOOK_SECRET: "other",
    });
    await started.prints(PRINTED);
    const [register = "", , read = ""] = started.curls();

    expect(await run(read)).toMatchObject({ code: "unauthorized" });
    expect(await run(`API_TOKEN='${secret.replaceAll("'", "'\\''")}'; ${register}`)).toMatchObject({
      success: true,
    });
    expect(started.printed()).not.toContain("s3cr3t");
    for (const pid of descendants(started.child.pid as number))
      expect(readFileSync(`/proc/${pid}/cmdline`, "utf8")).not.toContain("s3cr3t");
  }, 60_000);

  test("ends with one sentence when its port is taken", async () => {
    const other = createServer().listen(port, "127.0.0.1");
    await once(other, "listening");
    const started = start();

    expect(await started.ended).toBe(1);
    expect(started.printed()).toMatch(new RegExp(`^Port ${port} is in use: [^\\n]*\\n$`));
    other.close();
  });

  test.each([
    ["is not a Redis URL", "localhost:6379", /^REDIS_URL: Not a Redis URL: [^\n]*\n$/],
    [
      "does not answer",
      "redis://:s3cr3t@127.0.0.1:1",
      /^REDIS_URL: Redis at 127\.0\.0\.1:1 does not answer: [^\n]*\n$/,
    ],
  ])("ends with one sentence when REDIS_URL %s", async (_, redisUrl, sentence) => {
    const started = start({ REDIS_URL: redisUrl });

    expect(await started.ended).toBe(1);
    expect(started.printed()).toMatch(sentence);
  });

  test.each<[string, Record<string, string>, RegExp]>([
    [
      "does not answer",
      { REDIS_HOST: "127.0.0.1", REDIS_PORT: "1", REDIS_PASSWORD: "s3cr3t" },
      /^REDIS_HOST: Redis at 127\.0\.0\.1:1 does not answer: [^\n]*\n$/,
    ],
    [
      "comes with an impossible port",
      { REDIS_HOST: "127.0.0.1", REDIS_PORT: "s3cr3t" },
      /^The configuration is not usable:\n {2}REDIS_PORT [^\n]*\n$/,
    ],
  ])("ends with one sentence when REDIS_HOST %s", async (_, environment, sentence) => {
    const started = start(environment);

    expect(await started.ended).toBe(1);
    expect(started.printed()).toMatch(sentence);
  });

  test("names every variable that cannot be used, before anything starts", async () => {
    const started = start({ REQUIRE_AUTH: "maybe", CONVERSATION_TTL_SECONDS: "-1" });

    expect(await started.ended).toBe(1);
    expect(started.printed()).toMatch(
      /^The configuration is not usable:\n {2}CONVERSATION_TTL_SECONDS .*\n {2}REQUIRE_AUTH .*\n$/,
    );
  });

  test("ends with a sentence when the Worker ends by itself, and leaves nothing behind then, either", async () => {
    const started = start();
    await started.prints(PRINTED);
    const processes = descendants(started.child.pid as number);
    const [wrangler] = processes;
    // Only Linux tells which process it is.
    if (wrangler === undefined) return;
    process.kill(wrangler, "SIGKILL");

    expect(await started.ended).toBe(1);
    expect(started.printed()).toMatch(/\nThe Worker has ended by itself \(wrangler dev, SIGKILL\)\.\n$/);
    expect(processes.filter(isAlive)).toEqual([]);
  }, 60_000);

  test("can be interrupted while it is starting", async () => {
    const started = start();
    const pid = started.child.pid as number;
    if (process.platform === "linux")
      await expect.poll(() => descendants(pid).length, { timeout: 20_000 }).toBeGreaterThan(0);
    const processes = descendants(pid);
    started.child.kill("SIGINT");

    expect(await started.ended).toBe(0);
    expect(processes.filter(isAlive)).toEqual([]);
    expect(readdirSync(directory).filter((name) => name !== "state")).toEqual([]);
  }, 30_000);

  test("stores in the Redis that REDIS_URL, or REDIS_HOST and its companions, name", async ({ skip }) => {
    const redis = await startRedis({ covers: "npm start with REDIS_URL" });
    if (redis === null) return skip("redis-server is not installed");
    try {
      const address = { REDIS_HOST: "127.0.0.1", REDIS_PORT: String(redis.port), REDIS_DB: "2" };
      const named = start(address);
      await named.prints(PRINTED);
      await run(named.curls()[0] ?? "");
      await redis.client.select(2);
      expect(await redis.client.exists("elevenlabs:session:demo")).toBe(1);
      await redis.client.select(0);
      named.child.kill("SIGINT");
      expect(await named.ended).toBe(0);

      const started = start({ REDIS_URL: redis.url });
      await started.prints(PRINTED);
      expect(started.printed()).toContain(
        `storage: Redis at 127.0.0.1:${redis.port}, through the REST gateway`,
      );
      const [register = "", callback = ""] = started.curls();

      await run(register);
      expect(await run(callback)).toMatchObject({ delivered: true });
      expect(await redis.client.ttl("elevenlabs:session:demo")).toBeGreaterThan(590);

      started.child.kill("SIGINT");
      expect(await started.ended).toBe(0);
    } finally {
      await redis.stop();
    }
  }, 90_000);
});
