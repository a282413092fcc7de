import fc from "fast-check";
import { beforeEach, describe, expect, test } from "vitest";
import {
  type ConversationState,
  createStateStore,
  getConversationStore,
  type StateStore,
  type StateStoreOptions,
} from "../../lib/conversation-state.ts";
import { parseDated, stringifyDated } from "../../lib/dated-json.ts";
import { StorageError } from "../../lib/errors.ts";
import { createLogger } from "../../lib/log.ts";
import { createMemoryStorage } from "../../lib/storage/memory.ts";
import type { TextStorage } from "../../lib/storage/storage.ts";

let clock: number;
let storage: TextStorage;
let options: StateStoreOptions;
let store: StateStore;
beforeEach(() => {
  clock = Date.parse("2026-01-01T00:00:00Z");
  const now = () => clock;
  storage = createMemoryStorage({ now });
  options = { storage, now, log: createLogger({ now, write: () => {} }) };
  store = createStateStore(options);
});
const advance = (seconds: number) => {
  clock += seconds * 1000;
};

async function roundTrip(state: unknown): Promise<unknown> {
  await store.set("c1", state as ConversationState);
  return store.get("c1");
}

test("a state comes back, can be asked for and deleted, and says whether it was there", async () => {
  expect(await store.get("c1")).toBeNull();
  await store.set("c1", { step: 2, slots: { city: "Köln" } });
  expect(await store.get("c1")).toEqual({ step: 2, slots: { city: "Köln" } });
  expect(await storage.get("conv:c1")).toBe('{"step":2,"slots":{"city":"Köln"}}');
  expect(await store.delete("c1")).toBe(true);
  expect(await store.delete("c1")).toBe(false);
});

describe("time to live", () => {
  test("an hour from the last write; reading does not renew it", async () => {
    await store.set("c1", {});
    advance(3_599.999);
    expect(await store.get("c1")).toEqual({});
    advance(0.001);
    expect(await store.get("c1")).toBeNull();
  });

  test("refreshTTL starts it anew and answers the seconds, and never creates", async () => {
    const own = createStateStore({ ...options, ttlSeconds: 60 });
    await own.set("c1", {});
    advance(59);
    expect(await own.refreshTTL("c1")).toBe(60);
    advance(59);
    expect(await own.refreshTTL("c1")).toBe(60);
    advance(60);
    expect(await own.refreshTTL("c1")).toBeNull();
    expect(await own.get("c1")).toBeNull();
  });

  test.each([0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 30 * 24 * 3600 + 1, "60" as never])(
    "%s is no time to live",
    (ttlSeconds) => {
      expect(() => createStateStore({ ...options, ttlSeconds })).toThrow(/^ttlSeconds must be/);
    },
  );

  test.each([1, 30 * 24 * 3600])("%s s is one", (ttlSeconds) => {
    expect(() => createStateStore({ ...options, ttlSeconds })).not.toThrow();
  });
});

