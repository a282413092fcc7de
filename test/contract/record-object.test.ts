/** Records over the real runtime: Redis behind a gateway that fails when told to, and the Worker's own objects. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { keys } from "../../lib/keys.ts";
import { createBreaker, OF_AN_INSTANCE } from "../../lib/storage/breaker.ts";
import { createElseAsk, createRecordStorage } from "../../lib/storage/fallback.ts";
import type { Storage, TextStorage } from "../../lib/storage/storage.ts";
import { createUpstashStorage } from "../../lib/storage/upstash.ts";
import { type FaultyGateway, startFaultyGateway } from "../support/faulty-gateway.ts";
import { type ObjectDoor, startObjectDoor } from "../support/object-door.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { bindingsOver } from "../support/worker.ts";
import { textStorageContract } from "./storage-contract.ts";

const TOKEN = "gateway-token";
const server = await startRedis({ covers: "records that are written by their objects" });
afterAll(() => server?.stop());

describe.skipIf(server === null)("with a real Redis", () => {
  const { client } = server ?? ({} as RedisServer);
  let gateway: FaultyGateway;
  let door: ObjectDoor;
  let redis: Storage;

  beforeAll(async () => {
    gateway = await startFaultyGateway({ redisUrl: server?.url ?? "", token: TOKEN });
    door = await startObjectDoor({ bindings: bindingsOver(gateway) });
    redis = createUpstashStorage({ url: gateway.url, token: TOKEN });
  });
  afterAll(async () => {
    await door?.close();
    await gateway?.close();
  });

  /** A new instance each time: a breaker that another test has opened is none of this one's. */
  const recordStorage = (): TextStorage => {
    const breaker = createBreaker({ now: () => Date.now(), ...OF_AN_INSTANCE });
    return createRecordStorage(redis, createElseAsk(breaker), door.namespace);
  };

  textStorageContract("record storage", async () => ({
    storage: recordStorage(),
    ttl: redis.ttl,
    close: async () => {},
  }));

  describe("a record's object", () => {
    let serial = 0;
    const freshKey = () => keys.state(`record-${++serial}`);
    const set = (key: string, value: string, ttlSeconds = 600) =>
      recordStorage().commit([{ type: "set", key, value, ttlSeconds }]);
    const remove = (key: string) => recordStorage().commit([{ type: "delete", key }]);
    const rowsIn = (key: string) => door.rowsIn(key, "records");
    const down = () => gateway.fail({ kind: "status", status: 503 });
    afterEach(() => gateway.heal());

    it("writes to Redis, and has a copy of it", async () => {
      const key = freshKey();
      await set(key, "v");
      expect(await client.get(key)).toBe("v");
      expect(await rowsIn(key)).toBe(1);
    });

    it("gives back by itself what was kept, within seconds of Redis being back", async () => {
      const key = freshKey();
      await client.set(key, "before");
      down();
      await set(key, "during", 600);
      expect(await recordStorage().get(key)).toBe("during");
      expect(await client.get(key)).toBe("before");
      gateway.heal();
      await expect.poll(() => client.get(key), { timeout: 10_000 }).toBe("during");
      expect(await client.pttl(key)).toBeGreaterThan(580_000);
      expect(await client.pttl(key)).toBeLessThan(600_000);
    });

    it("goes on trying for as long as it takes", async () => {
      const key = freshKey();
      down();
      await set(key, "v");
      gateway.clear();
      await expect.poll(() => gateway.requestCount(), { timeout: 10_000 }).toBeGreaterThanOrEqual(2);
      gateway.heal();
      await expect.poll(() => client.get(key), { timeout: 10_000 }).toBe("v");
    });

    it("gives back what it kept before it was evicted from memory", async () => {
      const [changed, removed] = [freshKey(), freshKey()];
      await set(changed, "before");
      await set(removed, "before");
      down();
      await set(changed, "during");
      await remove(removed);
      await Promise.all([door.evict(changed), door.evict(removed)]);
      expect(await recordStorage().get(changed)).toBe("during");
      expect(await recordStorage().get(removed)).toBeNull();
      await Promise.all([door.evict(changed), door.evict(removed)]);
      gateway.heal();
      await expect.poll(() => client.get(changed), { timeout: 10_000 }).toBe("during");
      await expect.poll(() => client.get(removed), { timeout: 10_000 }).toBeNull();
    });

    it("leaves nothing behind once its text is deleted", async () => {
      const key = freshKey();
      await set(key, "v");
      await remove(key);
      expect(await rowsIn(key)).toBeNull();
      await set(key, "again");
      expect(await rowsIn(key)).toBe(1);
    });

    it("leaves nothing behind once a delete that it kept is given back", async () => {
      const key = freshKey();
      await set(key, "v");
      down();
      await remove(key);
      expect(await rowsIn(key)).toBe(1);
      gateway.heal();
      await expect.poll(() => rowsIn(key), { timeout: 10_000 }).toBeNull();
      expect(await client.get(key)).toBeNull();
    });

    it("leaves nothing behind once its copy has expired", async () => {
      const key = freshKey();
      await set(key, "v", 0.5);
      expect(await rowsIn(key)).toBe(1);
      await expect.poll(() => rowsIn(key), { timeout: 10_000 }).toBeNull();
    });

    it("is left empty by who only looks", async () => {
      const key = freshKey();
      expect(await recordStorage().get(key)).toBeNull();
      down();
      await expect(recordStorage().get(key)).rejects.toMatchObject({ failure: "server_error" });
      expect(await rowsIn(key)).toBeNull();
    });
  });
});
