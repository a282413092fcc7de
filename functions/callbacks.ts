/** `/callback` and `…/:id/callback`: a task has a result. */
import { conversationIdOf } from "../lib/keys.ts";
import type { CallbackAnswer } from "../lib/live/delivery.ts";
import { parseCallback } from "../lib/result.ts";
import { readJsonObject } from "./body.ts";
import type { AppContext } from "./context.ts";
import { ProblemError } from "./problem.ts";
import { limitConversation } from "./rate-limit.ts";

/** Both callback routes; the one without a conversation in its path wants it in the body. */
export async function handleCallback(c: AppContext): Promise<Response> {
  const id = c.req.param("id");
  const path = id === undefined ? undefined : conversationIdOf(id);
  const { conversationId, result } = parseCallback(await readJsonObject(c), path);
  await limitConversation(c, "callback", conversationId);
  return respond(c, await c.var.core.live.deliver(conversationId, result, c.var.requestId));
}

function respond(c: AppContext, answer: CallbackAnswer): Response {
  switch (answer.kind) {
    case "delivered":
      return c.json({ received: true, delivered: true, status: "delivered", channel: answer.channel });
    case "duplicate": {
      const { delivered, channel } = answer;
      return c.json({ received: true, delivered, status: "duplicate", channel });
    }
    case "queued":
      return c.json({ received: true, delivered: false, status: "queued", reason: answer.reason }, 202);
    case "settled":
      return c.json({ received: true, delivered: false, status: answer.status });
    case "discarded":
      return c.json({ received: true, delivered: false, status: "discarded" });
    case "reused":
      throw new ProblemError("request_id_reused", "This requestId was used before, for another result.");
  }
}
