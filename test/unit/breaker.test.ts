import { describe, expect, test } from "vitest";
import { StorageError } from "../../lib/errors.ts";
import {
  type Breaker,
  type BreakerEvents,
  createBreaker,
  OF_AN_INSTANCE,
  OF_AN_OBJECT,
  withBreaker,
} from "../../lib/storage/breaker.ts";
import { createSqliteKeys, createSqliteStorage } from "../../lib/storage/sqlite.ts";
import { faultyStorage } from "../support/faulty-storage.ts";
import { memorySql } from "../support/sql.ts";

function setUp({
  random = 1,
  ...options
}: {
  random?: number;
  failuresToOpen?: number;
  longestWaitMs?: number;
} = {}) {
  let clock = 1_000_000;
  const breaker = createBreaker({ now: () => clock, ...OF_AN_INSTANCE, ...options, random: () => random });
  const fail = () => breaker.failed("timeout");
  return {
    breaker,
    fail,
    open: () => [fail(), fail(), fail()],
    isOpen: () => breaker.openBecause() !== null,
    now: () => clock,
    advance: (ms: number) => {
      clock += ms;
    },
    /** The waits until each of the next `count` tries, in ms, to the millisecond. */
    waits: (count: number): number[] =>
      Array.from({ length: count }, () => {
        const waitMs = (breaker.nextTryAt() ?? 0) - clock;
        clock += waitMs - 1;
        expect(breaker.mayTry()).toBe(false);
        clock += 1;
        expect(breaker.mayTry()).toBe(true);
        return waitMs;
      }),
  };
}

describe("a breaker", () => {
  test("opens at the third failure in a row, and says so once", () => {
    const { fail, isOpen } = setUp();
    expect([fail(), fail(), isOpen(), fail(), isOpen(), fail()]).toEqual([
      false,
      false,
      false,
      true,
      true,
      false,
    ]);
  });

  test("of an object opens at the first", () => {
    const { fail, isOpen } = setUp(OF_AN_OBJECT);
    expect([fail(), isOpen()]).toEqual([true, true]);
  });

  test("begins its count anew with a success", () => {
    const { breaker, fail, isOpen } = setUp();
    fail();
    fail();
    expect(breaker.succeeded()).toBeNull();
    expect([fail(), fail(), isOpen()]).toEqual([false, false, false]);
  });

  test("says what went wrong last while it is open, and nothing while it is closed", () => {
    const { breaker, open } = setUp();
    breaker.failed("network");
    expect([breaker.openBecause(), breaker.nextTryAt()]).toEqual([null, null]);
    open();
    breaker.failed("rate_limited");
    expect(breaker.openBecause()).toBe("rate_limited");
  });

  test("lets anybody through while it is closed, and nobody while it is open", () => {
    const { breaker, open } = setUp();
    expect([breaker.mayTry(), breaker.mayTry()]).toEqual([true, true]);
    open();
    expect([breaker.mayTry(), breaker.mayTry()]).toEqual([false, false]);
  });

  test("lets one through after 1, 2, 4 … 30 s", () => {
    const { open, waits } = setUp();
    open();
    expect(waits(7)).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
  });

  test("of an object lets one through every 5 s at the least", () => {
    const { fail, waits } = setUp(OF_AN_OBJECT);
    fail();
    expect(waits(5)).toEqual([1_000, 2_000, 4_000, 5_000, 5_000]);
  });

  test("waits down to half as long, at random", () => {
    const { open, waits } = setUp({ random: 0 });
    open();
    expect(waits(3)).toEqual([500, 1_000, 2_000]);
  });

  test("lets nobody else through while one is out", () => {
    const { breaker, open, advance } = setUp();
    open();
    advance(1_000);
    expect([breaker.mayTry(), breaker.mayTry()]).toEqual([true, false]);
  });

  test("closes once, and says for how long it was open", () => {
    const { breaker, open, isOpen, advance } = setUp();
    open();
    advance(1_500);
    expect([breaker.succeeded(), breaker.succeeded(), isOpen()]).toEqual([1_500, null, false]);
  });

  test("begins with short waits again when it opens again", () => {
    const { breaker, open, waits } = setUp();
    open();
    waits(4);
    breaker.succeeded();
    expect(open()).toEqual([false, false, true]);
    expect(waits(2)).toEqual([1_000, 2_000]);
  });
});

