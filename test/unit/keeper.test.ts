/** The keeper of one record over a Redis that fails when told to, and a clock that the test turns. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { StorageError } from "../../lib/errors.ts";
import { createKeeper, type Keeper } from "../../lib/storage/keeper.ts";
import { createSqliteKeys, createSqliteStorage } from "../../lib/storage/sqlite.ts";
import type { TextStorage, TtlSeconds } from "../../lib/storage/storage.ts";
import { type FaultyStorage, faultyStorage } from "../support/faulty-storage.ts";
import { memorySql } from "../support/sql.ts";

const KEY = "conv:c1";

type Setup = {
  redis: FaultyStorage;
  keeper: Keeper;
  /** The keeper of the same record after its object was started anew. */
  restarted: () => Keeper;
  advance: (ms: number) => void;
};

function setUp({ keepsCopies = true } = {}): Setup {
  let clock = 1_000_000;
  const now = () => clock;
  const redis = faultyStorage(createSqliteStorage(createSqliteKeys(memorySql()), now, "redis"));
  const sql = memorySql();
  const restarted = () => createKeeper({ primary: redis, sql, now, keepsCopies });
  return {
    redis,
    keeper: restarted(),
    restarted,
    advance: (ms) => {
      clock += ms;
    },
  };
}

const set = (storage: TextStorage, value: string, ttlSeconds: TtlSeconds = 600) =>
  storage.commit([{ type: "set", key: KEY, value, ttlSeconds }]);
const create = (storage: TextStorage, value: string) =>
  storage.commit([{ type: "create", key: KEY, value, ttlSeconds: 600 }]);
const touch = (storage: TextStorage, ttlSeconds: TtlSeconds = 600) =>
  storage.commit([{ type: "touch", key: KEY, ttlSeconds }]);
const remove = (storage: TextStorage) => storage.commit([{ type: "delete", key: KEY }]);
const append = (storage: TextStorage, suffix: string) =>
  storage.update(KEY, (standing) => standing + suffix, 600);

const outOfReach = expect.objectContaining({ code: "storage_unavailable", failure: "network" });

test("a request that timed out and is carried out late does not undo what was given back", async () => {
  const { keeper, redis, advance } = setUp();
  redis.fail({ failure: "timeout" });
  await set(keeper, "given up");
  await set(keeper, "newer");
  redis.heal();
  expect(await keeper.giveBack()).toBe(true);
  await set(redis, "given up");
  expect(keeper.tidy()).toMatchObject({ keeps: true });
  advance(3_000);
  await keeper.giveBack();
  expect(await redis.get(KEY)).toBe("newer");
  expect(keeper.tidy()).toMatchObject({ keeps: false });
});

describe("while Redis is there", () => {
  test("what is written is there at once, and nothing is kept", async () => {
    const { keeper, redis } = setUp();
    await set(keeper, "a");
    await append(keeper, "b");
    expect(await redis.get(KEY)).toBe("ab");
    expect(keeper.tidy()).toMatchObject({ keeps: false, isEmpty: false });
  });

  test("every operation is one request", async () => {
    const { keeper, redis } = setUp();
    await set(keeper, "a");
    await keeper.get(KEY);
    await touch(keeper);
    await append(keeper, "b");
    await remove(keeper);
    expect(redis.asked).toEqual(["commit", "commit", "commit", "update", "commit"]);
  });

  test("a refusal is passed on, and what was refused is not kept", async () => {
    const { keeper, redis } = setUp();
    await set(keeper, "a");
    redis.fail({ failure: "rejected" });
    const refused = expect.objectContaining({ failure: "rejected" });
    await expect(set(keeper, "b")).rejects.toEqual(refused);
    await expect(append(keeper, "b")).rejects.toEqual(refused);
    await expect(remove(keeper)).rejects.toEqual(refused);
    expect(keeper.tidy()).toMatchObject({ keeps: false });
    redis.fail();
    expect(await keeper.get(KEY)).toBe("a");
  });

  test("a copy goes when Redis says that nothing stands there", async () => {
    const looks: ((keeper: Keeper) => Promise<unknown>)[] = [
      (keeper) => keeper.get(KEY),
      (keeper) => keeper.getAndTouch(KEY, 600),
      (keeper) => touch(keeper),
      (keeper) => append(keeper, "b"),
    ];
    for (const look of looks) {
      const { keeper, redis } = setUp();
      await set(keeper, "a");
      await remove(redis);
      await look(keeper);
      expect(keeper.tidy()).toMatchObject({ isEmpty: true });
    }
  });

  test("what is deleted leaves nothing behind", async () => {
    const { keeper } = setUp();
    await set(keeper, "a");
    await remove(keeper);
    expect(keeper.tidy()).toEqual({ keeps: false, nextExpiry: null, isEmpty: true });
  });

  test("a copy says when it expires, and goes then", async () => {
    const { keeper, advance } = setUp();
    await set(keeper, "a", 10);
    expect(keeper.tidy()).toEqual({ keeps: false, nextExpiry: 1_010_000, isEmpty: false });
    advance(9_999);
    expect(keeper.tidy()).toMatchObject({ isEmpty: false });
    advance(1);
    expect(keeper.tidy()).toMatchObject({ isEmpty: true });
  });
});

