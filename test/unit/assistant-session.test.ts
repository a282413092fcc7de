import { beforeEach, describe, expect, test } from "vitest";
import { type AssistantSessions, createAssistantSessions } from "../../lib/assistant-session.ts";
import { parseJsonObject, stringifyJson } from "../../lib/json.ts";
import { createLogger } from "../../lib/log.ts";
import { createSqliteKeys, createSqliteStorage } from "../../lib/storage/sqlite.ts";
import type { Storage } from "../../lib/storage/storage.ts";
import { memorySql } from "../support/sql.ts";

const KEY = "session:c1";
const NEUTRAL = {
  brand: null,
  category: null,
  price: null,
  city: null,
  gender: null,
  intentSpecific: {},
  lastQuery: "",
  lastAnswer: "",
};

let clock: number;
let storage: Storage;
let memories: AssistantSessions;
beforeEach(() => {
  clock = 0;
  storage = createSqliteStorage(createSqliteKeys(memorySql()), () => clock);
  memories = createAssistantSessions({
    storage,
    log: createLogger({ now: () => clock, write: () => {} }),
  });
});
const advance = (seconds: number) => {
  clock += seconds * 1000;
};

test("only the domain must be given; everything else gets its neutral value, also in the record", async () => {
  const complete = { domain: "shopping", ...NEUTRAL };
  expect(await memories.saveSession("c1", { domain: "shopping" })).toEqual(complete);
  expect(await memories.getSession("c1")).toEqual(complete);
  expect(JSON.parse((await storage.get(KEY)) ?? "")).toEqual(complete);
});

test("every field comes back, and fields that nobody knows do too", async () => {
  const state = {
    domain: "flights",
    brand: "Condor",
    category: "one-way",
    price: 99.5,
    city: "Rome",
    gender: "women",
    intentSpecific: { occasion: "wedding", guests: [2, { children: null }], urgent: true },
    lastQuery: "cheaper?",
    lastAnswer: "no",
    lastImageUrl: "https://img.example/1.png",
    loyalty: { tier: ["gold"] },
  } as const;
  await memories.saveSession("c1", state);
  expect(await memories.getSession("c1")).toStrictEqual(state);
});

test("the image may be known to be none, which is not the same as left out", async () => {
  const saved = await memories.saveSession("c1", { domain: "hotel", lastImageUrl: null });
  expect(saved).toHaveProperty("lastImageUrl", null);
  expect(await memories.getSession("c1")).toEqual(saved);
  expect(await memories.updateSession("c1", { lastImageUrl: "https://img.example/2.png" })).toMatchObject({
    lastImageUrl: "https://img.example/2.png",
  });
  expect(await memories.updateSession("c1", { lastImageUrl: null })).toEqual(saved);
  expect(await memories.saveSession("c1", { domain: "hotel" })).not.toHaveProperty("lastImageUrl");
});

describe("an intent", () => {
  test.each([true, false])(
    "of the first version, %s, reads as one of which nothing is known",
    async (stored) => {
      const value = JSON.stringify({ domain: "hotel", ...NEUTRAL, intentSpecific: stored, extra: 1 });
      await storage.commit([{ type: "set", key: KEY, value, ttlSeconds: 600 }]);
      expect(await memories.getSession("c1")).toEqual({ domain: "hotel", ...NEUTRAL, extra: 1 });
      expect(await memories.updateSession("c1", { intentSpecific: { stars: 4 } })).toMatchObject({
        intentSpecific: { stars: 4 },
        extra: 1,
      });
    },
  );

  test("is replaced whole, and keeps every key and number that was sent", async () => {
    const text = '{"__proto__":{"x":1},"id":12345678901234567890,"far":1e20,"deep":[{"a":null}]}';
    await memories.saveSession("c1", { domain: "hotel", intentSpecific: { before: 1 } });
    await memories.updateSession("c1", parseJsonObject(`{"intentSpecific":${text}}`));
    expect(await storage.get(KEY)).toContain(`"intentSpecific":${text}`);
  });
});

test.each([
  ["0", 0],
  ["99.5", 99.5],
  ["1e5", 100_000],
  ["1e20", 1e20],
])("a price may be written as %s", async (text, price) => {
  await memories.saveSession("c1", parseJsonObject(`{"domain":"hotel","price":${text}}`));
  expect(await memories.getSession("c1")).toMatchObject({ price });
});

test("keys are data and numbers keep their digits", async () => {
  const text =
    '{"domain":"hotel","__proto__":{"x":1},"constructor":2,"id":12345678901234567890,"zero":-0,"tiny":1e-400,"far":1e20}';
  await memories.saveSession("c1", parseJsonObject(text));
  await memories.updateSession("c1", { city: "Oslo" });
  const stored = (await storage.get(KEY)) ?? "";
  expect(stored.startsWith(text.slice(0, -1))).toBe(true);
  expect(stringifyJson(await memories.getSession("c1"))).toBe(stored);
});

