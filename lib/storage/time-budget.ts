/**
 * How long one request may spend on its storage, whatever fails: a request that asks three times of something
 * that answers slowly each time is bounded by the sum, not by each.
 */
import { StorageError } from "../errors.ts";
import type { Storage, Write, WriteResults } from "./storage.ts";

/** Milliseconds that one request may wait for its storage in all. */
export const STORAGE_BUDGET_MS = 3_000;

export type BudgetedStorage = Storage & {
  /** Begins again with the whole budget, for what is done after the answer. */
  renew(): void;
};

/**
 * The storage with a budget. Time counts while at least one call is under way, so calls made side by side
 * count once. What is still under way when the budget is used up fails with StorageError (`timeout`); it may
 * have been applied all the same. `now` in ms.
 */
export function withTimeBudget(
  storage: Storage,
  now: () => number,
  budgetMs = STORAGE_BUDGET_MS,
): BudgetedStorage {
  let spentMs = 0;
  let underWay = 0;
  let since = 0;

  async function spend<T>(operation: string, act: () => Promise<T>): Promise<T> {
    if (underWay === 0) since = now();
    underWay += 1;
    const leftMs = budgetMs - spentMs - (now() - since);
    const { promise: usedUp, reject } = Promise.withResolvers<never>();
    const fail = () => reject(new StorageError(storage.name, operation, "timeout"));
    const timer = setTimeout(fail, Math.max(0, leftMs));
    try {
      return await (leftMs <= 0 ? usedUp : Promise.race([usedUp, act()]));
    } finally {
      clearTimeout(timer);
      underWay -= 1;
      if (underWay === 0) spentMs += now() - since;
    }
  }

  return {
    name: storage.name,
    ...(storage.health === undefined ? {} : { health: storage.health }),
    renew() {
      spentMs = 0;
      since = now();
    },
    get: (key) => spend("get", () => storage.get(key)),
    getMany: (keys) => spend("getMany", () => storage.getMany(keys)),
    getAndTouch: (key, ttlSeconds) => spend("getAndTouch", () => storage.getAndTouch(key, ttlSeconds)),
    ttl: (key) => spend("ttl", () => storage.ttl(key)),
    range: (key, start, stop) => spend("range", () => storage.range(key, start, stop)),
    listIndex: (key, query) => spend("listIndex", () => storage.listIndex(key, query)),
    scan: (prefix, cursor) => spend("scan", () => storage.scan(prefix, cursor)),
    ping: () => spend("ping", () => storage.ping()),
    commit: <const W extends readonly Write[]>(writes: W): Promise<WriteResults<W>> =>
      spend("commit", () => storage.commit(writes)),
    claim: (key, value, ttlSeconds) => spend("claim", () => storage.claim(key, value, ttlSeconds)),
    compareAndSet: (key, expected, next, ttlSeconds) =>
      spend("compareAndSet", () => storage.compareAndSet(key, expected, next, ttlSeconds)),
  };
}
