/**
 * How often registrations, callbacks and tokens may be asked for, by Cloudflare's own limiter, which costs no
 * Redis command. The numbers stand in wrangler.toml. It counts in each location by itself and is approximate:
 * a brake on abuse, not an accounting. https://developers.cloudflare.com/workers/runtime-apis/bindings/rate-limit/
 */
import { createMiddleware } from "hono/factory";
import type { AppContext, AppEnv } from "./context.ts";
import { ProblemError } from "./problem.ts";

/** The period of both limiters in wrangler.toml. The limiter does not say when it will let through again. */
const PERIOD_SECONDS = 60;

/** Counts a request of its client, by the address that Cloudflare saw. Throws `rate_limited`. */
export const limitClient = createMiddleware<AppEnv>(async (c, next) => {
  await spend(c.env.CLIENT_RATE_LIMIT, c.req.header("cf-connecting-ip") ?? "unknown");
  await next();
});

/** Counts a request of one kind that names a conversation; a burst of one kind leaves the others alone. Throws `rate_limited`. */
export async function limitConversation(
  c: AppContext,
  kind: "session" | "callback" | "token",
  conversationId: string,
): Promise<void> {
  await spend(c.env.CONVERSATION_RATE_LIMIT, `${kind}:${conversationId}`);
}

async function spend(limiter: RateLimit | undefined, key: string): Promise<void> {
  if (limiter === undefined || (await limiter.limit({ key })).success) return;
  throw new ProblemError("rate_limited", "Too many requests.", { "retry-after": String(PERIOD_SECONDS) });
}
