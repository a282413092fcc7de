/** Request bodies: JSON objects of at most 64 KiB, counted while they are read. */
import { InvalidRequestError } from "../lib/errors.ts";
import { type JsonObject, parseJsonObject } from "../lib/json.ts";
import type { AppContext } from "./context.ts";
import { ProblemError } from "./problem.ts";

export const MAX_BODY_BYTES = 64 * 1024;

/** A larger body is read on to here and thrown away, because a client that is still writing cannot read our answer. */
const MAX_DRAINED_BYTES = 1024 * 1024;

/**
 * The body as a JSON object. Throws ProblemError (`unsupported_media_type`, `payload_too_large`) or
 * InvalidRequestError.
 */
export async function readJsonObject(c: AppContext): Promise<JsonObject> {
  const mediaType = c.req.header("content-type")?.split(";", 1)[0]?.trim().toLowerCase() ?? "";
  if (mediaType !== "application/json" && !/^application\/[\w.-]+\+json$/.test(mediaType)) {
    throw new ProblemError("unsupported_media_type", "The body must be sent as application/json.");
  }
  return parseJsonObject(decode(await readRawBody(c)));
}

/** The body's bytes as they came, read once however often they are asked for. Throws ProblemError. */
export async function readRawBody(c: AppContext): Promise<Uint8Array> {
  const bytes = c.get("rawBody") ?? (await readBytes(c.req.raw));
  c.set("rawBody", bytes);
  return bytes;
}

/** What a header says of the number of bytes is not trusted. */
async function readBytes(request: Request): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  const reader = (request.body as ReadableStream<Uint8Array> | null)?.getReader();
  for (let part = await reader?.read(); part?.value !== undefined; part = await reader?.read()) {
    length += part.value.byteLength;
    if (length <= MAX_BODY_BYTES) chunks.push(part.value);
    if (length > MAX_DRAINED_BYTES) break;
  }
  if (length > MAX_BODY_BYTES) {
    await reader?.cancel();
    throw new ProblemError("payload_too_large", `The body is larger than ${MAX_BODY_BYTES} bytes.`);
  }
  const [only] = chunks;
  if (chunks.length === 1 && only !== undefined) return only;
  const bytes = new Uint8Array(length);
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
