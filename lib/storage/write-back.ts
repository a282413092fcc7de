/**
 * What a standby has to give back to its primary after an outage, and how: what was written while the primary
 * could not be asked, and is still alive, with the time it has left; never over something newer.
 *
 * A text is newer if it is none of those the primary can have had when the outage began: the text that stood
 * there before (`base`), or one that was sent to it without an answer (`tried`). Lists and indexes are
 * replayed in a form that may be applied twice.
 */
import type { StorageFailure } from "../errors.ts";
import type { Storage, TtlSeconds, Write } from "./storage.ts";

/**
 * Where a write to a standby comes from. `copy`: the primary has acknowledged it. `outage`: the primary was
 * not asked. `tried`: the primary was asked and gave no answer, so it may have applied it.
 */
export type WriteOrigin = "copy" | "outage" | "tried";

/** A text that the primary does not have, or not for certain. */
export type UnsyncedText = {
  key: string;
  /** What stood there when the primary was last known; null where nothing did. */
  base: string | null;
  tried: readonly string[];
  /** What stands there now, and how long it has left; null where it was deleted or has expired. */
  mine: { text: string; ttlSeconds: TtlSeconds } | null;
};

/** How giving back went: whether nothing is left, and how the primary failed if it did. */
export type WriteBackOutcome = { clean: boolean; failure?: StorageFailure };

/** What the primary says of an unsynced text. */
export type TextSynced =
  /** The primary has ours now. */
  | { kind: "synced" }
  /** The primary has something newer, which stays. */
  | { kind: "superseded"; text: string }
  /** Somebody wrote in between; look again. */
  | { kind: "raced" };

/** Gives one text back. `standing` is what the primary has there now. Throws StorageError. */
export async function giveBackText(
  primary: Storage,
  { key, base, tried, mine }: UnsyncedText,
  standing: string | null,
): Promise<TextSynced> {
  const ttlSeconds = mine?.ttlSeconds ?? null;
  if (standing === null) {
    if (mine === null) return { kind: "synced" };
    const other = await primary.claim(key, mine.text, ttlSeconds);
    return other === null ? { kind: "synced" } : { kind: "raced" };
  }
  if (standing === mine?.text) {
    await primary.commit([{ type: "touch", key, ttlSeconds }]);
    return { kind: "synced" };
  }
  if (standing !== base && !tried.includes(standing)) return { kind: "superseded", text: standing };
  const replaced = await primary.compareAndSet(key, standing, mine?.text ?? null, ttlSeconds);
  return { kind: replaced ? "synced" : "raced" };
}

/** The writes of lists and indexes in a form that leaves the same state when the primary has had them already. */
export function repeatable(writes: readonly Write[]): Write[] {
  return writes.flatMap((write): Write[] =>
    write.type === "append" ? [{ type: "remove", key: write.key, value: write.value }, write] : [write],
  );
}

/**
 * Whether a write concerns a text, of which the last state is given back, rather than entries of a list or an
 * index, which are replayed. What stands at the key decides, and where nothing is known to stand, a delete is
 * replayed, because the primary may hold what the standby never saw.
 */
export function isTextWrite(write: Write, standing: "string" | "list" | "index" | undefined): boolean {
  switch (write.type) {
    case "set":
    case "create":
      return true;
    case "touch":
    case "delete":
      return standing === "string";
    default:
      return false;
  }
}
