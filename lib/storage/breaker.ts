/**
 * A circuit breaker: after three failures in a row nobody waits for the failing part any more, and one probe
 * at a time finds out, after 1, 2, 4 … 30 s with jitter, whether it is back. It does nothing by itself: the
 * clock is handed in, and whoever comes by asks whether a probe is due.
 */
import type { StorageFailure } from "../errors.ts";

export const FAILURES_TO_OPEN = 3;
const FIRST_PROBE_MS = 1_000;
const MAX_PROBE_MS = 30_000;

export type BreakerOptions = {
  /** The clock, in ms since the epoch. */
  now: () => number;
  /** From 0 to 1; a wait is between half and all of its full length. */
  random: () => number;
};

export interface Breaker {
  isOpen(): boolean;
  /** Whether it was open and has closed within the last `ms`. */
  closedSince(ms: number): boolean;
  succeeded(): void;
  /** Counts a failure. Returns whether this one opened it. */
  failed(failure: StorageFailure): boolean;
  /** True for one caller when a probe is due; that caller reports by `close` or `probeFailed`. */
  mayProbe(): boolean;
  probeFailed(failure: StorageFailure): void;
  /** Closes it. Returns for how long it was open, in ms; null where it was closed already. */
  close(): number | null;
  lastError(): StorageFailure | undefined;
}

type Open = { since: number; waitMs: number; nextProbeAt: number };

export function createBreaker({ now, random }: BreakerOptions): Breaker {
  let failures = 0;
  let lastError: StorageFailure | undefined;
  let open: Open | null = null;
  let closedAt: number | null = null;

  const jittered = (ms: number) => ms * (0.5 + random() / 2);

  return {
    isOpen: () => open !== null,
    closedSince: (ms) => open === null && closedAt !== null && now() - closedAt < ms,

    succeeded() {
      failures = 0;
    },

    failed(failure) {
      lastError = failure;
      failures += 1;
      if (open !== null || failures < FAILURES_TO_OPEN) return false;
      open = { since: now(), waitMs: FIRST_PROBE_MS, nextProbeAt: now() + jittered(FIRST_PROBE_MS) };
      return true;
    },

    mayProbe() {
      if (open === null || now() < open.nextProbeAt) return false;
      // Put off at once, so that nobody else probes meanwhile, and again even if this prober dies.
      open.waitMs = Math.min(2 * open.waitMs, MAX_PROBE_MS);
      open.nextProbeAt = now() + jittered(open.waitMs);
      return true;
    },

    probeFailed(failure) {
      lastError = failure;
    },

    close() {
      failures = 0;
      if (open === null) return null;
      const openMs = now() - open.since;
      open = null;
      closedAt = now();
      return openMs;
    },

    lastError: () => lastError,
  };
}
