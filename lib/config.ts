/**
 * The configuration: one schema over the Worker's environment. Whatever is wrong with it is said at once,
 * in one list that names the variables and shows no value.
 */
import * as v from "valibot";
import { DOOR_SECRETS, type SecretLists, secretLists, soundSecrets } from "./auth/secret-rules.ts";
import { parseSecretList } from "./auth/secrets.ts";
import { MAX_STATE_TTL_SECONDS, STATE_TTL_SECONDS } from "./conversation-state.ts";
import type { Issue } from "./errors.ts";
import { describeIssues } from "./json.ts";
import { isAgentId } from "./keys.ts";
import type { Destination } from "./outbound.ts";
import type { ProviderAccount } from "./push/provider.ts";
import { type AccountName, PROVIDER_NAMES, PROVIDERS, type ProviderName } from "./push/providers.ts";
import {
  type AllowedHosts,
  checkOutboundTarget,
  ELEVENLABS_HOSTS,
  LOOPBACK_HOSTS,
  parseAllowedHosts,
} from "./push/push-target.ts";
import type { TtlSeconds } from "./storage/storage.ts";

const DAY_SECONDS = 24 * 3600;

/** An unset variable and an empty one are the same thing, as everywhere in a shell. */
const text = v.pipe(
  v.optional(v.string(), ""),
  v.transform((value) => value.trim()),
);

function flag(fallback: boolean) {
  return v.pipe(
    text,
    v.picklist(["", "true", "false"], 'must be "true" or "false"'),
    v.transform((value) => (value === "" ? fallback : value === "true")),
  );
}

function wholeSeconds(fallback: number, min: number, max: number) {
  const message = `must be a whole number of seconds from ${min} to ${max}`;
  return v.pipe(
    text,
    v.transform((value) => value || String(fallback)),
    v.regex(/^\d{1,12}$/, message),
    v.transform(Number),
    v.minValue(min, message),
    v.maxValue(max, message),
  );
}

/** Texts separated by commas; blanks around them and empty ones do not matter. */
const list = v.pipe(
  text,
  v.transform((value) =>
    value
      .split(",")
      .map((entry) => entry.trim())
      .filter((entry) => entry !== ""),
  ),
);

const originList = v.pipe(
  list,
  v.check(
    (origins) => origins.every(isOrigin),
    "must be origins such as https://app.example, separated by commas",
  ),
);

function isOrigin(origin: string): boolean {
  return URL.canParse(origin) && new URL(origin).origin === origin;
}

/** An API key goes there, so in the clear only to this machine. */
function isApiOrigin(origin: string): boolean {
  if (!isOrigin(origin)) return false;
  const { protocol, hostname } = new URL(origin);
  return protocol === "https:" || (protocol === "http:" && LOOPBACK_HOSTS.has(hostname));
}

const hostList = v.pipe(
  text,
  v.rawTransform<string, AllowedHosts>(({ dataset, addIssue, NEVER }) => {
    const parsed = parseAllowedHosts(dataset.value || ELEVENLABS_HOSTS.join(","));
    if (parsed.ok) return parsed.hosts;
    for (const { position, message } of parsed.problems)
      addIssue({ message: `entry ${position}: ${message}` });
    return NEVER;
  }),
);

function apiOrigin(fallback: string) {
  return v.pipe(
    text,
    v.transform((value) => (value === "" ? fallback : value.replace(/\/$/, ""))),
    v.check(isApiOrigin, `must be an https origin such as ${fallback}`),
  );
}

type ProviderVariables = { [account in `${AccountName}_API_KEY`]: typeof text } & {
  [account in `${AccountName}_API_URL`]: ReturnType<typeof apiOrigin>;
};

/** The key and the origin of each account. */
const providerVariables = Object.fromEntries(
  Object.values(PROVIDERS).flatMap(({ account, apiUrl }) => [
    [`${account}_API_KEY`, text],
    [`${account}_API_URL`, apiOrigin(apiUrl)],
  ]),
) as ProviderVariables;

/** The variables that hold the keys. */
export const PROVIDER_KEYS: readonly `${AccountName}_API_KEY`[] = [
  ...new Set(Object.values(PROVIDERS).map(({ account }) => `${account}_API_KEY` as const)),
];

