/**
 * The tasks of one conversation: what its agent asked for, and how far that is. Pure and synchronous, like the table
 * of results, which has what a task brings.
 *
 * | status | means | leaves by |
 * |---|---|---|
 * | `processing` | the runner works, as far as is known | its callback → `done`; `close`; `cancel`; its deadline → `expired` |
 * | `failed` | the runner did not take it | its callback, if it did after all → `done` |
 * | `done`, `cancelled`, `expired` | over | forgotten 48 h later |
 */
import type { Result } from "../result.ts";
import { type Sql, type SqlValue, tablesOf } from "../sql.ts";
import type { OnHangup, Ticket } from "../task.ts";

export type TaskStatus = "processing" | "failed" | "done" | "cancelled" | "expired";

/** How long a task that is over is known, in ms. */
const OVER_MS = 48 * 3600 * 1000;
/** How long everybody must have been gone before a task that is not wanted then is cancelled, in ms. */
export const HANGUP_MS = 30_000;

/** One row, read. Times in ms. */
export type TaskRow = {
  seq: number;
  taskId: string;
  tool: string;
  status: TaskStatus;
  onHangup: OnHangup;
  deliverBy: string | null;
  topic: string | null;
  createdAt: number;
  deadline: number;
  overAt: number | null;
  /** The newest progress that was told. */
  progress: { seq: number; text: string; at: number } | null;
};

export type TaskQuery = { limit: number; before?: number };

