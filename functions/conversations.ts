/** Conversations: `…/new`, `…/list`, `…/:id`, `…/:id/message` and `…/:id/token`. */
import { Hono } from "hono/tiny";
import * as v from "valibot";
import { tokenRequestSchema } from "../lib/agent-conversations.ts";
import { issueConversationToken } from "../lib/auth/conversation-token.ts";
import {
  type Message,
  newConversationSchema,
  parseListLimit,
  parseNewMessage,
} from "../lib/conversation-store.ts";
import { appendMessage, createConversation } from "../lib/conversations.ts";
import { stringifyJson, validate } from "../lib/json.ts";
import { conversationIdOf } from "../lib/keys.ts";
import type { Caller } from "../lib/registration.ts";
import { REPORT_ID } from "../lib/report.ts";
import type {
  ConversationListAnswer,
  CreatedAnswer,
  DeletedAnswer,
  HistoryAnswer,
  MessageStoredAnswer,
  TokenAnswer,
} from "./answers.ts";
import { requireApiToken, requireConfigured, requireConversationAccess, requireReader } from "./auth.ts";
import { readJsonObject, readOptionalJsonObject } from "./body.ts";
import type { AppContext, AppEnv } from "./context.ts";
import { ProblemError } from "./problem.ts";
import { limitConversation } from "./rate-limit.ts";

export const conversations = new Hono<AppEnv>()
  .post("/new", requireApiToken, async (c) => {
    const body = await readJsonObject(c);
    const fields = validate(newConversationSchema, body);
    const { agentSessionId } = validate(tokenRequestSchema, body);
    const { conversations } = c.get("core");
    const conversation = conversations.fresh(crypto.randomUUID(), fields);
    const { conversationId } = conversation;
    await createConversation(conversation, c.get("core"));
    const token = await tokenFor(c, conversationId, agentSessionId);
    return c.json<CreatedAnswer, 201>({ success: true, conversationId, conversation, ...token }, 201);
  })

  .get("/list", requireApiToken, async (c) => {
    const limit = parseListLimit(c.req.query("limit"), 20);
    return c.json<ConversationListAnswer>(
      await c.get("core").conversations.list(limit, c.req.query("cursor")),
    );
  })

  .post("/:id/token", requireApiToken, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    await limitConversation(c, "token", conversationId);
    requireConfigured("SESSION_TOKEN_SECRET", c.get("config").sessionTokenSecrets);
    const { agentSessionId } = validate(tokenRequestSchema, await readOptionalJsonObject(c));
    const token = await tokenFor(c, conversationId, agentSessionId);
    return c.json<TokenAnswer>({ success: true, conversationId, ...token });
  })

  .get("/:id", requireReader, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const limit = parseListLimit(c.req.query("limit"), 50);
    const { conversations } = c.get("core");
    const [conversation, page] = await Promise.all([
      conversations.get(conversationId),
      conversations.page(conversationId, limit, c.req.query("before")),
    ]);
    if (conversation === null) {
      throw new ProblemError("conversation_not_found", "There is no conversation of this id.");
    }
    const body: HistoryAnswer = { ...conversation, ...page };
    return c.body(stringifyJson(body), 200, { "content-type": "application/json" });
  })

  .post("/:id/message", requireConversationAccess, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    await limitConversation(c, "message", conversationId);
    const message = writtenBy(c.get("caller"), parseNewMessage(await readJsonObject(c), c.get("core").now()));
    await appendMessage(conversationId, message, c.get("core"));
    return c.json<MessageStoredAnswer, 201>({ success: true, message }, 201);
  })

  .delete("/:id", requireApiToken, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const { everything } = validate(deletionSchema, c.req.query());
    const { live, states, memories } = c.get("core");
    const deleted = await live.forget(conversationId);
    if (everything !== "true") return c.json<DeletedAnswer>({ success: true, deleted });
    const others = await Promise.all([states.delete(conversationId), memories.clearSession(conversationId)]);
    return c.json<DeletedAnswer>({ success: true, deleted: deleted || others.includes(true) });
  });

export const deletionSchema = v.object({
  /** Whether the state and the memory of the same id go too. */
  everything: v.optional(v.picklist(["true", "false"], 'must be "true" or "false"')),
});

/** The roles that a page speaks for. */
const ROLES_OF_A_PAGE: readonly string[] = ["user", "agent"];

/**
 * A message as its writer may write it. A server is believed. A page tells what its user and its agent said, and
 * nothing that could be taken for a tool's, a system's or a report's word. Throws `forbidden`.
 */
function writtenBy(caller: Caller, message: Message): Message {
  if (caller.kind === "server") return message;
  if (!ROLES_OF_A_PAGE.includes(message.role) || message.id.startsWith(REPORT_ID)) {
    throw new ProblemError("forbidden", "This token writes messages of the user and of the agent only.");
  }
  const { id, role, content, timestamp } = message;
  return { id, role, content, source: "page", timestamp };
}

/**
 * A browser's token for one conversation, signed with the newest secret; nothing where there is none. Where the
 * server names the agent conversation, what is reported of it afterwards will be found by that.
 */
async function tokenFor(
  c: AppContext,
  conversationId: string,
  agentSessionId: string | undefined,
): Promise<{ token?: string; tokenExpiresAt?: string }> {
  const { core, config } = c.var;
  if (agentSessionId !== undefined) await core.agentConversations.set(agentSessionId, conversationId);
  const [secret] = config.sessionTokenSecrets;
  if (secret === undefined) return {};
  const now = core.now();
  const { token, expiresAt } = await issueConversationToken({ conversationId, secret, now, agentSessionId });
  return { token, tokenExpiresAt: expiresAt };
}
