import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { StorageError } from "../../lib/errors.ts";
import { keys, partitionOf } from "../../lib/keys.ts";
import { createDurableObjectStorage, type RecordObjects } from "../../lib/storage/durable-object.ts";
import { type ObjectDoor, startObjectDoor } from "../support/object-door.ts";
import { storageContract } from "./storage-contract.ts";

storageContract("durable-object", { rollsBack: true }, async () => {
  const { namespace, close } = await startObjectDoor();
  let now = Date.now();
  return {
    storage: createDurableObjectStorage({ namespace, partitionOf, now: () => now }),
    advance: (ms) => {
      now += ms;
    },
    close,
  };
});

describe("durable-object storage", () => {
  let door: ObjectDoor;
  let serial = 0;

  beforeAll(async () => {
    door = await startObjectDoor();
  });
  afterAll(() => door?.close());

  const storageOf = ({ namespace }: { namespace: RecordObjects }) =>
    createDurableObjectStorage({ namespace, partitionOf, now: () => Date.now() });
  const freshId = () => `id-${++serial}`;
  const rowsIn = (name: string, table = "keys") => door.rowsIn(name, table);

  it("keeps all keys of a conversation in one object, and each other key in its own", async () => {
    const storage = storageOf(door);
    const id = freshId();
    await storage.commit([
      { type: "set", key: keys.session(id), value: "v", ttlSeconds: 600 },
      { type: "set", key: keys.conversation(id), value: "v", ttlSeconds: 600 },
      { type: "append", key: keys.messages(id), value: "v", maxLength: 10, ttlSeconds: 600 },
      { type: "set", key: keys.state(id), value: "v", ttlSeconds: 600 },
    ]);
    expect(await rowsIn(id)).toBe(3);
    expect(await rowsIn(keys.state(id))).toBe(1);
  });

  it("deletes what has expired by itself, and everything when nothing is left", async () => {
    const storage = storageOf(door);
    const id = freshId();
    await storage.commit([
      { type: "append", key: keys.messages(id), value: "v", maxLength: 10, ttlSeconds: 1 },
      { type: "set", key: keys.session(id), value: "v", ttlSeconds: 3 },
    ]);
    expect([await rowsIn(id), await rowsIn(id, "items")]).toEqual([2, 1]);
    await expect.poll(() => rowsIn(id, "items"), { interval: 10, timeout: 10_000 }).toBe(0);
    expect(await rowsIn(id)).toBe(1);
    await expect.poll(() => rowsIn(id), { timeout: 10_000 }).toBeNull();
  });

  it("sleeps until the next key expires, and for ever where none does", async () => {
    const storage = storageOf(door);
    const id = freshId();
    await storage.commit([{ type: "set", key: keys.conversation(id), value: "v", ttlSeconds: null }]);
    expect(await door.alarmAt(id)).toBeNull();
    const before = Date.now();
    await storage.commit([{ type: "set", key: keys.session(id), value: "v", ttlSeconds: 0.3 }]);
    expect(await door.alarmAt(id)).toBeGreaterThanOrEqual(before + 300);
    await expect.poll(() => rowsIn(id), { timeout: 10_000 }).toBe(1);
    await expect.poll(() => door.alarmAt(id), { timeout: 10_000 }).toBeNull();
  });

  it("is not deceived by an alarm that was set before a key was touched", async () => {
    const storage = storageOf(door);
    const [id, brief] = [freshId(), freshId()];
    await storage.commit([{ type: "set", key: keys.session(id), value: "v", ttlSeconds: 0.2 }]);
    await storage.commit([{ type: "touch", key: keys.session(id), ttlSeconds: 2 }]);
    // Written last and expired like the first, so that its alarm comes after the one that is looked for.
    await storage.commit([{ type: "set", key: keys.session(brief), value: "v", ttlSeconds: 0.2 }]);
    await expect.poll(() => rowsIn(brief), { interval: 10, timeout: 10_000 }).toBeNull();
    expect(await rowsIn(id)).toBe(1);
    await expect.poll(() => rowsIn(id), { timeout: 10_000 }).toBeNull();
  });

  it("leaves nothing of an object whose last key was deleted, and makes none by reading", async () => {
    const storage = storageOf(door);
    const id = freshId();
    await storage.get(keys.session(id));
    await storage.ttl(keys.session(id));
    expect(await rowsIn(id)).toBeNull();
    await storage.commit([{ type: "set", key: keys.session(id), value: "v", ttlSeconds: null }]);
    expect(await rowsIn(id)).toBe(1);
    await storage.commit([{ type: "delete", key: keys.session(id) }]);
    expect(await rowsIn(id)).toBeNull();
    await storage.commit([{ type: "set", key: keys.session(id), value: "again", ttlSeconds: null }]);
    expect(await storage.get(keys.session(id))).toBe("again");
  });

  it("goes on after an object was evicted from memory, its alarm included", async () => {
    const storage = storageOf(door);
    const id = freshId();
    await storage.commit([{ type: "set", key: keys.session(id), value: "v", ttlSeconds: 1 }]);
    await door.evict(id);
    expect(await storage.get(keys.session(id))).toBe("v");
    await door.evict(id);
    expect(await rowsIn(id)).toBe(1);
    await door.evict(id);
    await expect.poll(() => rowsIn(id), { timeout: 10_000 }).toBeNull();
  });

  it("survives a restart", async () => {
    const directory = await mkdtemp(join(tmpdir(), "storage-objects-"));
    try {
      const key = keys.messages(freshId());
      const before = await startObjectDoor({ directory });
      await storageOf(before).commit([
        { type: "append", key, value: "kept", maxLength: 10, ttlSeconds: 600 },
      ]);
      await before.close();
      const after = await startObjectDoor({ directory });
      expect(await storageOf(after).range(key, 0, -1)).toEqual(["kept"]);
      await after.close();
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  });

  it("says which operation failed where an object does not answer, and keeps the cause", async () => {
    const cause = new Error("Network connection lost.");
    const broken = new Proxy({}, { get: () => () => Promise.reject(cause) });
    const storage = storageOf({
      namespace: { idFromName: () => "id", get: () => broken } as unknown as RecordObjects,
    });
    const calls: Record<string, () => Promise<unknown>> = {
      get: () => storage.get("k"),
      getMany: () => storage.getMany(["k"]),
      ttl: () => storage.ttl("k"),
      range: () => storage.range("k", 0, 1),
      listIndex: () => storage.listIndex("k", { limit: 1 }),
      readLog: () => storage.readLog("k", { limit: 1 }),
      ping: () => storage.ping(),
      commit: () => storage.commit([{ type: "delete", key: "k" }]),
    };
    for (const [operation, call] of Object.entries(calls)) {
      const error = await call().catch((error: unknown) => error);
      expect(error).toBeInstanceOf(StorageError);
      expect(error).toMatchObject({ driver: "durable-object", operation, failure: "server_error", cause });
    }
  });
});