type Row = {
  seq: number;
  task_id: string;
  tool: string;
  status: TaskStatus;
  on_hangup: OnHangup;
  deliver_by: string | null;
  topic: string | null;
  created_at: number;
  deadline: number;
  over_at: number | null;
  progress: string | null;
};

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS tasks (
    seq INTEGER PRIMARY KEY,
    task_id TEXT NOT NULL UNIQUE,
    tool TEXT NOT NULL,
    status TEXT NOT NULL,
    on_hangup TEXT NOT NULL,
    deliver_by TEXT,
    topic TEXT,
    created_at INTEGER NOT NULL,
    deadline INTEGER NOT NULL,
    over_at INTEGER,
    progress TEXT,
    was_attended INTEGER NOT NULL DEFAULT 0,
    cancel_at INTEGER
  );`;

export type Tasks = ReturnType<typeof createTasks>;

export function createTasks(database: Sql) {
  const sql = tablesOf(database, "tasks", SCHEMA);
  /** What was found out of all of them, until one changes: everything that happens in the conversation asks for it. */
  let known: { isEmpty?: boolean; due?: number | null; isAttended?: boolean } = {};

  function change<T extends Record<string, SqlValue>>(statement: string, ...bindings: SqlValue[]): T[] {
    known = {};
    return sql.rows<T>(statement, ...bindings);
  }

  function find(taskId: string): TaskRow | null {
    const [row] = sql.rows<Row>("SELECT * FROM tasks WHERE task_id = ?", taskId);
    return row === undefined ? null : read(row);
  }

  /** Ends tasks. Returns their ids. */
  function end(
    status: TaskStatus,
    now: number,
    condition: string,
    ...bindings: (string | number)[]
  ): string[] {
    return change<{ task_id: string }>(
      `UPDATE tasks SET status = ?, over_at = ?, cancel_at = NULL WHERE ${condition} RETURNING task_id`,
      status,
      now,
      ...bindings,
    ).map(({ task_id }) => task_id);
  }

  const OPEN = "status IN ('processing', 'failed')";

  return {
    exist: sql.exist,
    forgetTables(): void {
      sql.forget();
      known = {};
    },
    isEmpty(): boolean {
      known.isEmpty ??= sql.rows("SELECT 1 FROM tasks LIMIT 1").length === 0;
      return known.isEmpty;
    },

    get: find,

    open(ticket: Ticket): void {
      const { taskId, tool, onHangup, createdAt, deadline } = ticket;
      const { deliverBy = null, topic = null } = ticket;
      change(
        `INSERT OR IGNORE INTO tasks
           (task_id, tool, status, on_hangup, deliver_by, topic, created_at, deadline)
         VALUES (?, ?, 'processing', ?, ?, ?, ?, ?)`,
        taskId,
        tool,
        onHangup,
        deliverBy,
        topic,
        Date.parse(createdAt),
        Date.parse(deadline),
      );
    },

    /** The runner did not take it. */
    fail: (taskId: string, now: number): boolean =>
      end("failed", now, "task_id = ? AND status = 'processing'", taskId).length > 0,

    /** Nobody wants its result any more. Returns whether it was open. */
    cancel: (taskId: string, now: number): boolean =>
      end("cancelled", now, `task_id = ? AND ${OPEN}`, taskId).length > 0,

    /** Its result has come: as the ticket wants it said, unless the callback says otherwise. */
    finish(result: Result, now: number): { result: Result; isCancelled: boolean } {
      const task = find(result.requestId);
      if (task === null) return { result, isCancelled: false };
      end("done", now, `task_id = ? AND ${OPEN}`, task.taskId);
      const { deliverBy, topic, status } = task;
      const wished = {
        ...(deliverBy === null ? {} : { deliverBy }),
        ...(topic === null ? {} : { topic }),
      };
      return { result: { ...wished, ...result }, isCancelled: status === "cancelled" };
    },

    /** Notes the progress of a task that is known. Returns whether it is newer than what was noted before. */
    progress(taskId: string, progress: { seq: number; text: string }, now: number): boolean {
      const task = find(taskId);
      if (task === null) return true;
      if (task.overAt !== null && task.status !== "failed") return false;
      if (task.progress !== null && task.progress.seq >= progress.seq) return false;
      change(
        "UPDATE tasks SET progress = ? WHERE task_id = ?",
        JSON.stringify({ ...progress, at: now }),
        taskId,
      );
      return true;
    },

    /**
     * Somebody is there, or nobody is. Who asked for a task that is not wanted after a hang-up has 30 s to come back;
     * `hungUp` tells whose time is over.
     */
    attended(isAnybodyThere: boolean, now: number): void {
      if (known.isAttended === isAnybodyThere) return;
      const wanted = "status = 'processing' AND on_hangup = 'cancel'";
      if (isAnybodyThere) {
        change(
          `UPDATE tasks SET was_attended = 1, cancel_at = NULL WHERE ${wanted} AND (was_attended = 0 OR cancel_at IS NOT NULL)`,
        );
      } else {
        change(
          `UPDATE tasks SET cancel_at = ? WHERE ${wanted} AND was_attended = 1 AND cancel_at IS NULL`,
          now + HANGUP_MS,
        );
      }
      known.isAttended = isAnybodyThere;
    },

    /** Cancels the tasks whose people have hung up. Returns their ids. */
    hangUp: (now: number): string[] => end("cancelled", now, "status = 'processing' AND cancel_at <= ?", now),

    /** Ends what was not done in time, and forgets what was over long ago. */
    expire(now: number): void {
      end("expired", now, `${OPEN} AND deadline <= ?`, now);
      change("DELETE FROM tasks WHERE over_at <= ? AND status != 'processing'", now - OVER_MS);
    },

    /** Newest first; `before` is a `seq`. */
    list: ({ limit, before }: TaskQuery): TaskRow[] =>
      sql
        .rows<Row>(
          "SELECT * FROM tasks WHERE (?1 IS NULL OR seq < ?1) ORDER BY seq DESC LIMIT ?2",
          before ?? null,
          limit,
        )
        .map(read),

    /** The conversation was deleted. */
    wipe: (): void => void change("DELETE FROM tasks"),

    /** When something has to be done next, in ms; null for never. */
    nextDue(): number | null {
      if (known.due !== undefined) return known.due;
      const [row] = sql.rows<{ due: number | null }>(
        `SELECT min(due) AS due FROM (
           SELECT min(cancel_at) AS due FROM tasks WHERE status = 'processing'
           UNION ALL SELECT min(deadline) FROM tasks WHERE ${OPEN}
           UNION ALL SELECT min(over_at) + ${OVER_MS} FROM tasks WHERE status != 'processing')`,
      );
      known.due = row?.due ?? null;
      return known.due;
    },
  };
}

function read(row: Row): TaskRow {
  return {
    seq: row.seq,
    taskId: row.task_id,
    tool: row.tool,
    status: row.status,
    onHangup: row.on_hangup,
    deliverBy: row.deliver_by,
    topic: row.topic,
    createdAt: row.created_at,
    deadline: row.deadline,
    overAt: row.over_at,
    progress: row.progress === null ? null : JSON.parse(row.progress),
  };
}
