/**
 * Storage in Upstash Redis over its REST API: the production driver. Commands are built by `@upstash/redis`;
 * `upstash-exchange.ts` sends them.
 *
 * A request whose answer was lost is sent once more, so every write here may be applied twice without harm:
 * SET, DEL, EXPIRE, LREM, LTRIM, ZADD, ZREM and ZREMRANGEBYSCORE leave the same state (their results then tell
 * of the second time); RPUSH may repeat an entry, which readers of lists expect. Only the compare-and-set of
 * `update` would answer wrongly the second time, so it is never sent twice.
 *
 * What a transaction gives and what it does not: nothing is applied unless all of it is well-formed, and
 * nothing of anyone else comes in between; but Redis does not roll back where a command meets a key of
 * another kind. Each key of the product has one kind, so only a mistake in the code can bring that about.
 */
import { type Pipeline, Redis, type UpstashResponse } from "@upstash/redis/cloudflare";
import { StorageError } from "../errors.ts";
import type { After } from "../patience.ts";
import { compareIndexEntries, decodeIndexCursor, indexPage } from "./index-order.ts";
import {
  checkWrites,
  decodeLogEntryId,
  type IndexEntry,
  type LogEntry,
  type Storage,
  surplusOf,
  type TtlSeconds,
  ttlMillis,
  type Write,
  type WriteResults,
} from "./storage.ts";
import { updateBySwapping } from "./swap.ts";
import { createUpstashExchange, UpstashExchangeError } from "./upstash-exchange.ts";

export type UpstashStorageOptions = {
  /** The REST URL, `https://….upstash.io`. */
  url: string;
  token: string;
  /** Milliseconds until a request is given up, its one retry included. 1,500. */
  timeoutMs?: number;
  /** By which timer; each request has one of its own otherwise. */
  after?: After;
};

/**
 * KEYS: key. ARGV: expected, ttl in ms or "" for ever, next (missing: delete). Answers whether it did it.
 * No cjson: Upstash's differs.
 */
const COMPARE_AND_SET = `
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return 0 end
if not ARGV[3] then redis.call("DEL", KEYS[1])
elseif ARGV[2] == "" then redis.call("SET", KEYS[1], ARGV[3])
else redis.call("SET", KEYS[1], ARGV[3], "PX", ARGV[2]) end
return 1`;

/** The one field of an entry of a log. */
const LOG_FIELD = "value";

/** What a client and a batch of its commands have in common: the client answers, the batch gathers. */
type Commands = {
  [name in
    | "set"
    | "get"
    | "getex"
    | "expire"
    | "pexpire"
    | "persist"
    | "exists"
    | "del"
    | "rpush"
    | "lrem"
    | "zadd"
    | "zrem"
    | "zremrangebyscore"
    | "xadd"]: (...args: Parameters<Pipeline[name]>) => unknown;
};

/** Commands of one write, and the reading of their results, in the same order. */
type Step = { add: (redis: Commands) => unknown; commands: 1 | 2; read: (results: unknown[]) => unknown };

