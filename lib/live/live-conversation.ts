/**
 * The live side of one conversation: the Durable Object that alone says anything to its agent. Here the parts
 * are put together, RPC is answered and the alarm is kept; the rules are in `results.ts` (the table and its
 * states), `delivery.ts` (the loop), `records.ts` and `exchange.ts` (what stands in Redis).
 *
 * Named by the conversation's id. An object that has nothing left to know deletes everything it has.
 */
import { DurableObject, tracing } from "cloudflare:workers";
import { createAgentConversations } from "../agent-conversations.ts";
import {
  type ConversationRecord,
  createConversationStore,
  type Message,
  requireRoomFor,
} from "../conversation-store.ts";
import { parseExactly, stringifyJson } from "../json.ts";
import { createLogger, logFailure } from "../log.ts";
import { postSigned } from "../outbound.ts";
import { type After, createSharedTimer, earliest, pause } from "../patience.ts";
import type { Channel } from "../push/channel.ts";
import type { Progress } from "../result.ts";
import { type Answer, answer } from "../rpc.ts";
import { createSessionStore, type Registration, type SessionRecord } from "../session-store.ts";
import { durableObjectSql } from "../sql.ts";
import { createBreaker, OF_AN_OBJECT, withBreaker } from "../storage/breaker.ts";
import type { Storage, TtlSeconds } from "../storage/storage.ts";
import type { Ticket } from "../task.ts";
import { traceBy } from "../trace.ts";
import { agentConversationOf } from "./agent-conversation.ts";
import { type ConnectionEvent, type Connections, createConnections } from "./connections.ts";
import { type CallbackAnswer, createDeliveryLoop, type DeliveryLoop } from "./delivery.ts";
import { type AgentProxy, agentOf, createProxy, type ProxyOptions } from "./proxy.ts";
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
import { createReplies, type Replies } from "./replies.ts";
import {
  createResults,
  type OpenResults,
  type ResultQuery,
  type ResultRow,
  type Results,
} from "./results.ts";
import { createTasks, type TaskQuery, type TaskRow, type Tasks } from "./tasks.ts";
import { createTurn } from "./turn.ts";

