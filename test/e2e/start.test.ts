/** `npm start` as a person meets it: what it prints, the curl lines, Ctrl-C, and what can go wrong. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer as createHttpServer } from "node:http";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { freePort } from "../../dev/free-port.ts";
import { startRedis } from "../support/redis.ts";

const START_LIMIT_MS = 60_000;
const PRINTED = /^5\. .*\ncurl .*\n/m;

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
  // The pages are served behind it.
  port = await freePort(2);
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

/** A printed address of an example page, and a request to the backend behind it. */
function examplePage({ printed }: Started, name: "relay" | "proxy") {
  const url = new URL(new RegExp(`^ {2}(http:\\S+/${name}#\\S+)$`, "m").exec(printed())?.[1] ?? "");
  return {
    url,
    async ask(path: string, body: object): Promise<Record<string, string>> {
      const headers = { "content-type": "application/json", authorization: `Bearer ${url.hash.slice(1)}` };
      const sent = await fetch(url.origin + path, { method: "POST", headers, body: JSON.stringify(body) });
      return (await sent.json()) as Record<string, string>;
    },
  };
}

/** Runs a printed line as a person would, in a shell; where there is no curl, makes the same request. */
async function run(line: string): Promise<unknown> {
  try {
    const { stdout } = await promisify(execFile)("sh", ["-c", `${line} --silent --show-error`]);
    return JSON.parse(stdout);
  } catch (error) {
    if ((error as { code?: unknown }).code !== 127) throw error;
    const [, url = ""] = /(http:[^\s']+)/.exec(line) ?? [];
    const [, body] = / -d '(.*)'/.exec(line) ?? [];
    const [, authorization = ""] = /authorization: ([^"]*)/.exec(line) ?? [];
    const headers = { "content-type": "application/json", authorization };
    return (await fetch(url, body === undefined ? { headers } : { method: "POST", headers, body })).json();
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

/** What wrangler and Miniflare serve beside the Worker, as their sources name it. */
const WRANGLER_ROUTES = [
  "/json",
  "/json/list",
  "/json/version",
  ...["", "/", "/api", "/api/", "/api/local/workers"].map((rest) => `/cdn-cgi/explorer${rest}`),
  ...["", "/", "/api", "/api/"].map((rest) => `/cdn-cgi/local/explorer${rest}`),
  ...["/cdn-cgi/local/platform-proxy", "/cdn-cgi/local/observability", "/cdn-cgi/observability"],
  ...["/cdn-cgi/mf/reload", "/cdn-cgi/local/email", "/cdn-cgi/ProxyWorker/play"],
];
/** The beginnings of an explorer, and of a debugger. */
const FORBIDDEN = /<!doctype html|openapi|webSocketDebuggerUrl/i;

/** What is served there, "" where nothing is that speaks HTTP. */
async function textAt(url: string): Promise<string> {
  try {
    return (await (await fetch(url, { signal: AbortSignal.timeout(3_000) })).text()) || "(empty)";
  } catch {
    return "";
  }
}

/** The TCP ports that a process listens at. Linux tells; elsewhere there are none. */
function portsOf(pid: number): number[] {
  const links = readdirSync(`/proc/${pid}/fd`).map((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      return "";
    }
  });
  return ["tcp", "tcp6"].flatMap((table) =>
    readFileSync(`/proc/${pid}/net/${table}`, "utf8")
      .split("\n")
      .slice(1)
      .map((line) => line.trim().split(/\s+/))
      .filter((fields) => fields[3] === "0A" && links.includes(`socket:[${fields[9]}]`))
      .map((fields) => Number.parseInt(fields[1]?.split(":").at(-1) ?? "", 16)),
  );
}

function filesBelow(path: string): string[] {
  if (!existsSync(path)) return [];
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

describe("npm start", () => {
  test("tells the story in three curl lines, keeps it, and leaves nothing behind", async () => {
    const first = start();
    await first.prints(PRINTED);
    const [register = "", callback = "", read = ""] = first.curls();

    expect(first.curls()).toHaveLength(5);
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

  test("keeps its log, for npm run tail", async () => {
    const started = start();
    await started.prints(PRINTED);
    const [, callback = ""] = started.curls();
    await run(callback);

    const options = ["--persist-to", join(directory, "state"), "--no-follow", "--conversation", "demo"];
    const tail = () => promisify(execFile)(process.execPath, ["dev/tail.ts", ...options]);
    await expect
      .poll(async () => (await tail()).stdout, { timeout: 10_000 })
      .toMatch(/^\S+ info {2}callback\.received .*\n(?:.*\n)*\S+ warn {2}callback\.queued .*reason=/);
  }, 60_000);

  test("shows the whole circle in two more: a tool call, a runner, progress, and a result that is said", async () => {
    const started = start();
    await started.prints(PRINTED);
    const [register = "", , read = "", call = "", wait = ""] = started.curls();
    expect(await run(register)).toMatchObject({ success: true });

    const answer = await run(call);
    expect(answer).toMatchObject({
      ok: true,
      say: expect.stringContaining("started"),
      result: { requestId: expect.stringMatching(/^demo:/), status: "processing" },
    });
    await started.prints(/^runner begins research \{"query":"suppliers in Bonn"\}, task demo:/m);
    await started.prints(/^demo agent was told silently \(progress:demo:\S+\): .*Asking three suppliers/m);
    await started.prints(/^demo agent heard: .*About “suppliers in Bonn”: three suppliers/m);
    await started.prints(/^runner called back for research: delivered, socket$/m);

    const waited = await run(wait);
    expect(waited).toMatchObject({
      ok: true,
      say: expect.stringContaining("three suppliers"),
      result: { status: "completed", success: true },
    });
    await started.prints(/^runner called back for research: delivered, reply$/m);
    expect(started.printed().match(/^demo agent heard: /gm)).toHaveLength(1);
    expect(await run(read)).toMatchObject({ messages: [{ toolName: "research" }, { toolName: "research" }] });
  }, 90_000);

  test("leaves the work to the runner that TOOL_RUNNER_URL names, and to none where none may be reached", async () => {
    const own = createHttpServer((_, response) => response.writeHead(202).end()).listen(0, "127.0.0.1");
    await once(own, "listening");
    const asked = once(own, "request");
    const { port: runnerPort } = own.address() as { port: number };
    const started = start({ TOOL_RUNNER_URL: `http://127.0.0.1:${runnerPort}/mine` });
    await started.prints(PRINTED);
    expect(await run(started.curls()[3] ?? "")).toMatchObject({ ok: true });
    const [request] = await asked;
    expect(request.url).toBe("/mine");
    expect(started.printed()).not.toContain("runner begins");
    started.child.kill("SIGTERM");
    await started.ended;
    own.closeAllConnections();
    own.close();

    const without = start({ PUSH_ALLOWED_HOSTS: "agents.example" });
    await without.prints(/^3\. .*\ncurl .*\n/m);
    expect(without.curls()).toHaveLength(3);
  }, 90_000);

  test("serves two pages, whose conversations, agent and tasks are there", async () => {
    const started = start();
    await started.prints(PRINTED);
    const { url, ask } = examplePage(started, "relay");
    for (const page of [url, examplePage(started, "proxy").url])
      expect(await (await fetch(page)).text()).toContain('src="page.js"');

    const { conversationId, token = "", edgeUrl } = await ask("/backend/pass", {});
    const api = `${edgeUrl}/agent-conversations/api/${conversationId}`;
    const headers = { authorization: `Bearer ${token}`, origin: url.origin };
    const signed = await fetch(`${api}/signed-url?agentId=demo`, { headers });
    expect(signed.headers.get("access-control-allow-origin")).toBe(url.origin);
    const { signedUrl } = (await signed.json()) as { signedUrl: string };
    const proxied = `${api.replace("http", "ws")}/connect?agentId=demo`;
    for (const [address, protocols] of [
      [signedUrl, ["convai"]],
      [proxied, ["convai", `bearer.${token}`]],
    ] as const) {
      const agent = new WebSocket(address, [...protocols]);
      agent.addEventListener("open", () => agent.send('{"type":"conversation_initiation_client_data"}'));
      const { data } = await new Promise<{ data: unknown }>((resolve) =>
        agent.addEventListener("message", resolve, { once: true }),
      );
      expect(data).toContain("conversation_initiation_metadata");
      agent.close();
    }
    expect(await ask("/backend/task", { conversationId })).toMatchObject({ received: true });
    expect(await (await fetch(api, { headers })).json()).toMatchObject({
      messages: [{ toolName: "research", content: expect.stringContaining("Three suppliers") }],
    });
  }, 60_000);

  test("serves the pages where PAGES_PORT says, or at any free port where the one behind the Worker's is taken", async () => {
    const other = createServer().listen(port + 1, "127.0.0.1");
    await once(other, "listening");
    const evading = start();
    await evading.prints(PRINTED);
    expect(examplePage(evading, "relay").url.port).not.toBe(String(port + 1));
    evading.child.kill("SIGTERM");
    await evading.ended;
    other.close();
    await once(other, "close");

    const pagesPort = await freePort();
    const started = start({ PAGES_PORT: String(pagesPort) });
    await started.prints(PRINTED);
    expect(examplePage(started, "relay").url.port).toBe(String(pagesPort));
  }, 60_000);

  test("lets the pages talk to ElevenLabs itself where its key is given", async () => {
    const started = start({
      ELEVENLABS_API_KEY: "sk-of-somebody-0123456789",
      ELEVENLABS_API_URL: "https://api.eu.residency.elevenlabs.io",
      ELEVENLABS_AGENT_IDS: "agent_1,agent_2",
    });
    await started.prints(PRINTED);
    const { url, ask } = examplePage(started, "relay");

    expect((await fetch(url)).headers.get("content-security-policy")).toContain(
      " wss://api.eu.residency.elevenlabs.io;",
    );
    expect(await ask("/backend/pass", {})).toMatchObject({ agentId: "agent_1" });
  }, 60_000);

  test("makes secrets of its own, keeps them to itself, and opens nothing without them", async () => {
    const first = start();
    await first.prints(PRINTED);
    const [register = "", callback = "", read = ""] = first.curls();
    const bare = (line: string) => line.replace(/ -H "authorization: [^"]*"/, "");

    for (const line of [register, callback, read]) {
      expect(line).not.toBe(bare(line));
      expect(await run(bare(line))).toMatchObject({ code: "unauthorized" });
    }
    const path = join(directory, "state/secrets.json");
    const secrets = JSON.parse(readFileSync(path, "utf8")) as Record<string, string>;
    expect(Object.keys(secrets)).toEqual([
      "API_TOKEN",
      "SESSION_TOKEN_SECRET",
      "WEBHOOK_SECRET",
      "SIGNING_SECRET",
    ]);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(statSync(join(directory, "state/v3")).mode & 0o777).toBe(0o700);
    const headers = { authorization: `Bearer ${secrets.API_TOKEN}` };
    const health = await fetch(`http://127.0.0.1:${port}/config/health`, { headers });
    expect(await health.json()).toEqual({ status: "ok", problems: [] });
    // The console is open, and what it asks for is not.
    const [, page = "", token = ""] =
      /^The console .*: (http:\S+)\n.* API token, which is (\S+)$/m.exec(first.printed()) ?? [];
    expect(token).toBe(secrets.API_TOKEN);
    expect(await (await fetch(page)).text()).toContain("/console/console.js");
    expect((await fetch(new URL("/console/console.js", page))).headers.get("content-type")).toContain(
      "javascript",
    );
    first.child.kill("SIGTERM");
    expect(await first.ended).toBe(0);

    const second = start();
    await second.prints(PRINTED);
    expect(second.curls()[0]).toContain(secrets.API_TOKEN);
  }, 90_000);

  test("with authentication off answers this machine only, under its own name", async () => {
    const started = start({ REQUIRE_AUTH: "false" });
    await started.prints(PRINTED);
    const [register = ""] = started.curls();

    expect(register).not.toContain("authorization");
    expect(await run(register)).toMatchObject({ success: true });
    expect(await run(register.replace("-H", "-H 'host: rebound.example' -H"))).toMatchObject({
      code: "misdirected_request",
    });
    expect(await run(register.replace("-H", "-H 'origin: https://evil.example' -H"))).toMatchObject({
      code: "misdirected_request",
    });
  }, 60_000);

  test("gives the Worker what its environment says, and hides secrets from the process list", async () => {
    const secret = "s3cr3t-$HOME-\"'-0123456789abcdef012345";
    const started = start({
      API_TOKEN: secret,
      SESSION_TOKEN_SECRET: "another-0123456789abcdef0123456789",
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

  test("leaves a live session nowhere but in its storage, and shows it at no port", async () => {
    const home = join(directory, "home");
    const canary = "c4nary-0f-a-sess1on";
    const started = start({ HOME: home });
    await started.prints(PRINTED);
    const withToken = (line: string) => line.replace("agent_id=demo", `agent_id=demo&token=${canary}`);
    const [register = "", callback = ""] = started.curls();
    expect(await run(withToken(register))).toMatchObject({ success: true });
    expect(await run(callback)).toMatchObject({ status: "delivered" });
    expect(await run(withToken(register))).toMatchObject({ success: true });
    // Traces are written behind the answers.
    await new Promise((resolve) => setTimeout(resolve, 2_000));

    const found = filesBelow(directory).filter((path) => readFileSync(path).includes(canary));
    expect(found.length).toBeGreaterThan(0);
    expect(found.filter((path) => !path.startsWith(join(directory, "state/v3/do/")))).toEqual([]);
    // No logs, and no registry that leads other Workers to this one.
    expect(filesBelow(home).filter((path) => !path.endsWith("/metrics.json"))).toEqual([]);
    const { API_TOKEN: apiToken = "" } = JSON.parse(
      readFileSync(join(directory, "state/secrets.json"), "utf8"),
    );
    const keeping = filesBelow(directory).filter((path) => readFileSync(path).includes(apiToken));
    expect(keeping.map((path) => path.slice(directory.length + 1))).toEqual([
      expect.stringMatching(/^edge-agent-sessions-start-.*\/worker\.env$/),
      "state/secrets.json",
    ]);
    for (const path of keeping) expect(statSync(path).mode & 0o077).toBe(0);

    const processes = descendants(started.child.pid as number);
    for (const pid of processes) {
      const line = readFileSync(`/proc/${pid}/cmdline`, "utf8");
      expect(line).not.toContain(canary);
      expect(line).not.toContain(apiToken);
    }
    const ports = new Set([port, ...processes.flatMap(portsOf)]);
    for (const open of ports) {
      for (const path of WRANGLER_ROUTES) {
        const text = await textAt(`http://127.0.0.1:${open}${path}`);
        expect([open, path, text]).toEqual([open, path, expect.not.stringMatching(FORBIDDEN)]);
        expect(text).not.toContain(canary);
      }
    }
    // Whatever does not speak HTTP there speaks to other Workers, and reaches the objects.
    const silent = [];
    for (const open of ports) if ((await textAt(`http://127.0.0.1:${open}/`)) === "") silent.push(open);
    expect(silent).toEqual([]);
  }, 90_000);

  test("removes the traces that an earlier `wrangler dev` has left", async () => {
    const traces = join(directory, "state/v3/observability");
    mkdirSync(traces, { recursive: true });
    writeFileSync(join(traces, "trace.sqlite"), "wss://agent.example/?token=old");
    const started = start();
    await started.prints(PRINTED);

    expect(existsSync(traces)).toBe(false);
  }, 60_000);

  test("refuses a secret that would open nothing", async () => {
    const started = start({ API_TOKEN: "s3cr3t" });

    expect(await started.ended).toBe(1);
    expect(started.printed()).toMatch(/^The configuration is not usable:\n {2}API_TOKEN entry 1: .*\n$/);
    expect(started.printed()).not.toContain("s3cr3t");
  });

  test("ends with one sentence when its port is taken", async () => {
    const other = createServer().listen(port, "127.0.0.1");
    await once(other, "listening");
    const started = start();

    expect(await started.ended).toBe(1);
    expect(started.printed()).toMatch(new RegExp(`^Port ${port} is in use: [^\\n]*\\n$`));

    const forPages = start({ PORT: String(await freePort()), PAGES_PORT: String(port) });
    expect(await forPages.ended).toBe(1);
    expect(forPages.printed()).toMatch(new RegExp(`^Port ${port} is in use: [^\\n]*PAGES_PORT=[^\\n]*\\n$`));
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
    // The builder of the pages goes when it finds that nobody is left to build for.
    await expect.poll(() => processes.filter(isAlive)).toEqual([]);
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
