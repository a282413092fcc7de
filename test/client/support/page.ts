/** A page whose clock, chance, storage and events are in the hands of a test; its sockets are real. */
import type { Page, PageEvent } from "../../../client/page.ts";

export type TestPage = Page & {
  /** Lets time pass, and what is due happen in its order. */
  advance(ms: number): void;
  fire(event: PageEvent): void;
  /** The waits that are under way, in ms from now. */
  waits(): number[];
  listeners(): number;
  complaints: unknown[];
  stored: Map<string, string>;
  /** The subprotocols of every socket that was opened. */
  offers: string[][];
  /** What `random` answers. */
  chance: number;
};

export function testPage(stored = new Map<string, string>()): TestPage {
  let clock = 0;
  const timers = new Set<{ at: number; work: () => void }>();
  const events = new EventTarget();
  let listeners = 0;

  const page: TestPage = {
    chance: 0.5,
    stored,
    complaints: [],
    offers: [],
    now: () => clock,
    random: () => page.chance,
    after(ms, work) {
      const timer = { at: clock + ms, work };
      timers.add(timer);
      return () => timers.delete(timer);
    },
    openSocket(url, protocols) {
      page.offers.push(protocols);
      return new WebSocket(url, protocols);
    },
    storage: () => ({
      getItem: (key) => stored.get(key) ?? null,
      setItem: (key, value) => void stored.set(key, value),
    }),
    on(event, listener) {
      listeners++;
      events.addEventListener(event, listener);
      return () => {
        listeners--;
        events.removeEventListener(event, listener);
      };
    },
    complain: (error) => page.complaints.push(error),

    advance(ms) {
      const end = clock + ms;
      for (;;) {
        const next = [...timers].sort((a, b) => a.at - b.at)[0];
        if (next === undefined || next.at > end) break;
        timers.delete(next);
        clock = next.at;
        next.work();
      }
      clock = end;
    },
    fire: (event) => void events.dispatchEvent(new Event(event)),
    waits: () => [...timers].map(({ at }) => at - clock).sort((a, b) => a - b),
    listeners: () => listeners,
  };
  return page;
}
