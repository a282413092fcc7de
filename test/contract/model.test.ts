/** The drivers against the model of `storage-model.ts`. */
import { afterAll, describe } from "vitest";
import { partitionOf } from "../../lib/keys.ts";
import { createDurableObjectStorage } from "../../lib/storage/durable-object.ts";
import { createMemoryStorage } from "../../lib/storage/memory.ts";
import { createUpstashStorage } from "../../lib/storage/upstash.ts";
import { startFaultyGateway } from "../support/faulty-gateway.ts";
import { startObjectDoor } from "../support/object-door.ts";
import { startRedis } from "../support/redis.ts";
import { storageModel } from "./storage-model.ts";

storageModel("memory", { rollsBack: true, runs: 300 }, async () => {
  let now = Date.now();
  return {
    storage: createMemoryStorage({ now: () => now }),
    advance: (ms) => {
      now += ms;
    },
    close: async () => {},
  };
});

storageModel("durable-object", { rollsBack: true, runs: 60 }, async () => {
  const { namespace, evict, close } = await startObjectDoor();
  // Ahead of the real time, by which alarms go, so that none deletes what the clock of the test says is alive.
  let now = Date.now() + 3600_000;
  return {
    storage: createDurableObjectStorage({ namespace, partitionOf, now: () => now }),
    advance: (ms) => {
      now += ms;
    },
    disturb: async (key) => {
      await Promise.all([evict(partitionOf(key)), evict(":directory")]);
    },
    close,
  };
});

const TOKEN = "gateway-token";
const redis = await startRedis({ covers: "the Upstash storage against the model" });
afterAll(() => redis?.stop());

describe.skipIf(redis === null)("with a real Redis", () => {
  storageModel("upstash", { rollsBack: false, runs: 60 }, async () => {
    const gateway = await startFaultyGateway({ redisUrl: redis?.url ?? "", token: TOKEN });
    return {
      storage: createUpstashStorage({ url: gateway.url, token: TOKEN, timeoutMs: 5000 }),
      close: () => gateway.close(),
    };
  });
});
