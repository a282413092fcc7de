/**
 * `npm start`: the whole product on a laptop. A stand-in for ElevenLabs, the Worker in `wrangler dev`, two example
 * pages, an example runner, and where REDIS_URL or REDIS_HOST names a Redis, the REST gateway to it. Then a few curl
 * lines that tell the story without a page.
 *
 * It is as closed as a deployment: secrets that nobody has set are made, and kept in the state folder.
 *
 * It needs no account, no Docker and no Redis, and reaches out to nobody. Whatever ends it, Ctrl-C, SIGTERM or
 * the death of a part, ends every process it started.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { createHmac, randomBytes } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs, parseEnv } from "node:util";
import type { SecretVariable } from "../lib/auth/secret-rules.ts";
import {
  type Config,
  configProblems,
  parseConfig,
  redisAddress,
  upstashFromRedisUrl,
  VARIABLE_NAMES,
} from "../lib/config.ts";
import { checkOutboundTarget, ELEVENLABS_HOSTS } from "../lib/push/push-target.ts";
import { type ExampleSite, startExampleSite } from "./example-site.ts";
import { startFakeProvider } from "./fake-provider.ts";
import { startGateway } from "./gateway.ts";
import { keepLog } from "./log-file.ts";
import { newSecret } from "./new-secret.ts";
import { startRunner } from "./runner.ts";

/** Says in one sentence why nothing can be started or has ended; printed without a stack. */
class StartFailure extends Error {}

type Variables = Partial<Record<string, string>>;
type Ending = () => Promise<void> | void;

const ROOT = resolve(import.meta.dirname, "..");
const HOST = "127.0.0.1";
const CONVERSATION_ID = "demo";

/** How long the Worker may take to build, start and answer. A slow laptop needs 10 s. */
const START_LIMIT_MS = 60_000;

/** After this long without an answer, wrangler's own output is shown: it may be a build error. */
const PATIENCE_MS = 10_000;

/** How long processes may take to end after SIGTERM before they are killed. */
const STOP_LIMIT_MS = 4_000;
const ORPHAN_LIMIT_MS = 300;

/** Between two pieces of what the stand-in says: it is read by people. */
const READING_PAUSE_MS = 60;

const DEFAULTS: Variables = {
  ELEVENLABS_AGENT_ENABLED: "true",
  ELEVENLABS_AGENT_IDS: "demo",
  PUSH_ALLOWED_HOSTS: ["localhost", "127.0.0.1", "[::1]", ...ELEVENLABS_HOSTS].join(","),
};

/** What has to be ended, the newest first. */
const endings: Ending[] = [];
let stopping: Promise<never> | undefined;

/** Ends everything once, whoever asks, and then the process. */
function stop(exitCode: number): Promise<never> {
  stopping ??= (async () => {
    for (const end of endings.reverse()) {
      try {
        await end();
      } catch (error) {
        console.error(`While stopping: ${error instanceof Error ? error.message : error}`);
      }
    }
    process.exit(exitCode);
  })();
  return stopping;
}

