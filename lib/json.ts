/**
 * JSON at the door: parsing that keeps every key as data, a bound on depth, and validation issues that say
 * what was expected and never repeat what was sent (it may be a credential).
 */
import * as v from "valibot";
import { InvalidRequestError, type Issue } from "./errors.ts";

export type JsonValue = string | number | boolean | null | JsonArray | JsonObject;
export type JsonObject = { [key: string]: JsonValue };
/** An interface, because the compiler loses itself in an optional field of valibot whose type unfolds for ever. */
export interface JsonArray extends Array<JsonValue> {}

/** Deeper nesting is refused: nobody means it, and serialising it again would exhaust the stack. */
export const MAX_JSON_DEPTH = 100;

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !isExactNumber(value);
}

function isDeeperThan(value: unknown, depth: number): boolean {
  if (typeof value !== "object" || value === null || isExactNumber(value)) return false;
  if (depth === 0) return true;
  for (const key in value) {
    if (isDeeperThan((value as Record<string, unknown>)[key], depth - 1)) return true;
  }
  return false;
}

/**
 * Texts that may hold a number which a double cannot carry back: many digits, before or after the point, an exponent.
 * Only where a number may begin, because nearly every UUID has a digit before an e.
 */
const MAYBE_INEXACT = /(?:^|[[:,\s])-?(?:[\d.]{16}|[\d.]*\d[eE])/;

/**
 * JSON.parse source text access (ECMAScript 2026), which the language's type declarations do not know yet. Where it is
 * missing, as in Node 20, a number is what a double carries.
 */
type SourceAccess = {
  parse(
    text: string,
    reviver: (key: string, value: unknown, context: { source?: string }) => unknown,
  ): unknown;
  rawJSON?(source: string): unknown;
  isRawJSON?(value: unknown): boolean;
};
const { parse, rawJSON, isRawJSON } = JSON as unknown as SourceAccess;

/** Whether a part of what `parseExactly` gave is the source text of a number. */
export const isExactNumber = (part: unknown): part is { rawJSON: string } => isRawJSON?.(part) === true;

/**
 * Parses so that `stringifyJson` gives back the same JSON value, for any JSON value, in no more characters: a
 * number that a double would change (a 20-digit id, 1e400), or write at greater length (1e20), is kept as its
 * source text. Throws SyntaxError.
 */
export function parseExactly(text: string): unknown {
  if (rawJSON === undefined || !MAYBE_INEXACT.test(text)) return JSON.parse(text);
  return parse(text, (_key, value, { source }) =>
    typeof value === "number" && source !== undefined && (isInexact(value, source) || grows(value, source))
      ? rawJSON(source)
      : value,
  );
}

function grows(value: number, source: string): boolean {
  return String(value).length > source.length;
}

/** A double carries 15 significant digits for certain (IEEE 754), but fewer and fewer below this. */
const SMALLEST_NORMAL = 2 ** -1022;

function isInexact(value: number, source: string): boolean {
  const significant = source
    .replace(/[eE].*$/, "")
    .replace(/[-.]/g, "")
    .replace(/^0+/, "");
  if (!Number.isFinite(value)) return true;
  const isCarried = significant.length <= 15 && Math.abs(value) >= SMALLEST_NORMAL;
  return significant !== "" && !isCarried && String(value) !== source;
}

/** A JSON text as `parseExactly` reads it; null where it is none. For what somebody else may have written. */
export function parseOrNull(text: string): unknown {
  try {
    return parseExactly(text);
  } catch {
    return null;
  }
}

const encoder = new TextEncoder();

/** How long a text is in UTF-8. */
export function byteLength(text: string): number {
  return encoder.encode(text).byteLength;
}

/** A value as JSON text, which keeps even the sign of a negative zero. */
export function stringifyJson(value: unknown): string {
  const text = JSON.stringify(value);
  // A replacer is called for every part, which takes several times as long as all the rest.
  return MAYBE_ZERO.test(text) && holdsNegativeZero(value)
    ? JSON.stringify(value, (_key, part) => exactPart(part))
    : text;
}

/** Texts that may hold a number that is zero: what JSON.stringify writes of a negative one, too. */
const MAYBE_ZERO = /(?:^|[:[,])0(?:$|[\],}])/;

