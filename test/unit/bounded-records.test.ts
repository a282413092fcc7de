import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { type BoundedRecords, createBoundedRecords } from "../../lib/storage/bounded-records.ts";

const FIVE_MINUTES = 5 * 60_000;

type Content = { text: string };

function make(maxRecords: number) {
  let clock = 0;
  const records: BoundedRecords<Content> = createBoundedRecords({ now: () => clock, maxRecords });
  return {
    records,
    advance: (ms: number) => {
      clock += ms;
    },
    put: (key: string, lifeMs = Number.POSITIVE_INFINITY) => records.put(key, { text: key }, clock + lifeMs),
    alive: (keys: readonly string[]) => keys.filter((key) => records.find(key) !== undefined),
  };
}

const names = (count: number, prefix = "k") => Array.from({ length: count }, (_, i) => `${prefix}${i}`);

describe("bounded records", () => {
  it("let go of the fifth that was written longest ago when they are full, and of no more", () => {
    const { put, alive } = make(10);
    for (const key of names(10)) put(key);
    expect(alive(names(10))).toHaveLength(10);
    put("k0");
    put("new");
    expect(alive([...names(10), "new"])).toEqual(["k0", "k3", "k4", "k5", "k6", "k7", "k8", "k9", "new"]);
  });

  it("let nothing go for a record that stands, or for one whose place was made by a delete", () => {
    const { records, put, alive } = make(10);
    for (const key of names(10)) put(key);
    put("k5");
    expect(records.delete("k7")).toBe(true);
    expect(records.delete("k7")).toBe(false);
    put("new");
    expect(alive([...names(10), "new"])).toEqual([
      "k0",
      "k1",
      "k2",
      "k3",
      "k4",
      "k5",
      "k6",
      "k8",
      "k9",
      "new",
    ]);
  });

  it("are swept when five minutes have passed and not before", () => {
    const { records, advance, put } = make(100);
    for (const key of names(20)) put(key, 1000);
    advance(FIVE_MINUTES - 1);
    put("early");
    expect(records.size).toBe(21);
    advance(1);
    put("late");
    expect(records.size).toBe(2);
    for (const key of names(20)) put(key, 1000);
    advance(FIVE_MINUTES - 1);
    put("early");
    expect(records.size).toBe(22);
    advance(1);
    put("late");
    expect(records.size).toBe(2);
  });

  it("are not swept before as many writes have come as there are records, which pay for it", () => {
    const { records, advance, put } = make(100);
    for (const key of names(20)) put(key);
    advance(FIVE_MINUTES);
    put("brief", 1000);
    for (let write = 1; write <= 21; write++) {
      advance(FIVE_MINUTES);
      expect(records.size).toBe(21);
      put("k0");
    }
    expect(records.size).toBe(20);
  });

  it("make room of what has expired before they let go of what lives, if a sweep is due", () => {
    for (const [waited, survivors] of [
      [FIVE_MINUTES - 1, ["new"]],
      [FIVE_MINUTES, ["oldest", "new"]],
    ] as const) {
      const { advance, put, alive } = make(10);
      put("oldest");
      for (const key of names(9)) put(key, 1000);
      advance(waited);
      put("new");
      expect(alive(["oldest", ...names(9), "new"])).toEqual(survivors);
    }
  });

  it("need no timer", () => {
    vi.useFakeTimers();
    try {
      const { put, advance } = make(10);
      for (const key of names(30)) put(key, 1000);
      advance(FIVE_MINUTES);
      put("new");
      expect(vi.getTimerCount()).toBe(0);
    } finally {
      vi.useRealTimers();
    }
  });

  it("keep no more than a few of the keys that are gone", () => {
    const { records, put } = make(100_000);
    for (const key of names(10_000)) {
      put(key);
      records.delete(key);
    }
    expect(records.size).toBe(0);
    expect(records.keys().length).toBeLessThan(50);
  });

  it("are in any order of calls what was written last, the newest of it, and never too many", () => {
    const maxRecords = 7;
    const key = fc.constantFrom(...names(12));
    const call = fc.oneof(
      {
        weight: 6,
        arbitrary: fc.record({ put: key, lifeMs: fc.constantFrom(1000, Number.POSITIVE_INFINITY) }),
      },
      { weight: 2, arbitrary: fc.record({ delete: key }) },
      { weight: 2, arbitrary: fc.record({ find: key }) },
      { weight: 1, arbitrary: fc.record({ advance: fc.constantFrom(1, 999, 1000, FIVE_MINUTES) }) },
    );
    fc.assert(
      fc.property(fc.array(call, { maxLength: 100 }), (calls) => {
        const { records, advance, put, alive } = make(maxRecords);
        /** What would be there without a bound, the newest last. */
        const written = new Map<string, number>();
        let now = 0;
        for (const one of calls) {
          if ("put" in one) {
            put(one.put, one.lifeMs);
            written.delete(one.put);
            written.set(one.put, now + one.lifeMs);
            expect(records.find(one.put)).toMatchObject({ content: { text: one.put } });
          } else if ("delete" in one) {
            const wasThere = alive([one.delete]).length === 1;
            expect(records.delete(one.delete)).toBe(wasThere);
            written.delete(one.delete);
          } else if ("find" in one) records.find(one.find);
          else {
            advance(one.advance);
            now += one.advance;
          }
          expect(records.size).toBeLessThanOrEqual(maxRecords);
        }
        const should = [...written].flatMap(([key, expiresAt]) => (now < expiresAt ? [key] : []));
        const there = alive(should);
        expect(alive(names(12)).toSorted()).toEqual(there.toSorted());
        expect(there).toEqual(there.length === 0 ? [] : should.slice(-there.length));
      }),
      { numRuns: 500 },
    );
  });
});