async function main(): Promise<void> {
  const stateDirectory = readStateDirectory();
  const port = readPort("PORT", process.env.PORT || "8787");
  await requireFreePort("PORT", port);

  const secrets = ownSecrets(stateDirectory);
  const given = ownVariables();
  // Whoever names an API of ElevenLabs, or has a key of it, wants to talk to that one.
  const usesStandIn = given.ELEVENLABS_API_URL === undefined && given.ELEVENLABS_API_KEY === undefined;
  const apiKey = randomBytes(32).toString("base64url");
  const url = `http://${HOST}:${port}`;
  const provider = await startFakeProvider({
    apiKey,
    pauseMs: READING_PAUSE_MS,
    tool: { url: `${url}/agent-tools`, secret: firstOf(given.WEBHOOK_SECRET ?? secrets.WEBHOOK_SECRET) },
  });
  endings.push(() => provider.close());
  const variables: Variables = {
    ...DEFAULTS,
    ...secrets,
    ...(usesStandIn ? { ELEVENLABS_API_KEY: apiKey, ELEVENLABS_API_URL: provider.url } : {}),
    ...given,
  };
  const storage = await provideStorage(variables);
  const parsed = parseConfig(variables);
  // Authentication may be off here; a secret that opens nothing would only be found out later.
  const found = configProblems(variables).filter(({ path }) => !parsed.ok || path !== "REQUIRE_AUTH");
  if (!parsed.ok || found.length > 0) {
    const problems = found.map(({ path, message }) => `  ${path} ${message}`);
    throw new StartFailure(["The configuration is not usable:", ...problems].join("\n"));
  }

  await provideRunner(variables, parsed.config);
  const site = await provideSite({ url, port, variables, config: parsed.config });
  variables.ALLOWED_ORIGINS = [...parsed.config.allowedOrigins, ...site.origins].join(",");
  const worker = startWorker({ port, stateDirectory, variables });
  const impatience = setTimeout(() => worker.showOutput({ kept: true }), PATIENCE_MS);
  await Promise.race([waitForHealth(url), worker.ended]);
  clearTimeout(impatience);
  worker.showOutput({ kept: false });
  const made = Object.fromEntries(Object.entries(secrets).filter(([name]) => given[name] === undefined));
  printStory({
    url,
    agentUrl: provider.agentUrl,
    site,
    storage,
    made,
    hasRunner: variables.TOOL_RUNNER_URL !== undefined,
    requireAuth: parsed.config.requireAuth,
  });
  await worker.ended;
}

// --- what the Worker is told -----------------------------------------------------------------------------------

/** The caller's environment over `.dev.vars`. As in the Worker, an empty variable is an unset one. */
function ownVariables(): Variables {
  const path = join(ROOT, ".dev.vars");
  const own: Variables = existsSync(path) ? parseEnv(readFileSync(path, "utf8")) : {};
  for (const name of VARIABLE_NAMES) {
    if (process.env[name]) own[name] = process.env[name];
  }
  return Object.fromEntries(Object.entries(own).filter(([, value]) => value !== ""));
}

/**
 * The secrets of this laptop, made at the first start and kept where only this user can read them, so that tokens
 * outlive a restart as records do.
 */
function ownSecrets(stateDirectory: string): Record<SecretVariable, string> {
  const path = join(stateDirectory, "secrets.json");
  const made = {
    API_TOKEN: newSecret("API_TOKEN"),
    SESSION_TOKEN_SECRET: newSecret("SESSION_TOKEN_SECRET"),
    WEBHOOK_SECRET: newSecret("WEBHOOK_SECRET"),
    SIGNING_SECRET: newSecret("SIGNING_SECRET"),
  };
  mkdirSync(stateDirectory, { recursive: true });
  const keep = (secrets: typeof made) => {
    rmSync(path, { force: true });
    writeFileSync(path, JSON.stringify(secrets), { mode: 0o600, flag: "wx" });
    return secrets;
  };
  try {
    const kept = JSON.parse(readFileSync(path, "utf8"));
    chmodSync(path, 0o600);
    // An earlier version did not need all of them.
    return Object.keys(made).every((name) => name in kept) ? kept : keep({ ...made, ...kept });
  } catch {
    // The first start, or somebody has spoilt the file.
    return keep(made);
  }
}

/** Decides where records live, starts the gateway where it takes one, and returns how to say so. */
async function provideStorage(variables: Variables): Promise<string> {
  const redis = redisAddress(variables);
  const hasRest = [
    "UPSTASH_REDIS_REST_URL",
    "UPSTASH_REDIS_REST_TOKEN",
    "KV_REST_API_URL",
    "KV_REST_API_TOKEN",
  ].some((name) => variables[name] !== undefined);
  variables.STORAGE ??= hasRest || redis !== null ? "upstash" : "embedded";
  if (variables.STORAGE !== "upstash") return "embedded, kept across restarts";
  if (hasRest || redis === null || upstashFromRedisUrl(redis.url) !== null) return "Upstash Redis";
  // The Worker's own configuration says what is wrong with them.
  if (redis.problems.length > 0) return "none";

  try {
    const gateway = await startGateway({
      redisUrl: redis.url,
      token: randomBytes(24).toString("base64url"),
    });
    endings.push(() => gateway.close());
    for (const name of ["REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD", "REDIS_DB"]) {
      delete variables[name];
    }
    variables.UPSTASH_REDIS_REST_URL = gateway.url;
    variables.UPSTASH_REDIS_REST_TOKEN = gateway.token;
    return `Redis at ${new URL(redis.url).host}, through the REST gateway`;
  } catch (cause) {
    throw new StartFailure(`${redis.variable}: ${cause instanceof Error ? cause.message : cause}`, { cause });
  }
}

