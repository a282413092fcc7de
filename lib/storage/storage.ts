/**
 * The one interface every store writes through. Reads are calls; writes are plain data, so that everything
 * that must become true together travels in one `commit`.
 *
 * Values are opaque text: what is read is the text that was written, to the last byte. A driver knows
 * nothing of records, sessions or schemas. `test/contract/` says whether a driver is right.
 */
import { InvalidCursorError } from "../errors.ts";

/**
 * How long a key lives from the moment of the write, in seconds (fractions down to a millisecond are
 * allowed); `null` means for ever. Every write names it, so that no key outlives its purpose by accident.
 */
export type TtlSeconds = number | null;

/** Writes `value`, whatever stood there. */
export type SetWrite = { type: "set"; key: string; value: string; ttlSeconds: TtlSeconds };

/**
 * Writes `value` only where nothing stands. Result: whether it was written by this call; where an answer was
 * lost and the write repeated, the second one says no.
 */
export type CreateWrite = { type: "create"; key: string; value: string; ttlSeconds: TtlSeconds };

/** Restarts the key's time to live. Works on every kind of key. Result: whether something stood there. */
export type TouchWrite = { type: "touch"; key: string; ttlSeconds: TtlSeconds };

/** Removes the key, of whatever kind. Result: whether it was there. */
export type DeleteWrite = { type: "delete"; key: string };

/**
 * Reads a text among the writes, as it stands at its place in their order. With `ttlSeconds` its time to live
 * is restarted in the same command. Result: the text, or null.
 */
export type ReadInCommit = { type: "get"; key: string; ttlSeconds?: TtlSeconds };

/**
 * Adds `value` at the end of a list and restarts the list's time to live; beyond `maxLength` the oldest
 * entries go, as soon as there are more than `slack` (0) of them: they go together, because it takes a request each time.
 * Result: how many entries stood there before; `surplusOf` says how many of them go. A commit whose answer was lost may
 * have been applied and may be applied again, so a value can stand in a list twice: whoever reads a list removes
 * repetitions.
 */
export type AppendWrite = {
  type: "append";
  key: string;
  value: string;
  maxLength: number;
  slack?: number;
  ttlSeconds: TtlSeconds;
};

/** How many entries an append drops of a list that had so many `before`. */
export function surplusOf({ maxLength, slack = 0 }: AppendWrite, before: number): number {
  const length = before + 1;
  return length > maxLength + slack ? length - maxLength : 0;
}

/** Removes every entry of a list that equals `value`. Result: how many there were. */
export type RemoveWrite = { type: "remove"; key: string; value: string };

/** Puts `member` into a sorted index at `score`, moving it if it is there. An index itself has no time to live. */
export type IndexWrite = { type: "index"; key: string; member: string; score: number };

/** Takes `member` out of a sorted index. Result: whether it was there. */
export type UnindexWrite = { type: "unindex"; key: string; member: string };

/** Drops every member of a sorted index whose score is below `belowScore`. Result: how many. */
export type PruneWrite = { type: "prune"; key: string; belowScore: number };

/**
 * Adds `value` to a log, which has no time to live: of more than `maxLength` entries the oldest go, a few of them
 * perhaps later. A commit whose answer was lost may be applied again, so an entry can stand there twice: whoever reads
 * a log knows the same thing again when it sees it.
 */
export type LogWrite = { type: "log"; key: string; value: string; maxLength: number };

/** What concerns texts alone, and may be done where there are only texts. */
export type TextWrite = SetWrite | CreateWrite | TouchWrite | DeleteWrite | ReadInCommit;

export type Write = TextWrite | AppendWrite | RemoveWrite | IndexWrite | UnindexWrite | PruneWrite | LogWrite;

export type WriteResult<W extends Write> = W extends ReadInCommit
  ? string | null
  : W extends CreateWrite | TouchWrite | DeleteWrite | UnindexWrite
    ? boolean
    : W extends AppendWrite | RemoveWrite | PruneWrite
      ? number
      : null;

/** One result a write, in the order of the writes. */
export type WriteResults<W extends readonly Write[]> = { [I in keyof W]: WriteResult<W[I]> };

/** What any write may answer. */
export type WriteOutcome = string | boolean | number | null;

/** What becomes of the text that stands at a key: another text, null to remove it, undefined to leave it alone. */
export type Change = (standing: string) => string | null | undefined;

export type IndexEntry = { member: string; score: number };

/** A page of a sorted index, highest score first (equal scores: members in descending order). */
export type IndexPage = { entries: IndexEntry[]; nextCursor?: string };

export type IndexQuery = {
  /** How many entries at most. */
  limit: number;
  /** `nextCursor` of the page before. Throws {@link InvalidCursorError} where it is not one. */
  cursor?: string;
  /** Entries below this score are left out. */
  minScore?: number;
};

/** An entry of a log. Its id is the time of its writing in ms, and a number that tells those of the same time apart. */
export type LogEntry = { id: string; value: string };

export type LogQuery = {
  /** How many entries at most. */
  limit: number;
  /** Entries older than this one, by its id. Throws {@link InvalidCursorError} where it is no id of an entry. */
  before?: string;
  /** Entries that were written at this time (ms) or later. */
  since?: number;
};

