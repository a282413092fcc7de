/** Instances over one Redis and one object a record, each with a way to Redis of its own that fails when told to. */
import { afterEach, describe, expect, test, vi } from "vitest";
import { answer } from "../../lib/rpc.ts";
import { createBreaker, OF_AN_INSTANCE, withBreaker } from "../../lib/storage/breaker.ts";
import type { RecordObjects } from "../../lib/storage/durable-object.ts";
import { createElseAsk, createRecordStorage } from "../../lib/storage/fallback.ts";
import { createKeeper } from "../../lib/storage/keeper.ts";
import { createSqliteKeys, createSqliteStorage } from "../../lib/storage/sqlite.ts";
import type { TextStorage, TextWrite, TtlSeconds } from "../../lib/storage/storage.ts";
import { faultyStorage } from "../support/faulty-storage.ts";
import { memorySql } from "../support/sql.ts";

const KEY = "conv:c1";

function setUp() {
  let clock = 1_000_000;
  const now = () => clock;
  const redis = createSqliteStorage(createSqliteKeys(memorySql()), now, "redis");
  const ofObject = faultyStorage(redis);
  const keeper = createKeeper({ primary: ofObject, sql: memorySql(), now, keepsCopies: true });
  const calls: string[] = [];
  /** What a `RecordObject` does with these calls. */
  const object = {
    read: (key: string, ttlSeconds?: TtlSeconds) =>
      answer(() => (ttlSeconds === undefined ? keeper.get(key) : keeper.getAndTouch(key, ttlSeconds))),
    write: (writes: TextWrite[]) => answer(() => keeper.commit(writes)),
    swap: (key: string, expected: string, next: string | null, ttlSeconds: TtlSeconds) =>
      answer(() => keeper.update(key, (text) => (text === expected ? next : undefined), ttlSeconds)),
  };
  let isHanging = false;
  const namespace = {
    idFromName: (name: string) => name,
    get: () =>
      new Proxy(object, {
        get: (_, name: keyof typeof object) => {
          calls.push(name);
          return isHanging ? () => new Promise(() => {}) : object[name];
        },
      }),
  } as unknown as RecordObjects;

  function instance() {
    const own = faultyStorage(redis);
    const breaker = createBreaker({ now, ...OF_AN_INSTANCE, random: () => 1 });
    const watched = withBreaker(own, breaker, { refuses: false });
    return { redis: own, storage: createRecordStorage(watched, createElseAsk(breaker), namespace) };
  }
  return {
    redis,
    keeper,
    calls,
    ofObject,
    instance,
    advance: (ms: number) => {
      clock += ms;
    },
    hang: () => {
      isHanging = true;
    },
  };
}

const set = (storage: TextStorage, value: string) =>
  storage.commit([{ type: "set", key: KEY, value, ttlSeconds: 600 }]);
const append = (storage: TextStorage, suffix: string) =>
  storage.update(KEY, (standing) => standing + suffix, 600);

afterEach(() => vi.useRealTimers());

describe("a read", () => {
  test("is one request to Redis, and no call of the object", async () => {
    const { instance, redis, calls } = setUp();
    await set(redis, "a");
    const a = instance();
    expect(await a.storage.get(KEY)).toBe("a");
    expect(await a.storage.getAndTouch(KEY, 600)).toBe("a");
    expect([a.redis.asked, calls]).toEqual([["get", "getAndTouch"], []]);
  });

  test("that Redis does not answer is answered by the object, which may reach it", async () => {
    const { instance, redis } = setUp();
    await set(redis, "a");
    const a = instance();
    a.redis.fail();
    expect(await a.storage.get(KEY)).toBe("a");
    expect(await a.storage.getAndTouch(KEY, 1_200)).toBe("a");
    expect(await redis.ttl(KEY)).toBe(1_200);
  });

  test("that nobody can answer fails, and never says that there is nothing", async () => {
    const { instance, redis, ofObject } = setUp();
    await set(redis, "a");
    const a = instance();
    a.redis.fail();
    ofObject.fail({ failure: "server_error" });
    await expect(a.storage.get(KEY)).rejects.toMatchObject({
      code: "storage_unavailable",
      failure: "server_error",
    });
  });

  test("that Redis refuses is refused: the object is not asked", async () => {
    const { instance, calls } = setUp();
    const a = instance();
    a.redis.fail({ failure: "rejected" });
    await expect(a.storage.get(KEY)).rejects.toMatchObject({ failure: "rejected" });
    expect(calls).toEqual([]);
  });

  test("is not tried in Redis once three have failed, until it is time for one that finds out", async () => {
    const { instance, redis, advance } = setUp();
    await set(redis, "a");
    const a = instance();
    a.redis.fail();
    for (let i = 0; i < 10; i++) expect(await a.storage.get(KEY)).toBe("a");
    expect(a.redis.asked).toHaveLength(3);
    expect(a.storage.health?.()).toEqual({ usingFallback: true, lastError: "network" });
    a.redis.heal();
    advance(1_000);
    await a.storage.get(KEY);
    await a.storage.get(KEY);
    expect(a.redis.asked).toHaveLength(5);
    expect(a.storage.health?.()).toEqual({ usingFallback: false });
  });
});

