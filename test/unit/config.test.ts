import { describe, expect, test } from "vitest";
import { type Environment, parseConfig, upstashFromRedisUrl } from "../../lib/config.ts";

const MINIMAL = { UPSTASH_REDIS_REST_URL: "https://db.upstash.io", UPSTASH_REDIS_REST_TOKEN: "t" };

function problemsOf(environment: Environment): string[] {
  const parsed = parseConfig(environment);
  return parsed.ok ? [] : parsed.problems.map(({ path }) => path);
}

function configOf(environment: Environment) {
  const parsed = parseConfig(environment);
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  return parsed.config;
}

test("the defaults are closed and off", () => {
  expect(configOf(MINIMAL)).toMatchObject({
    storage: { kind: "upstash", url: "https://db.upstash.io", token: "t" },
    featureEnabled: false,
    requireAuth: true,
    apiTokens: [],
    allowedOrigins: [],
    conversationTtlSeconds: 2_592_000,
    stateTtlSeconds: 3_600,
    elevenLabs: { monitor: false },
  });
  expect(configOf(MINIMAL).pushAllowedHosts.map(({ host }) => host)).toContain("api.elevenlabs.io");
});

test("0 keeps conversations for ever", () => {
  expect(configOf({ ...MINIMAL, CONVERSATION_TTL_SECONDS: "0" }).conversationTtlSeconds).toBeNull();
});

describe("the database", () => {
  test.each<[string, Environment, { url: string; token: string }]>([
    [
      "Vercel's names",
      { KV_REST_API_URL: "https://kv", KV_REST_API_TOKEN: "k" },
      { url: "https://kv", token: "k" },
    ],
    [
      "an Upstash Redis URL",
      { REDIS_URL: "rediss://default:T%2Fk@db.upstash.io:6379" },
      { url: "https://db.upstash.io", token: "T/k" },
    ],
  ])("is found by %s", (_name, environment, credentials) => {
    expect(configOf(environment).storage).toEqual({ kind: "upstash", ...credentials });
  });

  test.each([
    [{}, ["UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"]],
    [{ UPSTASH_REDIS_REST_URL: "https://x" }, ["UPSTASH_REDIS_REST_TOKEN"]],
    [{ UPSTASH_REDIS_REST_TOKEN: "t" }, ["UPSTASH_REDIS_REST_URL"]],
    [{ REDIS_URL: "redis://localhost:6379" }, ["REDIS_URL"]],
    [{ REDIS_URL: "rediss://default:t@db.upstash.io.evil.example" }, ["REDIS_URL"]],
  ])("%j misses %j", (environment, names) => {
    expect(problemsOf(environment)).toEqual(names);
  });

  test("is not needed for embedded storage", () => {
    expect(configOf({ STORAGE: "embedded" }).storage).toEqual({ kind: "embedded" });
  });

  test.each(["", "nonsense", "https://db.upstash.io", "rediss://db.upstash.io"])(
    "%j is no Upstash address",
    (url) => {
      expect(upstashFromRedisUrl(url)).toBeNull();
    },
  );
});

test.each<[keyof Environment, string]>([
  ["STORAGE", "disk"],
  ["ELEVENLABS_AGENT_ENABLED", "yes"],
  ["REQUIRE_AUTH", "0"],
  ["CONVERSATION_TTL_SECONDS", "-1"],
  ["CONVERSATION_TTL_SECONDS", "1.5"],
  ["CONVERSATION_TTL_SECONDS", "NaN"],
  ["REDIS_CONVERSATION_TTL", "0"],
  ["REDIS_CONVERSATION_TTL", "2592001"],
  ["REDIS_CONVERSATION_TTL", "1e3"],
  ["ALLOWED_ORIGINS", "https://app.example/path"],
  ["ALLOWED_ORIGINS", "*"],
  ["PUSH_ALLOWED_HOSTS", "https://app.example"],
  ["PUSH_ALLOWED_HOSTS", "169.254.169.254"],
])("%s=%s is a problem that names the variable", (name, value) => {
  expect(problemsOf({ ...MINIMAL, [name]: value })).toEqual([name]);
});

test("every problem is told at once, and no value is", () => {
  const parsed = parseConfig({ STORAGE: "s3cret", REQUIRE_AUTH: "s3cret", REDIS_CONVERSATION_TTL: "s3cret" });
  expect(parsed.ok).toBe(false);
  expect(
    problemsOf({ STORAGE: "s3cret", REQUIRE_AUTH: "s3cret", REDIS_CONVERSATION_TTL: "s3cret" }),
  ).toHaveLength(3);
  expect(JSON.stringify(parsed)).not.toContain("s3cret");
});

test("the monitor needs an API key", () => {
  expect(problemsOf({ ...MINIMAL, ELEVENLABS_MONITOR: "true" })).toEqual(["ELEVENLABS_API_KEY"]);
});