/** What the monitor channel is used for: nothing, what is silent anyway, or everything. */
export type MonitorUse = "off" | "silent" | "all";
const MONITOR_OF = { "": "off", false: "off", true: "silent", all: "all" } as const satisfies Record<
  string,
  MonitorUse
>;

const environmentSchema = v.object({
  STORAGE: v.pipe(
    text,
    v.picklist(["", "upstash", "embedded"], 'must be "upstash" or "embedded"'),
    v.transform((value) => value || "upstash"),
  ),
  ELEVENLABS_AGENT_ENABLED: flag(false),
  UPSTASH_REDIS_REST_URL: text,
  UPSTASH_REDIS_REST_TOKEN: text,
  KV_REST_API_URL: text,
  KV_REST_API_TOKEN: text,
  REDIS_URL: text,
  REDIS_HOST: text,
  REDIS_PORT: text,
  REDIS_PASSWORD: text,
  REDIS_DB: text,
  CONVERSATION_TTL_SECONDS: wholeSeconds(30 * DAY_SECONDS, 0, 10 * 365 * DAY_SECONDS),
  REDIS_CONVERSATION_TTL: wholeSeconds(STATE_TTL_SECONDS, 1, MAX_STATE_TTL_SECONDS),
  USE_REDIS_SESSIONS: flag(true),
  OUTAGE_COPIES: flag(true),
  REQUIRE_AUTH: flag(true),
  API_TOKEN: text,
  SESSION_TOKEN_SECRET: text,
  WEBHOOK_SECRET: text,
  WEBHOOK_REQUIRE_SIGNATURE: flag(false),
  ALLOWED_ORIGINS: originList,
  PUSH_ALLOWED_HOSTS: hostList,
  TOOL_RUNNER_URL: text,
  EVENTS_URL: text,
  SIGNING_SECRET: text,
  ELEVENLABS_API_KEY: text,
  ELEVENLABS_API_URL: apiOrigin("https://api.elevenlabs.io"),
  ELEVENLABS_AGENT_ID: text,
  ELEVENLABS_AGENT_IDS: v.pipe(
    list,
    v.check((ids) => ids.every(isAgentId), "must be ids of agents, separated by commas"),
  ),
  ELEVENLABS_TRANSCRIPTS: flag(false),
  ELEVENLABS_MONITOR: v.pipe(
    text,
    v.picklist(["", "false", "true", "all"], 'must be "true", "false" or "all"'),
    v.transform((value) => MONITOR_OF[value]),
  ),
  ...providerVariables,
});

/** The variables this product reads, by name. */
export type Environment = { [name in keyof typeof environmentSchema.entries]?: unknown };
export const VARIABLE_NAMES = Object.keys(environmentSchema.entries) as (keyof Environment)[];

export type UpstashCredentials = { url: string; token: string };

export type StorageConfig = { kind: "embedded" } | ({ kind: "upstash" } & UpstashCredentials);

export type Config = {
  storage: StorageConfig;
  featureEnabled: boolean;
  /** null keeps conversations for ever. */
  conversationTtlSeconds: TtlSeconds;
  stateTtlSeconds: number;
  /** Whether the assistant's memory is kept where everything else is; otherwise each isolate keeps its own. */
  useRedisSessions: boolean;
  requireAuth: boolean;
  apiTokens: readonly string[];
  sessionTokenSecrets: readonly string[];
  webhookSecrets: readonly string[];
  /** Whether the shared secret itself opens no callback, only a signature made with it. */
  webhookRequiresSignature: boolean;
  allowedOrigins: readonly string[];
  pushAllowedHosts: AllowedHosts;
  /** Where signed messages go: the calls of the agent's tools, and receipts. null where they go nowhere. */
  outbound: { runner: Destination | null; events: Destination | null };
  /** Whether the objects keep copies of state and memory, to be read while Redis is down. */
  outageCopies: boolean;
  elevenLabs: {
    /** Goes to the API hosts of ElevenLabs and to the host of `apiUrl`, an origin, and nowhere else. */
    apiKey: string;
    apiUrl: string;
    agentId: string;
    /** The agents that pages may start with the key. */
    agentIds: readonly string[];
    /** Whether what is said in a proxied conversation is put into its history. */
    transcripts: boolean;
    monitor: MonitorUse;
  };
  /** The accounts with other providers, those that there are. */
  providers: { readonly [name in ProviderName]?: ProviderAccount };
};