describe("while Redis is out of reach", () => {
  test("a text that was written before is read from its copy until its time is over, and is then unknown", async () => {
    const { keeper, redis, advance } = setUp();
    await set(keeper, "a", 600);
    redis.fail();
    advance(599_999);
    expect(await keeper.get(KEY)).toBe("a");
    advance(1);
    await expect(keeper.get(KEY)).rejects.toEqual(outOfReach);
  });

  test("what depends on a text that is not known here fails, and never says that there is none", async () => {
    const { keeper, redis } = setUp();
    await set(redis, "a");
    redis.fail();
    const dependent = [
      () => keeper.get(KEY),
      () => keeper.getAndTouch(KEY, 600),
      () => touch(keeper),
      () => create(keeper, "b"),
      () => append(keeper, "b"),
    ];
    for (const ask of dependent) await expect(ask()).rejects.toEqual(outOfReach);
    expect(keeper.tidy()).toMatchObject({ isEmpty: true });
    redis.heal();
    expect(await keeper.get(KEY)).toBe("a");
  });

  test("a commit of which one write cannot be done leaves nothing of the others", async () => {
    const { keeper, redis } = setUp();
    redis.fail();
    await expect(
      keeper.commit([
        { type: "set", key: KEY, value: "a", ttlSeconds: 600 },
        { type: "touch", key: "conv:unknown", ttlSeconds: 600 },
      ]),
    ).rejects.toEqual(outOfReach);
    expect(keeper.tidy()).toMatchObject({ keeps: false });
  });

  test("what is kept is what is read and changed from then on", async () => {
    const { keeper, redis } = setUp();
    redis.fail();
    expect(await set(keeper, "a")).toEqual([null]);
    expect(await keeper.get(KEY)).toBe("a");
    expect(await create(keeper, "never")).toEqual([false]);
    expect(await append(keeper, "b")).toBe(true);
    expect(await keeper.getAndTouch(KEY, 600)).toBe("ab");
    expect(await touch(keeper)).toEqual([true]);
    expect(await remove(keeper)).toEqual([true]);
    expect(await remove(keeper)).toEqual([false]);
    expect(await keeper.get(KEY)).toBeNull();
    expect(await keeper.getAndTouch(KEY, 600)).toBeNull();
    expect(await touch(keeper)).toEqual([false]);
    expect(await append(keeper, "c")).toBe(false);
    expect(await create(keeper, "again")).toEqual([true]);
    expect(await keeper.update(KEY, () => null, 600)).toBe(true);
    expect(await keeper.get(KEY)).toBeNull();
  });

  test("a ping says so", async () => {
    const { keeper, redis } = setUp();
    redis.fail();
    await expect(keeper.ping()).rejects.toEqual(outOfReach);
  });
});

