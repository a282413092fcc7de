/**
 * What one record's object knows of it beside Redis: a copy of the text that stands there, and, while Redis is
 * down, the change that was acknowledged and has still to be given back. Every write of a record goes through
 * its object, one at a time, so the copy cannot be out of order, and what is kept is simply the newest.
 *
 * | `kept`   | Redis has … | given back as |
 * |----------|-------------|----------------|
 * | NULL     | this text   | (a copy: nothing to give) |
 * | `set`    | something older | the text, with the time it has left |
 * | `delete` | something older | a delete |
 *
 * A touch keeps the text too: in Redis its time may be over before Redis is back. A text whose time is over
 * proves nothing: what can neither be read in Redis nor is known here is out of reach, never absent.
 */
import { isUnavailable, StorageError } from "../errors.ts";
import { type Sql, tablesOf } from "../sql.ts";
import { createQueue } from "./queue.ts";
import {
  type Change,
  checkWrites,
  expiryAt,
  secondsUntil,
  type TextStorage,
  type TextWrite,
  type TtlSeconds,
  ttlMillis,
  type WriteOutcome,
} from "./storage.ts";

export type KeeperOptions = {
  /** Redis. */
  primary: TextStorage;
  sql: Sql;
  /** The clock, in ms since the epoch. */
  now: () => number;
  /** Whether what Redis has is copied, so that it can be read while Redis is down. */
  keepsCopies: boolean;
};

export interface Keeper extends TextStorage {
  /** Gives back what is kept. Returns whether nothing is left; never rejects because Redis is down. */
  giveBack(): Promise<boolean>;
  /** Forgets copies that have expired. Returns whether anything is kept, and when the next copy expires (ms). */
  tidy(): { keeps: boolean; nextExpiry: number | null; isEmpty: boolean };
  hasTables(): boolean;
  forgetTables(): void;
}

type Kept = "set" | "delete";
type Row = { key: string; text: string | null; expires_at: number | null; kept: Kept | null };
type Waiting = {
  change: Change;
  ttlSeconds: TtlSeconds;
  settle: (outcome: { changed: boolean } | { error: unknown }) => void;
};

/** By then a request that timed out has been carried out or never will be, in ms. */
const LATE_REQUESTS_MS = 3_000;

const SCHEMA = `CREATE TABLE IF NOT EXISTS records (
  key TEXT PRIMARY KEY, text TEXT, expires_at INTEGER, kept TEXT
) WITHOUT ROWID;`;