describe("a storage behind a breaker", () => {
  function guarded({ refuses = true, ...events }: BreakerEvents & { refuses?: boolean } = {}) {
    const { breaker, advance, now } = setUp();
    const redis = faultyStorage(createSqliteStorage(createSqliteKeys(memorySql()), now, "redis"));
    return {
      redis,
      advance,
      breaker: breaker as Breaker,
      storage: withBreaker(redis, breaker, { refuses, ...events }),
    };
  }

  test("is asked until three calls have failed, and then not at all", async () => {
    const { storage, redis } = guarded();
    redis.fail({ failure: "network" });
    const calls = [
      () => storage.get("k"),
      () => storage.commit([{ type: "delete", key: "k" }]),
      () => storage.update("k", () => "v", 1),
      () => storage.getMany(["k"]),
      () => storage.getAndTouch("k", 1),
      () => storage.ttl("k"),
      () => storage.range("k", 0, 1),
      () => storage.listIndex("k", { limit: 1 }),
      () => storage.readLog("k", { limit: 1 }),
      () => storage.ping(),
    ];
    for (const call of calls)
      await expect(call()).rejects.toMatchObject({ driver: "redis", failure: "network" });
    expect(redis.asked).toEqual(["get", "commit", "update"]);
  });

  test("is asked again when its time has come, and goes on if it answers", async () => {
    const { storage, redis, advance } = guarded();
    redis.fail();
    for (let i = 0; i < 3; i++) await storage.ping().catch(() => {});
    redis.heal();
    await expect(storage.ping()).rejects.toThrow(StorageError);
    advance(1_000);
    await storage.ping();
    await storage.ping();
    expect(storage.health?.()).toEqual({ usingFallback: false });
  });

  test("is asked every time where nobody else could answer, and is still watched", async () => {
    const { storage, redis } = guarded({ refuses: false });
    redis.fail();
    for (let i = 0; i < 5; i++) await expect(storage.ping()).rejects.toMatchObject({ failure: "network" });
    expect(redis.asked).toHaveLength(5);
    expect(storage.health?.()).toEqual({ usingFallback: true, lastError: "network" });
    redis.heal();
    await storage.ping();
    expect(storage.health?.()).toEqual({ usingFallback: false });
  });

  test("counts a refusal, and any fault of the caller, as no failure", async () => {
    const { storage, redis } = guarded();
    const fail = async (times: number) => {
      redis.fail();
      for (let i = 0; i < times; i++) await storage.ping().catch(() => {});
    };
    await fail(2);
    redis.fail({ failure: "rejected" });
    await expect(storage.get("k")).rejects.toMatchObject({ failure: "rejected" });
    await fail(2);
    expect(storage.health?.()).toEqual({ usingFallback: false });
    redis.heal();
    await storage.commit([{ type: "set", key: "k", value: "v", ttlSeconds: null }]);
    for (let i = 0; i < 5; i++) {
      const mistaken = storage.update(
        "k",
        () => {
          throw new TypeError("no");
        },
        1,
      );
      await expect(mistaken).rejects.toThrow(TypeError);
    }
    expect(storage.health?.()).toEqual({ usingFallback: false });
  });

  test("tells when nobody waits for it any more, and for how long that was", async () => {
    const told: unknown[] = [];
    const { storage, redis, advance } = guarded({
      degraded: (...args) => told.push(args),
      recovered: (downMs) => told.push(downMs),
    });
    redis.fail();
    for (let i = 0; i < 5; i++) await storage.get("k").catch(() => {});
    expect(storage.health?.()).toEqual({ usingFallback: true, lastError: "network" });
    redis.heal();
    advance(1_500);
    await storage.get("k");
    await storage.get("k");
    expect(told).toEqual([["get", "network"], 1_500]);
  });
});
