/** The fallback with everything in memory: a primary that fails when told to, and a clock that the test turns. */
import { describe, expect, test } from "vitest";
import { StorageError, type StorageFailure } from "../../lib/errors.ts";
import { partitionOf } from "../../lib/keys.ts";
import { createLogger } from "../../lib/log.ts";
import { createFallback } from "../../lib/storage/fallback.ts";
import { createMemoryStorage } from "../../lib/storage/memory.ts";
import { createMemoryStandby } from "../../lib/storage/memory-standby.ts";
import type { Storage } from "../../lib/storage/storage.ts";
import { withTimeBudget } from "../../lib/storage/time-budget.ts";
import type { LogLine } from "../support/worker.ts";

const KEY = "elevenlabs:session:c1";
const LIST = "elevenlabs:conversation:c1:messages";

function setUp() {
  let clock = 1_000_000;
  const now = () => clock;
  let failure: StorageFailure | null = null;
  /** What happens to a failing write: refused before, or applied and its answer lost. */
  let answersLost = false;
  const asked: string[] = [];
  const real = createMemoryStorage({ now });
  const primary = new Proxy(real, {
    get(target, name: keyof Storage) {
      const method = target[name];
      if (typeof method !== "function") return method;
      return async (...args: unknown[]) => {
        asked.push(name);
        if (failure !== null && !answersLost) throw new StorageError("primary", name, failure);
        const result = await (method as (...args: unknown[]) => unknown).apply(target, args);
        if (failure !== null) throw new StorageError("primary", name, failure);
        return result;
      };
    },
  });
  const standby = createMemoryStandby({ now, primary, partitionOf });
  const fallback = createFallback({ primary, standby, partitionOf, now, random: () => 1 });
  const logs: LogLine[] = [];
  const log = createLogger({ now, write: (_level, line) => logs.push(JSON.parse(line)) });
  const later: Promise<unknown>[] = [];
  return {
    real,
    logs,
    asked,
    now,
    request: () => fallback.forRequest({ log, afterResponse: (work) => later.push(work) }),
    settled: () => Promise.all(later.splice(0)),
    advance: (ms: number) => {
      clock += ms;
    },
    fail(next: StorageFailure = "timeout", lost = false) {
      failure = next;
      answersLost = lost;
    },
    heal() {
      failure = null;
    },
    /** Three requests that fail, so that nobody asks any more. */
    async open() {
      this.fail();
      for (let i = 0; i < 3; i++) await this.request().ping();
    },
    /** Heals, waits for the next probe, and lets it close the breaker. */
    async recover() {
      this.heal();
      this.advance(30_000);
      await this.request().ping();
      await this.settled();
    },
  };
}

const set = (value: string, ttlSeconds = 600) => ({ type: "set", key: KEY, value, ttlSeconds }) as const;
const append = (value: string) =>
  ({ type: "append", key: LIST, value, maxLength: 10, ttlSeconds: 600 }) as const;

describe("an outage", () => {
  test("finds what was acknowledged before it", async () => {
    const world = setUp();
    await world.request().commit([set("a"), append("m1")]);
    await world.settled();
    await world.open();
    expect(await world.request().get(KEY)).toBe("a");
    expect(await world.request().range(LIST, 0, -1)).toEqual(["m1"]);
  });

  test("makes a request wait for the primary once, and then go on with the standby", async () => {
    const world = setUp();
    world.fail();
    const storage = world.request();
    world.asked.splice(0);
    await storage.commit([set("a")]);
    await storage.get(KEY);
    await storage.get(KEY);
    expect(world.asked).toEqual(["commit"]);
  });

  test("makes nobody wait once three requests have failed, and is logged once", async () => {
    const world = setUp();
    await world.open();
    world.asked.splice(0);
    for (let i = 0; i < 10; i++) await world.request().commit([set(`v${i}`)]);
    expect(world.asked).toEqual([]);
    expect(world.logs.map(({ event }) => event)).toEqual(["storage.degraded"]);
    expect(world.request().health?.()).toEqual({ usingFallback: true, lastError: "timeout" });
  });

  test("is over when a probe succeeds, which is logged once", async () => {
    const world = setUp();
    await world.open();
    await world.recover();
    expect(world.logs.map(({ event }) => event)).toEqual(["storage.degraded", "storage.recovered"]);
    expect(world.request().health?.()).toEqual({ usingFallback: false });
  });

  test("sends one probe when one is due, and more only as the waits allow", async () => {
    const world = setUp();
    await world.open();
    world.asked.splice(0);
    world.advance(1_000);
    for (let i = 0; i < 5; i++) await world.request().get(KEY);
    await world.settled();
    expect(world.asked).toEqual(["ping"]);
  });
});

