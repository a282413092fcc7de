import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { StorageError } from "../../lib/errors.ts";
import { keys, partitionOf } from "../../lib/keys.ts";
import {
  createDurableObjectStorage,
  type DurableObjectStorageOptions,
} from "../../lib/storage/durable-object.ts";
import { LOCAL_BINDINGS } from "../support/worker.ts";
import { storageContract } from "./storage-contract.ts";

const SCRIPT = "worker";
const CLASS = "StorageObject";

/** The built Worker, whose Durable Objects are reached without its routes. */
async function startObjects(persistencePath?: string) {
  const directory = inject("bundleDirectory");
  const miniflare = new Miniflare({
    ...convertV4MiniflareOptions({
      name: SCRIPT,
      modules: true,
      scriptPath: join(directory, "index.js"),
      modulesRoot: directory,
      compatibilityDate: "2026-11-17",
      bindings: { ...LOCAL_BINDINGS, CONVERSATION_TTL_SECONDS: "3" },
      // Node holds its stubs until they are collected, of which workerd warns.
      handleStructuredLogs: ({ message }) => {
        if (!message.startsWith("An RPC stub was not disposed")) console.log(message);
      },
      durableObjects: { STORAGE_OBJECTS: { className: CLASS, useSQLite: true } },
    }),
    unsafeInspectDurableObjects: true,
    ...(persistencePath === undefined ? {} : { resourcePersistencePath: persistencePath }),
  });
  const namespace = (await miniflare.getDurableObjectNamespace(
    "STORAGE_OBJECTS",
  )) as unknown as DurableObjectStorageOptions["namespace"];
  return { miniflare, namespace };
}

storageContract("durable-object", { rollsBack: true }, async () => {
  const { miniflare, namespace } = await startObjects();
  let now = Date.now();
  return {
    storage: createDurableObjectStorage({ namespace, partitionOf, now: () => now }),
    advance: (ms) => {
      now += ms;
    },
    close: () => miniflare.dispose(),
  };
});

