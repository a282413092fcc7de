/**
 * A second WebSocket to an agent conversation that runs: commands go in, and events come out that say what became of
 * them. It hears everything else too, audio included, so it is read no longer than it takes, and closing it ends nothing
 * but itself. A command that went out and was not acknowledged may have been taken.
 */
import { orElse } from "../patience.ts";
import type { PushOutcome } from "./channel.ts";
import { DIAL_DEADLINE_MS, openSocket } from "./dial.ts";
import type { ProviderOutcome } from "./provider.ts";

/** How long an acknowledgement may take, in ms. */
export const ACKNOWLEDGED_WITHIN_MS = 5_000;
/** How long the other side may take to close it, in ms. */
const CLOSED_WITHIN_MS = 1_000;
/** An event that says something of a command is short; audio is not. */
const MAX_EVENT_CHARACTERS = 64 * 1024;
const NORMAL_CLOSURE = 1000;

/** An event as far as somebody looks for it. Whatever else it has, it is the provider's. */
export type SidebandEvent = { type: string; [field: string]: unknown };

/** Nothing that was looked for came: the time was over, or the connection. */
export type NoEvent = { none: "late" } | { none: "closed"; closeCode: number };

export interface Sideband {
  /** Sends a command. */
  send(command: object): void;
  /**
   * Sends a command, if there is one, and waits for the first event that `read` finds something in. What comes while
   * nobody waits is not kept.
   */
  ask<T extends object>(
    command: object | null,
    read: (event: SidebandEvent) => T | null,
    withinMs?: number,
  ): Promise<T | NoEvent>;
}

/**
 * Opens a sideband by the key, has a talk over it, and closes it. Where it does not open nothing was sent. Never throws.
 */
export async function bySideband(
  url: URL,
  apiKey: string,
  talk: (sideband: Sideband) => Promise<PushOutcome>,
): Promise<ProviderOutcome> {
  const deadline = new AbortController();
  const timer = setTimeout(() => deadline.abort(), DIAL_DEADLINE_MS);
  const opened = await openSocket(url, { authorization: `Bearer ${apiKey}` }, deadline.signal);
  clearTimeout(timer);
  if (!("socket" in opened)) {
    const { outcome, status: httpStatus } = opened;
    if (httpStatus === undefined) return { outcome };
    if (httpStatus === 401) return { outcome: "unauthorized", httpStatus };
    // There is no such call, or none any more.
    return { outcome: httpStatus === 404 ? "ended" : outcome, httpStatus };
  }
  const { socket } = opened;
  const sideband = sidebandOver(socket);
  try {
    return await talk(sideband);
  } catch {
    // A command that could not be sent: the ones before it were.
    return { outcome: "unconfirmed" };
  } finally {
    close(socket);
    // Whoever does not close it too would go on sending what is said, to nobody, for as long as the call lasts.
    const cut = setTimeout(() => deadline.abort(), CLOSED_WITHIN_MS);
    socket.addEventListener("close", () => clearTimeout(cut));
  }
}

function sidebandOver(socket: WebSocket): Sideband {
  let look: ((event: SidebandEvent) => void) | null = null;
  const closed = Promise.withResolvers<NoEvent>();
  socket.addEventListener("message", ({ data }) => {
    const event = look === null ? null : eventOf(data);
    if (event !== null) look?.(event);
  });
  socket.addEventListener("close", ({ code }) => {
    closed.resolve({ none: "closed", closeCode: code });
    // The other half of the handshake is not the runtime's to give.
    close(socket);
  });
  socket.addEventListener("error", () => closed.resolve({ none: "closed", closeCode: 1006 }));
  socket.accept();

  const send = (command: object) => socket.send(JSON.stringify(command));
  return {
    send,
    async ask<T extends object>(
      command: object | null,
      read: (event: SidebandEvent) => T | null,
      withinMs = ACKNOWLEDGED_WITHIN_MS,
    ): Promise<T | NoEvent> {
      const found = Promise.withResolvers<T | NoEvent>();
      look = (event) => {
        const what = read(event);
        if (what !== null) found.resolve(what);
      };
      try {
        if (command !== null) send(command);
        const either = Promise.race([found.promise, closed.promise]);
        return await orElse(either, withinMs, (): NoEvent => ({ none: "late" }));
      } finally {
        look = null;
      }
    },
  };
}

/** What became of a command that nothing answered. */
export function unanswered(none: NoEvent): PushOutcome {
  return none.none === "late"
    ? { outcome: "unconfirmed" }
    : { outcome: "unconfirmed", closeCode: none.closeCode };
}

function eventOf(data: unknown): SidebandEvent | null {
  if (typeof data !== "string" || data.length > MAX_EVENT_CHARACTERS) return null;
  try {
    const event = JSON.parse(data) as SidebandEvent | null;
    return typeof event?.type === "string" ? event : null;
  } catch {
    return null;
  }
}

function close(socket: WebSocket): void {
  try {
    socket.close(NORMAL_CLOSURE);
  } catch {
    // It is closed already.
  }
}
