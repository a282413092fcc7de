/**
 * How often a client may ask, and how often one conversation may be asked for, by Cloudflare's own limiter, which
 * costs no Redis command. The numbers stand in wrangler.toml. It counts in each location by itself and is
 * approximate: a brake on abuse, not an accounting.
 * https://developers.cloudflare.com/workers/runtime-apis/bindings/rate-limit/
 */
import { conversationIdOf } from "../lib/keys.ts";
import type { AppContext } from "./context.ts";
import { ProblemError } from "./problem.ts";
import { isVouchedFor } from "./vouched.ts";

/** Done at once where there is no such limiter. */
type Limited = void | Promise<void>;

/** The period of the limiters in wrangler.toml. They do not say when they will let through again. */
const PERIOD_SECONDS = 60;

/**
 * Counts every request of a client, before anything else is done for it; a burst of one kind leaves the others
 * alone. Throws `rate_limited`.
 */
export function limitClient(c: AppContext): Limited {
  // Other Workers of the account have no address, and would share one count.
  if (isVouchedFor(c)) return;
  return spend(c.env.CLIENT_RATE_LIMIT, () => `${kindOf(c.req.method, c.req.path)}:${clientOf(c)}`);
}

function kindOf(method: string, path: string): "health" | "state" | "message" | "read" | "change" {
  if (path === "/health") return "health";
  if (/^\/(?:state|memory)\//.test(path)) return "state";
  if (path.endsWith("/message")) return "message";
  return method === "GET" || method === "HEAD" ? "read" : "change";
}

/** Counts what reads the conversation of the path, once its reader has been let in. Throws `rate_limited`. */
export function limitReads(c: AppContext): Limited {
  return limitConversation(c, "read", conversationIdOf(c.req.param("id") ?? ""));
}

/** Counts a request of one kind that names a conversation. Throws `rate_limited`. */
export function limitConversation(
  c: AppContext,
  kind: "session" | "callback" | "progress" | "task" | "token" | "message" | "read",
  conversationId: string,
): Limited {
  return spend(c.env.CONVERSATION_RATE_LIMIT, () => `${kind}:${conversationId}`);
}

/** Counts a credential that was refused. Throws `rate_limited` in place of the refusal, which is then not logged either. */
export function limitFailedLogins(c: AppContext): Limited {
  return spend(c.env.FAILED_LOGIN_RATE_LIMIT, () => clientOf(c));
}

function spend(limiter: RateLimit | undefined, keyOf: () => string): Limited {
  return limiter === undefined ? undefined : spendOf(limiter, keyOf());
}

async function spendOf(limiter: RateLimit, key: string): Promise<void> {
  if ((await limiter.limit({ key })).success) return;
  throw new ProblemError("rate_limited", "Too many requests.", { "retry-after": String(PERIOD_SECONDS) });
}

/** Who asks, by the address that Cloudflare saw. An IPv6 client is its /64, the smallest network there is. */
function clientOf(c: AppContext): string {
  const address = c.req.header("cf-connecting-ip") ?? "unknown";
  if (!address.includes(":") || !URL.canParse(`http://[${address}]/`)) return address;
  const [head = "", tail] = new URL(`http://[${address}]/`).hostname.slice(1, -1).split("::");
  const left = head.split(":").filter(Boolean);
  const right = tail?.split(":").filter(Boolean) ?? [];
  const groups = [...left, ...Array.from({ length: 8 - left.length - right.length }, () => "0"), ...right];
  // An IPv4 address in IPv6 clothes is a client of its own.
  const isMapped = groups.slice(0, 6).join(":") === "0:0:0:0:0:ffff";
  return isMapped ? groups.join(":") : `${groups.slice(0, 4).join(":")}::/64`;
}
