/**
 * The order of a sorted index and the cursor of its pages, which every driver must agree on: highest score
 * first, equal scores by member in descending byte order, as Redis and SQLite compare text.
 *
 * A cursor is the last entry of a page, so that the next page begins below it whatever was added, moved or
 * removed meanwhile.
 */
import { InvalidCursorError } from "../errors.ts";
import type { IndexEntry, IndexPage } from "./storage.ts";

/** Negative where `a` comes before `b` in an index. */
export function compareIndexEntries(a: IndexEntry, b: IndexEntry): number {
  return b.score - a.score || compareText(b.member, a.member);
}

/** By code point, which is the byte order of UTF-8; `<` on strings compares UTF-16 units, which is not. */
function compareText(a: string, b: string): number {
  for (let i = 0; i < a.length || i < b.length; i++) {
    const difference = (a.codePointAt(i) ?? -1) - (b.codePointAt(i) ?? -1);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** The first `limit` of `entries`, which are in order; the page has a cursor where there are more. */
export function indexPage(entries: IndexEntry[], limit: number): IndexPage {
  if (entries.length <= limit) return { entries };
  const page = entries.slice(0, limit);
  const last = page.at(-1);
  return last ? { entries: page, nextCursor: encodeIndexCursor(last) } : { entries: page };
}

/** Text of the alphabet of URLs, so that a cursor can stand in a query string as it is. */
function encodeIndexCursor({ score, member }: IndexEntry): string {
  const bytes = new TextEncoder().encode(JSON.stringify([score, member]));
  return btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");
}

/** The entry a cursor stands for. Throws InvalidCursorError. */
export function decodeIndexCursor(cursor: string): IndexEntry {
  let decoded: unknown;
  try {
    const binary = atob(cursor.replaceAll("-", "+").replaceAll("_", "/"));
    decoded = JSON.parse(new TextDecoder().decode(Uint8Array.from(binary, (char) => char.charCodeAt(0))));
  } catch {
    throw new InvalidCursorError();
  }
  if (!Array.isArray(decoded) || decoded.length !== 2) throw new InvalidCursorError();
  const [score, member]: unknown[] = decoded;
  if (typeof score !== "number" || !Number.isFinite(score) || typeof member !== "string")
    throw new InvalidCursorError();
  return { score, member };
}
