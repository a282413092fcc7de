/**
 * SQLite as our own code uses it, in three methods, so that the same tables run in a Durable Object and, in
 * unit tests, on `node:sqlite`. Everything is synchronous: nothing else happens between two statements.
 */
export type SqlValue = string | number | null;

export interface Sql {
  /** Runs one statement and returns its rows. */
  rows<T extends Record<string, SqlValue>>(statement: string, ...bindings: SqlValue[]): T[];
  /** Runs statements that take nothing and return nothing, such as a schema. */
  script(statements: string): void;
  /** Does the work all or nothing: what it throws undoes it, and is passed on. May be nested. */
  transaction<T>(work: () => T): T;
}

/** As much of a Durable Object's storage as is needed, by structure. */
type ObjectStorage = {
  sql: {
    exec<T extends Record<string, SqlValue>>(text: string, ...bindings: SqlValue[]): { toArray(): T[] };
  };
  transactionSync<T>(work: () => T): T;
};

/** The SQLite database of a Durable Object. */
export function durableObjectSql(storage: ObjectStorage): Sql {
  return {
    rows: <T extends Record<string, SqlValue>>(statement: string, ...bindings: SqlValue[]) =>
      storage.sql.exec<T>(statement, ...bindings).toArray(),
    script: (statements) => void storage.sql.exec(statements),
    transaction: (work) => storage.transactionSync(work),
  };
}

export type Tables = Sql & {
  /** Whether there are tables now. */
  exist(): boolean;
  /** To be told where everything has been deleted. */
  forget(): void;
};

/**
 * A database whose tables are made by the first INSERT: until then there are no rows, and nothing is left
 * behind by who only looks. `table` is one of the tables that `schema` makes; `later` says, by name, which of its
 * columns an earlier version did not have, `retired` which of its indexes are no more; `schema` may be run again.
 */
export function tablesOf(
  sql: Sql,
  table: string,
  schema: string,
  later: Readonly<Record<string, string>> = {},
  retired: readonly string[] = [],
): Tables {
  const [made] = sql.rows<{ sql: string }>("SELECT sql FROM sqlite_master WHERE name = ?", table);
  let exist = made !== undefined;
  const lacking = Object.entries(later).filter(
    ([column]) => made !== undefined && !made.sql.includes(column),
  );
  for (const [column, definition] of lacking)
    sql.script(`ALTER TABLE ${table} ADD COLUMN ${column} ${definition};`);
  if (lacking.length > 0) {
    for (const index of retired) sql.script(`DROP INDEX IF EXISTS ${index};`);
    sql.script(schema);
  }
  return {
    rows<T extends Record<string, SqlValue>>(statement: string, ...bindings: SqlValue[]): T[] {
      if (!exist) {
        if (!statement.startsWith("INSERT")) return [];
        sql.script(schema);
        exist = true;
      }
      return sql.rows<T>(statement, ...bindings);
    },
    script: sql.script,
    transaction(work) {
      const existed = exist;
      try {
        return sql.transaction(work);
      } catch (error) {
        exist = existed;
        throw error;
      }
    },
    exist: () => exist,
    forget() {
      exist = false;
    },
  };
}
