/** `…/:id/signed-url`: a URL that starts one conversation with a listed agent, for pages that connect by themselves. */
import { Hono } from "hono/tiny";
import { fetchSignedUrl, SIGNED_URL_LIVES_MS } from "../lib/elevenlabs.ts";
import { conversationIdOf } from "../lib/keys.ts";
import { requireConversationAccess } from "./auth.ts";
import type { AppContext, AppEnv } from "./context.ts";
import { ProblemError } from "./problem.ts";
import { limitConversation } from "./rate-limit.ts";

/** When to ask again after the provider did not answer, in seconds. */
const RETRY_AFTER_SECONDS = 5;

export const signedUrls = new Hono<AppEnv>().get("/:id/signed-url", requireConversationAccess, async (c) => {
  const conversationId = conversationIdOf(c.req.param("id"));
  await limitConversation(c, "session", conversationId);
  const agentId = agentIdOf(c);
  const { now } = c.var.core;
  const expiresAt = new Date(now() + SIGNED_URL_LIVES_MS).toISOString();
  const answer = await fetchSignedUrl(c.var.config.elevenLabs, agentId);
  if ("signedUrl" in answer) return c.json({ signedUrl: answer.signedUrl, expiresAt });
  const { failure, status } = answer;
  c.get("log").warn("provider.failed", { conversationId, failure, status });
  throw failure === "unreachable"
    ? new ProblemError("provider_unavailable", "The agent's provider did not answer; try again.", {
        "retry-after": String(RETRY_AFTER_SECONDS),
      })
    : new ProblemError("provider_refused", "The agent's provider does not let this agent be started.");
});

/** The agent that a page asks for. Throws `forbidden` where pages may not start it. */
export function agentIdOf(c: AppContext): string {
  const agentId = c.req.query("agentId") ?? "";
  if (c.var.config.elevenLabs.agentIds.includes(agentId)) return agentId;
  throw new ProblemError(
    "forbidden",
    "Pages may start the agents that ELEVENLABS_AGENT_IDS lists, and no other.",
  );
}
