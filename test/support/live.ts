/**
 * The live side of a conversation without a Durable Object: the same tables and the same loop, on `node:sqlite`,
 * with a clock that the test turns, a channel that it scripts, and a Redis that it can take away.
 */
import { createAgentConversations } from "../../lib/agent-conversations.ts";
import { createConversationStore } from "../../lib/conversation-store.ts";
import { StorageError } from "../../lib/errors.ts";
import { stringifyJson } from "../../lib/json.ts";
import { agentConversationOf } from "../../lib/live/agent-conversation.ts";
import { createDeliveryLoop, type DeliveryLoop } from "../../lib/live/delivery.ts";
import {
  createReceipts,
  type ReceiptData,
  type ReceiptType,
  type Recipient,
  resultReceipts,
  sessionReceipts,
} from "../../lib/live/receipts.ts";
import { createRecords } from "../../lib/live/records.ts";
import { createRelay, type Relay } from "../../lib/live/relay.ts";
import { createReplies } from "../../lib/live/replies.ts";
import { createResults, type ResultRow } from "../../lib/live/results.ts";
import { createTurn } from "../../lib/live/turn.ts";
import { createLogger } from "../../lib/log.ts";
import type { PostOutcome } from "../../lib/outbound.ts";
import { type After, pause } from "../../lib/patience.ts";
import type { Channel, ChannelName, PushOutcome } from "../../lib/push/channel.ts";
import type { PushMessage } from "../../lib/push/message.ts";
import type { Caller } from "../../lib/registration.ts";
import { parseCallback, type Result } from "../../lib/result.ts";
import {
  createSessionStore,
  parseRegistration,
  type SessionRecord,
  sessionRecord,
} from "../../lib/session-store.ts";
import { createSqliteKeys, createSqliteStorage } from "../../lib/storage/sqlite.ts";
import type { Storage, Write } from "../../lib/storage/storage.ts";
import { noTrace, type Trace } from "../../lib/trace.ts";
import { memorySql } from "./sql.ts";
import type { LogLine } from "./worker.ts";

export const START = Date.parse("2026-01-01T00:00:00Z");
const TTL_SECONDS = 30 * 24 * 3600;

/** A clock that stands still until it is turned; what waits is woken in its order. */
export function createClock(start = START) {
  let now = start;
  let timers: { at: number; wake: () => void }[] = [];
  /** Lets everything happen that can happen without the clock. */
  const settle = async () => {
    for (let i = 0; i < 5; i++) {
      for (let j = 0; j < 10; j++) await new Promise((resolve) => setImmediate(resolve));
      // Digests are made by other threads, one after the other: those before this one are done by now.
      await crypto.subtle.digest("SHA-256", new Uint8Array(1));
    }
  };
  const after: After = (ms, strike) => {
    const timer = { at: now + ms, wake: strike };
    timers.push(timer);
    return () => {
      timers = timers.filter((other) => other !== timer);
    };
  };
  async function advance(ms: number): Promise<void> {
    await settle();
    const end = now + ms;
    for (;;) {
      const next = timers.toSorted((a, b) => a.at - b.at)[0];
      if (next === undefined || next.at > end) break;
      timers = timers.filter((timer) => timer !== next);
      now = Math.max(now, next.at);
      next.wake();
      await settle();
    }
    now = end;
    await settle();
  }
  return {
    now: () => now,
    after,
    wait: (ms: number, signal?: AbortSignal) => pause(ms, signal, after),
    settle,
    advance,
    /** Turns it until work is done that waits for it, as a push does that is tried again. */
    async during(work: Promise<unknown>): Promise<void> {
      let isDone = false;
      const over = work.finally(() => {
        isDone = true;
      });
      await settle();
      while (!isDone) await advance(100);
      await over;
    },
  };
}

export type TestChannelOptions = {
  name?: ChannelName;
  accepts?: Channel["accepts"];
  /** What the channel answers, for each push. Default: delivered. */
  onPush?: (
    message: PushMessage,
    session: { wsUrl?: string | undefined },
  ) => PushOutcome | Promise<PushOutcome>;
};

/** A channel that keeps what it was asked to push. */
export function createTestChannel(pushed: PushMessage[], options: TestChannelOptions = {}): Channel {
  const { name = "socket", accepts = (session) => session.wsUrl !== undefined, onPush } = options;
  return {
    name,
    accepts,
    async push(session, message) {
      pushed.push(message);
      return onPush?.(message, session) ?? { outcome: "delivered" };
    },
  };
}

/** A receipt as it was sent, each time it was. */
export type SentReceipt = {
  to: Recipient;
  id: string;
  at: number;
  body: string;
  type: ReceiptType;
  timestamp: string;
  data: ReceiptData & { conversationId: string };
};

export type TestConversation = ReturnType<typeof testConversation>;

