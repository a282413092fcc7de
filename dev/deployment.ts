/**
 * What `npm run setup` does: finds out what a deployment needs, checks that with the Worker's own rules before
 * anything is written, writes the secrets, deploys, and looks whether it is well. The secrets are written first, so
 * there is never a deployment of ours without them; they go to wrangler by a pipe, so no process list, shell history
 * or file has them. Done again it keeps what is there.
 *
 * wrangler, the network and whoever answers questions are handed in; `setup.ts` brings the real ones.
 */
import { parseArgs } from "node:util";
import { SECRET_VARIABLES, type SecretVariable } from "../lib/auth/secret-rules.ts";
import { parseSecretList } from "../lib/auth/secrets.ts";
import {
  configProblems,
  type Environment,
  PROVIDER_KEYS,
  parseConfig,
  VARIABLE_NAMES,
} from "../lib/config.ts";
import { newSecret } from "./new-secret.ts";

/** Says in a sentence or two why a setup ends; printed without a stack. */
export class SetupFailure extends Error {}

export type WranglerRun = {
  exitCode: number;
  /** Both outputs together; empty where they were shown. */
  output: string;
  /** Where it was deployed to, in wrangler's words: hosts, routes, schedules. */
  targets: readonly string[];
};

/** What wrangler does, the network, and who is there to answer. */
export type World = {
  environment: Readonly<Partial<Record<string, string>>>;
  /** Runs wrangler. `input` goes to it by a pipe; `shows` lets it talk to the user. */
  wrangler: (args: readonly string[], options?: { input?: string; shows?: boolean }) => Promise<WranglerRun>;
  fetch: (url: string, init: RequestInit) => Promise<Response>;
  /** Null where nobody is there to be asked. */
  ask: ((question: string, options?: { isHidden?: boolean }) => Promise<string>) | null;
  print: (text: string) => void;
  wait: (ms: number) => Promise<void>;
  /** The clock, in ms since the epoch. */
  now: () => number;
};

type Variables = Partial<Record<keyof Environment, string>>;

export const HELP = `npm run setup -- [options]    deploys to Cloudflare, and asks for what is not said

  --storage upstash|embedded   where records live; embedded needs no Redis
  --origins URL,…              pages that may call the API from a browser
  --agents ID,…                agents at ElevenLabs that pages may start
  --var NAME=VALUE             any other variable of README.md that is no secret; may be repeated
  --rotate NAME,…|all          sets these secrets anew, which stay otherwise: ${SECRET_VARIABLES.join(", ")}
  --name NAME                  the Worker, where it is not wrangler.toml's
  --url URL                    where it is reached, where that is not workers.dev
  --yes                        asks nothing
  --dry-run                    shows each command, and runs none

Secrets are no options, which everybody on the machine could read. They are taken from the environment, asked for, or
made: UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN (or another name of the database), ELEVENLABS_API_KEY, and
${SECRET_VARIABLES.join(", ")}.
Keys of other providers stay where they are, since whoever deploys may have them for something else:
npx wrangler secret put TELNYX_API_KEY`;

/** Where the database's address and token may be found, in the environment; as the Worker looks for them. */
const DATABASE_VARIABLES = [
  ["UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"],
  ["KV_REST_API_URL", "KV_REST_API_TOKEN"],
  ["REDIS_URL"],
] as const;
const WRITTEN_DATABASE = ["UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"] as const;

/** What is never an option, because an option is seen by every process of the machine. */
const SECRETS: readonly string[] = [
  ...SECRET_VARIABLES,
  ...DATABASE_VARIABLES.flat(),
  ...["REDIS_PASSWORD", "ELEVENLABS_API_KEY"],
];

/** Those that their owner has to give to somebody else; the other one is between the Worker and itself. */
const SHOWN = ["API_TOKEN", "WEBHOOK_SECRET", "SIGNING_SECRET"] as const satisfies readonly SecretVariable[];

/** What a secret that is there already is taken for while the rest is checked. */
const STAND_INS: Variables = {
  UPSTASH_REDIS_REST_URL: "https://kept.upstash.io",
  UPSTASH_REDIS_REST_TOKEN: "kept",
  ELEVENLABS_API_KEY: "kept",
};

/** How long a new deployment may take to be reached. A first one waits for its name and certificate. */
const HEALTH_LIMIT_MS = 90_000;
const HEALTH_PAUSE_MS = 2_000;
const ASK_MS = 10_000;

type Options = ReturnType<typeof readOptions>;