describe("a write", () => {
  test("is done by the object, and by nobody else", async () => {
    const { instance, redis, calls } = setUp();
    const a = instance();
    await set(a.storage, "a");
    expect([await redis.get(KEY), a.redis.asked, calls]).toEqual(["a", [], ["write"]]);
  });

  test("of more than one record is a mistake", async () => {
    const { instance } = setUp();
    const mistaken = instance().storage.commit([
      { type: "delete", key: KEY },
      { type: "delete", key: "conv:c2" },
    ]);
    await expect(mistaken).rejects.toThrow(TypeError);
  });

  test("waits no longer than 3 s for an object that hangs", async () => {
    vi.useFakeTimers();
    const { instance, hang } = setUp();
    hang();
    const outcome = set(instance().storage, "a").catch((error: unknown) => error);
    await vi.advanceTimersByTimeAsync(3_000);
    expect(await outcome).toMatchObject({ driver: "durable-object", failure: "timeout" });
  });
});

describe("with two instances", () => {
  test("one 503 at one of them while it writes, and a write at the other: both are kept", async () => {
    const { instance } = setUp();
    const [a, b] = [instance(), instance()];
    await set(a.storage, "");
    b.redis.fail({ failure: "server_error" });
    await append(b.storage, "b");
    b.redis.heal();
    await append(a.storage, "a");
    expect(await a.storage.get(KEY)).toBe("ba");
    expect(await b.storage.get(KEY)).toBe("ba");
  });

  test("one that still believes in an outage that is over erases nothing", async () => {
    const { instance, ofObject } = setUp();
    const [a, b] = [instance(), instance()];
    await set(a.storage, "");
    for (const storage of [b.redis, ofObject]) storage.fail();
    for (let i = 0; i < 3; i++) await append(b.storage, "b");
    for (const storage of [b.redis, ofObject]) storage.heal();
    await append(b.storage, "B");
    await append(a.storage, "a");
    expect(await a.storage.get(KEY)).toBe("bbbBa");
  });

  test("a write in an outage wins over what Redis held before, of which nobody had a copy", async () => {
    const { instance, redis, keeper, ofObject } = setUp();
    await set(redis, "before");
    const b = instance();
    for (const storage of [b.redis, ofObject]) storage.fail();
    await set(b.storage, "during");
    for (const storage of [b.redis, ofObject]) storage.heal();
    await keeper.giveBack();
    expect(await instance().storage.get(KEY)).toBe("during");
  });

  test("a write at the one that reaches Redis comes after what the object keeps, which does not reach it", async () => {
    const { instance, keeper, ofObject } = setUp();
    const [a, b] = [instance(), instance()];
    await set(a.storage, "");
    for (const storage of [b.redis, ofObject]) storage.fail();
    await append(b.storage, "b");
    await append(a.storage, "a");
    ofObject.heal();
    await keeper.giveBack();
    expect(await a.storage.get(KEY)).toBe("ba");
  });
});

test("a ping asks Redis, because that is what is to answer", async () => {
  const { instance, calls } = setUp();
  const a = instance();
  await a.storage.ping();
  a.redis.fail();
  await expect(a.storage.ping()).rejects.toMatchObject({ failure: "network" });
  expect(calls).toEqual([]);
});
