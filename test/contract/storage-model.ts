/**
 * Every Storage against a plain map with a clock: random commands go to both, and both must give the same
 * answers. Where the contract suite names the cases that somebody thought of, this finds the others: writes
 * in every order, on keys of every kind, around every expiry.
 *
 * What the interface leaves open is never asked: a commit that is refused over more than one partition, and
 * what a driver's traits say it does not promise.
 */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { StorageError } from "../../lib/errors.ts";
import { keys, partitionOf } from "../../lib/keys.ts";
import type { Change, IndexEntry, Storage, TtlSeconds, Write } from "../../lib/storage/storage.ts";
import type { Contestant, Traits } from "./storage-contract.ts";

export type ModelContestant = Contestant & {
  /** Does to the place where this key is kept what must make no difference: evicts an object, say. */
  disturb?: (key: string) => Promise<void>;
};

export type ModelTraits = Traits & {
  /** How many random runs, each of up to {@link MAX_COMMANDS} commands. */
  runs: number;
};

const MAX_COMMANDS = 40;

/** Shrinking stops here and reports the shortest counterexample so far. */
const TIME_LIMIT_MS = 40_000;

/** Declares the model-based test for one driver; `open` is called once, and each run has keys of its own. */
export function storageModel(
  driver: string,
  { rollsBack, runs }: ModelTraits,
  open: () => Promise<ModelContestant>,
): void {
  describe(`${driver} does what a plain map with a clock does`, () => {
    let contestant: ModelContestant;
    beforeAll(async () => {
      contestant = await open();
    });
    afterAll(() => contestant?.close());

    it(`in ${runs} random runs`, { timeout: TIME_LIMIT_MS + 10_000 }, async () => {
      const series = crypto.randomUUID().slice(0, 8);
      let serial = 0;
      const commands = fc.commands(commandsFor(contestant, rollsBack), { maxCommands: MAX_COMMANDS });
      await fc.assert(
        fc.asyncProperty(commands, async (commands) => {
          const model = new PlainMap();
          const real: Real = { contestant, run: `${series}-${++serial}` };
          await fc.asyncModelRun(() => ({ model, real }), commands);
          await Promise.all(audit(model, contestant).map((command) => command.run(model, real)));
        }),
        { numRuns: runs, interruptAfterTimeLimit: TIME_LIMIT_MS, markInterruptAsFailure: true },
      );
    });
  });
}

// --- The keys: few, so that commands meet ----------------------------------------------------------------------

const A_CONVERSATION = {
  "A/session": (run: string) => keys.session(`${run}-A`),
  "A/conversation": (run: string) => keys.conversation(`${run}-A`),
  "A/messages": (run: string) => keys.messages(`${run}-A`),
  "B/session": (run: string) => keys.session(`${run}-B`),
} as const;
const ALONE = ["x", "y", "list", "index", "log"] as const;
type Name = keyof typeof A_CONVERSATION | (typeof ALONE)[number];
const NAMES = [...(Object.keys(A_CONVERSATION) as (keyof typeof A_CONVERSATION)[]), ...ALONE] as const;

/** What a key is for. Commands keep to it mostly, because a key of the wrong kind only ever refuses. */
const TEXTS: readonly Name[] = ["A/session", "A/conversation", "B/session", "x", "y"];
const LISTS: readonly Name[] = ["A/messages", "list"];
const INDEXES: readonly Name[] = ["index"];
const LOGS: readonly Name[] = ["log"];

const keyOf = (run: string, name: string) =>
  A_CONVERSATION[name as keyof typeof A_CONVERSATION]?.(run) ?? `model:${run}:${name}`;

// --- The model --------------------------------------------------------------------------------------------------

class WrongKind extends Error {}

type Content = string | string[] | Map<string, number> | Log;
/** Oldest first. Which time stands in the ids of the entries is not asked. */
type Log = { log: readonly string[] };

function isLog(content: Content): content is Log {
  return typeof content === "object" && "log" in content;
}

