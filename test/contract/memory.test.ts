import { describe, expect, it } from "vitest";
import { createMemoryStorage } from "../../lib/storage/memory.ts";
import { storageContract } from "./storage-contract.ts";

storageContract("memory", { rollsBack: true }, async () => {
  let now = Date.now();
  return {
    storage: createMemoryStorage({ now: () => now }),
    advance: (ms) => {
      now += ms;
    },
    close: async () => {},
  };
});

describe("memory storage", () => {
  const setWrite = (key: string, ttlSeconds: number | null = null) =>
    ({ type: "set", key, value: "v", ttlSeconds }) as const;

  it("lets go of the fifth that was written longest ago when it is full", async () => {
    const storage = createMemoryStorage({ now: () => 0, maxRecords: 10 });
    for (let i = 0; i < 10; i++) await storage.commit([setWrite(`k${i}`)]);
    await storage.commit([setWrite("k0"), { type: "touch", key: "k1", ttlSeconds: null }]);
    await storage.get("k2");
    await storage.commit([setWrite("k10")]);
    const left = (await storage.scan("k")).keys.toSorted();
    expect(left).toEqual(["k0", "k1", "k10", "k4", "k5", "k6", "k7", "k8", "k9"]);
  });

  it("holds 1,000 records unless told, and lets 200 go for the next", async () => {
    const storage = createMemoryStorage({ now: () => 0 });
    const all = Array.from({ length: 1001 }, (_, i) => `k${i}`);
    const held = async () => {
      const texts = await storage.getMany(all);
      return all.filter((_, i) => texts[i] !== null);
    };
    for (const key of all.slice(0, 1000)) await storage.commit([setWrite(key)]);
    expect(await held()).toEqual(all.slice(0, 1000));
    await storage.commit([setWrite("k1000")]);
    expect(await held()).toEqual(all.slice(200));
  });

  it("counts a list and an index as one record each, as new as their last write", async () => {
    const storage = createMemoryStorage({ now: () => 0, maxRecords: 5 });
    const add = (value: string) =>
      storage.commit([
        { type: "append", key: "list", value, maxLength: 100, ttlSeconds: null },
        { type: "index", key: "index", member: value, score: 1 },
      ]);
    for (let i = 0; i < 50; i++) await add(`entry ${i}`);
    for (const key of ["a", "b", "c"]) await storage.commit([setWrite(key)]);
    expect(await storage.range("list", 0, -1)).toHaveLength(50);
    expect((await storage.listIndex("index", { limit: 100 })).entries).toHaveLength(50);
    await add("last");
    await storage.commit([setWrite("d")]);
    expect(await storage.getMany(["a", "b", "c", "d"])).toEqual([null, "v", "v", "v"]);
    expect(await storage.range("list", 0, -1)).toHaveLength(51);
    expect((await storage.listIndex("index", { limit: 100 })).entries).toHaveLength(51);
  });

  it("does not count what was deleted, whatever deleted it", async () => {
    const storage = createMemoryStorage({ now: () => 0, maxRecords: 10 });
    for (let i = 0; i < 7; i++) await storage.commit([setWrite(`k${i}`)]);
    for (let round = 0; round < 20; round++) {
      await storage.commit([
        setWrite("deleted"),
        { type: "append", key: "emptied list", value: "v", maxLength: 1, ttlSeconds: null },
        { type: "index", key: "emptied index", member: "m", score: 1 },
      ]);
      await storage.compareAndSet("deleted", "v", null, null);
      await storage.commit([
        { type: "remove", key: "emptied list", value: "v" },
        round % 2 === 0
          ? { type: "unindex", key: "emptied index", member: "m" }
          : { type: "prune", key: "emptied index", belowScore: 2 },
      ]);
    }
    expect((await storage.scan("")).keys).toEqual(["k0", "k1", "k2", "k3", "k4", "k5", "k6"]);
  });

  it("keeps the order of a full list over any number of appends", async () => {
    const storage = createMemoryStorage({ now: () => 0 });
    for (let i = 0; i < 100; i++) {
      const append = { type: "append", key: "list", value: `${i}`, maxLength: 7, ttlSeconds: null } as const;
      expect(await storage.commit([append])).toEqual([i < 7 ? 0 : 1]);
      const expected = Array.from({ length: Math.min(7, i + 1) }, (_, k) => `${Math.max(0, i - 6) + k}`);
      expect(await storage.range("list", 0, -1)).toEqual(expected);
      expect(await storage.range("list", -2, 100)).toEqual(expected.slice(-2));
    }
  });

  it("makes room by sweeping what has expired, before it evicts what lives", async () => {
    let now = 0;
    const storage = createMemoryStorage({ now: () => now, maxRecords: 10 });
    await storage.commit([setWrite("oldest, but living")]);
    for (let i = 0; i < 9; i++) await storage.commit([setWrite(`k${i}`, 1)]);
    now = 5 * 60_000;
    await storage.commit([setWrite("new")]);
    expect((await storage.scan("")).keys).toEqual(["new", "oldest, but living"]);
  });

  it("lets a key that was emptied within a commit become one of another kind", async () => {
    const storage = createMemoryStorage({ now: () => 0 });
    const results = await storage.commit([
      { type: "index", key: "k", member: "m", score: 1 },
      { type: "prune", key: "k", belowScore: 2 },
      { type: "append", key: "k", value: "v", maxLength: 1, ttlSeconds: null },
      { type: "remove", key: "k", value: "v" },
      { type: "create", key: "k", value: "text", ttlSeconds: null },
    ]);
    expect(results).toEqual([null, 1, 0, 1, "text"]);
  });
});
