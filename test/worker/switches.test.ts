/** What an operator switches: the feature, the credentials, the storage; and what is said when it is wrong. */
import { afterEach, describe, expect, test } from "vitest";
import { LOCAL_BINDINGS, startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
let worker: TestWorker;
afterEach(() => worker.close());

const body = { requestId: "r1", conversationId: "c1", transport: "webrtc", role: "user", content: "" };
const ROUTES = [
  ["POST", `${API}/c1/session`],
  ["GET", `${API}/c1/session`],
  ["DELETE", `${API}/c1/session`],
  ["POST", `${API}/new`],
  ["GET", `${API}/list`],
  ["GET", `${API}/c1`],
  ["POST", `${API}/c1/message`],
  ["DELETE", `${API}/c1`],
  ["POST", `${API}/c1/callback`],
  ["POST", "/callback"],
  ["GET", "/state/api/c1"],
  ["PUT", "/state/api/c1"],
  ["DELETE", "/state/api/c1"],
  ["POST", "/state/api/c1/touch"],
  ["GET", "/memory/api/c1"],
  ["PUT", "/memory/api/c1"],
  ["PATCH", "/memory/api/c1"],
  ["DELETE", "/memory/api/c1"],
  ["POST", "/memory/api/c1/touch"],
] as const;

function call([method, path]: readonly [string, string], token?: string) {
  const headers: Record<string, string> = token === undefined ? {} : { authorization: `Bearer ${token}` };
  return worker.fetch(path, /^P/.test(method) ? { method, json: body, headers } : { method, headers });
}

async function codes(token?: string): Promise<(string | undefined)[]> {
  const found: (string | undefined)[] = [];
  for (const route of ROUTES) {
    const response = await call(route, token);
    found.push(((await response.json()) as { code?: string }).code);
  }
  return found;
}

test("switched off, every route but health is feature_disabled", async () => {
  worker = await startWorker({ ...LOCAL_BINDINGS, ELEVENLABS_AGENT_ENABLED: "false" });
  expect(new Set(await codes())).toEqual(new Set(["feature_disabled"]));
  expect((await worker.fetch("/health")).status).toBe(200);
  expect((await worker.logged("feature.disabled")).level).toBe("info");
});

test("the feature is off unless it is switched on", async () => {
  worker = await startWorker({ STORAGE: "embedded" });
  expect(new Set(await codes())).toEqual(new Set(["feature_disabled"]));
});

test("a wrong configuration is said once, with every variable's name and no value", async () => {
  worker = await startWorker({
    ...LOCAL_BINDINGS,
    STORAGE: "floppy-s3cret",
    REQUIRE_AUTH: "maybe-s3cret",
    CONVERSATION_TTL_SECONDS: "-s3cret",
    PUSH_ALLOWED_HOSTS: "s3cret host",
  });
  expect(new Set(await codes())).toEqual(new Set(["misconfigured"]));
  const line = JSON.stringify(await worker.logged("request.failed"));
  for (const name of ["STORAGE", "REQUIRE_AUTH", "CONVERSATION_TTL_SECONDS", "PUSH_ALLOWED_HOSTS"]) {
    expect(line).toContain(name);
  }
  expect(worker.lines.join("\n")).not.toContain("s3cret");
  expect((await worker.fetch("/health")).status).toBe(503);
});

describe("health", () => {
  test("says that it can store", async () => {
    worker = await startWorker();
    const response = await worker.fetch("/health");
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual({
      status: "ok",
      storage: { connected: true, latencyMs: expect.any(Number), usingFallback: false },
    });
  });

  test("is degraded when Redis is out of reach, where nothing is known and nothing is made up", async () => {
    const unreachable = {
      ...LOCAL_BINDINGS,
      STORAGE: "upstash",
      UPSTASH_REDIS_REST_URL: "http://127.0.0.1:9",
      UPSTASH_REDIS_REST_TOKEN: "t0ken",
    };
    worker = await startWorker(unreachable);
    const response = await worker.fetch("/health");
    expect(response.status).toBe(200);
    expect(await response.json()).toMatchObject({
      status: "degraded",
      storage: { connected: false, usingFallback: true, lastError: "network" },
    });
    expect((await worker.fetch(`${API}/c1/session`)).status).toBe(503);
    expect(worker.lines.join("\n")).not.toContain("t0ken");
  });
});
