/** Asking again and again, while somebody looks: not in a tab that is hidden, and ever more rarely where it fails. */
import { ApiError } from "./api.ts";

const LONGEST_MS = 60_000;

type Failure = { reason: string; nextMs: number };
export type PollState = { kind: "live" } | ({ kind: "failing" } & Failure);

/** Told after every look whether all that is shown is up to date, and if not, when it is tried again. */
export const pollStates = new EventTarget();

const failing = new Map<Poll, Failure>();

function tell(): void {
  const [failure] = failing.values();
  const state: PollState = failure === undefined ? { kind: "live" } : { kind: "failing", ...failure };
  pollStates.dispatchEvent(new CustomEvent<PollState>("state", { detail: state }));
}

export class Poll {
  readonly #everyMs: number;
  readonly #look: (signal: AbortSignal) => Promise<void>;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Of the look that is under way. */
  #looking: AbortController | null = null;
  #failures = 0;
  #dueAt = 0;
  #isStarted = false;

  constructor(everyMs: number, look: (signal: AbortSignal) => Promise<void>) {
    this.#everyMs = everyMs;
    this.#look = look;
  }

  /** Looks at once, and from then on. */
  start(): void {
    this.#isStarted = true;
    document.addEventListener("visibilitychange", this.#onVisibility);
    this.now();
  }

  stop(): void {
    this.#isStarted = false;
    document.removeEventListener("visibilitychange", this.#onVisibility);
    clearTimeout(this.#timer);
    this.#looking?.abort();
    this.#looking = null;
    failing.delete(this);
  }

  /** Looks now, and forgets what it is looking for; not where it was stopped. */
  now(): void {
    if (!this.#isStarted) return;
    clearTimeout(this.#timer);
    this.#looking?.abort();
    void this.#run();
  }

  readonly #onVisibility = (): void => {
    if (document.hidden) clearTimeout(this.#timer);
    else if (this.#looking === null) this.#wait(this.#dueAt - Date.now());
  };

  #wait(ms: number): void {
    clearTimeout(this.#timer);
    if (this.#isStarted && !document.hidden)
      this.#timer = setTimeout(() => void this.#run(), Math.max(0, ms));
  }

  async #run(): Promise<void> {
    const looking = new AbortController();
    this.#looking = looking;
    let pauseMs = this.#everyMs;
    try {
      await this.#look(looking.signal);
      if (looking.signal.aborted) return;
      this.#failures = 0;
      failing.delete(this);
      tell();
    } catch (error) {
      if (looking.signal.aborted) return;
      this.#failures += 1;
      pauseMs = Math.min(this.#everyMs * 2 ** this.#failures, LONGEST_MS);
      if (error instanceof ApiError) pauseMs = Math.max(pauseMs, error.retryAfterMs);
      // A mistake of this page, for its console.
      else reportError(error);
      const reason = error instanceof ApiError ? error.message : "The page could not show the answer.";
      failing.set(this, { reason, nextMs: pauseMs });
      tell();
    }
    this.#looking = null;
    this.#dueAt = Date.now() + pauseMs;
    this.#wait(pauseMs);
  }
}
