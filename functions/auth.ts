/**
 * Who may call. With `REQUIRE_AUTH` on there are three credentials: the API token of a server, the
 * conversation token of a browser, and what a webhook proves itself by. Where a secret is not configured,
 * what it protects is closed (`misconfigured`), never open.
 */
import { createMiddleware } from "hono/factory";
import { verifyConversationToken } from "../lib/auth/conversation-token.ts";
import { matchesAnySecret } from "../lib/auth/secrets.ts";
import { verifyElevenLabsSignature, verifyStandardWebhook } from "../lib/auth/webhook-signature.ts";
import { operatorAccess } from "../lib/config.ts";
import { readRawBody } from "./body.ts";
import type { AppContext, AppEnv } from "./context.ts";
import { ProblemError } from "./problem.ts";

/** For servers only: the API token. */
export const requireApiToken = createMiddleware<AppEnv>(async (c, next) => {
  const { requireAuth, apiTokens, sessionTokenSecrets: secrets } = c.var.config;
  if (requireAuth && !(await matchesAnySecret(bearerOf(c), apiTokens))) {
    requireConfigured("API_TOKEN", apiTokens);
    const check = await verifyConversationToken({
      token: bearerOf(c),
      conversationId: "",
      secrets,
      now: Date.now(),
    });
    // A good token of some conversation, which is not enough here.
    throw !check.ok && check.reason === "wrong_conversation" ? forbidden(c) : unauthorized(c, "api_token");
  }
  await next();
});

/** For whoever operates the service: the API token, also while the rest of the configuration cannot be read. */
export const requireOperator = createMiddleware<AppEnv>(async (c, next) => {
  const { requireAuth, apiTokens } = operatorAccess(c.env);
  if (requireAuth && !(await matchesAnySecret(bearerOf(c), apiTokens))) {
    requireConfigured("API_TOKEN", apiTokens);
    throw unauthorized(c, "api_token");
  }
  await next();
});

/** For a browser and its server: the token of the conversation in the path, or the API token. */
export const requireConversationAccess = createMiddleware<AppEnv>(async (c, next) => {
  const { requireAuth, apiTokens, sessionTokenSecrets: secrets } = c.var.config;
  if (requireAuth && !(await matchesAnySecret(bearerOf(c), apiTokens))) {
    const conversationId = c.req.param("id") ?? "";
    const check = await verifyConversationToken({
      token: bearerOf(c),
      conversationId,
      secrets,
      now: Date.now(),
    });
    if (!check.ok) {
      requireConfigured("API_TOKEN", apiTokens);
      requireConfigured("SESSION_TOKEN_SECRET", secrets);
      throw check.reason === "wrong_conversation" ? forbidden(c) : unauthorized(c, check.reason);
    }
  }
  await next();
});

/**
 * For webhooks: a Standard Webhooks signature, else an ElevenLabs signature, else the shared secret. The
 * first of them that is there decides, over the bytes as they came; nothing has been parsed yet.
 */
export const requireWebhookCredential = createMiddleware<AppEnv>(async (c, next) => {
  const { requireAuth, webhookSecrets: secrets } = c.var.config;
  if (requireAuth) {
    requireConfigured("WEBHOOK_SECRET", secrets);
    const refusal = await refusalOfWebhook(c, secrets);
    if (refusal !== null) throw unauthorized(c, refusal);
  }
  await next();
});

const STANDARD_HEADERS = ["webhook-id", "webhook-timestamp", "webhook-signature"] as const;

/** Why the webhook is not believed; null where it is. */
async function refusalOfWebhook(c: AppContext, secrets: readonly string[]): Promise<string | null> {
  const now = Date.now();
  const [id, timestamp, signature] = STANDARD_HEADERS.map((name) => c.req.header(name));
  if (id !== undefined || timestamp !== undefined || signature !== undefined) {
    const body = await readRawBody(c);
    const check = await verifyStandardWebhook({ body, headers: { id, timestamp, signature }, secrets, now });
    return check.ok ? null : check.reason;
  }
  const header = c.req.header("elevenlabs-signature");
  if (header !== undefined) {
    const check = await verifyElevenLabsSignature({ body: await readRawBody(c), header, secrets, now });
    return check.ok ? null : check.reason;
  }
  const shared =
    c.req.header("authorization") === undefined
      ? (c.req.header("x-el-secret") ?? c.req.header("x-webhook-secret") ?? "")
      : bearerOf(c);
  if (shared === "") return "missing";
  return (await matchesAnySecret(shared, secrets)) ? null : "wrong_secret";
}

/** The bearer credential, "" where there is none. A repeated header arrives joined by a comma and is none. */
function bearerOf(c: AppContext): string {
  return /^Bearer +([^\s,]+)$/i.exec(c.req.header("authorization") ?? "")?.[1] ?? "";
}

/** Closes what a secret protects while there is no such secret. */
export function requireConfigured(variable: string, secrets: readonly string[]): void {
  if (secrets.length === 0) {
    throw new ProblemError("misconfigured", `${variable} is not configured, so this is closed.`);
  }
}

function unauthorized(c: AppContext, reason: string): ProblemError {
  logRejection(c, "unauthorized", reason);
  return new ProblemError("unauthorized", "A valid credential is required.", {
    "www-authenticate": "Bearer",
  });
}

function forbidden(c: AppContext): ProblemError {
  logRejection(c, "forbidden", "wrong_conversation");
  return new ProblemError("forbidden", "This token is for another conversation or another kind of request.");
}

function logRejection(c: AppContext, code: string, reason: string): void {
  c.get("log").warn("auth.rejected", { method: c.req.method, route: c.req.routePath, code, reason });
}