describe("Dates", () => {
  test("come back as Dates at any depth; texts that look like them stay texts", async () => {
    const date = new Date("2026-03-29T01:02:03.456Z");
    const state = { at: date, text: date.toISOString(), deep: [{ list: [date, null, "x", [date]] }] };
    expect(await roundTrip(state)).toStrictEqual(state);
  });

  test("even one that is no date", async () => {
    const { at } = (await roundTrip({ at: new Date(Number.NaN) })) as { at: Date };
    expect(at).toBeInstanceOf(Date);
    expect(at.getTime()).toBeNaN();
  });

  test("are stored as JSON that any program can read, and answered over HTTP as ISO 8601 texts", async () => {
    await store.set("c1", { at: new Date(0) });
    expect(JSON.parse((await storage.get("conv:c1")) ?? "")).toEqual({
      at: { $date: "1970-01-01T00:00:00.000Z" },
    });
    expect(JSON.stringify(await store.get("c1"))).toBe('{"at":"1970-01-01T00:00:00.000Z"}');
  });

  test.each([
    { $date: "2026-01-01T00:00:00.000Z" },
    { a: { $date: "2026-01-01T00:00:00.000Z" } },
    { a: { $date: null } },
    { a: { $date: { $date: "2026-01-01T00:00:00.000Z" } } },
    { a: { $$date: "2026-01-01T00:00:00.000Z" }, b: { $$$date: 1 } },
    { a: { $date: "x", other: 1 }, $date: 7 },
    { a: { $date: new Date(0) }, b: { $$date: [new Date(1)] } },
    { $dates: "2026-01-01T00:00:00.000Z", date: "$date" },
  ])("somebody's own data is never taken for one: %j", async (state) => {
    expect(await roundTrip(state)).toStrictEqual(state);
  });

  test("any JSON value, sprinkled with Dates and with look-alikes of our marker, comes back as it was", () => {
    const key = fc.oneof(fc.constantFrom("$date", "$$date", "$$$date", "a", "__proto__"), fc.string());
    const { value } = fc.letrec((tie) => ({
      value: fc.oneof(
        { maxDepth: 5 },
        fc.jsonValue({ maxDepth: 1 }),
        fc.date({ noInvalidDate: true }),
        fc.constant("2026-01-01T00:00:00.000Z"),
        fc.array(tie("value"), { maxLength: 3 }),
        fc.array(fc.tuple(key, tie("value")), { maxLength: 2 }).map((entries) => Object.fromEntries(entries)),
      ),
    }));
    fc.assert(
      fc.property(value, (written) => {
        const text = stringifyDated({ written });
        const read = parseDated(text);
        expect(read).toStrictEqual({ written });
        expect(stringifyDated(read)).toBe(text);
        expect(JSON.stringify(read)).toBe(JSON.stringify({ written }));
      }),
      { numRuns: 1_000 },
    );
  });

  test("a marker that holds no date of ours is somebody else's object", () => {
    expect(parseDated('{"a":{"$date":5},"b":{"\\u0024date":"1970-01-01T00:00:00.000Z"}}')).toEqual({
      a: { $date: 5 },
      b: new Date(0),
    });
  });
});

describe("what a state may be", () => {
  test.each(['{"__proto__":{"admin":true},"constructor":{"prototype":1},"toString":null}', "{}"])(
    "keys are data: %s",
    async (text) => {
      const state = await roundTrip(JSON.parse(text));
      expect(JSON.stringify(state)).toBe(text);
      expect(Object.getPrototypeOf(state)).toBe(Object.prototype);
    },
  );

  test.each([null, undefined, 7, "text", [], [{}], new Date(0), new Map()])(
    "%s is not one, and nothing is stored",
    async (state) => {
      await expect(store.set("c1", state as never)).rejects.toMatchObject({ code: "invalid_request" });
      expect(await storage.get("conv:c1")).toBeNull();
    },
  );

  test("64 KiB is as large as one may be, 100 levels as deep", async () => {
    const ofBytes = (bytes: number) => ({ a: "x".repeat(bytes - '{"a":""}'.length) });
    await store.set("c1", ofBytes(64 * 1024));
    await expect(store.set("c1", ofBytes(64 * 1024 + 1))).rejects.toMatchObject({
      code: "payload_too_large",
    });
    const ofDepth = (depth: number) => JSON.parse(`${'{"a":'.repeat(depth)}1${"}".repeat(depth)}`);
    await store.set("c1", ofDepth(100));
    await expect(store.set("c1", ofDepth(101))).rejects.toMatchObject({ code: "invalid_request" });
    const circular: ConversationState = {};
    circular.self = circular;
    await expect(store.set("c1", circular)).rejects.toMatchObject({ code: "invalid_request" });
  });

  test("what stands there and is none is absent", async () => {
    for (const value of [
      "[]",
      "7",
      "12345678901234567890",
      '"x"',
      "null",
      "{",
      '{"$date":"1970-01-01T00:00:00.000Z"}',
    ]) {
      await storage.commit([{ type: "set", key: "conv:c1", value, ttlSeconds: 60 }]);
      expect(await store.get("c1")).toBeNull();
      expect(await store.refreshTTL("c1")).toBeNull();
    }
  });

  test.each(["", "a:b", "new", "x".repeat(129), "__proto__", "a\nb"])("%j is no id", async (id) => {
    for (const call of [store.get(id), store.set(id, {}), store.delete(id), store.refreshTTL(id)]) {
      await expect(call).rejects.toMatchObject({ code: "invalid_id" });
    }
  });
});

