/**
 * What became of results, over all conversations: a log of those that were settled, without what they say. The
 * conversations' objects write it and operators read it; nothing is decided by it. It holds the newest of them, so an
 * outcome that is corrected later, or said again, is another entry, and the newest one of a result counts.
 */
import * as v from "valibot";
import { isoTimestamp, parseOrNull, stringifyJson } from "./json.ts";
import { keys } from "./keys.ts";
import { RESULT_STATUSES, type ResultRow } from "./live/results.ts";
import type { Logger } from "./log.ts";
import { deliverySchema } from "./result.ts";
import type { LogEntry, LogWrite, Storage } from "./storage/storage.ts";

/** About 5 MB in Redis. */
export const MAX_SETTLED_RESULTS = 10_000;
/** How many entries one question looks through. */
export const MAX_LOOKED_THROUGH = 2_000;
const A_READING = 500;

const settledResultSchema = v.looseObject({
  version: v.literal(1),
  conversationId: v.string(),
  requestId: v.string(),
  status: v.picklist(RESULT_STATUSES),
  delivery: deliverySchema,
  receivedAt: isoTimestamp,
  settledAt: isoTimestamp,
  attempts: v.array(v.looseObject({ at: isoTimestamp, channel: v.string(), outcome: v.string() })),
});
/** Times are ISO 8601. */
export type SettledResult = Pick<ResultRow, "requestId" | "status" | "delivery" | "attempts"> & {
  /** Names the entry, for what comes before it. */
  id: string;
  conversationId: string;
  receivedAt: string;
  settledAt: string;
};

/** What asks for everything that failed since a time to be said again. */
export const allAgainSchema = v.object({ since: isoTimestamp, cursor: v.optional(v.string()) });

export type SettledQuery = {
  /** How many at most. */
  limit: number;
  /** Entries before this one. Throws InvalidCursorError where there can be none of this id. */
  before?: string | undefined;
  /** Entries of this time, in ms, or later. */
  since?: number;
  isWanted?: (result: SettledResult) => boolean;
  /** Asked of each that is wanted: whether the page ends with it. */
  isEnough?: (result: SettledResult) => boolean;
};

/** `nextBefore` is left out with the last page. */
export type SettledPage = { results: SettledResult[]; nextBefore?: string };

/** The entry of a result that has been settled. */
export function settledWrite(conversationId: string, row: ResultRow): LogWrite {
  const { requestId, status, delivery, receivedAt, settledAt, attempts } = row;
  const value = stringifyJson({
    version: 1,
    conversationId,
    requestId,
    status,
    delivery,
    receivedAt: new Date(receivedAt).toISOString(),
    settledAt: new Date(settledAt ?? receivedAt).toISOString(),
    attempts,
  });
  return { type: "log", key: keys.settledResults, value, maxLength: MAX_SETTLED_RESULTS };
}

/**
 * Those that are wanted, newest first, each result once. At most 2,000 entries are looked through, so that a page may hold
 * fewer than `limit`, or none, and others come after it. Throws InvalidCursorError, StorageError.
 */
export async function listSettledResults(
  { limit, before, since, isWanted = () => true, isEnough = () => false }: SettledQuery,
  { storage, log }: { storage: Storage; log: Logger },
): Promise<SettledPage> {
  const found: SettledResult[] = [];
  const seen = new Set<string>();
  let last = before;
  for (let looked = 0; looked < MAX_LOOKED_THROUGH; looked += A_READING) {
    const entries = await storage.readLog(keys.settledResults, {
      limit: A_READING,
      ...(last === undefined ? {} : { before: last }),
      ...(since === undefined ? {} : { since }),
    });
    for (const entry of entries) {
      last = entry.id;
      const result = read(entry, log);
      if (result === null) continue;
      const name = `${result.conversationId}/${result.requestId}`;
      const isNews = !seen.has(name) && isWanted(result);
      seen.add(name);
      if (!isNews) continue;
      found.push(result);
      if (found.length === limit || isEnough(result)) return { results: found, nextBefore: last };
    }
    if (entries.length < A_READING) return { results: found };
  }
  return { results: found, ...(last === undefined ? {} : { nextBefore: last }) };
}

/** Null, and one log line, where it cannot be read. */
function read({ id, value }: LogEntry, log: Logger): SettledResult | null {
  const parsed = v.safeParse(settledResultSchema, parseOrNull(value));
  // Attempts are ours; a later version may say more of them.
  if (parsed.success) return { ...parsed.output, id } as SettledResult;
  log.warn("record.unreadable", { key: keys.settledResults, entry: id });
  return null;
}
