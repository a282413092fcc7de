/** Request bodies: JSON objects of at most 64 KiB, counted while they are read. */
import { InvalidRequestError } from "../lib/errors.ts";
import { type JsonObject, parseJsonObject } from "../lib/json.ts";
import type { AppContext } from "./context.ts";
import { ProblemError } from "./problem.ts";

export const MAX_BODY_BYTES = 64 * 1024;

/** A larger body is read on to here and thrown away, because a client that is still writing cannot read our answer. */
const MAX_DRAINED_BYTES = 1024 * 1024;

/**
 * What ElevenLabs reports of a conversation that is over can be long, its audio very long. So much of it is kept;
 * what is longer is looked at as it passes, and not kept.
 */
const MAX_KEPT_EVENT_BYTES = 1024 * 1024;
const MAX_EVENT_BYTES = 64 * 1024 * 1024;

/**
 * The body as a JSON object. Throws ProblemError (`unsupported_media_type`, `payload_too_large`) or
 * InvalidRequestError.
 */
export async function readJsonObject(c: AppContext): Promise<JsonObject> {
  requireJson(c);
  return parseJsonObject(decode(await readRawBody(c)));
}

/** As `readJsonObject`, but no body at all is an empty object. */
export async function readOptionalJsonObject(c: AppContext): Promise<JsonObject> {
  return (await readRawBody(c)).byteLength === 0 ? {} : readJsonObject(c);
}

/**
 * The report of ElevenLabs as a JSON object; null where it is too long to be kept. Throws as `readJsonObject`.
 */
export async function readEvent(c: AppContext): Promise<JsonObject | null> {
  requireJson(c);
  if (c.get("body") === undefined) await passEvent(c, async () => {});
  const body = c.get("body");
  return body instanceof Uint8Array ? parseJsonObject(decode(body)) : null;
}

/** Throws `payload_too_large` where the body, read as an event, is longer than any other may be. */
export function requireShortBody(c: AppContext): void {
  const body = c.get("body");
  if (body instanceof Uint8Array && body.byteLength > MAX_BODY_BYTES) throw tooLarge(MAX_BODY_BYTES);
}

function requireJson(c: AppContext): void {
  const mediaType = c.req.header("content-type")?.split(";", 1)[0]?.trim().toLowerCase() ?? "";
  if (mediaType !== "application/json" && !/^application\/[\w.-]+\+json$/.test(mediaType)) {
    throw new ProblemError("unsupported_media_type", "The body must be sent as application/json.");
  }
}

/** The body's bytes as they came, read once however often they are asked for. Throws ProblemError. */
export async function readRawBody(c: AppContext): Promise<Uint8Array> {
  const known = c.get("body");
  if (known instanceof Uint8Array) return known;
  if (saysShort(c)) return keepShort(c, new Uint8Array(await c.req.raw.arrayBuffer()));
  const chunks: Uint8Array[] = [];
  // What a header says of the number of bytes is not trusted.
  await passBytes(c, MAX_DRAINED_BYTES, (chunk, length) => {
    if (length <= MAX_BODY_BYTES) chunks.push(chunk);
  }).then((length) => {
    if (length > MAX_BODY_BYTES) throw tooLarge(MAX_BODY_BYTES);
  });
  const bytes = joined(chunks);
  c.set("body", bytes);
  return bytes;
}

/**
 * Whether the request says how long its body is, and that is short. HTTP passes on no more than was said, so the body
 * may be read at once, which costs a third of reading it in pieces; who lies within the account is measured behind it.
 */
function saysShort(c: AppContext): boolean {
  requireUncompressed(c);
  const said = c.req.header("content-length");
  return said !== undefined && /^\d{1,5}$/.test(said) && Number(said) <= MAX_BODY_BYTES;
}

function keepShort(c: AppContext, bytes: Uint8Array): Uint8Array {
  if (bytes.byteLength > MAX_BODY_BYTES) throw tooLarge(MAX_BODY_BYTES);
  c.set("body", bytes);
  return bytes;
}

/**
 * Reads the report of ElevenLabs and shows each piece of it to `see`. It is kept, as far as it is not too long.
 * Throws ProblemError.
 */
export async function passEvent(c: AppContext, see: (chunk: Uint8Array) => Promise<void>): Promise<void> {
  let chunks: Uint8Array[] | null = [];
  const length = await passBytes(c, MAX_EVENT_BYTES, async (chunk, length) => {
    if (length > MAX_KEPT_EVENT_BYTES) chunks = null;
    chunks?.push(chunk);
    await see(chunk);
  });
  if (length > MAX_EVENT_BYTES) throw tooLarge(MAX_EVENT_BYTES);
  c.set("body", chunks === null ? "not_kept" : joined(chunks));
}

/** Gives each chunk to `take`, with the length so far; stops behind `maxBytes`. Returns the length. */
async function passBytes(
  c: AppContext,
  maxBytes: number,
  take: (chunk: Uint8Array, length: number) => void | Promise<void>,
): Promise<number> {
  requireUncompressed(c);
  let length = 0;
  const reader = (c.req.raw.body as ReadableStream<Uint8Array> | null)?.getReader();
  for (let part = await reader?.read(); part?.value !== undefined; part = await reader?.read()) {
    length += part.value.byteLength;
    if (length > maxBytes) {
      await reader?.cancel();
      break;
    }
    await take(part.value, length);
  }
  return length;
}

function requireUncompressed(c: AppContext): void {
  if ((c.req.header("content-encoding") ?? "identity").trim().toLowerCase() !== "identity") {
    throw new ProblemError(
      "unsupported_media_type",
      "The body must not be compressed: no Content-Encoding but identity is taken.",
      { "accept-encoding": "identity" },
    );
  }
}

function tooLarge(maxBytes: number): ProblemError {
  return new ProblemError("payload_too_large", `The body is larger than ${maxBytes} bytes.`);
}

function joined(chunks: readonly Uint8Array[]): Uint8Array {
  const [only] = chunks;
  if (chunks.length === 1 && only !== undefined) return only;
  const bytes = new Uint8Array(chunks.reduce((length, chunk) => length + chunk.byteLength, 0));
  let offset = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, offset);
    offset += chunk.byteLength;
  }
  return bytes;
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false });

function decode(bytes: Uint8Array): string {
  try {
    return decoder.decode(bytes);
  } catch {
    throw new InvalidRequestError("The body is not valid UTF-8.");
  }
}
