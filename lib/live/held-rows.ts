/**
 * What an object keeps in memory of its table of results: the rows that are not settled, those that the history or the
 * log of settled results lacks, and a few that were settled lately. Nobody but the object writes the table, so a delivery need not read what
 * it has just written: in SQLite each statement costs more than all that is decided by it.
 *
 * It follows the table by what each change returns. A statement that does not say what it changed makes it forget
 * everything, and the next look reads the table; so does whatever is undone.
 */
import type { SqlValue, Tables } from "../sql.ts";

/** What of a row decides whether, and for how long, it is held. */
export type HeldRow = {
  seq: number;
  request_id: string;
  text: string | null;
  in_history: number;
  status: string;
  settled_at: number | null;
  logged: string | null;
  /** 1 as long as there may be something to do with it. */
  unfinished: number;
};

/** The log has not been told how a row was settled, and when: one that is settled anew is news again. */
const isNotLogged = ({ settled_at, status, logged }: HeldRow) =>
  settled_at !== null && logged !== `${status}${settled_at}`;
const lacksHistory = ({ in_history, text }: HeldRow) => in_history === 0 && text !== null;

/** A longer text is read again where it is needed: 200 results of 64 KiB would be a tenth of an isolate's memory. */
const MAX_TEXT_HELD = 4_096;
/** Somebody logs a result just after it was settled, and its sender may try again soon. */
const MAX_SETTLED_HELD = 32;

type Memory<Row> = {
  /** By requestId. */
  open: Map<string, Row>;
  settled: Map<string, Row>;
  hasRows: boolean;
  firstSettledAt: number | null;
};

export type HeldRows<Row> = ReturnType<typeof createHeldRows<Row & HeldRow & Record<string, SqlValue>>>;

