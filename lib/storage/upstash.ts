/**
 * Storage in Upstash Redis over its REST API: the production driver. Commands are built by `@upstash/redis`
 * (`upstash-commands.ts`); `upstash-exchange.ts` sends them.
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
import type { Redis } from "@upstash/redis/cloudflare";
import { StorageError } from "../errors.ts";
import type { InTime } from "../patience.ts";
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
import { commandOf, type UpstashCommand } from "./upstash-commands.ts";
import { createUpstashExchange, UpstashExchangeError } from "./upstash-exchange.ts";

export type UpstashStorageOptions = {
  /** The REST URL, `https://….upstash.io`. */
  url: string;
  token: string;
  /** Milliseconds until a request is given up, its one retry included. 1,500. */
  timeoutMs?: number;
  /** How a request is given up; by a timer and a signal of its own otherwise. */
  inTime?: InTime;
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

/** Commands of one write, and the reading of their results, in the same order. */
type Step = { commands: UpstashCommand[]; read: (results: unknown[]) => unknown };

export function createUpstashStorage({
  url,
  token,
  timeoutMs = 1500,
  inTime,
}: UpstashStorageOptions): Storage {
  const name = "upstash";
  const exchange = createUpstashExchange({ url, token, timeoutMs, ...(inTime && { inTime }) });

  /** Sends one command and reads its result. Throws StorageError. */
  async function ask<T>(
    operation: string,
    build: (redis: Redis) => unknown,
    read: (result: unknown) => T,
  ): Promise<T> {
    try {
      return read(await exchange.send(commandOf(build)));
    } catch (cause) {
      throw failed(operation, cause);
    }
  }

  function failed(operation: string, cause: unknown): StorageError {
    const failure = cause instanceof UpstashExchangeError ? cause.failure : "rejected";
    return new StorageError(name, operation, failure, { cause });
  }

  /** Caps lists that have grown too long; where that fails, the next append sees to it. */
  async function trim(lists: Map<string, number>): Promise<void> {
    const commands = [...lists].map(([key, length]) => commandOf((redis) => redis.ltrim(key, -length, -1)));
    await exchange.pipeline(commands).catch(() => {});
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

    get: (key) => ask("get", (redis) => redis.get(key), textOrNull),

    async getMany(keys) {
      if (keys.length === 0) return [];
      return ask(
        "getMany",
        (redis) => redis.mget(...keys),
        (result) => {
          const texts = listOf(textOrNull, result);
          if (texts.length !== keys.length) throw new UpstashExchangeError("invalid_response");
          return texts;
        },
      );
    },

    async getAndTouch(key, ttlSeconds) {
      const expiry = expiryOf(ttlSeconds) ?? ({ persist: true } as const);
      return ask("getAndTouch", (redis) => redis.getex(key, expiry), textOrNull);
    },

    ttl: (key) =>
      ask(
        "ttl",
        (redis) => redis.pttl(key),
        (result) => {
          const millis = numberOf(result);
          if (millis === -2) return null;
          return millis === -1 ? Number.POSITIVE_INFINITY : millis / 1000;
        },
      ),

    range: (key, start, stop) =>
      ask(
        "range",
        (redis) => redis.lrange(key, start, stop),
        (result) => listOf(text, result),
      ),

    async listIndex(key, { limit, cursor, minScore }) {
      const after = cursor === undefined ? undefined : decodeIndexCursor(cursor);
      // Entries that score as the cursor's does come again before those below it. There may be any number
      // of them; a page that they fill is asked for again, larger and from the start, so that what moves
      // meanwhile cannot hide an entry.
      for (let count = limit + (after ? 2 : 1); ; count *= 4) {
        const range = { byScore: true, rev: true, withScores: true, offset: 0, count } as const;
        const entries = await ask(
          "listIndex",
          (redis) => redis.zrange(key, after?.score ?? "+inf", minScore ?? "-inf", range),
          entriesOf,
        );
        const rest = after ? entries.filter((entry) => compareIndexEntries(after, entry) < 0) : entries;
        if (rest.length > limit || entries.length < count) return indexPage(rest, limit);
      }
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
      return ask(
        "readLog",
        (redis) => redis.xrevrange(key, end, start, limit),
        (result) => listOf(logEntry, result),
      );
    },

    ping: () =>
      ask(
        "ping",
        (redis) => redis.ping(),
        (result) => {
          if (text(result) !== "PONG") throw new UpstashExchangeError("invalid_response");
        },
      ),

    async commit<const W extends readonly Write[]>(writes: W) {
      checkWrites(writes);
      if (writes.length === 0) return [] as unknown as WriteResults<W>;
      const steps = writes.map(stepOf);
      const commands: UpstashCommand[] = [];
      for (const step of steps) commands.push(...step.commands);
      let results: unknown[];
      try {
        const [only] = commands;
        // A command alone is atomic by itself.
        const answers =
          only !== undefined && commands.length === 1
            ? [await exchange.send(only)]
            : await exchange.transaction(commands);
        results = steps.map((step) => step.read(answers.splice(0, step.commands.length)));
      } catch (cause) {
        throw failed("commit", cause);
      }
      return (await cap(writes, results)) as WriteResults<W>;
    },

    async update(key, change, ttlSeconds) {
      const ttl = ttlMillis(ttlSeconds)?.toString() ?? "";
      const read = () => storage.get(key);
      return updateBySwapping(name, read, change, (expected, next) => {
        const args = next === null ? [expected, ttl] : [expected, ttl, next];
        return ask("update", (redis) => redis.eval(COMPARE_AND_SET, [key], args), oneOrZero);
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
        commands: [commandOf((redis) => redis.persist(key)), commandOf((redis) => redis.exists(key))],
        read: ([, stands]) => oneOrZero(stands),
      };
    case "delete":
      return one((redis) => redis.del(key), oneOrZero);
    case "append":
      return {
        commands: [
          commandOf((redis) => redis.rpush(key, write.value)),
          commandOf((redis) => expire(redis, key, write.ttlSeconds)),
        ],
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

function one(build: (redis: Redis) => unknown, read: (result: unknown) => unknown): Step {
  return { commands: [commandOf(build)], read: ([result]) => read(result) };
}

/** Whole seconds go as EX, which is what a reader of the commands expects to see. */
function expiryOf(ttlSeconds: TtlSeconds): { ex: number } | { px: number } | undefined {
  const millis = ttlMillis(ttlSeconds);
  if (millis === null) return undefined;
  return millis % 1000 === 0 ? { ex: millis / 1000 } : { px: millis };
}

function expire(redis: Redis, key: string, ttlSeconds: TtlSeconds): unknown {
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
