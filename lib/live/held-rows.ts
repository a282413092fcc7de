/**
 * What an object keeps in memory of its table of results: the rows that are not settled, those that the history or the
 * log of settled results lacks, and a few that were settled lately. Nobody but the object writes the table, so a delivery
 * need not read what it has just written: in SQLite each statement costs more than all that is decided by it.
 *
 * The table has no index but that of its ids: the entries of another are billed as rows written, for each result two or
 * three, of which one is as dear as a thousand rows read. So it is read whole when the object begins, and after
 * statements that may have changed anything.
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
};

/** The log has not been told how a row was settled, and when: one that is settled anew is news again. */
const isNotLogged = ({ settled_at, status, logged }: HeldRow) =>
  settled_at !== null && logged !== `${status}${settled_at}`;
const lacksHistory = ({ in_history, text }: HeldRow) => in_history === 0 && text !== null;

/** Whether there is still something to do with it; the same in both languages. */
const isUnfinished = (row: HeldRow) => row.settled_at === null || isNotLogged(row) || lacksHistory(row);
const UNFINISHED =
  "settled_at IS NULL OR logged IS NOT status || settled_at OR (in_history = 0 AND text IS NOT NULL)";

/** A longer text is read again where it is needed: 200 results of 64 KiB would be a tenth of an isolate's memory. */
const MAX_TEXT_HELD = 4_096;
/** Somebody logs a result just after it was settled, and its sender may try again soon. */
const MAX_SETTLED_HELD = 32;

type Memory<Row> = {
  /** By requestId. */
  unfinished: Map<string, Row>;
  settled: Map<string, Row>;
  /** The `seq` of the newest row; 0 where there is none. */
  newest: number;
  /** Undefined where the table has to be asked. */
  firstSettledAt: number | null | undefined;
};

