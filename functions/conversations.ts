/** Conversations: `…/new`, `…/list`, `…/:id` and `…/:id/message`. */
import { Hono } from "hono";
import { newConversationSchema, parseListLimit, parseNewMessage } from "../lib/conversation-store.ts";
import { validate } from "../lib/json.ts";
import { conversationIdOf } from "../lib/keys.ts";
import { readJsonObject } from "./body.ts";
import type { AppEnv } from "./context.ts";
import { ProblemError } from "./problem.ts";

export const conversations = new Hono<AppEnv>()
  .post("/new", async (c) => {
    const fields = validate(newConversationSchema, await readJsonObject(c));
    const { conversations } = c.var.core;
    const conversation = conversations.fresh(crypto.randomUUID(), fields);
    await conversations.create(conversation);
    return c.json({ success: true, conversationId: conversation.conversationId, conversation }, 201);
  })

  .get("/list", async (c) => {
    const limit = parseListLimit(c.req.query("limit"));
    return c.json(await c.var.core.conversations.list(limit, c.req.query("cursor")));
  })

  .get("/:id", async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const { conversations } = c.var.core;
    const [conversation, messages] = await Promise.all([
      conversations.get(conversationId),
      conversations.messages(conversationId),
    ]);
    if (conversation === null) {
      throw new ProblemError("conversation_not_found", "There is no conversation of this id.");
    }
    return c.json({ ...conversation, messages });
  })

  .post("/:id/message", async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const { conversations, now } = c.var.core;
    const message = parseNewMessage(await readJsonObject(c), crypto.randomUUID(), now());
    await conversations.append(conversationId, message);
    return c.json({ success: true, message }, 201);
  })

  .delete("/:id", async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const deleted = await c.var.core.conversations.delete(conversationId);
    return c.json({ success: true, deleted });
  });