test("saving replaces the whole: what is left out is gone", async () => {
  await memories.saveSession("c1", { domain: "hotel", city: "Oslo", extra: 1 });
  await memories.saveSession("c1", { domain: "hotel" });
  expect(await memories.getSession("c1")).toEqual({ domain: "hotel", ...NEUTRAL });
});

describe("time to live", () => {
  test("every read and write makes it live another 1,800 s", async () => {
    await memories.saveSession("c1", { domain: "general" });
    const renewals = [
      () => memories.getSession("c1"),
      () => memories.updateSession("c1", { city: "Oslo" }),
      () => memories.refreshSessionTTL("c1"),
      () => memories.saveSession("c1", { domain: "general" }),
    ];
    for (const renew of renewals) {
      advance(1_799.999);
      expect(await renew()).not.toBeNull();
      expect(await storage.ttl(KEY)).toBe(1_800);
    }
    advance(1_800);
    expect(await memories.getSession("c1")).toBeNull();
  });

  test("refreshing answers the seconds, and null where there is nothing", async () => {
    expect(await memories.refreshSessionTTL("c1")).toBeNull();
    await memories.saveSession("c1", { domain: "general" });
    expect(await memories.refreshSessionTTL("c1")).toBe(1_800);
  });
});

describe("updating", () => {
  test("replaces the named fields whole and keeps the others", async () => {
    await memories.saveSession("c1", { domain: "hotel", city: "Oslo", filters: { stars: 4, pool: true } });
    expect(await memories.updateSession("c1", { brand: "Scandic", filters: { stars: 5 } })).toEqual({
      domain: "hotel",
      ...NEUTRAL,
      city: "Oslo",
      brand: "Scandic",
      filters: { stars: 5 },
    });
    expect(await memories.updateSession("c1", { city: null })).toMatchObject({ city: null });
  });

  test("of what is absent is null and creates nothing", async () => {
    expect(await memories.updateSession("c1", { domain: "hotel" })).toBeNull();
    expect(await storage.get(KEY)).toBeNull();
  });

  test("200 times at once loses none", async () => {
    await memories.saveSession("c1", { domain: "general" });
    await Promise.all(
      Array.from({ length: 200 }, (_, i) => memories.updateSession("c1", { [`field${i}`]: i })),
    );
    const memory = await memories.getSession("c1");
    expect(memory).toMatchObject(Object.fromEntries(Array.from({ length: 200 }, (_, i) => [`field${i}`, i])));
  });

  test("cannot make it grow beyond 64 KiB", async () => {
    await memories.saveSession("c1", { domain: "general", a: "x".repeat(40_000) });
    await expect(memories.updateSession("c1", { b: "x".repeat(40_000) })).rejects.toMatchObject({
      code: "payload_too_large",
    });
    expect(await memories.getSession("c1")).not.toHaveProperty("b");
  });
});

test("clearing says whether there was one", async () => {
  await memories.saveSession("c1", { domain: "general" });
  expect(await memories.clearSession("c1")).toBe(true);
  expect(await memories.clearSession("c1")).toBe(false);
  expect(await memories.getSession("c1")).toBeNull();
});

describe("what is refused, in a save and in an update, and leaves the memory as it was", () => {
  test.each<[string, object]>([
    ["domain", { domain: "cars" }],
    ["domain", { domain: null }],
    ["price", { price: -0.01 }],
    ["price", { price: "9" }],
    ["price", { price: Number.NaN }],
    ["price", { price: Number.POSITIVE_INFINITY }],
    ["price", { price: parseJsonObject('{"p":12345678901234567890}').p }],
    ["brand", { brand: 7 }],
    ["city", { city: ["Oslo"] }],
    ["gender", { gender: "both" }],
    ["price", { price: parseJsonObject('{"p":1e400}').p }],
    ["intentSpecific", { intentSpecific: "true" }],
    ["intentSpecific", { intentSpecific: true }],
    ["intentSpecific", { intentSpecific: ["hotel"] }],
    ["intentSpecific", { intentSpecific: null }],
    ["intentSpecific", { intentSpecific: parseJsonObject('{"i":1e20}').i }],
    ["lastQuery", { lastQuery: null }],
    ["lastImageUrl", { lastImageUrl: 7 }],
  ])("%s of %j", async (path, fields) => {
    const before = await memories.saveSession("c1", { domain: "general" });
    const refusal = { code: "invalid_request", issues: [{ path }] };
    await expect(memories.saveSession("c1", { domain: "hotel", ...fields })).rejects.toMatchObject(refusal);
    await expect(memories.updateSession("c1", fields)).rejects.toMatchObject(refusal);
    expect(await memories.getSession("c1")).toEqual(before);
  });

  test("a save without a domain", async () => {
    await expect(memories.saveSession("c1", {})).rejects.toMatchObject({
      issues: [{ path: "domain", message: expect.any(String) }],
    });
  });

  test("what says nothing repeats what was sent", async () => {
    const error = await memories.saveSession("c1", { domain: "s3cret", price: "s3cret" }).catch(String);
    expect(String(error)).not.toContain("s3cret");
  });
});
