/**
 * The configuration: one schema over the Worker's environment. Whatever is wrong with it is said at once,
 * in one list that names the variables and shows no value.
 */
import * as v from "valibot";
import type { Issue } from "./errors.ts";
import { describeIssues } from "./json.ts";
import { type AllowedHosts, ELEVENLABS_HOSTS, parseAllowedHosts } from "./push/push-target.ts";
import { parseSecretList } from "./secrets.ts";
import type { TtlSeconds } from "./storage/storage.ts";
import { isMalformedWebhookSecret } from "./webhook-signature.ts";

const DAY_SECONDS = 24 * 3600;
const MAX_STATE_TTL_SECONDS = 30 * DAY_SECONDS;

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

const secretList = v.pipe(text, v.transform(parseSecretList));

const originList = v.pipe(
  text,
  v.transform((value) =>
    value
      .split(",")
      .map((origin) => origin.trim())
      .filter((origin) => origin !== ""),
  ),
  v.check(
    (origins) => origins.every(isOrigin),
    "must be origins such as https://app.example, separated by commas",
  ),
);

function isOrigin(origin: string): boolean {
  return URL.canParse(origin) && new URL(origin).origin === origin;
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
  CONVERSATION_TTL_SECONDS: wholeSeconds(30 * DAY_SECONDS, 0, 10 * 365 * DAY_SECONDS),
  REDIS_CONVERSATION_TTL: wholeSeconds(3600, 1, MAX_STATE_TTL_SECONDS),
  REQUIRE_AUTH: flag(true),
  API_TOKEN: secretList,
  SESSION_TOKEN_SECRET: secretList,
  WEBHOOK_SECRET: secretList,
  ALLOWED_ORIGINS: originList,
  PUSH_ALLOWED_HOSTS: hostList,
  ELEVENLABS_API_KEY: text,
  ELEVENLABS_AGENT_ID: text,
  ELEVENLABS_MONITOR: flag(false),
});

/** The variables this product reads, by name. */
export type Environment = { [name in keyof typeof environmentSchema.entries]?: unknown };

export type UpstashCredentials = { url: string; token: string };

export type StorageConfig = { kind: "embedded" } | ({ kind: "upstash" } & UpstashCredentials);

export type Config = {
  storage: StorageConfig;
  featureEnabled: boolean;
  /** null keeps conversations for ever. */
  conversationTtlSeconds: TtlSeconds;
  stateTtlSeconds: number;
  requireAuth: boolean;
  apiTokens: readonly string[];
  sessionTokenSecrets: readonly string[];
  webhookSecrets: readonly string[];
  allowedOrigins: readonly string[];
  pushAllowedHosts: AllowedHosts;
  elevenLabs: { apiKey: string; agentId: string; monitor: boolean };
};

/** What opens `/config`, read by itself so that it can say what is wrong with the rest. */
export function operatorAccess({
  REQUIRE_AUTH,
  API_TOKEN,
}: Environment): Pick<Config, "requireAuth" | "apiTokens"> {
  return {
    requireAuth: REQUIRE_AUTH !== "false",
    apiTokens: typeof API_TOKEN === "string" ? parseSecretList(API_TOKEN) : [],
  };
}

/**
 * Everything that an operator should mend: what keeps the service from starting at all, secrets whose absence
 * closes routes, and secrets that cannot open what they seem to be for.
 */
export function configProblems(environment: Environment): readonly Issue[] {
  const parsed = parseConfig(environment);
  if (!parsed.ok) return parsed.problems;
  const { requireAuth, apiTokens, sessionTokenSecrets, webhookSecrets } = parsed.config;
  const problems: Issue[] = [];
  const secrets = {
    API_TOKEN: apiTokens,
    SESSION_TOKEN_SECRET: sessionTokenSecrets,
    WEBHOOK_SECRET: webhookSecrets,
  };
  for (const [path, list] of Object.entries(secrets)) {
    if (requireAuth && list.length === 0)
      problems.push({ path, message: "is missing, so what it protects is closed" });
  }
  if (webhookSecrets.some(isMalformedWebhookSecret)) {
    problems.push({
      path: "WEBHOOK_SECRET",
      message: "has an entry that begins with whsec_ but is not base64 after it",
    });
  }
  return problems;
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
  if (env.ELEVENLABS_MONITOR && env.ELEVENLABS_API_KEY === "") {
    problems.push({ path: "ELEVENLABS_API_KEY", message: "is required for ELEVENLABS_MONITOR" });
  }
  if (problems.length > 0 || storage === null) return { ok: false, problems };
  return {
    ok: true,
    config: {
      storage,
      featureEnabled: env.ELEVENLABS_AGENT_ENABLED,
      conversationTtlSeconds: env.CONVERSATION_TTL_SECONDS === 0 ? null : env.CONVERSATION_TTL_SECONDS,
      stateTtlSeconds: env.REDIS_CONVERSATION_TTL,
      requireAuth: env.REQUIRE_AUTH,
      apiTokens: env.API_TOKEN,
      sessionTokenSecrets: env.SESSION_TOKEN_SECRET,
      webhookSecrets: env.WEBHOOK_SECRET,
      allowedOrigins: env.ALLOWED_ORIGINS,
      pushAllowedHosts: env.PUSH_ALLOWED_HOSTS,
      elevenLabs: {
        apiKey: env.ELEVENLABS_API_KEY,
        agentId: env.ELEVENLABS_AGENT_ID,
        monitor: env.ELEVENLABS_MONITOR,
      },
    },
  };
}

type RedisVariables = Pick<
  v.InferOutput<typeof environmentSchema>,
  | "UPSTASH_REDIS_REST_URL"
  | "UPSTASH_REDIS_REST_TOKEN"
  | "KV_REST_API_URL"
  | "KV_REST_API_TOKEN"
  | "REDIS_URL"
>;

/** Finds the Upstash database: by its own variables, by those of Vercel's integration, or by a Redis URL. */
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
  if (env.REDIS_URL !== "") {
    const credentials = upstashFromRedisUrl(env.REDIS_URL);
    if (credentials !== null) return { kind: "upstash", ...credentials };
    problems.push({
      path: "REDIS_URL",
      message:
        "must be an Upstash address (rediss://default:TOKEN@host.upstash.io:6379); a Worker reaches Redis over HTTP only, so any other Redis needs the local gateway of `npm start`",
    });
    return null;
  }
  problems.push(
    { path: "UPSTASH_REDIS_REST_URL", message: 'is required unless STORAGE is "embedded"' },
    { path: "UPSTASH_REDIS_REST_TOKEN", message: 'is required unless STORAGE is "embedded"' },
  );
  return null;
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
  return { url: `https://${hostname}`, token: decodeURIComponent(password) };
}
