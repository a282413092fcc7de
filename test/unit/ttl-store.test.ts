import * as v from "valibot";
import { beforeEach, describe, expect, test } from "vitest";
import { createLogger } from "../../lib/log.ts";
import { createSqliteKeys, createSqliteStorage } from "../../lib/storage/sqlite.ts";
import { createTtlStore, type TtlPolicy, type TtlStoreOptions } from "../../lib/ttl-store.ts";
import { type FaultyStorage, faultyStorage } from "../support/faulty-storage.ts";
import { memorySql } from "../support/sql.ts";
import type { LogLine } from "../support/worker.ts";

const TTL_SECONDS = 100;
const KEY = "t:a";
const schema = v.object({ count: v.number() });
type Counter = v.InferOutput<typeof schema>;
const plusOne = ({ count, ...rest }: Counter): Counter => ({ ...rest, count: count + 1 });

let clock: number;
let logs: LogLine[];
let storage: FaultyStorage;
beforeEach(() => {
  clock = 0;
  logs = [];
  storage = faultyStorage(createSqliteStorage(createSqliteKeys(memorySql()), () => clock));
});
const advance = (seconds: number) => {
  clock += seconds * 1000;
};
const stands = (value: string) => storage.commit([{ type: "set", key: KEY, value, ttlSeconds: TTL_SECONDS }]);

function storeOf(policy: TtlPolicy, options: Partial<TtlStoreOptions<Counter>> = {}) {
  const log = createLogger({ now: () => clock, write: (_level, line) => logs.push(JSON.parse(line)) });
  return createTtlStore<Counter>({
    storage,
    log,
    keyOf: (id) => `t:${id}`,
    schema,
    ttlSeconds: TTL_SECONDS,
    policy,
    ...options,
  });
}

describe("how long a record lives", () => {
  const policies: TtlPolicy[] = ["on-write", "sliding"];
  /** How many seconds of 100 are left right after a read at 60 s. */
  const leftAfterRead = { "on-write": 40, sliding: 100 };

  describe.each(policies)("%s", (policy) => {
    test("it is there until its time is over, and not longer", async () => {
      const store = storeOf(policy);
      await store.set("a", { count: 1 });
      advance(99.999);
      expect(await storage.get(KEY)).not.toBeNull();
      advance(0.001);
      expect(await store.get("a")).toBeNull();
      expect(await store.touch("a")).toBeNull();
      expect(await store.update("a", plusOne)).toBeNull();
    });

    test(`a read leaves ${leftAfterRead[policy]} s of 100 after 60, in one request`, async () => {
      const store = storeOf(policy);
      await store.set("a", { count: 1 });
      advance(60);
      storage.asked.splice(0);
      expect(await store.get("a")).toEqual({ count: 1 });
      expect(storage.asked).toHaveLength(1);
      expect(await storage.ttl(KEY)).toBe(leftAfterRead[policy]);
    });

    test("a set, an update and a touch start it anew", async () => {
      const store = storeOf(policy);
      await store.set("a", { count: 1 });
      const renewals = [
        () => store.set("a", { count: 2 }),
        () => store.update("a", plusOne),
        () => store.touch("a"),
      ];
      for (const renew of renewals) {
        advance(60);
        await renew();
        expect(await storage.ttl(KEY)).toBe(TTL_SECONDS);
      }
    });

    test("for ever, if that is what it is for, also after an update and a touch", async () => {
      const store = storeOf(policy, { ttlSeconds: null });
      await store.set("a", { count: 1 });
      await store.update("a", plusOne);
      expect(await store.touch("a")).toBe(Number.POSITIVE_INFINITY);
      expect(await storage.ttl(KEY)).toBe(Number.POSITIVE_INFINITY);
    });
  });

  test("a touch answers the seconds, and null where nothing stands or what stands cannot be read", async () => {
    const store = storeOf("on-write");
    expect(await store.touch("a")).toBeNull();
    await store.set("a", { count: 1 });
    expect(await store.touch("a")).toBe(TTL_SECONDS);
    await stands("{");
    expect(await store.touch("a")).toBeNull();
  });
});

