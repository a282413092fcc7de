import { describe, expect, test } from "vitest";
import { createBreaker } from "../../lib/storage/breaker.ts";

function brokenBreaker(random = 1) {
  let clock = 0;
  const breaker = createBreaker({ now: () => clock, random: () => random });
  const fail = () => breaker.failed("timeout");
  return {
    breaker,
    fail,
    open: () => [fail(), fail(), fail()],
    advance: (ms: number) => {
      clock += ms;
    },
    /** The waits until each of the next `count` probes, in ms, to a hundredth of a second. */
    waits(count: number): number[] {
      return Array.from({ length: count }, () => {
        const start = clock;
        while (!breaker.mayProbe()) clock += 10;
        return clock - start;
      });
    },
  };
}

describe("a breaker", () => {
  test("opens at the third failure in a row, and says so once", () => {
    const { breaker, fail } = brokenBreaker();
    expect([fail(), fail(), breaker.isOpen(), fail(), breaker.isOpen(), fail()]).toEqual([
      false,
      false,
      false,
      true,
      true,
      false,
    ]);
  });

  test("a success in between begins the count anew", () => {
    const { breaker, fail } = brokenBreaker();
    fail();
    fail();
    breaker.succeeded();
    expect([fail(), fail(), breaker.isOpen()]).toEqual([false, false, false]);
  });

  test("lets one probe through after 1, 2, 4 … 30 s", () => {
    const { open, waits } = brokenBreaker();
    open();
    expect(waits(7)).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
  });

  test("jitter shortens a wait by up to half", () => {
    const { open, waits } = brokenBreaker(0);
    open();
    expect(waits(3)).toEqual([500, 1_000, 2_000]);
  });

  test("lets nobody else through while a probe is out", () => {
    const { breaker, open, advance } = brokenBreaker();
    open();
    advance(1_000);
    expect([breaker.mayProbe(), breaker.mayProbe()]).toEqual([true, false]);
  });

  test("closes once, with the time it was open, and knows for a while that it was", () => {
    const { breaker, open, advance } = brokenBreaker();
    open();
    advance(1_500);
    expect([breaker.close(), breaker.close(), breaker.isOpen()]).toEqual([1_500, null, false]);
    advance(999);
    expect(breaker.closedSince(1_000)).toBe(true);
    advance(1);
    expect(breaker.closedSince(1_000)).toBe(false);
  });

  test("needs three new failures after it has closed", () => {
    const { breaker, open, fail } = brokenBreaker();
    open();
    breaker.close();
    expect([fail(), fail(), breaker.isOpen()]).toEqual([false, false, false]);
  });

  test("that never opened was not closed lately", () => {
    expect(brokenBreaker().breaker.closedSince(1_000)).toBe(false);
  });
});
