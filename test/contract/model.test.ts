/** The drivers against the model of `storage-model.ts`. */
import { afterAll, describe } from "vitest";
import { partitionOf } from "../../lib/keys.ts";
import { createDurableObjectStorage } from "../../lib/storage/durable-object.ts";
import { createSqliteKeys, createSqliteStorage } from "../../lib/storage/sqlite.ts";
import { createUpstashStorage } from "../../lib/storage/upstash.ts";
import { startFaultyGateway } from "../support/faulty-gateway.ts";
import { startObjectDoor } from "../support/object-door.ts";
import { startRedis } from "../support/redis.ts";
import { memorySql } from "../support/sql.ts";
import { storageModel } from "./storage-model.ts";

storageModel("sqlite", { rollsBack: true, runs: 300 }, async () => {
  let now = Date.now();
  const sql = memorySql();
  return {
    storage: createSqliteStorage(createSqliteKeys(sql), () => now),
    advance: (ms) => {
      now += ms;
    },
    close: async () => sql.close(),
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
    disturb: (key) => evict(partitionOf(key)),
    close,
  };
});

const TOKEN = "gateway-token";
const redis = await startRedis({ covers: "the Upstash storage against the model" });
afterAll(() => redis?.stop());

describe.skipIf(redis === null)("with a real Redis", () => {
  storageModel("upstash", { rollsBack: false, runs: 60 }, async () => {
    const gateway = await startFaultyGateway({ redisUrl: redis?.url ?? "", token: TOKEN });
    const storage = createUpstashStorage({ url: gateway.url, token: TOKEN, timeoutMs: 5000 });
    return {
      storage,
      ttl: storage.ttl,
      close: () => gateway.close(),
    };
  });
});