function holdsNegativeZero(value: unknown): boolean {
  if (typeof value === "number") return Object.is(value, -0);
  if (typeof value !== "object" || value === null) return false;
  if (Array.isArray(value)) return value.some(holdsNegativeZero);
  for (const key in value) {
    if (holdsNegativeZero((value as Record<string, unknown>)[key])) return true;
  }
  return false;
}

/** What a replacer of JSON.stringify gives for a part, so that the sign of a negative zero is kept. */
export function exactPart(part: unknown): unknown {
  return rawJSON !== undefined && Object.is(part, -0) ? rawJSON("-0") : part;
}

/**
 * Parses a request body that must be a JSON object. Keys named `__proto__` and `constructor` are data.
 * Throws InvalidRequestError for anything else.
 */
export function parseJsonObject(text: string): JsonObject {
  let value: unknown;
  try {
    value = parseExactly(text);
  } catch {
    throw new InvalidRequestError(text.trim() === "" ? "The body is empty." : "The body is not valid JSON.");
  }
  if (!isJsonObject(value)) throw new InvalidRequestError("The body must be a JSON object.");
  requireShallow(value);
  return value;
}

/** Throws InvalidRequestError where a value is nested deeper than MAX_JSON_DEPTH, as one that holds itself is. */
export function requireShallow(value: unknown): void {
  if (isDeeperThan(value, MAX_JSON_DEPTH)) {
    throw new InvalidRequestError(`The body is nested deeper than ${MAX_JSON_DEPTH} levels.`);
  }
}

/**
 * A JSON object taken as it is. valibot's own object schemas rebuild objects and leave out keys such as
 * `__proto__` and `constructor`; this one hands back the very object that came in.
 */
export const jsonObject = v.custom<JsonObject>(isJsonObject, "must be a JSON object");

/** Any JSON value, taken as it is; the key must be there. */
export const jsonValue = v.custom<JsonValue>((value) => value !== undefined, "is required");

export function isCarriedNumber(part: unknown): boolean {
  return Number.isFinite(part) || (isExactNumber(part) && !isInexact(Number(part.rawJSON), part.rawJSON));
}

/** A number, also one that is kept as its source text, if a double carries it. `message` says what is expected. */
export const jsonNumber = (message: string) =>
  v.pipe(
    v.custom<number | { rawJSON: string }>(isCarriedNumber, message),
    v.transform((part) => (typeof part === "number" ? part : Number(part.rawJSON))),
  );

/** An ISO 8601 timestamp that names a real moment (no 30th of February). */
export const isoTimestamp = v.pipe(
  v.string(),
  v.isoTimestamp("must be an ISO 8601 timestamp"),
  v.check(isOfRealDay, "must be a date that exists"),
  // ISO 8601 allows an offset of hours alone; Date does not read it.
  v.check(isReadByDate, "must have an offset of hours and minutes, or Z"),
);

export function isOfRealDay(text: string): boolean {
  const day = text.slice(0, 10);
  // Every month has them; the others are worth a look at the calendar.
  if (/^\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])$/.test(day)) return true;
  const midnight = new Date(`${day}T00:00:00Z`);
  return !Number.isNaN(midnight.getTime()) && midnight.toISOString().startsWith(day);
}

export function isReadByDate(text: string): boolean {
  return !Number.isNaN(Date.parse(text));
}

/**
 * Parses with a schema and throws InvalidRequestError with every issue. Fields the schema does not name are
 * left out of the result.
 */
export function validate<S extends v.GenericSchema>(schema: S, value: unknown): v.InferOutput<S> {
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  throw new InvalidRequestError(
    "The request does not have the expected shape.",
    describeIssues(result.issues),
  );
}

/**
 * Issues as path and expectation. A message of our own is used as it stands, because ours hold no input; the
 * library's default messages ("Invalid …") repeat what was received, so they are said anew.
 */
export function describeIssues(issues: readonly v.BaseIssue<unknown>[]): Issue[] {
  return issues.map((issue) => ({ path: v.getDotPath(issue) ?? "", message: expectation(issue) }));
}

function expectation({ message, expected, input }: v.BaseIssue<unknown>): string {
  if (!message.startsWith("Invalid ")) return message;
  return input === undefined ? "is required" : `must be ${expected ?? "of another form"}`;
}
