/**
 * Who sent a webhook, decided on the bytes that came in, before anything is parsed. Two forms: Standard
 * Webhooks (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md), which is
 * also how our own messages are signed, and ElevenLabs-Signature (https://elevenlabs.io/docs, "Post-call webhooks").
 *
 * Each configured secret costs a known number of HMACs over the body, however many signatures a header holds.
 * Headers are taken strictly: two headers that a proxy joined with a comma are malformed, not a choice.
 */
import { isEqualDigest } from "./secrets.ts";

export type SignatureRefusal =
  | "no_secret"
  | "missing_id"
  | "missing_timestamp"
  | "missing_signature"
  | "header_too_long"
  | "malformed_id"
  | "malformed_timestamp"
  | "malformed_signature"
  | "too_old"
  | "too_new"
  | "wrong_signature";

export type SignatureCheck = { ok: true } | { ok: false; reason: SignatureRefusal };

export type StandardWebhookHeaders = {
  /** `webhook-id` */
  id: string | null | undefined;
  /** `webhook-timestamp`, Unix seconds */
  timestamp: string | null | undefined;
  /** `webhook-signature`, signatures separated by one space */
  signature: string | null | undefined;
};

export type CodesOf = (keys: readonly Uint8Array[], prefix: string) => Promise<readonly Uint8Array[]>;

const STANDARD_TOLERANCE_SECONDS = 5 * 60;
/** What the ElevenLabs SDK tolerates; the future is our own bound, for clocks that differ. */
const ELEVENLABS_PAST_SECONDS = 30 * 60;
const ELEVENLABS_FUTURE_SECONDS = 5 * 60;

/** Room for dozens of signatures; a sender that rotates its keys sends two. */
const MAX_HEADER_CHARACTERS = 4096;
/**
 * Visible ASCII without the comma, which is what joins duplicate headers, and without the brace. The signed text is
 * `id.timestamp.body`, and ids may hold dots; but our bodies are JSON objects, so the first brace is where the body
 * begins, and moving the dots never makes another message of ours out of one.
 */
const WEBHOOK_ID = /^[\u0021-\u002b\u002d-\u007a\u007c\u007e]{1,256}$/;
/** No sign, no blank, no leading zero, nothing behind the digits; `parseInt` would take the junk. */
const UNIX_SECONDS = /^[1-9]\d{0,11}$/;
const VERSIONED_SIGNATURE = /^([A-Za-z0-9]+),([A-Za-z0-9+/_=-]+)$/;
/** 32 bytes in base64, the one spelling whose unused bits are zero. */
const BASE64_MAC = /^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$/;
const HEX_MAC = /^[0-9a-f]{64}$/;
const HEADER_FIELD = /^([a-z][a-z0-9]*)=([A-Za-z0-9+/_=-]+)$/;
const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/;

/** The prefix of a secret in the form the specification gives it: base64 of the key behind it. */
const SECRET_PREFIX = "whsec_";
/** What the specification says of the length of a key. */
const [MIN_STANDARD_KEY_BYTES, MAX_STANDARD_KEY_BYTES] = [24, 64];

const encoder = new TextEncoder();

/**
 * Verifies a Standard Webhooks signature: HMAC-SHA256 over `id.timestamp.` and the raw body, accepted up to
 * five minutes, inclusive, to either side of `now` (Unix milliseconds).
 *
 * One `v1` signature made with one of `secrets` is enough; other versions are passed over. A secret that
 * begins with `whsec_` is the base64 of the key behind it; one that is not base64 there opens nothing. The
 * specification knows no other form, but senders have two habits for it: the official libraries decode it as
 * base64 all the same, or, told that it is raw, take its bytes as they are. Both are tried, the first only
 * where it gives a key of the specification's length; either way the sender must know the whole secret.
 *
 * Never throws.
 */
