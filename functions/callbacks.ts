/** `/callback` and `…/:id/callback`: a task has a result. */
import { type CallbackOutcome, parseCallback, receiveCallback } from "../lib/callbacks.ts";
import { conversationIdOf } from "../lib/keys.ts";
import { readJsonObject } from "./body.ts";
import type { AppContext } from "./context.ts";
import { ProblemError } from "./problem.ts";
import { limitConversation } from "./rate-limit.ts";

/** Both callback routes; the one without a conversation in its path wants it in the body. */
export async function handleCallback(c: AppContext): Promise<Response> {
  const id = c.req.param("id");
  const callback = parseCallback(
    await readJsonObject(c),
    id === undefined ? undefined : conversationIdOf(id),
  );
  await limitConversation(c, "callback", callback.conversationId);
  // A sender that hangs up must not leave a result pushed but not settled.
  const work = receiveCallback(callback, c.var.core);
  c.executionCtx.waitUntil(work.catch(() => {}));
  return answer(c, await work);
}

function answer(c: AppContext, outcome: CallbackOutcome): Response {
  switch (outcome.kind) {
    case "delivered":
      return c.json({ received: true, delivered: true, status: "delivered", channel: outcome.channel });
    case "duplicate": {
      const { delivered, channel } = outcome;
      return c.json({ received: true, delivered, status: "duplicate", channel });
    }
    case "queued":
      return c.json({ received: true, delivered: false, status: "queued", reason: outcome.reason }, 202);
    case "in_progress":
      throw new ProblemError("callback_in_progress", "Another request is processing this requestId.", {
        "retry-after": String(outcome.retryAfterSeconds),
      });
  }
}
