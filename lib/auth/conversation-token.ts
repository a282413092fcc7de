/**
 * The conversation token: a short-lived JWT that lets a browser act for one conversation and for nothing
 * else. The conversation is its subject; issuer and audience keep tokens of other products, and other
 * tokens that may one day be signed with the same secret, out.
 *
 * `hono/jwt` signs and verifies. Three of its habits are dealt with here: it reads the system clock (its
 * time checks are off, ours take `now`), it takes a secret that contains "PUBLIC" or "PRIVATE" for PEM (it
 * gets a CryptoKey instead of text), and its errors quote the token (they are caught and dropped).
 */
import { sign, verify } from "hono/utils/jwt/jwt";
import * as v from "valibot";

export type TokenRefusal =
  | "no_secret"
  | "missing"
  | "too_long"
  | "malformed"
  | "wrong_header"
  | "wrong_signature"
  | "wrong_claims"
  | "wrong_conversation"
  | "not_yet_valid"
  | "expired";

/** `agentSessionId` is what the server that asked for the token vouched for. */
export type TokenCheck = { ok: true; agentSessionId?: string } | { ok: false; reason: TokenRefusal };

const ISSUER = "edge-agent-sessions";
const AUDIENCE = "conversation";
const DEFAULT_LIFETIME_SECONDS = 3600;
/** Isolates do not share a clock; one may see a token of another a moment before it was made. */
const CLOCK_SKEW_SECONDS = 60;
/** Ours are about 550 characters for ids of 128. */
const MAX_TOKEN_CHARACTERS = 2048;
const COMPACT_JWT = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*$/;
/** 32 bytes in base64url, in the one spelling whose unused bits are zero: no second text is the same token. */
const CANONICAL_SIGNATURE = /\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/;

const claimsSchema = v.object({
  iss: v.literal(ISSUER),
  aud: v.literal(AUDIENCE),
  sub: v.string(),
  iat: v.pipe(v.number(), v.safeInteger()),
  nbf: v.optional(v.pipe(v.number(), v.safeInteger())),
  exp: v.pipe(v.number(), v.safeInteger()),
  /** Which agent conversation its holder talks to, where a server knew it. */
  agentSessionId: v.optional(v.string()),
});

/**
 * Issues a token for one conversation. `now` is Unix milliseconds; `secret` is the one that new tokens are
 * signed with, by convention the first of the list; `agentSessionId` is vouched for by whoever asks. Returns the token and the ISO 8601 moment from which it
 * is refused. Throws RangeError where the secret is empty or the lifetime is not a positive whole number.
 */
export async function issueConversationToken(request: {
  conversationId: string;
  secret: string;
  now: number;
  lifetimeSeconds?: number;
  agentSessionId?: string | undefined;
}): Promise<{ token: string; expiresAt: string }> {
  const { conversationId, secret, now, agentSessionId } = request;
  const { lifetimeSeconds = DEFAULT_LIFETIME_SECONDS } = request;
  if (secret === "") throw new RangeError("A conversation token needs a secret.");
  if (!Number.isSafeInteger(lifetimeSeconds) || lifetimeSeconds < 1) {
    throw new RangeError("The lifetime of a token is a positive whole number of seconds.");
  }
  const iat = Math.floor(now / 1000);
  const exp = iat + lifetimeSeconds;
  const claims = {
    iss: ISSUER,
    aud: AUDIENCE,
    sub: conversationId,
    iat,
    exp,
    ...(agentSessionId === undefined ? {} : { agentSessionId }),
  } satisfies v.InferInput<typeof claimsSchema>;
  const token = await sign(claims, await hmacKey(secret, "sign"), "HS256");
  return { token, expiresAt: new Date(exp * 1000).toISOString() };
}

/**
 * Verifies a token for one conversation against every secret of the list, so that one can be rotated while
 * its tokens live. `now` is Unix milliseconds. A token is refused from the very second of its `exp`, and
 * until 60 s before its `iat` or `nbf`. Never throws; whatever the token holds, the answer is a reason.
 */
export async function verifyConversationToken(request: {
  token: string;
  conversationId: string;
  secrets: readonly string[];
  now: number;
}): Promise<TokenCheck> {
  const { token, conversationId, now } = request;
  const secrets = request.secrets.filter((secret) => secret !== "");
  if (secrets.length === 0) return refuse("no_secret");
  if (token === "") return refuse("missing");
  if (token.length > MAX_TOKEN_CHARACTERS) return refuse("too_long");
  if (!COMPACT_JWT.test(token)) return refuse("malformed");
  const verified = await verifyWithAny(token, secrets);
  if ("reason" in verified) return refuse(verified.reason);
  if (!CANONICAL_SIGNATURE.test(token)) return refuse("malformed");

  // Every check below reads what one of our secrets has signed.
  const parsed = v.safeParse(claimsSchema, verified.claims);
  if (!parsed.success) return refuse("wrong_claims");
  const { sub, iat, nbf = iat, exp, agentSessionId } = parsed.output;
  const nowSeconds = now / 1000;
  if (nowSeconds >= exp) return refuse("expired");
  if (Math.max(iat, nbf) > nowSeconds + CLOCK_SKEW_SECONDS) return refuse("not_yet_valid");
  // Last, so that this reason means: a good token, but not for this.
  if (sub !== conversationId) return refuse("wrong_conversation");
  return { ok: true, ...(agentSessionId === undefined ? {} : { agentSessionId }) };
}

function refuse(reason: TokenRefusal): TokenCheck {
  return { ok: false, reason };
}

type Verified = { claims: unknown } | { reason: "malformed" | "wrong_header" | "wrong_signature" };

/** The claims of a token that one of the secrets signed, or why there are none. */
async function verifyWithAny(token: string, secrets: readonly string[]): Promise<Verified> {
  for (const secret of secrets) {
    const key = await hmacKey(secret, "verify");
    try {
      return { claims: await verify(token, key, { alg: "HS256", exp: false, iat: false, nbf: false }) };
    } catch (error) {
      const reason = reasonOf(error);
      if (reason !== "wrong_signature") return { reason };
    }
  }
  return { reason: "wrong_signature" };
}

/** By name, since `hono/jwt` does not export its error classes. Their messages hold the token. */
function reasonOf(error: unknown): "malformed" | "wrong_header" | "wrong_signature" {
  switch (error instanceof Error ? error.name : "") {
    case "JwtTokenSignatureMismatched":
      return "wrong_signature";
    case "JwtHeaderInvalid":
    case "JwtAlgorithmMismatch":
      return "wrong_header";
    default:
      return "malformed";
  }
}

async function hmacKey(secret: string, usage: "sign" | "verify"): Promise<CryptoKey> {
  const bytes = new TextEncoder().encode(secret);
  return crypto.subtle.importKey("raw", bytes, { name: "HMAC", hash: "SHA-256" }, false, [usage]);
}
