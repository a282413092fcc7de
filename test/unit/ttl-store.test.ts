import { setTimeout as sleep } from "node:timers/promises";
import * as v from "valibot";
import { beforeEach, describe, expect, test } from "vitest";
import { createLogger } from "../../lib/log.ts";
import { createMemoryStorage } from "../../lib/storage/memory.ts";
import type { Storage } from "../../lib/storage/storage.ts";
import {
  type Contention,
  createTtlStore,
  type TtlPolicy,
  type TtlStoreOptions,
} from "../../lib/ttl-store.ts";
import { createTurns } from "../../lib/turns.ts";
import type { LogLine } from "../support/worker.ts";

const TTL_SECONDS = 100;
const schema = v.object({ count: v.number() });
type Counter = v.InferOutput<typeof schema>;
const plusOne = ({ count, ...rest }: Counter): Counter => ({ ...rest, count: count + 1 });

let clock: number;
let logs: LogLine[];
let memory: Storage;
beforeEach(() => {
  clock = 0;
  logs = [];
  memory = createMemoryStorage({ now: () => clock });
});
const advance = (seconds: number) => {
  clock += seconds * 1000;
};

function storeOf(policy: TtlPolicy, options: Partial<TtlStoreOptions<Counter>> = {}) {
  const log = createLogger({ now: () => clock, write: (_level, line) => logs.push(JSON.parse(line)) });
  return createTtlStore<Counter>({
    storage: memory,
    log,
    keyOf: (id) => `t:${id}`,
    schema,
    ttlSeconds: TTL_SECONDS,
    policy,
    ...options,
  });
}

/** The memory with a network in between: every call takes a moment, and calls overtake each other. */
function distant(storage: Storage, latencyMs = 2): Storage & { calls: string[] } {
  const calls: string[] = [];
  const slow = new Proxy(storage, {
    get(target, name: keyof Storage) {
      const member = target[name];
      if (typeof member !== "function") return member;
      return async (...args: unknown[]) => {
        calls.push(name);
        await sleep(Math.random() * latencyMs);
        return (member as (...args: unknown[]) => unknown).apply(target, args);
      };
    },
  });
  return Object.assign(slow, { calls });
}

const isolate = (): Contention => ({ turns: createTurns(), wait: (ms) => sleep(ms) });

describe("how long a record lives", () => {
  // Each row: what is done at 60 s of 100, and how many seconds are left right after it.
  const policies: TtlPolicy[] = ["fixed", "on-write", "sliding"];
  const left = { fixed: 40, "on-write": 40, sliding: 100 };
  const leftAfterUpdate = { fixed: 40, "on-write": 100, sliding: 100 };

  describe.each(policies)("%s", (policy) => {
    const secondsLeft = () => memory.ttl("t:a");

    test("it is there until its time is over, and not longer", async () => {
      const store = storeOf(policy);
      await store.set("a", { count: 1 });
      advance(99.999);
      expect(await store.has("a")).toBe(true);
      advance(0.001);
      expect(await store.has("a")).toBe(false);
      expect(await store.get("a")).toBeNull();
      expect(await store.touch("a")).toBeNull();
    });

    test(`a read leaves ${left[policy]} s of 100 after 60`, async () => {
      const store = storeOf(policy);
      await store.set("a", { count: 1 });
      advance(60);
      expect(await store.get("a")).toEqual({ count: 1 });
      expect(await secondsLeft()).toBe(left[policy]);
    });

    test(`an update leaves ${leftAfterUpdate[policy]} s of 100 after 60`, async () => {
      const store = storeOf(policy);
      await store.set("a", { count: 1 });
      advance(60);
      await store.update("a", plusOne);
      expect(await secondsLeft()).toBe(leftAfterUpdate[policy]);
    });

    test("a set and a touch start it anew, a question does not", async () => {
      const store = storeOf(policy);
      await store.set("a", { count: 1 });
      advance(60);
      expect(await store.has("a")).toBe(true);
      expect(await secondsLeft()).toBe(40);
      expect(await store.touch("a")).toBe(TTL_SECONDS);
      expect(await secondsLeft()).toBe(100);
      advance(60);
      await store.set("a", { count: 2 });
      expect(await secondsLeft()).toBe(100);
    });
  });

  test("a record that lives for ever still does after an update and a touch", async () => {
    for (const policy of policies) {
      const store = storeOf(policy, { ttlSeconds: null });
      await store.set("a", { count: 1 });
      await store.update("a", plusOne);
      expect(await store.touch("a")).toBe(Number.POSITIVE_INFINITY);
      expect(await memory.ttl("t:a")).toBe(Number.POSITIVE_INFINITY);
    }
  });

  test("an update that meets the last millisecond finds nothing, and creates nothing", async () => {
    const store = storeOf("fixed", { storage: { ...memory, ttl: async () => 0 } });
    await store.set("a", { count: 1 });
    expect(await store.update("a", plusOne)).toBeNull();
    expect(await memory.get("t:a")).toBe('{"count":1}');
  });

  test("a sliding read is one command", async () => {
    const storage = distant(memory);
    const store = storeOf("sliding", { storage });
    await store.get("a");
    expect(storage.calls).toEqual(["getAndTouch"]);
  });
});

