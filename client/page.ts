/**
 * The page around the client: its clock, chance, sockets, storage and events, so that each can be handed in.
 * Nothing here is touched before it is used: the module may be imported on a server.
 */
export type PageEvent = "pagehide" | "pageshow" | "online" | "offline";

export interface Page {
  /** Milliseconds; only differences count. */
  now(): number;
  /** At least 0 and less than 1. */
  random(): number;
  /** Calls `work` once after `ms`. Returns what cancels it. */
  after(ms: number, work: () => void): () => void;
  /** Throws what `new WebSocket` throws. */
  openSocket(url: string, protocols: string[]): WebSocket;
  /** May throw, or lead to a storage that throws: privacy settings and quotas. */
  storage(): Pick<Storage, "getItem" | "setItem">;
  /** Returns what takes the listener away again. */
  on(event: PageEvent, listener: () => void): () => void;
  /** Takes what must not be thrown into the page. */
  complain(error: unknown): void;
}

export const thisPage: Page = {
  now: () => performance.now(),
  random: Math.random,
  after(ms, work) {
    const timer = setTimeout(work, ms);
    return () => clearTimeout(timer);
  },
  openSocket: (url, protocols) => new WebSocket(url, protocols),
  storage: () => sessionStorage,
  on(event, listener) {
    // Absent outside a window: a worker, a server.
    globalThis.addEventListener?.(event, listener);
    return () => globalThis.removeEventListener?.(event, listener);
  },
  // biome-ignore lint/suspicious/noConsole: the only place where a page's developer can see it
  complain: (error) => console.error("agent-session:", error),
};
