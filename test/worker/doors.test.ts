/** The doors, through the built Worker: who may register, who may call back, and what stays closed. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startAgent } from "../support/agent.ts";
import { elevenLabsHeaders, jwt, standardHeaders } from "../support/webhooks.ts";
import { LOCAL_BINDINGS, startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
const [API_TOKEN, OLD_API_TOKEN] = ["api-token-new", "api-token-old"];
const [TOKEN_SECRET, OLD_TOKEN_SECRET] = ["token-secret-new", "token-secret-old"];
const SHARED = "shared-webhook-secret";
const SIGNING = `whsec_${Buffer.from("a signing key of thirty-two bytes").toString("base64")}`;
const CLOSED = {
  ...LOCAL_BINDINGS,
  REQUIRE_AUTH: "true",
  API_TOKEN: `${API_TOKEN}, ${OLD_API_TOKEN}`,
  SESSION_TOKEN_SECRET: `${TOKEN_SECRET},${OLD_TOKEN_SECRET}`,
  WEBHOOK_SECRET: `${SHARED},${SIGNING}`,
  ALLOWED_ORIGINS: "https://app.example,https://other.example",
};

let worker: TestWorker;
beforeAll(async () => {
  worker = await startWorker(CLOSED);
});
afterAll(() => worker.close());

type Call = readonly [method: string, path: string, body?: object];

function send([method, path, body]: Call, headers: Record<string, string> = {}) {
  return worker.fetch(path, body === undefined ? { method, headers } : { method, headers, json: body });
}
const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

async function codeOf(response: Response): Promise<string | number> {
  const body = (await response.json()) as { code?: string };
  return body.code ?? response.status;
}

/** What a browser may do with the token of conversation `id`. */
const browserCalls = (id: string): Call[] => [
  ["POST", `${API}/${id}/session`, { transport: "webrtc" }],
  ["GET", `${API}/${id}/session`],
  ["POST", `${API}/${id}/message`, { role: "user", content: "hi" }],
  ["GET", `${API}/${id}`],
  ["DELETE", `${API}/${id}/session`],
];
/** What only a server may do. */
const serverCalls = (id: string): Call[] => [
  ["POST", `${API}/new`, {}],
  ["GET", `${API}/list`],
  ["POST", `${API}/${id}/token`],
  ["DELETE", `${API}/${id}`],
  ["PUT", `/state/api/${id}`, {}],
  ["GET", `/state/api/${id}`],
  ["POST", `/state/api/${id}/touch`],
  ["DELETE", `/state/api/${id}`],
  ["PUT", `/memory/api/${id}`, { domain: "general" }],
  ["PATCH", `/memory/api/${id}`, { city: "Oslo" }],
  ["GET", `/memory/api/${id}`],
  ["POST", `/memory/api/${id}/touch`],
  ["DELETE", `/memory/api/${id}`],
  ["GET", "/config"],
  ["GET", "/config/health"],
];

async function tokenOf(id: string): Promise<string> {
  const response = await send(["POST", `${API}/${id}/token`], bearer(API_TOKEN));
  expect(response.status).toBe(200);
  return ((await response.json()) as { token: string }).token;
}

describe("the API token", () => {
  test.each([API_TOKEN, OLD_API_TOKEN])("opens everything while it is listed: %s", async (token) => {
    for (const call of [...browserCalls("c1"), ...serverCalls("c1")]) {
      expect((await send(call, bearer(token))).status).toBeLessThan(300);
    }
  });

  test.each([
    ["no credential", {}],
    ["an empty one", bearer("")],
    ["another one", bearer("api-token-newer")],
    ["the beginning of it", bearer("api-token")],
    ["a secret of webhooks", bearer(SHARED)],
    ["the list as it is configured", bearer(CLOSED.API_TOKEN)],
    ["another scheme", { authorization: `Basic ${API_TOKEN}` }],
    ["ten kilobytes", bearer("x".repeat(10_000))],
  ])("%s is unauthorized everywhere", async (_name, headers) => {
    for (const call of [...browserCalls("c1"), ...serverCalls("c1")]) {
      const response = await send(call, headers as Record<string, string>);
      expect(response.status).toBe(401);
      expect(response.headers.get("www-authenticate")).toBe("Bearer");
      expect(await codeOf(response)).toBe("unauthorized");
    }
    expect(await worker.logged("auth.rejected")).toMatchObject({ level: "warn", code: "unauthorized" });
  });

  test("sent twice is no credential", async () => {
    const headers = new Headers(bearer(API_TOKEN));
    headers.append("authorization", `Bearer ${API_TOKEN}`);
    const response = await fetch(new URL(`${API}/list`, worker.url), { headers: [...headers] });
    expect(response.status).toBe(401);
  });
});

