/**
 * Which provider has refused the key it was shown. Such a key is not shown again for a minute, however many results
 * wait for it, and then by one of them; there is one line about it until it is taken again. An isolate knows what it was
 * answered itself.
 */
import type { Logger } from "../log.ts";
import type { KeyWatch } from "./provider.ts";

/** How long a key that was refused is not shown again, in ms. */
export const KEY_PAUSE_MS = 60_000;

/** `now` is the clock, in ms since the epoch. */
export function createKeyWatch(now: () => number, log: Logger): KeyWatch & { refused(): string[] } {
  /** When each was refused last, by its variable. */
  const refusedAt = new Map<string, number>();
  return {
    isRefused(variable) {
      const at = refusedAt.get(variable);
      if (at === undefined) return false;
      if (now() < at + KEY_PAUSE_MS) return true;
      // Whoever comes first tries it for all the others, who wait for the answer.
      refusedAt.set(variable, now());
      return false;
    },
    note(variable, isTaken) {
      if (isTaken) return void refusedAt.delete(variable);
      if (!refusedAt.has(variable)) log.error("provider.unauthorized", { variable });
      refusedAt.set(variable, now());
    },
    refused: () => [...refusedAt.keys()],
  };
}