describe("afterwards", () => {
  test("what was written is given back before it is looked for, with the time it has left", async () => {
    const world = setUp();
    await world.open();
    await world.request().commit([set("a", 600), append("m1")]);
    await world.recover();
    expect(await world.request().get(KEY)).toBe("a");
    expect(await world.real.get(KEY)).toBe("a");
    expect(await world.real.ttl(KEY)).toBe(570);
    expect(await world.real.range(LIST, 0, -1)).toEqual(["m1"]);
  });

  test("a scan finds what was left behind by one request that failed alone", async () => {
    const world = setUp();
    world.fail();
    const failing = world.request();
    await failing.commit([{ type: "set", key: "conv:a", value: "{}", ttlSeconds: 600 }]);
    world.heal();
    expect(await world.request().scan("conv:")).toEqual({ keys: ["conv:a"] });
  });

  test("what has expired meanwhile is not given back", async () => {
    const world = setUp();
    await world.open();
    await world.request().commit([set("a", 10)]);
    await world.recover();
    expect(await world.request().get(KEY)).toBeNull();
    expect(await world.real.get(KEY)).toBeNull();
  });

  test("something newer in the primary stays", async () => {
    const world = setUp();
    await world.open();
    await world.request().commit([set("a")]);
    await world.real.commit([set("newer")]);
    await world.recover();
    expect(await world.request().get(KEY)).toBe("newer");
  });

  test("what stood there before is no newer", async () => {
    const world = setUp();
    await world.request().commit([set("before")]);
    await world.settled();
    await world.open();
    await world.request().commit([set("during")]);
    await world.recover();
    expect(await world.request().get(KEY)).toBe("during");
  });

  test("a write whose answer was lost is no newer, and stands once in a list", async () => {
    const world = setUp();
    world.fail("network", true);
    await world.request().commit([set("first"), append("m1")]);
    await world.request().commit([set("second"), append("m2")]);
    world.heal();
    expect(await world.request().get(KEY)).toBe("second");
    expect(await world.real.range(LIST, 0, -1)).toEqual(["m1", "m2"]);
  });

  test("what was deleted is deleted", async () => {
    const world = setUp();
    await world.request().commit([set("a"), append("m1")]);
    await world.settled();
    await world.open();
    await world.request().commit([
      { type: "delete", key: KEY },
      { type: "delete", key: LIST },
    ]);
    await world.recover();
    expect(await world.request().getMany([KEY])).toEqual([null]);
    expect(await world.request().range(LIST, 0, -1)).toEqual([]);
    expect(await world.real.get(KEY)).toBeNull();
  });

  test("a claim made in it holds", async () => {
    const world = setUp();
    await world.open();
    expect(await world.request().claim(KEY, "mine", 600)).toBeNull();
    await world.recover();
    expect(await world.request().claim(KEY, "theirs", 600)).toBe("mine");
  });

  test("a claim in the primary gives way to one that was made in the standby a moment ago", async () => {
    const world = setUp();
    const failing = world.request();
    world.fail();
    expect(await failing.claim(KEY, "mine", 600)).toBeNull();
    world.heal();
    expect(await world.request().claim(KEY, "theirs", 600)).toBe("mine");
    expect(await world.real.get(KEY)).toBe("mine");
  });
});

describe("a time budget", () => {
  test("bounds the sum of what is waited for, not each", async () => {
    let clock = 0;
    const slow: Storage = {
      ...createMemoryStorage({ now: () => clock }),
      async get() {
        clock += 1_000;
        return null;
      },
    };
    const storage = withTimeBudget(slow, () => clock, 3_000);
    for (let i = 0; i < 3; i++) await storage.get(KEY);
    await expect(storage.get(KEY)).rejects.toMatchObject({ failure: "timeout" });
    storage.renew();
    expect(await storage.get(KEY)).toBeNull();
  });

  test("counts what is waited for side by side once", async () => {
    let clock = 0;
    const { promise, resolve } = Promise.withResolvers<null>();
    const slow: Storage = { ...createMemoryStorage({ now: () => clock }), get: () => promise };
    const storage = withTimeBudget(slow, () => clock, 3_000);
    const both = Promise.all([storage.get(KEY), storage.get(KEY)]);
    clock += 2_000;
    resolve(null);
    await both;
    expect(await storage.get(KEY)).toBeNull();
  });
});
