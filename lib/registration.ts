/**
 * The story of a registration: side by side, Redis stores the session with its 600 s and the conversation's
 * object is told, which hands over whatever waited.
 */
import type { Core } from "./core.ts";
import { ConversationDeletedError, isUnavailable, SessionUrlNotAllowedError } from "./errors.ts";
import { logFailure } from "./log.ts";
import { type AllowedHosts, checkPushTarget } from "./push/push-target.ts";
import {
  type Registration,
  SESSION_TTL_SECONDS,
  type SessionRecord,
  sessionRecord,
} from "./session-store.ts";

/** Who was let in: a server (anybody, while authentication is off), or a page and what its token says it talks to. */
export type Caller = { kind: "server" } | { kind: "page"; agentSessionId: string | undefined };

/**
 * Which agent conversation the registration is certainly of: what a server says, or what the page's token says,
 * unless the page says that it is in another one. The word of a page alone proves nothing.
 */
export function withProof(registration: Registration, caller: Caller): Registration {
  const said = registration.agentSessionId;
  const proven = caller.kind === "server" ? said : caller.agentSessionId;
  if (proven === undefined || (said !== undefined && said !== proven)) return registration;
  return { ...registration, agentSessionId: proven, provenAgentSessionId: proven };
}

/** Throws SessionUrlNotAllowedError where the registration's URL may not be dialled. */
export function requireAllowedUrl({ sessionUrl }: Registration, allowedHosts: AllowedHosts): void {
  if (sessionUrl === undefined) return;
  const target = checkPushTarget(sessionUrl, allowedHosts);
  if (!target.ok) throw new SessionUrlNotAllowedError(target.detail);
}

/** How long the answer waits for the object where Redis has the session, in ms. */
const TELL_MS = 1_000;
/** The pauses before an object that did not answer is told again, after the answer, in ms: half a minute in all. */
const TELL_AGAIN_MS = [1_000, 2_000, 4_000, 8_000, 15_000];

/**
 * Registers the live session of a conversation, replacing an earlier one and its time to live. One round trip
 * to Redis, and one call of the conversation's object.
 *
 * Throws SessionUrlNotAllowedError where the URL may not be dialled, ConversationDeletedError, and StorageError
 * where neither Redis nor the object could take it.
 */
export async function registerSession(
  conversationId: string,
  registration: Registration,
  allowedHosts: AllowedHosts,
  core: Core,
): Promise<SessionRecord> {
  requireAllowedUrl(registration, allowedHosts);
  const { elseAsk, sessions, live, now } = core;
  const session = sessionRecord(conversationId, registration, crypto.randomUUID(), now());
  const telling = live.registered(session, false);
  // Looked at when Redis has answered.
  telling.catch(() => {});
  const saved = await elseAsk(
    () => sessions.set(session).then(() => true),
    async () => false,
  );
  const replaced = saved ? await told(session, telling, core) : await live.registered(session, true);
  core.log.info(replaced ? "session.replaced" : "session.registered", {
    conversationId,
    registrationId: session.registrationId,
    transport: session.transport,
    ttl: SESSION_TTL_SECONDS,
  });
  return session;
}

/** Waits a moment for the object to have been told. Returns whether another registration was replaced, as far as is known. */
async function told(session: SessionRecord, telling: Promise<boolean>, core: Core): Promise<boolean> {
  const { wait, afterResponse, conversations, storage } = core;
  const late = wait(TELL_MS).then(() => null);
  const replaced = await Promise.race([telling, late]).catch(async (error: unknown) => {
    if (error instanceof ConversationDeletedError) await takeBack(session, core);
    if (!isUnavailable(error)) throw error;
    return null;
  });
  if (replaced !== null) return replaced;
  afterResponse(tellAgain(session, telling, core));
  // The object would have made the conversation. The session stands all the same.
  const record = conversations.fresh(session.conversationId);
  await storage
    .commit([conversations.createWrite(record)])
    .catch((error: unknown) => logFailure(core.log, "registered", error));
  return false;
}

async function tellAgain(session: SessionRecord, telling: Promise<boolean>, core: Core): Promise<void> {
  const { conversationId } = session;
  let attempt = telling;
  for (const pauseMs of [...TELL_AGAIN_MS, null]) {
    try {
      return void (await attempt);
    } catch (error) {
      if (error instanceof ConversationDeletedError) return takeBack(session, core);
      if (pauseMs === null) return logFailure(core.log.with({ conversationId }), "registered", error);
      await core.wait(pauseMs);
      attempt = core.live.registered(session, false);
    }
  }
}

async function takeBack(
  { conversationId, registrationId }: SessionRecord,
  { sessions }: Core,
): Promise<void> {
  await sessions.delete(conversationId, registrationId);
}