export function createKeeper({ primary, sql: database, now, keepsCopies }: KeeperOptions): Keeper {
  const name = "keeper";
  const queue = createQueue();
  const updates = new Map<string, Waiting[]>();
  /** Whether a request was given up that may still be carried out, and when what is kept was first given back after it. */
  let mayComeLate = false;
  let gaveAt: number | null = null;
  const sql = tablesOf(database, "records", SCHEMA);

  /** What is known of a key and still holds. */
  function find(key: string): Row | undefined {
    const [row] = sql.rows<Row>("SELECT * FROM records WHERE key = ?", key);
    const isOver = row !== undefined && row.expires_at !== null && row.expires_at <= now();
    return isOver ? undefined : row;
  }

  function write(key: string, text: string | null, expiresAt: number | null, kept: Kept | null): void {
    const isWorthARow = kept !== null || (keepsCopies && text !== null);
    if (isWorthARow)
      sql.run("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", key, text, expiresAt, kept);
    else sql.run("DELETE FROM records WHERE key = ?", key);
  }

  function keptRows(): Row[] {
    return sql.rows<Row>("SELECT * FROM records WHERE kept IS NOT NULL");
  }

  /** Throws StorageError, also where Redis refuses: what was acknowledged stays kept, whatever Redis says of it. */
  async function giveBackKept(): Promise<void> {
    const rows = keptRows();
    if (rows.length === 0) return;
    try {
      await primary.commit(rows.map((row) => giftOf(row, now())));
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      throw new StorageError(error.driver, "giveBack", isUnavailable(error) ? error.failure : "server_error");
    }
    gaveAt ??= now();
    // A request that was given up may still be carried out, and undo this: so it is given once more.
    if (mayComeLate && now() - gaveAt < LATE_REQUESTS_MS) return;
    mayComeLate = false;
    gaveAt = null;
    for (const { key, text, expires_at } of rows) write(key, text, expires_at, null);
  }

  /** Does something with Redis, or here where that is out of reach. What is kept goes first. */
  async function withPrimary<T>(act: () => Promise<T>, here: (failure: StorageError) => T): Promise<T> {
    try {
      await giveBackKept();
      return await act();
    } catch (error) {
      if (!isUnavailable(error)) throw error;
      if (error.failure === "timeout") mayComeLate = true;
      gaveAt = null;
      return here(error);
    }
  }

  /** What Redis has now, as far as a write that it has taken says so. */
  function copy(request: TextWrite, outcome: WriteOutcome): void {
    const { key } = request;
    switch (request.type) {
      case "set":
      case "create":
        // What a create has found instead is not known.
        write(key, outcome === false ? null : request.value, expiryAt(now(), request.ttlSeconds), null);
        return;
      case "delete":
        write(key, null, null, null);
        return;
      case "touch": {
        const text = outcome === true ? (find(key)?.text ?? null) : null;
        write(key, text, expiryAt(now(), request.ttlSeconds), null);
        return;
      }
      case "get":
        if (typeof outcome !== "string") write(key, null, null, null);
        else if (request.ttlSeconds !== undefined)
          write(key, outcome, expiryAt(now(), request.ttlSeconds), null);
    }
  }

  /** Does a write here. Throws `failure` where it depends on what only Redis knows. */
  function keep(request: TextWrite, failure: StorageError): WriteOutcome {
    const { key } = request;
    const row = find(key);
    switch (request.type) {
      case "set":
        write(key, request.value, expiryAt(now(), request.ttlSeconds), "set");
        return null;
      case "delete":
        // Whether something stood there may be unknown; afterwards nothing does.
        write(key, null, null, "delete");
        return row === undefined || row.kept !== "delete";
      case "create":
        if (row === undefined) throw failure;
        if (row.kept !== "delete") return false;
        write(key, request.value, expiryAt(now(), request.ttlSeconds), "set");
        return true;
      case "touch":
        if (row === undefined) throw failure;
        if (row.kept === "delete") return false;
        write(key, row.text, expiryAt(now(), request.ttlSeconds), "set");
        return true;
      case "get":
        if (row === undefined) throw failure;
        if (request.ttlSeconds !== undefined && row.kept !== "delete") {
          write(key, row.text, expiryAt(now(), request.ttlSeconds), "set");
        }
        return row.text;
    }
  }

  async function commit(writes: readonly TextWrite[]): Promise<readonly WriteOutcome[]> {
    checkWrites(writes);
    return queue(() =>
      withPrimary(
        async () => {
          const outcomes: readonly WriteOutcome[] = await primary.commit(writes);
          sql.transaction(() => {
            for (const [i, request] of writes.entries()) copy(request, outcomes[i] ?? null);
          });
          return outcomes;
        },
        (failure) => sql.transaction(() => writes.map((request) => keep(request, failure))),
      ),
    );
  }

  /** Everything that waited to change the same text, as one change: each sees what the one before it made. */
  async function updateTogether(key: string): Promise<void> {
    const waiting = updates.get(key) ?? [];
    updates.delete(key);
    let outcomes: Parameters<Waiting["settle"]>[0][] = [];
    let result: string | null | undefined;
    const together: Change = (standing) => {
      let text: string | null = standing;
      outcomes = waiting.map(({ change }) => {
        try {
          const next = text === null ? undefined : change(text);
          if (next !== undefined) text = next;
          return { changed: next !== undefined };
        } catch (error) {
          return { error };
        }
      });
      result = outcomes.some((outcome) => "changed" in outcome && outcome.changed) ? text : undefined;
      return result;
    };
    const ttlSeconds = waiting.at(-1)?.ttlSeconds ?? null;
    try {
      await withPrimary(
        async () => {
          const changed = await primary.update(key, together, ttlSeconds);
          const stood = outcomes.length > 0;
          if (changed || !stood) write(key, result ?? null, expiryAt(now(), ttlSeconds), null);
        },
        (failure) => {
          const row = find(key);
          if (row === undefined) throw failure;
          if (row.text === null || together(row.text) === undefined) return;
          if (result === null) write(key, null, null, "delete");
          else if (result !== undefined) write(key, result, expiryAt(now(), ttlSeconds), "set");
        },
      );
    } catch (error) {
      outcomes = waiting.map(() => ({ error }));
    }
    for (const [i, { settle }] of waiting.entries()) settle(outcomes[i] ?? { changed: false });
  }

  const keeper: Keeper = {
    name,

    async get(key) {
      const [text] = await keeper.commit([{ type: "get", key }]);
      return text;
    },

    async getAndTouch(key, ttlSeconds) {
      const [text] = await keeper.commit([{ type: "get", key, ttlSeconds }]);
      return text;
    },

    commit: (writes) => commit(writes) as never,

    async update(key, change, ttlSeconds) {
      ttlMillis(ttlSeconds);
      return new Promise((resolve, reject) => {
        const settle: Waiting["settle"] = (outcome) =>
          "error" in outcome ? reject(outcome.error) : resolve(outcome.changed);
        const gathering = updates.get(key);
        if (gathering !== undefined) gathering.push({ change, ttlSeconds, settle });
        else {
          updates.set(key, [{ change, ttlSeconds, settle }]);
          void queue(() => updateTogether(key));
        }
      });
    },

    ping: () => primary.ping(),

    giveBack: () =>
      queue(() =>
        withPrimary(
          async () => true,
          () => false,
        ),
      ),

    tidy() {
      // What is kept stays, even if its time is over: in Redis something older may still stand.
      sql.run("DELETE FROM records WHERE expires_at <= ? AND kept IS NULL", now());
      const [state] = sql.rows<{ kept: number; rows: number; earliest: number | null }>(
        `SELECT count(kept) AS kept, count(*) AS rows, min(expires_at) FILTER (WHERE kept IS NULL) AS earliest
         FROM records`,
      );
      const isEmpty = state === undefined || state.rows === 0;
      return { keeps: (state?.kept ?? 0) > 0, nextExpiry: state?.earliest ?? null, isEmpty };
    },

    hasTables: sql.exist,
    forgetTables: sql.forget,
  };
  return keeper;
}

/** What gives a kept row back. */
function giftOf({ key, text, expires_at }: Row, now: number): TextWrite {
  const isOver = expires_at !== null && expires_at <= now;
  if (text === null || isOver) return { type: "delete", key };
  return { type: "set", key, value: text, ttlSeconds: secondsUntil(expires_at, now) };
}
