/**
 * Texts in the memory of one instance: what the assistant's memory is kept in with `USE_REDIS_SESSIONS=false`,
 * and a store for unit tests. The clock is handed in, so that a test can walk up to the last millisecond of a
 * time to live. When it is full, the text that was used longest ago goes.
 */
import { LRUCache } from "lru-cache";
import {
  checkWrites,
  expiryAt,
  type Storage,
  secondsUntil,
  type TextStorage,
  type TextWrite,
  ttlMillis,
  type WriteOutcome,
} from "./storage.ts";

export type MemoryStorageOptions = {
  /** Milliseconds since the epoch. */
  now: () => number;
  /** How many texts at most. 1,000. */
  maxRecords?: number;
};

type Kept = { value: string; expiresAt: number | null };

export type MemoryStorage = TextStorage & Pick<Storage, "ttl">;

export function createMemoryStorage({ now, maxRecords = 1000 }: MemoryStorageOptions): MemoryStorage {
  const texts = new LRUCache<string, Kept>({ max: maxRecords });

  function find(key: string): Kept | undefined {
    const kept = texts.get(key);
    if (kept === undefined || kept.expiresAt === null || now() < kept.expiresAt) return kept;
    texts.delete(key);
    return undefined;
  }

  function apply(write: TextWrite): WriteOutcome {
    const standing = find(write.key);
    switch (write.type) {
      case "set":
        texts.set(write.key, { value: write.value, expiresAt: expiryAt(now(), write.ttlSeconds) });
        return null;
      case "create":
        if (standing === undefined) apply({ ...write, type: "set" });
        return standing === undefined;
      case "touch":
        if (standing !== undefined) standing.expiresAt = expiryAt(now(), write.ttlSeconds);
        return standing !== undefined;
      case "delete":
        return standing !== undefined && texts.delete(write.key);
      case "get":
        if (standing !== undefined && write.ttlSeconds !== undefined) {
          standing.expiresAt = expiryAt(now(), write.ttlSeconds);
        }
        return standing?.value ?? null;
    }
  }

  const storage: MemoryStorage = {
    name: "memory",
    get: async (key) => find(key)?.value ?? null,

    async getAndTouch(key, ttlSeconds) {
      const [text] = await storage.commit([{ type: "get", key, ttlSeconds }]);
      return text;
    },

    async ttl(key) {
      const standing = find(key);
      if (standing === undefined) return null;
      return secondsUntil(standing.expiresAt, now()) ?? Number.POSITIVE_INFINITY;
    },

    async update(key, change, ttlSeconds) {
      ttlMillis(ttlSeconds);
      const standing = find(key);
      const next = standing === undefined ? undefined : change(standing.value);
      if (next === undefined) return false;
      await storage.commit([
        next === null ? { type: "delete", key } : { type: "set", key, value: next, ttlSeconds },
      ]);
      return true;
    },

    async commit(writes) {
      checkWrites(writes);
      return writes.map(apply) as never;
    },

    async ping() {},
  };
  return storage;
}
