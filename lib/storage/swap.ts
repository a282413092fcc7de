/** Read, change and write over a storage that can only replace what it is told stands there. */
import { StorageError } from "../errors.ts";
import type { Change } from "./storage.ts";

/** How often an update tries to replace what it has read, and the pauses between two tries in ms: at random below these. */
const MAX_ATTEMPTS = 16;
const [FIRST_PAUSE_MS, LONGEST_PAUSE_MS] = [4, 200];

/**
 * `TextStorage.update` for the driver `name`: reads, changes, and lets `swap` replace what was read by what was made
 * of it (null: remove it), which says whether that still stood there; where somebody else was faster it begins again.
 */
export async function updateBySwapping(
  name: string,
  read: () => Promise<string | null>,
  change: Change,
  swap: (expected: string, next: string | null) => Promise<boolean>,
): Promise<boolean> {
  for (let attempt = 1; ; attempt++) {
    const standing = await read();
    const next = standing === null ? undefined : change(standing);
    if (standing === null || next === undefined) return false;
    if (await swap(standing, next)) return true;
    if (attempt === MAX_ATTEMPTS) throw new StorageError(name, "update", "contended");
    // Those who collided are not to collide again.
    const pauseMs = Math.random() * Math.min(FIRST_PAUSE_MS * 2 ** attempt, LONGEST_PAUSE_MS);
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}
