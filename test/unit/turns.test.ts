import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { createTurns, type Line } from "../../lib/turns.ts";

const wait = (ms: number) => sleep(ms);
const never = new Promise<never>(() => {});

describe("turns", () => {
  test("come one after the other, in the order of their asking, for one key", async () => {
    const turns = createTurns();
    const seen: string[] = [];
    const work = (name: string) => async () => {
      seen.push(`${name} begins`);
      await sleep(1);
      seen.push(`${name} ends`);
    };
    await Promise.all(["a", "b", "c"].map((name) => turns.take("k", wait, work(name))));
    expect(seen).toEqual(["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]);
  });

  test("of different keys do not wait for each other", async () => {
    const turns = createTurns();
    void turns.take("k", wait, () => never);
    expect(
      await turns.take(
        "other",
        async () => never,
        async () => "done",
      ),
    ).toBe("done");
  });

  test("whoever comes first waits for nothing", async () => {
    const waits: number[] = [];
    const turns = createTurns();
    await turns.take(
      "k",
      async (ms) => void waits.push(ms),
      async () => {},
    );
    await turns.take(
      "k",
      async (ms) => void waits.push(ms),
      async () => {},
    );
    expect(waits).toEqual([]);
  });

  test("a turn that never ends, as that of a cancelled request, is waited for once, and briefly", async () => {
    const turns = createTurns();
    void turns.take("k", wait, () => never);
    const start = performance.now();
    await Promise.all([turns.take("k", wait, async () => {}), turns.take("k", wait, async () => {})]);
    expect(performance.now() - start).toBeLessThan(500);
    const again = performance.now();
    await turns.take("k", wait, async () => {});
    expect(performance.now() - again).toBeLessThan(100);
  });

  test("a line that moves is waited for longer than one that does not, but not for ever", async () => {
    const turns = createTurns();
    const started: number[] = [];
    const late: number[] = [];
    const start = performance.now();
    const work = async (_line: Line, isLate: boolean) => {
      const at = performance.now() - start;
      (isLate ? late : started).push(at);
      await sleep(150);
    };
    await Promise.all(Array.from({ length: 30 }, () => turns.take("k", wait, work)));
    expect(started.length).toBeGreaterThan(10);
    expect(started.every((at, i) => i === 0 || at - (started[i - 1] ?? 0) > 100)).toBe(true);
    expect(late.length).toBeGreaterThan(0);
    expect(Math.max(...late)).toBeLessThan(4_000);
  });

  test("what a turn leaves is there for the next, and gone when nobody waits", async () => {
    const turns = createTurns();
    const seen: (string | undefined)[] = [];
    const leave = (text: string) =>
      turns.take("k", wait, async (line) => {
        seen.push(line.lastText);
        line.lastText = text;
      });
    await Promise.all([leave("1"), leave("2")]);
    await leave("3");
    expect(seen).toEqual([undefined, "1", undefined]);
  });
});