/** The storage as it would be if it were a map in one place. Methods are those of `Storage`, at once and whole. */
class PlainMap {
  nowMs = 0;
  #entries = new Map<string, { content: Content; expiresAt: number }>();

  get(key: string): string | null {
    return this.#text(key) ?? null;
  }

  getMany(keys: readonly string[]): (string | null)[] {
    return keys.map((key) => {
      const content = this.#find(key)?.content;
      return typeof content === "string" ? content : null;
    });
  }

  getAndTouch(key: string, ttlSeconds: TtlSeconds): string | null {
    const text = this.#text(key);
    if (text !== undefined) this.#put(key, text, ttlSeconds);
    return text ?? null;
  }

  ttl(key: string): number | null {
    const entry = this.#find(key);
    return entry ? (entry.expiresAt - this.nowMs) / 1000 : null;
  }

  range(key: string, start: number, stop: number): string[] {
    const items = this.#list(key) ?? [];
    const from = start < 0 ? items.length + start : start;
    const to = stop < 0 ? items.length + stop : stop;
    return items.filter((_, i) => i >= from && i <= to);
  }

  /** The whole index; pages are cut from it. */
  listIndex(key: string, minScore = Number.NEGATIVE_INFINITY): IndexEntry[] {
    return [...(this.#index(key) ?? [])]
      .map(([member, score]) => ({ member, score }))
      .filter(({ score }) => score >= minScore)
      .sort((a, b) => b.score - a.score || (a.member < b.member ? 1 : -1));
  }

  update(key: string, change: Change, ttlSeconds: TtlSeconds): boolean {
    const standing = this.#text(key);
    const next = standing === undefined ? undefined : change(standing);
    if (next === null) this.#entries.delete(key);
    else if (next !== undefined) this.#put(key, next, ttlSeconds);
    return next !== undefined;
  }

  commit(writes: readonly Write[]): unknown[] {
    const before = structuredClone(this.#entries);
    try {
      return writes.map((write) => this.#apply(write));
    } catch (error) {
      this.#entries = before;
      throw error;
    }
  }

  refuses(writes: readonly Write[]): boolean {
    const before = structuredClone(this.#entries);
    try {
      this.commit(writes);
      return false;
    } catch (error) {
      if (error instanceof WrongKind) return true;
      throw error;
    } finally {
      this.#entries = before;
    }
  }

  /** Newest first. */
  readLog(key: string, limit: number): string[] {
    return [...(this.#log(key) ?? [])].reverse().slice(0, limit);
  }

  kindOf(key: string): "text" | "list" | "index" | "log" | null {
    const content = this.#find(key)?.content;
    if (content === undefined) return null;
    if (isLog(content)) return "log";
    return typeof content === "string" ? "text" : Array.isArray(content) ? "list" : "index";
  }

  #apply(write: Write): string | boolean | number | null {
    const { key } = write;
    switch (write.type) {
      case "set":
        this.#put(key, write.value, write.ttlSeconds);
        return null;
      case "create": {
        const stands = this.#find(key) !== undefined;
        if (!stands) this.#put(key, write.value, write.ttlSeconds);
        return !stands;
      }
      case "get": {
        const { ttlSeconds } = write;
        return ttlSeconds === undefined ? this.get(key) : this.getAndTouch(key, ttlSeconds);
      }
      case "touch": {
        const entry = this.#find(key);
        if (entry) this.#put(key, entry.content, write.ttlSeconds);
        return entry !== undefined;
      }
      case "delete":
        return this.#find(key) !== undefined && this.#entries.delete(key);
      case "append": {
        const items = [...(this.#list(key) ?? []), write.value];
        const kept =
          items.length > write.maxLength + (write.slack ?? 0) ? items.slice(-write.maxLength) : items;
        this.#put(key, kept, write.ttlSeconds);
        return items.length - 1;
      }
      case "remove": {
        const items = this.#list(key) ?? [];
        const kept = items.filter((item) => item !== write.value);
        this.#replace(key, kept);
        return items.length - kept.length;
      }
      case "index":
        this.#replace(key, new Map([...(this.#index(key) ?? []), [write.member, write.score]]));
        return null;
      case "unindex": {
        const scores = [...(this.#index(key) ?? [])];
        const kept = scores.filter(([member]) => member !== write.member);
        this.#replace(key, new Map(kept));
        return kept.length < scores.length;
      }
      case "prune": {
        const scores = [...(this.#index(key) ?? [])];
        const kept = scores.filter(([, score]) => score >= write.belowScore);
        this.#replace(key, new Map(kept));
        return scores.length - kept.length;
      }
      case "log": {
        const expiresAt = this.#find(key)?.expiresAt ?? Number.POSITIVE_INFINITY;
        const content = { log: [...(this.#log(key) ?? []), write.value] };
        this.#entries.set(key, { content, expiresAt });
        return null;
      }
    }
  }

  #find(key: string): { content: Content; expiresAt: number } | undefined {
    const entry = this.#entries.get(key);
    return entry && this.nowMs < entry.expiresAt ? entry : undefined;
  }

  #put(key: string, content: Content, ttlSeconds: TtlSeconds): void {
    const lifeMs = ttlSeconds === null ? Number.POSITIVE_INFINITY : Math.round(ttlSeconds * 1000);
    this.#entries.set(key, { content, expiresAt: this.nowMs + lifeMs });
  }

  /** Other content in the time that is left. What has become empty is not there. */
  #replace(key: string, content: string[] | Map<string, number>): void {
    const expiresAt = this.#find(key)?.expiresAt ?? Number.POSITIVE_INFINITY;
    const size = Array.isArray(content) ? content.length : content.size;
    if (size === 0) this.#entries.delete(key);
    else this.#entries.set(key, { content, expiresAt });
  }

  #text(key: string): string | undefined {
    const content = this.#find(key)?.content;
    if (content !== undefined && typeof content !== "string") throw new WrongKind();
    return content;
  }

  #list(key: string): string[] | undefined {
    const content = this.#find(key)?.content;
    if (content !== undefined && !Array.isArray(content)) throw new WrongKind();
    return content;
  }

  #log(key: string): readonly string[] | undefined {
    const content = this.#find(key)?.content;
    if (content !== undefined && !isLog(content)) throw new WrongKind();
    return content?.log;
  }

  #index(key: string): Map<string, number> | undefined {
    const content = this.#find(key)?.content;
    if (content !== undefined && !(content instanceof Map)) throw new WrongKind();
    return content;
  }
}

// --- The commands: one question, asked of both ------------------------------------------------------------------

type Real = { contestant: ModelContestant; run: string };
type Command = fc.AsyncCommand<PlainMap, Real>;
type Ask = {
  /** The command as it stands in a counterexample. */
  label: string;
  /** Whether the interface says what must come of it. Left out: always. */
  isDefined?: (model: PlainMap) => boolean;
  ofModel: (model: PlainMap) => unknown;
  ofStorage: (storage: Storage, key: (name: string) => string) => Promise<unknown>;
};

const REFUSED = "refused: a key holds another kind of value";

function command({ label, isDefined = () => true, ofModel, ofStorage }: Ask): Command {
  return {
    check: isDefined,
    async run(model, { contestant: { storage }, run }) {
      const expected = modelAnswer(() => ofModel(model));
      const actual = await storageAnswer(() => ofStorage(storage, (name) => keyOf(run, name)));
      expect(actual, label).toEqual(expected);
    },
    toString: () => label,
  };
}

function modelAnswer(ask: () => unknown): unknown {
  try {
    return ask();
  } catch (error) {
    if (error instanceof WrongKind) return REFUSED;
    throw error;
  }
}

async function storageAnswer(ask: () => Promise<unknown>): Promise<unknown> {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof StorageError && error.failure === "rejected") return REFUSED;
    throw error;
  }
}

const labelled = (name: string, ...args: unknown[]) =>
  `${name}(${args.map((arg) => JSON.stringify(arg)).join(", ")})`;

const getCommand = (key: string) =>
  command({
    label: labelled("get", key),
    ofModel: (model) => model.get(key),
    ofStorage: (storage, keyOf) => storage.get(keyOf(key)),
  });

const getManyCommand = (names: readonly string[]) =>
  command({
    label: labelled("getMany", names),
    ofModel: (model) => model.getMany(names),
    ofStorage: (storage, keyOf) => storage.getMany(names.map(keyOf)),
  });

const getAndTouchCommand = (key: string, ttlSeconds: TtlSeconds) =>
  command({
    label: labelled("getAndTouch", key, ttlSeconds),
    ofModel: (model) => model.getAndTouch(key, ttlSeconds),
    ofStorage: (storage, keyOf) => storage.getAndTouch(keyOf(key), ttlSeconds),
  });

/** Exact where the clock stands still; otherwise to the next whole minute, which the run does not outlast. */
const ttlCommand = (key: string, { advance }: ModelContestant) => {
  const read = (seconds: number | null) =>
    advance !== undefined || seconds === null ? seconds : Math.ceil(seconds / 60) * 60;
  return command({
    label: labelled("ttl", key),
    ofModel: (model) => read(model.ttl(key)),
    ofStorage: async (storage, keyOf) => read(await storage.ttl(keyOf(key))),
  });
};

const rangeCommand = (key: string, start: number, stop: number) =>
  command({
    label: labelled("range", key, start, stop),
    ofModel: (model) => model.range(key, start, stop),
    ofStorage: (storage, keyOf) => storage.range(keyOf(key), start, stop),
  });

const listIndexCommand = (key: string, limit: number, minScore: number | undefined) =>
  command({
    label: labelled("listIndex", key, { limit, minScore }),
    ofModel: (model) => pagesOf(model.listIndex(key, minScore), limit),
    ofStorage: async (storage, keyOf) => {
      const pages: IndexEntry[][] = [];
      let cursor: string | undefined;
      do {
        const page = await storage.listIndex(keyOf(key), {
          limit,
          ...(cursor === undefined ? {} : { cursor }),
          ...(minScore === undefined ? {} : { minScore }),
        });
        pages.push(page.entries);
        // More pages than there can be entries: a cursor that leads nowhere.
        if (pages.length > 10) return pages;
        cursor = page.nextCursor;
      } while (cursor !== undefined);
      return pages;
    },
  });

const readLogCommand = (key: string, limit: number) =>
  command({
    label: labelled("readLog", key, limit),
    ofModel: (model) => model.readLog(key, limit),
    ofStorage: async (storage, keyOf) =>
      (await storage.readLog(keyOf(key), { limit })).map(({ value }) => value),
  });

/** Changes that look at what stands: each of them, on its own, where the case applies. */
const CHANGES = {
  "adds an a": (standing) => `${standing}a`,
  "removes an a": (standing) => (standing.endsWith("a") ? standing.slice(0, -1) : undefined),
  "removes the text": () => null,
  "does nothing": () => undefined,
} as const satisfies Record<string, Change>;

const updateCommand = (key: string, change: keyof typeof CHANGES, ttlSeconds: TtlSeconds) =>
  command({
    label: labelled("update", key, change, ttlSeconds),
    ofModel: (model) => model.update(key, CHANGES[change], ttlSeconds),
    ofStorage: (storage, keyOf) => storage.update(keyOf(key), CHANGES[change], ttlSeconds),
  });

const commitCommand = (writes: readonly Write[], rollsBack: boolean) =>
  command({
    label: labelled("commit", ...writes),
    isDefined: (model) =>
      (rollsBack || !capsWithin(writes)) && (!model.refuses(writes) || mustLeaveNothing(writes, rollsBack)),
    ofModel: (model) => model.commit(writes),
    ofStorage: (storage, keyOf) =>
      storage.commit(writes.map((write) => ({ ...write, key: keyOf(write.key) }))),
  });

/**
 * Whether a list is added to and touched otherwise in one commit. Redis drops what is too much of a list after
 * the transaction, so other writes of the same transaction still see it; appends alone are tried by the contract.
 */
function capsWithin(writes: readonly Write[]): boolean {
  const appended = writes.filter(({ type }) => type === "append").map(({ key }) => key);
  return appended.some((list) => writes.filter(({ key }) => key === list).length > 1);
}

/**
 * Whether a commit that meets a key of another kind must have changed nothing: within one partition. In a
 * Redis transaction only a single command does not; an append is two, a push and the time to live.
 */
function mustLeaveNothing(writes: readonly Write[], rollsBack: boolean): boolean {
  if (!rollsBack) return writes.length === 1 && writes[0]?.type !== "append";
  return new Set(writes.map(({ key }) => partitionOf(keyOf("run", key)))).size === 1;
}

const advanceCommand = (ms: number): Command => ({
  check: () => true,
  async run(model, { contestant }) {
    model.nowMs += ms;
    contestant.advance?.(ms);
  },
  toString: () => labelled("advance", ms),
});

const disturbCommand = (key: string): Command => ({
  check: () => true,
  run: async (_, { contestant, run }) => contestant.disturb?.(keyOf(run, key)),
  toString: () => labelled("disturb", key),
});

/** Entries in pages of `limit`; an index of none has one page of none. */
function pagesOf(entries: IndexEntry[], limit: number): IndexEntry[][] {
  const pages = Math.max(1, Math.ceil(entries.length / limit));
  return Array.from({ length: pages }, (_, i) => entries.slice(i * limit, (i + 1) * limit));
}

/** Looks at everything, so that no run ends with a difference that nobody asked for. */
function audit(model: PlainMap, contestant: ModelContestant): Command[] {
  return [
    getManyCommand(NAMES),
    ...NAMES.flatMap((name) => [
      ttlCommand(name, contestant),
      ...(model.kindOf(name) === "list" ? [rangeCommand(name, 0, -1)] : []),
      ...(model.kindOf(name) === "index" ? [listIndexCommand(name, 2, undefined)] : []),
      ...(model.kindOf(name) === "log" ? [readLogCommand(name, 100)] : []),
    ]),
  ];
}

// --- What the commands are made of ------------------------------------------------------------------------------

function commandsFor(contestant: ModelContestant, rollsBack: boolean): fc.Arbitrary<Command>[] {
  const mostly = (names: readonly Name[]) =>
    fc.oneof(
      { weight: 9, arbitrary: fc.constantFrom(...names) },
      { weight: 1, arbitrary: fc.constantFrom(...NAMES) },
    );
  const [anyKey, textKey, listKey, indexKey, logKey] = [NAMES, TEXTS, LISTS, INDEXES, LOGS].map(mostly) as [
    fc.Arbitrary<Name>,
    fc.Arbitrary<Name>,
    fc.Arbitrary<Name>,
    fc.Arbitrary<Name>,
    fc.Arbitrary<Name>,
  ];
  // Where the clock cannot be moved, nothing may expire within the run.
  const ttlSeconds = fc.constantFrom(
    ...(contestant.advance ? [0.001, 1, 2.5, 600, null] : [120, 600, 1230.5, null]),
  );
  const value = fc.constantFrom("", "a", "b", "1");
  const score = fc.constantFrom(-1.5, 0, 1, 2, 1_700_000_000_000.5);
  const member = fc.constantFrom("m", "n", "o");
  const maxLength = fc.constantFrom(1, 2, 3);

  const write = <W extends Write>(shape: { [F in keyof W]: fc.Arbitrary<W[F]> }) =>
    fc.record(shape as { [F in keyof W]: fc.Arbitrary<W[F]> }) as unknown as fc.Arbitrary<Write>;
  const type = <T extends Write["type"]>(type: T) => fc.constant(type);
  const ofAny = (key: fc.Arbitrary<Name>) => [
    write({ type: type("touch"), key, ttlSeconds }),
    write({ type: type("delete"), key }),
  ];
  const ofText = (key: fc.Arbitrary<Name>) => [
    write({ type: type("set"), key, value, ttlSeconds }),
    write({ type: type("create"), key, value, ttlSeconds }),
    write({ type: type("get"), key }),
    write({ type: type("get"), key, ttlSeconds }),
  ];
  const ofList = (key: fc.Arbitrary<Name>) => [
    write({ type: type("append"), key, value, maxLength, slack: fc.constantFrom(0, 0, 2), ttlSeconds }),
    write({ type: type("remove"), key, value }),
  ];
  const ofIndex = (key: fc.Arbitrary<Name>) => [
    write({ type: type("index"), key, member, score }),
    write({ type: type("unindex"), key, member }),
    write({ type: type("prune"), key, belowScore: score }),
  ];
  // The model drops nothing.
  const ofLog = (key: fc.Arbitrary<Name>) => [
    write({ type: type("log"), key, value, maxLength: fc.constant(1_000) }),
  ];
  const writes = [
    ...ofAny(anyKey),
    ...ofText(textKey),
    ...ofList(listKey),
    ...ofIndex(indexKey),
    ...ofLog(logKey),
  ];
  const commit = (arbitrary: fc.Arbitrary<readonly Write[]>) =>
    arbitrary.map((writes) => commitCommand(writes, rollsBack));
  const several = (oneOf: fc.Arbitrary<Write>[]) => commit(fc.array(fc.oneof(...oneOf), { maxLength: 6 }));
  /** Several writes of one key, which meet within the commit. */
  const crowded = (names: readonly Name[], ofKind: (key: fc.Arbitrary<Name>) => fc.Arbitrary<Write>[]) =>
    fc.constantFrom(...names).chain((name) => {
      const key = fc.constant(name);
      return several([...ofKind(key), ...ofKind(key), ...ofAny(key)]);
    });
  /** Writes of every kind to keys of one conversation, which must be refused as a whole or not at all. */
  const key = fc.constantFrom<Name>("A/session", "A/messages");
  const clashing = several([...ofText(key), ...ofList(key), ...ofIndex(key), ...ofAny(key)]);
  const commits = [
    commit(fc.oneof(...writes).map((one) => [one])),
    several(writes),
    crowded(TEXTS, ofText),
    crowded(LISTS, ofList),
    crowded(INDEXES, ofIndex),
    crowded(LOGS, ofLog),
    clashing,
  ];

  const reads = [
    textKey.map(getCommand),
    fc.array(textKey, { maxLength: 5 }).map(getManyCommand),
    fc.tuple(textKey, ttlSeconds).map((args) => getAndTouchCommand(...args)),
    anyKey.map((key) => ttlCommand(key, contestant)),
    fc
      .tuple(listKey, fc.integer({ min: -4, max: 4 }), fc.integer({ min: -4, max: 4 }))
      .map((args) => rangeCommand(...args)),
    fc
      .tuple(indexKey, fc.integer({ min: 1, max: 3 }), fc.option(score, { nil: undefined }))
      .map((args) => listIndexCommand(...args)),
    fc.tuple(logKey, fc.integer({ min: 1, max: 3 })).map((args) => readLogCommand(...args)),
  ];
  const change = fc.constantFrom(...(Object.keys(CHANGES) as (keyof typeof CHANGES)[]));
  const updates = fc.tuple(textKey, change, ttlSeconds).map((args) => updateCommand(...args));
  // Up to the last millisecond of the times to live, to them, and beyond a sweep.
  const advances = fc.constantFrom(1, 999, 1000, 1500, 300_000, 599_999).map(advanceCommand);
  const times = (count: number, commands: fc.Arbitrary<Command>[]) =>
    Array.from({ length: count }, () => commands).flat();
  return [
    ...reads,
    ...times(2, [updates]),
    ...times(2, commits),
    ...times(contestant.advance ? 4 : 0, [advances]),
    ...times(contestant.disturb ? 2 : 0, [anyKey.map(disturbCommand)]),
  ];
}
