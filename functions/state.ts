/** `/state/api/:id`, the orchestrator's state, and `/memory/api/:id`, the assistant's memory. For servers only. */
import { Hono } from "hono/tiny";
import { stringifyJson } from "../lib/json.ts";
import { conversationIdOf } from "../lib/keys.ts";
import type { DeletedAnswer, TouchedAnswer } from "./answers.ts";
import { requireApiToken } from "./auth.ts";
import { readJsonObject } from "./body.ts";
import type { AppContext, AppEnv } from "./context.ts";
import { ProblemError } from "./problem.ts";

export const states = new Hono<AppEnv>()
  .get("/:id", requireApiToken, async (c) => {
    const state = await c.get("core").states.get(conversationIdOf(c.req.param("id")));
    return answer(c, found(state, "state_not_found"));
  })

  .put("/:id", requireApiToken, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const state = await readJsonObject(c);
    await c.get("core").states.set(conversationId, state);
    return answer(c, state);
  })

  .delete("/:id", requireApiToken, async (c) => {
    const deleted = await c.get("core").states.delete(conversationIdOf(c.req.param("id")));
    return c.json<DeletedAnswer>({ success: true, deleted });
  })

  .post("/:id/touch", requireApiToken, async (c) => {
    const ttl = await c.get("core").states.refreshTTL(conversationIdOf(c.req.param("id")));
    return c.json<TouchedAnswer>({ success: true, ttl: found(ttl, "state_not_found") });
  });

export const memories = new Hono<AppEnv>()
  .get("/:id", requireApiToken, async (c) => {
    const memory = await c.get("core").memories.getSession(conversationIdOf(c.req.param("id")));
    return answer(c, found(memory, "memory_not_found"));
  })

  .put("/:id", requireApiToken, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    return answer(c, await c.get("core").memories.saveSession(conversationId, await readJsonObject(c)));
  })

  .patch("/:id", requireApiToken, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const changes = await readJsonObject(c);
    const memory = await c.get("core").memories.updateSession(conversationId, changes);
    return answer(c, found(memory, "memory_not_found"));
  })

  .delete("/:id", requireApiToken, async (c) => {
    const deleted = await c.get("core").memories.clearSession(conversationIdOf(c.req.param("id")));
    return c.json<DeletedAnswer>({ success: true, deleted });
  })

  .post("/:id/touch", requireApiToken, async (c) => {
    const ttl = await c.get("core").memories.refreshSessionTTL(conversationIdOf(c.req.param("id")));
    return c.json<TouchedAnswer>({ success: true, ttl: found(ttl, "memory_not_found") });
  });

const ABSENT = {
  state_not_found: "The conversation has no state.",
  memory_not_found: "The conversation has no memory.",
} as const;

/** What was found, or the 404 that says what was not. */
function found<T>(value: T | null, code: keyof typeof ABSENT): T {
  if (value === null) throw new ProblemError(code, ABSENT[code]);
  return value;
}

/** The object itself, every number as it came. */
function answer(c: AppContext, object: object): Response {
  return c.body(stringifyJson(object), 200, { "content-type": "application/json" });
}
