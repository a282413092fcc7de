/** `…/:id/session`: a browser says that it is live, asks whether it is, and says goodbye. */
import { Hono } from "hono/tiny";
import { findSession } from "../lib/conversations.ts";
import type { Core } from "../lib/core.ts";
import { conversationIdOf } from "../lib/keys.ts";
import { chooseChannel } from "../lib/push/channel.ts";
import { isProven, registerSession, withProof } from "../lib/registration.ts";
import {
  parseRegistration,
  parseRenewal,
  SESSION_TTL_SECONDS,
  type SessionRecord,
  sessionDeadline,
} from "../lib/session-store.ts";
import type { DeletedAnswer, RegisteredAnswer, SessionAnswer } from "./answers.ts";
import { requireConversationAccess, requireReader } from "./auth.ts";
import { readJsonObject } from "./body.ts";
import type { AppEnv } from "./context.ts";
import { ProblemError } from "./problem.ts";
import { limitConversation } from "./rate-limit.ts";

export const sessions = new Hono<AppEnv>()
  .post("/:id/session", requireConversationAccess, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    await limitConversation(c, "session", conversationId);
    const [core, config] = [c.get("core"), c.get("config")];
    const body = await readJsonObject(c);
    const renewal = parseRenewal(body);
    const session =
      renewal === null
        ? await registerSession(
            conversationId,
            withProof(parseRegistration(body), c.get("caller")),
            config,
            core,
          )
        : await core.live.renew(
            conversationId,
            renewal.registrationId,
            renewal.agentSessionId,
            isProven(renewal.agentSessionId, c.get("caller")),
          );
    if (session === null) {
      throw new ProblemError("session_replaced", "This registration is not, or no longer, the current one.");
    }
    return c.json<RegisteredAnswer>({
      success: true,
      message: "Session registered",
      conversationId,
      registrationId: session.registrationId,
      ttl: SESSION_TTL_SECONDS,
      expiresAt: new Date(sessionDeadline(session) ?? 0).toISOString(),
    });
  })

  .get("/:id/session", requireReader, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const core = c.get("core");
    const { sessions, now } = core;
    const session = await findSession(conversationId, core);
    const secondsLeft = session === null ? 0 : await sessions.secondsLeft(session, now());
    if (session === null || secondsLeft === 0) {
      throw new ProblemError("session_not_found", "The conversation has no live session.");
    }
    return c.json<SessionAnswer>({ active: true, ...shownSession(session, secondsLeft, core) });
  })

  .delete("/:id/session", requireConversationAccess, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const { live, log } = c.get("core");
    const deleted = await live.ended(conversationId, c.req.query("registrationId"));
    if (deleted) log.info("session.ended", { conversationId });
    return c.json<DeletedAnswer>({ success: true, deleted });
  });

/** A live session as it is shown, to whoever may see that it is there: nothing of it opens it. */
export function shownSession(
  session: SessionRecord,
  secondsLeft: number,
  { channels, now }: Pick<Core, "channels" | "now">,
) {
  return {
    conversationId: session.conversationId,
    registrationId: session.registrationId,
    createdAt: session.createdAt,
    expiresAt: new Date(sessionDeadline(session) ?? now() + secondsLeft * 1000).toISOString(),
    ttl: secondsLeft,
    ...(session.provider === undefined ? {} : { provider: session.provider }),
    ...(session.transport === undefined ? {} : { transport: session.transport }),
    ...(session.agentSessionId === undefined ? {} : { agentSessionId: session.agentSessionId }),
    channel: session.channel ?? chooseChannel(channels, session)?.name ?? null,
  };
}