/** What decides who comes in; weak secrets are left out. */
export type Access = Pick<Config, "requireAuth" | "apiTokens" | "sessionTokenSecrets" | "webhookSecrets">;

/** Read by itself, so that an operator is let in to be told what is wrong with the rest. */
export function accessOf(environment: Environment): Access {
  const { sound } = secretsOf(environment);
  return {
    requireAuth: textOf(environment.REQUIRE_AUTH) !== "false",
    apiTokens: sound.API_TOKEN,
    sessionTokenSecrets: sound.SESSION_TOKEN_SECRET,
    webhookSecrets: sound.WEBHOOK_SECRET,
  };
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value.trim() : "";
}

/** The secrets by variable, those that are sound, and what is wrong with the others. */
function secretsOf(environment: Environment): { given: SecretLists; sound: SecretLists; problems: Issue[] } {
  const given = secretLists((name) => parseSecretList(textOf(environment[name])));
  const { UPSTASH_REDIS_REST_TOKEN, KV_REST_API_TOKEN, REDIS_PASSWORD, ELEVENLABS_API_KEY } = environment;
  const others = [
    ...[UPSTASH_REDIS_REST_TOKEN, KV_REST_API_TOKEN, REDIS_PASSWORD, ELEVENLABS_API_KEY],
    ...PROVIDER_KEYS.map((name) => environment[name]),
  ].map(textOf);
  return { given, ...soundSecrets(given, others) };
}

/**
 * Everything that an operator should mend: what keeps the service from starting at all, doors that are closed
 * because their secret is absent or weak, and doors that are open because authentication is off.
 */
export function configProblems(environment: Environment): readonly Issue[] {
  const parsed = parseConfig(environment);
  const { given, problems: weaknesses } = secretsOf(environment);
  if (!parsed.ok) return [...parsed.problems, ...weaknesses];
  if (!parsed.config.requireAuth) {
    const path = "REQUIRE_AUTH";
    return [{ path, message: "is false, so no door is closed: only for a laptop" }, ...weaknesses];
  }
  const missing = DOOR_SECRETS.filter((path) => given[path].length === 0).map((path) => ({
    path,
    message: "is missing, so what it protects is closed",
  }));
  return [...missing, ...weaknesses];
}

/** `path` of a problem is the variable's name. */
export type ParsedConfig = { ok: true; config: Config } | { ok: false; problems: readonly Issue[] };

/** Reads the whole environment. Never throws; every problem is in the answer, and no value is. */
export function parseConfig(environment: Environment): ParsedConfig {
  const result = v.safeParse(environmentSchema, environment);
  if (!result.success) return { ok: false, problems: describeIssues(result.issues) };
  const env = result.output;
  const problems: Issue[] = [];
  const storage =
    env.STORAGE === "embedded" ? ({ kind: "embedded" } as const) : upstashStorage(env, problems);
  if (env.ELEVENLABS_API_KEY === "") {
    const needing = [
      ...(env.ELEVENLABS_MONITOR === "off" ? [] : ["ELEVENLABS_MONITOR"]),
      ...(env.ELEVENLABS_AGENT_IDS.length === 0 ? [] : ["ELEVENLABS_AGENT_IDS"]),
    ];
    for (const name of needing)
      problems.push({ path: "ELEVENLABS_API_KEY", message: `is required for ${name}` });
  }
  const [signingSecret = null] = secretsOf(environment).sound.SIGNING_SECRET;
  const outbound = {
    runner: destinationOf("TOOL_RUNNER_URL", env, signingSecret, problems),
    events: destinationOf("EVENTS_URL", env, signingSecret, problems),
  };
  if (problems.length > 0 || storage === null) return { ok: false, problems };
  return {
    ok: true,
    config: {
      storage,
      featureEnabled: env.ELEVENLABS_AGENT_ENABLED,
      conversationTtlSeconds: env.CONVERSATION_TTL_SECONDS === 0 ? null : env.CONVERSATION_TTL_SECONDS,
      stateTtlSeconds: env.REDIS_CONVERSATION_TTL,
      useRedisSessions: env.USE_REDIS_SESSIONS,
      outageCopies: env.OUTAGE_COPIES,
      ...accessOf(environment),
      webhookRequiresSignature: env.WEBHOOK_REQUIRE_SIGNATURE,
      allowedOrigins: env.ALLOWED_ORIGINS,
      pushAllowedHosts: env.PUSH_ALLOWED_HOSTS,
      outbound,
      elevenLabs: {
        apiKey: env.ELEVENLABS_API_KEY,
        apiUrl: env.ELEVENLABS_API_URL,
        agentId: env.ELEVENLABS_AGENT_ID,
        agentIds: env.ELEVENLABS_AGENT_IDS,
        transcripts: env.ELEVENLABS_TRANSCRIPTS,
        monitor: env.ELEVENLABS_MONITOR,
      },
      providers: accountsOf(env),
    },
  };
}

