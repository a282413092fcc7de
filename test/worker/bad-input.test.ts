/** What must not work: every kind of bad input gets the code of the contract, and nothing is stored. */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
let worker: TestWorker;

beforeAll(async () => {
  worker = await startWorker();
});
afterAll(() => worker.close());

const MAKING_ROUTES = [
  `${API}/bad/session`,
  `${API}/bad/message`,
  `${API}/bad/callback`,
  `${API}/new`,
  "/callback",
];

/** Those that are put rather than posted. */
const PUTTING_ROUTES = ["/state/api/bad", "/memory/api/bad"];
const methodOf = (path: string) => (/^.(state|memory).api/.test(path) ? "PUT" : "POST");

async function codeOf(response: Response): Promise<string> {
  expect(response.headers.get("content-type")).toBe("application/problem+json");
  const problem = (await response.json()) as { code: string; status: number; requestId: string };
  expect(problem.status).toBe(response.status);
  expect(problem.requestId).toBe(response.headers.get("x-request-id"));
  return problem.code;
}

function post(path: string, body: BodyInit | null, contentType = "application/json") {
  return worker.fetch(path, {
    method: methodOf(path),
    body,
    headers: contentType ? { "content-type": contentType } : {},
  });
}

describe.each([...MAKING_ROUTES, ...PUTTING_ROUTES])("on %s", (path) => {
  test.each([
    ["malformed JSON", '{"requestId":'],
    ["an empty body", ""],
    ["blanks", "  \n"],
    ["a list", "[]"],
    ["a number", "7"],
    ["text", '"x"'],
    ["null", "null"],
    ["a number that no double holds", "12345678901234567890"],
    ["a thousand levels", `{"a":${"[".repeat(1_000)}${"]".repeat(1_000)}}`],
    ["thirty thousand levels", `{"a":${"[".repeat(30_000)}${"]".repeat(30_000)}}`],
    ["bytes that are not UTF-8", new Uint8Array([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])],
  ])("%s is invalid_request", async (_name, body) => {
    const response = await post(path, body);
    expect(response.status).toBe(400);
    expect(await codeOf(response)).toBe("invalid_request");
  });

  test.each(["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp"])(
    "%s is unsupported_media_type",
    async (contentType) => {
      const response = await post(path, "{}", contentType);
      expect(response.status).toBe(415);
      expect(await codeOf(response)).toBe("unsupported_media_type");
    },
  );

  test("more than 64 KiB is payload_too_large", async () => {
    const response = await post(path, JSON.stringify({ a: "x".repeat(64 * 1024) }));
    expect(response.status).toBe(413);
    expect(await codeOf(response)).toBe("payload_too_large");
  });

  test("more than 64 KiB in pieces, with no length announced, is payload_too_large", async () => {
    const piece = new TextEncoder().encode("x".repeat(16 * 1024));
    let pieces = 0;
    const body = new ReadableStream({
      pull(controller) {
        pieces += 1;
        if (pieces > 8) controller.close();
        else controller.enqueue(piece);
      },
    });
    const init = {
      method: methodOf(path),
      body,
      duplex: "half",
      headers: { "content-type": "application/json" },
    };
    const response = await worker.fetch(path, init as RequestInit);
    expect(response.status).toBe(413);
  });
});

