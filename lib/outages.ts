/**
 * When the storage could not be reached, as the instances of the Worker found it: each of them notes an outage when it is
 * over, and what several of them noted of the same one is put together when it is read. Nothing is decided by it.
 */
import * as v from "valibot";
import { isoTimestamp, parseOrNull, stringifyJson } from "./json.ts";
import { keys } from "./keys.ts";
import type { LogWrite, Storage } from "./storage/storage.ts";

const outageSchema = v.object({
  version: v.literal(1),
  driver: v.string(),
  startedAt: isoTimestamp,
  endedAt: isoTimestamp,
});

/** `startedAt` and `endedAt` are ISO 8601. */
export type Outage = { driver: string; startedAt: string; endedAt: string };

/** How many notes are kept: several of each outage. */
export const MAX_OUTAGE_NOTES = 500;
/** What came so soon after another, in ms, is the same: instances notice at different times. */
const SAME_WITHIN_MS = 30_000;

/**
 * The note of an outage that was found to be over, at `now` (ms), after `downMs`. Where nobody had asked for a while, as in
 * a quiet night, nobody knows when it ended: then it is told until `failedAt`, when the storage was known to be down last.
 */
export function outageWrite(driver: string, downMs: number, failedAt: number, now: number): LogWrite {
  const isSeenToEnd = now - failedAt <= SAME_WITHIN_MS;
  const [startedAt, endedAt] = [now - downMs, isSeenToEnd ? now : failedAt].map((at) =>
    new Date(at).toISOString(),
  );
  const value = stringifyJson({ version: 1, driver, startedAt, endedAt });
  return { type: "log", key: keys.outages, value, maxLength: MAX_OUTAGE_NOTES };
}

/** Outages that are over, newest first. Throws StorageError. */
export async function listOutages(storage: Storage): Promise<Outage[]> {
  const entries = await storage.readLog(keys.outages, { limit: MAX_OUTAGE_NOTES });
  const notes = entries.flatMap(({ value }) => {
    const parsed = v.safeParse(outageSchema, parseOrNull(value));
    return parsed.success ? [parsed.output] : [];
  });
  const outages: Outage[] = [];
  for (const { driver, startedAt, endedAt } of notes.sort(byStart)) {
    const last = outages.at(-1);
    if (last !== undefined && Date.parse(startedAt) <= Date.parse(last.endedAt) + SAME_WITHIN_MS) {
      if (last.endedAt < endedAt) last.endedAt = endedAt;
    } else outages.push({ driver, startedAt, endedAt });
  }
  return outages.reverse();
}

function byStart(a: Outage, b: Outage): number {
  return Date.parse(a.startedAt) - Date.parse(b.startedAt);
}
