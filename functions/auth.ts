/**
 * Who may call. With `REQUIRE_AUTH` on there are three credentials: the API token of a server, the
 * conversation token of a browser, and what a webhook proves itself by. Where a secret is not configured,
 * what it protects is closed (`misconfigured`), never open. With it off the service answers this machine only.
 */
import { type TokenCheck, verifyConversationToken } from "../lib/auth/conversation-token.ts";
import { matchesAnySecret } from "../lib/auth/secrets.ts";
import { startHmacs } from "../lib/auth/streamed-hmac.ts";
import {
  type CodesOf,
  verifyElevenLabsSignature,
  verifyStandardWebhook,
} from "../lib/auth/webhook-signature.ts";
import { type Access, accessOf } from "../lib/config.ts";
import { BEARER_SUBPROTOCOL_PREFIX } from "../lib/live/relay-protocol.ts";
import { LOOPBACK_HOSTS } from "../lib/push/push-target.ts";
import type { Caller } from "../lib/registration.ts";
import { passEvent, readRawBody } from "./body.ts";
import { checks } from "./checks.ts";
import { configOf } from "./compose.ts";
import type { AppContext } from "./context.ts";
import { ProblemError } from "./problem.ts";
import { limitFailedLogins, limitReads } from "./rate-limit.ts";
import { isVouchedFor } from "./vouched.ts";

/**
 * With authentication off, answers nobody but this machine under its own name: a page elsewhere, or a name that
 * was pointed here (DNS rebinding), is 421 `misdirected_request`. A deployment with authentication off answers
 * nobody.
 */
export function requireOwnMachine(c: AppContext): void {
  const parsed = configOf(c.env);
  const { requireAuth } = parsed.ok ? parsed.config : accessOf(c.env);
  if (!requireAuth && !isVouchedFor(c) && !isOwnMachine(c)) {
    throw new ProblemError(
      "misdirected_request",
      "Authentication is off, so only this machine is answered, under a loopback name.",
    );
  }
}

function isOwnMachine(c: AppContext): boolean {
  const [host, origin] = [c.req.header("host"), c.req.header("origin")];
  const names = [c.req.url, host === undefined ? undefined : `http://${host}`, origin];
  return names.every((name) => name === undefined || isLoopback(name));
}

/** How they are nearly always written, for which no URL need be parsed; a port above 59999 is left to that. */
const PLAIN_LOOPBACK = /^https?:\/\/(?:localhost|127\.0\.0\.1)(?::[1-5]?\d{1,4})?(?:\/|$)/;

function isLoopback(url: string): boolean {
  return PLAIN_LOOPBACK.test(url) || LOOPBACK_HOSTS.has(URL.parse(url)?.hostname ?? "");
}

/** For servers only: the API token. */
export const requireApiToken = checks((c) => requireServer(c, c.get("config")));

/** For whoever operates the service: the API token, also while the rest of the configuration cannot be read. */
export const requireOperator = checks((c) => requireServer(c, accessOf(c.env)));

async function requireServer(c: AppContext, access: Access): Promise<void> {
  if (await isServer(c, access)) {
    c.set("caller", { kind: "server" });
    return;
  }
  requireConfigured("API_TOKEN", access.apiTokens);
  const check = await tokenCheck(c, "", access);
  // A good token of some conversation is not enough here.
  const isToken = !check.ok && check.reason === "wrong_conversation";
  throw isToken ? await forbidden(c) : await unauthorized(c, "api_token");
}

async function isServer(c: AppContext, { requireAuth, apiTokens }: Access): Promise<boolean> {
  return !requireAuth || isVouchedFor(c) || (await matchesAnySecret(bearerOf(c), apiTokens));
}

/** For a browser and its server: the token of the conversation in the path, or the API token. */
export const requireConversationAccess = checks(admitToConversation);

/** The same, for what only reads the conversation, which is counted. */
export const requireReader = checks(admitToConversation, limitReads);

async function admitToConversation(c: AppContext): Promise<void> {
  c.set("caller", await callerOf(c, c.get("config")));
}

async function callerOf(c: AppContext, access: Access): Promise<Caller> {
  const { apiTokens, sessionTokenSecrets } = access;
  if (await isServer(c, access)) return { kind: "server" };
  const check = await tokenCheck(c, c.req.param("id") ?? "", access);
  if (check.ok) return { kind: "page", agentSessionId: check.agentSessionId };
  requireConfigured("API_TOKEN", apiTokens);
  requireConfigured("SESSION_TOKEN_SECRET", sessionTokenSecrets);
  throw check.reason === "wrong_conversation" ? await forbidden(c) : await unauthorized(c, check.reason);
}

function tokenCheck(c: AppContext, conversationId: string, access: Access): Promise<TokenCheck> {
  const { sessionTokenSecrets: secrets } = access;
  return verifyConversationToken({ token: bearerOf(c), conversationId, secrets, now: Date.now() });
}

/**
 * For webhooks: a Standard Webhooks signature, else an ElevenLabs signature, else the shared secret. The
 * first of them that is there decides, over the bytes as they came; nothing has been parsed yet.
 */
export const requireWebhookCredential = webhookCredential((c) => c.get("config").webhookRequiresSignature);

/** For the tools of an agent: likewise, but they need not sign, because ElevenLabs' tools cannot. */
export const requireToolCredential = webhookCredential(() => false);