/** Starts the example runner, unless another one is named, or the Worker must not send anything to this machine. */
async function provideRunner(variables: Variables, { pushAllowedHosts }: Config): Promise<void> {
  if (variables.TOOL_RUNNER_URL !== undefined) return;
  if (!checkOutboundTarget(`http://${HOST}`, pushAllowedHosts).ok) return;
  const runner = await startRunner({
    signingSecrets: [firstOf(variables.SIGNING_SECRET)],
    webhookSecret: firstOf(variables.WEBHOOK_SECRET),
  });
  endings.push(() => runner.close());
  variables.TOOL_RUNNER_URL = runner.url;
}

/** The first entry of a list that commas separate. */
function firstOf(list = ""): string {
  return list.split(",")[0]?.trim() ?? "";
}

/**
 * Starts the example pages at PAGES_PORT, or else at the port behind the Worker's, or at any free one where that is
 * taken.
 */
async function provideSite(facts: {
  url: string;
  port: number;
  variables: Variables;
  config: Config;
}): Promise<ExampleSite> {
  const { url, port, variables, config } = facts;
  const secret = (name: SecretVariable) => firstOf(variables[name]);
  const start = (port: number) =>
    startExampleSite({
      port,
      edgeUrl: url,
      providerUrl: config.elevenLabs.apiUrl,
      agentId: firstOf(variables.ELEVENLABS_AGENT_IDS),
      apiToken: secret("API_TOKEN"),
      webhookSecret: secret("WEBHOOK_SECRET"),
      // The same at every start, so that an open page goes on.
      key: createHmac("sha256", secret("SESSION_TOKEN_SECRET")).update("example pages").digest("base64url"),
    });
  const named = process.env.PAGES_PORT;
  const wanted = named ? readPort("PAGES_PORT", named) : Math.min(port + 1, 65_535);
  if (named) await requireFreePort("PAGES_PORT", wanted);
  const site = await start(wanted).catch(() => start(0));
  endings.push(() => site.close());
  return site;
}

/**
 * Writes the variables where only this user can read them: `--var` would show secrets in the process list.
 * wrangler reads no other file then, not even `.dev.vars`.
 */
function writeVariables(variables: Variables): string {
  const directory = mkdtempSync(join(tmpdir(), "edge-agent-sessions-start-"));
  endings.push(() => rmSync(directory, { recursive: true, force: true }));
  const path = join(directory, "worker.env");
  const lines = Object.entries(variables).map(([name, value = ""]) => {
    const quote = ["'", "`"].find((candidate) => !value.includes(candidate));
    if (quote === undefined) throw new StartFailure(`${name} must not hold both kinds of quotes, ' and \`.`);
    // wrangler expands $NAME in values, quoted or not.
    return `${name}=${quote}${value.replaceAll("$", "\\$")}${quote}\n`;
  });
  writeFileSync(path, lines.join(""), { mode: 0o600 });
  chmodSync(path, 0o600);
  return path;
}

// --- the Worker ------------------------------------------------------------------------------------------------

type WorkerProcess = {
  /** Rejects with a StartFailure when the process ends; never resolves. */
  ended: Promise<never>;
  /**
   * From now on its output is shown. Before, it is noise, and kept for the case that it explains a failure;
   * `kept` shows that, too.
   */
  showOutput(options: { kept: boolean }): void;
};

