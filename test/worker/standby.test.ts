/** What stands by for Redis: what it knows when an outage begins, and what it gives back when it ends. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { startAgent, type TestAgent } from "../support/agent.ts";
import { type FaultyGateway, startFaultyGateway } from "../support/faulty-gateway.ts";
import { startRedis } from "../support/redis.ts";
import { bindingsOver, startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
const DOWN = { kind: "status", status: 503 } as const;
const redis = await startRedis({ covers: "what stands by for Redis" });

describe.skipIf(redis === null)("during an outage", { timeout: 60_000 }, () => {
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
    await expect.poll(async () => (await health()).status, { timeout: 40_000 }).toBe("ok");
    worker.lines.splice(0);
    ids += 1;
  });

  const id = () => `standby-${ids}`;
  const sessionKey = () => `elevenlabs:session:${id()}`;
  const register = (body: object = { sessionUrl: agent.url }) =>
    worker.fetch(`${API}/${id()}/session`, { json: body });
  const callBack = (requestId: string) =>
    worker.fetch("/callback", {
      json: { requestId, conversationId: id(), output: `output of ${requestId}.` },
    });
  const framesOf = (requestId: string) =>
    agent.frames.filter((frame) => frame.includes(`output of ${requestId}.`));
  const storedSession = async () => JSON.parse((await redis.client.get(sessionKey())) ?? "null");

  async function health() {
    return (await (await worker.fetch("/health")).json()) as {
      status: string;
      storage: { connected: boolean; usingFallback: boolean; lastError?: string };
    };
  }
  /** Lets the breaker open: three requests that fail. */
  async function goDown(): Promise<void> {
    gateway.fail(DOWN);
    for (let i = 0; i < 3; i++) await worker.fetch(`${API}/list`);
    await worker.logged("storage.degraded");
  }
  const backInRedis = (read: () => Promise<unknown>) => expect.poll(read, { timeout: 40_000, interval: 100 });

  test("a session that was registered before it is still pushed to", async () => {
    await register();
    await goDown();
    expect(await (await callBack(`${id()}-r1`)).json()).toMatchObject({ status: "delivered" });
    expect(framesOf(`${id()}-r1`)).toHaveLength(1);
  });

  test("a callback that was settled before it is a duplicate", async () => {
    await register();
    await callBack(`${id()}-r1`);
    await goDown();
    expect(await (await callBack(`${id()}-r1`)).json()).toMatchObject({
      status: "duplicate",
      delivered: true,
    });
    expect(framesOf(`${id()}-r1`)).toHaveLength(1);
  });

  test("a callback that was settled in it is a duplicate afterwards", async () => {
    await register();
    await goDown();
    await callBack(`${id()}-r1`);
    gateway.heal();
    await expect.poll(async () => (await health()).status, { timeout: 40_000 }).toBe("ok");
    expect(await (await callBack(`${id()}-r1`)).json()).toMatchObject({
      status: "duplicate",
      delivered: true,
    });
    expect(framesOf(`${id()}-r1`)).toHaveLength(1);
  });

  test("health says that it is degraded, and why, and each change is logged once", async () => {
    await goDown();
    for (let i = 0; i < 5; i++) await worker.fetch(`${API}/list`);
    expect(await health()).toMatchObject({
      status: "degraded",
      storage: { connected: false, usingFallback: true, lastError: "server_error" },
    });
    gateway.heal();
    await expect.poll(async () => (await health()).status, { timeout: 40_000 }).toBe("ok");
    const changes = worker.logs().filter(({ event }) => event.startsWith("storage."));
    expect(changes).toMatchObject([
      { event: "storage.degraded", level: "warn", failure: "server_error", fallback: "durable-object" },
      { event: "storage.recovered", level: "info", downMs: expect.any(Number) },
    ]);
  });

  test("once three requests have failed, nobody asks Redis but the probes", async () => {
    await goDown();
    gateway.clear();
    for (let i = 0; i < 30; i++) await register({ transport: "webrtc" });
    // A registration's own command; the alarms of what stands by send others.
    const commands = gateway.seen.flatMap(({ commands }) => commands.map((parts) => parts.map(String)));
    expect(commands.filter(([name, , , option]) => name === "set" && option === "get")).toEqual([]);
  });

  test("what was registered in it comes back by itself, with the time it has left", async () => {
    await goDown();
    const { registrationId } = (await (await register()).json()) as { registrationId: string };
    gateway.heal();
    await backInRedis(storedSession).toMatchObject({ registrationId, wsUrl: agent.url });
    const ttl = await redis.client.ttl(sessionKey());
    expect(ttl).toBeLessThanOrEqual(600);
    expect(ttl).toBeGreaterThan(540);
    await backInRedis(() => redis.client.zscore("elevenlabs:conversations", id())).not.toBeNull();
    expect(await redis.client.exists(`elevenlabs:conversation:${id()}`)).toBe(1);
  });

  test("what was written to Redis after it is not overwritten by what was registered in it", async () => {
    await goDown();
    await register();
    await redis.client.set(sessionKey(), JSON.stringify({ sessionUrl: "wss://newer.example/" }), "EX", 600);
    gateway.heal();
    await backInRedis(() => redis.client.exists(`elevenlabs:conversation:${id()}`)).toBe(1);
    expect(await storedSession()).toEqual({ sessionUrl: "wss://newer.example/" });
  });

  test("what it replaced is replaced afterwards", async () => {
    await register();
    await goDown();
    const { registrationId } = (await (await register()).json()) as { registrationId: string };
    gateway.heal();
    await backInRedis(storedSession).toMatchObject({ registrationId });
  });

  test("a write whose answer was lost as it began is not taken for something newer", async () => {
    gateway.fail({ kind: "reset-after" });
    await register();
    await register();
    const { registrationId } = (await (await register()).json()) as { registrationId: string };
    gateway.heal();
    await backInRedis(storedSession).toMatchObject({ registrationId });
  });

  test("what was deleted in it is deleted afterwards", async () => {
    await register();
    await worker.fetch(`${API}/${id()}/message`, { json: { role: "user", content: "hi" } });
    await goDown();
    await worker.fetch(`${API}/${id()}`, { method: "DELETE" });
    gateway.heal();
    await backInRedis(() =>
      redis.client.exists(
        sessionKey(),
        `elevenlabs:conversation:${id()}`,
        `elevenlabs:conversation:${id()}:messages`,
      ),
    ).toBe(0);
    await backInRedis(() => redis.client.zscore("elevenlabs:conversations", id())).toBeNull();
  });

  test("messages from before it and in it stand in Redis in their order, each once", async () => {
    const say = (content: string) =>
      worker.fetch(`${API}/${id()}/message`, { json: { role: "user", content } });
    await say("one");
    gateway.fail({ kind: "reset-after" });
    await say("two");
    await goDown();
    await say("three");
    gateway.heal();
    await backInRedis(async () => {
      const texts = await redis.client.lrange(`elevenlabs:conversation:${id()}:messages`, 0, -1);
      return texts.map((text) => JSON.parse(text).content);
    }).toEqual(["one", "two", "three"]);
  });

  test("one request that fails alone goes on with what stands by, and nobody misses it", async () => {
    gateway.fail(DOWN, 1);
    expect((await register()).status).toBe(200);
    expect(await (await callBack(`${id()}-r1`)).json()).toMatchObject({ status: "delivered" });
    expect(await (await callBack(`${id()}-r1`)).json()).toMatchObject({ status: "duplicate" });
    expect(await storedSession()).not.toBeNull();
    expect(worker.logs().filter(({ event }) => event === "storage.degraded")).toEqual([]);
  });
});