describe("ids", () => {
  const BAD_IDS = [
    "a b",
    "a/b",
    "a:b",
    "a\u0000b",
    "a\nb",
    "😀",
    "__proto__",
    ".hidden",
    "-x",
    "new",
    "list",
    "ä",
    "x".repeat(129),
    "x".repeat(10_240),
  ];
  test.each(BAD_IDS.map((id) => [encodeURIComponent(id)]))("%s is invalid_id", async (id) => {
    for (const [method, path] of [
      ["POST", `${API}/:id/session`],
      ["GET", `${API}/:id/session`],
      ["DELETE", `${API}/:id/session`],
      ["POST", `${API}/:id/message`],
      ["POST", `${API}/:id/callback`],
      ["GET", "/state/api/:id"],
      ["PUT", "/state/api/:id"],
      ["DELETE", "/state/api/:id"],
      ["POST", "/state/api/:id/touch"],
      ["GET", "/memory/api/:id"],
      ["PUT", "/memory/api/:id"],
      ["PATCH", "/memory/api/:id"],
      ["DELETE", "/memory/api/:id"],
      ["POST", "/memory/api/:id/touch"],
    ] as const) {
      const json = {
        sessionUrl: "ws://localhost/",
        requestId: "r",
        role: "user",
        content: "",
        domain: "hotel",
      };
      const body = method === "GET" || method === "DELETE" ? {} : { json };
      const response = await worker.fetch(
        path.replace(":id", () => id),
        { method, ...body },
      );
      expect(response.status).toBe(400);
      expect(await codeOf(response)).toBe("invalid_id");
    }
  });

  test.each(["%zz", "%"])("%s, which is no encoding, is refused", async (id) => {
    const response = await worker.fetch(`${API}/${id}/session`);
    expect(response.status).toBe(400);
  });

  test("every allowed character is taken", async () => {
    const id = `A${"Zz09_.-".repeat(18)}`.slice(0, 128);
    expect((await worker.fetch(`${API}/${id}/session`, { json: { transport: "webrtc" } })).status).toBe(200);
  });
});

describe("session URLs", () => {
  test.each([[undefined], [null], [7], [true], [[]], [{}], [""]])(
    "%j is invalid_request",
    async (sessionUrl) => {
      const response = await worker.fetch(`${API}/bad/session`, { json: { sessionUrl } });
      expect(response.status).toBe(400);
      const problem = (await response.json()) as { code: string; errors: { path: string }[] };
      expect(problem.code).toBe("invalid_request");
      expect(problem.errors[0]?.path).toBe("sessionUrl");
    },
  );

  test.each([
    "http://localhost/",
    "https://localhost/",
    "javascript:alert(1)",
    "/relative",
    "relative",
    "wss://",
    "wss:///path",
    "ws://user:passw0rd@localhost/",
    "ws://user@localhost/",
    "wss://evil.example/?token=t0psecret",
    "wss://localhost.evil.example/",
    "ws://169.254.169.254/",
  ])("%s is session_url_not_allowed", async (sessionUrl) => {
    const response = await worker.fetch(`${API}/bad/session`, { json: { sessionUrl } });
    expect(response.status).toBe(422);
    const text = await response.clone().text();
    expect(await codeOf(response)).toBe("session_url_not_allowed");
    expect(text).not.toContain("t0psecret");
    expect(text).not.toContain("passw0rd");
  });
});

test("a number that no double holds is no object", async () => {
  for (const path of MAKING_ROUTES.filter((route) => !route.endsWith("/message"))) {
    for (const number of ["12345678901234567890", "1e400"]) {
      const body = `{"requestId":"r","conversationId":"bad","sessionUrl":"ws://localhost/","metadata":${number}}`;
      const response = await post(path, body);
      expect(response.status).toBe(400);
    }
  }
});

test("keys named __proto__ and constructor are data", async () => {
  const body = '{"role":"user","content":"x","toolArgs":{"__proto__":{"a":1},"constructor":2}}';
  const response = await post(`${API}/proto/message`, body);
  expect(response.status).toBe(201);
  expect(await (await worker.fetch(`${API}/proto`)).text()).toContain(
    '"toolArgs":{"__proto__":{"a":1},"constructor":2}',
  );
});

test("a callback that names no conversation is invalid_request", async () => {
  const response = await worker.fetch("/callback", { json: { requestId: "unknown" } });
  expect(response.status).toBe(400);
  expect(await codeOf(response)).toBe("invalid_request");
});

test.each(["0", "101", "-1", "1.5", "ten", ""])("a list limit of '%s' is invalid_request", async (limit) => {
  const response = await worker.fetch(`${API}/list?limit=${limit}`);
  expect(response.status).toBe(400);
});

test("an invented cursor is invalid_request", async () => {
  const response = await worker.fetch(`${API}/list?cursor=%00nonsense`);
  expect(response.status).toBe(400);
  expect(await codeOf(response)).toBe("invalid_request");
});