function startWorker(options: { port: number; stateDirectory: string; variables: Variables }): WorkerProcess {
  const child = spawn(
    process.execPath,
    [
      join(import.meta.dirname, "worker.ts"),
      ...["--port", String(options.port), "--persist-to", options.stateDirectory],
      ...["--env-file", writeVariables(options.variables)],
    ],
    {
      cwd: ROOT,
      stdio: ["ignore", "pipe", "pipe"],
      // A group of its own, so that wrangler's children (workerd, esbuild) can be ended with it.
      detached: true,
    },
  );
  endings.push(() => endGroup(child));

  const kept: string[] = [];
  let shown = false;
  const show = (chunk: string) => {
    if (shown) process.stdout.write(chunk);
    else kept.push(chunk);
  };
  const reader = keepLog(options.stateDirectory);
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", show).on("data", reader());
  }

  const ended = new Promise<never>((_, reject) => {
    child.once("error", reject);
    child.once("exit", (code, signal) => {
      const how = signal === null ? `exit code ${code}` : signal;
      reject(new StartFailure(`${kept.join("")}The Worker has ended by itself (wrangler dev, ${how}).`));
    });
  });
  // It is raced and awaited later; until then a rejection has a listener.
  ended.catch(() => {});
  return {
    ended,
    showOutput(options) {
      shown = true;
      if (options.kept) process.stdout.write(kept.join(""));
      kept.length = 0;
    },
  };
}

/** SIGTERM to the child's group, and once the child is gone or too slow, SIGKILL to what is left of the group. */
async function endGroup(child: ChildProcess): Promise<void> {
  const { pid } = child;
  if (pid === undefined) return;
  const signal = (name: NodeJS.Signals | 0): boolean => {
    try {
      return process.kill(-pid, name);
    } catch {
      return false;
    }
  };
  const isRunning = () => child.exitCode === null && child.signalCode === null;
  signal("SIGTERM");
  for (const deadline = Date.now() + STOP_LIMIT_MS; isRunning() && Date.now() < deadline; ) await sleep(20);
  // wrangler's own children follow within milliseconds; where nobody reaps orphans, the group never looks empty.
  for (const deadline = Date.now() + ORPHAN_LIMIT_MS; signal(0) && Date.now() < deadline; ) await sleep(20);
  signal("SIGKILL");
}

async function waitForHealth(url: string): Promise<void> {
  for (const deadline = Date.now() + START_LIMIT_MS; Date.now() < deadline; await sleep(100)) {
    try {
      const response = await fetch(`${url}/health`, { signal: AbortSignal.timeout(5_000) });
      if (response.ok) return;
      if (response.status === 503) {
        console.error(`The Worker runs, but its storage does not answer: ${await response.text()}`);
        return;
      }
    } catch {
      // Not up yet.
    }
  }
  throw new StartFailure(`The Worker did not answer ${url}/health within ${START_LIMIT_MS / 1000} s.`);
}

// --- the door --------------------------------------------------------------------------------------------------

/** `--persist-to DIR` keeps the embedded storage elsewhere than in `.wrangler/state`. */
function readStateDirectory(): string {
  try {
    const { values } = parseArgs({ options: { "persist-to": { type: "string" } } });
    return resolve(values["persist-to"] ?? join(ROOT, ".wrangler/state"));
  } catch (cause) {
    throw new StartFailure(cause instanceof Error ? cause.message : String(cause), { cause });
  }
}

function readPort(variable: string, text: string): number {
  const port = Number(text);
  if (!/^\d+$/.test(text) || port < 1 || port > 65_535)
    throw new StartFailure(`${variable} must be a number from 1 to 65535.`);
  return port;
}

