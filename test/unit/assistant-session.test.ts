import { setTimeout as sleep } from "node:timers/promises";
import { beforeEach, describe, expect, test } from "vitest";
import { type AssistantSessions, createAssistantSessions } from "../../lib/assistant-session.ts";
import { parseJsonObject, stringifyJson } from "../../lib/json.ts";
import { createLogger } from "../../lib/log.ts";
import { createMemoryStorage } from "../../lib/storage/memory.ts";
import type { Storage } from "../../lib/storage/storage.ts";
import { createTurns } from "../../lib/turns.ts";

const KEY = "session:c1";
const NEUTRAL = {
  brand: null,
  category: null,
  price: null,
  city: null,
  gender: null,
  intentSpecific: false,
  lastQuery: "",
  lastAnswer: "",
};

let clock: number;
let storage: Storage;
let memories: AssistantSessions;
beforeEach(() => {
  clock = 0;
  storage = createMemoryStorage({ now: () => clock });
  memories = createAssistantSessions({
    storage,
    log: createLogger({ now: () => clock, write: () => {} }),
    contention: { turns: createTurns(), wait: (ms) => sleep(ms) },
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
    intentSpecific: true,
    lastQuery: "cheaper?",
    lastAnswer: "no",
    lastImageUrl: "https://img.example/1.png",
    loyalty: { tier: ["gold"] },
  } as const;
  await memories.saveSession("c1", state);
  expect(await memories.getSession("c1")).toStrictEqual(state);
});

test("keys are data and numbers keep their digits", async () => {
  const text =
    '{"domain":"hotel","__proto__":{"x":1},"constructor":2,"id":12345678901234567890,"zero":-0,"tiny":1e-400}';
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
    expect((await storage.scan("")).keys).toEqual([]);
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
    ["intentSpecific", { intentSpecific: "true" }],
    ["lastQuery", { lastQuery: null }],
    ["lastImageUrl", { lastImageUrl: null }],
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
