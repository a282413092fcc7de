/**
 * The story of a registration: side by side, Redis stores the session with its 600 s and the conversation's
 * object is told, which hands over whatever waited.
 */
import type { Config } from "./config.ts";
import type { Core } from "./core.ts";
import {
  CallNotVouchedForError,
  ConversationDeletedError,
  InvalidRequestError,
  type Issue,
  isUnavailable,
  SessionUrlNotAllowedError,
} from "./errors.ts";
import { isCallId } from "./keys.ts";
import { logFailure } from "./log.ts";
import type { Provider } from "./push/provider.ts";
import { PROVIDERS, type ProviderName } from "./push/providers.ts";
import { checkPushTarget } from "./push/push-target.ts";
import {
  isElsewhere,
  type Registration,
  SESSION_TTL_SECONDS,
  type SessionRecord,
  sessionRecord,
} from "./session-store.ts";

/** Who was let in: a server (anybody, while authentication is off), or a page and what its token says it talks to. */
export type Caller = { kind: "server" } | { kind: "page"; agentSessionId: string | undefined };

/** What is known of a provider by its name; null where there is none. */
function providerOf(name: string | undefined): Provider | null {
  return name !== undefined && Object.hasOwn(PROVIDERS, name) ? PROVIDERS[name as ProviderName] : null;
}

/** Throws InvalidRequestError where nothing names a call of a provider that there is. */
function requireCall({ provider, agentSessionId, controlUrl }: Registration): void {
  const known = providerOf(provider);
  const issues: Issue[] = [];
  if (known === null) issues.push({ path: "provider", message: "is not known" });
  if (agentSessionId === undefined) {
    issues.push({ path: "agentSessionId", message: "is required with this provider" });
  } else if (!isCallId(agentSessionId)) {
    issues.push({
      path: "agentSessionId",
      message: "must be 1 to 256 printable ASCII characters without blanks",
    });
  }
  if (known?.controlUrlOf !== undefined && controlUrl === undefined) {
    issues.push({ path: "controlUrl", message: "is required with this provider" });
  }
  if (known !== null && known.controlUrlOf === undefined && controlUrl !== undefined) {
    issues.push({ path: "controlUrl", message: "is for providers whose calls have one" });
  }
  if (issues.length > 0)
    throw new InvalidRequestError("Nothing names a call that could be told anything.", issues);
}

/**
 * Which agent conversation the registration is certainly of: what a server says, or what the page's token says,
 * unless the page says that it is in another one. The word of a page alone proves nothing; of a call that only the key
 * of an account reaches, it throws CallNotVouchedForError, and InvalidRequestError where nothing names such a call.
 */
export function withProof(registration: Registration, caller: Caller): Registration {
  if (isElsewhere(registration)) requireCall(registration);
  const said = registration.agentSessionId;
  const proven = caller.kind === "server" ? said : caller.agentSessionId;
  if (proven === undefined || (said !== undefined && said !== proven)) {
    if (isElsewhere(registration)) throw new CallNotVouchedForError();
    return registration;
  }
  return { ...registration, agentSessionId: proven, provenAgentSessionId: proven };
}

/** Whether the `agentSessionId` that a registration is renewed with is certainly the one it is of: see `withProof`. */
export function isProven(agentSessionId: string | undefined, caller: Caller): boolean {
  return (
    agentSessionId !== undefined && (caller.kind === "server" || caller.agentSessionId === agentSessionId)
  );
}

export type AllowedTargets = Pick<Config, "pushAllowedHosts" | "providers">;

/** Throws SessionUrlNotAllowedError where a URL of the registration may not be dialled. */
export function requireAllowedUrl(
  registration: Registration,
  { pushAllowedHosts: allowedHosts, providers }: AllowedTargets,
): void {
  const { sessionUrl, provider, controlUrl, agentSessionId = "" } = registration;
  const known = providerOf(provider);
  if (known !== null && controlUrl !== undefined) {
    const origin = providers[provider as ProviderName]?.apiUrl ?? known.apiUrl;
    if (known.controlUrlOf?.(controlUrl, agentSessionId, origin) === null)
      throw new SessionUrlNotAllowedError("The control URL is not one of this call at its provider.");
  }
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
  allowed: AllowedTargets,
  core: Core,
): Promise<SessionRecord> {
  requireAllowedUrl(registration, allowed);
  const { elseAsk, sessions, live, now } = core;
  const session = sessionRecord(conversationId, registration, crypto.randomUUID(), now());
  // Looked at when Redis has answered, and from then on with a clock: most need none.
  const telling = live.registered(session, false, null);
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
  const { wait, afterResponse, storage } = core;
  const replaced = await soon(telling, wait).catch(async (error: unknown) => {
    if (error instanceof ConversationDeletedError) await takeBack(session, core);
    if (!isUnavailable(error)) throw error;
    return null;
  });
  if (replaced !== null) return replaced;
  afterResponse(tellAgain(session, telling, core));
  // The object would have made the conversation. The session stands all the same.
  const { conversations } = core;
  const record = conversations.fresh(session.conversationId);
  await storage
    .commit([conversations.createWrite(record)])
    .catch((error: unknown) => logFailure(core.log, "registered", error));
  return false;
}

/** What it resolves with, within a second; null otherwise. No clock is set where it is there already. */
async function soon(telling: Promise<boolean>, wait: Core["wait"]): Promise<boolean | null> {
  const early = await Promise.race([telling, Promise.resolve(null)]);
  return early ?? Promise.race([telling, wait(TELL_MS).then(() => null)]);
}

/** Tells the object again, unless it turns out that it knows: by then another may have come and gone. */
async function tellAgain(session: SessionRecord, telling: Promise<boolean>, core: Core): Promise<void> {
  const { conversationId } = session;
  let isTold = false;
  telling.then(
    () => {
      isTold = true;
    },
    () => {},
  );
  let failure: unknown;
  for (const pauseMs of TELL_AGAIN_MS) {
    await core.wait(pauseMs);
    if (isTold) return;
    try {
      return void (await core.live.registered(session, false));
    } catch (error) {
      if (error instanceof ConversationDeletedError) return takeBack(session, core);
      failure = error;
    }
  }
  logFailure(core.log.with({ conversationId }), "registered", failure);
}

async function takeBack(
  { conversationId, registrationId }: SessionRecord,
  { sessions }: Core,
): Promise<void> {
  await sessions.delete(conversationId, registrationId);
}
