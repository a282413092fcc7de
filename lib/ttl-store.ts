/**
 * One kind of typed record over a Storage: a schema, a key, a time to live and when that time restarts.
 * Every record of the product is read and written through here.
 */
import * as v from "valibot";
import { type Issue, RecordTooLargeError } from "./errors.ts";
import { byteLength, describeIssues, isJsonObject, parseExactly, stringifyJson } from "./json.ts";
import type { Logger } from "./log.ts";
import type { CreateWrite, SetWrite, TextStorage, TtlSeconds } from "./storage/storage.ts";

/** When a record's time to live restarts: `on-write`, by every write; `sliding`, by every write and every read. */
export type TtlPolicy = "on-write" | "sliding";

/** How a record becomes a JSON text and back. `parse` throws where the text is not JSON. */
export type Codec = {
  parse: (text: string) => unknown;
  stringify: (record: unknown) => string;
};

/** JSON to the last digit: reading a record and writing it again changes no number in it. */
const exactJson: Codec = { parse: parseExactly, stringify: stringifyJson };

export type TtlStoreOptions<T> = {
  storage: TextStorage;
  log: Logger;
  /** The key of a record, from an id that has been checked. */
  keyOf: (id: string) => string;
  schema: v.GenericSchema<unknown, T>;
  ttlSeconds: TtlSeconds;
  policy: TtlPolicy;
  /** Turns what earlier versions wrote into what today's schema reads. */
  upgrade?: (value: unknown, id: string) => unknown;
  /** Default: JSON to the last digit. */
  codec?: Codec;
  /** How large a record may be as text, in bytes of UTF-8. Default: as large as the storage takes. */
  maxBytes?: number;
};

export interface TtlStore<T> {
  /** The record, or null where none stands or what stands cannot be read (logged as `record.unreadable`). */
  get(id: string): Promise<T | null>;
  /** Writes the whole record and restarts its time to live. Throws RecordTooLargeError. */
  set(id: string, record: T): Promise<void>;
  /**
   * Replaces the record by what `change` makes of it, and returns that; null where none stands, and then
   * nothing is created. As `TextStorage.update`; also throws RecordTooLargeError.
   */
  update(id: string, change: (current: T) => T): Promise<T | null>;
  /** Restarts the record's time to live, whatever the policy. Returns it in seconds, Infinity for ever; null where no record stands. */
  touch(id: string): Promise<number | null>;
  /** Returns whether there was a record. */
  delete(id: string): Promise<boolean>;
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
  const { codec = exactJson, maxBytes = Number.POSITIVE_INFINITY } = options;

  function read(id: string, text: string): Parsed<T> {
    let value: unknown;
    try {
      value = upgrade(codec.parse(text), id);
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

  function textOf(record: T): string {
    const text = codec.stringify(record);
    if (Number.isFinite(maxBytes) && byteLength(text) > maxBytes) throw new RecordTooLargeError(maxBytes);
    return text;
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

    async update(id, change) {
      let record: T | null = null;
      const changed = await storage.update(
        keyOf(id),
        (standing) => {
          const current = store.parse(id, standing);
          record = current === null ? null : change(current);
          return record === null ? undefined : textOf(record);
        },
        ttlSeconds,
      );
      // What was made of it in vain, because it was gone the next time, is no record.
      return changed ? record : null;
    },

    async touch(id) {
      // As a write, so that it goes where writes go.
      const [text] = await storage.commit([{ type: "get", key: keyOf(id), ttlSeconds }]);
      if (text === null || store.parse(id, text) === null) return null;
      return ttlSeconds ?? Number.POSITIVE_INFINITY;
    },

    async delete(id) {
      const [deleted] = await storage.commit([{ type: "delete", key: keyOf(id) }]);
      return deleted;
    },

    setWrite(id, record) {
      return { type: "set", key: keyOf(id), value: textOf(record), ttlSeconds };
    },

    createWrite(id, record) {
      return { type: "create", key: keyOf(id), value: textOf(record), ttlSeconds };
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