export async function verifyStandardWebhook(request: {
  body: Uint8Array;
  headers: StandardWebhookHeaders;
  secrets: readonly string[];
  now: number;
}): Promise<SignatureCheck> {
  const { id, timestamp, signature } = request.headers;
  const keys = request.secrets.flatMap(standardKeys);
  if (keys.length === 0) return refuse("no_secret");
  if (!id) return refuse("missing_id");
  if (!timestamp) return refuse("missing_timestamp");
  if (!signature) return refuse("missing_signature");
  if (signature.length > MAX_HEADER_CHARACTERS) return refuse("header_too_long");
  if (!WEBHOOK_ID.test(id)) return refuse("malformed_id");
  const untimely = checkTimestamp(
    timestamp,
    request.now,
    STANDARD_TOLERANCE_SECONDS,
    STANDARD_TOLERANCE_SECONDS,
  );
  if (untimely) return refuse(untimely);

  // A repeated header arrives joined by a comma and a blank, which no single list holds.
  if (signature.includes(", ")) return refuse("malformed_signature");
  const candidates: Uint8Array[] = [];
  let malformed = false;
  for (const entry of signature.split(" ")) {
    // Other versions, and what is no signature at all, cannot open anything and do not spoil the others.
    const [, version, text = ""] = VERSIONED_SIGNATURE.exec(entry) ?? [];
    if (version === "v1" && BASE64_MAC.test(text)) candidates.push(bytesOfBase64(text));
    else malformed ||= version === undefined || version === "v1";
  }
  if (malformed && candidates.length === 0) return refuse("malformed_signature");
  return matchAny(candidates, keys, `${id}.${timestamp}.`, request.body);
}

/**
 * Verifies the `ElevenLabs-Signature` header, `t=<Unix seconds>,v0=<hex>`: HMAC-SHA256 over `t.` and the raw
 * body with the bytes of the secret as it is written. Accepted up to 30 minutes, inclusive, behind `now`
 * (Unix milliseconds), and five minutes ahead of it.
 *
 * One `v0` made with one of `secrets` is enough; fields of other names are passed over, a second `t` is
 * malformed. Never throws, unless `body` does: it may be given as what makes a code of it for each key, in their
 * order, behind a prefix, and is asked only where the header is in order.
 */
export async function verifyElevenLabsSignature(request: {
  body: Uint8Array | CodesOf;
  header: string | null | undefined;
  secrets: readonly string[];
  now: number;
}): Promise<SignatureCheck> {
  const { header } = request;
  const keys = request.secrets.filter((secret) => secret !== "").map(bytesOfText);
  if (keys.length === 0) return refuse("no_secret");
  if (!header) return refuse("missing_signature");
  if (header.length > MAX_HEADER_CHARACTERS) return refuse("header_too_long");

  let timestamp: string | undefined;
  const candidates: Uint8Array[] = [];
  for (const field of header.split(",")) {
    const [, name, value] = HEADER_FIELD.exec(field) ?? [];
    if (value === undefined) return refuse("malformed_signature");
    if (name === "t") {
      if (timestamp !== undefined) return refuse("malformed_timestamp");
      timestamp = value;
    } else if (name === "v0") {
      if (!HEX_MAC.test(value)) return refuse("malformed_signature");
      candidates.push(
        Uint8Array.from({ length: 32 }, (_, i) => Number.parseInt(value.slice(2 * i, 2 * i + 2), 16)),
      );
    }
  }
  if (timestamp === undefined) return refuse("missing_timestamp");
  if (candidates.length === 0) return refuse("missing_signature");
  const untimely = checkTimestamp(timestamp, request.now, ELEVENLABS_PAST_SECONDS, ELEVENLABS_FUTURE_SECONDS);
  if (untimely) return refuse(untimely);
  return matchAny(candidates, keys, `${timestamp}.`, request.body);
}

/** The headers that a signed message goes out with. */
export type SignatureHeaders = Record<"webhook-id" | "webhook-timestamp" | "webhook-signature", string>;

/**
 * Signs a message as Standard Webhooks says. `secret` is `whsec_` and the base64 of the key. Throws TypeError where it
 * is not, and where `id` has characters that our own verification would not take.
 */
export async function signStandardWebhook(message: {
  /** The same whenever this message is sent. */
  id: string;
  /** When it is sent this time, in Unix seconds. */
  timestampSeconds: number;
  body: string;
  secret: string;
}): Promise<SignatureHeaders> {
  const { id, timestampSeconds, body, secret } = message;
  const [key] = isSigningKey(secret) ? standardKeys(secret) : [];
  if (key === undefined) throw new TypeError("the secret is not whsec_ and the base64 of a key");
  if (!WEBHOOK_ID.test(id)) throw new TypeError("the id has characters that ids do not have");
  const [code = new Uint8Array()] = await codesOf([key], `${id}.${timestampSeconds}.`, bytesOfText(body));
  return {
    "webhook-id": id,
    "webhook-timestamp": String(timestampSeconds),
    "webhook-signature": `v1,${btoa(String.fromCharCode(...code))}`,
  };
}

