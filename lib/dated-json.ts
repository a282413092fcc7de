/**
 * JSON texts that keep Dates. What is stored stays one plain JSON text that any program can read:
 *
 * - a Date is the object `{"$date": "2026-01-01T00:00:00.000Z"}` (`{"$date": null}`: a Date that is no date);
 * - a text that looks like a date stays a text;
 * - an object of somebody's own that looks like a marker, that is, whose only key is `$date`, `$$date`, …,
 *   gets one more `$` when it is written and loses it when it is read, so that no data is taken for a Date.
 *
 * Numbers that a double cannot carry keep their source text. JSON.stringify of what was read, as an HTTP
 * answer is made, gives Dates as ISO 8601 texts and everything else as it came.
 */
import { exactPart, isExactNumber, type JsonValue, parseExactly } from "./json.ts";

/** What JSON can hold, and Dates. */
export type DatedValue = JsonValue | Date | DatedValue[] | { [key: string]: DatedValue };
export type DatedObject = { [key: string]: DatedValue };

const MARKER = "$date";
const ESCAPABLE = /^\$+date$/;
/** Texts without this hold no marker; a JSON writer other than ours might escape the `$`. */
const MAYBE_MARKED = /\$date|\\u0024/;

/** Reads a text of `stringifyDated`, or any JSON text. Throws SyntaxError. */
export function parseDated(text: string): unknown {
  const value = parseExactly(text);
  return MAYBE_MARKED.test(text) ? revive(value) : value;
}

/** Writes a value as JSON text. What JSON has no form for fares as in JSON.stringify. */
export function stringifyDated(value: unknown): string {
  return JSON.stringify(value, function (this: Record<string, unknown>, key, part: unknown) {
    // By now Date.prototype.toJSON has made a text of a Date; its holder still has the Date.
    const original = this[key];
    if (original instanceof Date) return { [MARKER]: part };
    const escapable = onlyKeyOf(part);
    // A marker that was put in above comes by here too, but only its text does: it is no object.
    return escapable === null ? exactPart(part) : { [`$${escapable}`]: (part as DatedObject)[escapable] };
  });
}

/** The only key of an object, where that is `$date` behind any number of further `$`. */
function onlyKeyOf(part: unknown): string | null {
  if (typeof part !== "object" || part === null || Array.isArray(part) || isExactNumber(part)) return null;
  const [key, ...others] = Object.keys(part);
  return key !== undefined && others.length === 0 && ESCAPABLE.test(key) ? key : null;
}

/** Revives in place, from the leaves up. */
function revive(value: unknown): unknown {
  if (typeof value !== "object" || value === null || isExactNumber(value)) return value;
  const holder = value as Record<string, unknown>;
  // Every key is the object's own, `__proto__` included, so an assignment sets data and nothing else.
  for (const key of Object.keys(holder)) holder[key] = revive(holder[key]);
  const marker = onlyKeyOf(holder);
  if (marker === null) return holder;
  if (marker !== MARKER) return { [marker.slice(1)]: holder[marker] };
  return dateOf(holder[MARKER]) ?? holder;
}

/** Null for what no Date of ours was written as. */
function dateOf(stored: unknown): Date | null {
  if (stored === null) return new Date(Number.NaN);
  if (typeof stored !== "string") return null;
  const date = new Date(stored);
  return !Number.isNaN(date.getTime()) && date.toISOString() === stored ? date : null;
}