function readOptions(args: readonly string[]) {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        storage: { type: "string" },
        origins: { type: "string" },
        agents: { type: "string" },
        var: { type: "string", multiple: true, default: [] },
        rotate: { type: "string", default: "" },
        name: { type: "string" },
        url: { type: "string" },
        yes: { type: "boolean", default: false },
        "dry-run": { type: "boolean", default: false },
        help: { type: "boolean", default: false },
      },
    });
    return { ...values, variables: variablesOf(values), rotated: rotatedOf(values.rotate) };
  } catch (cause) {
    throw new SetupFailure(cause instanceof Error ? cause.message : String(cause), { cause });
  }
}

function variablesOf(values: { storage?: string; origins?: string; agents?: string; var: string[] }) {
  const variables: Variables = {};
  for (const [name, value] of [
    ["STORAGE", values.storage],
    ["ALLOWED_ORIGINS", values.origins],
    ["ELEVENLABS_AGENT_IDS", values.agents],
  ] as const)
    if (value !== undefined) variables[name] = value;
  for (const text of values.var) {
    const [given = "", ...rest] = text.split("=");
    const name = VARIABLE_NAMES.find((known) => known === given);
    if (PROVIDER_KEYS.some((known) => known === given))
      throw new SetupFailure(`${given} is a secret: npx wrangler secret put ${given}`);
    if (SECRETS.includes(given)) throw new SetupFailure(`${given} is a secret: put it into the environment.`);
    if (name === undefined || rest.length === 0)
      throw new SetupFailure("--var takes NAME=VALUE, with a name of the table in README.md.");
    variables[name] = rest.join("=");
  }
  return variables;
}

function rotatedOf(text: string): readonly SecretVariable[] {
  if (text === "") return [];
  if (text === "all") return SECRET_VARIABLES;
  return text.split(",").map((given) => {
    const name = SECRET_VARIABLES.find((known) => known === given.trim());
    if (name === undefined) throw new SetupFailure(`--rotate takes ${SECRET_VARIABLES.join(", ")}, or all.`);
    return name;
  });
}

/** What a new Worker is asked for besides its database. */
const QUESTIONS = [
  ["ALLOWED_ORIGINS", "Pages that may call it from a browser, such as https://app.example (empty: none): "],
  ["ELEVENLABS_AGENT_IDS", "Agents at ElevenLabs that pages may start, by id (empty: none): "],
] as const;

/** What stands there before. */
type Standing = { isNew: boolean; secrets: readonly string[] };

/** What is to be written. */
type Plan = {
  standing: Standing;
  variables: Variables;
  secrets: Variables;
  /** Of the secrets, those that nobody knows yet. */
  made: readonly SecretVariable[];
};

export async function setUp(args: readonly string[], world: World): Promise<void> {
  const options = readOptions(args);
  if (options.help) return world.print(HELP);
  const isDry = options["dry-run"];
  const standing = isDry ? { isNew: true, secrets: [] } : await lookUp(options, world);
  const plan = await makePlan(options, standing, { ...world, ask: isDry || options.yes ? null : world.ask });
  check(plan);

  const named = options.name === undefined ? [] : ["--name", options.name];
  const bulk = ["secret", "bulk", ...named];
  const deploy = ["deploy", ...named, ...varsOf(plan.variables)];
  world.print(described(plan));
  if (isDry) {
    const commands = [
      `wrangler ${bulk.join(" ")}   # reads the secrets from a pipe`,
      `wrangler ${hidden(deploy)}`,
    ];
    return world.print(["Would run:", ...commands.map((command) => `  ${command}`)].join("\n"));
  }
  if (world.ask !== null && !options.yes && /^n/i.test(await world.ask("Go on? [Y/n] "))) return;

  if (Object.keys(plan.secrets).length > 0) {
    const { exitCode, output } = await world.wrangler(bulk, { input: JSON.stringify(plan.secrets) });
    if (exitCode !== 0)
      throw new SetupFailure(`${output}The secrets were not written; nothing was deployed.`);
  }
  printSecrets(plan, world);

  const { exitCode, output, targets } = await world.wrangler(deploy, { shows: true });
  if (exitCode !== 0) {
    throw new SetupFailure(
      `${output}The deployment failed. The secrets are written: they stay when you run this again.`,
    );
  }
  const url = options.url ?? targets.map(addressOf).find((address) => address !== null);
  if (url === undefined)
    throw new SetupFailure(
      "Deployed, but wrangler names no address: say it with --url, to have it looked at.",
    );
  await lookAt(url.replace(/\/$/, ""), ownToken(plan, world), world);
}

