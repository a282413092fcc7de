/**
 * What every Storage must do, run over every driver. A driver's own test holds only what is its own: how it
 * is reached and how it fails.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { InvalidCursorError, StorageError } from "../../lib/errors.ts";
import { isConversationId, isRequestId, keys } from "../../lib/keys.ts";
import type { IndexEntry, Storage, Write } from "../../lib/storage/storage.ts";

export type Contestant = {
  storage: Storage;
  /** Moves the driver's clock on, where it takes one. Without it, tests of time use real, short times. */
  advance?: (ms: number) => void;
  close(): Promise<void>;
};

export type Traits = {
  /** Whether a commit that meets a key of another kind leaves nothing behind. A Redis transaction does not roll back. */
  rollsBack: boolean;
};

/** Declares the suite for one driver; `open` is called once. */
export function storageContract(
  driver: string,
  { rollsBack }: Traits,
  open: () => Promise<Contestant>,
): void {
  describe(`${driver} keeps the storage contract`, () => {
    let contestant: Contestant;
    let storage: Storage;
    let serial = 0;

    beforeAll(async () => {
      contestant = await open();
      storage = contestant.storage;
    });
    afterAll(() => contestant?.close());

    /** An id that no other test uses. */
    const freshId = () => `id-${++serial}-${crypto.randomUUID().slice(0, 8)}`;
    /** A key that stands alone. */
    const freshKey = () => `conv:${freshId()}`;
    const freshIndex = () => `index:${freshId()}`;

    const set = (key: string, value: string, ttlSeconds: number | null = 600) =>
      storage.commit([{ type: "set", key, value, ttlSeconds }]);
    const append = (
      key: string,
      value: string,
      { maxLength = 1000, ttlSeconds = 600 as number | null } = {},
    ) => storage.commit([{ type: "append", key, value, maxLength, ttlSeconds }]);
    const index = (key: string, entries: readonly IndexEntry[]) =>
      storage.commit(entries.map((entry): Write => ({ type: "index", key, ...entry })));

    async function pass(ms: number): Promise<void> {
      if (contestant.advance) contestant.advance(ms);
      else await new Promise((resolve) => setTimeout(resolve, ms));
    }

    async function allPages(key: string, limit: number, minScore?: number): Promise<IndexEntry[]> {
      const entries: IndexEntry[] = [];
      let cursor: string | undefined;
      do {
        const page = await storage.listIndex(key, {
          limit,
          ...(cursor === undefined ? {} : { cursor }),
          ...(minScore === undefined ? {} : { minScore }),
        });
        expect(page.entries.length).toBeLessThanOrEqual(limit);
        entries.push(...page.entries);
        cursor = page.nextCursor;
      } while (cursor !== undefined);
      return entries;
    }

    async function scanAll(prefix: string): Promise<string[]> {
      const found = new Set<string>();
      let cursor: string | undefined;
      do {
        const page = await storage.scan(prefix, cursor);
        for (const key of page.keys) found.add(key);
        cursor = page.cursor;
      } while (cursor !== undefined);
      return [...found].sort();
    }

    const rejected = (promise: Promise<unknown>) =>
      expect(promise).rejects.toSatisfy(
        (error) =>
          error instanceof StorageError && error.failure === "rejected" && error.driver === storage.name,
      );

    describe("texts", () => {
      it.each([
        ["plain", "hello"],
        ["empty", ""],
        ["a number's digits", "123"],
        ["a big number's digits", "12345678901234567890.10"],
        ["the word null", "null"],
        ["the word OK", "OK"],
        ["JSON with whitespace and repeated keys", '{ "a": 1, "a":  2 }\n'],
        ["a quoted string", '"quoted"'],
        ["base64", "aGVsbG8="],
        ["beyond ASCII", "Grüße, 你好, नमस्ते, שלום"],
        ["emoji and joiners", "👩🏽‍🚀🏴󠁧󠁢󠁥󠁮󠁧󠁿 e\u0301"],
        ["a leading byte order mark", "\uFEFFtext"],
        [
          "control characters",
          String.fromCharCode(...Array.from({ length: 31 }, (_, i) => i + 1), 127, 0x85, 0x2028),
        ],
        ["64 KiB", "0123456789abcdef".repeat(4096)],
        ["64 KiB of emoji", "🛰️é".repeat(8192)],
      ])("come back as they were written: %s", async (_, value) => {
        const key = freshKey();
        const list = keys.messages(freshId());
        await set(key, value);
        await append(list, value);
        expect(await storage.get(key)).toBe(value);
        expect(await storage.getMany([key])).toEqual([value]);
        expect(await storage.getAndTouch(key, 600)).toBe(value);
        expect(await storage.range(list, 0, -1)).toEqual([value]);
        expect(await storage.claim(key, "other", 600)).toBe(value);
        expect(await storage.compareAndSet(key, value, "next", 600)).toBe(true);
      });

      it("are absent before they are written", async () => {
        const key = freshKey();
        expect(await storage.get(key)).toBeNull();
        expect(await storage.getMany([key])).toEqual([null]);
        expect(await storage.getAndTouch(key, 600)).toBeNull();
        expect(await storage.ttl(key)).toBeNull();
        expect(await storage.range(key, 0, -1)).toEqual([]);
        expect(await storage.listIndex(key, { limit: 10 })).toEqual({ entries: [] });
        expect(await storage.scan(key)).toEqual({ keys: [] });
        expect(await storage.get(key)).toBeNull();
      });

      it("are overwritten by set, which answers with what stood there if asked", async () => {
        const key = freshKey();
        const write = (value: string) =>
          ({ type: "set", key, value, ttlSeconds: 600, returnPrevious: true }) as const;
        expect(await storage.commit([write("one")])).toEqual([null]);
        expect(await storage.commit([write("two"), write("three")])).toEqual(["one", "two"]);
        expect(await set(key, "four")).toEqual([null]);
        expect(await storage.get(key)).toBe("four");
      });

      it("are created only where nothing stands", async () => {
        const key = freshKey();
        const create = (value: string) => ({ type: "create", key, value, ttlSeconds: 600 }) as const;
        expect(await storage.commit([create("first")])).toEqual(["first"]);
        expect(await storage.commit([create("second")])).toEqual(["first"]);
        expect(await storage.get(key)).toBe("first");
      });

      it("are read in the order of the keys, whatever place each has", async () => {
        const [a, b, absent] = [freshId(), freshId(), freshKey()];
        const wanted = [keys.session(b), freshKey(), keys.conversation(a), keys.session(a)];
        await storage.commit(
          wanted.map((key) => ({ type: "set", key, value: `at ${key}`, ttlSeconds: 600 })),
        );
        const asked = [...wanted.toReversed(), absent, wanted[0] ?? ""];
        expect(await storage.getMany(asked)).toEqual(
          asked.map((key) => (key === absent ? null : `at ${key}`)),
        );
        expect(await storage.getMany([])).toEqual([]);
      });

      it("stand under ids of every allowed character and length", async () => {
        const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
        const conversationIds = [
          alphabet,
          "0",
          "a".repeat(128),
          "a-._",
          "A..",
          "constructor",
          "__proto__".slice(2),
        ];
        const requestIds = [`${alphabet}:`, "a:b::c", "r".repeat(128)];
        expect([conversationIds.every(isConversationId), requestIds.every(isRequestId)]).toEqual([
          true,
          true,
        ]);
        const all = conversationIds.flatMap((id) => [
          keys.session(id),
          keys.conversation(id),
          `conv:${id}`,
          ...requestIds.map((requestId) => keys.callback(id, requestId)),
        ]);
        await storage.commit(all.map((key) => ({ type: "set", key, value: key, ttlSeconds: 600 })));
        expect(await storage.getMany(all)).toEqual(all);
        const deleted = await storage.commit(all.map((key) => ({ type: "delete", key })));
        expect(deleted).toEqual(all.map(() => true));
      });
    });

    describe("claims", () => {
      it("are won by exactly one of fifty, and the others see the winner's text", async () => {
        const key = keys.callback(freshId(), "request:1");
        const values = Array.from({ length: 50 }, (_, i) => `claim ${i}`);
        const answers = await Promise.all(values.map((value) => storage.claim(key, value, 600)));
        const winners = values.filter((_, i) => answers[i] === null);
        expect(winners).toHaveLength(1);
        expect(answers.filter((answer) => answer !== null)).toEqual(Array(49).fill(winners[0]));
        expect(await storage.get(key)).toBe(winners[0]);
      });

      it("are won again by the same value, and leave the time to live alone", async () => {
        const key = freshKey();
        expect(await storage.claim(key, "mine", 100)).toBeNull();
        expect(await storage.claim(key, "mine", 600)).toBeNull();
        expect(await storage.claim(key, "yours", 600)).toBe("mine");
        expect(await storage.ttl(key)).toBeLessThanOrEqual(100);
      });
    });

    describe("set with onlyIfAbsent", () => {
      it("writes where nothing stands, with its time to live, and leaves what stands", async () => {
        const key = freshKey();
        const write = { type: "set", key, ttlSeconds: 600, onlyIfAbsent: true } as const;
        expect(await storage.commit([{ ...write, value: "first" }])).toEqual([null]);
        expect(await storage.commit([{ ...write, value: "second" }])).toEqual([null]);
        expect(await storage.get(key)).toBe("first");
        expect(Math.ceil((await storage.ttl(key)) ?? 0)).toBe(600);
      });
    });

    describe("compareAndSet", () => {
      it("lets exactly one of twenty replace the same text", async () => {
        const key = freshKey();
        await set(key, "start");
        const nexts = Array.from({ length: 20 }, (_, i) => `next ${i}`);
        const answers = await Promise.all(
          nexts.map((next) => storage.compareAndSet(key, "start", next, 600)),
        );
        const winners = nexts.filter((_, i) => answers[i]);
        expect(winners).toHaveLength(1);
        expect(await storage.get(key)).toBe(winners[0]);
      });

      it("gives the time to live it was called with, and the old one stays where it does nothing", async () => {
        const key = freshKey();
        await set(key, "a", 100);
        expect(await storage.compareAndSet(key, "other", "b", 600)).toBe(false);
        expect(await storage.ttl(key)).toBeLessThanOrEqual(100);
        expect(await storage.compareAndSet(key, "a", "b", 600)).toBe(true);
        expect(await storage.ttl(key)).toBeGreaterThan(500);
        expect(await storage.compareAndSet(key, "b", "c", null)).toBe(true);
        expect(await storage.ttl(key)).toBe(Number.POSITIVE_INFINITY);
      });

      it("lets one caller through, also when all want the same", async () => {
        const key = freshKey();
        await set(key, "a");
        const all = Array.from({ length: 20 }, () => storage.compareAndSet(key, "a", "b", 600));
        expect((await Promise.all(all)).filter((done) => done)).toHaveLength(1);
        expect(await storage.compareAndSet(key, "a", "c", 600)).toBe(false);
        expect(await storage.get(key)).toBe("b");
      });

      it("removes where there is no next text, and nothing else", async () => {
        const key = freshKey();
        await set(key, "a");
        expect(await storage.compareAndSet(key, "", null, null)).toBe(false);
        expect(await storage.compareAndSet(key, "a", null, null)).toBe(true);
        expect(await storage.get(key)).toBeNull();
        expect(await storage.compareAndSet(key, "a", null, null)).toBe(false);
        expect(await storage.compareAndSet(key, "", null, null)).toBe(false);
        expect(await storage.compareAndSet(key, "", "b", 600)).toBe(false);
        expect(await storage.get(key)).toBeNull();
      });

      it("takes the empty text for a text", async () => {
        const key = freshKey();
        await set(key, "");
        expect(await storage.compareAndSet(key, "", "a", 600)).toBe(true);
        expect(await storage.compareAndSet(key, "a", "", 600)).toBe(true);
        expect(await storage.get(key)).toBe("");
      });
    });

    describe("time to live", () => {
      it("ends a text and a list at its last millisecond and not before", async () => {
        const id = freshId();
        const [text, list] = [keys.session(id), keys.messages(id)];
        const seconds = contestant.advance ? 600 : 1;
        const started = Date.now();
        await storage.commit([
          { type: "set", key: text, value: "v", ttlSeconds: seconds },
          { type: "append", key: list, value: "v", maxLength: 10, ttlSeconds: seconds },
        ]);
        if (contestant.advance) {
          await pass(599_999);
          expect([await storage.get(text), await storage.range(list, 0, -1)]).toEqual(["v", ["v"]]);
          expect(await storage.ttl(text)).toBe(0.001);
          await pass(1);
        } else {
          expect([await storage.get(text), await storage.range(list, 0, -1)]).toEqual(["v", ["v"]]);
          await expect.poll(() => storage.ttl(list), { interval: 5, timeout: 5000 }).toBeNull();
          expect(Date.now() - started).toBeGreaterThanOrEqual(999);
        }
        expect([await storage.get(text), await storage.range(list, 0, -1)]).toEqual([null, []]);
        expect([await storage.ttl(text), await storage.ttl(list)]).toEqual([null, null]);
      });

      it("leaves nothing that a write would find", async () => {
        const id = freshId();
        const [a, b, c, d] = [keys.session(id), keys.messages(id), keys.backlog(id), freshKey()];
        await set(a, "old", 0.2);
        await append(b, "old", { ttlSeconds: 0.2 });
        await append(c, "old", { ttlSeconds: 0.2 });
        await set(d, "old", 0.2);
        await pass(200);
        await expect.poll(() => storage.ttl(d), { interval: 5, timeout: 5000 }).toBeNull();
        expect(await storage.compareAndSet(a, "old", "new", 600)).toBe(false);
        expect(await storage.getAndTouch(a, 600)).toBeNull();
        const results = await storage.commit([
          { type: "touch", key: a, ttlSeconds: 600 },
          { type: "delete", key: a },
          { type: "create", key: a, value: "new", ttlSeconds: 600 },
          { type: "append", key: b, value: "new", maxLength: 1, ttlSeconds: 600 },
          { type: "remove", key: c, value: "old" },
          { type: "index", key: c, member: "new", score: 1 },
        ]);
        expect(results).toEqual([null, false, "new", 0, 0, null]);
        expect(await storage.range(b, 0, -1)).toEqual(["new"]);
        expect(await storage.claim(d, "new", 600)).toBeNull();
      });

      it("is told in seconds, Infinity where there is none, null where nothing stands", async () => {
        const [key, forEver, list] = [freshKey(), freshKey(), keys.messages(freshId())];
        await set(key, "v", 600);
        await set(forEver, "v", null);
        await append(list, "v", { ttlSeconds: null });
        const ttl = await storage.ttl(key);
        expect(ttl).toBeGreaterThan(595);
        expect(ttl).toBeLessThanOrEqual(600);
        expect(await storage.ttl(forEver)).toBe(Number.POSITIVE_INFINITY);
        expect(await storage.ttl(list)).toBe(Number.POSITIVE_INFINITY);
        expect(await storage.ttl(freshKey())).toBeNull();
      });

      it.each(["set", "touch", "append", "touch of a list", "getAndTouch"])(
        "is restarted by %s",
        async (what) => {
          const id = freshId();
          const [text, list] = [keys.session(id), keys.messages(id)];
          await set(text, "v", 100);
          await append(list, "v", { ttlSeconds: 100 });
          for (const ttlSeconds of [200, null]) {
            switch (what) {
              case "set":
                await set(text, "w", ttlSeconds);
                break;
              case "touch":
                await storage.commit([{ type: "touch", key: text, ttlSeconds }]);
                break;
              case "append":
                await append(list, "w", { ttlSeconds });
                break;
              case "touch of a list":
                await storage.commit([{ type: "touch", key: list, ttlSeconds }]);
                break;
              case "getAndTouch":
                await storage.getAndTouch(text, ttlSeconds);
            }
            const ttl = await storage.ttl(what === "append" || what === "touch of a list" ? list : text);
            if (ttlSeconds === null) expect(ttl).toBe(Number.POSITIVE_INFINITY);
            else expect(ttl).toBeGreaterThan(150);
            if (ttlSeconds !== null) expect(ttl).toBeLessThanOrEqual(200);
          }
        },
      );

      it("is not restarted by reads, by create where something stands, or by removing from a list", async () => {
        const id = freshId();
        const [text, list] = [keys.session(id), keys.messages(id)];
        await set(text, "v", 100);
        await append(list, "v", { ttlSeconds: 100 });
        await append(list, "w", { ttlSeconds: 100 });
        await pass(30);
        await storage.get(text);
        await storage.getMany([text]);
        await storage.ttl(text);
        await storage.range(list, 0, -1);
        await storage.commit([
          { type: "create", key: text, value: "w", ttlSeconds: 600 },
          { type: "remove", key: list, value: "w" },
        ]);
        expect(await storage.ttl(text)).toBeLessThanOrEqual(99.97);
        expect(await storage.ttl(list)).toBeLessThanOrEqual(99.97);
      });

      it("is not given to what does not stand", async () => {
        const key = freshKey();
        expect(await storage.commit([{ type: "touch", key, ttlSeconds: 600 }])).toEqual([null]);
        expect(await storage.getAndTouch(key, 600)).toBeNull();
        expect(await storage.get(key)).toBeNull();
        expect(await storage.ttl(key)).toBeNull();
      });

      it.each([0, -1, Number.NaN, 0.0001])("cannot be %s seconds", async (ttlSeconds) => {
        const key = freshKey();
        await expect(set(key, "v", ttlSeconds)).rejects.toThrow(RangeError);
        await expect(storage.claim(key, "v", ttlSeconds)).rejects.toThrow(RangeError);
        await expect(storage.getAndTouch(key, ttlSeconds)).rejects.toThrow(RangeError);
        await expect(storage.compareAndSet(key, "v", "w", ttlSeconds)).rejects.toThrow(RangeError);
        expect(await storage.get(key)).toBeNull();
      });
    });

    describe("commit", () => {
      it("answers one result a write, in their order, across conversations and indexes", async () => {
        const [a, b, alone] = [freshId(), freshId(), freshKey()];
        const members = freshIndex();
        const results = await storage.commit([
          { type: "set", key: keys.session(a), value: "s", ttlSeconds: 600 },
          { type: "create", key: keys.conversation(b), value: "c", ttlSeconds: null },
          { type: "index", key: members, member: a, score: 1 },
          { type: "append", key: keys.messages(a), value: "m1", maxLength: 1, ttlSeconds: 600 },
          { type: "append", key: keys.messages(a), value: "m2", maxLength: 1, ttlSeconds: 600 },
          { type: "set", key: alone, value: "x", ttlSeconds: 600, returnPrevious: true },
          { type: "remove", key: keys.messages(a), value: "m2" },
          { type: "unindex", key: members, member: b },
          { type: "prune", key: members, belowScore: 5 },
          { type: "touch", key: keys.session(a), ttlSeconds: 100 },
          { type: "delete", key: keys.conversation(b) },
          { type: "delete", key: keys.backlog(b) },
        ]);
        expect(results).toEqual([null, "c", null, 0, 1, null, 1, false, 1, null, true, false]);
      });

      it("of nothing does nothing", async () => {
        expect(await storage.commit([])).toEqual([]);
      });

      it("applies its writes in order", async () => {
        const key = freshKey();
        await storage.commit([
          { type: "set", key, value: "one", ttlSeconds: 600 },
          { type: "delete", key },
          { type: "create", key, value: "two", ttlSeconds: 600 },
          { type: "set", key, value: "three", ttlSeconds: 600 },
        ]);
        expect(await storage.get(key)).toBe("three");
      });

      it.each<[string, Write]>([
        ["a time to live of nothing", { type: "set", key: "conv:x", value: "v", ttlSeconds: 0 }],
        ["a list of no length", { type: "append", key: "conv:x", value: "v", maxLength: 0, ttlSeconds: 600 }],
        ["half an entry", { type: "append", key: "conv:x", value: "v", maxLength: 1.5, ttlSeconds: 600 }],
        ["a score that is no number", { type: "index", key: "conv:x", member: "m", score: Number.NaN }],
        ["no bound", { type: "prune", key: "conv:x", belowScore: Number.POSITIVE_INFINITY }],
      ])("leaves nothing of it where a write asks for %s", async (_, malformed) => {
        const id = freshId();
        const before = { type: "set", key: keys.session(id), value: "v", ttlSeconds: 600 } as const;
        const after = { ...before, key: keys.conversation(id) };
        await expect(storage.commit([before, malformed, after])).rejects.toThrow(RangeError);
        expect(await storage.getMany([before.key, after.key])).toEqual([null, null]);
      });

      it(`${rollsBack ? "leaves nothing" : "leaves what can be applied"} where a key is of another kind, and fails`, async () => {
        const id = freshId();
        await set(keys.conversation(id), "text");
        await append(keys.messages(id), "first");
        await rejected(
          storage.commit([
            { type: "set", key: keys.session(id), value: "new", ttlSeconds: 600 },
            { type: "append", key: keys.messages(id), value: "second", maxLength: 1, ttlSeconds: 600 },
            { type: "append", key: keys.conversation(id), value: "v", maxLength: 10, ttlSeconds: 600 },
            { type: "delete", key: keys.messages(id) },
          ]),
        );
        expect(await storage.get(keys.conversation(id))).toBe("text");
        expect(await storage.get(keys.session(id))).toBe(rollsBack ? null : "new");
        expect(await storage.range(keys.messages(id), 0, -1)).toEqual(rollsBack ? ["first"] : []);
      });

      it("deletes keys of every kind, and says which were there", async () => {
        const id = freshId();
        const all = [keys.session(id), keys.messages(id), freshIndex()] as const;
        await set(all[0], "v");
        await append(all[1], "v");
        await index(all[2], [{ member: "m", score: 1 }]);
        const deletes = all.map((key) => ({ type: "delete", key }) as const);
        expect(await storage.commit(deletes)).toEqual([true, true, true]);
        expect(await storage.commit(deletes)).toEqual([false, false, false]);
        expect(await storage.get(all[0])).toBeNull();
        expect(await storage.range(all[1], 0, -1)).toEqual([]);
        expect(await storage.listIndex(all[2], { limit: 1 })).toEqual({ entries: [] });
      });

      it("puts a text in the place of a list or an index", async () => {
        const [list, scores] = [freshKey(), freshKey()];
        await append(list, "v");
        await index(scores, [{ member: "m", score: 1 }]);
        await set(list, "text");
        await set(scores, "text");
        expect(await storage.getMany([list, scores])).toEqual(["text", "text"]);
        await storage.commit([
          { type: "delete", key: list },
          { type: "append", key: list, value: "new", maxLength: 10, ttlSeconds: 600 },
        ]);
        expect(await storage.range(list, 0, -1)).toEqual(["new"]);
      });
    });

    describe("keys of another kind", () => {
      it("are refused, not read as absent", async () => {
        const [text, list, scores] = [freshKey(), freshKey(), freshKey()];
        await set(text, "v");
        await append(list, "v");
        await index(scores, [{ member: "m", score: 1 }]);
        await rejected(storage.get(list));
        await rejected(storage.get(scores));
        await rejected(storage.getAndTouch(list, 600));
        await rejected(storage.range(text, 0, -1));
        await rejected(storage.listIndex(list, { limit: 1 }));
        await rejected(storage.claim(list, "v", 600));
        await rejected(storage.compareAndSet(list, "v", "w", 600));
        await rejected(
          storage.commit([{ type: "set", key: list, value: "w", ttlSeconds: 600, returnPrevious: true }]),
        );
        await rejected(storage.commit([{ type: "remove", key: text, value: "v" }]));
        await rejected(storage.commit([{ type: "index", key: list, member: "m", score: 1 }]));
        await rejected(storage.commit([{ type: "unindex", key: text, member: "m" }]));
        await rejected(storage.commit([{ type: "prune", key: text, belowScore: 1 }]));
        expect(await storage.getMany([text, list, scores])).toEqual(["v", null, null]);
        expect(await storage.range(list, 0, -1)).toEqual(["v"]);
      });
    });

    describe("lists", () => {
      it("keep the newest entries and say how many were dropped", async () => {
        const key = keys.messages(freshId());
        const dropped: number[] = [];
        for (const value of ["a", "b", "c", "d"])
          dropped.push(...(await append(key, value, { maxLength: 2 })));
        expect(dropped).toEqual([0, 0, 1, 1]);
        expect(await storage.range(key, 0, -1)).toEqual(["c", "d"]);
        expect(await append(key, "e", { maxLength: 1 })).toEqual([2]);
        expect(await storage.range(key, 0, -1)).toEqual(["e"]);
      });

      it("are capped within one commit as one append after the other would", async () => {
        const key = keys.messages(freshId());
        const writes = ["a", "b", "c", "d"].map(
          (value) => ({ type: "append", key, value, maxLength: 2, ttlSeconds: 600 }) as const,
        );
        expect(await storage.commit(writes)).toEqual([0, 0, 1, 1]);
        expect(await storage.range(key, 0, -1)).toEqual(["c", "d"]);
      });

      it("keep repetitions and the order of appending", async () => {
        const key = keys.backlog(freshId());
        const values = ["b", "a", "b", "10", "9"];
        for (const value of values) await append(key, value);
        expect(await storage.range(key, 0, -1)).toEqual(values);
      });

      it.each<[number, number, string[]]>([
        [0, -1, ["a", "b", "c", "d"]],
        [0, 0, ["a"]],
        [1, 2, ["b", "c"]],
        [-2, -1, ["c", "d"]],
        [-100, 1, ["a", "b"]],
        [2, 100, ["c", "d"]],
        [4, 10, []],
        [2, 1, []],
        [-1, -2, []],
        [0, -5, []],
      ])("answer the range %d to %d, both included", async (start, stop, expected) => {
        const key = keys.messages(freshId());
        for (const value of ["a", "b", "c", "d"]) await append(key, value);
        expect(await storage.range(key, start, stop)).toEqual(expected);
      });

      it("lose every entry that equals a removed one, and vanish with the last", async () => {
        const key = keys.backlog(freshId());
        for (const value of ["a", "b", "a", "c"]) await append(key, value);
        const remove = (value: string) => storage.commit([{ type: "remove", key, value }]);
        expect(await remove("a")).toEqual([2]);
        expect(await storage.range(key, 0, -1)).toEqual(["b", "c"]);
        expect(await remove("a")).toEqual([0]);
        expect([...(await remove("b")), ...(await remove("c"))]).toEqual([1, 1]);
        expect(await storage.ttl(key)).toBeNull();
        expect(await remove("c")).toEqual([0]);
      });

      it("take entries from many at once without losing one", async () => {
        const key = keys.messages(freshId());
        const values = Array.from({ length: 30 }, (_, i) => `entry ${i}`);
        await Promise.all(values.map((value) => append(key, value)));
        expect((await storage.range(key, 0, -1)).toSorted()).toEqual(values.toSorted());
      });
    });

    describe("indexes", () => {
      it("list members by score, highest first, and equal scores by member, descending", async () => {
        const key = freshIndex();
        await index(key, [
          { member: "old", score: 1 },
          { member: "b", score: 1_700_000_000_000 },
          { member: "a", score: 1_700_000_000_000 },
          { member: "B", score: 1_700_000_000_000 },
          { member: "newest", score: 1_700_000_000_000.5 },
          { member: "negative", score: -2.5 },
          { member: "é", score: 1 },
          { member: "ａ", score: 1 },
          { member: "😀", score: 1 },
        ]);
        const members = (await allPages(key, 2)).map(({ member }) => member);
        expect(members).toEqual(["newest", "b", "a", "B", "😀", "ａ", "é", "old", "negative"]);
      });

      it("keep a member once, at its last score", async () => {
        const key = freshIndex();
        await index(key, [
          { member: "a", score: 1 },
          { member: "b", score: 2 },
          { member: "a", score: 3 },
        ]);
        expect(await storage.listIndex(key, { limit: 10 })).toEqual({
          entries: [
            { member: "a", score: 3 },
            { member: "b", score: 2 },
          ],
        });
      });

      it("page through any number of equal scores without repeating or missing one", async () => {
        const key = freshIndex();
        const entries = Array.from({ length: 90 }, (_, i) => ({
          member: `m${String(i).padStart(3, "0")}`,
          score: i < 5 ? 9 : i < 85 ? 5 : 1,
        }));
        await index(key, entries);
        const expected = entries.toSorted((a, b) => b.score - a.score || (a.member < b.member ? 1 : -1));
        expect(await allPages(key, 7)).toEqual(expected);
        expect(await allPages(key, 1000)).toEqual(expected);
      });

      it("give no cursor with the last page, even where it is full", async () => {
        const key = freshIndex();
        await index(key, [
          { member: "a", score: 1 },
          { member: "b", score: 1 },
        ]);
        const page = await storage.listIndex(key, { limit: 1 });
        expect(page).toEqual({
          entries: [{ member: "b", score: 1 }],
          nextCursor: expect.stringMatching(/^[\w-]+$/),
        });
        const last = await storage.listIndex(key, { limit: 1, cursor: page.nextCursor ?? "" });
        expect(last).toEqual({ entries: [{ member: "a", score: 1 }] });
      });

      it("go on below the last page, whatever happens to the entries above meanwhile", async () => {
        const key = freshIndex();
        await index(
          key,
          ["a", "b", "c", "d", "e"].map((member, score) => ({ member, score })),
        );
        const { nextCursor = "" } = await storage.listIndex(key, { limit: 2 });
        await storage.commit([
          { type: "unindex", key, member: "d" },
          { type: "index", key, member: "e", score: 50 },
          { type: "index", key, member: "new", score: 60 },
        ]);
        const rest = await storage.listIndex(key, { limit: 10, cursor: nextCursor });
        expect(rest.entries.map(({ member }) => member)).toEqual(["c", "b", "a"]);
      });

      it("leave out what scores below minScore, on every page", async () => {
        const key = freshIndex();
        await index(
          key,
          Array.from({ length: 10 }, (_, i) => ({ member: `m${i}`, score: i })),
        );
        expect((await allPages(key, 2, 6)).map(({ score }) => score)).toEqual([9, 8, 7, 6]);
        expect(await allPages(key, 2, 9.5)).toEqual([]);
      });

      it.each(["", "x", "!!", "e30", "WzFd", "WyJhIiwxXQ", "bnVsbA", btoa("[1e999,1]"), "🙂"])(
        "refuse the cursor %j, which is none of theirs",
        async (cursor) => {
          const key = freshIndex();
          await index(key, [{ member: "a", score: 1 }]);
          await expect(storage.listIndex(key, { limit: 1, cursor })).rejects.toThrow(InvalidCursorError);
        },
      );

      it("let go of members, and of all below a score", async () => {
        const key = freshIndex();
        await index(
          key,
          ["a", "b", "c", "d"].map((member, score) => ({ member, score })),
        );
        expect(
          await storage.commit([
            { type: "unindex", key, member: "d" },
            { type: "unindex", key, member: "d" },
            { type: "prune", key, belowScore: 2 },
            { type: "prune", key, belowScore: 2 },
          ]),
        ).toEqual([true, false, 2, 0]);
        expect(await allPages(key, 10)).toEqual([{ member: "c", score: 2 }]);
        expect(await storage.commit([{ type: "unindex", key, member: "c" }])).toEqual([true]);
        expect(await storage.ttl(key)).toBeNull();
      });
    });

    describe("scan", () => {
      it("finds the texts under a prefix, over as many pages as it takes, and nothing else", async () => {
        const prefix = `conv:scan-${freshId()}-`;
        const wanted = Array.from({ length: 130 }, (_, i) => `${prefix}${String(i).padStart(3, "0")}`);
        await storage.commit(wanted.map((key) => ({ type: "set", key, value: "v", ttlSeconds: 600 })));
        await set(`${prefix.slice(0, -1)}_other`, "v");
        await append(`${prefix}list`, "v");
        await index(`${prefix}index`, [{ member: "m", score: 1 }]);
        expect(await scanAll(prefix)).toEqual(wanted);
        expect(await scanAll(`${prefix}00`)).toEqual(wanted.slice(0, 10));
        expect(await scanAll(`${prefix}129`)).toEqual(wanted.slice(-1));
      });

      it.each(["*", "?", "[a-z]", "[^a]", "\\", "%", "_", "'", '"', "ü"])(
        "takes the prefix literally: %s",
        async (sign) => {
          const id = freshId();
          const key = `conv:${id}${sign}:one`;
          await set(key, "v");
          await set(`conv:${id}a:decoy`, "v");
          await set(`conv:${id}:decoy`, "v");
          expect(await scanAll(`conv:${id}${sign}`)).toEqual([key]);
        },
      );

      it("names keys however they were written, and none that were deleted", async () => {
        const prefix = `conv:scan-${freshId()}-`;
        const key = (name: string) => `${prefix}${name}`;
        await storage.claim(key("claimed"), "v", 600);
        await storage.commit([
          { type: "create", key: key("created"), value: "v", ttlSeconds: null },
          { type: "set", key: key("deleted"), value: "v", ttlSeconds: null },
          { type: "set", key: key("removed"), value: "v", ttlSeconds: null },
          { type: "set", key: key("replaced"), value: "v", ttlSeconds: 600 },
        ]);
        await storage.commit([{ type: "delete", key: key("deleted") }]);
        await storage.compareAndSet(key("removed"), "v", null, null);
        await storage.compareAndSet(key("replaced"), "v", "w", 600);
        await storage.compareAndSet(key("never there"), "v", "w", 600);
        await storage.commit([{ type: "touch", key: key("never there"), ttlSeconds: 600 }]);
        expect(await scanAll(prefix)).toEqual([key("claimed"), key("created"), key("replaced")]);
      });

      it("names keys for as long as they live, and no longer", async () => {
        const prefix = `conv:scan-${freshId()}-`;
        const names = ["brief", "created", "read", "swapped", "touched"];
        const [brief, created, read, swapped, touched] = names.map((name) => prefix + name) as [
          string,
          string,
          string,
          string,
          string,
        ];
        for (const key of [brief, read, swapped, touched]) await set(key, "v", 1);
        await set(created, "v", 600);
        await storage.commit([{ type: "create", key: created, value: "w", ttlSeconds: 1 }]);
        await storage.getAndTouch(read, 600);
        await storage.compareAndSet(swapped, "v", "w", 600);
        await storage.commit([{ type: "touch", key: touched, ttlSeconds: null }]);
        expect(await scanAll(prefix)).toEqual([brief, created, read, swapped, touched]);
        await pass(1000);
        await expect.poll(() => storage.ttl(brief), { interval: 5, timeout: 5000 }).toBeNull();
        expect(await scanAll(prefix)).toEqual([created, read, swapped, touched]);
      });
    });

    it("answers a ping", async () => {
      await expect(storage.ping()).resolves.toBeUndefined();
    });
  });
}
