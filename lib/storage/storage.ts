/**
 * The one interface every store writes through. Reads are calls; writes are plain data, so that everything
 * that must become true together travels in one `commit`.
 *
 * Values are opaque text: what is read is the text that was written, to the last byte. A driver knows
 * nothing of records, sessions or schemas. `test/contract/` says whether a driver is right.
 */

/**
 * How long a key lives from the moment of the write, in seconds (fractions down to a millisecond are
 * allowed); `null` means for ever. Every write names it, so that no key outlives its purpose by accident.
 */
export type TtlSeconds = number | null;

/**
 * Writes `value`, whatever stood there. Result: the text that stood there before, if `returnPrevious`. With
 * `onlyIfAbsent` it writes only where nothing stands and does not say whether it did (`create` does, for one
 * command more); not both.
 */
export type SetWrite = {
  type: "set";
  key: string;
  value: string;
  ttlSeconds: TtlSeconds;
  returnPrevious?: true;
  onlyIfAbsent?: true;
};

/** Writes `value` only where nothing stands. Result: the text that stands there now: `value`, or an earlier one. */
export type CreateWrite = { type: "create"; key: string; value: string; ttlSeconds: TtlSeconds };

/** Restarts the key's time to live; does nothing where nothing stands. Works on every kind of key. */
export type TouchWrite = { type: "touch"; key: string; ttlSeconds: TtlSeconds };

/** Removes the key, of whatever kind. Result: whether it was there. */
export type DeleteWrite = { type: "delete"; key: string };

/**
 * Adds `value` at the end of a list and restarts the list's time to live; beyond `maxLength` the oldest
 * entries go. Result: how many entries were dropped. A commit whose answer was lost may have been applied
 * and may be applied again, so a value can stand in a list twice: whoever reads a list removes repetitions.
 */
export type AppendWrite = {
  type: "append";
  key: string;
  value: string;
  maxLength: number;
  ttlSeconds: TtlSeconds;
};

/** Removes every entry of a list that equals `value`. Result: how many there were. */
export type RemoveWrite = { type: "remove"; key: string; value: string };

/** Puts `member` into a sorted index at `score`, moving it if it is there. An index itself has no time to live. */
export type IndexWrite = { type: "index"; key: string; member: string; score: number };

/** Takes `member` out of a sorted index. Result: whether it was there. */
export type UnindexWrite = { type: "unindex"; key: string; member: string };

/** Drops every member of a sorted index whose score is below `belowScore`. Result: how many. */
export type PruneWrite = { type: "prune"; key: string; belowScore: number };

export type Write =
  | SetWrite
  | CreateWrite
  | TouchWrite
  | DeleteWrite
  | AppendWrite
  | RemoveWrite
  | IndexWrite
  | UnindexWrite
  | PruneWrite;

export type WriteResult<W extends Write> = W extends SetWrite
  ? string | null
  : W extends CreateWrite
    ? string
    : W extends DeleteWrite | UnindexWrite
      ? boolean
      : W extends AppendWrite | RemoveWrite | PruneWrite
        ? number
        : null;

/** One result a write, in the order of the writes. */
export type WriteResults<W extends readonly Write[]> = { [I in keyof W]: WriteResult<W[I]> };

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

/** A page of a scan. Keys may repeat across pages; the scan is over when there is no cursor. */
export type ScanPage = { keys: string[]; cursor?: string };

/** Whether a storage is itself or what stands by for it, and what went wrong last, as a `StorageFailure`. */
export type StorageHealth = { usingFallback: boolean; lastError?: string };

/**
 * What a driver must do. Every method throws `StorageError` when the storage could not answer: a slow or
 * failing storage never looks like an absent key.
 */
export interface Storage {
  /** The driver's name, for logs and errors. */
  readonly name: string;

  /** The text at `key`, or null. */
  get(key: string): Promise<string | null>;

  /** The texts at `keys`, in their order, in one round trip; null also where something other than a text stands. */
  getMany(keys: readonly string[]): Promise<(string | null)[]>;

  /** Like `get`, and restarts the key's time to live in the same command. */
  getAndTouch(key: string, ttlSeconds: TtlSeconds): Promise<string | null>;

  /** Seconds the key still lives, `Infinity` for a key without a time to live, null where nothing stands. */
  ttl(key: string): Promise<number | null>;

  /** Entries `start` to `stop` of a list, both included, negative ones counted from the end; [] where nothing stands. */
  range(key: string, start: number, stop: number): Promise<string[]>;

  /** A page of a sorted index, highest score first. */
  listIndex(key: string, query: IndexQuery): Promise<IndexPage>;

  /** A page of the string keys that begin with `prefix` (taken literally). Records of conversations are not scanned but indexed. */
  scan(prefix: string, cursor?: string): Promise<ScanPage>;

  /** Resolves when the storage answers. */
  ping(): Promise<void>;

  /** Left out by a storage for which nothing stands by. */
  health?(): StorageHealth;

  /**
   * Applies the writes in order, in one round trip. All or nothing for the keys of one conversation; an
   * index lives beside them and follows within the same call.
   */
  commit<const W extends readonly Write[]>(writes: W): Promise<WriteResults<W>>;

  /**
   * Writes `value` only where nothing stands: null when this call's value stands there now, otherwise the
   * text that stood there first. `value` must carry a nonce, so that a retried request whose first answer
   * was lost recognises its own claim.
   */
  claim(key: string, value: string, ttlSeconds: TtlSeconds): Promise<string | null>;

  /**
   * Replaces the text at `key` by `next` (removes the key where `next` is null) if exactly `expected` stands
   * there, in one atomic step. Returns whether this call did it, so that of many callers who read the same
   * text exactly one succeeds, also when all of them want the same `next`. A driver never repeats it after a
   * lost answer: it throws, and the caller does not know.
   */
  compareAndSet(key: string, expected: string, next: string | null, ttlSeconds: TtlSeconds): Promise<boolean>;
}

/** A TTL in whole milliseconds, or null for ever. Throws RangeError for what is not a time to live. */
export function ttlMillis(ttlSeconds: TtlSeconds): number | null {
  if (ttlSeconds === null) return null;
  const millis = Math.round(ttlSeconds * 1000);
  if (!Number.isSafeInteger(millis) || millis <= 0)
    throw new RangeError(`not a time to live: ${ttlSeconds} s`);
  return millis;
}
