/**
 * Turns: callers of one isolate who want to change the same record go one after the other, so that they do
 * not fight over it. A turn is a courtesy and never a lock. What makes a change safe is `compareAndSet`;
 * whoever has waited long enough goes ahead, because the request whose turn it is may have been cancelled,
 * and then nothing of it ever runs again.
 *
 * Each caller does its own work in its own request: the Workers runtime ties I/O to the request that began it.
 */

/** What those who wait for the same record share. */
export type Line = {
  /** The text that the turn before left at the key, where it knows: a guess that saves the next one a read. */
  lastText: string | undefined;
};

export interface Turns {
  /**
   * Does `work` when those who came before with this key are done, or do not get on. `isLate` says that it has
   * waited as long as anybody may, and others are still before it. `wait` in ms.
   */
  take<T>(
    key: string,
    wait: (ms: number) => Promise<void>,
    work: (line: Line, isLate: boolean) => Promise<T>,
  ): Promise<T>;
}

/** While nobody in the line finishes for this long, it is not waited for. Longer than a storage needs in good times. */
const STALLED_MS = 250;
/** Nor is a line that moves, but too slowly: 3 s in all. */
const MAX_ROUNDS = 12;
/** Keys remembered. Cancelled requests leave theirs behind; beyond this the oldest go. */
const MAX_LINES = 1_000;

type Queue = Line & {
  /** Resolves when the last in the line is done. */
  last: Promise<void>;
  /** How many have finished. */
  finished: number;
};

/** The turns of one isolate. */
export function createTurns(): Turns {
  const queues = new Map<string, Queue>();

  /** Waits for `before` as long as the line moves. Returns whether it still does when the time is up. */
  async function waitFor(
    before: Promise<void>,
    queue: Queue,
    wait: (ms: number) => Promise<void>,
  ): Promise<boolean> {
    for (let round = 0; round < MAX_ROUNDS; round++) {
      const { finished } = queue;
      const isDone = await Promise.race([before.then(() => true), wait(STALLED_MS).then(() => false)]);
      if (isDone || queue.finished === finished) return false;
    }
    return true;
  }

  function joinQueue(key: string, mine: Promise<void>): { queue: Queue; before: Promise<void> | null } {
    const standing = queues.get(key);
    if (standing !== undefined) {
      const before = standing.last;
      standing.last = mine;
      return { queue: standing, before };
    }
    if (queues.size >= MAX_LINES) queues.delete(queues.keys().next().value ?? "");
    const queue: Queue = { lastText: undefined, last: mine, finished: 0 };
    queues.set(key, queue);
    return { queue, before: null };
  }

  return {
    async take(key, wait, work) {
      const { promise: mine, resolve: done } = Promise.withResolvers<void>();
      const { queue, before } = joinQueue(key, mine);
      const isLate = before !== null && (await waitFor(before, queue, wait));
      try {
        return await work(queue, isLate);
      } finally {
        queue.finished += 1;
        done();
        if (queue.last === mine && queues.get(key) === queue) queues.delete(key);
      }
    },
  };
}