function webhookCredential(mustSign: (c: AppContext) => boolean) {
  return checks(async (c) => {
    const { requireAuth, webhookSecrets: secrets } = c.get("config");
    if (!requireAuth || isVouchedFor(c)) return;
    requireConfigured("WEBHOOK_SECRET", secrets);
    const refusal = await refusalOfWebhook(c, secrets, mustSign(c));
    if (refusal !== null) throw await unauthorized(c, refusal);
  });
}

const STANDARD_HEADERS = ["webhook-id", "webhook-timestamp", "webhook-signature"] as const;
const ELEVENLABS_HEADER = "elevenlabs-signature";

/** Which of its three forms a webhook takes. */
export function webhookForm(c: AppContext): "standard" | "elevenlabs" | "shared_secret" {
  if (STANDARD_HEADERS.some((name) => c.req.header(name) !== undefined)) return "standard";
  return c.req.header(ELEVENLABS_HEADER) === undefined ? "shared_secret" : "elevenlabs";
}

/** Why the webhook is not believed; null where it is. */
async function refusalOfWebhook(
  c: AppContext,
  secrets: readonly string[],
  mustSign: boolean,
): Promise<string | null> {
  const now = Date.now();
  switch (webhookForm(c)) {
    case "standard": {
      const [id, timestamp, signature] = STANDARD_HEADERS.map((name) => c.req.header(name));
      const headers = { id, timestamp, signature };
      const check = await verifyStandardWebhook({ body: await readRawBody(c), headers, secrets, now });
      return check.ok ? null : check.reason;
    }
    case "elevenlabs": {
      const header = c.req.header(ELEVENLABS_HEADER);
      const check = await verifyElevenLabsSignature({ body: codesOfEvent(c), header, secrets, now });
      return check.ok ? null : check.reason;
    }
    case "shared_secret": {
      if (mustSign) return "signature_required";
      const shared =
        c.req.header("authorization") === undefined
          ? (c.req.header("x-el-secret") ?? c.req.header("x-webhook-secret") ?? "")
          : bearerOf(c);
      if (shared === "") return "missing";
      return (await matchesAnySecret(shared, secrets)) ? null : "wrong_secret";
    }
  }
}

/** What ElevenLabs sends can be long, so it is verified while it passes. */
function codesOfEvent(c: AppContext): CodesOf {
  return async (keys, prefix) => {
    const hmacs = await startHmacs(keys);
    await hmacs.write(new TextEncoder().encode(prefix));
    await passEvent(c, hmacs.write);
    return hmacs.end();
  };
}

/**
 * The bearer credential, "" where there is none. A repeated header arrives joined by a comma and is none. A page
 * that opens a WebSocket can send no header of its own, so it offers the credential as a subprotocol.
 */
function bearerOf(c: AppContext): string {
  const header = c.req.header("authorization");
  if (header !== undefined) return /^Bearer +([^\s,]+)$/i.exec(header)?.[1] ?? "";
  const [bearer] = subprotocolsOf(c).filter((name) => name.startsWith(BEARER_SUBPROTOCOL_PREFIX));
  return bearer?.slice(BEARER_SUBPROTOCOL_PREFIX.length) ?? "";
}

/** The subprotocols that a WebSocket offers; none where the request opens no WebSocket. */
export function subprotocolsOf(c: AppContext): string[] {
  if (c.req.header("upgrade")?.toLowerCase() !== "websocket") return [];
  return (c.req.header("sec-websocket-protocol") ?? "").split(",").map((name) => name.trim());
}

/**
 * For what opens a WebSocket: a page may come from anywhere, and browsers apply no CORS to it, so an Origin must be
 * our own or listed. Who is no page sends none. Throws `upgrade_required`, `forbidden`.
 */
export const requireWebSocket = checks(async (c) => {
  if (c.req.header("upgrade")?.toLowerCase() !== "websocket") {
    throw new ProblemError("upgrade_required", "This path is a WebSocket.", { upgrade: "websocket" });
  }
  const origin = c.req.header("origin");
  const isOwn = origin === undefined || origin === new URL(c.req.url).origin;
  // With authentication off only this machine's own pages come this far.
  if (!isOwn && c.var.config.requireAuth && !c.var.config.allowedOrigins.includes(origin)) {
    await rejected(c, "forbidden", "foreign_origin");
    throw new ProblemError(
      "forbidden",
      "Pages of this origin may not connect; ALLOWED_ORIGINS lists those that may.",
    );
  }
});

/** Closes what a secret protects while there is no such secret that is worth the name. */
export function requireConfigured(variable: string, secrets: readonly string[]): void {
  if (secrets.length === 0) {
    throw new ProblemError("misconfigured", `${variable} is missing or too weak, so this is closed.`);
  }
}

async function unauthorized(c: AppContext, reason: string): Promise<ProblemError> {
  await rejected(c, "unauthorized", reason);
  return new ProblemError("unauthorized", "A valid credential is required.", {
    "www-authenticate": "Bearer",
  });
}

async function forbidden(c: AppContext): Promise<ProblemError> {
  await rejected(c, "forbidden", "wrong_conversation");
  return new ProblemError("forbidden", "This token is for another conversation or another kind of request.");
}

/** Counts and logs a refusal. Throws `rate_limited` where there were too many. */
async function rejected(c: AppContext, code: string, reason: string): Promise<void> {
  await limitFailedLogins(c);
  c.get("log").warn("auth.rejected", { method: c.req.method, route: c.req.routePath, code, reason });
}
