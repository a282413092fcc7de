/**
 * Whether an operation of the in-memory storage costs the same however much the storage holds: nanoseconds
 * per operation at 10³ to 10⁶ records, and the last column tells how much dearer the largest is than the
 * smallest. `node bench/memory-storage.ts`; README.md says how to read it.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { createMemoryStorage } from "../lib/storage/memory.ts";
import type { Storage } from "../lib/storage/storage.ts";

const SIZES = [1_000, 10_000, 100_000, 1_000_000] as const;
const OPERATIONS = 50_000;
/** Enough for the largest storage to evict its oldest fifth in every round. */
const EVICTING_OPERATIONS = 220_000;
const ROUNDS = 5;
const WARM_UP_ROUNDS = 2;
/** What is not O(1) would otherwise take hours. */
const ROUND_LIMIT_MS = 1_000;

const VALUE = JSON.stringify({ status: "active", createdAt: "2026-01-01T00:00:00.000Z" });
const LIST_LENGTH = 10;
const SWEEP_DUE_MS = 5 * 60_000;

// Made available here, so that no option has to be remembered on the command line.
setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

/**
 * So many records, spread over all, are what the operations touch: as many in a small storage as in a large
 * one, so that the figures tell of steps and not of the processor's caches.
 */
const TOUCHED = 1_000;

/** A full storage, and what the operations need to be about. */
type Bench = {
  size: number;
  storage: Storage;
  /** Every record's key, as long as nothing was evicted. */
  keys: string[];
  /** The keys that are touched, in random order. */
  touched: string[];
  /** A plain Map of as many records, for comparison. */
  plain: Map<string, { value: string; expiresAt: number }>;
  /** Positions in `keys`, at random: the same in every run. */
  random: Uint32Array;
  /** Keys that never stood in the storage, anew in every round. */
  fresh: string[];
  advance(ms: number): void;
};

type Operation = {
  name: string;
  /** What is done before the clock runs, once for each size. */
  prepare?: (bench: Bench) => Promise<void>;
  /** Whether new records come, so that others go. */
  evicts?: true;
  /** The i-th operation of a round. */
  step: (bench: Bench, i: number) => unknown;
};

const touchedAt = ({ touched }: Bench, i: number) => at(touched, i % TOUCHED);

const OPERATIONS_MEASURED: Operation[] = [
  { name: "get", step: (bench, i) => bench.storage.get(touchedAt(bench, i)) },
  { name: "set, where a record stands", step: (bench, i) => set(bench.storage, touchedAt(bench, i)) },
  { name: "set, of a new one", evicts: true, step: ({ storage, fresh }, i) => set(storage, at(fresh, i)) },
  {
    name: "claim, where a record stands",
    prepare: refill,
    step: (bench, i) => bench.storage.claim(touchedAt(bench, i), "mine", 600),
  },
  {
    name: "claim, of a new one",
    evicts: true,
    step: ({ storage, fresh }, i) => storage.claim(at(fresh, i), VALUE, 600),
  },
  {
    name: "claim and delete, one key all the time",
    step: async ({ storage }, i) => {
      if (i % 2 === 0) await storage.claim("one key", VALUE, 600);
      else await storage.commit([{ type: "delete", key: "one key" }]);
    },
  },
  {
    name: `append, to full lists of ${LIST_LENGTH}`,
    prepare: async ({ storage, touched }) => {
      await storage.commit(touched.map((key) => ({ type: "delete", key }) as const));
      for (const key of touched)
        for (let i = 0; i < LIST_LENGTH; i++) await append(storage, key, LIST_LENGTH);
    },
    step: (bench, i) => append(bench.storage, touchedAt(bench, i), LIST_LENGTH),
  },
  {
    name: "append, to one full list of that many",
    prepare: async ({ storage, size }) => {
      for (let i = 0; i < size; i++) await append(storage, "one list", size);
    },
    step: ({ storage, size }) => append(storage, "one list", size),
  },
  {
    name: "index, in one index of that many",
    prepare: async ({ storage, keys }) => {
      for (const [score, member] of keys.entries()) await index(storage, member, score);
    },
    step: (bench, i) => index(bench.storage, touchedAt(bench, i), i),
  },
  {
    name: "mixed, 100 operations a second",
    evicts: true,
    prepare: refill,
    step: (bench, i) => {
      bench.advance(10);
      return mixed(bench, i);
    },
  },
  {
    name: "mixed, one operation in five minutes",
    evicts: true,
    prepare: refill,
    step: (bench, i) => {
      bench.advance(SWEEP_DUE_MS);
      return mixed(bench, i);
    },
  },
  {
    name: "get, any record at random",
    prepare: refill,
    step: ({ storage, keys, random }, i) => storage.get(at(keys, random[i])),
  },
  {
    name: "the same in a plain Map",
    step: async ({ plain, keys, random }, i) => plain.get(at(keys, random[i]))?.value,
  },
];

