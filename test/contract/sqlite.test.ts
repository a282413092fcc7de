import { describe, expect, it } from "vitest";
import { createSqliteKeys, createSqliteStorage } from "../../lib/storage/sqlite.ts";
import { memorySql } from "../support/sql.ts";
import { storageContract } from "./storage-contract.ts";

storageContract("sqlite", { rollsBack: true }, async () => {
  let now = Date.now();
  const sql = memorySql();
  return {
    storage: createSqliteStorage(createSqliteKeys(sql), () => now),
    advance: (ms) => {
      now += ms;
    },
    close: async () => sql.close(),
  };
});

describe("sqlite storage", () => {
  const rowsIn = (sql: ReturnType<typeof memorySql>) =>
    ["keys", "items", "scores"].map((table) => sql.rows(`SELECT 1 FROM ${table}`).length);

  it("makes its tables with the first thing that is written, and none by looking or by a refusal", async () => {
    const sql = memorySql();
    const keys = createSqliteKeys(sql);
    const storage = createSqliteStorage(keys, () => 0);
    await storage.get("k");
    await storage.commit([
      { type: "delete", key: "k" },
      { type: "touch", key: "k", ttlSeconds: 1 },
    ]);
    await expect(
      storage.commit([
        { type: "set", key: "k", value: "v", ttlSeconds: null },
        { type: "append", key: "k", value: "v", maxLength: 1, ttlSeconds: null },
      ]),
    ).rejects.toMatchObject({ failure: "rejected" });
    expect([keys.hasTables(), keys.nextExpiry()]).toEqual([false, undefined]);
    await storage.commit([{ type: "set", key: "k", value: "v", ttlSeconds: null }]);
    expect([keys.hasTables(), keys.nextExpiry()]).toEqual([true, null]);
  });

  it("says when its next key expires, and lets go of what has, entries included", async () => {
    const sql = memorySql();
    const keys = createSqliteKeys(sql);
    const storage = createSqliteStorage(keys, () => 0);
    await storage.commit([
      { type: "append", key: "list", value: "v", maxLength: 10, ttlSeconds: 1 },
      { type: "index", key: "index", member: "m", score: 1 },
      { type: "touch", key: "index", ttlSeconds: 2 },
      { type: "set", key: "text", value: "v", ttlSeconds: 3 },
    ]);
    expect([rowsIn(sql), keys.nextExpiry()]).toEqual([[3, 1, 1], 1_000]);
    keys.deleteExpired(999);
    expect(rowsIn(sql)).toEqual([3, 1, 1]);
    keys.deleteExpired(2_000);
    expect([rowsIn(sql), keys.nextExpiry()]).toEqual([[1, 0, 0], 3_000]);
    keys.deleteExpired(3_000);
    expect([rowsIn(sql), keys.nextExpiry()]).toEqual([[0, 0, 0], undefined]);
  });

  it("finds what an earlier instance left in its database", async () => {
    const sql = memorySql();
    const open = () => createSqliteStorage(createSqliteKeys(sql), () => 0);
    await open().commit([{ type: "set", key: "k", value: "v", ttlSeconds: null }]);
    expect(await open().get("k")).toBe("v");
  });
});