describe("update", () => {
  test("never creates", async () => {
    for (const policy of ["fixed", "on-write", "sliding"] as const) {
      let asked = 0;
      const change = () => ({ count: asked++ });
      expect(await storeOf(policy).update("a", change)).toBeNull();
      expect(asked).toBe(0);
      expect((await memory.scan("")).keys).toEqual([]);
    }
  });

  test("does not bring back what is deleted while it computes", async () => {
    const store = storeOf("on-write");
    await store.set("a", { count: 1 });
    const storage: Storage = {
      ...memory,
      async compareAndSet(...args) {
        await memory.commit([{ type: "delete", key: "t:a" }]);
        return memory.compareAndSet(...args);
      },
    };
    expect(await storeOf("on-write", { storage }).update("a", plusOne)).toBeNull();
    expect(await store.has("a")).toBe(false);
  });

  test("keeps fields that the schema does not know", async () => {
    await memory.commit([
      { type: "set", key: "t:a", value: '{"count":1,"__proto__":{"x":1},"new":"field"}', ttlSeconds: 100 },
    ]);
    await storeOf("on-write").update("a", plusOne);
    expect(await memory.get("t:a")).toBe('{"__proto__":{"x":1},"new":"field","count":2}');
  });

  test("leaves alone what it cannot read, and says so without the content", async () => {
    await memory.commit([{ type: "set", key: "t:a", value: '{"count":"s3cret"}', ttlSeconds: 100 }]);
    const store = storeOf("on-write");
    expect(await store.update("a", plusOne)).toBeNull();
    expect(await store.has("a")).toBe(false);
    expect(await memory.get("t:a")).toBe('{"count":"s3cret"}');
    expect(logs[0]).toMatchObject({ event: "record.unreadable", key: "t:a" });
    expect(JSON.stringify(logs)).not.toContain("s3cret");
  });

  test("passes on what the change throws, and the next in line goes on", async () => {
    const store = storeOf("on-write", { contention: isolate() });
    await store.set("a", { count: 1 });
    const failing = store.update("a", () => {
      throw new TypeError("no");
    });
    const following = store.update("a", plusOne);
    await expect(failing).rejects.toThrow(TypeError);
    expect(await following).toEqual({ count: 2 });
  });

  test("200 at once in one isolate are all applied, soon, and nearly without a wasted command", async () => {
    const storage = distant(memory);
    const store = storeOf("sliding", { storage, contention: isolate() });
    await store.set("a", { count: 0 });
    const start = performance.now();
    const results = await Promise.all(Array.from({ length: 200 }, () => store.update("a", plusOne)));
    expect(performance.now() - start).toBeLessThan(1_500);
    expect(new Set(results.map((record) => record?.count)).size).toBe(200);
    expect(await store.get("a")).toEqual({ count: 200 });
    expect(storage.calls.filter((name) => name === "get")).toHaveLength(1);
    expect(storage.calls.filter((name) => name === "compareAndSet")).toHaveLength(200);
  });

  test.each(["fixed", "on-write"] as const)("ten isolates that fight lose none: %s", async (policy) => {
    const storage = distant(memory);
    const stores = Array.from({ length: 10 }, () => storeOf(policy, { storage, contention: isolate() }));
    await stores[0]?.set("a", { count: 0 });
    await Promise.all(
      stores.flatMap((store) => Array.from({ length: 10 }, () => store.update("a", plusOne))),
    );
    expect(await stores[0]?.get("a")).toEqual({ count: 100 });
  });

  test("without turns and without pauses, still none is lost", async () => {
    const store = storeOf("on-write");
    await store.set("a", { count: 0 });
    await Promise.all(Array.from({ length: 10 }, () => store.update("a", plusOne)));
    expect(await store.get("a")).toEqual({ count: 10 });
  });

  test("gives up with a clear error where others never leave a gap, after pauses that stay short", async () => {
    const pauses: number[] = [];
    const storage: Storage = { ...memory, compareAndSet: async () => false };
    const wait = async (ms: number) => void pauses.push(ms);
    const store = storeOf("on-write", { storage, contention: { turns: createTurns(), wait } });
    await store.set("a", { count: 1 });
    await expect(store.update("a", plusOne)).rejects.toMatchObject({
      code: "storage_unavailable",
      operation: "update",
      failure: "contended",
    });
    expect(pauses.length).toBeGreaterThan(5);
    expect(Math.max(...pauses)).toBeLessThanOrEqual(200);
    expect(await store.get("a")).toEqual({ count: 1 });
  });

  test("does not repeat an attempt whose answer was lost", async () => {
    let attempts = 0;
    const storage: Storage = {
      ...memory,
      async compareAndSet(...args) {
        attempts += 1;
        await memory.compareAndSet(...args);
        throw new Error("the answer was lost");
      },
    };
    const store = storeOf("on-write", { storage });
    await store.set("a", { count: 1 });
    await expect(store.update("a", plusOne)).rejects.toThrow("lost");
    expect(attempts).toBe(1);
    expect(await store.get("a")).toEqual({ count: 2 });
  });
});

describe("size", () => {
  test("a record of exactly the limit in bytes of UTF-8 is kept, one byte more is refused", async () => {
    const store = storeOf("on-write", { maxBytes: 23 });
    await store.set("a", { count: 1, x: "€ab" } as Counter);
    const tooLarge = { count: 1, x: "€abc" } as Counter;
    await expect(store.set("a", tooLarge)).rejects.toMatchObject({ code: "payload_too_large" });
    await expect(store.update("a", () => tooLarge)).rejects.toMatchObject({ code: "payload_too_large" });
    expect(await store.get("a")).toEqual({ count: 1, x: "€ab" });
  });
});