/** Half reads; most writes are of new records, which expire or are evicted. */
function mixed(bench: Bench, i: number): Promise<unknown> {
  const { storage, fresh } = bench;
  switch (i % 10) {
    case 0:
    case 1:
      return set(storage, at(fresh, i));
    case 2:
      return storage.claim(at(fresh, i), VALUE, 600);
    case 3:
      return append(storage, at(fresh, i), LIST_LENGTH);
    case 4:
      return storage.compareAndSet(touchedAt(bench, i), VALUE, VALUE, null);
    case 5:
    case 6:
      return storage.get(at(fresh, i - 5));
    default:
      return storage.get(touchedAt(bench, i));
  }
}

function set(storage: Storage, key: string, ttlSeconds: number | null = 600): Promise<unknown> {
  return storage.commit([{ type: "set", key, value: VALUE, ttlSeconds }]);
}

function append(storage: Storage, key: string, maxLength: number): Promise<unknown> {
  return storage.commit([{ type: "append", key, value: "entry", maxLength, ttlSeconds: 600 }]);
}

function index(storage: Storage, member: string, score: number): Promise<unknown> {
  return storage.commit([{ type: "index", key: "one index", member, score }]);
}

/** Texts for ever at every key. */
async function refill({ storage, keys }: Bench): Promise<void> {
  for (const key of keys) await set(storage, key, null);
}

function newStorage(maxRecords: number): { storage: Storage; advance: (ms: number) => void } {
  let now = 0;
  return {
    storage: createMemoryStorage({ now: () => now, maxRecords }),
    advance: (ms) => {
      now += ms;
    },
  };
}

const keyAt = (i: number) => `elevenlabs:session:conv_${String(i).padStart(10, "0")}`;

async function openBench(size: number): Promise<Bench> {
  // Three more than the keys, for those that are not among them.
  const { storage, advance } = newStorage(size + 3);
  const keys = Array.from({ length: size }, (_, i) => keyAt(i));
  let seed = 1;
  const nextRandom = () => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
    return seed / 2 ** 32;
  };
  const random = Uint32Array.from({ length: OPERATIONS }, () => Math.floor(nextRandom() * size));
  const touched = keys
    .filter((_, i) => i % (size / TOUCHED) === 0)
    .map((key) => ({ key, place: nextRandom() }))
    .sort((a, b) => a.place - b.place)
    .map(({ key }) => key);
  const plain = new Map(keys.map((key) => [key, { value: VALUE, expiresAt: 0 }]));
  const bench = { size, storage, keys, touched, plain, random, fresh: [], advance };
  await refill(bench);
  return bench;
}

let freshSerial = 0;

async function nanosecondsPerOperation(operation: Operation, bench: Bench): Promise<number> {
  const operations = operation.evicts ? EVICTING_OPERATIONS : OPERATIONS;
  if (operation.evicts) bench.fresh = Array.from({ length: operations }, () => `fresh:${freshSerial++}`);
  const started = performance.now();
  let done = 0;
  let elapsedMs = 0;
  while (done < operations && elapsedMs < ROUND_LIMIT_MS) {
    const until = Math.min(operations, done + 100);
    for (; done < until; done++) await operation.step(bench, done);
    elapsedMs = performance.now() - started;
  }
  return (elapsedMs * 1e6) / done;
}

async function measure(size: number, rounds: number): Promise<number[]> {
  const bench = await openBench(size);
  const medians: number[] = [];
  for (const operation of OPERATIONS_MEASURED) {
    await operation.prepare?.(bench);
    collectGarbage();
    const times: number[] = [];
    for (let round = 0; round < rounds; round++) times.push(await nanosecondsPerOperation(operation, bench));
    medians.push(median(times));
  }
  return medians;
}

/** Heap that a full storage holds for each record, its key and its text included. */
async function heapBytesPerRecord(size: number): Promise<number> {
  const before = heapUsed();
  const { storage } = newStorage(size);
  for (let i = 0; i < size; i++) {
    const value = JSON.stringify({ status: "active", createdAt: i });
    await storage.commit([{ type: "set", key: keyAt(i), value, ttlSeconds: 600 }]);
  }
  const bytes = (heapUsed() - before) / size;
  await storage.ping();
  return bytes;
}

function heapUsed(): number {
  collectGarbage();
  return process.memoryUsage().heapUsed;
}

function at(items: readonly string[], position: number | undefined): string {
  const item = items[position ?? -1];
  if (item === undefined) throw new RangeError(`nothing at ${position}`);
  return item;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

function printTable(rows: { name: string; values: number[] }[]): void {
  const line = (name: string, cells: string[]) =>
    console.log(name.padEnd(40) + cells.map((cell) => cell.padStart(11)).join(""));
  line("ns per operation, by records held", [...SIZES.map((size) => size.toLocaleString("en")), "ratio"]);
  for (const { name, values } of rows) {
    const ratio = (values.at(-1) ?? Number.NaN) / (values[0] ?? Number.NaN);
    line(name, [...values.map((value) => value.toFixed(0)), ratio.toFixed(1)]);
  }
}

await measure(SIZES[0], WARM_UP_ROUNDS);
const bytes: number[] = [];
const measured: number[][] = [];
for (const size of SIZES) {
  bytes.push(await heapBytesPerRecord(size));
  measured.push(await measure(size, ROUNDS));
}
printTable([
  ...OPERATIONS_MEASURED.map(({ name }, row) => ({
    name,
    values: measured.map((of) => of[row] ?? Number.NaN),
  })),
  { name: "heap bytes per record", values: bytes },
]);