describe("what is kept", () => {
  // Each row: what Redis holds before, what is done in the outage, and what Redis holds 100 s later.
  const text = async (storage: FaultyStorage) => [await storage.get(KEY), await storage.ttl(KEY)];
  test.each<[string, (keeper: Keeper) => Promise<unknown>, [string | null, number | null]]>([
    ["a set", (keeper) => set(keeper, "b", 600), ["b", 500]],
    ["a set for ever", (keeper) => set(keeper, "b", null), ["b", Number.POSITIVE_INFINITY]],
    ["a set whose time is over by then", (keeper) => set(keeper, "b", 100), [null, null]],
    ["a touch", (keeper) => touch(keeper, 600), ["a", 500]],
    ["a touch for ever", (keeper) => touch(keeper, null), ["a", Number.POSITIVE_INFINITY]],
    ["a read that touches", (keeper) => keeper.getAndTouch(KEY, 600), ["a", 500]],
    ["an update", (keeper) => append(keeper, "b"), ["ab", 500]],
    ["an update that removes", (keeper) => keeper.update(KEY, () => null, 600), [null, null]],
    ["a delete", remove, [null, null]],
    ["a create after a delete", (keeper) => remove(keeper).then(() => create(keeper, "b")), ["b", 500]],
  ])("is given back with the time it has left: %s", async (_, change, expected) => {
    // Once the text is still in Redis by then, and once its time there is over.
    for (const ttlSeconds of [1_000, 50]) {
      const { keeper, redis, advance } = setUp();
      await set(keeper, "a", ttlSeconds);
      redis.fail();
      await change(keeper);
      expect(keeper.tidy()).toMatchObject({ keeps: true });
      advance(100_000);
      keeper.tidy();
      redis.heal();
      expect(await keeper.giveBack()).toBe(true);
      expect(await text(redis)).toEqual(expected);
      expect(keeper.tidy()).toMatchObject({ keeps: false });
    }
  });

  test("wins over what Redis holds, where there was no copy of that", async () => {
    const { keeper, redis } = setUp();
    await set(redis, "before");
    redis.fail();
    await set(keeper, "during");
    redis.heal();
    await keeper.giveBack();
    expect(await redis.get(KEY)).toBe("during");
  });

  test("is given back before anything else is asked", async () => {
    const { keeper, redis } = setUp();
    redis.fail();
    await set(keeper, "a");
    redis.heal();
    expect(await append(keeper, "b")).toBe(true);
    expect(await redis.get(KEY)).toBe("ab");
  });

  test("is read here afterwards too, as a copy", async () => {
    const { keeper, redis } = setUp();
    redis.fail();
    await set(keeper, "a");
    redis.heal();
    await keeper.giveBack();
    redis.fail();
    expect(await keeper.get(KEY)).toBe("a");
  });

  test("stays kept while Redis is still out of reach, which giving back says without failing", async () => {
    const { keeper, redis } = setUp();
    redis.fail();
    await set(keeper, "a");
    expect(await keeper.giveBack()).toBe(false);
    expect(keeper.tidy()).toMatchObject({ keeps: true });
  });

  test("is given back again where the answer was lost", async () => {
    const { keeper, redis, advance } = setUp();
    redis.fail();
    await set(keeper, "a", 600);
    redis.fail({ isDone: true });
    expect(await keeper.giveBack()).toBe(false);
    expect(await append(keeper, "b")).toBe(true);
    advance(100_000);
    redis.heal();
    expect(await keeper.giveBack()).toBe(true);
    expect(await text(redis)).toEqual(["ab", 500]);
  });

  test("stays kept where Redis refuses it, because it was acknowledged", async () => {
    const { keeper, redis } = setUp();
    redis.fail();
    await set(keeper, "a");
    redis.fail({ failure: "rejected" });
    expect(await keeper.giveBack()).toBe(false);
    expect(await keeper.get(KEY)).toBe("a");
    redis.heal();
    expect(await keeper.giveBack()).toBe(true);
    expect(await redis.get(KEY)).toBe("a");
  });

  test("counts once where its first try had reached Redis after all", async () => {
    const { keeper, redis } = setUp();
    await set(keeper, "a");
    redis.fail({ isDone: true });
    await append(keeper, "b");
    redis.heal();
    await keeper.giveBack();
    expect(await redis.get(KEY)).toBe("ab");
  });

  test("is kept no longer than it takes to give it back, so that nothing is left of a delete", async () => {
    const { keeper, redis } = setUp();
    redis.fail();
    await remove(keeper);
    redis.heal();
    await keeper.giveBack();
    expect(keeper.tidy()).toMatchObject({ isEmpty: true });
  });
});

