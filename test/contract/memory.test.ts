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

  it("never holds more than 1,000 records unless told", async () => {
    const storage = createMemoryStorage({ now: () => 0 });
    for (let i = 0; i < 2500; i++) await storage.commit([setWrite(`k${i}`)]);
    const all = Array.from({ length: 2500 }, (_, i) => `k${i}`);
    const held = (await storage.getMany(all)).filter((value) => value !== null).length;
    expect(held).toBeGreaterThan(800);
    expect(held).toBeLessThanOrEqual(1000);
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
});
