/**
 * The live sessions: who can be pushed to right now.
 *
 * THE RAW RULE. A session record holds the *raw push-capable payload*: the session object exactly as the
 * ElevenLabs SDK or the page produced it, with its full URL and the tokens in it.
 *
 * - *Raw* means: the very JSON value that was registered, deep-equal and in the same key order, for any
 *   JSON value, unknown and odd keys included. Not a selection of fields, not a rebuilt object.
 * - *Why an id is not enough*: a session cannot be reopened from its id. The URL's signature and token are
 *   issued once, expire on their own and are not derivable from anything we could look up later. A record
 *   that lost them is a record of a session that cannot be reached.
 * - *What a push needs*: an address that can be dialled (`wsUrl`), a page that attaches itself, as those on
 *   WebRTC must, or a provider that takes commands to a call (`provider`, `agentSessionId`). A registration with none
 *   of them is refused, because it could only ever disappoint a callback.
 * - *What must never happen to it*: it is never rebuilt from an id, trimmed, normalised or redacted in
 *   storage; and never logged, returned by an endpoint or put into an error.
 *
 * A session lives 600 s from its registration. Reading it does not make it live longer; registering again
 * replaces it.
 */
import * as v from "valibot";
import { InvalidRequestError } from "./errors.ts";
import { isJsonObject, isoTimestamp, type JsonObject, jsonObject, jsonValue, validate } from "./json.ts";
import { keys } from "./keys.ts";
import type { Logger } from "./log.ts";
import type { Storage, TextStorage } from "./storage/storage.ts";
import { createTtlStore } from "./ttl-store.ts";

/** A constant, not a setting: what lives longer is not a live session. */
export const SESSION_TTL_SECONDS = 600;

export const transportSchema = v.picklist(["websocket", "webrtc"]);

/** Whether there is such a one is asked where it is to be reached (`registration.ts`): who only stores a session need not know. */
export const providerSchema = v.string();

export const ELEVENLABS = "elevenlabs";

export const registrationRequestSchema = v.object({
  /** Who hosts the agent; ElevenLabs where it does not say. */
  provider: v.optional(providerSchema),
  sessionUrl: v.optional(v.pipe(v.string(), v.nonEmpty("must not be empty"))),
  sessionPayload: v.optional(jsonValue),
  /** The sender's own note: kept, never acted on, even when it lies in the past. */
  expiresAt: v.optional(isoTimestamp),
  agentSessionId: v.optional(
    v.pipe(v.string(), v.nonEmpty("must not be empty"), v.maxLength(256, "must be at most 256 characters")),
  ),
  /** Where the call takes commands, with a provider whose calls each have an address. It opens the call: as secret as a URL of a session. */
  controlUrl: v.optional(v.string()),
  transport: v.optional(transportSchema),
  metadata: v.optional(jsonObject),
});

/** A registration as it is asked for, in fields that are known; others are kept. */
export type RegistrationRequest = v.InferInput<typeof registrationRequestSchema>;

/** What was asked to be registered, before it has an id or a time. */
export type Registration = v.InferOutput<typeof registrationRequestSchema> & {
  sessionPayload: unknown;
  /** The `agentSessionId` that a server vouches for. Never read from a page's request. */
  provenAgentSessionId?: string;
  /** Fields of the request that neither it nor the record has a meaning for, kept beside ours. Empty where the whole body is the payload. */
  extra: JsonObject;
};

/**
 * Reads a registration from a request body. Without `sessionPayload` the whole body is the raw payload.
 * `hasLine`: the page is connected already, which alone makes it push-capable. Throws InvalidRequestError where the
 * shape is wrong or where nothing makes it push-capable.
 */
export function parseRegistration(body: JsonObject, hasLine = false): Registration {
  const request = validate(registrationRequestSchema, body);
  if (
    !isElsewhere(request) &&
    !hasLine &&
    request.sessionUrl === undefined &&
    request.transport !== "webrtc"
  ) {
    throw new InvalidRequestError("A session without a URL cannot be pushed to.", [
      { path: "sessionUrl", message: 'is required unless transport is "webrtc"' },
    ]);
  }
  if (!Object.hasOwn(body, "sessionPayload")) return { ...request, sessionPayload: body, extra: {} };
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !KNOWN_FIELDS.has(name)));
  return { ...request, sessionPayload: request.sessionPayload, extra };
}

/** Whether somebody else than ElevenLabs hosts the agent. */
export function isElsewhere({ provider = ELEVENLABS }: { provider?: string | undefined }): boolean {
  return provider !== ELEVENLABS;
}

export const renewalSchema = v.object({
  registrationId: v.pipe(
    v.string(),
    v.nonEmpty("must not be empty"),
    v.maxLength(128, "must be at most 128 characters"),
  ),
  agentSessionId: registrationRequestSchema.entries.agentSessionId,
});
export type Renewal = v.InferOutput<typeof renewalSchema>;

/** Reads a renewal, a body that names its registration; null where it names none. Throws InvalidRequestError. */
export function parseRenewal(body: JsonObject): Renewal | null {
  return Object.hasOwn(body, "registrationId") ? validate(renewalSchema, body) : null;
}