/** `tables` has a table `results`. */
export function createHeldRows<Row extends HeldRow & Record<string, SqlValue>>(tables: Tables) {
  let memory: Memory<Row> | null = null;
  /** The rows whose text is not held, by `seq`. */
  const shortened = new Set<number>();
  /** What is true of rows, by requestId, and is written with the next step of each. */
  let marks = new Map<string, Partial<Row>>();

  function forget(): void {
    memory = null;
    shortened.clear();
  }

  function keep(into: Memory<Row>, row: Row): void {
    const { seq, request_id: requestId, text } = row;
    const [wanted, other] = isUnfinished(row)
      ? [into.unfinished, into.settled]
      : [into.settled, into.unfinished];
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

  /** Rows as the table has them, with what is still to be written of them. */
  function read(condition: string, ...bindings: SqlValue[]): Row[] {
    const rows = tables.rows<Row>(`SELECT * FROM results WHERE ${condition}`, ...bindings);
    return marks.size === 0 ? rows : rows.map((row) => ({ ...row, ...marks.get(row.request_id) }));
  }

  function remembered(): Memory<Row> {
    if (memory !== null) return memory;
    const [found] = tables.rows<{ newest: number | null }>("SELECT max(seq) AS newest FROM results");
    const newest = found?.newest ?? 0;
    memory = { unfinished: new Map(), settled: new Map(), newest, firstSettledAt: undefined };
    if (newest > 0) for (const row of read(UNFINISHED)) keep(memory, row);
    return memory;
  }

  /** When the first of those that are settled was, in ms; null where none is. */
  function firstSettledAt(): number | null {
    const known = remembered();
    if (known.firstSettledAt !== undefined) return known.firstSettledAt;
    const [found] = tables.rows<{ first: number | null }>("SELECT min(settled_at) AS first FROM results");
    known.firstSettledAt = found?.first ?? null;
    return known.firstSettledAt;
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

  /** A row as it is now, and as it was before. */
  function note(row: Row, before?: Row): void {
    if (memory === null) return;
    const { seq, settled_at: settledAt } = row;
    memory.newest = Math.max(memory.newest, seq);
    if (before !== undefined && before.settled_at !== null) {
      // It may have been the first.
      if (settledAt !== before.settled_at) memory.firstSettledAt = undefined;
    } else if (settledAt !== null && memory.firstSettledAt !== undefined)
      memory.firstSettledAt = Math.min(memory.firstSettledAt ?? settledAt, settledAt);
    keep(memory, row);
  }

  function some(isIt: (row: Row) => boolean): boolean {
    for (const row of remembered().unfinished.values()) if (isIt(row)) return true;
    return false;
  }

  function those(areIt: (row: Row) => boolean): Row[] {
    const found: Row[] = [];
    for (const row of remembered().unfinished.values()) if (areIt(row)) found.push(row);
    return found.sort((a, b) => a.seq - b.seq);
  }

  function write(fields: Partial<Row>, condition: string, ...bindings: SqlValue[]): boolean {
    const columns = Object.keys(fields).map((column) => `${column} = ?`);
    const values = Object.values(fields) as SqlValue[];
    return tables.run(`UPDATE results SET ${columns.join(", ")} WHERE ${condition}`, ...values, ...bindings);
  }

  return {
    /** The table is gone. */
    forgetTable(): void {
      marks.clear();
      forget();
    },
    read,
    whole,

    /** A statement that may change anything. */
    run(statement: string, ...bindings: SqlValue[]): void {
      forget();
      tables.run(statement, ...bindings);
    },

    /**
     * Inserts a row behind all others; of its columns the table has `defaults` by itself. Returns it; undefined where one
     * of its id stands.
     */
    insert<Given extends keyof Row>(
      given: Pick<Row, Given>,
      defaults: Omit<Row, Given | "seq">,
    ): Row | undefined {
      const numbered = { ...given, seq: remembered().newest + 1 };
      const columns = Object.keys(numbered);
      const places = columns.map(() => "?").join(", ");
      const isNew = tables.run(
        `INSERT OR IGNORE INTO results (${columns.join(", ")}) VALUES (${places})`,
        ...(Object.values(numbered) as SqlValue[]),
      );
      if (!isNew) return undefined;
      const row = { ...defaults, ...numbered } as unknown as Row;
      marks.delete(row.request_id);
      note(row);
      return row;
    },

    /**
     * Sets columns of a row that was found whole, if it stands in the table as it was found: two lives of an object could
     * not both take a step. Returns whether it was done. Nothing is read back: a row has more columns than a step changes.
     */
    set(row: Row, fields: Partial<Row>): boolean {
      const { request_id: requestId } = row;
      const marked = marks.get(requestId);
      const all = marked === undefined ? fields : { ...marked, ...fields };
      if (!write(all, "seq = ? AND status = ? AND settled_at IS ?", row.seq, row.status, row.settled_at)) {
        forget();
        return false;
      }
      if (marked !== undefined) marks.delete(requestId);
      note({ ...row, ...all }, row);
      return true;
    },

    /** The same, written with the next step of the row, or by `writeMarks`. Who dies before has not noted it. */
    mark(row: Row, fields: Partial<Row>): void {
      marks.set(row.request_id, { ...marks.get(row.request_id), ...fields });
      note({ ...row, ...fields }, row);
    },

    /** Writes what no step has taken with it. */
    writeMarks(): void {
      for (const [requestId, fields] of marks) write(fields, "request_id = ?", requestId);
      marks.clear();
    },

    /** Does the work all or nothing. */
    transaction<T>(work: () => T): T {
      const before = new Map(marks);
      try {
        return tables.transaction(work);
      } catch (error) {
        marks = before;
        forget();
        throw error;
      }
    },

    hasRows: (): boolean => remembered().newest > 0,
    firstSettledAt,

    find(requestId: string): Row | undefined {
      const { unfinished, settled } = remembered();
      const held = unfinished.get(requestId) ?? settled.get(requestId);
      return held === undefined ? read("request_id = ?", requestId)[0] : whole([held])[0];
    },

    /** Those that are not settled, oldest first; a long text may be missing. */
    unsettled: (): Row[] => those(({ settled_at }) => settled_at === null),

    /**
     * Those that there may be something to do with, settled or not, in no order, for who only counts: two hundred may wait,
     * and every callback asks.
     */
    kept: (): Iterable<Row> => remembered().unfinished.values(),

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
