/**
 * The Durable Object of records outside a live conversation. With a Redis it is the keeper of one record, the
 * one place where it is written (`keeper.ts`); without one (`STORAGE=embedded`) it is itself the storage of one
 * partition (`sqlite.ts`), reached through `durable-object.ts`.
 *
 * An object with nothing in it deletes everything it has, so that it costs nothing.
 */
import { DurableObject } from "cloudflare:workers";
import { type Answer, answer } from "../rpc.ts";
import { durableObjectSql } from "../sql.ts";
import { createBreaker, OF_AN_OBJECT, withBreaker } from "./breaker.ts";
import { createKeeper, type Keeper } from "./keeper.ts";
import { createSqliteKeys, createSqliteStorage, type SqliteKeys } from "./sqlite.ts";
import type {
  IndexEntry,
  LogEntry,
  LogQuery,
  Storage,
  TextStorage,
  TextWrite,
  TtlSeconds,
  Write,
  WriteOutcome,
} from "./storage.ts";

/** `redis` is null where the objects are themselves the storage. */
export type RecordObjectParts = { redis: Storage | null; keepsCopies: boolean };

const now = () => Date.now();

/** How soon an object that keeps something tries again at the earliest. */
const SOON_MS = 1_000;
/** The same where Redis has refused it. */
const REFUSED_MS = 300_000;

export abstract class RecordObject<Env> extends DurableObject<Env> {
  /** Where the stores of this object write. */
  protected readonly storage: TextStorage;
  readonly #keys: SqliteKeys;
  readonly #keeper: Keeper | null;
  readonly #breaker = createBreaker({ now, ...OF_AN_OBJECT });
  #alarmAt: number | null = null;
  #pauseMs: number = SOON_MS;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    const sql = durableObjectSql(ctx.storage);
    const { redis, keepsCopies } = this.partsOf(env);
    this.#keys = createSqliteKeys(sql, "durable-object");
    this.#keeper =
      redis &&
      createKeeper({ primary: withBreaker(redis, this.#breaker, { refuses: true }), sql, now, keepsCopies });
    this.storage = this.#keeper ?? createSqliteStorage(this.#keys, now, "durable-object");
    ctx.blockConcurrencyWhile(async () => {
      this.#alarmAt = await ctx.storage.getAlarm();
    });
  }

  protected abstract partsOf(env: Env): RecordObjectParts;

  ping(): Answer<null> {
    return { value: null };
  }

  // --- One record, which is written here and nowhere else ----------------------------------------------------------

  /** The text of the record from wherever it is known; with `ttlSeconds` its time to live starts anew. */
  read(key: string, ttlSeconds?: TtlSeconds): Promise<Answer<string | null>> {
    return this.changing(() =>
      ttlSeconds === undefined ? this.storage.get(key) : this.storage.getAndTouch(key, ttlSeconds),
    );
  }

  /** Writes the record: in Redis, or here while that is down. */
  write(writes: TextWrite[]): Promise<Answer<WriteOutcome[]>> {
    return this.changing(() => this.storage.commit(writes));
  }

  /** Replaces the text of the record if exactly `expected` stands there. */
  swap(key: string, expected: string, next: string | null, ttlSeconds: TtlSeconds): Promise<Answer<boolean>> {
    return this.changing(() =>
      this.storage.update(key, (standing) => (standing === expected ? next : undefined), ttlSeconds),
    );
  }

  // --- A partition of embedded storage; every call brings the caller's clock -------------------------------------

  get(key: string, now: number): Promise<Answer<string | null>> {
    return answer(() => this.#keys.get(key, now));
  }

  getMany(keys: string[], now: number): Promise<Answer<(string | null)[]>> {
    return answer(() => this.#keys.getMany(keys, now));
  }

  ttlMs(key: string, now: number): Promise<Answer<number | null>> {
    return answer(() => this.#keys.ttlMs(key, now));
  }

  range(key: string, start: number, stop: number, now: number): Promise<Answer<string[]>> {
    return answer(() => this.#keys.range(key, start, stop, now));
  }

  listIndex(
    key: string,
    limit: number,
    after: IndexEntry | null,
    minScore: number | null,
    now: number,
  ): Promise<Answer<IndexEntry[]>> {
    return answer(() => this.#keys.listIndex(key, limit, after, minScore, now));
  }

  readLog(key: string, query: LogQuery, now: number): Promise<Answer<LogEntry[]>> {
    return answer(() => this.#keys.readLog(key, query, now));
  }

  apply(writes: Write[], now: number): Promise<Answer<WriteOutcome[]>> {
    return this.changing(() => this.#keys.apply(writes, now));
  }

  replace(
    key: string,
    expected: string,
    next: string | null,
    ttlSeconds: TtlSeconds,
    now: number,
  ): Promise<Answer<boolean>> {
    return this.changing(() => this.#keys.replace(key, expected, next, ttlSeconds, now));
  }

  /** Does what may change something here, and sees to the alarm. */
  protected async changing<T>(work: () => T | Promise<T>): Promise<Answer<T>> {
    const outcome = await answer(work);
    await this.#tidy();
    return outcome;
  }

  /** Gives back what is kept, and deletes what has expired. Never throws: after six failures nobody calls again. */
  override async alarm(): Promise<void> {
    this.#alarmAt = null;
    await this.#setAlarm(now() + OF_AN_OBJECT.longestWaitMs);
    try {
      const isClean = (await this.#keeper?.giveBack()) ?? true;
      // Redis is there and does not take it: nothing is lost by asking rarely.
      this.#pauseMs = isClean || this.#breaker.nextTryAt() !== null ? SOON_MS : REFUSED_MS;
      this.#keys.deleteExpired(now());
      this.#alarmAt = null;
      await this.#tidy();
      if (this.#alarmAt === null) await this.ctx.storage.deleteAlarm();
    } catch {
      // The alarm that was set first tries again.
    }
  }

  /** Leaves the object with an alarm no later than it is needed, or with nothing at all. */
  async #tidy(): Promise<void> {
    const never = Number.POSITIVE_INFINITY;
    const nextKey = this.#keys.nextExpiry();
    const kept = this.#keeper?.tidy() ?? { keeps: false, nextExpiry: null, isEmpty: true };
    if (nextKey === undefined && kept.isEmpty) return this.#deleteEverything();
    const tryAt = kept.keeps ? Math.max(now() + this.#pauseMs, this.#breaker.nextTryAt() ?? 0) : never;
    const due = Math.min(nextKey ?? never, kept.nextExpiry ?? never, tryAt);
    // One that comes too early costs one look, which is cheaper than moving it each time.
    if (due < (this.#alarmAt ?? never)) await this.#setAlarm(due);
  }

  async #deleteEverything(): Promise<void> {
    if (!this.#keys.hasTables() && this.#keeper?.hasTables() !== true) return;
    this.#keys.forgetTables();
    this.#keeper?.forgetTables();
    this.#alarmAt = null;
    await Promise.all([this.ctx.storage.deleteAlarm(), this.ctx.storage.deleteAll()]);
  }

  async #setAlarm(at: number): Promise<void> {
    // Alarms are whole milliseconds; one that comes a fraction early would be taken for done.
    this.#alarmAt = Math.ceil(at);
    await this.ctx.storage.setAlarm(this.#alarmAt);
  }
}
