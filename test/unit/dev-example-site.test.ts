/** The server of the example pages: what it hands to whom, and what it keeps to itself. */
import { once } from "node:events";
import { createServer, request as httpRequest, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type ExampleSite, startExampleSite } from "../../dev/example-site.ts";

const KEY = "key-of-the-pages";
const API_TOKEN = "api-token-of-the-test";
const WEBHOOK_SECRET = "webhook-secret-of-the-test";

/** What the Worker was asked, and what it answers. */
let asked: { path: string; authorization: string | undefined; body: Record<string, unknown> }[];
let answer: { status: number; body: object };
let site: ExampleSite;
const worker = createServer(async (request, response) => {
  let text = "";
  for await (const chunk of request) text += chunk;
  const { authorization } = request.headers;
  asked.push({ path: request.url ?? "", authorization, body: JSON.parse(text) });
  response.writeHead(answer.status, { "content-type": "application/json" }).end(JSON.stringify(answer.body));
});

beforeAll(async () => {
  worker.listen(0, "127.0.0.1");
  await once(worker, "listening");
  site = await startExampleSite({
    edgeUrl: `http://127.0.0.1:${(worker.address() as AddressInfo).port}`,
    providerUrl: "https://api.elevenlabs.io",
    agentId: "demo",
    apiToken: API_TOKEN,
    webhookSecret: WEBHOOK_SECRET,
    key: KEY,
  });
});
afterAll(async () => {
  await site.close();
  worker.close();
});
beforeEach(() => {
  asked = [];
  answer = {
    status: 200,
    body: { conversationId: "c1", token: "conversation-token", tokenExpiresAt: "2026-01-01T00:00:00Z" },
  };
});

const opened = { authorization: `Bearer ${KEY}` };

function post(path: string, body: unknown, headers: Record<string, string> = opened): Promise<Response> {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return fetch(site.origins[0] + path, { method: "POST", headers, body: text });
}

/** The status of a request with any headers, those that `fetch` writes by itself included. */
async function statusOf(path: string, headers: IncomingHttpHeaders, method = "GET"): Promise<number> {
  const sent = httpRequest(site.origins[0] + path, { method, headers }).end();
  const [response] = await once(sent, "response");
  response.resume();
  return response.statusCode;
}

describe("a page", () => {
  test.each(["relay", "proxy"] as const)("%s is served with what it loads", async (name) => {
    const address = site.pageUrl(name);
    expect(address).toBe(`${site.origins[0]}/${name}#${KEY}`);
    const html = await (await fetch(address)).text();
    const loaded = [...html.matchAll(/(?:src|href)="([^":]+\.(?:js|css))"/g)].map(([, path = ""]) => path);

    expect(loaded).toEqual(["page.css", "page.js"]);
    for (const path of loaded) expect((await fetch(new URL(path, address))).status).toBe(200);
  });

  test("may reach its own server, the edge and the provider, and runs no script of others", async () => {
    const policy = (await fetch(site.pageUrl("relay"))).headers.get("content-security-policy") ?? "";
    const edge = `127.0.0.1:${(worker.address() as AddressInfo).port}`;

    expect(policy).toContain(`connect-src 'self' http://${edge} ws://${edge} wss://api.elevenlabs.io;`);
    expect(policy).toContain("default-src 'none'; script-src 'self';");
    expect(policy).not.toContain("unsafe");
  });

  test("holds no secret, and nor does its script", async () => {
    for (const path of ["/", "/relay", "/proxy", "/page.js", "/page.css"]) {
      const text = await (await fetch(site.origins[0] + path)).text();
      for (const secret of [KEY, API_TOKEN, WEBHOOK_SECRET]) expect(text).not.toContain(secret);
    }
  });

  test.each(["/page.ts", "/visit.ts", "/tsconfig.json", "/../start.ts", "/%2e%2e/start.ts", "/backend/pass"])(
    "is nothing at %s",
    async (path) => {
      expect(await statusOf(path, {})).toBe(404);
    },
  );
});

describe("the backend", () => {
  test("hands out a token for a new conversation, and for one that is named", async () => {
    const pass = await (await post("/backend/pass", {})).json();
    expect(pass).toMatchObject({ conversationId: "c1", token: "conversation-token", agentId: "demo" });
    await post("/backend/pass", { conversationId: "c/1" });

    expect(asked).toEqual([
      {
        path: "/agent-conversations/api/new",
        authorization: `Bearer ${API_TOKEN}`,
        body: { agentId: "demo" },
      },
      { path: "/agent-conversations/api/c%2F1/token", authorization: `Bearer ${API_TOKEN}`, body: {} },
    ]);
  });

  test("plays a task whose result comes after a while, each under an id of its own", async () => {
    answer = { status: 202, body: { status: "queued", reason: "session_not_found" } };
    const first = await post("/backend/task", { conversationId: "c1", afterMs: 5 });
    await post("/backend/task", { conversationId: "c1", delivery: "silent" });

    expect(await first.json()).toEqual(answer.body);
    expect(asked.map(({ path, authorization, body }) => [path, authorization, body.delivery])).toEqual([
      ["/callback", `Bearer ${WEBHOOK_SECRET}`, "when_idle"],
      ["/callback", `Bearer ${WEBHOOK_SECRET}`, "silent"],
    ]);
    expect(new Set(asked.map(({ body }) => body.requestId)).size).toBe(2);
  });

  test("says what the Worker refused", async () => {
    answer = { status: 503, body: { detail: "Redis is away." } };
    const response = await post("/backend/pass", {});

    expect([response.status, await response.text()]).toEqual([
      502,
      "The Worker answered 503: Redis is away.",
    ]);
  });

  test.each([
    ["no key", {}, 401],
    ["a wrong key", { authorization: "Bearer wrong" }, 401],
    ["the API token", { authorization: `Bearer ${API_TOKEN}` }, 401],
    ["the origin of another site", { ...opened, origin: "https://evil.example" }, 403],
    ["no origin that has a name", { ...opened, origin: "null" }, 403],
  ])("hands out nothing for %s", async (_, headers, status) => {
    expect((await post("/backend/pass", {}, headers)).status).toBe(status);
    expect(asked).toEqual([]);
  });

  test("answers under its own names only", async () => {
    const { port } = new URL(site.origins[0]);
    const answered = (host: string) => statusOf("/relay", { host });

    expect(await Promise.all([answered(`127.0.0.1:${port}`), answered(`localhost:${port}`)])).toEqual([
      200, 200,
    ]);
    expect(await Promise.all([answered("evil.example"), answered(`evil.example:${port}`)])).toEqual([
      421, 421,
    ]);
  });

  test.each([
    ["no JSON", "/backend/pass", "{", 400],
    ["another shape", "/backend/task", { conversationId: 7 }, 400],
    ["an endless task", "/backend/task", { conversationId: "c1", afterMs: 1e9 }, 400],
    ["too much", "/backend/pass", { conversationId: "c".repeat(5_000) }, 413],
    ["another path", "/backend/secrets", {}, 404],
  ])("refuses %s", async (_, path, body, status) => {
    expect((await post(path, body)).status).toBe(status);
    expect(asked).toEqual([]);
  });

  test("takes GET and POST", async () => {
    expect(await statusOf("/relay", {}, "DELETE")).toBe(405);
    expect(await statusOf("/relay", {}, "HEAD")).toBe(200);
  });
});