export function createUpstashStorage({
  url,
  token,
  timeoutMs = 1500,
  after,
}: UpstashStorageOptions): Storage {
  const name = "upstash";
  let client: Redis | undefined;

  /** One client for the storage's life, made when first needed. */
  function redis(): Redis {
    if (client) return client;
    client = new Redis({
      url,
      token,
      // Each request travels when it is made, in the order in which it is made.
      enableAutoPipelining: false,
      // What is read is the text that was written: "123" stays text.
      automaticDeserialization: false,
      enableTelemetry: false,
    });
    const exchange = createUpstashExchange({ url, token, timeoutMs, ...(after && { after }) });
    // The client declares the answer of one command, and reads a pipeline's array through the same door.
    client.use(async (request) => (await exchange(request)) as UpstashResponse<unknown>);
    return client;
  }

  async function ask<T>(operation: string, request: (redis: Redis) => Promise<T>): Promise<T> {
    try {
      return await request(redis());
    } catch (cause) {
      const failure = cause instanceof UpstashExchangeError ? cause.failure : "rejected";
      throw new StorageError(name, operation, failure, { cause });
    }
  }

  /** Caps lists that have grown too long; where that fails, the next append sees to it. */
  async function trim(lists: Map<string, number>): Promise<void> {
    const batch = redis().pipeline();
    for (const [key, length] of lists) batch.ltrim(key, -length, -1);
    await batch.exec().catch(() => {});
  }

  /**
   * Turns the lengths that appends answered with into those before them, and drops what is too much. An LTRIM in
   * every append would cost a command that nearly always does nothing; it travels by itself where it is needed.
   */
  async function cap(writes: readonly Write[], results: unknown[]): Promise<unknown[]> {
    const lists = new Map<string, number>();
    const dropped = new Map<string, number>();
    const capped = writes.map((write, i) => {
      if (write.type !== "append") return results[i];
      const gone = dropped.get(write.key) ?? 0;
      const length = numberOf(results[i]) - gone;
      const surplus = surplusOf(write, length - 1);
      if (gone + surplus > 0) lists.set(write.key, length - surplus);
      dropped.set(write.key, gone + surplus);
      return length - 1;
    });
    if (lists.size > 0) await trim(lists);
    return capped;
  }

  const storage: Storage = {
    name,

    get: (key) => ask("get", async (redis) => textOrNull(await redis.get<unknown>(key))),

    async getMany(keys) {
      if (keys.length === 0) return [];
      return ask("getMany", async (redis) => {
        const texts = listOf(textOrNull, await redis.mget<unknown[]>(...keys));
        if (texts.length !== keys.length) throw new UpstashExchangeError("invalid_response");
        return texts;
      });
    },

    async getAndTouch(key, ttlSeconds) {
      const expiry = expiryOf(ttlSeconds) ?? ({ persist: true } as const);
      return ask("getAndTouch", async (redis) => textOrNull(await redis.getex<unknown>(key, expiry)));
    },

    ttl: (key) =>
      ask("ttl", async (redis) => {
        const millis = numberOf(await redis.pttl(key));
        if (millis === -2) return null;
        return millis === -1 ? Number.POSITIVE_INFINITY : millis / 1000;
      }),

    range: (key, start, stop) =>
      ask("range", async (redis) => listOf(text, await redis.lrange<unknown>(key, start, stop))),

    async listIndex(key, { limit, cursor, minScore }) {
      const after = cursor === undefined ? undefined : decodeIndexCursor(cursor);
      return ask("listIndex", async (redis) => {
        // Entries that score as the cursor's does come again before those below it. There may be any number
        // of them; a page that they fill is asked for again, larger and from the start, so that what moves
        // meanwhile cannot hide an entry.
        for (let count = limit + (after ? 2 : 1); ; count *= 4) {
          const flat = await redis.zrange<unknown[]>(key, after?.score ?? "+inf", minScore ?? "-inf", {
            byScore: true,
            rev: true,
            withScores: true,
            offset: 0,
            count,
          });
          const entries = entriesOf(flat);
          const rest = after ? entries.filter((entry) => compareIndexEntries(after, entry) < 0) : entries;
          if (rest.length > limit || entries.length < count) return indexPage(rest, limit);
        }
      });
    },

    async readLog(key, { limit, before, since }) {
      if (before !== undefined) {
        const { at, number } = decodeLogEntryId(before);
        // Redis refuses to look before the first id that there is, and takes no time before its own.
        if (at === 0 && number === 0) return [];
      }
      const [end, start] = [
        before === undefined ? "+" : `(${before}`,
        since === undefined ? "-" : `${Math.max(0, Math.ceil(since))}`,
      ];
      return ask("readLog", async (redis) =>
        listOf(logEntry, await redis.xrevrange<Record<string, unknown>>(key, end, start, limit)),
      );
    },

    ping: () =>
      ask("ping", async (redis) => {
        if (text(await redis.ping()) !== "PONG") throw new UpstashExchangeError("invalid_response");
      }),

    async commit<const W extends readonly Write[]>(writes: W) {
      checkWrites(writes);
      if (writes.length === 0) return [] as unknown as WriteResults<W>;
      const steps = writes.map(stepOf);
      const [only] = steps;
      const results = await ask("commit", async (redis) => {
        // A command alone is atomic by itself, and building a batch is what costs the client most.
        if (only !== undefined && steps.length === 1 && only.commands === 1) {
          return [only.read([await only.add(redis)])];
        }
        const batch = redis.multi();
        for (const step of steps) step.add(batch);
        const answers = await batch.exec<unknown[]>();
        return steps.map((step) => step.read(answers.splice(0, step.commands)));
      });
      return (await cap(writes, results)) as WriteResults<W>;
    },

    async update(key, change, ttlSeconds) {
      const ttl = ttlMillis(ttlSeconds)?.toString() ?? "";
      const read = () => storage.get(key);
      return updateBySwapping(name, read, change, (expected, next) => {
        const args = next === null ? [expected, ttl] : [expected, ttl, next];
        return ask("update", async (redis) =>
          oneOrZero(await redis.eval<string[], unknown>(COMPARE_AND_SET, [key], args)),
        );
      });
    },
  };

  return storage;
}

