/**
 * One kind of typed record over a Storage: a schema, a key, a time to live and when that time restarts.
 * Every record of the product is read and written through here.
 */
import * as v from "valibot";
import type { Issue } from "./errors.ts";
import { describeIssues, isJsonObject, stringifyJson } from "./json.ts";
import type { Logger } from "./log.ts";
import type { CreateWrite, SetWrite, Storage, TtlSeconds } from "./storage/storage.ts";

/**
 * When a record's time to live restarts: `fixed`, only by `set` (an update keeps what is left); `on-write`,
 * by every write; `sliding`, by every write and every read.
 */
export type TtlPolicy = "fixed" | "on-write" | "sliding";

export type TtlStoreOptions<T> = {
  storage: Storage;
  log: Logger;
  /** The key of a record, from an id that has been checked. */
  keyOf: (id: string) => string;
  schema: v.GenericSchema<unknown, T>;
  ttlSeconds: TtlSeconds;
  policy: TtlPolicy;
  /** Turns what earlier versions wrote into what today's schema reads. */
  upgrade?: (value: unknown, id: string) => unknown;
};

export interface TtlStore<T> {
  /** The record, or null where none stands or what stands cannot be read (logged as `record.unreadable`). */
  get(id: string): Promise<T | null>;
  /** Writes the whole record and restarts its time to live. */
  set(id: string, record: T): Promise<void>;
  /** Returns whether there was a record. */
  delete(id: string): Promise<boolean>;
  /** Removes the record only while `matches` holds of it, atomically. Returns whether it did. */
  deleteIf(id: string, matches: (record: T) => boolean): Promise<boolean>;
  /** `set` as data, for a commit together with other writes. */
  setWrite(id: string, record: T): SetWrite;
  /** A write that creates the record where none stands, as data. */
  createWrite(id: string, record: T): CreateWrite;
  /** Reads a stored text; null and one log line where it cannot be read. */
  parse(id: string, text: string): T | null;
}

type Parsed<T> = { ok: true; record: T } | { ok: false; issues: Issue[] };

/** A store for one kind of record. Fields a reader does not know are kept as they are. */
export function createTtlStore<T>(options: TtlStoreOptions<T>): TtlStore<T> {
  const { storage, log, keyOf, schema, ttlSeconds, policy, upgrade = (value) => value } = options;

  function read(id: string, text: string): Parsed<T> {
    let value: unknown;
    try {
      value = upgrade(JSON.parse(text), id);
    } catch {
      return { ok: false, issues: [{ path: "", message: "must be JSON" }] };
    }
    const result = v.safeParse(schema, value);
    if (!result.success) return { ok: false, issues: describeIssues(result.issues) };
    const record =
      isJsonObject(value) && isJsonObject(result.output)
        ? ({ ...value, ...result.output } as T)
        : result.output;
    return { ok: true, record };
  }

  const store: TtlStore<T> = {
    async get(id) {
      const key = keyOf(id);
      const text = await (policy === "sliding" ? storage.getAndTouch(key, ttlSeconds) : storage.get(key));
      return text === null ? null : store.parse(id, text);
    },

    async set(id, record) {
      await storage.commit([store.setWrite(id, record)]);
    },

    async delete(id) {
      const [deleted] = await storage.commit([{ type: "delete", key: keyOf(id) }]);
      return deleted;
    },

    async deleteIf(id, matches) {
      const text = await storage.get(keyOf(id));
      if (text === null) return false;
      const record = store.parse(id, text);
      return record !== null && matches(record) && storage.compareAndSet(keyOf(id), text, null, null);
    },

    setWrite(id, record) {
      return { type: "set", key: keyOf(id), value: stringifyJson(record), ttlSeconds };
    },

    createWrite(id, record) {
      return { type: "create", key: keyOf(id), value: stringifyJson(record), ttlSeconds };
    },

    parse(id, text) {
      const parsed = read(id, text);
      if (parsed.ok) return parsed.record;
      log.error("record.unreadable", {
        key: keyOf(id),
        reasons: parsed.issues.map(({ path, message }) => (path === "" ? message : `${path} ${message}`)),
      });
      return null;
    },
  };
  return store;
}
