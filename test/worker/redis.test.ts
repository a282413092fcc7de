/** The production driver: the built Worker over HTTP to a real Redis, and what Redis says of it. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { startAgent, type TestAgent } from "../support/agent.ts";
import { type FaultyGateway, startFaultyGateway } from "../support/faulty-gateway.ts";
import { startRedis } from "../support/redis.ts";
import { bindingsOver, startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
const redis = await startRedis({ covers: "the Worker over a real Redis" });

describe.skipIf(redis === null)("over a real Redis", () => {
  if (redis === null) return;
  let gateway: FaultyGateway;
  let worker: TestWorker;
  let agent: TestAgent;

  beforeAll(async () => {
    gateway = await startFaultyGateway({ redisUrl: redis.url, token: "gateway-token" });
    // What happens with something standing by is the outage suite's.
    worker = await startWorker(bindingsOver(gateway), { standby: false });
    agent = await startAgent();
  });
  afterAll(async () => {
    await Promise.all([worker.close(), agent.close()]);
    await gateway.close();
    await redis.stop();
  });
  beforeEach(async () => {
    await redis.client.flushall();
    gateway.clear();
  });
  afterEach(() => gateway.heal());

  const register = (id: string, body: object = { sessionUrl: agent.url }) =>
    worker.fetch(`${API}/${id}/session`, { json: body });
  const callBack = (conversationId: string, requestId: string) =>
    worker.fetch("/callback", { json: { requestId, conversationId, output: "done" } });
  const status = (id: string) => worker.fetch(`${API}/${id}/session`);

  test("a registration lives exactly 600 s as Redis counts, in the same command as its value", async () => {
    await register("c1");
    expect(await redis.client.ttl("elevenlabs:session:c1")).toBe(600);
    const sets = gateway.seen
      .flatMap(({ commands }) => commands)
      .filter(([name]) => String(name).toUpperCase() === "SET");
    expect(sets.find(([, key]) => key === "elevenlabs:session:c1")?.map(String)).toEqual(
      expect.arrayContaining([expect.stringMatching(/^ex$/i), "600"]),
    );
    expect(
      gateway.seen.flatMap(({ commands }) => commands).filter(([, key]) => key === "elevenlabs:session:c1"),
    ).toHaveLength(1);
  });

  test("what stands in Redis is the record of the contract, the payload as it was sent", async () => {
    const payload = { sessionUrl: agent.url, zeta: [1, { b: null, a: "ü" }], "0": "first" };
    await register("c1", payload);
    const record = JSON.parse((await redis.client.get("elevenlabs:session:c1")) ?? "");
    expect(record).toEqual({
      version: 1,
      conversationId: "c1",
      registrationId: expect.any(String),
      sessionPayload: payload,
      wsUrl: agent.url,
      createdAt: expect.any(String),
      ttl: 600,
    });
    expect(Object.keys(record.sessionPayload)).toEqual(Object.keys(JSON.parse(JSON.stringify(payload))));
    expect(JSON.parse((await redis.client.get("elevenlabs:conversation:c1")) ?? "")).toEqual({
      version: 1,
      conversationId: "c1",
      createdAt: expect.any(String),
      lastSessionAt: expect.any(String),
    });
    expect(await redis.client.zrange("elevenlabs:conversations", "0", "-1")).toEqual(["c1"]);
    expect(await redis.client.ttl("elevenlabs:conversation:c1")).toBe(30 * 24 * 3600);
  });

  test("reading does not renew a session, registering does", async () => {
    await register("c1");
    await redis.client.expire("elevenlabs:session:c1", 100);
    await status("c1");
    expect(await redis.client.ttl("elevenlabs:session:c1")).toBeLessThanOrEqual(100);
    await register("c1");
    expect(await redis.client.ttl("elevenlabs:session:c1")).toBe(600);
  });

  test("a session whose time Redis has run out is gone", async () => {
    await register("c1");
    await redis.client.pexpire("elevenlabs:session:c1", 1);
    await expect.poll(() => redis.client.exists("elevenlabs:session:c1")).toBe(0);
    expect((await status("c1")).status).toBe(404);
    expect(await (await callBack("c1", "r1")).json()).toMatchObject({ reason: "session_expired" });
  });

  test("a delivered callback is settled under its key for 48 hours", async () => {
    await register("c1");
    await callBack("c1", "r1");
    expect(JSON.parse((await redis.client.get("elevenlabs:callback:c1:r1")) ?? "")).toMatchObject({
      version: 1,
      status: "delivered",
      channel: "socket",
      attempts: 1,
      result: { requestId: "r1", success: true, output: "done", mode: "speak" },
      receivedAt: expect.any(String),
      settledAt: expect.any(String),
    });
    expect(await redis.client.ttl("elevenlabs:callback:c1:r1")).toBe(48 * 3600);
  });

  test("a claim left by a handler that died is taken over when its lease has run out", async () => {
    await register("c1");
    const claim = (leaseUntil: number) =>
      redis.client.set(
        "elevenlabs:callback:c1:r1",
        JSON.stringify({
          version: 1,
          status: "processing",
          claimId: "dead",
          leaseUntil: new Date(leaseUntil).toISOString(),
          result: { requestId: "r1", success: true, mode: "speak" },
          attempts: 0,
          receivedAt: new Date(leaseUntil - 30_000).toISOString(),
        }),
      );
    await claim(Date.now() + 20_000);
    const early = await callBack("c1", "r1");
    expect(early.status).toBe(409);
    expect(Number(early.headers.get("retry-after"))).toBeLessThanOrEqual(20);
    await claim(Date.now() - 1);
    expect(await (await callBack("c1", "r1")).json()).toMatchObject({ status: "delivered" });
  });

  test("every key that a conversation leaves behind has a time to live", async () => {
    await callBack("c1", "r1");
    await callBack("c1", "r2");
    await register("c1");
    await worker.logged("backlog.delivered");
    await worker.fetch(`${API}/c1/message`, { json: { role: "user", content: "hi" } });
    const keys = await redis.client.keys("*");
    const withoutTtl: string[] = [];
    for (const key of keys) if ((await redis.client.ttl(key)) < 0) withoutTtl.push(key);
    expect(withoutTtl).toEqual(["elevenlabs:conversations"]);
  });

  test("the index forgets conversations that have outlived their time", async () => {
    await redis.client.zadd("elevenlabs:conversations", Date.now() - 31 * 24 * 3600 * 1000, "old");
    await register("c1");
    await expect.poll(() => redis.client.zrange("elevenlabs:conversations", "0", "-1")).toEqual(["c1"]);
  });

  describe("budgets", () => {
    test("a registration is one round trip of at most five commands before its answer", async () => {
      await register("c1");
      const [first] = gateway.seen;
      expect(first?.commands.length).toBeLessThanOrEqual(5);
      expect(first?.commands.map(([name]) => String(name).toUpperCase())).toContain("ZADD");
    });

    test("a delivered callback is two round trips of at most eight commands", async () => {
      await register("c1");
      await expect.poll(() => gateway.seen.length).toBeGreaterThanOrEqual(3);
      gateway.clear();
      await callBack("c1", "r1");
      expect(gateway.commandCount()).toBeLessThanOrEqual(8);
      expect(gateway.requestCount()).toBe(3);
    });

    test("reading a session is one command", async () => {
      await register("c1");
      await expect.poll(() => gateway.seen.length).toBeGreaterThanOrEqual(3);
      gateway.clear();
      await status("c1");
      expect(gateway.commandCount()).toBe(1);
    });
  });

  describe("a Redis that fails never looks like no session", () => {
    test.each([
      [{ kind: "status", status: 429 }],
      [{ kind: "status", status: 500 }],
      [{ kind: "status", status: 503 }],
      [{ kind: "truncated" }],
      [{ kind: "wrong-json" }],
      [{ kind: "reset-before" }],
      [{ kind: "reset-after" }],
      [{ kind: "silent" }],
    ] as const)("%j", async (fault) => {
      await register("c1");
      gateway.fail(fault);
      for (const response of [await status("c1"), await callBack("c1", "r1"), await register("c1")]) {
        expect(response.status).toBe(503);
        expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(0);
        expect(await response.json()).toMatchObject({ code: "storage_unavailable" });
      }
      expect((await worker.fetch("/health")).status).toBe(503);
      gateway.heal();
      expect((await status("c1")).status).toBe(200);
      expect((await worker.fetch("/health")).status).toBe(200);
    });

    test("nothing of a failed command is logged", async () => {
      gateway.fail({ kind: "status", status: 500 });
      await register("c1", { sessionUrl: `${agent.url}&more=canary`, note: "canary" });
      expect(worker.lines.some((line) => line.includes("request.failed"))).toBe(true);
      expect(worker.lines.filter((line) => /canary|agent-secret|gateway-token/.test(line))).toEqual([]);
    });
  });
});
