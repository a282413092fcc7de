import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { updateBySwapping } from "../../lib/storage/swap.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

/** A text that somebody else changes right after it is read, `collisions` times. */
function contested(collisions: number) {
  let text = "";
  const others = "x".repeat(collisions).split("");
  const swaps: boolean[] = [];
  const update = updateBySwapping(
    "test",
    async () => {
      const read = text;
      text += others.pop() ?? "";
      return read;
    },
    (standing) => `${standing}mine`,
    async (expected, next) => {
      const isSame = text === expected;
      if (isSame) text = next ?? "";
      swaps.push(isSame);
      return isSame;
    },
  );
  return { update, swaps, text: () => text };
}

describe("an update of one who can only swap", () => {
  test("begins anew with what others have made of the text", async () => {
    const { update, text } = contested(5);
    await vi.runAllTimersAsync();
    expect([await update, text()]).toEqual([true, "xxxxxmine"]);
  });

  test("gives up after 16 tries, whose pauses stay short, and has then changed nothing", async () => {
    const { update, swaps, text } = contested(16);
    const outcome = update.catch((error: unknown) => error);
    const began = Date.now();
    await vi.runAllTimersAsync();
    expect(await outcome).toMatchObject({ driver: "test", operation: "update", failure: "contended" });
    expect([swaps, text()]).toEqual([Array(16).fill(false), "x".repeat(16)]);
    expect(Date.now() - began).toBeLessThanOrEqual(15 * 200);
  });

  test("that succeeds at once does not pause", async () => {
    const { update } = contested(0);
    expect([await update, vi.getTimerCount()]).toEqual([true, 0]);
  });
});