describe("durable-object storage", () => {
  let objects: Awaited<ReturnType<typeof startObjects>>;
  let serial = 0;
  let skewMs = 0;

  beforeAll(async () => {
    objects = await startObjects();
  });
  afterAll(() => objects?.miniflare.dispose());

  const storageOf = ({ namespace }: typeof objects) =>
    createDurableObjectStorage({ namespace, partitionOf, now: () => Date.now() + skewMs });
  const freshId = () => `id-${++serial}`;

  /** Rows of a table in the object of a partition, seen from inside; null where the object has no tables. */
  async function rowsIn(partition: string, table: "keys" | "items" | "scores"): Promise<number | null> {
    const sql = await objects.miniflare.unsafeGetDurableObjectStorage(SCRIPT, CLASS, { name: partition });
    const tables = await sql.exec("SELECT 1 FROM sqlite_master WHERE name = ?", table);
    if (tables.length === 0) return null;
    const [row] = await sql.exec<{ rows: number }>(`SELECT count(*) AS rows FROM ${table}`);
    return row?.rows ?? null;
  }

  it("keeps all keys of a conversation in one object, and each other key in its own", async () => {
    const storage = storageOf(objects);
    const id = freshId();
    await storage.commit([
      { type: "set", key: keys.session(id), value: "v", ttlSeconds: 600 },
      { type: "set", key: keys.callback(id, "r:1"), value: "v", ttlSeconds: 600 },
      { type: "append", key: keys.messages(id), value: "v", maxLength: 10, ttlSeconds: 600 },
      { type: "set", key: `conv:${id}`, value: "v", ttlSeconds: 600 },
    ]);
    expect(await rowsIn(id, "keys")).toBe(3);
    expect(await rowsIn(`conv:${id}`, "keys")).toBe(1);
  });

  it("deletes what has expired by itself, and everything when nothing is left", async () => {
    const storage = storageOf(objects);
    const id = freshId();
    await storage.commit([
      { type: "append", key: keys.messages(id), value: "v", maxLength: 10, ttlSeconds: 0.15 },
      { type: "set", key: keys.session(id), value: "v", ttlSeconds: 0.6 },
    ]);
    expect([await rowsIn(id, "keys"), await rowsIn(id, "items")]).toEqual([2, 1]);
    await expect.poll(() => rowsIn(id, "items"), { interval: 10, timeout: 10_000 }).toBe(0);
    expect(await rowsIn(id, "keys")).toBe(1);
    await expect.poll(() => rowsIn(id, "keys"), { timeout: 10_000 }).toBeNull();
  });

  it("is not deceived by an alarm that was set before a key was touched", async () => {
    const storage = storageOf(objects);
    const [id, brief] = [freshId(), freshId()];
    await storage.commit([{ type: "set", key: keys.session(id), value: "v", ttlSeconds: 0.2 }]);
    await storage.commit([{ type: "touch", key: keys.session(id), ttlSeconds: 2 }]);
    // Written last and expired like the first, so that its alarm comes after the one that is looked for.
    await storage.commit([{ type: "set", key: keys.session(brief), value: "v", ttlSeconds: 0.2 }]);
    await expect.poll(() => rowsIn(brief, "keys"), { interval: 10, timeout: 10_000 }).toBeNull();
    expect(await rowsIn(id, "keys")).toBe(1);
    await expect.poll(() => rowsIn(id, "keys"), { timeout: 10_000 }).toBeNull();
  });

  it("leaves nothing of an object whose last key was deleted, and makes none by reading", async () => {
    const storage = storageOf(objects);
    const id = freshId();
    await storage.get(keys.session(id));
    await storage.ttl(keys.session(id));
    expect(await rowsIn(id, "keys")).toBeNull();
    await storage.commit([{ type: "set", key: keys.session(id), value: "v", ttlSeconds: null }]);
    expect(await rowsIn(id, "keys")).toBe(1);
    await storage.commit([{ type: "delete", key: keys.session(id) }]);
    expect(await rowsIn(id, "keys")).toBeNull();
    await storage.commit([{ type: "set", key: keys.session(id), value: "again", ttlSeconds: null }]);
    expect(await storage.get(keys.session(id))).toBe("again");
  });

  it("goes on after an object was evicted from memory, its alarm included", async () => {
    // Over HTTP, because an object with a stub in this process is in use and cannot be evicted.
    const call = async (path: string, method = "GET") => {
      const response = await objects.miniflare.dispatchFetch(
        `http://worker/agent-conversations/api/${path}`,
        {
          method,
          ...(method === "POST" ? { body: "{}", headers: { "content-type": "application/json" } } : {}),
        },
      );
      return (await response.json()) as { conversationId?: string };
    };
    const { conversationId: id = "" } = await call("new", "POST");
    const evict = () => objects.miniflare.unsafeEvictDurableObject(SCRIPT, CLASS, { name: id });
    await evict();
    expect(await call(id)).toMatchObject({ conversationId: id });
    await evict();
    expect(await rowsIn(id, "keys")).toBe(1);
    await evict();
    await expect.poll(() => rowsIn(id, "keys"), { timeout: 10_000 }).toBeNull();
  });

  it("survives a restart", async () => {
    const path = await mkdtemp(join(tmpdir(), "storage-objects-"));
    try {
      const key = keys.messages(freshId());
      const before = await startObjects(path);
      await storageOf(before).commit([
        { type: "append", key, value: "kept", maxLength: 10, ttlSeconds: 600 },
      ]);
      await before.miniflare.dispose();
      const after = await startObjects(path);
      expect(await storageOf(after).range(key, 0, -1)).toEqual(["kept"]);
      await after.miniflare.dispose();
    } finally {
      await rm(path, { recursive: true, force: true });
    }
  });

  it("clears its directory of keys that are gone, once no write can be on its way", async () => {
    const storage = storageOf(objects);
    const key = `gone:${freshId()}`;
    const noted = async () => {
      const sql = await objects.miniflare.unsafeGetDurableObjectStorage(SCRIPT, CLASS, {
        name: ":directory",
      });
      return (await sql.exec("SELECT 1 FROM keys WHERE key = ?", key)).length;
    };
    await storage.commit([{ type: "set", key, value: "v", ttlSeconds: null }]);
    await storage.commit([{ type: "delete", key }]);
    expect(await storage.scan("gone:")).toEqual({ keys: [] });
    expect(await noted()).toBe(1);
    skewMs = 60_000;
    expect(await storage.scan("gone:")).toEqual({ keys: [] });
    skewMs = 0;
    expect(await noted()).toBe(0);
  });

  it("says which operation failed where an object does not answer, and keeps the cause", async () => {
    const cause = new Error("Network connection lost.");
    const broken = new Proxy({}, { get: () => () => Promise.reject(cause) });
    const storage = createDurableObjectStorage({
      namespace: {
        idFromName: () => "id",
        get: () => broken,
      } as unknown as DurableObjectStorageOptions["namespace"],
      partitionOf,
      now: () => 0,
    });
    const calls: Record<string, () => Promise<unknown>> = {
      get: () => storage.get("k"),
      getMany: () => storage.getMany(["k"]),
      getAndTouch: () => storage.getAndTouch("k", 1),
      ttl: () => storage.ttl("k"),
      range: () => storage.range("k", 0, 1),
      listIndex: () => storage.listIndex("k", { limit: 1 }),
      scan: () => storage.scan("k"),
      ping: () => storage.ping(),
      commit: () => storage.claim("k", "v", 1),
      compareAndSet: () => storage.compareAndSet("k", "v", null, 1),
    };
    for (const [operation, call] of Object.entries(calls)) {
      const error = await call().catch((error: unknown) => error);
      expect(error).toBeInstanceOf(StorageError);
      expect(error).toMatchObject({ driver: "durable-object", operation, failure: "server_error", cause });
    }
  });
});
