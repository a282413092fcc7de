import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { DIAL_DEADLINE_MS, dialAndSend } from "../../lib/push/dial.ts";

/** What stands in for a Worker's WebSocket, whose peer is as slow as the test wants: Node's `fetch` opens none. */
class SlowSocket extends EventTarget {
  readonly sent: string[] = [];
  readonly #closesAfterMs: number;
  constructor(closesAfterMs: number) {
    super();
    this.#closesAfterMs = closesAfterMs;
  }
  accept(): void {}
  send(frame: string): void {
    this.sent.push(frame);
  }
  close(): void {
    if (this.#closesAfterMs === Number.POSITIVE_INFINITY) return;
    setTimeout(() => this.dispatchEvent(new CloseEvent(1000)), this.#closesAfterMs);
  }
}

class CloseEvent extends Event {
  readonly code: number;
  constructor(code: number) {
    super("close");
    this.code = code;
  }
}

beforeEach(() => vi.useFakeTimers());
afterEach(() => {
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

/** Pushes to a peer that takes so long for each handshake. Resolves with the outcome, and after how many ms it was known. */
async function push(opensAfterMs: number, closesAfterMs: number) {
  const socket = new SlowSocket(closesAfterMs);
  vi.stubGlobal("fetch", (_: URL, { signal }: { signal: AbortSignal }) => {
    return new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
      setTimeout(() => resolve({ webSocket: socket }), opensAfterMs);
    });
  });
  const begin = Date.now();
  const pushing = dialAndSend({ url: new URL("wss://agent.example/"), frame: "frame" }).then((outcome) => ({
    ...outcome,
    ms: Date.now() - begin,
  }));
  await vi.advanceTimersByTimeAsync(3 * DIAL_DEADLINE_MS);
  return { ...(await pushing), sent: socket.sent };
}

describe("a push", () => {
  test("gives each handshake its time, however long the other took", async () => {
    const slow = DIAL_DEADLINE_MS - 100;
    expect(await push(slow, slow)).toMatchObject({ outcome: "delivered", sent: ["frame"], ms: 2 * slow });
  });

  test("is unconfirmed where the closing handshake takes too long", async () => {
    expect(await push(1_000, Number.POSITIVE_INFINITY)).toMatchObject({
      outcome: "unconfirmed",
      sent: ["frame"],
      ms: 1_000 + DIAL_DEADLINE_MS,
    });
  });

  test("sends nothing where the opening handshake takes too long, and leaves no clock behind", async () => {
    expect(await push(DIAL_DEADLINE_MS + 1, 0)).toEqual({
      outcome: "unreachable",
      sent: [],
      ms: DIAL_DEADLINE_MS,
    });
    expect(vi.getTimerCount()).toBe(0);
  });
});
