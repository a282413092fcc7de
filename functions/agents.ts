/**
 * `…/:id/connect` and `…/:id/signed-url`: a page starts a conversation with one of the listed agents, through us or
 * by itself. Neither shows it the account's key.
 */
import { Hono } from "hono/tiny";
import {
  CONVERSATION_SUBPROTOCOL,
  fetchSignedUrl,
  SDK_PARAMETERS,
  type SdkParameters,
  SIGNED_URL_LIVES_MS,
} from "../lib/elevenlabs.ts";
import { InvalidRequestError } from "../lib/errors.ts";
import { conversationIdOf } from "../lib/keys.ts";
import type { SignedUrlAnswer } from "./answers.ts";
import { requireConversationAccess, requireWebSocket, subprotocolsOf } from "./auth.ts";
import type { AppContext, AppEnv } from "./context.ts";
import { ProblemError } from "./problem.ts";
import { limitConversation } from "./rate-limit.ts";

/** When to ask again after the provider did not answer, in seconds. */
const RETRY_AFTER_SECONDS = 5;
const MAX_PARAMETER_CHARACTERS = 128;

export const agents = new Hono<AppEnv>()
  .get("/:id/connect", requireWebSocket, requireConversationAccess, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    await limitConversation(c, "session", conversationId);
    const agentId = listedAgentId(c);
    if (!subprotocolsOf(c).includes(CONVERSATION_SUBPROTOCOL)) {
      throw new InvalidRequestError("The WebSocket must offer the subprotocol of the agent.", [
        { path: "sec-websocket-protocol", message: `must offer ${CONVERSATION_SUBPROTOCOL}` },
      ]);
    }
    const webSocket = await c.var.core.live.connect(conversationId, agentId, sdkParametersOf(c));
    const headers = { "sec-websocket-protocol": CONVERSATION_SUBPROTOCOL };
    return new Response(null, { status: 101, webSocket, headers });
  })

  .get("/:id/signed-url", requireConversationAccess, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    await limitConversation(c, "session", conversationId);
    const agentId = listedAgentId(c);
    const { now } = c.var.core;
    const expiresAt = new Date(now() + SIGNED_URL_LIVES_MS).toISOString();
    const answer = await fetchSignedUrl(c.var.config.elevenLabs, agentId);
    if ("signedUrl" in answer) return c.json<SignedUrlAnswer>({ signedUrl: answer.signedUrl, expiresAt });
    const { failure, status } = answer;
    c.get("log").warn("provider.failed", { conversationId, failure, status });
    throw failure === "unreachable"
      ? new ProblemError("provider_unavailable", "The agent's provider did not answer; try again.", {
          "retry-after": String(RETRY_AFTER_SECONDS),
        })
      : new ProblemError("provider_refused", "The agent's provider does not let this agent be started.");
  });

/** The agent that a page asks for. Throws `forbidden` where pages may not start it. */
function listedAgentId(c: AppContext): string {
  const agentId = c.req.query("agentId") ?? "";
  if (c.var.config.elevenLabs.agentIds.includes(agentId)) return agentId;
  throw new ProblemError(
    "forbidden",
    "Pages may start the agents that ELEVENLABS_AGENT_IDS lists, and no other.",
  );
}

/** What the SDK puts behind the URL that it is given. */
function sdkParametersOf(c: AppContext): SdkParameters {
  const given = SDK_PARAMETERS.map((name) => [name, c.req.query(name) ?? ""] as const);
  return Object.fromEntries(
    given.filter(([, value]) => value !== "" && value.length <= MAX_PARAMETER_CHARACTERS),
  );
}