describe("the conversation token", () => {
  test("comes with a new conversation and says how long it holds", async () => {
    const response = await send(["POST", `${API}/new`, {}], bearer(API_TOKEN));
    const { conversationId, token, tokenExpiresAt } = (await response.json()) as Record<string, string>;
    const leftMs = Date.parse(tokenExpiresAt ?? "") - Date.now();
    expect(leftMs).toBeGreaterThan(3_590_000);
    expect(leftMs).toBeLessThanOrEqual(3_600_000);
    for (const call of browserCalls(conversationId ?? "")) {
      expect((await send(call, bearer(token ?? ""))).status).toBeLessThan(300);
    }
  });

  test("opens nothing but its own conversation's browser routes", async () => {
    const token = await tokenOf("mine");
    for (const call of [...browserCalls("yours"), ...serverCalls("mine").slice(0, -2)]) {
      const response = await send(call, bearer(token));
      expect(response.status).toBe(403);
      expect(await codeOf(response)).toBe("forbidden");
    }
    expect((await send(["GET", "/config"], bearer(token))).status).toBe(401);
    expect(
      (await send(["POST", "/callback", { requestId: "r", conversationId: "mine" }], bearer(token))).status,
    ).toBe(401);
  });

  const now = Math.floor(Date.now() / 1000);
  const claims = { iss: "edge-agent-sessions", aud: "conversation", sub: "c1", iat: now, exp: now + 60 };
  const HS256 = { alg: "HS256", typ: "JWT" };

  test("signed with a secret that is being rotated out still opens", async () => {
    expect(
      (await send(["GET", `${API}/c1/session`], bearer(jwt(HS256, claims, OLD_TOKEN_SECRET)))).status,
    ).not.toBe(401);
  });

  test.each([
    ["expired", jwt(HS256, { ...claims, exp: now - 1 }, TOKEN_SECRET)],
    ["without an expiry", jwt(HS256, { ...claims, exp: undefined }, TOKEN_SECRET)],
    ["of another issuer", jwt(HS256, { ...claims, iss: "elsewhere" }, TOKEN_SECRET)],
    ["signed with a secret rotated out", jwt(HS256, claims, "token-secret-ancient")],
    ["signed with the API token", jwt(HS256, claims, API_TOKEN)],
    ["that says alg:none", jwt({ alg: "none" }, claims, TOKEN_SECRET).replace(/[^.]*$/, "")],
    ["that says RS256", jwt({ alg: "RS256", typ: "JWT" }, claims, TOKEN_SECRET)],
    [
      "with tampered claims",
      jwt(HS256, claims, TOKEN_SECRET).replace(/\.(.)/, (_m, first) => `.${first === "e" ? "f" : "e"}`),
    ],
    ["of ten kilobytes", jwt(HS256, { ...claims, padding: "x".repeat(10_000) }, TOKEN_SECRET)],
    ["that is no token", "a.b.c"],
  ])("%s is unauthorized", async (_name, token) => {
    const response = await send(["GET", `${API}/c1/session`], bearer(token));
    expect(response.status).toBe(401);
    expect(await codeOf(response)).toBe("unauthorized");
  });
});