export const sessionRecordSchema = v.object({
  version: v.optional(v.number(), 1),
  conversationId: v.string(),
  registrationId: v.string(),
  /** The raw push-capable payload; see the raw rule above. */
  sessionPayload: jsonValue,
  /** Absent only for WebRTC. */
  wsUrl: v.optional(v.string()),
  createdAt: isoTimestamp,
  /** From here its 600 s count, where the registration was renewed. */
  renewedAt: v.optional(isoTimestamp),
  ttl: v.optional(v.number(), SESSION_TTL_SECONDS),
  expiresAt: v.optional(v.string()),
  agentSessionId: v.optional(v.string()),
  provenAgentSessionId: v.optional(v.string()),
  /** Absent for ElevenLabs. One that a later version knows is kept, and reached by no channel of this one. */
  provider: v.optional(v.string()),
  controlUrl: v.optional(v.string()),
  transport: v.optional(transportSchema),
  /** The connection of our own that the session is reached by; null since it went. Absent where there never was one. */
  channel: v.optional(v.nullable(v.picklist(["relay", "proxy"]))),
  metadata: v.optional(jsonObject),
});
export type SessionRecord = v.InferOutput<typeof sessionRecordSchema>;

const KNOWN_FIELDS: ReadonlySet<string> = new Set([
  ...Object.keys(registrationRequestSchema.entries),
  ...Object.keys(sessionRecordSchema.entries),
]);

/**
 * Earlier writers stored the registered object alone: `sessionUrl` instead of `wsUrl`, no ids, no time. Its
 * age is unknown, so `createdAt` is the epoch, which `sessionDeadline` takes as "ask the storage".
 */
function upgradeSession(value: unknown, conversationId: string): unknown {
  if (!isJsonObject(value) || "wsUrl" in value || !("sessionUrl" in value)) return value;
  return {
    conversationId,
    registrationId: "legacy",
    createdAt: UNKNOWN_TIME,
    sessionPayload: value,
    wsUrl: value.sessionUrl,
    ...(value.expiresAt === undefined ? {} : { expiresAt: value.expiresAt }),
  };
}
const UNKNOWN_TIME = new Date(0).toISOString();

/** When the session stops being live, in ms since the epoch; null where the record does not know its age. */
export function sessionDeadline({ createdAt, renewedAt, ttl }: SessionRecord): number | null {
  if (createdAt === UNKNOWN_TIME && renewedAt === undefined) return null;
  return Date.parse(renewedAt ?? createdAt) + ttl * 1000;
}

/** Whether the session can still be pushed to at `now` (ms). The storage forgets it too; this is for what was read earlier. */
export function isLive(session: SessionRecord, now: number): boolean {
  const deadline = sessionDeadline(session);
  return deadline === null || now < deadline;
}

export interface SessionStore {
  /** The live session of a conversation, or null. */
  get(conversationId: string): Promise<SessionRecord | null>;
  /** Stores a record whole, its 600 s in the same command. */
  set(session: SessionRecord): Promise<void>;
  /** Removes the session if this registration is the current one. Returns whether it was. */
  delete(conversationId: string, registrationId: string): Promise<boolean>;
  /** Seconds the session still lives, rounded up. */
  secondsLeft(session: SessionRecord, now: number): Promise<number>;
  /** Reads a stored text; null and one log line where it cannot be read. */
  parse(conversationId: string, text: string): SessionRecord | null;
}

/** What sessions are kept in. */
export type SessionStorage = TextStorage & Pick<Storage, "ttl">;

export function createSessionStore(storage: SessionStorage, log: Logger): SessionStore {
  const records = createTtlStore({
    storage,
    log,
    keyOf: keys.session,
    schema: sessionRecordSchema,
    ttlSeconds: SESSION_TTL_SECONDS,
    policy: "on-write",
    upgrade: upgradeSession,
  });
  return {
    get: (conversationId) => records.get(conversationId),
    set: (session) => records.set(session.conversationId, session),
    delete: (conversationId, registrationId) =>
      storage.update(
        keys.session(conversationId),
        (text) => (records.parse(conversationId, text)?.registrationId === registrationId ? null : undefined),
        SESSION_TTL_SECONDS,
      ),
    async secondsLeft(session, now) {
      const deadline = sessionDeadline(session);
      const seconds =
        deadline === null ? await storage.ttl(keys.session(session.conversationId)) : (deadline - now) / 1000;
      return Math.max(0, Math.ceil(seconds ?? 0));
    },
    parse: (conversationId, text) => records.parse(conversationId, text),
  };
}

/** The record of a registration; what is undefined is not stored. `now` in ms; `registrationId` is fresh. */
export function sessionRecord(
  conversationId: string,
  registration: Registration,
  registrationId: string,
  now: number,
): SessionRecord {
  const { sessionUrl, sessionPayload, expiresAt, agentSessionId, transport, metadata, extra } = registration;
  const { provenAgentSessionId, provider, controlUrl } = registration;
  return {
    ...extra,
    version: 1,
    conversationId,
    registrationId,
    sessionPayload: sessionPayload as SessionRecord["sessionPayload"],
    wsUrl: sessionUrl,
    createdAt: new Date(now).toISOString(),
    ttl: SESSION_TTL_SECONDS,
    expiresAt,
    agentSessionId,
    provenAgentSessionId,
    provider: isElsewhere(registration) ? provider : undefined,
    controlUrl: isElsewhere(registration) ? controlUrl : undefined,
    transport,
    metadata,
  };
}
