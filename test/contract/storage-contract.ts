/**
 * What every storage must do, run over every driver: one part that concerns texts alone, for every TextStorage,
 * and one for what is a whole Storage. A driver's own test holds only what is its own: how it is reached and how
 * it fails.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { InvalidCursorError, StorageError } from "../../lib/errors.ts";
import { isConversationId, keys } from "../../lib/keys.ts";
import type {
  IndexEntry,
  LogQuery,
  Storage,
  TextStorage,
  TtlSeconds,
  Write,
} from "../../lib/storage/storage.ts";

export type Contestant<S extends TextStorage = Storage> = {
  storage: S;
  close(): Promise<void>;
} & (
  | {
      /** Moves the driver's clock on. */
      advance: (ms: number) => void;
    }
  | {
      advance?: never;
      /** Where the time is not ours to move: seconds the key still lives, as `Storage.ttl`. */
      ttl: (key: string) => Promise<number | null>;
    }
);

export type Traits = {
  /** Whether a commit that meets a key of another kind leaves nothing behind. A Redis transaction does not roll back. */
  rollsBack: boolean;
};

/** Declares the part about texts for one driver; `open` is called once. */
export function textStorageContract(driver: string, open: () => Promise<Contestant<TextStorage>>): void {
  describe(`${driver} keeps the contract about texts`, () => textCases(opened(open)));
}

/** Declares the whole suite for one driver; `open` is called once. */
export function storageContract(driver: string, traits: Traits, open: () => Promise<Contestant>): void {
  describe(`${driver} keeps the storage contract`, () => {
    const contestant = opened(open);
    describe("about texts", () => textCases(contestant));
    describe("about everything else", () => storageCases(contestant, traits));
  });
}

/** Opens before the first case and closes after the last. */
function opened<S extends TextStorage>(open: () => Promise<Contestant<S>>): () => Contestant<S> {
  let contestant: Contestant<S>;
  beforeAll(async () => {
    contestant = await open();
  });
  afterAll(() => contestant?.close());
  return () => contestant;
}

let serial = 0;
/** An id that no other test uses. */
const freshId = () => `id-${++serial}-${crypto.randomUUID().slice(0, 8)}`;
/** A key that stands alone. */
const freshKey = () => `conv:${freshId()}`;
/** A key of a conversation, for whatever kind of value. */
const otherKey = (id: string) => `elevenlabs:conversation:${id}:other`;

/** Texts that some layer on the way might take for something else. */
const AWKWARD_TEXTS: [string, string][] = [
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
];

const TEN_YEARS_MS = 10 * 365 * 24 * 3600 * 1000;

/** Lets time pass, really where the driver's clock cannot be moved. */
async function pass(contestant: Contestant<TextStorage>, ms: number): Promise<void> {
  if (contestant.advance) contestant.advance(ms);
  else await new Promise((resolve) => setTimeout(resolve, ms));
}