describe("a callback", () => {
  let requests = 0;
  const bodyOf = (conversationId = "hooks"): string => {
    requests += 1;
    return JSON.stringify({ requestId: `r${requests}`, conversationId, output: "ü" });
  };
  const deliver = (body: string, headers: Record<string, string>, path = "/callback") =>
    worker.fetch(path, { method: "POST", body, headers: { "content-type": "application/json", ...headers } });

  test.each<[string, (body: string) => Record<string, string>]>([
    ["a Standard Webhooks signature", (body) => standardHeaders(SIGNING, body)],
    [
      "one right signature among several",
      (body) => {
        const headers = standardHeaders(SIGNING, body);
        const right = headers["webhook-signature"] ?? "";
        return {
          ...headers,
          "webhook-signature": `v1a,xyz v1,${Buffer.alloc(32).toString("base64")} ${right}`,
        };
      },
    ],
    ["an ElevenLabs signature", (body) => elevenLabsHeaders(SHARED, body)],
    [
      "an ElevenLabs signature with a whsec_ secret as it is written",
      (body) => elevenLabsHeaders(SIGNING, body),
    ],
    [
      "an ElevenLabs signature 29 minutes old",
      (body) => elevenLabsHeaders(SHARED, body, Math.floor(Date.now() / 1000) - 29 * 60),
    ],
    ["the shared secret as bearer", () => bearer(SHARED)],
    ["the shared secret as X-EL-Secret", () => ({ "x-el-secret": SHARED })],
    ["the shared secret as X-Webhook-Secret", () => ({ "x-webhook-secret": SIGNING })],
  ])("with %s is taken", async (_name, headersOf) => {
    for (const path of ["/callback", `${API}/hooks/callback`]) {
      const body = bodyOf();
      expect((await deliver(body, headersOf(body), path)).status).toBe(202);
    }
  });

  const late = () => Math.floor(Date.now() / 1000) - 301;
  test.each<[string, (body: string) => Record<string, string>]>([
    ["no credential at all", () => ({})],
    ["a wrong shared secret", () => ({ "x-webhook-secret": "wrong" })],
    ["an empty shared secret", () => ({ "x-webhook-secret": "" })],
    ["the API token", () => bearer(API_TOKEN)],
    ["a signature over another body", (body) => standardHeaders(SIGNING, `${body} `)],
    ["a signature over another id", (body) => ({ ...standardHeaders(SIGNING, body), "webhook-id": "msg_2" })],
    ["an old signature", (body) => standardHeaders(SIGNING, body, { timestamp: late() })],
    ["a signature of the future", (body) => standardHeaders(SIGNING, body, { timestamp: late() + 602 })],
    [
      "junk behind the timestamp",
      (body) => standardHeaders(SIGNING, body, { timestamp: `${Math.floor(Date.now() / 1000)}x` }),
    ],
    [
      "a truncated signature",
      (body) => {
        const headers = standardHeaders(SIGNING, body);
        return { ...headers, "webhook-signature": headers["webhook-signature"]?.slice(0, -4) ?? "" };
      },
    ],
    [
      "a signature by a secret rotated out",
      (body) => standardHeaders(`whsec_${Buffer.alloc(32, 7).toString("base64")}`, body),
    ],
    [
      "no webhook-id",
      (body) => {
        const { "webhook-id": _, ...headers } = standardHeaders(SIGNING, body);
        return headers;
      },
    ],
    [
      "a bad signature beside a good shared secret",
      (body) => ({ ...standardHeaders(SIGNING, `${body} `), ...bearer(SHARED) }),
    ],
    [
      "a bad ElevenLabs signature beside a good shared secret",
      (body) => ({ ...elevenLabsHeaders("wrong", body), "x-el-secret": SHARED }),
    ],
    ["an ElevenLabs signature over another body", (body) => elevenLabsHeaders(SHARED, `${body} `)],
    [
      "an ElevenLabs signature 31 minutes old",
      (body) => elevenLabsHeaders(SHARED, body, Math.floor(Date.now() / 1000) - 31 * 60),
    ],
    ["a shared secret sent twice", () => ({ "x-webhook-secret": `${SHARED}, ${SHARED}` })],
  ])("with %s is unauthorized, and nothing is kept", async (_name, headersOf) => {
    const id = `closed-${requests}`;
    const body = bodyOf(id);
    const response = await deliver(body, headersOf(body));
    expect(response.status).toBe(401);
    expect(await codeOf(response)).toBe("unauthorized");
    expect((await send(["GET", `${API}/${id}`], bearer(API_TOKEN))).status).toBe(404);
  });

  test("is verified before it is parsed", async () => {
    expect((await deliver("{not json", {})).status).toBe(401);
    expect((await deliver("{not json", standardHeaders(SIGNING, "{not json"))).status).toBe(400);
  });

  test("replayed with its good signature is a duplicate and is not pushed again", async () => {
    const agent = await startAgent();
    await send(["POST", `${API}/replay/session`, { sessionUrl: agent.url }], bearer(API_TOKEN));
    const body = bodyOf("replay");
    const headers = standardHeaders(SIGNING, body);
    expect(await (await deliver(body, headers)).json()).toMatchObject({ status: "delivered" });
    for (let i = 0; i < 3; i++) {
      expect(await (await deliver(body, headers)).json()).toMatchObject({ status: "duplicate" });
    }
    expect(agent.frames).toHaveLength(1);
    await agent.close();
  });
});