/** Whether a storage is itself or what answers in its place, and what went wrong last, as a `StorageFailure`. */
export type StorageHealth = { usingFallback: boolean; lastError?: string };

/**
 * A storage of texts. Every method throws `StorageError` when the storage could not answer: a slow or failing
 * storage never looks like an absent key.
 */
export interface TextStorage {
  /** The driver's name, for logs and errors. */
  readonly name: string;

  /** The text at `key`, or null. */
  get(key: string): Promise<string | null>;

  /** Like `get`, and restarts the key's time to live in the same command. */
  getAndTouch(key: string, ttlSeconds: TtlSeconds): Promise<string | null>;

  /**
   * Reads, changes and writes: replaces the text at `key` by what `change` makes of it, with a new time to
   * live. Where nothing stands `change` is not called. Atomic: of any number of updates at once, here and in
   * other instances, none is lost. `change` may be called more than once and must do nothing but compute;
   * what it throws is passed on, and then nothing was changed. Returns whether something was. Throws
   * StorageError: `contended` where others never left it a gap; any other failure leaves open whether the
   * text was changed, as the answer may have been lost.
   */
  update(key: string, change: Change, ttlSeconds: TtlSeconds): Promise<boolean>;

  /** Applies the writes in order, in one round trip, all or nothing for the keys of one record. */
  commit<const W extends readonly TextWrite[]>(writes: W): Promise<WriteResults<W>>;

  /** Resolves when the storage answers. */
  ping(): Promise<void>;

  /** Left out by a storage that nothing answers for. */
  health?(): StorageHealth;
}

/** A storage of texts, lists and sorted indexes: what a driver of the product is. */
export interface Storage extends TextStorage {
  /** The texts at `keys`, in their order, in one round trip; null also where something other than a text stands. */
  getMany(keys: readonly string[]): Promise<(string | null)[]>;

  /** Seconds the key still lives, `Infinity` for a key without a time to live, null where nothing stands. */
  ttl(key: string): Promise<number | null>;

  /** Entries `start` to `stop` of a list, both included, negative ones counted from the end; [] where nothing stands. */
  range(key: string, start: number, stop: number): Promise<string[]>;

  /** A page of a sorted index, highest score first. */
  listIndex(key: string, query: IndexQuery): Promise<IndexPage>;

  /** Entries of a log, newest first; [] where nothing stands. */
  readLog(key: string, query: LogQuery): Promise<LogEntry[]>;

  /**
   * Applies the writes in order, in one round trip. All or nothing for the keys of one conversation; an
   * index lives beside them and follows within the same call.
   */
  commit<const W extends readonly Write[]>(writes: W): Promise<WriteResults<W>>;
}

const LOG_ENTRY_ID = /^(\d{1,15})-(\d{1,6})$/;

/** The time (ms) and the number in the id of an entry of a log. Throws InvalidCursorError. */
export function decodeLogEntryId(id: string): { at: number; number: number } {
  const [, at, number] = LOG_ENTRY_ID.exec(id) ?? [];
  if (at === undefined || number === undefined) throw new InvalidCursorError();
  return { at: Number(at), number: Number(number) };
}

/** A TTL in whole milliseconds, or null for ever. Throws RangeError for what is not a time to live. */
export function ttlMillis(ttlSeconds: TtlSeconds): number | null {
  if (ttlSeconds === null) return null;
  const millis = Math.round(ttlSeconds * 1000);
  if (!Number.isSafeInteger(millis) || millis <= 0)
    throw new RangeError(`not a time to live: ${ttlSeconds} s`);
  return millis;
}

/** When what is written at `now` (ms) with this time to live is gone, in ms; null for never. */
export function expiryAt(now: number, ttlSeconds: TtlSeconds): number | null {
  const millis = ttlMillis(ttlSeconds);
  return millis === null ? null : now + millis;
}

/** The time to live that is left at `now` (ms) to what is gone at `expiresAt`. */
export function secondsUntil(expiresAt: number | null, now: number): TtlSeconds {
  return expiresAt === null ? null : (expiresAt - now) / 1000;
}

/**
 * Throws RangeError where a TTL, a length or a score is not one. Every driver checks the whole commit before
 * it asks anything, so that a malformed write leaves nothing of its neighbours behind: the one half of "all
 * or nothing" that a Redis transaction does not give.
 */
export function checkWrites(writes: readonly Write[]): void {
  for (const write of writes) {
    if ("ttlSeconds" in write && write.ttlSeconds !== undefined) ttlMillis(write.ttlSeconds);
    if ("maxLength" in write && !(Number.isSafeInteger(write.maxLength) && write.maxLength > 0))
      throw new RangeError(`not a length: ${write.maxLength}`);
    if (write.type === "append" && !(Number.isSafeInteger(write.slack ?? 0) && (write.slack ?? 0) >= 0))
      throw new RangeError(`not a length: ${write.slack}`);
    if (write.type === "index") checkScore(write.score);
    if (write.type === "prune") checkScore(write.belowScore);
  }
}

function checkScore(score: number): void {
  if (!Number.isFinite(score)) throw new RangeError(`not a score: ${score}`);
}