/** Whether a secret is a key as the specification writes it. */
export function isSigningKey(secret: string): boolean {
  return secret.startsWith(SECRET_PREFIX) && !isMalformedWebhookSecret(secret);
}

/** Whether a secret says that it is `whsec_` and base64 but is not, or is no key of the specification's length. */
export function isMalformedWebhookSecret(secret: string): boolean {
  if (!secret.startsWith(SECRET_PREFIX)) return false;
  const bytes = standardKeys(secret)[0]?.length ?? 0;
  return bytes < MIN_STANDARD_KEY_BYTES || bytes > MAX_STANDARD_KEY_BYTES;
}

function refuse(reason: SignatureRefusal): SignatureCheck {
  return { ok: false, reason };
}

/** Whole seconds on both sides, as the specification's own libraries compare. */
function checkTimestamp(
  timestamp: string,
  nowMs: number,
  pastSeconds: number,
  futureSeconds: number,
): "malformed_timestamp" | "too_old" | "too_new" | undefined {
  if (!UNIX_SECONDS.test(timestamp)) return "malformed_timestamp";
  const ageSeconds = Math.floor(nowMs / 1000) - Number(timestamp);
  if (ageSeconds > pastSeconds) return "too_old";
  return ageSeconds < -futureSeconds ? "too_new" : undefined;
}

/**
 * Makes the code of `prefix` and `body` with every key and compares it with every candidate, to the end.
 * Keys are imported each time: it costs microseconds, and a cache would outlive the configuration.
 */
async function matchAny(
  candidates: readonly Uint8Array[],
  keys: readonly Uint8Array<ArrayBuffer>[],
  prefix: string,
  body: Uint8Array | CodesOf,
): Promise<SignatureCheck> {
  const codes = await (body instanceof Uint8Array ? codesOf(keys, prefix, body) : body(keys, prefix));
  let matches = false;
  for (const code of codes) {
    for (const candidate of candidates) matches = isEqualDigest(code, candidate) || matches;
  }
  return matches ? { ok: true } : refuse("wrong_signature");
}

function codesOf(
  keys: readonly Uint8Array<ArrayBuffer>[],
  prefix: string,
  body: Uint8Array,
): Promise<Uint8Array[]> {
  const prefixBytes = bytesOfText(prefix);
  const signed = new Uint8Array(prefixBytes.length + body.length);
  signed.set(prefixBytes);
  signed.set(body, prefixBytes.length);
  return Promise.all(keys.map((key) => hmacSha256(key, signed)));
}

async function hmacSha256(key: Uint8Array<ArrayBuffer>, data: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  const cryptoKey = await crypto.subtle.importKey("raw", key, { name: "HMAC", hash: "SHA-256" }, false, [
    "sign",
  ]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", cryptoKey, data));
}

/** The keys a secret may stand for in Standard Webhooks; none where it is empty or malformed. */
function standardKeys(secret: string): Uint8Array<ArrayBuffer>[] {
  if (secret.startsWith(SECRET_PREFIX)) {
    const key = keyOfBase64(secret.slice(SECRET_PREFIX.length));
    return key ? [key] : [];
  }
  if (secret === "") return [];
  const decoded = keyOfBase64(secret);
  const written = bytesOfText(secret);
  return decoded && decoded.length >= MIN_STANDARD_KEY_BYTES ? [decoded, written] : [written];
}

/** Padding may be missing, as the official libraries allow; blanks and other alphabets may not be there. */
function keyOfBase64(text: string): Uint8Array<ArrayBuffer> | undefined {
  const digits = text.replace(/=+$/, "");
  const padded = digits.padEnd(Math.ceil(digits.length / 4) * 4, "=");
  if (!BASE64.test(text) || digits.length % 4 === 1) return undefined;
  return text === digits || text === padded ? bytesOfBase64(padded) : undefined;
}

/** Takes base64 that was checked; `atob` throws on anything else. */
function bytesOfBase64(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function bytesOfText(text: string): Uint8Array<ArrayBuffer> {
  return encoder.encode(text) as Uint8Array<ArrayBuffer>;
}
