/** What the users of one instance see while Redis is down, and what Redis holds afterwards. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { startAgent, type TestAgent } from "../support/agent.ts";
import { type FaultyGateway, startFaultyGateway } from "../support/faulty-gateway.ts";
import { startRedis } from "../support/redis.ts";
import { bindingsOver, startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
const DOWN = { kind: "status", status: 503 } as const;
const redis = await startRedis({ covers: "what users see while Redis is down" });

describe.skipIf(redis === null)("while Redis is down", { timeout: 60_000 }, () => {
  if (redis === null) return;
  let gateway: FaultyGateway;
  let worker: TestWorker;
  let agent: TestAgent;
  let ids = 0;

  beforeAll(async () => {
    gateway = await startFaultyGateway({ redisUrl: redis.url, token: "gateway-token" });
    agent = await startAgent();
    worker = await startWorker(bindingsOver(gateway));
  });
  afterAll(async () => {
    await Promise.all([worker.close(), agent.close()]);
    await gateway.close();
    await redis.stop();
  });
  beforeEach(async () => {
    gateway.heal();
    // What can be read nowhere else is always asked of Redis, so it says first that Redis is back.
    await expect.poll(async () => (await worker.fetch(`${API}/list`)).status, { timeout: 20_000 }).toBe(200);
    worker.lines.splice(0);
    ids += 1;
  });

  const id = () => `down-${ids}`;
  const register = (body: object = { sessionUrl: agent.url }) =>
    worker.fetch(`${API}/${id()}/session`, { json: body });
  const callBack = async (requestId: string) =>
    (
      await worker.fetch("/callback", {
        json: { requestId, conversationId: id(), output: `output of ${id()} ${requestId}.` },
      })
    ).json();
  const framesOf = (requestId: string) =>
    agent.frames.filter((frame) => frame.includes(`output of ${id()} ${requestId}.`));
  const soon = (read: () => Promise<unknown>) => expect.poll(read, { timeout: 20_000, interval: 50 });

  async function health() {
    return (await (await worker.fetch("/health")).json()) as {
      status: string;
      storage: { connected: boolean; usingFallback: boolean; lastError?: string };
    };
  }
  async function goDown(): Promise<void> {
    gateway.fail(DOWN);
    for (let i = 0; i < 3; i++) await worker.fetch(`${API}/list`);
    await worker.logged("storage.degraded");
  }

  test("a session that was registered before is still pushed to, and what was said is a duplicate before, in and after", async () => {
    await register();
    await callBack("before");
    await goDown();
    expect(await callBack("in it")).toMatchObject({ code: "invalid_request" });
    expect(await callBack("in")).toMatchObject({ status: "delivered" });
    expect(await callBack("before")).toMatchObject({ status: "duplicate", delivered: true });
    gateway.heal();
    expect(await callBack("in")).toMatchObject({ status: "duplicate", delivered: true });
    expect([framesOf("before").length, framesOf("in").length]).toEqual([1, 1]);
    await soon(async () =>
      (await redis.client.lrange(`elevenlabs:conversation:${id()}:messages`, 0, -1)).map(
        (text) => JSON.parse(text).id,
      ),
    ).toEqual(["callback:before", "callback:in"]);
  });

  test("health says that it is degraded, and why, and each change is logged once", async () => {
    await goDown();
    for (let i = 0; i < 5; i++) await worker.fetch(`${API}/list`);
    // It is asked of Redis at most once in five seconds.
    await expect.poll(health, { timeout: 10_000 }).toMatchObject({
      status: "degraded",
      storage: { connected: false, usingFallback: true, lastError: "server_error" },
    });
    gateway.heal();
    await expect.poll(async () => (await health()).status, { timeout: 40_000 }).toBe("ok");
    const changes = worker.logs().filter(({ event }) => event.startsWith("storage."));
    expect(changes).toMatchObject([
      { event: "storage.degraded", level: "warn", failure: "server_error" },
      { event: "storage.recovered", level: "info", downMs: expect.any(Number) },
    ]);
  });

  test("once three requests have failed, no instance waits for Redis, and an object only now and then", async () => {
    await goDown();
    gateway.fail({ kind: "silent" });
    const times: number[] = [];
    for (let i = 0; i < 10; i++) {
      const start = performance.now();
      expect((await register({ transport: "webrtc" })).status).toBe(200);
      times.push(performance.now() - start);
    }
    expect(Math.max(...times)).toBeLessThan(3_200);
    expect(times.filter((ms) => ms < 500).length).toBeGreaterThanOrEqual(4);
  });

  test("a registration whose answer was lost is the one that stands", async () => {
    gateway.fail({ kind: "reset-after" });
    await register();
    const { registrationId } = (await (await register()).json()) as { registrationId: string };
    gateway.heal();
    await soon(
      async () =>
        JSON.parse((await redis.client.get(`elevenlabs:session:${id()}`)) ?? "null")?.registrationId,
    ).toBe(registrationId);
  });

  test("messages from before it and in it stand in Redis in their order, each once", async () => {
    const say = (content: string) =>
      worker.fetch(`${API}/${id()}/message`, { json: { role: "user", content } });
    await say("one");
    gateway.fail({ kind: "reset-after" });
    await say("two");
    gateway.heal();
    await goDown();
    await say("three");
    gateway.heal();
    const contents = async () =>
      (
        (await (await worker.fetch(`${API}/${id()}`)).json()) as { messages?: { content: string }[] }
      ).messages?.map(({ content }) => content);
    await soon(contents).toEqual(["one", "two", "three"]);
  });

  test("state and memory are read and written, and Redis has them afterwards with the time they have left", async () => {
    const [state, memory] = [`/state/api/${id()}`, `/memory/api/${id()}`];
    await worker.fetch(state, { method: "PUT", json: { a: 1 } });
    await worker.fetch(memory, { method: "PUT", json: { domain: "hotel" } });
    await goDown();
    expect(await (await worker.fetch(state)).json()).toEqual({ a: 1 });
    await worker.fetch(state, { method: "PUT", json: { a: 2 } });
    const patched = await worker.fetch(memory, { method: "PATCH", json: { city: "Oslo" } });
    expect(await patched.json()).toMatchObject({ domain: "hotel", city: "Oslo" });
    expect(await (await worker.fetch(`${memory}/touch`, { method: "POST" })).json()).toEqual({
      success: true,
      ttl: 1800,
    });
    gateway.heal();
    await soon(async () => JSON.parse((await redis.client.get(`conv:${id()}`)) ?? "null")).toEqual({ a: 2 });
    await soon(async () => JSON.parse((await redis.client.get(`session:${id()}`)) ?? "null")).toMatchObject({
      city: "Oslo",
    });
    expect(await redis.client.ttl(`conv:${id()}`)).toBeGreaterThan(3_500);
    expect(await redis.client.ttl(`conv:${id()}`)).toBeLessThanOrEqual(3_600);
  });

  test("a state that was deleted is gone, then and afterwards", async () => {
    const state = `/state/api/${id()}`;
    await worker.fetch(state, { method: "PUT", json: { a: 1 } });
    await goDown();
    expect(await (await worker.fetch(state, { method: "DELETE" })).json()).toEqual({
      success: true,
      deleted: true,
    });
    expect((await worker.fetch(state)).status).toBe(404);
    gateway.heal();
    await soon(() => redis.client.exists(`conv:${id()}`)).toBe(0);
  });

  test("a conversation that is made in it is there afterwards, as it was made", async () => {
    await goDown();
    const made = await worker.fetch(`${API}/new`, { json: { agentId: "a1", metadata: { tier: "gold" } } });
    expect(made.status).toBe(201);
    const { conversationId, conversation } = (await made.json()) as {
      conversationId: string;
      conversation: object;
    };
    gateway.heal();
    const stored = async () =>
      JSON.parse((await redis.client.get(`elevenlabs:conversation:${conversationId}`)) ?? "null");
    await soon(stored).toEqual(conversation);
    await soon(() => redis.client.zscore("elevenlabs:conversations", conversationId)).not.toBeNull();
  });
});

describe.skipIf(redis === null)("without copies (OUTAGE_COPIES=false)", { timeout: 60_000 }, () => {
  test("what was written before an outage cannot be read in it; what is written in it can, and is given back", async () => {
    const own = await startRedis({ covers: "an outage without copies" });
    if (own === null) throw new Error("redis-server was there a moment ago");
    const gateway = await startFaultyGateway({ redisUrl: own.url, token: "gateway-token" });
    const worker = await startWorker({ ...bindingsOver(gateway), OUTAGE_COPIES: "false" });
    try {
      await worker.fetch("/state/api/c1", { method: "PUT", json: { a: 1 } });
      gateway.fail(DOWN);
      expect((await worker.fetch("/state/api/c1")).status).toBe(503);
      await worker.fetch("/state/api/c1", { method: "PUT", json: { a: 2 } });
      expect(await (await worker.fetch("/state/api/c1")).json()).toEqual({ a: 2 });
      gateway.heal();
      await expect.poll(() => own.client.get("conv:c1"), { timeout: 20_000 }).toBe('{"a":2}');
    } finally {
      await worker.close();
      await gateway.close();
      await own.stop();
    }
  });
});