async function requireFreePort(variable: string, port: number): Promise<void> {
  const another = port === 65_535 ? 8787 : port + 1;
  const inUse = new StartFailure(
    `Port ${port} is in use: end the program that has it, or choose another one, such as ${variable}=${another} npm start.`,
  );
  // Some systems let a port be taken twice, on one address and on all of them, so somebody may be listening.
  const someoneListens = await new Promise<boolean>((resolve) => {
    const socket = connect({ port, host: HOST });
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
  if (someoneListens) throw inUse;
  await new Promise<void>((resolve, reject) => {
    const probe = createServer();
    probe.once("error", (error: NodeJS.ErrnoException) => {
      const refused = new StartFailure(`Port ${port} cannot be used: ${error.message}.`);
      reject(error.code === "EADDRINUSE" ? inUse : refused);
    });
    probe.listen(port, HOST, () => probe.close(() => resolve()));
  });
}

function printStory(facts: {
  url: string;
  agentUrl: string;
  site: ExampleSite;
  storage: string;
  requireAuth: boolean;
  /** Whether anybody does what an agent's tool calls ask for. */
  hasRunner: boolean;
  /** The secrets that nobody but this program has set. */
  made: Variables;
}): void {
  const { url, agentUrl, site, storage, requireAuth, hasRunner, made } = facts;
  // Results are delivered once per requestId, and records survive a restart: every start tells a new story.
  const requestId = `demo-${randomBytes(4).toString("hex")}`;
  const session = JSON.stringify({ sessionUrl: agentUrl });
  const callback = JSON.stringify({
    requestId,
    conversationId: CONVERSATION_ID,
    toolName: "research",
    output: "The report is ready: three suppliers, the cheapest is Acme.",
  });
  const toolCall = JSON.stringify({
    tool_name: "research",
    tool_args: { query: "suppliers in Bonn" },
    conversationId: CONVERSATION_ID,
  });
  // One of ours is printed, so that the line can be pasted. One that was set is taken by the shell that runs the
  // line, the first of its list, and is not printed.
  const credential = (name: SecretVariable) =>
    requireAuth ? ` -H "authorization: Bearer ${made[name] ?? `\${${name}%%,*}`}"` : "";
  const json = "-H 'content-type: application/json'";
  const apiToken =
    requireAuth && made.API_TOKEN !== undefined
      ? `It asks for the API token, which is ${made.API_TOKEN}\n`
      : "";
  console.log(`
edge-agent-sessions runs at ${url} (storage: ${storage}).
Two pages show it: talk, finish a task, reload meanwhile, and hear of it all the same. Say "research suppliers in Bonn",
and the agent starts the task itself.
  ${site.pageUrl("relay")}
  ${site.pageUrl("proxy")}
The console shows what becomes of it all: ${url}/console
${apiToken}A demo agent listens at ${agentUrl} and says here what it hears. Ctrl-C ends everything.
What the Worker does: npm run tail -- --conversation ${CONVERSATION_ID}

1. A browser registers its live session:
curl -X POST ${url}/agent-conversations/api/${CONVERSATION_ID}/session ${json}${credential("API_TOKEN")} -d '${session}'

2. A task has finished, and the demo agent hears of it:
curl -X POST ${url}/callback ${json}${credential("WEBHOOK_SECRET")} -d '${callback}'

3. The conversation remembers:
curl ${url}/agent-conversations/api/${CONVERSATION_ID}${credential("API_TOKEN")}
`);
  if (!hasRunner) return;
  const callTool = (query: string) =>
    `curl -X POST '${url}/agent-tools${query}' ${json}${credential("WEBHOOK_SECRET")} -d '${toolCall}'`;
  console.log(`The whole circle, with the session of 1:

4. The agent calls a tool. It is told what to say meanwhile; a runner works, the agent knows how far it is, and speaks of the result:
${callTool("")}

5. The same, where the tool call can wait: its answer is the result, and nothing is pushed:
${callTool("?wait=20")}
`);
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => void stop(0));
// Whoever read our output is gone (`npm start | head`): nobody is left to serve.
process.stdout.on("error", () => void stop(0));
process.on("uncaughtException", (error) => {
  console.error(error);
  void stop(1);
});

main().catch((error: unknown) => {
  if (stopping === undefined) console.error(error instanceof StartFailure ? error.message : error);
  return stop(1);
});