/** The address of what wrangler calls a target: a host by itself, perhaps with a remark. Null for a route. */
function addressOf(target: string): string | null {
  const [, host] = /^(?:https:\/\/)?([a-z\d-]+(?:\.[a-z\d-]+)+)(?: \(custom domain.*)?$/i.exec(target) ?? [];
  return host === undefined ? null : `https://${host}`;
}

/** The token of an operator: one that was just set, or that of whoever runs this again. */
function ownToken({ secrets }: Plan, { environment }: World): string | undefined {
  return parseSecretList(secrets.API_TOKEN ?? environment.API_TOKEN ?? "")[0];
}

// --- what is there ---------------------------------------------------------------------------------------------

async function lookUp({ name }: Options, { wrangler }: World): Promise<Standing> {
  const who = await wrangler(["whoami", "--json"]);
  // Some tokens may deploy and not say whose they are.
  if (who.exitCode !== 0 && /"loggedIn": *false/.test(who.output))
    throw new SetupFailure(
      "Cloudflare does not know you: run npx wrangler login, or set CLOUDFLARE_API_TOKEN.",
    );
  const listing = ["secret", "list", "--format", "json", ...(name === undefined ? [] : ["--name", name])];
  const { exitCode, output } = await wrangler(listing);
  if (exitCode !== 0) {
    if (/Worker "[^"]*".* not found/.test(output)) return { isNew: true, secrets: [] };
    throw new SetupFailure(`${output}wrangler could not say what is deployed.`);
  }
  const listed = JSON.parse(output.slice(output.indexOf("["))) as { name: string }[];
  return { isNew: false, secrets: listed.map((secret) => secret.name) };
}

// --- what is to be ---------------------------------------------------------------------------------------------

async function makePlan(options: Options, standing: Standing, world: World): Promise<Plan> {
  const variables = { ...options.variables };
  const { isNew } = standing;
  if (isNew) variables.ELEVENLABS_AGENT_ENABLED ??= "true";
  const secrets: Variables = await databaseOf(variables, standing, world);
  for (const [name, question] of QUESTIONS) {
    if (!isNew || world.ask === null || variables[name] !== undefined) continue;
    const answer = await world.ask(question);
    if (answer !== "") variables[name] = answer;
  }

  const key = world.environment.ELEVENLABS_API_KEY ?? "";
  const needsKey = variables.ELEVENLABS_AGENT_IDS && !standing.secrets.includes("ELEVENLABS_API_KEY");
  if (key !== "") secrets.ELEVENLABS_API_KEY = key;
  else if (needsKey && world.ask !== null)
    secrets.ELEVENLABS_API_KEY = await world.ask("The ElevenLabs API key: ", { isHidden: true });

  const isSigning = variables.TOOL_RUNNER_URL !== undefined || variables.EVENTS_URL !== undefined;
  const made: SecretVariable[] = [];
  for (const name of SECRET_VARIABLES) {
    const given = world.environment[name] ?? "";
    const isThere = standing.secrets.includes(name);
    const isNeeded = name !== "SIGNING_SECRET" || isSigning;
    const isToBeSet = isThere ? options.rotated.includes(name) : isNeeded || given !== "";
    if (!isToBeSet) continue;
    if (given === "") made.push(name);
    else secrets[name] = given;
  }
  for (const name of made) secrets[name] = newSecret(name);
  return { standing, variables, secrets, made };
}

/** The database as two secrets; none where there is one already, or none is wanted, which the variables then say. */
async function databaseOf(variables: Variables, standing: Standing, world: World): Promise<Variables> {
  if (variables.STORAGE === "embedded") return {};
  const names = DATABASE_VARIABLES.find((names) => names.some((name) => world.environment[name]));
  const given: Variables = {};
  for (const name of names ?? []) given[name] = world.environment[name] ?? "";
  if (names === undefined && world.ask !== null && standing.isNew) {
    const url = await world.ask("The REST URL of the Upstash database (empty: store without Redis): ");
    if (url.trim() === "") {
      variables.STORAGE = "embedded";
      return {};
    }
    given.UPSTASH_REDIS_REST_URL = url;
    given.UPSTASH_REDIS_REST_TOKEN = await world.ask("Its REST token: ", { isHidden: true });
  }
  const parsed = parseConfig(given);
  // What is wrong with it is said by the check of everything.
  if (!parsed.ok || parsed.config.storage.kind !== "upstash") return given;
  const { url, token } = parsed.config.storage;
  return { UPSTASH_REDIS_REST_URL: url, UPSTASH_REDIS_REST_TOKEN: token };
}

/** Whatever is wrong is said before anything is written. Secrets that stay are not known, and taken to be well. */
function check({ standing, variables, secrets }: Plan): void {
  const kept: Variables = {};
  for (const name of SECRET_VARIABLES) if (standing.secrets.includes(name)) kept[name] = newSecret(name);
  for (const [name, value] of Object.entries(STAND_INS))
    if (standing.secrets.includes(name)) kept[name as keyof Environment] = value;
  // Where it stores is a variable that was given before.
  const keepsStorage = !standing.isNew && !WRITTEN_DATABASE.some((name) => name in kept || name in secrets);
  if (keepsStorage) kept.STORAGE = "embedded";
  const problems = configProblems({ ...kept, ...secrets, ...variables });
  if (problems.length === 0) return;
  const lines = problems.map(({ path, message }) => `  ${path} ${message}`);
  throw new SetupFailure(["The configuration is not usable; nothing was written:", ...lines].join("\n"));
}

// --- what is said ----------------------------------------------------------------------------------------------

function varsOf(variables: Variables): string[] {
  return Object.entries(variables).flatMap(([name, value]) => ["--var", `${name}:${value}`]);
}

/** A command as it may be shown: of variables their names. */
function hidden(args: readonly string[]): string {
  return args.map((arg, i) => (args[i - 1] === "--var" ? `${arg.split(":")[0]}:…` : arg)).join(" ");
}

function described({ standing, variables, secrets, made }: Plan): string {
  const given = Object.keys(secrets).filter((name) => !made.some((other) => other === name));
  const kept = standing.secrets.filter((name) => !(name in secrets));
  const lines = [
    ["secrets that are made", made],
    ["secrets that were given", given],
    ["secrets that stay", kept],
    ["variables", Object.keys(variables)],
  ] as const;
  return [
    standing.isNew ? "A new Worker:" : "The Worker that is there:",
    ...lines.flatMap(([what, names]) => (names.length === 0 ? [] : [`  ${what}: ${names.join(", ")}`])),
  ].join("\n");
}

/** The only time at which they are shown: Cloudflare does not give secrets back. */
function printSecrets({ made, secrets }: Plan, { print }: World): void {
  const shown = SHOWN.filter((name) => made.includes(name));
  if (shown.length === 0) return;
  const lines = shown.map((name) => `  ${name}=${secrets[name]}`);
  print(["", "Written. Keep these now, they are not shown again:", ...lines, ""].join("\n"));
}

// --- whether it is well ----------------------------------------------------------------------------------------

type Health = {
  status?: string;
  storage?: { lastError?: string };
  problems?: { variable: string; message: string }[];
};

async function lookAt(url: string, apiToken: string | undefined, world: World): Promise<void> {
  const { print } = world;
  const { status, storage } = await answerOf(`${url}/health`, {}, world);
  if (status !== "ok") {
    const why = storage?.lastError ?? status;
    throw new SetupFailure(`${url} runs, but its storage does not answer as it should: ${why}.`);
  }
  if (apiToken === undefined)
    print(
      `${url} runs. What its configuration lacks is for who has the API_TOKEN: put it into the environment.`,
    );
  else {
    const { problems = [] } = await answerOf(
      `${url}/config/health`,
      { authorization: `Bearer ${apiToken}` },
      world,
    );
    if (problems.length > 0) {
      const lines = problems.map(({ variable, message }) => `  ${variable} ${message}`);
      throw new SetupFailure([`${url} runs, but it is not configured completely:`, ...lines].join("\n"));
    }
    print(`${url} runs, and is configured completely.`);
  }
  print(`
1. Begin a conversation; its id and its token are for a page that has the client:
curl -X POST ${url}/agent-conversations/api/new -H "authorization: Bearer $API_TOKEN"

2. Send it a result (npm run tail -- --deployed shows what becomes of it):
curl -X POST ${url}/callback -H "authorization: Bearer $WEBHOOK_SECRET" -H 'content-type: application/json' -d '{"requestId":"r1","conversationId":"ID","output":"done"}'

3. Read what was said:
curl ${url}/agent-conversations/api/ID -H "authorization: Bearer $API_TOKEN"
`);
}

/** What the Worker says there, as soon as it can be reached and knows its secrets. */
async function answerOf(
  url: string,
  headers: Record<string, string>,
  { fetch, wait, now }: World,
): Promise<Health> {
  let last = "it cannot be reached";
  for (const deadline = now() + HEALTH_LIMIT_MS; now() < deadline; await wait(HEALTH_PAUSE_MS)) {
    try {
      const response = await fetch(url, { headers, redirect: "error", signal: AbortSignal.timeout(ASK_MS) });
      last = `it answers ${response.status}`;
      if (response.status !== 200 && response.status !== 503) continue;
      const said = (await response.json()) as Health | null;
      if (typeof said?.status === "string") return said;
    } catch {
      // Its name or its certificate are not there yet, or it is somebody else who answers.
    }
  }
  throw new SetupFailure(`Deployed, but ${url} is not as it should be: ${last}.`);
}