function stepOf(write: Write): Step {
  const { key } = write;
  switch (write.type) {
    case "set":
      return one((redis) => redis.set(key, write.value, expiryOf(write.ttlSeconds) ?? {}), ok);
    case "create": {
      const onlyIfAbsent = { ...(expiryOf(write.ttlSeconds) ?? {}), nx: true } as const;
      return one((redis) => redis.set(key, write.value, onlyIfAbsent), okOrNull);
    }
    case "get": {
      const { ttlSeconds } = write;
      if (ttlSeconds === undefined) return one((redis) => redis.get(key), textOrNull);
      return one((redis) => redis.getex(key, expiryOf(ttlSeconds) ?? { persist: true }), textOrNull);
    }
    case "touch":
      if (write.ttlSeconds !== null) return one((redis) => expire(redis, key, write.ttlSeconds), oneOrZero);
      // PERSIST says 0 also where something stands that was to live for ever already.
      return {
        add: (redis) => {
          redis.persist(key);
          return redis.exists(key);
        },
        commands: 2,
        read: ([, stands]) => oneOrZero(stands),
      };
    case "delete":
      return one((redis) => redis.del(key), oneOrZero);
    case "append":
      return {
        add: (redis) => {
          redis.rpush(key, write.value);
          return expire(redis, key, write.ttlSeconds);
        },
        commands: 2,
        read: ([length]) => numberOf(length),
      };
    case "remove":
      return one((redis) => redis.lrem(key, 0, write.value), numberOf);
    case "index":
      return one((redis) => redis.zadd(key, { score: write.score, member: write.member }), done);
    case "unindex":
      return one((redis) => redis.zrem(key, write.member), oneOrZero);
    case "prune":
      return one((redis) => redis.zremrangebyscore(key, "-inf", `(${write.belowScore}`), numberOf);
    case "log": {
      // Approximately: Redis then drops whole nodes of a stream, which costs next to nothing.
      const trim = { type: "MAXLEN", comparison: "~", threshold: write.maxLength } as const;
      return one((redis) => redis.xadd(key, "*", { [LOG_FIELD]: write.value }, { trim }), entryAdded);
    }
  }
}

function one(add: Step["add"], read: (result: unknown) => unknown): Step {
  return { add, commands: 1, read: ([result]) => read(result) };
}

/** Whole seconds go as EX, which is what a reader of the commands expects to see. */
function expiryOf(ttlSeconds: TtlSeconds): { ex: number } | { px: number } | undefined {
  const millis = ttlMillis(ttlSeconds);
  if (millis === null) return undefined;
  return millis % 1000 === 0 ? { ex: millis / 1000 } : { px: millis };
}

function expire(redis: Commands, key: string, ttlSeconds: TtlSeconds): unknown {
  const expiry = expiryOf(ttlSeconds);
  if (!expiry) return redis.persist(key);
  return "ex" in expiry ? redis.expire(key, expiry.ex) : redis.pexpire(key, expiry.px);
}

// --- Results, narrowed: what has another shape is a broken answer, never an absent value -----------------------

function text(result: unknown): string {
  if (typeof result !== "string") throw new UpstashExchangeError("invalid_response");
  return result;
}

function textOrNull(result: unknown): string | null {
  return result === null ? null : text(result);
}

function numberOf(result: unknown): number {
  if (typeof result !== "number") throw new UpstashExchangeError("invalid_response");
  return result;
}

function oneOrZero(result: unknown): boolean {
  return numberOf(result) === 1;
}

function ok(result: unknown): null {
  if (result !== "OK") throw new UpstashExchangeError("invalid_response");
  return null;
}

/** Of a write that a condition may have prevented: whether it was done. */
function okOrNull(result: unknown): boolean {
  return result !== null && ok(result) === null;
}

/** Of a write whose count is of no interest. */
function done(result: unknown): null {
  numberOf(result);
  return null;
}

/** Of an entry that was added: its id, which is of no interest. */
function entryAdded(result: unknown): null {
  text(result);
  return null;
}

/** An entry of a stream: its id, and its fields and their values by turns. */
function logEntry(result: unknown): LogEntry {
  const [id, fields] = listOf((item) => item, result);
  const [, value] = listOf(text, fields);
  return { id: text(id), value: text(value) };
}

function listOf<T>(read: (item: unknown) => T, result: unknown): T[] {
  if (!Array.isArray(result)) throw new UpstashExchangeError("invalid_response");
  return result.map((item: unknown) => read(item));
}

/** Members and scores alternate; scores are text in RESP2. */
function entriesOf(result: unknown): IndexEntry[] {
  const flat = listOf((item) => item, result);
  return Array.from({ length: flat.length / 2 }, (_, i) => {
    const score = Number(flat[2 * i + 1]);
    if (!Number.isFinite(score)) throw new UpstashExchangeError("invalid_response");
    return { member: text(flat[2 * i]), score };
  });
}
