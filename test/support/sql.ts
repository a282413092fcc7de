/** SQLite in the memory of this process, as our own code uses it: `node:sqlite` behind the same four methods. */
import { DatabaseSync } from "node:sqlite";
import type { Sql, SqlValue } from "../../lib/sql.ts";

/** A new, empty database. Everything that is opened over the same one sees the same tables, as after a restart. */
export function memorySql(): Sql & { close(): void } {
  const database = new DatabaseSync(":memory:");
  return {
    rows: <T extends Record<string, SqlValue>>(statement: string, ...bindings: SqlValue[]) =>
      // Rows of node:sqlite have no prototype; those of a Durable Object are plain objects.
      database
        .prepare(statement)
        .all(...bindings)
        .map((row) => ({ ...row })) as T[],

    run: (statement, ...bindings) => database.prepare(statement).run(...bindings).changes > 0,

    script: (statements) => database.exec(statements),

    transaction(work) {
      // A savepoint outside a transaction begins one, and the name stands for the innermost of its kind.
      database.exec("SAVEPOINT work");
      try {
        const result = work();
        database.exec("RELEASE work");
        return result;
      } catch (error) {
        database.exec("ROLLBACK TO work; RELEASE work");
        throw error;
      }
    },

    close: () => database.close(),
  };
}
