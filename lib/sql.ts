/**
 * SQLite as our own code uses it, in four methods, so that the same tables run in a Durable Object and, in
 * unit tests, on `node:sqlite`. Everything is synchronous: nothing else happens between two statements.
 */
export type SqlValue = string | number | null;

export interface Sql {
  /** Runs one statement and returns its rows. */
  rows<T extends Record<string, SqlValue>>(statement: string, ...bindings: SqlValue[]): T[];
  /** Runs one statement that returns none. Returns whether it has written anything. */
  run(statement: string, ...bindings: SqlValue[]): boolean;
  /** Runs statements that take nothing and return nothing, such as a schema. */
  script(statements: string): void;
  /** Does the work all or nothing: what it throws undoes it, and is passed on. May be nested. */
  transaction<T>(work: () => T): T;
}

/** As much of a Durable Object's storage as is needed, by structure. */
type ObjectStorage = {
  sql: {
    exec<T extends Record<string, SqlValue>>(
      text: string,
      ...bindings: SqlValue[]
    ): { toArray(): T[]; readonly rowsWritten: number };
  };
  transactionSync<T>(work: () => T): T;
};

/** The SQLite database of a Durable Object. */
export function durableObjectSql(storage: ObjectStorage): Sql {
  return {
    rows: <T extends Record<string, SqlValue>>(statement: string, ...bindings: SqlValue[]) =>
      storage.sql.exec<T>(statement, ...bindings).toArray(),
    run: (statement, ...bindings) => storage.sql.exec(statement, ...bindings).rowsWritten > 0,
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
 * columns an earlier version did not have, `retired` which of its indexes are no more.
 */
export function tablesOf(
  sql: Sql,
  table: string,
  schema: string,
  later: Readonly<Record<string, string>> = {},
  retired: readonly string[] = [],
): Tables {
  const made = sql.rows<{ name: string; sql: string | null }>(
    "SELECT name, sql FROM sqlite_master WHERE tbl_name = ?",
    table,
  );
  const definition = made.find(({ name }) => name === table)?.sql;
  let exist = definition != null;
  for (const [column, type] of Object.entries(later)) {
    if (definition != null && !definition.includes(column))
      sql.script(`ALTER TABLE ${table} ADD COLUMN ${column} ${type};`);
  }
  for (const { name } of made) if (retired.includes(name)) sql.script(`DROP INDEX ${name};`);

  /** Whether a statement would find its tables; an INSERT does. */
  function finds(statement: string): boolean {
    if (exist || !statement.startsWith("INSERT")) return exist;
    sql.script(schema);
    exist = true;
    return true;
  }
  return {
    rows: <T extends Record<string, SqlValue>>(statement: string, ...bindings: SqlValue[]): T[] =>
      finds(statement) ? sql.rows<T>(statement, ...bindings) : [],
    run: (statement, ...bindings) => finds(statement) && sql.run(statement, ...bindings),
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
