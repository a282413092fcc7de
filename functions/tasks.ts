/** `…/:id/tasks`: what the agent asked for, and how far it is. */
import { Hono } from "hono/tiny";
import * as v from "valibot";
import { parseListLimit } from "../lib/conversation-store.ts";
import { validate } from "../lib/json.ts";
import { conversationIdOf, conversationOfTask } from "../lib/keys.ts";
import type { TaskRow } from "../lib/live/tasks.ts";
import type { TaskCancelledAnswer, TaskListAnswer } from "./answers.ts";
import { requireConversationAccess, requireReader } from "./auth.ts";
import type { AppEnv } from "./context.ts";
import { ProblemError } from "./problem.ts";

export const DEFAULT_TASK_LIMIT = 50;

export const taskQuerySchema = v.object({
  before: v.optional(v.pipe(v.string(), v.regex(/^\d{1,15}$/, "unknown cursor"), v.transform(Number))),
});

export const tasks = new Hono<AppEnv>()
  .get("/:id/tasks", requireReader, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const { limit: limitText, ...query } = c.req.query();
    const limit = parseListLimit(limitText, DEFAULT_TASK_LIMIT);
    const { before } = validate(taskQuerySchema, query);
    const rows = await c.var.core.live.tasks(conversationId, {
      limit: limit + 1,
      ...(before === undefined ? {} : { before }),
    });
    const page = rows.slice(0, limit);
    const last = page.at(-1);
    return c.json<TaskListAnswer>({
      tasks: page.map(shown),
      ...(rows.length > limit && last !== undefined ? { nextBefore: String(last.seq) } : {}),
    });
  })

  .delete("/:id/tasks/:taskId", requireConversationAccess, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const taskId = c.req.param("taskId");
    const cancelled =
      conversationOfTask(taskId) === conversationId
        ? await c.var.core.live.cancelTask(conversationId, taskId)
        : null;
    if (cancelled === null) {
      throw new ProblemError("task_not_found", "The conversation has no task of this id.");
    }
    return c.json<TaskCancelledAnswer>({ success: true, cancelled });
  });

function shown(row: TaskRow) {
  const { taskId, tool, status, onHangup, deliverBy, topic, createdAt, deadline, overAt, progress } = row;
  return {
    taskId,
    tool,
    status,
    onHangup,
    createdAt: new Date(createdAt).toISOString(),
    deadline: new Date(deadline).toISOString(),
    ...(deliverBy === null ? {} : { deliverBy }),
    ...(topic === null ? {} : { topic }),
    ...(overAt === null ? {} : { overAt: new Date(overAt).toISOString() }),
    ...(progress === null
      ? {}
      : { progress: { seq: progress.seq, text: progress.text, at: new Date(progress.at).toISOString() } }),
  };
}