describe("a keeper that keeps no copies", () => {
  test("has nothing of its own while Redis is there, and then cannot read in an outage", async () => {
    const { keeper, redis } = setUp({ keepsCopies: false });
    await set(keeper, "a");
    await append(keeper, "b");
    await touch(keeper);
    expect(keeper.hasTables()).toBe(false);
    redis.fail();
    await expect(keeper.get(KEY)).rejects.toEqual(outOfReach);
    await expect(append(keeper, "b")).rejects.toEqual(outOfReach);
  });

  test("keeps what is acknowledged in an outage all the same, and forgets it once it is given back", async () => {
    const { keeper, redis } = setUp({ keepsCopies: false });
    redis.fail();
    await set(keeper, "a");
    await append(keeper, "b");
    expect(await keeper.get(KEY)).toBe("ab");
    redis.heal();
    expect(await keeper.giveBack()).toBe(true);
    expect(await redis.get(KEY)).toBe("ab");
    expect(keeper.tidy()).toMatchObject({ isEmpty: true });
  });
});

describe("updates that come at once", () => {
  const count = (storage: TextStorage) => storage.update(KEY, (text) => String(Number(text) + 1), 600);
  const many = (storage: TextStorage, times: number) =>
    Promise.all(Array.from({ length: times }, () => count(storage)));

  test("are done as one, and those that come meanwhile as the next one", async () => {
    const { keeper, redis } = setUp();
    await set(keeper, "0");
    redis.asked.splice(0);
    const first = many(keeper, 100);
    // By now the first hundred are on their way.
    await Promise.resolve();
    const second = many(keeper, 100);
    expect(new Set([...(await first), ...(await second)])).toEqual(new Set([true]));
    expect(await redis.get(KEY)).toBe("200");
    expect(redis.asked.filter((name) => name === "update").length).toBeLessThanOrEqual(2);
  });

  test("are done as one in an outage too", async () => {
    const { keeper, redis } = setUp();
    await set(keeper, "0");
    redis.fail();
    await many(keeper, 200);
    redis.heal();
    await keeper.giveBack();
    expect(await redis.get(KEY)).toBe("200");
  });

  test.each([true, false])("fail alone where one throws (Redis there: %s)", async (isThere) => {
    const { keeper, redis } = setUp();
    await set(keeper, "0");
    if (!isThere) redis.fail();
    const outcomes = await Promise.allSettled([
      count(keeper),
      keeper.update(
        KEY,
        () => {
          throw new TypeError("no");
        },
        600,
      ),
      keeper.update(KEY, () => undefined, 600),
      count(keeper),
    ]);
    expect(outcomes).toEqual([
      { status: "fulfilled", value: true },
      { status: "rejected", reason: new TypeError("no") },
      { status: "fulfilled", value: false },
      { status: "fulfilled", value: true },
    ]);
    expect(await keeper.get(KEY)).toBe("2");
  });

  test("all fail where nothing can be known, and all do nothing where nothing stands", async () => {
    const { keeper, redis } = setUp();
    expect(await many(keeper, 3)).toEqual([false, false, false]);
    redis.fail();
    const outcomes = await Promise.allSettled([count(keeper), count(keeper)]);
    expect(outcomes.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
  });

  test("after one that removes find nothing", async () => {
    const { keeper } = setUp();
    await set(keeper, "0");
    const both = Promise.all([keeper.update(KEY, () => null, 600), count(keeper)]);
    expect(await both).toEqual([true, false]);
    expect(await keeper.get(KEY)).toBeNull();
  });
});

describe("an object that is started anew", () => {
  test("still has its copies", async () => {
    const { keeper, redis, restarted } = setUp();
    await set(keeper, "a");
    redis.fail();
    expect(await restarted().get(KEY)).toBe("a");
  });

  test.each<[string, (keeper: Keeper) => Promise<unknown>, string | null]>([
    ["a set", (keeper) => set(keeper, "b"), "b"],
    ["a touch", (keeper) => touch(keeper), "a"],
    ["a delete", remove, null],
  ])("still keeps %s, and gives it back", async (_, change, expected) => {
    const { keeper, redis, restarted } = setUp();
    await set(keeper, "a");
    redis.fail();
    await change(keeper);
    expect(await restarted().get(KEY)).toBe(expected);
    redis.fail({ isDone: true });
    await restarted().giveBack();
    redis.heal();
    expect(await restarted().giveBack()).toBe(true);
    expect(await redis.get(KEY)).toBe(expected);
  });
});

// --- Random operations and outages against a plain map with a clock ---------------------------------------------

/** One text as it may stand, and until when. */
type World = { text: string | null; expiresAt: number };
type Operation =
  | { type: "set" | "create"; value: string; ttlSeconds: TtlSeconds }
  | { type: "touch" | "getAndTouch"; ttlSeconds: TtlSeconds }
  | { type: "append" | "removeIf"; value: string; ttlSeconds: TtlSeconds }
  | { type: "get" | "delete" };
type Step =
  | { do: "operation"; key: string; operation: Operation }
  | { do: "advance"; ms: number }
  | { do: "outage"; isDone: boolean }
  | { do: "heal" | "restart" | "giveBack" | "tidy" };

const GONE: World = { text: null, expiresAt: Number.POSITIVE_INFINITY };

/** What an operation answers where the world is so, and what the world is then. */
function applied(operation: Operation, before: World, now: number): { answer: unknown; after: World } {
  const { text } = before;
  const lasting = (next: string): World => {
    const ttlSeconds = "ttlSeconds" in operation ? operation.ttlSeconds : null;
    return {
      text: next,
      expiresAt: ttlSeconds === null ? Number.POSITIVE_INFINITY : now + ttlSeconds * 1_000,
    };
  };
  switch (operation.type) {
    case "set":
      return { answer: null, after: lasting(operation.value) };
    case "create":
      return { answer: text === null, after: text === null ? lasting(operation.value) : before };
    case "touch":
      return { answer: text !== null, after: text === null ? before : lasting(text) };
    case "get":
      return { answer: text, after: before };
    case "getAndTouch":
      return { answer: text, after: text === null ? before : lasting(text) };
    case "delete":
      return { answer: text !== null, after: GONE };
    case "append":
      return { answer: text !== null, after: text === null ? before : lasting(text + operation.value) };
    case "removeIf":
      return { answer: text === operation.value, after: text === operation.value ? GONE : before };
  }
}

async function asked(operation: Operation, key: string, storage: TextStorage): Promise<unknown> {
  switch (operation.type) {
    case "get":
      return storage.get(key);
    case "getAndTouch":
      return storage.getAndTouch(key, operation.ttlSeconds);
    case "append":
      return storage.update(key, (text) => text + operation.value, operation.ttlSeconds);
    case "removeIf":
      return storage.update(
        key,
        (text) => (text === operation.value ? null : undefined),
        operation.ttlSeconds,
      );
    default:
      return (await storage.commit([{ ...operation, key } as never]))[0];
  }
}

const KEYS = ["conv:a", "conv:b"];
const steps = (() => {
  const ttlSeconds = fc.constantFrom<TtlSeconds>(1, 10, 600, null);
  const value = fc.constantFrom("", "a", "b");
  const operation: fc.Arbitrary<Operation> = fc.oneof(
    fc.record({ type: fc.constantFrom("set", "create"), value, ttlSeconds }),
    fc.record({ type: fc.constantFrom("touch", "getAndTouch"), ttlSeconds }),
    fc.record({ type: fc.constantFrom("append", "removeIf"), value, ttlSeconds }),
    fc.record({ type: fc.constantFrom("get", "delete") }),
  ) as fc.Arbitrary<Operation>;
  const step: fc.Arbitrary<Step> = fc.oneof(
    {
      weight: 8,
      arbitrary: fc.record({ do: fc.constant("operation"), key: fc.constantFrom(...KEYS), operation }),
    },
    {
      weight: 2,
      arbitrary: fc.record({ do: fc.constant("advance"), ms: fc.constantFrom(1, 999, 5_000, 9_000) }),
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("outage"), isDone: fc.boolean() }) },
    {
      weight: 3,
      arbitrary: fc.record({ do: fc.constantFrom("heal", "restart", "giveBack", "tidy") }),
    },
  ) as fc.Arbitrary<Step>;
  return fc.array(step, { maxLength: 40 });
})();