function textCases(contestant: () => Contestant<TextStorage>): void {
  let storage: TextStorage;
  beforeAll(() => {
    storage = contestant().storage;
  });

  const setWrite = (key: string, value: string, ttlSeconds: TtlSeconds = 600) =>
    ({ type: "set", key, value, ttlSeconds }) as const;
  const set = (...args: Parameters<typeof setWrite>) => storage.commit([setWrite(...args)]);

  /** Walks to the text's last millisecond and over it; where the clock cannot be moved, asks how long it lives. */
  async function expectToLive(key: string, ttlSeconds: TtlSeconds): Promise<void> {
    const { advance, ...others } = contestant();
    if (advance === undefined) {
      const left = "ttl" in others ? await others.ttl(key) : null;
      expect(left).toBeGreaterThan(ttlSeconds === null ? Number.MAX_VALUE : ttlSeconds - 5);
      expect(left).toBeLessThanOrEqual(ttlSeconds ?? Number.POSITIVE_INFINITY);
      return;
    }
    advance(ttlSeconds === null ? TEN_YEARS_MS : ttlSeconds * 1000 - 1);
    expect(await storage.get(key)).not.toBeNull();
    if (ttlSeconds === null) return;
    advance(1);
    expect(await storage.get(key)).toBeNull();
  }

  describe("a text", () => {
    it.each(AWKWARD_TEXTS)("comes back as it was written: %s", async (_, value) => {
      const key = freshKey();
      await set(key, value);
      expect(await storage.get(key)).toBe(value);
      expect(await storage.getAndTouch(key, 600)).toBe(value);
      expect(await storage.commit([{ type: "get", key }])).toEqual([value]);
      const seen: string[] = [];
      expect(await storage.update(key, (standing) => `${seen.push(standing)}`, 600)).toBe(true);
      expect(seen).toEqual([value]);
    });

    it("is absent before it is written, and reading makes none", async () => {
      const key = freshKey();
      expect(await storage.get(key)).toBeNull();
      expect(await storage.getAndTouch(key, 600)).toBeNull();
      expect(await storage.commit([{ type: "get", key, ttlSeconds: 600 }])).toEqual([null]);
      expect(await storage.get(key)).toBeNull();
    });

    it("is overwritten by set, and removed by delete, which says whether it was there", async () => {
      const key = freshKey();
      expect(await set(key, "one")).toEqual([null]);
      expect(await set(key, "two")).toEqual([null]);
      expect(await storage.get(key)).toBe("two");
      expect(await storage.commit([{ type: "delete", key }])).toEqual([true]);
      expect(await storage.commit([{ type: "delete", key }])).toEqual([false]);
      expect(await storage.get(key)).toBeNull();
    });

    it("is created only where nothing stands, and says whether it was", async () => {
      const key = freshKey();
      const create = (value: string) => ({ type: "create", key, value, ttlSeconds: 600 }) as const;
      expect(await storage.commit([create("first")])).toEqual([true]);
      expect(await storage.commit([create("second")])).toEqual([false]);
      expect(await storage.get(key)).toBe("first");
    });

    it("is created by exactly one of twenty", async () => {
      const key = freshKey();
      const values = Array.from({ length: 20 }, (_, i) => `value ${i}`);
      const answers = await Promise.all(
        values.map((value) => storage.commit([{ type: "create", key, value, ttlSeconds: 600 }])),
      );
      const winners = values.filter((_, i) => answers[i]?.[0]);
      expect(winners).toEqual([await storage.get(key)]);
    });

    it("stands under ids of every allowed character and length", async () => {
      const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
      const ids = [alphabet, "0", "a".repeat(128), "a-._", "A..", "constructor", "__proto__".slice(2)];
      expect(ids.every(isConversationId)).toBe(true);
      for (const key of ids.flatMap((id) => [keys.state(id), keys.memory(id)])) {
        await set(key, `at ${key}`);
        expect(await storage.get(key)).toBe(`at ${key}`);
        expect(await storage.commit([{ type: "delete", key }])).toEqual([true]);
      }
    });
  });

  describe("update", () => {
    it("writes what the change makes of what stands", async () => {
      const key = freshKey();
      await set(key, "a");
      expect(await storage.update(key, (standing) => `${standing}b`, 600)).toBe(true);
      expect(await storage.get(key)).toBe("ab");
    });

    it("does not ask for a change where nothing stands, and creates nothing", async () => {
      const key = freshKey();
      let asked = 0;
      expect(await storage.update(key, () => `${++asked}`, 600)).toBe(false);
      expect([asked, await storage.get(key)]).toEqual([0, null]);
    });

    it("leaves what stands, and its time, where the change makes nothing", async () => {
      const key = freshKey();
      await set(key, "a", 100);
      expect(await storage.update(key, () => undefined, 600)).toBe(false);
      expect(await storage.get(key)).toBe("a");
      await expectToLive(key, 100);
    });

    it("removes where the change makes null", async () => {
      const key = freshKey();
      await set(key, "a");
      expect(await storage.update(key, () => null, 600)).toBe(true);
      expect(await storage.get(key)).toBeNull();
      expect(await storage.update(key, () => "b", 600)).toBe(false);
    });

    it("takes the empty text for a text", async () => {
      const key = freshKey();
      await set(key, "");
      expect(await storage.update(key, (standing) => `${standing}a`, 600)).toBe(true);
      expect(await storage.update(key, () => "", 600)).toBe(true);
      expect(await storage.get(key)).toBe("");
    });

    it("passes on what the change throws, and has then changed nothing", async () => {
      const key = freshKey();
      await set(key, "a", 100);
      const failing = storage.update(
        key,
        () => {
          throw new TypeError("no");
        },
        600,
      );
      await expect(failing).rejects.toThrow(new TypeError("no"));
      expect(await storage.get(key)).toBe("a");
      await expectToLive(key, 100);
    });

    it("twenty at once are all applied", async () => {
      const key = freshKey();
      await set(key, "0");
      const one = () => storage.update(key, (standing) => String(Number(standing) + 1), 600);
      expect(await Promise.all(Array.from({ length: 20 }, one))).toEqual(Array(20).fill(true));
      expect(await storage.get(key)).toBe("20");
    });

    it("lets one of twenty through where all want the same", async () => {
      const key = freshKey();
      await set(key, "a");
      const one = () => storage.update(key, (standing) => (standing === "a" ? "b" : undefined), 600);
      const answers = await Promise.all(Array.from({ length: 20 }, one));
      expect(answers.filter((done) => done)).toHaveLength(1);
      expect(await storage.get(key)).toBe("b");
    });
  });

  describe("time to live", () => {
    const writers: Record<string, (key: string, ttlSeconds: TtlSeconds) => Promise<unknown>> = {
      set: (key, ttlSeconds) => set(key, "w", ttlSeconds),
      "set over what stands": async (key, ttlSeconds) => {
        await set(key, "v", 100);
        await set(key, "w", ttlSeconds);
      },
      create: (key, ttlSeconds) => storage.commit([{ type: "create", key, value: "w", ttlSeconds }]),
      touch: async (key, ttlSeconds) => {
        await set(key, "v", 100);
        expect(await storage.commit([{ type: "touch", key, ttlSeconds }])).toEqual([true]);
      },
      update: async (key, ttlSeconds) => {
        await set(key, "v", 100);
        await storage.update(key, () => "w", ttlSeconds);
      },
      getAndTouch: async (key, ttlSeconds) => {
        await set(key, "v", 100);
        await storage.getAndTouch(key, ttlSeconds);
      },
      "a read in a commit": async (key, ttlSeconds) => {
        await set(key, "v", 100);
        await storage.commit([{ type: "get", key, ttlSeconds }]);
      },
    };
    it.each(Object.entries(writers))("starts anew with %s, to the last millisecond", async (_, write) => {
      for (const ttlSeconds of [50, 200, 0.75, null]) {
        const key = freshKey();
        await write(key, ttlSeconds);
        await expectToLive(key, ttlSeconds);
      }
    });

    it("is not started anew by a read, or by a create where something stands", async () => {
      const key = freshKey();
      await set(key, "v", 100);
      await pass(contestant(), 30);
      await storage.get(key);
      await storage.commit([{ type: "get", key }]);
      await storage.commit([{ type: "create", key, value: "w", ttlSeconds: 600 }]);
      await expectToLive(key, 99.97);
    });

    it("is not given to what does not stand", async () => {
      const key = freshKey();
      expect(await storage.commit([{ type: "touch", key, ttlSeconds: 600 }])).toEqual([false]);
      expect(await storage.commit([{ type: "touch", key, ttlSeconds: null }])).toEqual([false]);
      expect(await storage.getAndTouch(key, 600)).toBeNull();
      expect(await storage.get(key)).toBeNull();
    });

    it("leaves nothing that a write would find", async () => {
      const brief = async () => {
        const key = freshKey();
        await set(key, "old", 0.1);
        await pass(contestant(), 100);
        await expect.poll(() => storage.get(key), { interval: 5, timeout: 5000 }).toBeNull();
        return key;
      };
      const [a, b, c, d] = [await brief(), await brief(), await brief(), await brief()];
      expect(await storage.update(a, () => "new", 600)).toBe(false);
      expect(await storage.commit([{ type: "touch", key: b, ttlSeconds: 600 }])).toEqual([false]);
      expect(await storage.commit([{ type: "delete", key: c }])).toEqual([false]);
      expect(await storage.commit([{ type: "create", key: d, value: "new", ttlSeconds: 600 }])).toEqual([
        true,
      ]);
    });

    it.each([0, -1, Number.NaN, 0.0001])("cannot be %s seconds", async (ttlSeconds) => {
      const key = freshKey();
      await expect(set(key, "v", ttlSeconds)).rejects.toThrow(RangeError);
      await expect(storage.getAndTouch(key, ttlSeconds)).rejects.toThrow(RangeError);
      await expect(storage.update(key, () => "w", ttlSeconds)).rejects.toThrow(RangeError);
      expect(await storage.get(key)).toBeNull();
    });
  });

  describe("a commit", () => {
    it("applies its writes in order and answers each, the reads as things stand at their place", async () => {
      const key = freshKey();
      const results = await storage.commit([
        { type: "get", key },
        { type: "create", key, value: "one", ttlSeconds: 600 },
        { type: "get", key },
        { type: "create", key, value: "never", ttlSeconds: 600 },
        { type: "touch", key, ttlSeconds: 600 },
        { type: "delete", key },
        { type: "delete", key },
        { type: "touch", key, ttlSeconds: 600 },
        { type: "get", key, ttlSeconds: 600 },
        setWrite(key, "two"),
        { type: "get", key, ttlSeconds: 600 },
      ]);
      expect(results).toEqual([null, true, "one", false, true, true, false, false, null, null, "two"]);
      expect(await storage.get(key)).toBe("two");
    });

    it("of nothing does nothing", async () => {
      expect(await storage.commit([])).toEqual([]);
    });

    it("leaves nothing of it where a write asks for a time to live of nothing", async () => {
      const key = freshKey();
      await expect(storage.commit([setWrite(key, "v"), setWrite(key, "w", 0)])).rejects.toThrow(RangeError);
      expect(await storage.get(key)).toBeNull();
    });
  });

  it("answers a ping", async () => {
    await expect(storage.ping()).resolves.toBeUndefined();
  });
}

