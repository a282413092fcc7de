/**
 * The story of a registration: one commit that stores the session, creates or touches its conversation and
 * indexes it; and, after the answer, the hand-over of whatever waited.
 */
import type { Core } from "./core.ts";
import { SessionUrlNotAllowedError } from "./errors.ts";
import { handOverBacklog } from "./handover.ts";
import { logFailure } from "./log.ts";
import { type AllowedHosts, checkPushTarget } from "./push/push-target.ts";
import {
  type Registration,
  SESSION_TTL_SECONDS,
  type SessionRecord,
  sessionRecord,
} from "./session-store.ts";

/**
 * Registers the live session of a conversation, replacing an earlier one and its time to live.
 *
 * One round trip to the storage; a second one only where a conversation that existed without any session
 * (made by `POST …/new`, by a message or by an early callback) gets its first, because from then on a missing
 * session must be known to have expired.
 *
 * Throws SessionUrlNotAllowedError where the URL may not be dialled, StorageError where nothing could be stored.
 */
export async function registerSession(
  conversationId: string,
  registration: Registration,
  allowedHosts: AllowedHosts,
  core: Core,
): Promise<SessionRecord> {
  if (registration.sessionUrl !== undefined) {
    const target = checkPushTarget(registration.sessionUrl, allowedHosts);
    if (!target.ok) throw new SessionUrlNotAllowedError(target.detail);
  }
  const { storage, sessions, conversations, log, now, afterResponse } = core;
  const session = sessionRecord(conversationId, registration, crypto.randomUUID(), now());
  const firstSession = conversations.fresh(conversationId, { lastSessionAt: session.createdAt });

  const createConversation = conversations.createWrite(firstSession);
  const [replaced, standing] = await storage.commit([
    { ...sessions.setWrite(session), returnPrevious: true },
    createConversation,
    conversations.renewWrite(conversationId),
    conversations.indexWrite(conversationId),
  ]);
  const isNew = standing === createConversation.value;
  const known = isNew ? null : conversations.parse(conversationId, standing);
  const hadNoSession = known !== null && known.lastSessionAt === undefined;
  const noteSession = () =>
    conversations.replace(standing, { ...(known ?? firstSession), lastSessionAt: session.createdAt });
  if (hadNoSession) await noteSession();

  log.info(replaced === null ? "session.registered" : "session.replaced", {
    conversationId,
    registrationId: session.registrationId,
    transport: session.transport,
    ttl: SESSION_TTL_SECONDS,
  });
  afterResponse(async () => {
    await Promise.all([
      isNew
        ? storage.commit(conversations.pruneWrites())
        : Promise.all([
            !hadNoSession && noteSession(),
            storage.commit(conversations.touchWrites(conversationId)),
          ]),
      handOverBacklog(conversationId, core),
    ]).catch((error: unknown) => logFailure(log, "renewal after a registration", conversationId, error));
  });
  return session;
}