export type LiveConversationParts = {
  storage: Storage;
  /** Those that dial, in the order of their precedence. */
  channels: readonly Channel[];
  /** Throws SessionUrlNotAllowedError where the session of a registration must not be dialled. */
  requireAllowed: (registration: Registration) => void;
  /** Opens a conversation with an agent, for a page. */
  openAgent: ProxyOptions["open"];
  /** Whether what is said in such a conversation is put into the history. */
  keepsTranscripts: boolean;
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

/** The tickets of so many of the newest tasks are deleted with a conversation; older ones go by their own time. */
const MAX_TICKETS_DELETED = 1_000;

/** Before an alarm does its work it sets the next one, so that a crash in it is not the end. */
const ALARM_AGAIN_MS = 60_000;
const SHORTEST_PAUSE_MS = 1_000;

export abstract class LiveConversation<Env> extends DurableObject<Env> {
  readonly #results: Results;
  readonly #records: Records;
  readonly #delivery: DeliveryLoop;
  readonly #relay: Relay;
  readonly #tasks: Tasks;
  readonly #replies: Replies;
  readonly #proxy: AgentProxy;
  readonly #receipts: Receipts;
  readonly #connections: Connections;
  readonly #isEnabled: boolean;
  readonly #log;
  #alarmAt: number | null = null;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    const conversationId = ctx.id.name ?? "";
    const sql = durableObjectSql(ctx.storage);
    const after = createSharedTimer(now);
    const wait = (ms: number, signal?: AbortSignal) => pause(ms, signal, after);
    const {
      channels,
      requireAllowed,
      openAgent,
      keepsTranscripts,
      conversationTtlSeconds: ttlSeconds,
      outbound,
      featureEnabled,
      ...parts
    } = this.partsOf(env, after);
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
      rested: () => this.#tidyLater("receipts"),
    });
    const noteReceipts = sessionReceipts(receipts, channels, now);
    const connections = createConnections(sql);
    const turn = createTurn();
    const conversations = createConversationStore({ storage, log, now, ttlSeconds });
    const records = createRecords({
      conversationId,
      sql,
      storage,
      sessions,
      conversations,
      results,
      log,
      now,
      after,
      ttlSeconds,
      nextTryAt: breaker.nextTryAt,
      // Tool calls must find whose agent calls.
      agents: outbound.runner === null ? null : createAgentConversations({ storage, log, ttlSeconds }),
      connected: () => this.#connected(),
      sessionChanged: (before, after) => {
        noteReceipts(before, after);
        connections.changed(before, after, now());
      },
      discarded: (requestIds) => this.#delivery.discard(requestIds),
      unpublished: () => this.#tidyLater("publish"),
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
      after,
    });
    this.#proxy = createProxy({
      conversationId,
      open: openAgent,
      isDeleted: records.isDeleted,
      attach: (session, then) => this.#attach(session, then),
      detach: (registrationId) => this.#detach(registrationId),
      turn,
      wake: () => this.#wake(),
      appendTranscript: keepsTranscripts
        ? (messages, mayStand) => conversations.appendTranscript(conversationId, messages, mayStand)
        : null,
      log,
      now,
      wait,
    });
    this.#results = results;
    this.#records = records;
    this.#tasks = createTasks(sql);
    this.#connections = connections;
    this.#replies = createReplies({ now, after });
    this.#receipts = receipts;
    this.#log = log;
    this.#isEnabled = featureEnabled;
    this.#delivery = createDeliveryLoop({
      results,
      channels: [this.#relay.channel, this.#proxy.channel, ...channels],
      turn,
      look: records.look,
      offer: (result) => this.#replies.offer(result),
      isThere: records.isThere,
      end: (session) => this.#callEnded(session),
      note: resultReceipts(receipts, results),
      rested: () => this.#tidyLater("delivery"),
      log,
      trace: traceBy(tracing, { conversationId }),
      now,
      after,
    });
    this.#delivery.recover();
    ctx.blockConcurrencyWhile(async () => {
      this.#alarmAt = await ctx.storage.getAlarm();
    });
  }

  /** `after`: the one timer of the object. */
  protected abstract partsOf(env: Env, after: After): LiveConversationParts;

  /**
   * A page opens a line, or connects to an agent: `relayRequest` and `proxyRequest` make such requests. Answers with
   * the page's end of it.
   */
  override async fetch(request: Request): Promise<Response> {
    const { 0: page, 1: socket } = new WebSocketPair();
    const agent = agentOf(request);
    if (agent !== null) this.#proxy.connect(socket, agent.agentId, agent.parameters);
    else {
      this.ctx.acceptWebSocket(socket, [RELAY]);
      this.ctx.setWebSocketAutoResponse(new WebSocketRequestResponsePair(RELAY_PING, RELAY_PONG));
      this.#relay.accept(socket, callerOf(request));
    }
    return new Response(null, { status: 101, webSocket: page });
  }

  override async webSocketMessage(socket: WebSocket, message: string | ArrayBuffer): Promise<void> {
    await answer(() => this.#relay.receive(socket, message));
    // Who waits for Redis here would hold up the next frame.
    this.#tidyLater("relay");
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

  /**
   * A callback's result, as JSON. `namedByTask`: nothing but the id of a task says that it belongs here. `requestId` is
   * of the HTTP request, for the log. Throws RecordTooLargeError.
   */
  deliver(text: string, namedByTask: boolean, requestId: string): Promise<Answer<CallbackAnswer>> {
    return this.#answer(async () => {
      const given = this.#results.parse(text);
      const stranger = this.#strangerOf(given.requestId, namedByTask);
      if (stranger !== null) return stranger;
      // Refused here where the history could not take it, so that nobody is told that it was kept.
      requireRoomFor(given, text);
      this.#records.noteActivity();
      const { result, isCancelled } = this.#tasks.finish(given, now());
      const answered = await this.#delivery.receive(result, text, requestId, isCancelled);
      // Whoever is answered finds the result in the history.
      await this.#records.brought();
      return answered;
    });
  }

  /** How far a task is, as JSON. `taken`: it is news, and said if anybody is there. */
  progress(
    text: string,
    namedByTask: boolean,
  ): Promise<Answer<{ kind: "taken" | "ignored" } | CallbackAnswer>> {
    return this.#answer(() => {
      const progress = parseExactly(text) as Progress;
      const stranger = this.#strangerOf(progress.requestId, namedByTask);
      if (stranger !== null) return stranger;
      const isNews =
        this.#isEnabled &&
        this.#tasks.progress(progress.requestId, progress, now()) &&
        this.#delivery.progress(progress);
      return { kind: isNews ? "taken" : "ignored" } as const;
    });
  }

  /** What is answered to a callback that has nothing to look for here; null where it has. */
  #strangerOf(requestId: string, namedByTask: boolean): CallbackAnswer | null {
    const isDeleted = this.#records.isDeleted();
    if ((!isDeleted && !namedByTask) || this.#results.get(requestId) !== null) return null;
    if (isDeleted) return { kind: "discarded" };
    return this.#tasks.get(requestId) === null ? { kind: "unknown_task" } : null;
  }

  /**
   * A task, its ticket as JSON, before anybody works on it. With `replyMs` the tool call waits so long for its result:
   * returns whether it may. Throws ConversationDeletedError.
   */
  openTask(text: string, replyMs: number): Promise<Answer<boolean>> {
    return this.#answer(async () => {
      const ticket = parseExactly(text) as Ticket;
      this.#records.requireStanding();
      this.#tasks.open(ticket);
      const waits = replyMs > 0 && this.#replies.expect(ticket.taskId, replyMs);
      await this.#records.ticket(ticket.taskId, text);
      return waits;
    });
  }

  /** Nobody took a task. */
  failTask(taskId: string): Promise<Answer<null>> {
    return this.#answer(() => {
      this.#tasks.fail(taskId, now());
      this.#replies.end(taskId, false);
      return null;
    });
  }

  /** The result of a task, as JSON, if it comes within `ms`; null where it does not. */
  awaitReply(taskId: string, ms: number): Promise<Answer<string | null>> {
    return this.#answer(async () => {
      const result = await this.#replies.take(taskId, ms);
      return result === null ? null : stringifyJson(result);
    });
  }

  /** The tool call that waited was given its answer, or has gone. */
  endReply(taskId: string, wasAnswered: boolean): Promise<Answer<null>> {
    return this.#answer(() => {
      this.#replies.end(taskId, wasAnswered);
      return null;
    });
  }

  /** Newest first. */
  tasks(query: TaskQuery): Promise<Answer<TaskRow[]>> {
    return this.#answer(() => {
      this.#tasks.expire(now());
      return this.#tasks.list(query);
    });
  }

  /** Nobody wants the result of a task any more. Returns whether it was still to come or waited; null for no such task. */
  cancelTask(taskId: string): Promise<Answer<boolean | null>> {
    return this.#answer(() => {
      if (this.#tasks.get(taskId) === null) return null;
      const isCancelled = this.#cancelTask(taskId, "requested");
      return this.#delivery.cancel(taskId) || isCancelled;
    });
  }

  #cancelTask(taskId: string, reason: "requested" | "hangup"): boolean {
    const isCancelled = this.#tasks.cancel(taskId, now());
    if (isCancelled) this.#noteCancelled(taskId, reason);
    return isCancelled;
  }

  #noteCancelled(taskId: string, reason: "requested" | "hangup"): void {
    this.#log.info("task.cancelled", { callbackRequestId: taskId, reason });
    this.#replies.cancel(taskId);
    for (const recipient of ["runner", "events"] as const) {
      this.#receipts.note("task.cancelled", { taskId, reason }, recipient);
    }
  }

  /**
   * A registration, as JSON, that Redis is being told of; `isUnsaved` where Redis could not be told. Returns
   * whether it replaced another. Throws ConversationDeletedError.
   */
  registered(text: string, isUnsaved: boolean): Promise<Answer<boolean>> {
    return this.#answer(async () => {
      const session = this.#records.given(text);
      // Where nothing was told it does not matter who would have heard it.
      const to = this.#results.hasTold() ? await agentConversationOf(session) : null;
      const replaced = this.#records.registered(session, to, isUnsaved);
      this.#wake();
      return replaced;
    });
  }

  /**
   * Renews a registration. `isProven`: whether a server vouches for the `agentSessionId`. Returns the record as JSON; null
   * where another is current, or none.
   */
  renew(registrationId: string, agentSessionId?: string, isProven = false): Promise<Answer<string | null>> {
    return this.#answer(async () => {
      const renewed = await this.#records.renew(registrationId, agentSessionId, isProven);
      if (renewed !== null) this.#wake();
      return renewed === null ? null : stringifyJson(renewed);
    });
  }

  /** Ends a registration, or whichever is current where none is named. Returns whether it was current. */
  ended(registrationId?: string): Promise<Answer<boolean>> {
    return this.#answer(() => {
      this.#relay.end("ended", registrationId);
      this.#proxy.release(registrationId);
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

  /**
   * An operator wants results said again. `onlyFailed`: those that nobody is known to have heard. `settledAt`: those that
   * are settled since then (ms), one for each. Returns the ids of those that wait for it. Throws ConversationDeletedError.
   */
  again(requestIds: string[], onlyFailed: boolean, settledAt?: number[]): Promise<Answer<string[]>> {
    return this.#answer(() => {
      this.#records.requireStanding();
      return this.#delivery.again(requestIds, onlyFailed, settledAt);
    });
  }

  /** What is not settled, newest first, and how many of each status there are. */
  open(limit: number): Promise<Answer<OpenResults>> {
    return this.#answer(() => {
      if (this.#records.isDeleted()) return { counts: {}, results: [] };
      this.#delivery.expire();
      return this.#results.open(limit);
    });
  }

  /** Who was there, newest first. */
  connections(): Promise<Answer<ConnectionEvent[]>> {
    return this.#answer(() => (this.#records.isDeleted() ? [] : this.#connections.list()));
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
      const tasks = this.#tasks.list({ limit: MAX_TICKETS_DELETED });
      const forgotten = this.#records.forget(tasks.map(({ taskId }) => taskId));
      for (const { taskId, status } of tasks) {
        // Whoever works on it need not.
        if (status === "processing")
          this.#receipts.note("task.cancelled", { taskId, reason: "deleted" }, "runner");
      }
      this.#tasks.wipe();
      this.#replies.cancelAll();
      this.#receipts.wipe();
      this.#connections.wipe();
      this.#relay.end("conversation_deleted");
      this.#proxy.end("conversation_deleted");
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
      this.#tasks.expire(now());
      for (const taskId of this.#tasks.hangUp(now())) this.#noteCancelled(taskId, "hangup");
      this.#wake();
      await this.#delivery.rest();
      await this.#records.brought();
      this.#alarmAt = null;
      await this.#tidy();
      if (this.#alarmAt === null) await this.ctx.storage.deleteAlarm();
    } catch (error) {
      logFailure(this.#log, "alarm", error);
    }
  }

  /** The session of the page that is connected, the newest if there are several. */
  #connected(): SessionRecord | null {
    const [line, proxied] = [this.#relay.connection(), this.#proxy.connection()];
    const isProxied = proxied !== null && (line === null || line.since < proxied.since);
    return (isProxied ? proxied : line)?.session ?? null;
  }

  /** Whoever hosts the agent says that its conversation is over. */
  async #callEnded({ registrationId }: SessionRecord): Promise<void> {
    if (await this.#records.ended(registrationId)) this.#log.info("session.ended", { registrationId });
  }

  async #attach(session: SessionRecord, then: () => void): Promise<boolean> {
    try {
      return await this.#records.attach(session, await agentConversationOf(session), then);
    } finally {
      await this.#tidy();
    }
  }

  async #detach(registrationId: string): Promise<void> {
    await this.#records.detach(registrationId, true);
    this.#wake();
    await this.#tidy();
  }

  #wake(): void {
    if (this.#isEnabled && this.#results.hasOpen()) this.#delivery.wake();
  }

  async #answer<T>(work: () => T | Promise<T>): Promise<Answer<T>> {
    const given = await answer(work);
    await this.#tidy();
    return given;
  }

  /** Behind work that nobody waited for; what is on its way to the history needs no alarm. */
  #tidyLater(operation: string): void {
    void this.#records
      .brought()
      .then(() => this.#tidy())
      .catch((error: unknown) => logFailure(this.#log, operation, error));
  }

  /** Leaves the object with an alarm no later than it is needed, or with nothing at all. */
  async #tidy(): Promise<void> {
    this.#records.publish();
    const isKnowing = this.#records.tidy();
    const isConnected = !this.#relay.isEmpty() || !this.#proxy.isEmpty();
    const isLive = isConnected || this.#records.current.alone(now()) !== null;
    this.#tasks.attended(this.#records.isAttended(), now());
    const dueAt = earliest(
      this.#results.nextDue(isLive, this.#isEnabled),
      this.#records.nextDue(),
      this.#tasks.nextDue(),
      this.#receipts.nextDue(),
    );
    const isEmpty = this.#results.isEmpty() && this.#tasks.isEmpty() && this.#receipts.isEmpty();
    if (!isKnowing && !isConnected && isEmpty && dueAt === null) return this.#deleteEverything();
    if (dueAt === null) return;
    // However often something cannot be done, it is not tried more than once in a while.
    const due = Math.max(dueAt, now() + SHORTEST_PAUSE_MS);
    if (due < (this.#alarmAt ?? Number.POSITIVE_INFINITY)) await this.#setAlarm(due);
  }

  async #deleteEverything(): Promise<void> {
    const parts = [this.#results, this.#records, this.#relay, this.#tasks, this.#receipts, this.#connections];
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