/** `tables` has a table `results`. */
export function createHeldRows<Row extends HeldRow & Record<string, SqlValue>>(tables: Tables) {
  let memory: Memory<Row> | null = null;
  /** The rows whose text is not held, by `seq`. */
  const shortened = new Set<number>();

  /** Whether there is still something to do with it. */
  const isOpen = (row: HeldRow) => row.settled_at === null || lacksHistory(row) || isNotLogged(row);

  function forget(): void {
    memory = null;
    shortened.clear();
  }

  function keep(into: Memory<Row>, row: Row): void {
    const { seq, request_id: requestId, text } = row;
    const [wanted, other] = isOpen(row) ? [into.open, into.settled] : [into.settled, into.open];
    other.delete(requestId);
    const isLong = text !== null && text.length > MAX_TEXT_HELD;
    if (isLong) shortened.add(seq);
    else shortened.delete(seq);
    wanted.set(requestId, isLong ? { ...row, text: "" } : row);
    const [oldest] = into.settled.values();
    if (into.settled.size > MAX_SETTLED_HELD && oldest !== undefined) {
      into.settled.delete(oldest.request_id);
      shortened.delete(oldest.seq);
    }
  }

  function remembered(): Memory<Row> {
    if (memory !== null) return memory;
    const [found] = tables.rows<{ hasRows: number; firstSettledAt: number | null }>(
      `SELECT EXISTS (SELECT 1 FROM results) AS hasRows,
         (SELECT min(settled_at) FROM results WHERE settled_at IS NOT NULL) AS firstSettledAt`,
    );
    const read: Memory<Row> = {
      open: new Map(),
      settled: new Map(),
      hasRows: found?.hasRows === 1,
      firstSettledAt: found?.firstSettledAt ?? null,
    };
    if (read.hasRows) {
      for (const row of tables.rows<Row>("SELECT * FROM results WHERE unfinished = 1")) keep(read, row);
    }
    memory = read;
    return read;
  }

  /** Rows with the texts that are not held. */
  function whole(rows: readonly Row[]): readonly Row[] {
    if (shortened.size === 0) return rows;
    const long = rows.filter(({ seq }) => shortened.has(seq)).map(({ seq }) => seq);
    if (long.length === 0) return rows;
    const texts = new Map(
      tables
        .rows<{ seq: number; text: string | null }>(
          `SELECT seq, text FROM results WHERE seq IN (${long.join(", ")})`,
        )
        .map(({ seq, text }) => [seq, text]),
    );
    return rows.map((row) => ({ ...row, text: texts.get(row.seq) ?? row.text }));
  }

  /** Rows as they are now. */
  function note(changed: readonly Row[]): void {
    if (memory === null) return;
    for (const row of changed) {
      memory.hasRows = true;
      if (row.settled_at !== null)
        memory.firstSettledAt = Math.min(memory.firstSettledAt ?? row.settled_at, row.settled_at);
      keep(memory, row);
    }
  }

  function some(isIt: (row: Row) => boolean): boolean {
    for (const row of remembered().open.values()) if (isIt(row)) return true;
    return false;
  }

  function those(areIt: (row: Row) => boolean): Row[] {
    const found: Row[] = [];
    for (const row of remembered().open.values()) if (areIt(row)) found.push(row);
    return found.sort((a, b) => a.seq - b.seq);
  }

  return {
    forget,
    whole,

    /** Any statement; one that is no SELECT may have changed anything. */
    rows<T extends Record<string, SqlValue>>(statement: string, ...bindings: SqlValue[]): T[] {
      if (!statement.startsWith("SELECT")) forget();
      return tables.rows<T>(statement, ...bindings);
    },

    /**
     * An INSERT of what the table does not hold yet, which is `row` but for its `seq`. Returns the row; undefined where one
     * stands in its place. Nothing else is read back, as with `set`.
     */
    insert(statement: string, bindings: readonly SqlValue[], row: Omit<Row, "seq">): Row | undefined {
      const [made] = tables.rows<{ seq: number }>(`${statement} RETURNING seq`, ...bindings);
      if (made === undefined) return undefined;
      const inserted = { ...row, seq: made.seq } as Row;
      note([inserted]);
      return inserted;
    },

    /** An UPDATE that leaves the time at which a settled row was settled. Returns the rows as they are now. */
    change(statement: string, ...bindings: SqlValue[]): Row[] {
      const changed = tables.rows<Row>(`${statement} RETURNING *`, ...bindings);
      note(changed);
      return changed;
    },

    /**
     * Sets columns of a row that was found, if `condition` holds where there is one; of a settled row not the time at which
     * it was settled. Where nothing is left to do it is finished. Returns whether it was done. Nothing is read back: a row
     * has more columns than a step changes.
     */
    set(row: Row, fields: Partial<Row>, condition?: string): boolean {
      const next = { ...row, ...fields };
      const finishes = row.unfinished === 1 && !isOpen(next);
      if (finishes) next.unfinished = 0;
      const columns = Object.keys(fields).map((column) => `${column} = ?`);
      if (finishes) columns.push("unfinished = 0");
      const where = condition === undefined ? "" : ` AND ${condition} RETURNING seq`;
      const done = tables.rows(
        `UPDATE results SET ${columns.join(", ")} WHERE seq = ?${where}`,
        ...(Object.values(fields) as SqlValue[]),
        row.seq,
      );
      if (condition !== undefined && done.length === 0) return false;
      note([next]);
      return true;
    },

    /** Does the work all or nothing. */
    transaction<T>(work: () => T): T {
      try {
        return tables.transaction(work);
      } catch (error) {
        forget();
        throw error;
      }
    },

    hasRows: (): boolean => remembered().hasRows,
    /** When the first of those that are settled was, in ms; null where none is. */
    firstSettledAt: (): number | null => remembered().firstSettledAt,

    find(requestId: string): Row | undefined {
      const { open, settled } = remembered();
      const held = open.get(requestId) ?? settled.get(requestId);
      if (held !== undefined) return whole([held])[0];
      return tables.rows<Row>("SELECT * FROM results WHERE request_id = ?", requestId)[0];
    },

    /** Those that are not settled, oldest first; a long text may be missing. */
    unsettled: (): Row[] => those(({ settled_at }) => settled_at === null),

    /**
     * Those that there may be something to do with, settled or not, in no order, for who only counts: two hundred may wait,
     * and every callback asks.
     */
    kept: (): Iterable<Row> => remembered().open.values(),

    /** Whether there is such a one among them; and all that are, oldest first, a long text may be missing. */
    some,
    those,

    /** Those that the history does not have for certain, oldest first; a long text may be missing. */
    notInHistory: (): Row[] => those(lacksHistory),

    lacksHistory: (): boolean => some(lacksHistory),

    lacksLog: (): boolean => some(isNotLogged),

    /** Those that the log of settled results does not have for certain, oldest first; a long text may be missing. */
    notLogged: (): Row[] => those(isNotLogged),
  };
}
