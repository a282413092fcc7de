/** The doors, through the built Worker: who may register, who may call back, and what stays closed. */
import { createServer, request } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { startAgent } from "../support/agent.ts";
import {
  API_TOKEN,
  CLOSED_DOORS,
  OLD_API_TOKEN,
  OLD_TOKEN_SECRET,
  SHARED_SECRET as SHARED,
  SIGNING_SECRET as SIGNING,
  TOKEN_SECRET,
} from "../support/secrets.ts";
import { elevenLabsHeaders, jwt, standardHeaders } from "../support/webhooks.ts";
import { LOCAL_BINDINGS, startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
const CLOSED = {
  ...LOCAL_BINDINGS,
  ...CLOSED_DOORS,
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
    // Each token has a conversation of its own: the last call deletes it.
    const id = token === API_TOKEN ? "opened-new" : "opened-old";
    for (const call of [...browserCalls(id), ...serverCalls(id)]) {
      expect((await send(call, bearer(token))).status).toBeLessThan(300);
    }
  });

  test.each([
    ["no credential", {}],
    ["an empty one", bearer("")],
    ["another one", bearer(`${API_TOKEN}er`)],
    ["the beginning of it", bearer(API_TOKEN.slice(0, -1))],
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
    const response = await worker.fetch(`${API}/list`, { headers: [...headers] });
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
    for (const call of [...browserCalls("yours"), ...serverCalls("mine")]) {
      const response = await send(call, bearer(token));
      expect(response.status).toBe(403);
      expect(await codeOf(response)).toBe("forbidden");
    }
    expect(
      (await send(["POST", "/callback", { requestId: "r", conversationId: "mine" }], bearer(token))).status,
    ).toBe(401);
  });

  test("writes what the user and the agent said, and nothing else", async () => {
    const token = await tokenOf("written");
    const write = (message: object, credential = token) =>
      send(["POST", `${API}/written/message`, { content: "x", ...message }], bearer(credential));
    for (const role of ["system", "tool", "assistant"]) {
      expect(await codeOf(await write({ role }))).toBe("forbidden");
    }
    expect(await codeOf(await write({ role: "user", id: "elevenlabs:conv_1:0" }))).toBe("forbidden");
    const forged = { source: "callback", toolName: "t", toolOutput: 1, status: "completed" };
    for (const role of ["user", "agent"]) {
      const { message } = (await (await write({ role, ...forged })).json()) as { message: object };
      expect(message).toEqual({
        id: expect.any(String),
        role,
        content: "x",
        source: "page",
        timestamp: expect.any(String),
      });
    }
    const { message } = (await (await write({ role: "system", ...forged }, API_TOKEN)).json()) as {
      message: object;
    };
    expect(message).toMatchObject({ role: "system", ...forged });
  });

  test("of a deleted conversation brings nothing back", async () => {
    const token = await tokenOf("deleted");
    for (const call of browserCalls("deleted").slice(0, 3)) await send(call, bearer(token));
    await send(["PUT", "/state/api/deleted", { step: 1 }], bearer(API_TOKEN));
    expect(await (await send(["DELETE", `${API}/deleted`], bearer(API_TOKEN))).json()).toEqual({
      success: true,
      deleted: true,
    });
    for (const call of [
      ["POST", `${API}/deleted/message`, { role: "user", content: "still here" }],
      ["POST", `${API}/deleted/session`, { transport: "webrtc" }],
    ] as const) {
      const response = await send(call, bearer(token));
      expect([response.status, await codeOf(response)]).toEqual([410, "conversation_deleted"]);
    }
    expect((await send(["GET", `${API}/deleted`], bearer(token))).status).toBe(404);
    expect((await send(["GET", `${API}/deleted/session`], bearer(token))).status).toBe(404);
    expect((await send(["GET", "/state/api/deleted"], bearer(API_TOKEN))).status).toBe(200);
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
    ["signed with a secret rotated out", jwt(HS256, claims, "a-token-secret-that-is-listed-nowhere")],
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

test("deleting everything deletes the state and the memory too", async () => {
  const server = bearer(API_TOKEN);
  for (const call of [
    ["POST", `${API}/all/message`, { role: "user", content: "hi" }],
    ["PUT", "/state/api/all", { step: 1 }],
    ["PUT", "/memory/api/all", { domain: "general" }],
  ] as const) {
    await send(call, server);
  }
  expect((await send(["DELETE", `${API}/all?everything=yes`], server)).status).toBe(400);
  expect(await (await send(["DELETE", `${API}/all?everything=true`], server)).json()).toEqual({
    success: true,
    deleted: true,
  });
  for (const path of [`${API}/all`, "/state/api/all", "/memory/api/all"]) {
    expect((await send(["GET", path], server)).status).toBe(404);
  }
  expect(await (await send(["DELETE", `${API}/all?everything=true`], server)).json()).toMatchObject({
    deleted: false,
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

  test("whose id has dots is taken", async () => {
    for (const id of ["evt.42", "msg.1764000000"]) {
      const body = bodyOf();
      expect((await deliver(body, standardHeaders(SIGNING, body, { id }))).status).toBe(202);
    }
  });

  test("that is signed must name its conversation itself, wherever it is sent", async () => {
    for (const sign of [
      (body: string) => standardHeaders(SIGNING, body),
      (body: string) => elevenLabsHeaders(SHARED, body),
    ]) {
      const body = JSON.stringify({ requestId: "unbound", output: "x" });
      const response = await deliver(body, sign(body), `${API}/any/callback`);
      expect(response.status).toBe(400);
      expect(await response.json()).toMatchObject({
        code: "invalid_request",
        errors: [{ path: "conversationId" }],
      });
      const elsewhere = bodyOf("another");
      expect((await deliver(elsewhere, sign(elsewhere), `${API}/any/callback`)).status).toBe(400);
    }
    const body = JSON.stringify({ requestId: "unbound", output: "x" });
    expect((await deliver(body, bearer(SHARED), `${API}/any/callback`)).status).toBe(202);
  });

  test("that is compressed is unsupported_media_type, whatever its credential", async () => {
    const body = bodyOf();
    for (const headers of [bearer(SHARED), standardHeaders(SIGNING, body), elevenLabsHeaders(SHARED, body)]) {
      const response = await deliver(body, { ...headers, "content-encoding": "gzip" });
      expect([response.status, response.headers.get("accept-encoding")]).toEqual([415, "identity"]);
      expect(await response.json()).toMatchObject({
        code: "unsupported_media_type",
        detail: expect.stringContaining("Content-Encoding"),
      });
    }
    expect((await deliver(body, { ...bearer(SHARED), "content-encoding": "identity" })).status).toBe(202);
  });

  test("must be signed where that is required, and then the shared secret opens nothing", async () => {
    const strict = await startWorker({ ...CLOSED, WEBHOOK_REQUIRE_SIGNATURE: "true" });
    try {
      const body = bodyOf();
      const statusWith = async (own: Record<string, string>) => {
        const headers = { "content-type": "application/json", ...own };
        return (await strict.fetch("/callback", { method: "POST", body, headers })).status;
      };
      expect(await statusWith(bearer(SHARED))).toBe(401);
      expect(await statusWith({ "x-el-secret": SHARED })).toBe(401);
      expect(await statusWith({ "x-webhook-secret": SIGNING })).toBe(401);
      expect(await statusWith(standardHeaders(SIGNING, body))).toBe(202);
      expect(await strict.logged("auth.rejected")).toMatchObject({ reason: "signature_required" });
    } finally {
      await strict.close();
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

  test.each<[string, string, Call, string]>([
    ["API_TOKEN", "a", ["GET", `${API}/list`], "a"],
    ["API_TOKEN", "x".repeat(31), ["GET", `${API}/list`], "x".repeat(31)],
    ["API_TOKEN", SHARED, ["GET", `${API}/list`], SHARED],
    ["WEBHOOK_SECRET", "x", ["POST", "/callback", { requestId: "r", conversationId: "c1" }], "x"],
    ["WEBHOOK_SECRET", API_TOKEN, ["POST", "/callback", { requestId: "r", conversationId: "c" }], API_TOKEN],
    ["SESSION_TOKEN_SECRET", "x", ["POST", `${API}/c1/token`], API_TOKEN],
  ])(
    "a %s that is weak opens nothing, and /config/health says so: %s",
    async (name, value, call, credential) => {
      const weak = await startWorker({ ...CLOSED, [name]: value });
      try {
        const [method, path, body] = call;
        const init = { method, headers: bearer(credential), ...(body ? { json: body } : {}) };
        const response = await weak.fetch(path, init);
        expect(response.status).toBe(503);
        expect(await response.json()).toMatchObject({
          code: "misconfigured",
          detail: expect.stringContaining(name),
        });
        const health = await weak.fetch("/config/health", { headers: bearer(OLD_API_TOKEN) });
        expect(health.status).toBe(503);
        expect(await health.text()).toContain(name);
      } finally {
        await weak.close();
      }
    },
  );

  test("a token forged with a weak secret opens nothing, while a good one beside it does", async () => {
    const weak = await startWorker({ ...CLOSED, SESSION_TOKEN_SECRET: `${TOKEN_SECRET},x` });
    const now = Math.floor(Date.now() / 1000);
    const claims = { iss: "edge-agent-sessions", aud: "conversation", sub: "c1", iat: now, exp: now + 60 };
    const statusWith = async (secret: string) =>
      (await weak.fetch(`${API}/c1`, { headers: bearer(jwt({ alg: "HS256", typ: "JWT" }, claims, secret)) }))
        .status;
    try {
      expect(await statusWith("x")).toBe(401);
      expect(await statusWith(TOKEN_SECRET)).toBe(404);
    } finally {
      await weak.close();
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
      features: { agent: true, auth: true, monitor: false, runner: false, events: false, rateLimits: false },
      storage: "embedded",
      channels: ["relay", "socket"],
      providers: [],
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

  test("are answered alike by preflight and answer, at /config and /health too", async () => {
    for (const path of ["/health", "/config", "/config/health"]) {
      for (const origin of ["https://app.example", "https://evil.example"]) {
        const allowed = origin === "https://app.example" ? origin : null;
        const answers = [
          await preflight(origin, path),
          await worker.fetch(path, { headers: { origin } }),
          await worker.fetch(path, { headers: { origin, ...bearer(API_TOKEN) } }),
        ];
        for (const { headers } of answers) expect(headers.get("access-control-allow-origin")).toBe(allowed);
      }
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

describe("with authentication off", () => {
  let open: TestWorker;
  beforeAll(async () => {
    open = await startWorker({ ...LOCAL_BINDINGS, ALLOWED_ORIGINS: "https://app.example" });
  });
  afterAll(() => open.close());

  /** Sends a request under any name, which `fetch` does not let one do. */
  function ask(path: string, headers: Record<string, string>, method = "GET"): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const { hostname, port } = open.url;
    const sent = request({ hostname, port, path, method, headers }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    });
    sent.on("error", reject).end();
    return promise;
  }

  test.each(["127.0.0.1", "127.0.0.1:8787", "localhost", "localhost:1", "[::1]", "[::1]:8787"])(
    "this machine is answered under its own name %s",
    async (host) => {
      expect(await ask(`${API}/list`, { host })).toBe(200);
      expect(await ask(`${API}/list`, { host, origin: `http://${host}` })).toBe(200);
    },
  );

  test.each<[string, Record<string, string>]>([
    ["a name that was pointed here", { host: "rebound.example" }],
    ["such a name with our port", { host: "rebound.example:8787" }],
    ["a name that begins like ours", { host: "localhost.evil.example" }],
    ["a name that ends like ours", { host: "evil.localhost" }],
    ["the address of another machine", { host: "192.168.0.1" }],
    ["a page elsewhere", { host: "127.0.0.1", origin: "https://evil.example" }],
    ["a page that CORS would allow", { host: "127.0.0.1", origin: "https://app.example" }],
    ["a page without an origin of its own", { host: "127.0.0.1", origin: "null" }],
    ["a page that begins like ours", { host: "127.0.0.1", origin: "http://127.0.0.1.evil.example" }],
  ])("%s is misdirected_request everywhere", async (_name, headers) => {
    for (const path of ["/health", "/config", `${API}/list`, `${API}/c1`, "/nothing"]) {
      expect(await ask(path, headers)).toBe(421);
    }
    expect(await ask(`${API}/c1/session`, headers, "POST")).toBe(421);
    expect(await ask(`${API}/c1/session`, headers, "OPTIONS")).toBe(421);
  });

  test("/config/health says so", async () => {
    const response = await open.fetch("/config/health");
    expect(response.status).toBe(503);
    expect(await response.json()).toMatchObject({ problems: [{ variable: "REQUIRE_AUTH" }] });
  });
});

describe("limits", () => {
  test("are told to a page as any other error is", async () => {
    const origin = "http://localhost:5173";
    const limited = await startWorker(
      { ...LOCAL_BINDINGS, ALLOWED_ORIGINS: origin },
      { rateLimits: { CLIENT_RATE_LIMIT: { namespace_id: "1", simple: { limit: 1, period: 60 } } } },
    );
    onTestFinished(() => limited.close());
    const ask = () => limited.fetch(`${API}/c1/session`, { headers: { origin } });
    await ask();
    const response = await ask();
    expect(response.status).toBe(429);
    expect(response.headers.get("access-control-allow-origin")).toBe(origin);
    expect(response.headers.get("vary")).toMatch(/origin/i);
    expect(response.headers.get("x-request-id")).not.toBeNull();
    expect(response.headers.get("x-content-type-options")).toBe("nosniff");
  });

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

  const limiter = (limit: number, namespace_id: string) =>
    ({ namespace_id, simple: { limit, period: 60 } }) as const;

  test.each<[string, Call]>([
    ["messages", ["POST", `${API}/c1/message`, { role: "user", content: "x" }]],
    ["health", ["GET", "/health"]],
    ["histories", ["GET", `${API}/c1`]],
    ["sessions", ["GET", `${API}/c1/session`]],
    ["results", ["GET", `${API}/c1/results`]],
    ["lists", ["GET", `${API}/list`]],
    ["states", ["GET", "/state/api/c1"]],
    ["memories", ["PUT", "/memory/api/c1", { domain: "general" }]],
    ["configurations", ["GET", "/config"]],
  ])("are on every route, of %s too", async (_name, [method, path, body]) => {
    const limited = await startWorker(LOCAL_BINDINGS, {
      rateLimits: { CLIENT_RATE_LIMIT: limiter(2, "1") },
    });
    const ask = async (address: string) => {
      const headers = { "cf-connecting-ip": address };
      return (await limited.fetch(path, { method, headers, ...(body ? { json: body } : {}) })).status;
    };
    try {
      for (let i = 0; i < 2; i++) expect(await ask("192.0.2.1")).not.toBe(429);
      expect(await ask("192.0.2.1")).toBe(429);
      expect(await ask("192.0.2.2")).not.toBe(429);
    } finally {
      await limited.close();
    }
  });

  test("count the messages and the reads of one conversation", async () => {
    const limited = await startWorker(LOCAL_BINDINGS, {
      rateLimits: { CONVERSATION_RATE_LIMIT: limiter(2, "1") },
    });
    const calls: Call[] = [
      ["POST", `${API}/c1/message`, { role: "user", content: "x" }],
      ["GET", `${API}/c1`],
    ];
    try {
      for (const [method, path, body] of calls) {
        const statuses: number[] = [];
        for (let i = 0; i < 3; i++) {
          statuses.push((await limited.fetch(path, { method, ...(body ? { json: body } : {}) })).status);
        }
        expect(statuses.map((status) => status === 429)).toEqual([false, false, true]);
      }
    } finally {
      await limited.close();
    }
  });

  test("count refused credentials, and log no more of them than they let through", async () => {
    const limited = await startWorker(CLOSED, { rateLimits: { FAILED_LOGIN_RATE_LIMIT: limiter(3, "1") } });
    const list = async (token: string) =>
      (await limited.fetch(`${API}/list`, { headers: bearer(token) })).status;
    try {
      const guesses: number[] = [];
      for (let i = 0; i < 5; i++) guesses.push(await list(`guess-${i}`));
      expect(guesses).toEqual([401, 401, 401, 429, 429]);
      expect(limited.logs().filter(({ event }) => event === "auth.rejected")).toHaveLength(3);
      expect((await limited.fetch("/callback", { json: {} })).status).toBe(429);
      expect(await list(API_TOKEN)).toBe(200);
    } finally {
      await limited.close();
    }
  });

  test("take an IPv6 client for its /64, and an IPv4 client in IPv6 clothes for itself", async () => {
    const limited = await startWorker(LOCAL_BINDINGS, {
      rateLimits: { CLIENT_RATE_LIMIT: limiter(1, "1") },
    });
    const ask = async (address: string) =>
      (await limited.fetch(`${API}/list`, { headers: { "cf-connecting-ip": address } })).status;
    try {
      expect(await ask("2001:db8:1:2::1")).toBe(200);
      expect(await ask("2001:db8:1:2:ffff:ffff:ffff:ffff")).toBe(429);
      expect(await ask("2001:0db8:0001:0002::2")).toBe(429);
      expect(await ask("2001:db8:1:3::1")).toBe(200);
      expect(await ask("::ffff:192.0.2.1")).toBe(200);
      expect(await ask("::ffff:192.0.2.2")).toBe(200);
    } finally {
      await limited.close();
    }
  });

  test("let /health ask the storage once in five seconds, however many ask", async () => {
    let asked = 0;
    const database = createServer((_request, response) => {
      asked += 1;
      response.end(JSON.stringify({ result: "PONG" }));
    });
    await new Promise<void>((resolve) => database.listen(0, "127.0.0.1", resolve));
    const { port } = database.address() as AddressInfo;
    const asking = await startWorker({
      ...LOCAL_BINDINGS,
      STORAGE: "upstash",
      UPSTASH_REDIS_REST_URL: `http://127.0.0.1:${port}`,
      UPSTASH_REDIS_REST_TOKEN: "t",
    });
    try {
      const ask = () => Promise.all(Array.from({ length: 20 }, () => asking.fetch("/health")));
      for (let i = 0; i < 3; i++) {
        for (const response of await ask()) expect(response.status).toBe(200);
      }
      expect(asked).toBe(1);
      await new Promise((resolve) => setTimeout(resolve, 5_000));
      await ask();
      expect(asked).toBe(2);
    } finally {
      await asking.close();
      database.close();
    }
  });
});