describe("what is not configured is closed", () => {
  const cases: [string, Call[], Record<string, string>][] = [
    ["API_TOKEN", serverCalls("c1"), {}],
    ["API_TOKEN", browserCalls("c1"), {}],
    ["SESSION_TOKEN_SECRET", browserCalls("c1"), {}],
    ["SESSION_TOKEN_SECRET", [["POST", `${API}/c1/token`]], bearer(API_TOKEN)],
    [
      "WEBHOOK_SECRET",
      [["POST", "/callback", { requestId: "r", conversationId: "c1" }]],
      { "x-webhook-secret": "" },
    ],
    ["WEBHOOK_SECRET", [["POST", `${API}/c1/callback`, { requestId: "r" }]], bearer(API_TOKEN)],
  ];
  test.each(cases)("without %s its routes are misconfigured", async (name, calls, headers) => {
    const { [name as keyof typeof CLOSED]: _, ...bindings } = CLOSED;
    const closed = await startWorker(bindings);
    try {
      for (const [method, path, body] of calls) {
        const response = await closed.fetch(path, { method, headers, ...(body ? { json: body } : {}) });
        expect(response.status).toBe(503);
        expect(await response.json()).toMatchObject({
          code: "misconfigured",
          detail: expect.stringContaining(name),
        });
      }
    } finally {
      await closed.close();
    }
  });

  test("/config/health names what is missing or malformed, and no value", async () => {
    const closed = await startWorker({
      ...CLOSED,
      SESSION_TOKEN_SECRET: "",
      WEBHOOK_SECRET: "whsec_!s3cret",
    });
    const broken = await startWorker({ ...CLOSED, STORAGE: "s3cret", REDIS_CONVERSATION_TTL: "s3cret" });
    try {
      const health = await closed.fetch("/config/health", { headers: bearer(API_TOKEN) });
      expect(health.status).toBe(503);
      expect(await health.json()).toEqual({
        status: "misconfigured",
        problems: [
          { variable: "SESSION_TOKEN_SECRET", message: expect.any(String) },
          { variable: "WEBHOOK_SECRET", message: expect.stringContaining("whsec_") },
        ],
      });
      const text = await (await broken.fetch("/config/health", { headers: bearer(API_TOKEN) })).text();
      expect(text).toContain("STORAGE");
      expect(text).toContain("REDIS_CONVERSATION_TTL");
      expect(text).not.toContain("s3cret");
    } finally {
      await Promise.all([closed.close(), broken.close()]);
    }
  });

  test("a complete configuration says so, and what is on", async () => {
    const health = await send(["GET", "/config/health"], bearer(API_TOKEN));
    expect(health.status).toBe(200);
    expect(await (await send(["GET", "/config"], bearer(API_TOKEN))).json()).toEqual({
      version: expect.stringMatching(/^\d+\.\d+\.\d+$/),
      features: { agent: true, auth: true, monitor: false, rateLimits: false },
      storage: "embedded",
      channels: ["socket"],
      ttlSeconds: { session: 600, conversation: 2_592_000, state: 3_600 },
      problems: [],
    });
  });
});

