/**
 * The live side of one conversation: the Durable Object that alone says anything to its agent. Here the parts
 * are put together, RPC is answered and the alarm is kept; the rules are in `results.ts` (the table and its
 * states), `delivery.ts` (the loop) and `records.ts` (what stands in Redis).
 *
 * Named by the conversation's id. An object that has nothing left to know deletes everything it has.
 */
import { DurableObject } from "cloudflare:workers";
import {
  type ConversationRecord,
  createConversationStore,
  type Message,
  messageOfResult,
  messageText,
} from "../conversation-store.ts";
import { parseExactly, stringifyJson } from "../json.ts";
import { createLogger, logFailure } from "../log.ts";
import { postSigned } from "../outbound.ts";
import type { Channel } from "../push/channel.ts";
import type { Result } from "../result.ts";
import { type Answer, answer } from "../rpc.ts";
import { createSessionStore, type Registration, type SessionRecord } from "../session-store.ts";
import { durableObjectSql } from "../sql.ts";
import { createBreaker, OF_AN_OBJECT, withBreaker } from "../storage/breaker.ts";
import type { Storage, TtlSeconds } from "../storage/storage.ts";
import { agentConversationOf } from "./agent-conversation.ts";
import { type CallbackAnswer, createDeliveryLoop, type DeliveryLoop } from "./delivery.ts";
import {
  createReceipts,
  type Destinations,
  type Receipts,
  resultReceipts,
  sessionReceipts,
} from "./receipts.ts";
import { createRecords, type Records } from "./records.ts";
import { callerOf, createRelay, type Relay } from "./relay.ts";
import { RELAY_PING, RELAY_PONG } from "./relay-protocol.ts";
import { createResults, type ResultQuery, type ResultRow, type Results } from "./results.ts";
import { createTurn } from "./turn.ts";

export type LiveConversationParts = {
  storage: Storage;
  /** Those that dial, in the order of their precedence. */
  channels: readonly Channel[];
  /** Throws SessionUrlNotAllowedError where the session of a registration must not be dialled. */
  requireAllowed: (registration: Registration) => void;
  conversationTtlSeconds: TtlSeconds;
  /** Where signed messages go. */
  outbound: Destinations;
  /** While the feature is off nothing is pushed, nor sent. */
  featureEnabled: boolean;
};

const NOWHERE: Destinations = { runner: null, events: null };
const now = () => Date.now();
/** The tag of the sockets that are lines of the relay. */
const RELAY = "relay";

/** Before an alarm does its work it sets the next one, so that a crash in it is not the end. */
const ALARM_AGAIN_MS = 60_000;
const SHORTEST_PAUSE_MS = 1_000;