function storageCases(contestant: () => Contestant, { rollsBack }: Traits): void {
  let storage: Storage;
  beforeAll(() => {
    storage = contestant().storage;
  });

  const freshIndex = () => `index:${freshId()}`;
  const set = (key: string, value: string, ttlSeconds: TtlSeconds = 600) =>
    storage.commit([{ type: "set", key, value, ttlSeconds }]);
  const append = (key: string, value: string, { maxLength = 1000, ttlSeconds = 600 as TtlSeconds } = {}) =>
    storage.commit([{ type: "append", key, value, maxLength, ttlSeconds }]);
  const index = (key: string, entries: readonly IndexEntry[]) =>
    storage.commit(entries.map((entry): Write => ({ type: "index", key, ...entry })));

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

  const log = (key: string, value: string, maxLength = 10_000): Write => ({
    type: "log",
    key,
    value,
    maxLength,
  });

  const rejected = (promise: Promise<unknown>) =>
    expect(promise).rejects.toSatisfy(
      (error) =>
        error instanceof StorageError && error.failure === "rejected" && error.driver === storage.name,
    );

  it("nothing stands where nothing was written", async () => {
    const key = freshKey();
    expect(await storage.getMany([key])).toEqual([null]);
    expect(await storage.ttl(key)).toBeNull();
    expect(await storage.range(key, 0, -1)).toEqual([]);
    expect(await storage.listIndex(key, { limit: 10 })).toEqual({ entries: [] });
    expect(await storage.readLog(key, { limit: 10 })).toEqual([]);
  });

  it("many texts are read in the order of the keys, whatever place each has", async () => {
    const [a, b, absent] = [freshId(), freshId(), freshKey()];
    const wanted = [keys.session(b), freshKey(), keys.conversation(a), keys.session(a)];
    await storage.commit(wanted.map((key) => ({ type: "set", key, value: `at ${key}`, ttlSeconds: 600 })));
    const asked = [...wanted.toReversed(), absent, wanted[0] ?? ""];
    expect(await storage.getMany(asked)).toEqual(asked.map((key) => (key === absent ? null : `at ${key}`)));
    expect(await storage.getMany([])).toEqual([]);
  });

  describe("time to live", () => {
    it("ends a text and a list at its last millisecond and not before", async () => {
      const id = freshId();
      const [text, list] = [keys.session(id), keys.messages(id)];
      const { advance } = contestant();
      const ttlSeconds = advance ? 600 : 1;
      const started = Date.now();
      await storage.commit([
        { type: "set", key: text, value: "v", ttlSeconds },
        { type: "append", key: list, value: "v", maxLength: 10, ttlSeconds },
      ]);
      if (advance) {
        advance(599_999);
        expect([await storage.get(text), await storage.range(list, 0, -1)]).toEqual(["v", ["v"]]);
        expect(await storage.ttl(text)).toBe(0.001);
        advance(1);
      } else {
        expect([await storage.get(text), await storage.range(list, 0, -1)]).toEqual(["v", ["v"]]);
        await expect.poll(() => storage.ttl(list), { interval: 5, timeout: 5000 }).toBeNull();
        expect(Date.now() - started).toBeGreaterThanOrEqual(999);
      }
      expect([await storage.get(text), await storage.range(list, 0, -1)]).toEqual([null, []]);
      expect([await storage.ttl(text), await storage.ttl(list)]).toEqual([null, null]);
    });

    it("leaves nothing of a list that a write would find", async () => {
      const id = freshId();
      const [a, b] = [keys.messages(id), otherKey(id)];
      await append(a, "old", { ttlSeconds: 0.2 });
      await append(b, "old", { ttlSeconds: 0.2 });
      await pass(contestant(), 200);
      await expect.poll(() => storage.ttl(b), { interval: 5, timeout: 5000 }).toBeNull();
      const results = await storage.commit([
        { type: "append", key: a, value: "new", maxLength: 1, ttlSeconds: 600 },
        { type: "remove", key: b, value: "old" },
        { type: "index", key: b, member: "new", score: 1 },
      ]);
      expect(results).toEqual([0, 0, null]);
      expect(await storage.range(a, 0, -1)).toEqual(["new"]);
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

    it.each(["append", "touch"])("of a list starts anew with %s", async (what) => {
      const list = keys.messages(freshId());
      await append(list, "v", { ttlSeconds: 100 });
      for (const ttlSeconds of [200, null]) {
        if (what === "append") await append(list, "w", { ttlSeconds });
        else expect(await storage.commit([{ type: "touch", key: list, ttlSeconds }])).toEqual([true]);
        const ttl = await storage.ttl(list);
        expect(ttl).toBeGreaterThan(150);
        expect(ttl).toBeLessThanOrEqual(ttlSeconds ?? Number.POSITIVE_INFINITY);
      }
      expect(await storage.ttl(list)).toBe(Number.POSITIVE_INFINITY);
    });

    it("is not started anew by reads or by removing from a list", async () => {
      const id = freshId();
      const [text, list] = [keys.session(id), keys.messages(id)];
      await set(text, "v", 100);
      await append(list, "v", { ttlSeconds: 100 });
      await append(list, "w", { ttlSeconds: 100 });
      await pass(contestant(), 30);
      await storage.getMany([text]);
      await storage.ttl(text);
      await storage.range(list, 0, -1);
      await storage.commit([{ type: "remove", key: list, value: "w" }]);
      expect(await storage.ttl(text)).toBeLessThanOrEqual(99.97);
      expect(await storage.ttl(list)).toBeLessThanOrEqual(99.97);
    });
  });

  describe("a commit", () => {
    it("answers one result a write, in their order, across conversations and indexes", async () => {
      const [a, b, alone] = [freshId(), freshId(), freshKey()];
      const members = freshIndex();
      const results = await storage.commit([
        { type: "set", key: keys.session(a), value: "s", ttlSeconds: 600 },
        { type: "create", key: keys.conversation(b), value: "c", ttlSeconds: null },
        { type: "index", key: members, member: a, score: 1 },
        { type: "append", key: keys.messages(a), value: "m1", maxLength: 1, ttlSeconds: 600 },
        { type: "append", key: keys.messages(a), value: "m2", maxLength: 1, ttlSeconds: 600 },
        { type: "get", key: alone },
        { type: "get", key: keys.session(a), ttlSeconds: 600 },
        { type: "remove", key: keys.messages(a), value: "m2" },
        { type: "unindex", key: members, member: b },
        { type: "prune", key: members, belowScore: 5 },
        { type: "touch", key: keys.session(a), ttlSeconds: 100 },
        { type: "delete", key: keys.conversation(b) },
        { type: "delete", key: otherKey(b) },
      ]);
      expect(results).toEqual([null, true, null, 0, 1, null, "s", 1, false, 1, true, true, false]);
    });

    it.each<[string, Write]>([
      ["a time to live of nothing", { type: "get", key: "conv:x", ttlSeconds: 0 }],
      ["a list of no length", { type: "append", key: "conv:x", value: "v", maxLength: 0, ttlSeconds: 600 }],
      [
        "a list with less than no slack",
        { type: "append", key: "conv:x", value: "v", maxLength: 1, slack: -1, ttlSeconds: 600 },
      ],
      ["a log of no length", { type: "log", key: "conv:x", value: "v", maxLength: 0 }],
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

    it("may make a key that was emptied one of another kind", async () => {
      const key = freshKey();
      const results = await storage.commit([
        { type: "index", key, member: "m", score: 1 },
        { type: "prune", key, belowScore: 2 },
        { type: "append", key, value: "v", maxLength: 1, ttlSeconds: null },
        { type: "remove", key, value: "v" },
        { type: "create", key, value: "text", ttlSeconds: null },
      ]);
      expect(results).toEqual([null, 1, 0, 1, true]);
    });
  });

  describe("keys of another kind", () => {
    it("are refused, not read as absent", async () => {
      const [text, list, scores, journal] = [freshKey(), freshKey(), freshKey(), freshKey()];
      await set(text, "v");
      await append(list, "v");
      await index(scores, [{ member: "m", score: 1 }]);
      await storage.commit([log(journal, "v")]);
      await rejected(storage.get(list));
      await rejected(storage.get(journal));
      await rejected(storage.get(scores));
      await rejected(storage.getAndTouch(list, 600));
      await rejected(storage.commit([{ type: "get", key: list }]));
      await rejected(storage.range(text, 0, -1));
      await rejected(storage.listIndex(list, { limit: 1 }));
      await rejected(storage.update(list, () => "w", 600));
      await rejected(storage.commit([{ type: "remove", key: text, value: "v" }]));
      await rejected(storage.commit([{ type: "index", key: list, member: "m", score: 1 }]));
      await rejected(storage.commit([{ type: "unindex", key: text, member: "m" }]));
      await rejected(storage.commit([{ type: "prune", key: text, belowScore: 1 }]));
      await rejected(storage.commit([log(list, "v")]));
      await rejected(storage.readLog(text, { limit: 1 }));
      expect(await storage.getMany([text, list, scores, journal])).toEqual(["v", null, null, null]);
      expect(await storage.range(list, 0, -1)).toEqual(["v"]);
    });

    it("stand in the way of a create", async () => {
      const list = freshKey();
      await append(list, "v");
      expect(await storage.commit([{ type: "create", key: list, value: "text", ttlSeconds: 600 }])).toEqual([
        false,
      ]);
      expect(await storage.range(list, 0, -1)).toEqual(["v"]);
    });
  });

  describe("lists", () => {
    it("keep the newest entries and say how many stood there before", async () => {
      const key = keys.messages(freshId());
      const before: number[] = [];
      for (const value of ["a", "b", "c", "d"]) before.push(...(await append(key, value, { maxLength: 2 })));
      expect(before).toEqual([0, 1, 2, 2]);
      expect(await storage.range(key, 0, -1)).toEqual(["c", "d"]);
      expect(await append(key, "e", { maxLength: 1 })).toEqual([2]);
      expect(await storage.range(key, 0, -1)).toEqual(["e"]);
    });

    it("let some more stand where they may, and drop those together", async () => {
      const key = keys.messages(freshId());
      const writes = ["a", "b", "c", "d", "e"].map(
        (value) => ({ type: "append", key, value, maxLength: 2, slack: 2, ttlSeconds: 600 }) as const,
      );
      expect(await storage.commit(writes.slice(0, 3))).toEqual([0, 1, 2]);
      expect(await storage.commit(writes.slice(3))).toEqual([3, 4]);
      expect(await storage.range(key, 0, -1)).toEqual(["d", "e"]);
      expect(await storage.commit([...writes, ...writes.slice(0, 2)])).toEqual([2, 3, 4, 2, 3, 4, 2]);
      expect(await storage.range(key, 0, -1)).toEqual(["e", "a", "b"]);
    });

    it("are capped within one commit as one append after the other would", async () => {
      const key = keys.messages(freshId());
      const writes = ["a", "b", "c", "d"].map(
        (value) => ({ type: "append", key, value, maxLength: 2, ttlSeconds: 600 }) as const,
      );
      expect(await storage.commit(writes)).toEqual([0, 1, 2, 2]);
      expect(await storage.range(key, 0, -1)).toEqual(["c", "d"]);
    });

    it("give every text back as it was appended", async () => {
      const key = keys.messages(freshId());
      const texts = AWKWARD_TEXTS.map(([, text]) => text);
      await storage.commit(
        texts.map((value) => ({ type: "append", key, value, maxLength: 100, ttlSeconds: 600 })),
      );
      expect(await storage.range(key, 0, -1)).toEqual(texts);
    });

    it("keep repetitions and the order of appending", async () => {
      const key = otherKey(freshId());
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
      const key = otherKey(freshId());
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

  describe("logs", () => {
    const values = async (key: string, query: Partial<LogQuery> = {}) =>
      (await storage.readLog(key, { limit: 100, ...query })).map(({ value }) => value);

    it.each(AWKWARD_TEXTS)("give back what was written: %s", async (_, value) => {
      const key = freshIndex();
      expect(await storage.commit([log(key, value)])).toEqual([null]);
      expect(await values(key)).toEqual([value]);
      expect(await storage.ttl(key)).toBe(Number.POSITIVE_INFINITY);
    });

    it("are read newest first, by pages that go on below the last entry whatever comes meanwhile", async () => {
      const key = freshIndex();
      await storage.commit(["a", "b", "c", "d", "e"].map((value) => log(key, value)));
      const [newest, second] = await storage.readLog(key, { limit: 2 });
      expect([newest?.value, second?.value]).toEqual(["e", "d"]);
      await storage.commit([log(key, "f")]);
      expect(await values(key, { limit: 2, before: second?.id ?? "" })).toEqual(["c", "b"]);
      expect(await values(key)).toEqual(["f", "e", "d", "c", "b", "a"]);
    });

    it("say when each entry was written, and are read from a time on", async () => {
      const key = freshIndex();
      await storage.commit([log(key, "old")]);
      await pass(contestant(), 20);
      await storage.commit([log(key, "new")]);
      const [newest, oldest] = await storage.readLog(key, { limit: 10 });
      const at = Number(newest?.id.split("-")[0]);
      expect(at - Number(oldest?.id.split("-")[0])).toBeGreaterThanOrEqual(15);
      expect(await values(key, { since: at })).toEqual(["new"]);
      expect(await values(key, { since: at - 0.5 })).toEqual(["new"]);
      expect(await values(key, { since: at + 1 })).toEqual([]);
    });

    it("keep as many entries as asked for, and let the oldest go sooner or later", async () => {
      const key = freshIndex();
      // Redis drops whole nodes of a stream, of a hundred entries each.
      for (let i = 0; i < 30; i++) {
        await storage.commit(Array.from({ length: 20 }, (_, j) => log(key, `${20 * i + j}`, 150)));
      }
      const kept = await values(key, { limit: 1000 });
      expect(kept.length).toBeGreaterThanOrEqual(150);
      expect(kept.length).toBeLessThan(300);
      expect(kept).toEqual(kept.map((_, i) => `${599 - i}`));
    });

    it.each(["", "x", "12", "1-", "-1", "1-2-3", "(1-2", "+", "1e3-0"])(
      "refuse %j, which is no entry of theirs",
      async (before) => {
        await expect((async () => storage.readLog(freshIndex(), { limit: 1, before }))()).rejects.toThrow(
          InvalidCursorError,
        );
      },
    );

    it("have nothing before the first entry that there could be, and all since before there were any", async () => {
      const key = freshIndex();
      await storage.commit([log(key, "v")]);
      expect(await values(key, { before: "0-0" })).toEqual([]);
      expect(await values(key, { before: "0-1" })).toEqual([]);
      expect(await values(key, { before: "999999999999999-999999" })).toEqual(["v"]);
      for (const year of ["1969", "0001"]) {
        expect(await values(key, { since: Date.parse(`${year}-01-01T00:00:00Z`) })).toEqual(["v"]);
      }
      expect(await values(key, { since: Date.parse("9999-12-31T23:59:59Z") })).toEqual([]);
    });

    it("are deleted like any key", async () => {
      const key = freshIndex();
      expect(await storage.commit([log(key, "v"), { type: "delete", key }])).toEqual([null, true]);
      expect(await values(key)).toEqual([]);
    });
  });
}