/** The accounts whose key is there. */
function accountsOf(env: v.InferOutput<typeof environmentSchema>): Config["providers"] {
  const accounts = PROVIDER_NAMES.flatMap((name) => {
    const { account } = PROVIDERS[name];
    const [apiKey, apiUrl] = [env[`${account}_API_KEY`], env[`${account}_API_URL`]];
    return apiKey === "" ? [] : [[name, { apiKey, apiUrl }] as const];
  });
  return Object.fromEntries(accounts);
}

/** Where a variable says that messages go, and what signs them. Null where it is unset, or something is wrong. */
function destinationOf(
  path: "TOOL_RUNNER_URL" | "EVENTS_URL",
  env: v.InferOutput<typeof environmentSchema>,
  secret: string | null,
  problems: Issue[],
): Destination | null {
  const url = env[path];
  if (url === "") return null;
  const target = checkOutboundTarget(url, env.PUSH_ALLOWED_HOSTS);
  if (!target.ok)
    problems.push({ path, message: `must be the https URL of a public host: ${target.reason}` });
  if (secret === null) {
    const message = `is required for ${path}: whsec_ and the base64 of 24 to 64 bytes`;
    problems.push({ path: "SIGNING_SECRET", message });
  }
  return target.ok && secret !== null ? { url, secret } : null;
}

type RedisVariables = Pick<
  v.InferOutput<typeof environmentSchema>,
  | "UPSTASH_REDIS_REST_URL"
  | "UPSTASH_REDIS_REST_TOKEN"
  | "KV_REST_API_URL"
  | "KV_REST_API_TOKEN"
  | RedisAddressVariable
>;

/**
 * Finds the Upstash database: by its own variables, by those of Vercel's integration, or by the address of a
 * Redis. The first that are there decide.
 */
function upstashStorage(env: RedisVariables, problems: Issue[]): StorageConfig | null {
  const pairs = [
    ["UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"],
    ["KV_REST_API_URL", "KV_REST_API_TOKEN"],
  ] as const;
  for (const [urlName, tokenName] of pairs) {
    const [url, token] = [env[urlName], env[tokenName]];
    if (url === "" && token === "") continue;
    if (!isHttpUrl(url)) problems.push({ path: urlName, message: "must be an http(s) URL" });
    if (token === "") problems.push({ path: tokenName, message: "is required" });
    return problems.length > 0 ? null : { kind: "upstash", url, token };
  }
  const address = redisAddress(env);
  if (address !== null) {
    problems.push(...address.problems);
    if (address.problems.length > 0) return null;
    const credentials = upstashFromRedisUrl(address.url);
    if (credentials !== null && address.database === 0) return { kind: "upstash", ...credentials };
    problems.push(
      credentials !== null
        ? { path: "REDIS_DB", message: "must be 0: an Upstash database has no other" }
        : { path: address.variable, message: NOT_UPSTASH[address.variable] },
    );
    return null;
  }
  problems.push(
    { path: "UPSTASH_REDIS_REST_URL", message: 'is required unless STORAGE is "embedded"' },
    { path: "UPSTASH_REDIS_REST_TOKEN", message: 'is required unless STORAGE is "embedded"' },
  );
  return null;
}

