import { describe, expect, test } from "vitest";
import {
  accessOf,
  configProblems,
  type Environment,
  parseConfig,
  redisAddress,
  upstashFromRedisUrl,
} from "../../lib/config.ts";
import { API_TOKEN, CLOSED_DOORS, OUTBOUND_SECRET, SIGNING_SECRET } from "../support/secrets.ts";

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
    useRedisSessions: true,
    webhookRequiresSignature: false,
    outbound: { runner: null, events: null },
    elevenLabs: {
      monitor: "off",
      apiUrl: "https://api.elevenlabs.io",
      agentIds: [],
      transcripts: false,
    },
  });
  expect(configOf(MINIMAL).pushAllowedHosts.map(({ host }) => host)).toContain("api.elevenlabs.io");
});

test("0 keeps conversations for ever", () => {
  expect(configOf({ ...MINIMAL, CONVERSATION_TTL_SECONDS: "0" }).conversationTtlSeconds).toBeNull();
});

describe("an account with a provider", () => {
  test("is there with its key, for each of its channels, at its own origin or at another", () => {
    expect(configOf(MINIMAL).providers).toEqual({});
    expect(
      configOf({
        ...MINIMAL,
        OPENAI_API_KEY: "k",
        RETELL_API_KEY: "r",
        RETELL_API_URL: "http://127.0.0.1:1/",
      }).providers,
    ).toEqual({
      "openai-live": { apiKey: "k", apiUrl: "https://api.openai.com" },
      "openai-realtime": { apiKey: "k", apiUrl: "https://api.openai.com" },
      retell: { apiKey: "r", apiUrl: "http://127.0.0.1:1" },
    });
  });

  test.each([
    "http://api.telnyx.com",
    "https://api.telnyx.com/v2",
    "https://a:b@api.telnyx.com",
    "api.telnyx.com",
  ])("is not at %s", (url) => {
    expect(problemsOf({ ...MINIMAL, TELNYX_API_KEY: "k", TELNYX_API_URL: url })).toEqual(["TELNYX_API_URL"]);
  });

  test("has a key that is no secret of our own", () => {
    const environment = { ...MINIMAL, ...CLOSED_DOORS, TELNYX_API_KEY: API_TOKEN };
    expect(configProblems(environment)).toContainEqual(expect.objectContaining({ path: "API_TOKEN" }));
  });
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
    [
      "the host and password of an Upstash database",
      { REDIS_HOST: "db.upstash.io", REDIS_PORT: "6379", REDIS_PASSWORD: "T/k%@:", REDIS_DB: "0" },
      { url: "https://db.upstash.io", token: "T/k%@:" },
    ],
    [
      "a URL rather than a host",
      { REDIS_URL: "rediss://default:t@db.upstash.io:6379", REDIS_HOST: "localhost" },
      { url: "https://db.upstash.io", token: "t" },
    ],
    [
      "Upstash's own names rather than a URL or a host",
      { ...MINIMAL, REDIS_URL: "redis://localhost", REDIS_HOST: "localhost", REDIS_PORT: "x" },
      { url: "https://db.upstash.io", token: "t" },
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
    [{ REDIS_URL: "rediss://default:%zz@db.upstash.io" }, ["REDIS_URL"]],
    [{ REDIS_HOST: "localhost", REDIS_PASSWORD: "t" }, ["REDIS_HOST"]],
    [{ REDIS_HOST: "db.upstash.io.evil.example", REDIS_PASSWORD: "t" }, ["REDIS_HOST"]],
    [{ REDIS_HOST: "redis://localhost:6379" }, ["REDIS_HOST"]],
    [{ REDIS_HOST: "localhost:6379" }, ["REDIS_HOST"]],
    [{ REDIS_HOST: "evil.example/.upstash.io", REDIS_PASSWORD: "t" }, ["REDIS_HOST"]],
    [{ REDIS_HOST: "user@db.upstash.io", REDIS_PASSWORD: "t" }, ["REDIS_HOST"]],
    [{ REDIS_HOST: "db.upstash.io" }, ["REDIS_PASSWORD"]],
    [{ REDIS_HOST: "db.upstash.io", REDIS_PASSWORD: "t", REDIS_DB: "1" }, ["REDIS_DB"]],
    [{ REDIS_PASSWORD: "t" }, ["REDIS_HOST"]],
    [{ REDIS_HOST: "localhost", REDIS_PORT: "0", REDIS_DB: "first" }, ["REDIS_PORT", "REDIS_DB"]],
    [{ REDIS_HOST: "localhost", REDIS_PORT: "tcp://10.0.0.1:6379" }, ["REDIS_PORT"]],
    [{ REDIS_HOST: "localhost", REDIS_PORT: "65536", REDIS_DB: "-1" }, ["REDIS_PORT", "REDIS_DB"]],
  ])("%j misses %j", (environment, names) => {
    expect(problemsOf(environment)).toEqual(names);
  });

  test.each([
    ["REDIS_URL", { REDIS_URL: "redis://:s3cret@10.0.0.5:6379" }],
    ["REDIS_HOST", { REDIS_HOST: "10.0.0.5", REDIS_PASSWORD: "s3cret" }],
  ])("that is not Upstash's cannot be reached by a deployed Worker, says the problem with %s", (_, own) => {
    const parsed = parseConfig(own);
    expect(JSON.stringify(parsed)).toMatch(/deployed Worker .*HTTP only.*`npm start`/);
    expect(JSON.stringify(parsed)).not.toMatch(/s3cret|10\.0\.0\.5/);
  });

  test.each([
    [{ REDIS_HOST: "localhost" }, "redis://localhost:6379/0"],
    [{ REDIS_HOST: "::1", REDIS_PORT: "7000", REDIS_DB: "3" }, "redis://[::1]:7000/3"],
    [{ REDIS_HOST: "cache", REDIS_PASSWORD: "a@b/c%" }, "redis://:a%40b%2Fc%25@cache:6379/0"],
    [{ REDIS_URL: "redis://other", REDIS_HOST: "cache" }, "redis://other"],
  ])("%j is the address %s", (environment, url) => {
    expect(redisAddress(environment)).toMatchObject({ url, problems: [] });
  });

  test("has no address where nothing names one", () => {
    expect(redisAddress({ REDIS_URL: "", REDIS_HOST: "" })).toBeNull();
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
  ["REDIS_CONVERSATION_TTL", "-3600"],
  ["REDIS_CONVERSATION_TTL", "0.5"],
  ["REDIS_CONVERSATION_TTL", "NaN"],
  ["USE_REDIS_SESSIONS", "no"],
  ["WEBHOOK_REQUIRE_SIGNATURE", "yes"],
  ["ELEVENLABS_API_URL", "http://api.elevenlabs.io"],
  ["ELEVENLABS_API_URL", "https://api.elevenlabs.io/v1"],
  ["ELEVENLABS_API_URL", "https://user:password@api.elevenlabs.io"],
  ["ELEVENLABS_API_URL", "api.elevenlabs.io"],
  ["ELEVENLABS_AGENT_IDS", "agent one"],
  ["ELEVENLABS_AGENT_IDS", "agent_1;agent_2"],
  ["ELEVENLABS_TRANSCRIPTS", "yes"],
  ["PUSH_ALLOWED_HOSTS", "*.github.io"],
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

test("every time to live that cannot be is named in the same error", () => {
  for (const ttl of ["-1", "1.5", "NaN", "99999999999"]) {
    expect(problemsOf({ ...MINIMAL, CONVERSATION_TTL_SECONDS: ttl, REDIS_CONVERSATION_TTL: ttl })).toEqual([
      "CONVERSATION_TTL_SECONDS",
      "REDIS_CONVERSATION_TTL",
    ]);
  }
});

test("the assistant's memory may be kept by each isolate", () => {
  expect(configOf({ ...MINIMAL, USE_REDIS_SESSIONS: "false" }).useRedisSessions).toBe(false);
});

test.each<keyof Environment>(["ELEVENLABS_MONITOR", "ELEVENLABS_AGENT_IDS"])(
  "%s needs an API key",
  (name) => {
    expect(problemsOf({ ...MINIMAL, [name]: "true" })).toEqual(["ELEVENLABS_API_KEY"]);
    expect(problemsOf({ ...MINIMAL, [name]: "true", ELEVENLABS_API_KEY: "k" })).toEqual([]);
  },
);

test("the agents that pages may start are listed", () => {
  const environment = {
    ...MINIMAL,
    ELEVENLABS_AGENT_IDS: " agent_1,, J3Pbu5gP6NNKBscdCdwB ,",
    ELEVENLABS_API_KEY: "k",
  };
  expect(configOf(environment).elevenLabs.agentIds).toEqual(["agent_1", "J3Pbu5gP6NNKBscdCdwB"]);
});

test.each(["https://api.eu.residency.elevenlabs.io", "https://api.elevenlabs.io/", "http://127.0.0.1:8080"])(
  "the API may be at %s",
  (url) => {
    const { elevenLabs } = configOf({ ...MINIMAL, ELEVENLABS_API_URL: url });
    expect(elevenLabs.apiUrl).toBe(url.replace(/\/$/, ""));
  },
);

describe("where signed messages go", () => {
  const URLS = { TOOL_RUNNER_URL: "https://run.example:8443/t", EVENTS_URL: "https://events.example/?to=a" };

  test("is each their own URL, with the first secret", () => {
    const older = `whsec_${Buffer.alloc(32, 9).toString("base64")}`;
    const { outbound } = configOf({ ...MINIMAL, ...URLS, SIGNING_SECRET: `${OUTBOUND_SECRET},${older}` });
    expect(outbound).toEqual({
      runner: { url: URLS.TOOL_RUNNER_URL, secret: OUTBOUND_SECRET },
      events: { url: URLS.EVENTS_URL, secret: OUTBOUND_SECRET },
    });
  });

  test.each<Environment>([{}, { SIGNING_SECRET: "no-key-0123456789abcdef0123456789abcdef" }])(
    "needs a secret that is sound: %j",
    (secret) => {
      expect(problemsOf({ ...MINIMAL, ...URLS, ...secret })).toEqual(["SIGNING_SECRET", "SIGNING_SECRET"]);
      expect(problemsOf({ ...MINIMAL, ...secret })).toEqual([]);
    },
  );

  test("is signed with a secret that is used for nothing else", () => {
    const environment = { ...MINIMAL, ...CLOSED_DOORS, ...URLS, SIGNING_SECRET };
    expect(configProblems(environment).map(({ path }) => path)).toEqual([
      ...["SIGNING_SECRET", "SIGNING_SECRET"],
      ...["WEBHOOK_SECRET", "SIGNING_SECRET"],
    ]);
    expect(accessOf(environment).webhookSecrets).not.toContain(SIGNING_SECRET);
  });

  test.each([
    ["http://events.example/", "scheme_not_allowed"],
    ["https://10.0.0.5/s3cret", "private_address"],
    ["https://169.254.169.254/s3cret", "metadata_address"],
    ["https://user:s3cret@events.example/", "userinfo"],
    ["https://localhost/s3cret", "private_name"],
    ["s3cret", "not_absolute"],
  ])("is not %s: %s", (url, reason) => {
    for (const path of ["TOOL_RUNNER_URL", "EVENTS_URL"] as const) {
      const parsed = parseConfig({ ...MINIMAL, [path]: url, SIGNING_SECRET: OUTBOUND_SECRET });
      expect(parsed).toMatchObject({
        ok: false,
        problems: [{ path, message: expect.stringContaining(reason) }],
      });
      expect(JSON.stringify(parsed)).not.toContain("s3cret");
    }
  });

  test("is this machine only where that is listed", () => {
    const environment = { ...MINIMAL, EVENTS_URL: "http://127.0.0.1:9000/", SIGNING_SECRET: OUTBOUND_SECRET };
    expect(problemsOf(environment)).toEqual(["EVENTS_URL"]);
    const { outbound } = configOf({ ...environment, PUSH_ALLOWED_HOSTS: "127.0.0.1" });
    expect(outbound.events?.url).toBe("http://127.0.0.1:9000/");
  });
});

describe("the doors", () => {
  const CLOSED = { ...MINIMAL, ...CLOSED_DOORS };
  const problemsOfDoors = (environment: Environment) => configProblems(environment).map(({ path }) => path);

  test("that are closed well are no problem", () => {
    expect(configProblems(CLOSED)).toEqual([]);
  });

  test("that are closed for want of a secret are a problem, each by its name", () => {
    expect(problemsOfDoors(MINIMAL)).toEqual(["API_TOKEN", "SESSION_TOKEN_SECRET", "WEBHOOK_SECRET"]);
  });

  test("that stand open are a problem", () => {
    expect(problemsOfDoors({ ...CLOSED, REQUIRE_AUTH: "false" })).toEqual(["REQUIRE_AUTH"]);
    expect(accessOf({ REQUIRE_AUTH: " false " }).requireAuth).toBe(false);
    expect(accessOf({ REQUIRE_AUTH: "maybe" }).requireAuth).toBe(true);
  });

  test("open to no weak secret, and say which variable holds one, and no value", () => {
    const environment = { ...CLOSED, API_TOKEN: "s3cret", SESSION_TOKEN_SECRET: "s3cret, s3cret2" };
    expect(problemsOfDoors(environment)).toEqual([
      "API_TOKEN",
      "SESSION_TOKEN_SECRET",
      "SESSION_TOKEN_SECRET",
    ]);
    expect(configOf(environment)).toMatchObject({ apiTokens: [], sessionTokenSecrets: [] });
    expect(accessOf(environment)).toMatchObject({ apiTokens: [], sessionTokenSecrets: [] });
    expect(JSON.stringify(configProblems(environment))).not.toContain("s3cret");
  });

  test.each<keyof Environment>(["UPSTASH_REDIS_REST_TOKEN", "ELEVENLABS_API_KEY"])(
    "open to no secret that is also %s",
    (name) => {
      expect(problemsOfDoors({ ...CLOSED, [name]: API_TOKEN })).toEqual(["API_TOKEN"]);
    },
  );
});
