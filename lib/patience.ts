/** How long anybody waits for anything. */

/**
 * The reasons for which nobody waits any longer: what was waited for has come, or its time is over. Without a reason the
 * platform makes an exception, with its stack, for each.
 */
export const ENOUGH = "answered";
export const LATE = "too late";

/** The earlier of two times; null stands for never. */
export function earlier(a: number | null, b: number | null): number | null {
  return a === null || b === null ? (a ?? b) : Math.min(a, b);
}

/** The earliest of however many. */
export const earliest = (...times: readonly (number | null)[]): number | null => times.reduce(earlier, null);

/** Calls `strike` in so many ms, unless what it returns is called before. */
export type After = (ms: number, strike: () => void) => () => void;

/** Each with a timer of its own, which is all that a request of a Worker may have. */
export const after: After = (ms, strike) => {
  const timer = setTimeout(strike, ms);
  return () => clearTimeout(timer);
};

/** So often a shared timer strikes while anything is waited for, in ms; and when something is due. */
const STRIKES_EVERY_MS = 1_000;

/**
 * All with one timer, for an object, whose requests share what it has: a timer of the platform costs as much as a
 * statement of SQL, and nearly everything that is waited for comes in time. What was taken back leaves the timer as it
 * is: with nothing more to wait for, it strikes once in vain, so that the object can hibernate.
 */
export function createSharedTimer(now: () => number): After {
  const waits = new Set<{ at: number; strike: () => void }>();
  let timer: ReturnType<typeof setTimeout> | null = null;
  let strikesAt = Number.POSITIVE_INFINITY;

  function strikeBy(at: number): void {
    if (at >= strikesAt) return;
    if (timer !== null) clearTimeout(timer);
    strikesAt = Math.min(at, now() + STRIKES_EVERY_MS);
    timer = setTimeout(strike, Math.max(0, strikesAt - now()));
  }

  function strike(): void {
    timer = null;
    strikesAt = Number.POSITIVE_INFINITY;
    const inOrder = [...waits].sort((a, b) => a.at - b.at);
    const next = inOrder.find(({ at }) => at > now());
    if (next !== undefined) strikeBy(next.at);
    for (const wait of inOrder) {
      if (wait.at > now()) break;
      // Each by itself: what one of them throws, or takes back, is no matter of the others'.
      queueMicrotask(() => {
        if (waits.delete(wait)) wait.strike();
      });
    }
  }

  return (ms, strike) => {
    const wait = { at: now() + ms, strike };
    waits.add(wait);
    strikeBy(wait.at);
    return () => void waits.delete(wait);
  };
}

/**
 * Resolves after so many ms, or as soon as the signal says that nobody waits any longer. Not `scheduler.wait`, whose end
 * by a signal is an exception, and costs ten times as much.
 */
export function pause(ms: number, signal?: AbortSignal, by: After = after): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const takeBack = by(ms, resolve);
    signal?.addEventListener("abort", () => {
      takeBack();
      resolve();
    });
  });
}

/** What is promised, or what `late` returns or throws where that takes longer than so many ms. */
export function orElse<T>(promised: Promise<T>, ms: number, late: () => T, by: After = after): Promise<T> {
  return new Promise((resolve, reject) => {
    const takeBack = by(ms, () => {
      try {
        resolve(late());
      } catch (error) {
        reject(error);
      }
    });
    promised.then(
      (value) => {
        takeBack();
        resolve(value);
      },
      (error: unknown) => {
        takeBack();
        reject(error);
      },
    );
  });
}

/**
 * Does work that has so many ms, and gives it up then, for one reason or the other `LATE`. `deadline` tells whether
 * nobody waits any longer; the signal, where there is one, ends what is under way.
 */
export type InTime = <T>(
  ms: number,
  work: (deadline: { readonly aborted: boolean }, signal?: AbortSignal) => Promise<T>,
) => Promise<T>;

/** With a signal, which serves another when nothing had to be ended by it. */
export function endedInTime(by: After = after) {
  const free: AbortController[] = [];
  return async <T>(
    ms: number,
    work: (deadline: AbortSignal, signal: AbortSignal) => Promise<T>,
  ): Promise<T> => {
    const ending = free.pop() ?? new AbortController();
    const { signal } = ending;
    // Taken back when the work is done: `AbortSignal.timeout` would go off behind every request.
    const takeBack = by(ms, () => ending.abort(LATE));
    try {
      return await work(signal, signal);
    } finally {
      takeBack();
      if (!signal.aborted) free.push(ending);
    }
  };
}

/**
 * For a request of a Worker, with which all that it has begun ends by itself, so that no signal need be made for each, of
 * which nearly none is ever used. Until then what is late goes on, and a write may still be carried out: nobody may give
 * one up here and then live on for longer than a late request is reckoned with, which is 3 s (`records.ts`).
 */
export const leftInTime: InTime = (ms, work) => {
  const deadline = { aborted: false };
  const late = () => {
    deadline.aborted = true;
    throw LATE;
  };
  return orElse(work(deadline), ms, late);
};

/** Does work that has so many ms; then its signal ends it. */
export function inTime<T>(ms: number, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  return endedInTime()(ms, work);
}