describe.each([true, false])("random operations and outages (copies: %s)", (keepsCopies) => {
  // What was not acknowledged may have been done or not, so there may be more than one world.
  test("lose nothing that was acknowledged, and answer as a plain map would", {
    timeout: 120_000,
  }, async () => {
    await fc.assert(
      fc.asyncProperty(steps, async (steps) => {
        const { redis, restarted, advance } = setUp({ keepsCopies });
        let keeper = restarted();
        let now = 1_000_000;
        let outage: { isDone: boolean } | null = null;
        const worlds = new Map<string, World[]>(KEYS.map((key) => [key, [GONE]]));
        const worldsOf = (key: string) =>
          (worlds.get(key) ?? []).map((world) => (world.expiresAt <= now ? GONE : world));

        async function operate(key: string, operation: Operation): Promise<void> {
          const before = worldsOf(key);
          const next = before.map((world) => applied(operation, world, now));
          try {
            const answer = await asked(operation, key, keeper);
            // Whether something stood where it was not known may be answered either way: nothing does now.
            const isOpen = operation.type === "delete" && outage !== null;
            const possible = next.filter((one) => isOpen || one.answer === answer);
            expect(possible.length, `${JSON.stringify(operation)} answered ${answer}`).toBeGreaterThan(0);
            worlds.set(
              key,
              possible.map(({ after }) => after),
            );
          } catch (error) {
            if (!(error instanceof StorageError)) throw error;
            expect(outage, "Redis is there").not.toBeNull();
            expect(["set", "delete"], "what depends on nothing is always taken").not.toContain(
              operation.type,
            );
            if (outage?.isDone) worlds.set(key, [...before, ...next.map(({ after }) => after)]);
          }
        }

        for (const step of steps) {
          switch (step.do) {
            case "operation":
              await operate(step.key, step.operation);
              break;
            case "advance":
              now += step.ms;
              advance(step.ms);
              break;
            case "outage":
              outage = { isDone: step.isDone };
              redis.fail(outage);
              break;
            case "heal":
              outage = null;
              redis.heal();
              break;
            case "restart":
              keeper = restarted();
              break;
            case "giveBack":
              await keeper.giveBack();
              break;
            case "tidy":
              keeper.tidy();
          }
        }
        redis.heal();
        expect(await keeper.giveBack()).toBe(true);
        expect(keeper.tidy().keeps).toBe(false);
        for (const key of KEYS) {
          const ttl = await redis.ttl(key);
          const actual = {
            text: await redis.get(key),
            expiresAt: now + (ttl ?? Number.POSITIVE_INFINITY) * 1_000,
          };
          expect(worldsOf(key)).toContainEqual(actual);
        }
      }),
      { numRuns: 2_000 },
    );
  });
});
