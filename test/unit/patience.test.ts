import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { createSharedTimer, endedInTime, inTime, LATE, leftInTime, orElse } from "../../lib/patience.ts";

beforeEach(() => vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

describe("one timer for many waits", () => {
  const begin = () => {
    const after = createSharedTimer(() => Date.now());
    const start = Date.now();
    const struck: [name: string, ms: number][] = [];
    return {
      after,
      struck,
      wait: (name: string, ms: number) => after(ms, () => struck.push([name, Date.now() - start])),
    };
  };

  test("strikes each when it is due, in their order, whatever was asked for first", async () => {
    const { struck, wait } = begin();
    for (const ms of [8_000, 50, 1_500, 1_000, 0, 1_500]) wait(String(ms), ms);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(struck).toEqual([
      ["0", 0],
      ["50", 50],
      ["1000", 1_000],
      ["1500", 1_500],
      ["1500", 1_500],
      ["8000", 8_000],
    ]);
  });

  test("has one timer for however many there are, and none soon after nothing is waited for", async () => {
    const { struck, wait } = begin();
    expect(vi.getTimerCount()).toBe(0);
    const takeBack = [wait("a", 5_000), wait("b", 1_500), wait("c", 8_000)];
    expect(vi.getTimerCount()).toBe(1);
    await vi.advanceTimersByTimeAsync(1_200);
    expect(vi.getTimerCount()).toBe(1);
    for (const take of takeBack) take();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(vi.getTimerCount()).toBe(0);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(struck).toEqual([]);
  });

  test("does not strike what another strike has taken back, and takes new waits from one", async () => {
    const { after, struck, wait } = begin();
    after(100, () => {
      takeBack();
      wait("new", 100);
    });
    const takeBack = wait("taken back", 100);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(struck).toEqual([["new", 200]]);
    expect(vi.getTimerCount()).toBe(0);
  });
});

test("what comes in time is what was promised, what does not is what is said instead, and no timer is left", async () => {
  const soon = new Promise<string>((resolve) => setTimeout(() => resolve("came"), 100));
  const never = new Promise<string>(() => {});
  const answers = [orElse(soon, 200, () => "late"), orElse(never, 200, () => "late")];
  const failing = orElse(Promise.reject(new Error("no")), 200, () => "late");
  await expect(failing).rejects.toThrow("no");
  await vi.advanceTimersByTimeAsync(300);
  expect(await Promise.all(answers)).toEqual(["came", "late"]);
  expect(vi.getTimerCount()).toBe(0);
});

test("work that takes too long is told by its signal", async () => {
  const work = (signal: AbortSignal) =>
    new Promise<string>((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  const given = inTime(100, work).catch((reason: unknown) => reason);
  await vi.advanceTimersByTimeAsync(100);
  expect(await given).toBe("too late");
  expect(await inTime(100, async () => "done")).toBe("done");
  expect(vi.getTimerCount()).toBe(0);
});

describe.each([
  ["ended by a signal", endedInTime()],
  ["left alone", leftInTime],
])("a request that is %s", (_name, inTime) => {
  test("is given up when its time is over, and told so", async () => {
    let isOver = () => false;
    const given = inTime(100, (deadline, signal) => {
      isOver = () => deadline.aborted;
      return new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
    }).catch((reason: unknown) => reason);
    await vi.advanceTimersByTimeAsync(99);
    expect(isOver()).toBe(false);
    await vi.advanceTimersByTimeAsync(1);
    expect(isOver()).toBe(true);
    expect(await given).toBe(LATE);
  });

  test("is what it was promised to be where it comes in time, and no timer is left", async () => {
    expect(await inTime(100, async () => "done")).toBe("done");
    await expect(inTime(100, () => Promise.reject(new Error("no")))).rejects.toThrow("no");
    expect(vi.getTimerCount()).toBe(0);
  });
});

test("a signal serves one request after the other, never two at once, nor again once it has ended one", async () => {
  const inTime = endedInTime();
  const signalOf = (ms = 0) =>
    inTime(100, async (_deadline, signal) => {
      if (ms > 0) await new Promise((resolve) => setTimeout(resolve, ms));
      return signal;
    });
  const first = await signalOf();
  const [again, besides] = await Promise.all([signalOf(), signalOf()]);
  expect(again).toBe(first);
  expect(besides).not.toBe(first);
  const late = signalOf(200);
  await vi.advanceTimersByTimeAsync(200);
  const ended = await late;
  expect(ended?.aborted).toBe(true);
  const next = await Promise.all([signalOf(), signalOf()]);
  expect(next.map((signal) => signal?.aborted)).toEqual([false, false]);
});
