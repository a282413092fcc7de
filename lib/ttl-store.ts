/**
 * One kind of typed record over a Storage: a schema, a key, a time to live and when that time restarts.
 * Every record of the product is read and written through here.
 */
import * as v from "valibot";
import { type Issue, RecordTooLargeError, StorageError } from "./errors.ts";
import { describeIssues, isJsonObject, parseExactly, stringifyJson } from "./json.ts";
import type { Logger } from "./log.ts";
import type { CreateWrite, SetWrite, Storage, TtlSeconds } from "./storage/storage.ts";
import { createTurns, type Line, type Turns } from "./turns.ts";

/**
 * When a record's time to live restarts: `fixed`, only by `set` (an update keeps what is left); `on-write`,
 * by every write; `sliding`, by every write and every read.
 */
export type TtlPolicy = "fixed" | "on-write" | "sliding";

/** How a record becomes a JSON text and back. `parse` throws where the text is not JSON. */
export type Codec = {
  parse: (text: string) => unknown;
  stringify: (record: unknown) => string;
};

/** JSON to the last digit: reading a record and writing it again changes no number in it. */
const exactJson: Codec = { parse: parseExactly, stringify: stringifyJson };

/** What keeps those who change the same record out of each other's way. */
export type Contention = {
  /** Those of this isolate; hand the same to every store of its kind. */
  turns: Turns;
  /** Waits so many milliseconds between attempts. */
  wait: (ms: number) => Promise<void>;
};

/** How often an update tries to replace what it has read. */
const MAX_ATTEMPTS = 16;
/** The same for one that has waited in a long line before, so that its caller gets an answer in time. */
const MAX_LATE_ATTEMPTS = 4;
/** The pause after a failed attempt, in ms: doubling from the first to the longest, and at random below that. */
const FIRST_PAUSE_MS = 4;
const LONGEST_PAUSE_MS = 200;

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
  /** Default: JSON to the last digit. */
  codec?: Codec;
  /** How large a record may be as text, in bytes of UTF-8. Default: as large as the storage takes. */
  maxBytes?: number;
  /** Default: a failed attempt is repeated at once, and callers do not know of each other. */
  contention?: Contention;
};

export interface TtlStore<T> {
  /** The record, or null where none stands or what stands cannot be read (logged as `record.unreadable`). */
  get(id: string): Promise<T | null>;
  /** Whether `get` would find a record. A question, not a read: it renews nothing. */
  has(id: string): Promise<boolean>;
  /** Writes the whole record and restarts its time to live. Throws RecordTooLargeError. */
  set(id: string, record: T): Promise<void>;
  /**
   * Replaces the record by what `change` makes of it, and returns that; null where none stands, and then
   * nothing is created. Atomic: of any number of updates at once, here and in other isolates, none is lost.
   * `change` may be called more than once and must do nothing but compute; what it throws is passed on.
   * Throws RecordTooLargeError, and StorageError: `contended` where others never left it a gap; any other
   * failure leaves open whether the record was changed, as the answer may have been lost.
   */
  update(id: string, change: (current: T) => T): Promise<T | null>;
  /** Restarts the record's time to live, whatever the policy. Returns it in seconds, Infinity for ever; null where no record stands. */
  touch(id: string): Promise<number | null>;
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
  const { codec = exactJson, maxBytes = Number.POSITIVE_INFINITY } = options;
  const { turns, wait } = options.contention ?? { turns: createTurns(), wait: async () => {} };

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

  /** How long the record lives from now if it is changed; null where its time has just run out. */
  async function lifeAfterUpdate(key: string): Promise<{ ttlSeconds: TtlSeconds } | null> {
    if (policy !== "fixed") return { ttlSeconds };
    // Asked after the text was read: if the text still stands afterwards, this was its time.
    const left = await storage.ttl(key);
    if (left === null || left <= 0) return null;
    return { ttlSeconds: Number.isFinite(left) ? left : null };
  }

  /**
   * One try to replace `text`. The outer null: somebody else changed it meanwhile, try again. The inner one:
   * there is no record to change.
   */
  async function tryUpdate(
    id: string,
    text: string | null,
    change: (current: T) => T,
    line: Line,
  ): Promise<{ record: T | null } | null> {
    const current = text === null ? null : store.parse(id, text);
    if (text === null || current === null) return { record: null };
    const record = change(current);
    const next = textOf(record);
    const life = await lifeAfterUpdate(keyOf(id));
    if (life === null) return { record: null };
    if (!(await storage.compareAndSet(keyOf(id), text, next, life.ttlSeconds))) return null;
    line.lastText = next;
    return { record };
  }

  async function updateInTurn(
    id: string,
    change: (current: T) => T,
    line: Line,
    maxAttempts: number,
  ): Promise<T | null> {
    const guess = line.lastText;
    line.lastText = undefined;
    if (guess !== undefined) {
      const outcome = await tryUpdate(id, guess, change, line);
      if (outcome?.record != null) return outcome.record;
    }
    for (let attempt = 0; attempt < maxAttempts; attempt++) {
      if (attempt > 0) await wait(pauseMs(attempt));
      const outcome = await tryUpdate(id, await storage.get(keyOf(id)), change, line);
      if (outcome !== null) return outcome.record;
    }
    throw new StorageError(storage.name, "update", "contended");
  }

  const store: TtlStore<T> = {
    async get(id) {
      const key = keyOf(id);
      const text = await (policy === "sliding" ? storage.getAndTouch(key, ttlSeconds) : storage.get(key));
      return text === null ? null : store.parse(id, text);
    },

    async has(id) {
      const text = await storage.get(keyOf(id));
      return text !== null && store.parse(id, text) !== null;
    },

    async set(id, record) {
      await storage.commit([store.setWrite(id, record)]);
    },

    async update(id, change) {
      return turns.take(keyOf(id), wait, (line, isLate) =>
        updateInTurn(id, change, line, isLate ? MAX_LATE_ATTEMPTS : MAX_ATTEMPTS),
      );
    },

    async touch(id) {
      const text = await storage.getAndTouch(keyOf(id), ttlSeconds);
      if (text === null || store.parse(id, text) === null) return null;
      return ttlSeconds ?? Number.POSITIVE_INFINITY;
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

function pauseMs(attempt: number): number {
  return Math.random() * Math.min(FIRST_PAUSE_MS * 2 ** attempt, LONGEST_PAUSE_MS);
}

const encoder = new TextEncoder();

function byteLength(text: string): number {
  return encoder.encode(text).byteLength;
}
