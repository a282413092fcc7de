import { describe, expect, it } from "vitest";
import { createMemoryStorage } from "../../lib/storage/memory.ts";
import { textStorageContract } from "./storage-contract.ts";

textStorageContract("memory", async () => {
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
  const setWrite = (key: string) => ({ type: "set", key, value: "v", ttlSeconds: null }) as const;
  const all = Array.from({ length: 1_001 }, (_, i) => `k${i}`);

  it("holds 1,000 texts unless told, and lets the one go that was used longest ago", async () => {
    const storage = createMemoryStorage({ now: () => 0 });
    await storage.commit(all.slice(0, 1_000).map(setWrite));
    await storage.get("k0");
    await storage.commit([{ type: "touch", key: "k1", ttlSeconds: null }, setWrite("k1000")]);
    const texts = await storage.commit(all.map((key) => ({ type: "get", key }) as const));
    expect(all.filter((_, i) => texts[i] === null)).toEqual(["k2"]);
  });

  it("holds as many as it is told to", async () => {
    const storage = createMemoryStorage({ now: () => 0, maxRecords: 2 });
    await storage.commit(["a", "b", "c"].map(setWrite));
    expect([await storage.get("a"), await storage.get("b"), await storage.get("c")]).toEqual([
      null,
      "v",
      "v",
    ]);
  });
});