test.each([
  ["GET", "/callback", "POST"],
  ["PUT", `${API}/x/session`, "POST, GET, HEAD, DELETE"],
  ["POST", `${API}/x`, "GET, HEAD, DELETE"],
  ["POST", "/health", "GET, HEAD"],
  ["PATCH", "/state/api/x", "GET, HEAD, PUT, DELETE"],
  ["POST", "/memory/api/x", "GET, HEAD, PUT, PATCH, DELETE"],
])("%s %s is method_not_allowed", async (method, path, allow) => {
  const response = await worker.fetch(path, { method });
  expect(response.status).toBe(405);
  expect(response.headers.get("allow")).toBe(allow);
  expect(await codeOf(response)).toBe("method_not_allowed");
});

test.each(["/", "/nothing", `${API}`, `${API}/x/y/z`])("%s is not_found", async (path) => {
  const response = await worker.fetch(path);
  expect(response.status).toBe(404);
  expect(await codeOf(response)).toBe("not_found");
});

test("nothing of all this was stored", async () => {
  expect((await worker.fetch(`${API}/bad`)).status).toBe(404);
  expect((await worker.fetch(`${API}/bad/session`)).status).toBe(404);
  for (const path of PUTTING_ROUTES) expect((await worker.fetch(path)).status).toBe(404);
});

describe("a thousand generated bodies", () => {
  const CANARY = "cAnArY s3cret!";
  const withCanary = fc.oneof(
    fc.constant(CANARY),
    fc.constant(`wss://agent.example/?t=${CANARY}`),
    fc.jsonValue(),
  );
  const fields = fc.constantFrom(
    ...[
      "requestId",
      "conversationId",
      "success",
      "output",
      "error",
      "toolName",
      "mode",
      "metadata",
      "sessionUrl",
    ],
    ...[
      "sessionPayload",
      "expiresAt",
      "agentSessionId",
      "transport",
      "role",
      "content",
      "source",
      "toolArgs",
    ],
    ...["toolOutput", "status", "timestamp", "agentId", "__proto__", CANARY],
    ...["domain", "brand", "price", "gender", "intentSpecific", "lastAnswer"],
  );
  const plausible = fc.oneof(
    withCanary,
    fc.constantFrom("r1", "fuzz", "speak", "context", "user", "websocket", "webrtc", "2026-01-01T00:00:00Z"),
    fc.constantFrom("ws://localhost:9/", "wss://api.elevenlabs.io/v1/convai/conversation?agent_id=a"),
  );
  const valid = {
    requestId: "r1",
    conversationId: "fuzz",
    role: "user",
    content: CANARY,
    sessionUrl: "ws://localhost:9/",
    domain: "general",
  };
  const changes = fc
    .array(fc.tuple(fields, plausible), { maxLength: 6 })
    .map((entries) => Object.fromEntries(entries));
  const body = fc.oneof(
    { weight: 8, arbitrary: changes.map((changed) => JSON.stringify({ ...valid, ...changed })) },
    { weight: 4, arbitrary: changes.map((changed) => JSON.stringify(changed)) },
    { weight: 1, arbitrary: fc.json() },
    { weight: 1, arbitrary: fc.string().map((text) => text + CANARY) },
  );

  test.each([...MAKING_ROUTES, ...PUTTING_ROUTES].map((path) => path.replace("bad", "fuzz")))(
    "on %s meet only answers of the contract, and no line of the log repeats them",
    async (path) => {
      const bodies = fc.sample(body, 1_000);
      const statuses = new Map<number, number>();
      for (let i = 0; i < bodies.length; i += 25) {
        const batch = bodies.slice(i, i + 25).map((text) => post(path, text));
        for (const response of await Promise.all(batch)) {
          await response.arrayBuffer();
          statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1);
        }
      }
      const allowed = new Set([200, 201, 202, 400, 409, 422]);
      expect(new Set(statuses.keys()).difference(allowed)).toEqual(new Set());
      expect(statuses.size).toBeGreaterThan(1);
      expect(worker.lines.filter((line) => line.toLowerCase().includes(CANARY.toLowerCase()))).toEqual([]);
    },
    60_000,
  );
});