describe("browsers", () => {
  const preflight = (origin: string, path = `${API}/c1/session`) =>
    worker.fetch(path, {
      method: "OPTIONS",
      headers: {
        origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
      },
    });

  test("of an allowed origin may ask, without a credential, for what their code sends", async () => {
    const response = await preflight("https://app.example");
    expect(response.status).toBe(204);
    expect(response.headers.get("access-control-allow-origin")).toBe("https://app.example");
    expect(response.headers.get("access-control-allow-headers")).toMatch(/authorization.*content-type/i);
    expect(response.headers.get("access-control-allow-methods")?.split(",")).toEqual(
      expect.arrayContaining(["GET", "POST", "PUT", "PATCH", "DELETE"]),
    );
    expect(response.headers.get("vary")).toMatch(/origin/i);
    expect(response.headers.get("access-control-allow-credentials")).toBeNull();
  });

  test("of an allowed origin may read errors too", async () => {
    const response = await worker.fetch(`${API}/c1/session`, {
      headers: { origin: "https://other.example" },
    });
    expect(response.status).toBe(401);
    expect(response.headers.get("access-control-allow-origin")).toBe("https://other.example");
    expect(response.headers.get("access-control-expose-headers")).toContain("x-request-id");
  });

  test.each([
    "null",
    "https://evil.example",
    "https://app.example.evil.example",
    "http://app.example",
    "https://APP.example",
  ])("of origin %s are told nothing", async (origin) => {
    for (const response of [
      await preflight(origin),
      await worker.fetch(`${API}/list`, { headers: { origin } }),
    ]) {
      expect(response.headers.get("access-control-allow-origin")).toBeNull();
    }
  });

  test("never keep an answer, and never guess its type", async () => {
    for (const [call, headers] of [
      [["GET", `${API}/list`], bearer(API_TOKEN)],
      [["GET", `${API}/c1`], {}],
      [["GET", "/nothing"], {}],
    ] as [Call, Record<string, string>][]) {
      const response = await send(call, headers);
      expect(response.headers.get("cache-control")).toBe("no-store");
      expect(response.headers.get("x-content-type-options")).toBe("nosniff");
      expect(response.headers.get("strict-transport-security")).not.toBeNull();
    }
  });
});

describe("limits", () => {
  test("one conversation, or one client, that asks too often is rate_limited and told when to come again", async () => {
    const limited = await startWorker(LOCAL_BINDINGS, {
      rateLimits: {
        CLIENT_RATE_LIMIT: { namespace_id: "1", simple: { limit: 8, period: 60 } },
        CONVERSATION_RATE_LIMIT: { namespace_id: "2", simple: { limit: 3, period: 60 } },
      },
    });
    const register = (id: string) => limited.fetch(`${API}/${id}/session`, { json: { transport: "webrtc" } });
    try {
      const sameConversation: number[] = [];
      for (let i = 0; i < 4; i++) sameConversation.push((await register("busy")).status);
      expect(sameConversation).toEqual([200, 200, 200, 429]);

      const sameClient: Response[] = [];
      for (let i = 0; i < 6; i++) sameClient.push(await register(`quiet-${i}`));
      expect(sameClient.map(({ status }) => status)).toEqual([200, 200, 200, 200, 429, 429]);
      expect(sameClient.at(-1)?.headers.get("retry-after")).toBe("60");
      expect(await sameClient.at(-1)?.json()).toMatchObject({ code: "rate_limited" });
      expect(
        (await limited.fetch("/callback", { json: { requestId: "r", conversationId: "c" } })).status,
      ).toBe(429);
      expect((await limited.fetch(`${API}/c/token`, { method: "POST" })).status).toBe(429);
      expect((await limited.fetch(`${API}/busy/session`)).status).toBe(200);
    } finally {
      await limited.close();
    }
  });
});