export function testConversation({
  channels,
  onPush,
  onReceipt,
  trace = noTrace,
}: {
  channels?: (pushed: PushMessage[]) => Channel[];
  onPush?: TestChannelOptions["onPush"];
  /** What becomes of a receipt. Without it none are wanted. */
  onReceipt?: (receipt: SentReceipt) => PostOutcome | Promise<PostOutcome>;
  trace?: Trace;
} = {}) {
  const conversationId = "c1";
  const clock = createClock();
  const { now, after } = clock;
  const pushed: PushMessage[] = [];
  const sent: SentReceipt[] = [];
  const duesAtRest: (number | null)[] = [];
  const lines: LogLine[] = [];
  const log = createLogger({ now, write: (_level, line) => lines.push(JSON.parse(line) as LogLine) });
  const redisSql = memorySql();
  const inner = createSqliteStorage(createSqliteKeys(redisSql), now);
  let isDown = false;
  let isClosed = false;
  /** Between the object and its Redis; may be replaced by a test. */
  const hooks = { beforeCommit: async (_writes: readonly Write[]) => {}, beforeUpdate: async () => {} };
  const storage: Storage = new Proxy(inner, {
    get(target, property: keyof Storage) {
      const method = target[property] as unknown;
      if (typeof method !== "function") return method;
      return async (...args: unknown[]) => {
        if (property === "commit") await hooks.beforeCommit(args[0] as readonly Write[]);
        if (property === "update") await hooks.beforeUpdate();
        if (isDown) throw new StorageError("sqlite", property, "server_error");
        return (method as (...args: unknown[]) => unknown)(...args);
      };
    },
  });
  const sessions = createSessionStore(storage, log);
  const conversations = createConversationStore({ storage, log, now, ttlSeconds: TTL_SECONDS });
  const sql = memorySql();
  const turn = createTurn();
  /** What the runtime holds, whether the object is in memory or not. */
  const sockets: WebSocket[] = [];

  const destinationOf = (recipient: Recipient) =>
    onReceipt === undefined ? null : { url: `https://${recipient}.example/`, secret: "whsec_" };

  function start() {
    const replies = createReplies({ now, after });
    const results = createResults({ sql, ttlSeconds: TTL_SECONDS });
    const dialling = channels?.(pushed) ?? [
      createTestChannel(pushed, onPush === undefined ? {} : { onPush }),
    ];
    const receipts = createReceipts({
      conversationId,
      sql,
      destinations: { events: destinationOf("events"), runner: destinationOf("runner") },
      async post({ url, id, body }) {
        const to = new URL(url).host.split(".")[0] as Recipient;
        const receipt = { to, id, at: now(), body, ...JSON.parse(body) } as SentReceipt;
        sent.push(receipt);
        return { outcome: (await onReceipt?.(receipt)) ?? "accepted" };
      },
      log,
      now,
      rested: () => {},
    });
    const records = createRecords({
      conversationId,
      sql,
      storage,
      sessions,
      conversations,
      results,
      log,
      now,
      // An object that has died does nothing any more.
      after: (ms, strike) => after(ms, () => life.records === records && strike()),
      ttlSeconds: TTL_SECONDS,
      agents: createAgentConversations({ storage, log, ttlSeconds: TTL_SECONDS }),
      connected: () => relay.connection()?.session ?? null,
      nextTryAt: () => null,
      sessionChanged: sessionReceipts(receipts, dialling, now),
      discarded: (requestIds) => delivery.discard(requestIds),
      unpublished: () => {},
    });
    const relay: Relay = createRelay({
      conversationId,
      sql,
      sockets: () => sockets,
      parseSession: (text) => sessions.parse(conversationId, text),
      requireAllowed: () => {},
      records,
      delivery: () => delivery,
      turn,
      log,
      now,
      after,
    });
    const delivery: DeliveryLoop = createDeliveryLoop({
      results,
      channels: [relay.channel, ...dialling],
      turn,
      look: records.look,
      offer: replies.offer,
      isThere: records.isThere,
      end: async ({ registrationId }) => void (await records.ended(registrationId)),
      note: resultReceipts(receipts, results),
      rested: () =>
        void records.brought().then(() => {
          if (isClosed) return;
          records.publish();
          duesAtRest.push(tester.nextDue());
        }),
      log,
      trace,
      now,
      after,
    });
    delivery.recover();
    return { results, records, delivery, relay, replies, receipts };
  }
  let life = start();

  const tester = {
    clock,
    sql,
    pushed,
    /** Every receipt, as often as it was sent. */
    sent,
    /** When the alarm was due next, each time the loop came to rest. */
    duesAtRest,
    lines,
    turn,
    hooks,
    storage,
    conversations,
    sessions,
    get results() {
      return life.results;
    },
    get records() {
      return life.records;
    },
    get replies() {
      return life.replies;
    },
    get delivery() {
      return life.delivery;
    },
    get receipts() {
      return life.receipts;
    },

    /** Takes Redis away, or brings it back. */
    redisIs(state: "down" | "up") {
      isDown = state === "down";
    },

    /** Redis comes back with nothing. */
    async emptyRedis(): Promise<void> {
      for (const table of ["keys", "items", "scores"]) redisSql.rows(`DELETE FROM ${table}`);
    },

    /** The object dies with everything that is under way in it, and begins again from what it has written. */
    restart() {
      life = start();
    },

    callback(requestId: string, fields: object = {}) {
      const { result } = parseCallback({
        conversationId,
        requestId,
        output: `output of ${requestId}.`,
        ...fields,
      });
      return tester.receive(result);
    },

    /** Takes a result in as the object does: whoever is answered finds it in the history. */
    async receive(result: Result) {
      const { records, delivery } = life;
      records.noteActivity();
      const answer = await delivery.receive(result, stringifyJson(result), "http-request");
      await records.brought();
      return answer;
    },

    /** Registers as an instance does that reaches Redis, unless Redis is down; waits for the hand-over if it `rests`. */
    async register(fields: object = {}, rests = true): Promise<SessionRecord> {
      const registration = parseRegistration({ sessionUrl: "wss://agent.example/live", ...fields });
      const session = sessionRecord(conversationId, registration, crypto.randomUUID(), now());
      const isUnsaved = isDown;
      if (!isUnsaved) await sessions.set(session);
      const to = await agentConversationOf(session);
      const registered = life.records.registered(session, to, isUnsaved);
      life.delivery.wake();
      await registered;
      if (rests) await life.delivery.rest();
      return session;
    },

    /** A page opens a line, and a frame of it is taken; nothing is answered but what `frames` and `closing` show. */
    open(caller: Caller = { kind: "page", agentSessionId: undefined }) {
      const frames: { type: string; [field: string]: unknown }[] = [];
      let attachment: unknown = null;
      const socket = {
        readyState: 1,
        closing: null as { code: number; reason: string } | null,
        send(text: string) {
          if (socket.readyState !== 1) throw new TypeError("the socket is not open");
          frames.push(JSON.parse(text));
        },
        close(code: number, reason: string) {
          if (socket.readyState !== 1) return;
          socket.closing = { code, reason };
          socket.readyState = 3;
          sockets.splice(sockets.indexOf(handle), 1);
        },
        serializeAttachment(value: unknown) {
          attachment = structuredClone(value);
        },
        deserializeAttachment: () => structuredClone(attachment),
      };
      const handle = socket as unknown as WebSocket;
      sockets.push(handle);
      life.relay.accept(handle, caller);
      const line = {
        frames,
        socket,
        pushes: () =>
          frames.filter(({ type }) => type === "push").map(({ requestIds }) => requestIds as string[]),
        say: (frame: unknown) =>
          life.relay.receive(handle, typeof frame === "string" ? frame : JSON.stringify(frame)),
        hello: (fields: object = {}) => line.say({ type: "hello", ...fields }),
        ack: (...requestIds: string[]) => line.say({ type: "ack", requestIds }),
        /** The connection breaks, and the object is told. */
        async lose(): Promise<void> {
          line.die();
          await life.relay.closed(handle);
        },
        /** The connection breaks while the object is not in memory. */
        die(): void {
          socket.readyState = 3;
          if (sockets.includes(handle)) sockets.splice(sockets.indexOf(handle), 1);
        },
      };
      return line;
    },

    /** Deletes the conversation. */
    forget(taskIds: readonly string[] = []): Promise<boolean> {
      const forgotten = life.records.forget(taskIds);
      life.receipts.wipe();
      life.relay.end("conversation_deleted");
      return forgotten;
    },

    /** When the alarm is due next. */
    nextDue(): number | null {
      const isLive = !life.relay.isEmpty() || life.records.current.alone(now()) !== null;
      const dues = [life.results.nextDue(isLive), life.records.nextDue(), life.receipts.nextDue()].filter(
        (at) => at !== null,
      );
      return dues.length === 0 ? null : Math.min(...dues);
    },

    /** Turns the clock, with every alarm that falls due on the way. */
    async live(ms: number): Promise<void> {
      for (const end = now() + ms; now() < end; ) {
        // Like the object's own alarm: never twice in a second.
        const due = Math.max(tester.nextDue() ?? end, now() + 1_000);
        await clock.advance(Math.min(due, end) - now());
        if (due <= now()) await clock.during(tester.alarm());
      }
    },

    /** What the alarm does. */
    async alarm(): Promise<void> {
      life.receipts.send();
      await life.records.giveBack();
      life.delivery.expire();
      life.delivery.wake();
      await life.delivery.rest();
      life.records.tidy();
    },

    row(requestId: string): ResultRow {
      const row = life.results.get(requestId);
      if (row === null) throw new Error(`no row of ${requestId}`);
      return row;
    },

    /** What the history in Redis holds. */
    async history(): Promise<string[]> {
      const { messages } = await conversations.page(conversationId, 1_000);
      return messages.map(({ id }) => id);
    },

    /** How often a result was in a push. */
    tellings: (requestId: string) => pushed.filter(({ requestIds }) => requestIds.includes(requestId)).length,
    close() {
      isClosed = true;
      sql.close();
      redisSql.close();
    },
  };
  return tester;
}