const REACHED_HOW =
  "a deployed Worker reaches Redis over HTTP only, so any other Redis needs the local gateway of `npm start`";
const NOT_UPSTASH = {
  REDIS_URL: `must be an Upstash address (rediss://default:TOKEN@host.upstash.io:6379); ${REACHED_HOW}`,
  REDIS_HOST: `must be the host of an Upstash database (….upstash.io), with REDIS_PASSWORD its token; ${REACHED_HOW}`,
} as const;

type RedisAddressVariable = "REDIS_URL" | "REDIS_HOST" | "REDIS_PORT" | "REDIS_PASSWORD" | "REDIS_DB";

export type RedisAddress = {
  /** `redis://` or `rediss://`, with password and database where there are any; "" where there are problems. */
  url: string;
  /** What names it. */
  variable: "REDIS_URL" | "REDIS_HOST";
  /** The number of REDIS_DB; 0 where a URL says it all. */
  database: number;
  problems: readonly Issue[];
};

/**
 * The address of a Redis: REDIS_URL, or else what REDIS_HOST, REDIS_PORT (6379), REDIS_PASSWORD and REDIS_DB
 * (0) say together. Null where none of them is set.
 */
export function redisAddress(
  env: { [name in RedisAddressVariable]?: string | undefined },
): RedisAddress | null {
  const { REDIS_URL = "", REDIS_HOST = "", REDIS_PORT = "", REDIS_PASSWORD = "", REDIS_DB = "" } = env;
  if (REDIS_URL !== "") return { url: REDIS_URL, variable: "REDIS_URL", database: 0, problems: [] };
  if (`${REDIS_HOST}${REDIS_PORT}${REDIS_PASSWORD}${REDIS_DB}` === "") return null;

  const problems: Issue[] = [];
  const host = REDIS_HOST.includes(":") ? `[${REDIS_HOST}]` : REDIS_HOST;
  if (!/^[\w.:[\]-]+$/.test(host) || !URL.canParse(`redis://${host}`)) {
    problems.push({
      path: "REDIS_HOST",
      message: "must be a host name or address, without scheme and port",
    });
  }
  const [port, database] = [Number(REDIS_PORT || "6379"), Number(REDIS_DB || "0")];
  if (!/^\d*$/.test(REDIS_PORT) || port < 1 || port > 65_535) {
    problems.push({ path: "REDIS_PORT", message: "must be a whole number from 1 to 65535" });
  }
  if (!/^\d{0,5}$/.test(REDIS_DB)) {
    problems.push({ path: "REDIS_DB", message: "must be the number of a database, such as 0" });
  }
  if (host.endsWith(".upstash.io") && REDIS_PASSWORD === "") {
    problems.push({ path: "REDIS_PASSWORD", message: "is required: it is the database's token" });
  }
  const credentials = REDIS_PASSWORD === "" ? "" : `:${encodeURIComponent(REDIS_PASSWORD.toWellFormed())}@`;
  const url = problems.length > 0 ? "" : `redis://${credentials}${host}:${port}/${database}`;
  return { url, variable: "REDIS_HOST", database, problems };
}

function isHttpUrl(url: string): boolean {
  return URL.canParse(url) && ["http:", "https:"].includes(new URL(url).protocol);
}

/**
 * The REST endpoint of an Upstash Redis URL: the same host over https, the password as the token (which
 * holds for the default user; upstash.com/docs/redis/features/restapi). null for any other address.
 */
export function upstashFromRedisUrl(redisUrl: string): UpstashCredentials | null {
  if (!URL.canParse(redisUrl)) return null;
  const { protocol, hostname, password } = new URL(redisUrl);
  if (!["redis:", "rediss:"].includes(protocol) || !hostname.endsWith(".upstash.io") || password === "")
    return null;
  try {
    return { url: `https://${hostname}`, token: decodeURIComponent(password) };
  } catch {
    return null;
  }
}