describe("a store of one's own", () => {
  test("keeps to its prefix, and to its time to live", async () => {
    const own = createStateStore({ ...options, keyPrefix: "we*[a]?\\", ttlSeconds: 60 });
    await own.set("c1", { mine: true });
    expect(await storage.get("we*[a]?\\c1")).toBe('{"mine":true}');
    expect(await store.get("c1")).toBeNull();
    expect(await store.delete("c1")).toBe(false);
    advance(60);
    expect(await own.get("c1")).toBeNull();
  });

  test.each(["", ":", ":directory", "elevenlabs:session:", "session:", "x".repeat(129), "\ud800"])(
    "%j is no prefix",
    (keyPrefix) => {
      expect(() => createStateStore({ ...options, keyPrefix })).toThrow(/^keyPrefix /);
    },
  );
});

describe("health", () => {
  const failing = (): Promise<never> => Promise.reject(new StorageError("test", "ping", "timeout"));

  test("says that the storage answers, and how soon", async () => {
    const slow: TextStorage = {
      ...storage,
      async ping() {
        clock += 12;
      },
    };
    expect(await createStateStore({ ...options, storage: slow }).getHealth()).toEqual({
      connected: true,
      latencyMs: 12,
      usingFallback: false,
    });
  });

  test("says that it does not answer, and why, without failing itself", async () => {
    const down = createStateStore({ ...options, storage: { ...storage, ping: failing } });
    expect(await down.getHealth()).toEqual({
      connected: false,
      latencyMs: 0,
      usingFallback: false,
      lastError: "timeout",
    });
    await expect(down.initialize()).rejects.toMatchObject({ code: "storage_unavailable" });
  });

  test("says that something stands in", async () => {
    const health = () => ({ usingFallback: true, lastError: "network" });
    expect(await createStateStore({ ...options, storage: { ...storage, health } }).getHealth()).toEqual({
      connected: false,
      latencyMs: 0,
      usingFallback: true,
      lastError: "network",
    });
  });
});

test("a closed store is closed, and its storage is not", async () => {
  await store.initialize();
  await store.set("c1", {});
  await store.close();
  await store.close();
  const calls = [
    store.initialize(),
    store.get("c1"),
    store.set("c1", {}),
    store.delete("c1"),
    store.refreshTTL("c1"),
    store.getHealth(),
  ];
  for (const call of calls) {
    await expect(call).rejects.toMatchObject({ code: "store_closed" });
  }
  expect(await createStateStore(options).get("c1")).toEqual({});
});

test("the isolate has one store, which the first call makes and closing ends", async () => {
  expect(() => getConversationStore()).toThrow(TypeError);
  const first = getConversationStore(options);
  expect(getConversationStore()).toBe(first);
  expect(getConversationStore({ ...options, keyPrefix: "other:" })).toBe(first);
  await first.set("c1", {});
  expect(await storage.get("conv:c1")).toBe("{}");
  await first.close();
  await expect(first.get("c1")).rejects.toMatchObject({ code: "store_closed" });
  expect(() => getConversationStore()).toThrow(TypeError);
  const second = getConversationStore(options);
  expect(second).not.toBe(first);
  await first.close();
  expect(getConversationStore()).toBe(second);
  await second.close();
});
