/** The faulty gateway itself: a fault that is not what it says would make every test that uses it worthless. */
import { Redis as UpstashClient } from "@upstash/redis/cloudflare";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type FaultyGateway, startFaultyGateway } from "../support/faulty-gateway.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";

const maybeRedis = await startRedis({ covers: "the fault injection of the storage tests" });

describe.skipIf(maybeRedis === null)("faulty gateway", () => {
  const redis = maybeRedis as RedisServer;
  let gateway: FaultyGateway;
  let client: UpstashClient;

  beforeAll(async () => {
    gateway = await startFaultyGateway({ redisUrl: redis.url, token: "t" });
    client = new UpstashClient({
      url: gateway.url,
      token: gateway.token,
      retry: { retries: 0 },
      enableAutoPipelining: false,
      signal: () => AbortSignal.timeout(300),
    });
  });
  beforeEach(async () => {
    gateway.heal();
    gateway.clear();
    await redis.client.flushall();
  });
  afterAll(async () => {
    await gateway?.close();
    await redis?.stop();
  });

  const counter = () => redis.client.get("n");

  test("passes everything on and counts it", async () => {
    expect(await client.incr("n")).toBe(1);
    expect(await client.multi().incr("n").get("n").exec()).toEqual([2, 2]);

    expect(gateway.seen).toEqual([
      { path: "/", commands: [["incr", "n"]] },
      {
        path: "/multi-exec",
        commands: [
          ["incr", "n"],
          ["get", "n"],
        ],
      },
    ]);
    expect([gateway.requestCount(), gateway.commandCount()]).toEqual([2, 3]);
  });

  test("slow: the answer comes late, the command runs", async () => {
    gateway.fail({ kind: "slow", ms: 100 });
    const begin = performance.now();

    expect(await client.incr("n")).toBe(1);
    expect(performance.now() - begin).toBeGreaterThanOrEqual(99);
  });

  test("slow beyond the client's patience: the command runs all the same", async () => {
    gateway.fail({ kind: "slow", ms: 1_000 });

    await expect(client.incr("n")).rejects.toThrow("timeout");
    expect(await counter()).toBe("1");
  });

  test.each([429, 500, 503] as const)("status %i: nothing runs", async (status) => {
    gateway.fail({ kind: "status", status });

    await expect(client.incr("n")).rejects.toThrow(`ERR injected ${status}`);
    expect(await counter()).toBeNull();
  });

  test.each(["truncated", "wrong-json", "reset-after"] as const)(
    "%s: the command runs, the answer is lost",
    async (kind) => {
      gateway.fail({ kind });

      const outcome = await client.incr("n").catch((error: unknown) => error);

      expect(outcome).not.toBe(1);
      expect(await counter()).toBe("1");
    },
  );

  test.each(["reset-before", "silent"] as const)("%s: nothing runs", async (kind) => {
    gateway.fail({ kind });

    await expect(client.incr("n")).rejects.toThrow();
    expect(await counter()).toBeNull();
    expect(gateway.requestCount()).toBe(1);
  });

  test("fails as often as it was told to, then is well", async () => {
    gateway.fail({ kind: "reset-before" }, 2);

    await expect(client.incr("n")).rejects.toThrow();
    await expect(client.incr("n")).rejects.toThrow();
    expect(await client.incr("n")).toBe(1);
  });
});