describe("update", () => {
  test("never creates", async () => {
    let asked = 0;
    expect(await storeOf("on-write").update("a", () => ({ count: asked++ }))).toBeNull();
    expect([asked, await storage.get(KEY)]).toEqual([0, null]);
  });

  test("answers what the record is now, and none of twenty at once is lost", async () => {
    const store = storeOf("on-write");
    await store.set("a", { count: 0 });
    const results = await Promise.all(Array.from({ length: 20 }, () => store.update("a", plusOne)));
    expect(new Set(results.map((record) => record?.count)).size).toBe(20);
    expect(await store.get("a")).toEqual({ count: 20 });
  });

  test("answers what became of the last try where the storage needs more than one", async () => {
    const store = storeOf("on-write", {
      storage: {
        ...storage,
        async update(_key, change) {
          change('{"count":1}');
          return change('{"count":5}') !== undefined;
        },
      },
    });
    expect(await store.update("a", plusOne)).toEqual({ count: 6 });
  });

  test("answers null where the record was gone by the last try", async () => {
    const store = storeOf("on-write", {
      storage: {
        ...storage,
        async update(_key, change) {
          change('{"count":1}');
          return false;
        },
      },
    });
    expect(await store.update("a", plusOne)).toBeNull();
  });

  test("keeps fields that the schema does not know", async () => {
    await stands('{"count":1,"__proto__":{"x":1},"new":"field"}');
    await storeOf("on-write").update("a", plusOne);
    expect(await storage.get(KEY)).toBe('{"__proto__":{"x":1},"new":"field","count":2}');
  });

  test("leaves alone what it cannot read, and says so without the content", async () => {
    await stands('{"count":"s3cret"}');
    expect(await storeOf("on-write").update("a", plusOne)).toBeNull();
    expect(await storage.get(KEY)).toBe('{"count":"s3cret"}');
    expect(logs).toMatchObject([
      { level: "error", event: "record.unreadable", key: KEY, reasons: ["count must be number"] },
    ]);
    expect(JSON.stringify(logs)).not.toContain("s3cret");
  });

  test("passes on what the change throws, and has then changed nothing", async () => {
    const store = storeOf("on-write");
    await store.set("a", { count: 1 });
    const failing = store.update("a", () => {
      throw new TypeError("no");
    });
    await expect(failing).rejects.toThrow(new TypeError("no"));
    expect(await store.get("a")).toEqual({ count: 1 });
  });

  test("passes on that the storage is out of reach, whether it was done or not", async () => {
    for (const isDone of [true, false]) {
      const store = storeOf("on-write");
      await store.set("a", { count: 1 });
      storage.fail({ isDone });
      await expect(store.update("a", plusOne)).rejects.toMatchObject({ code: "storage_unavailable" });
      storage.heal();
      expect(await store.get("a")).toEqual({ count: isDone ? 2 : 1 });
    }
  });
});

describe("a record that stands", () => {
  test("is deleted once", async () => {
    const store = storeOf("on-write");
    await store.set("a", { count: 1 });
    expect([await store.delete("a"), await store.delete("a")]).toEqual([true, false]);
  });

  test("is not replaced by one that is only to be created", async () => {
    const store = storeOf("on-write");
    const create = (count: number) => storage.commit([store.createWrite("a", { count })]);
    expect([await create(1), await create(2)]).toEqual([[true], [false]]);
    expect(await store.get("a")).toEqual({ count: 1 });
  });

  test("of an earlier version is read as one of today, and stays as it is", async () => {
    await stands('{"number":7}');
    const store = storeOf("on-write", {
      upgrade: (value) => ({ count: (value as { number: number }).number }),
    });
    expect(await store.get("a")).toEqual({ count: 7 });
    expect(await storage.get(KEY)).toBe('{"number":7}');
  });
});

describe("size", () => {
  test("a record of exactly the limit in bytes of UTF-8 is kept, one byte more is refused", async () => {
    const store = storeOf("on-write", { maxBytes: 23 });
    await store.set("a", { count: 1, x: "€ab" } as Counter);
    const tooLarge = { count: 1, x: "€abc" } as Counter;
    const refusal = { code: "payload_too_large", maxBytes: 23 };
    await expect(store.set("a", tooLarge)).rejects.toMatchObject(refusal);
    await expect(store.update("a", () => tooLarge)).rejects.toMatchObject(refusal);
    expect(await store.get("a")).toEqual({ count: 1, x: "€ab" });
  });
});
