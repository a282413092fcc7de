/** Conversations: `…/new`, `…/list`, `…/:id`, `…/:id/message` and `…/:id/token`. */
import { Hono } from "hono/tiny";
import { issueConversationToken } from "../lib/auth/conversation-token.ts";
import { newConversationSchema, parseListLimit, parseNewMessage } from "../lib/conversation-store.ts";
import { appendMessage, createConversation } from "../lib/conversations.ts";
import { stringifyJson, validate } from "../lib/json.ts";
import { conversationIdOf } from "../lib/keys.ts";
import { requireApiToken, requireConfigured, requireConversationAccess } from "./auth.ts";
import { readJsonObject } from "./body.ts";
import type { AppContext, AppEnv } from "./context.ts";
import { ProblemError } from "./problem.ts";
import { limitClient, limitConversation } from "./rate-limit.ts";

export const conversations = new Hono<AppEnv>()
  .post("/new", limitClient, requireApiToken, async (c) => {
    const fields = validate(newConversationSchema, await readJsonObject(c));
    const { conversations } = c.var.core;
    const conversation = conversations.fresh(crypto.randomUUID(), fields);
    const { conversationId } = conversation;
    await createConversation(conversation, c.var.core);
    return c.json(
      { success: true, conversationId, conversation, ...(await tokenFor(c, conversationId)) },
      201,
    );
  })

  .get("/list", requireApiToken, async (c) => {
    const limit = parseListLimit(c.req.query("limit"), 20);
    return c.json(await c.var.core.conversations.list(limit, c.req.query("cursor")));
  })

  .post("/:id/token", limitClient, requireApiToken, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    await limitConversation(c, "token", conversationId);
    requireConfigured("SESSION_TOKEN_SECRET", c.var.config.sessionTokenSecrets);
    return c.json({ success: true, conversationId, ...(await tokenFor(c, conversationId)) });
  })

  .get("/:id", requireConversationAccess, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const limit = parseListLimit(c.req.query("limit"), 50);
    const { conversations } = c.var.core;
    const [conversation, page] = await Promise.all([
      conversations.get(conversationId),
      conversations.page(conversationId, limit, c.req.query("before")),
    ]);
    if (conversation === null) {
      throw new ProblemError("conversation_not_found", "There is no conversation of this id.");
    }
    return c.body(stringifyJson({ ...conversation, ...page }), 200, { "content-type": "application/json" });
  })

  .post("/:id/message", requireConversationAccess, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const message = parseNewMessage(await readJsonObject(c), c.var.core.now());
    await appendMessage(conversationId, message, c.var.core);
    return c.json({ success: true, message }, 201);
  })

  .delete("/:id", requireApiToken, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const deleted = await c.var.core.live.forget(conversationId);
    return c.json({ success: true, deleted });
  });

/** A browser's token for one conversation, signed with the newest secret; nothing where there is none. */
async function tokenFor(
  c: AppContext,
  conversationId: string,
): Promise<{ token?: string; tokenExpiresAt?: string }> {
  const [secret] = c.var.config.sessionTokenSecrets;
  if (secret === undefined) return {};
  const { token, expiresAt } = await issueConversationToken({
    conversationId,
    secret,
    now: c.var.core.now(),
  });
  return { token, tokenExpiresAt: expiresAt };
}