export abstract class LiveConversation<Env> extends DurableObject<Env> {
  readonly #results: Results;
  readonly #records: Records;
  readonly #delivery: DeliveryLoop;
  readonly #relay: Relay;
  readonly #receipts: Receipts;
  readonly #isEnabled: boolean;
  readonly #log;
  #alarmAt: number | null = null;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    const conversationId = ctx.id.name ?? "";
    const sql = durableObjectSql(ctx.storage);
    const {
      channels,
      requireAllowed,
      conversationTtlSeconds: ttlSeconds,
      outbound,
      featureEnabled,
      ...parts
    } = this.partsOf(env);
    const log = createLogger({ now }, { conversationId });
    const breaker = createBreaker({ now, ...OF_AN_OBJECT });
    const storage = withBreaker(parts.storage, breaker, { refuses: true });
    const sessions = createSessionStore(storage, log);
    const results = createResults({ sql, ttlSeconds });
    const receipts = createReceipts({
      conversationId,
      sql,
      destinations: featureEnabled ? outbound : NOWHERE,
      post: postSigned,
      log,
      now,
      rested: () => void this.#tidy().catch((error: unknown) => logFailure(log, "receipts", error)),
    });
    const turn = createTurn();
    const wait = (ms: number, signal?: AbortSignal) =>
      scheduler.wait(ms, signal === undefined ? {} : { signal }).catch(() => {});
    const records = createRecords({
      conversationId,
      sql,
      storage,
      sessions,
      conversations: createConversationStore({ storage, log, now, ttlSeconds }),
      results,
      log,
      now,
      ttlSeconds,
      nextTryAt: breaker.nextTryAt,
      connected: () => this.#relay.connection()?.session ?? null,
      sessionChanged: sessionReceipts(receipts, channels, now),
    });
    this.#relay = createRelay({
      conversationId,
      sql,
      sockets: () => ctx.getWebSockets(RELAY),
      parseSession: (text) => sessions.parse(conversationId, text),
      requireAllowed,
      records,
      delivery: () => this.#delivery,
      turn,
      log,
      now,
      wait,
    });
    this.#results = results;
    this.#records = records;
    this.#receipts = receipts;
    this.#log = log;
    this.#isEnabled = featureEnabled;
    this.#delivery = createDeliveryLoop({
      results,
      channels: [this.#relay.channel, ...channels],
      turn,
      look: records.look,
      isThere: records.isThere,
      note: resultReceipts(receipts, results),
      log,
      now,
      wait,
    });
    this.#delivery.recover();
    ctx.blockConcurrencyWhile(async () => {
      this.#alarmAt = await ctx.storage.getAlarm();
    });
  }

  protected abstract partsOf(env: Env): LiveConversationParts;

  /** A page opens a line: `relayRequest` makes such a request. Answers with the page's end of it. */
  override async fetch(request: Request): Promise<Response> {
    const { 0: page, 1: socket } = new WebSocketPair();
    this.ctx.acceptWebSocket(socket, [RELAY]);
    this.ctx.setWebSocketAutoResponse(new WebSocketRequestResponsePair(RELAY_PING, RELAY_PONG));
    this.#relay.accept(socket, callerOf(request));
    return new Response(null, { status: 101, webSocket: page });
  }

  override async webSocketMessage(socket: WebSocket, message: string | ArrayBuffer): Promise<void> {
    await this.#answer(() => this.#relay.receive(socket, message));
  }

  override async webSocketClose(socket: WebSocket): Promise<void> {
    await this.#answer(() => this.#relay.closed(socket));
  }

  override async webSocketError(socket: WebSocket): Promise<void> {
    await this.webSocketClose(socket);
  }

  ping(): Answer<null> {
    return { value: null };
  }

  /** A callback's result, as JSON. `requestId` is of the HTTP request, for the log. Throws RecordTooLargeError. */
  deliver(text: string, requestId: string): Promise<Answer<CallbackAnswer>> {
    return this.#answer(() => {
      const result = parseExactly(text) as Result;
      if (this.#records.isDeleted() && this.#results.get(result.requestId) === null) {
        return { kind: "discarded" } as const;
      }
      // Refused here where the history could not take it, so that nobody is told that it was kept.
      messageText(messageOfResult(result, now()));
      this.#records.noteActivity();
      return this.#delivery.receive(result, text, requestId);
    });
  }

  /**
   * A registration, as JSON, that Redis is being told of; `isUnsaved` where Redis could not be told. Returns
   * whether it replaced another. Throws ConversationDeletedError.
   */
  registered(text: string, isUnsaved: boolean): Promise<Answer<boolean>> {
    return this.#answer(async () => {
      const session = parseExactly(text) as SessionRecord;
      const to = await agentConversationOf(session);
      const replaced = this.#records.registered(session, to, isUnsaved);
      this.#wake();
      return replaced;
    });
  }

  /** Renews a registration. Returns the record as JSON; null where another is current, or none. */
  renew(registrationId: string, agentSessionId?: string): Promise<Answer<string | null>> {
    return this.#answer(async () => {
      const renewed = await this.#records.renew(registrationId, agentSessionId);
      if (renewed !== null) this.#wake();
      return renewed === null ? null : stringifyJson(renewed);
    });
  }

  /** Ends a registration, or whichever is current where none is named. Returns whether it was current. */
  ended(registrationId?: string): Promise<Answer<boolean>> {
    return this.#answer(() => {
      this.#relay.end("ended", registrationId);
      return this.#records.ended(registrationId ?? null);
    });
  }

  /** The live session as JSON, for who could not reach Redis. Throws StorageError where nobody can know. */
  session(): Promise<Answer<string | null>> {
    return this.#answer(async () => {
      const session = await this.#records.session();
      return session === null ? null : stringifyJson(session);
    });
  }

  /** A message, as JSON, of who could not reach Redis. Throws ConversationDeletedError, RecordTooLargeError. */
  append(text: string): Promise<Answer<null>> {
    return this.#answer(async () => {
      await this.#records.append(parseExactly(text) as Message);
      return null;
    });
  }

  /** A new conversation's record, as JSON, of who could not reach Redis. */
  create(text: string): Promise<Answer<null>> {
    return this.#answer(async () => {
      await this.#records.create(parseExactly(text) as ConversationRecord);
      return null;
    });
  }

  /** A page says that it has told its user these results. Returns those that this settled. */
  ack(requestIds: string[]): Promise<Answer<string[]>> {
    return this.#answer(() => this.#delivery.acknowledge(requestIds));
  }

  results(query: ResultQuery): Promise<Answer<ResultRow[]>> {
    return this.#answer(() => {
      if (this.#records.isDeleted()) return [];
      this.#delivery.expire();
      return this.#results.list(query);
    });
  }

  /** Deletes the conversation. Returns whether there was one. */
  forget(): Promise<Answer<boolean>> {
    return this.#answer(() => {
      const forgotten = this.#records.forget();
      this.#receipts.wipe();
      this.#delivery.discard();
      this.#relay.end("conversation_deleted");
      return forgotten;
    });
  }

  /** Gives Redis what it lacks, says what is due, forgets what is over. Never throws: after six failures nobody calls again. */
  override async alarm(): Promise<void> {
    try {
      this.#alarmAt = null;
      await this.#setAlarm(now() + ALARM_AGAIN_MS);
      this.#receipts.send();
      await this.#records.giveBack();
      this.#delivery.expire();
      this.#wake();
      await this.#delivery.rest();
      this.#alarmAt = null;
      await this.#tidy();
      if (this.#alarmAt === null) await this.ctx.storage.deleteAlarm();
    } catch (error) {
      logFailure(this.#log, "alarm", error);
    }
  }

  #wake(): void {
    if (this.#isEnabled && this.#results.hasOpen()) this.#delivery.wake();
  }

  async #answer<T>(work: () => T | Promise<T>): Promise<Answer<T>> {
    const given = await answer(work);
    await this.#tidy();
    return given;
  }

  /** Leaves the object with an alarm no later than it is needed, or with nothing at all. */
  async #tidy(): Promise<void> {
    const isKnowing = this.#records.tidy();
    const isConnected = !this.#relay.isEmpty();
    const isLive = isConnected || this.#records.current.alone(now()) !== null;
    const dues = [
      this.#results.nextDue(isLive, this.#isEnabled),
      this.#records.nextDue(),
      this.#receipts.nextDue(),
    ].filter((at) => at !== null);
    const isHolding = !this.#results.isEmpty() || !this.#receipts.isEmpty();
    if (!isKnowing && !isHolding && !isConnected && dues.length === 0) return this.#deleteEverything();
    // However often something cannot be done, it is not tried more than once in a while.
    const due = Math.max(Math.min(...dues), now() + SHORTEST_PAUSE_MS);
    if (due < (this.#alarmAt ?? Number.POSITIVE_INFINITY)) await this.#setAlarm(due);
  }

  async #deleteEverything(): Promise<void> {
    const parts = [this.#results, this.#records, this.#relay, this.#receipts];
    if (!parts.some((part) => part.exist())) return;
    for (const part of parts) part.forgetTables();
    this.#alarmAt = null;
    await Promise.all([this.ctx.storage.deleteAlarm(), this.ctx.storage.deleteAll()]);
  }

  async #setAlarm(at: number): Promise<void> {
    // Alarms are whole milliseconds.
    this.#alarmAt = Math.ceil(at);
    await this.ctx.storage.setAlarm(this.#alarmAt);
  }
}
