/**
 * The reasons for which nobody waits any longer: what was waited for has come, or its time is over. Without a reason the
 * platform makes an exception, with its stack, for each.
 */
export const ENOUGH = "answered";
export const LATE = "too late";

/**
 * Resolves after so many ms, or as soon as the signal says that nobody waits any longer. Not `scheduler.wait`, whose end
 * by a signal is an exception, and costs ten times as much.
 */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
