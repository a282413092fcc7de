/**
 * The conversations: what outlives a session. A conversation has a record, a history of messages, a backlog
 * of results that found no live session, and a place in the index of conversations by last activity. All of
 * it lives `CONVERSATION_TTL_SECONDS` from the last activity.
 *
 * Writes that belong together are handed out as data (`activityWrites`, `messageWrite`, …), so that a
 * registration or a settled callback is one commit.
 */
import * as v from "valibot";
import {
  isJsonObject,
  isoTimestamp,
  type JsonObject,
  jsonObject,
  jsonValue,
  parseExactly,
  stringifyJson,
  validate,
} from "./json.ts";
import { isRequestId, keys } from "./keys.ts";
import type { Logger } from "./log.ts";
import type {
  AppendWrite,
  CreateWrite,
  IndexWrite,
  PruneWrite,
  RemoveWrite,
  SetWrite,
  Storage,
  TouchWrite,
  TtlSeconds,
} from "./storage/storage.ts";
import { createTtlStore } from "./ttl-store.ts";

export const MAX_MESSAGES = 1_000;
export const MAX_BACKLOG = 200;
export const MAX_LIST_LIMIT = 100;
/** Messages read in one go. The largest are about 200 kB each, and Upstash puts at most 10 MB into an answer. */
const MESSAGES_PER_READ = 40;

export const conversationRecordSchema = v.object({
  version: v.optional(v.number(), 1),
  conversationId: v.string(),
  agentId: v.optional(v.string()),
  metadata: v.optional(jsonObject),
  createdAt: v.string(),
  lastSessionAt: v.optional(v.string()),
});
export type ConversationRecord = v.InferOutput<typeof conversationRecordSchema>;

const shortText = v.pipe(v.string(), v.maxLength(256, "must be at most 256 characters"));

export const newConversationSchema = v.object({
  agentId: v.optional(shortText),
  metadata: v.optional(jsonObject),
});

const messageContent = {
  role: v.picklist(["user", "assistant", "agent", "system", "tool"]),
  content: v.string(),
  source: v.optional(shortText, "api"),
  toolName: v.optional(shortText),
  toolArgs: v.optional(jsonValue),
  toolOutput: v.optional(jsonValue),
  status: v.optional(shortText),
};
const newMessageSchema = v.object({ ...messageContent, timestamp: v.optional(isoTimestamp) });
const messageSchema = v.object({ ...messageContent, id: v.string(), timestamp: v.string() });
export type Message = v.InferOutput<typeof messageSchema>;

/** Reads a message from a request body; `now` (ms) stands in for an absent timestamp. Throws InvalidRequestError. */
export function parseNewMessage(body: JsonObject, id: string, now: number): Message {
  const message = validate(newMessageSchema, body);
  return { id, ...message, timestamp: message.timestamp ?? new Date(now).toISOString() };
}

export type ConversationPage = { conversations: ConversationRecord[]; nextCursor?: string };

export type ConversationStore = ReturnType<typeof createConversationStore>;

export type ConversationStoreOptions = {
  storage: Storage;
  log: Logger;
  /** The clock, in ms since the epoch. */
  now: () => number;
  /** Seconds from the last activity; null keeps conversations for ever. */
  ttlSeconds: TtlSeconds;
};

export function createConversationStore({ storage, log, now, ttlSeconds }: ConversationStoreOptions) {
  const records = createTtlStore({
    storage,
    log,
    keyOf: keys.conversation,
    schema: conversationRecordSchema,
    ttlSeconds,
    policy: "on-write",
  });

  function indexWrite(conversationId: string): IndexWrite {
    return { type: "index", key: keys.conversations, member: conversationId, score: now() };
  }

  function parseMessage(conversationId: string, text: string): Message[] {
    let value: unknown;
    try {
      value = parseExactly(text);
    } catch {
      value = undefined;
    }
    const result = v.safeParse(messageSchema, value);
    if (result.success && isJsonObject(value)) return [{ ...value, ...result.output }];
    log.error("record.unreadable", {
      key: keys.messages(conversationId),
      reasons: ["a message has another shape"],
    });
    return [];
  }

  const store = {
    get: (conversationId: string): Promise<ConversationRecord | null> => records.get(conversationId),

    /** Reads a stored conversation text; null where it cannot be read. */
    parse: (conversationId: string, text: string): ConversationRecord | null =>
      records.parse(conversationId, text),

    /** A record as it is when nothing is known but the id. */
    fresh(conversationId: string, fields: Partial<ConversationRecord> = {}): ConversationRecord {
      return { version: 1, conversationId, ...fields, createdAt: new Date(now()).toISOString() };
    },

    /** Stores a new conversation under an id that nobody has used. */
    async create(record: ConversationRecord): Promise<void> {
      await storage.commit([
        records.createWrite(record.conversationId, record),
        indexWrite(record.conversationId),
        ...store.pruneWrites(),
      ]);
    },

    /** The whole history, oldest first. A message that a repeated write left twice is given once. */
    async messages(conversationId: string): Promise<Message[]> {
      const byId = new Map<string, Message>();
      for (let start = 0; start < MAX_MESSAGES; start += MESSAGES_PER_READ) {
        const texts = await storage.range(
          keys.messages(conversationId),
          start,
          start + MESSAGES_PER_READ - 1,
        );
        for (const text of texts) {
          for (const message of parseMessage(conversationId, text)) {
            if (!byId.has(message.id)) byId.set(message.id, message);
          }
        }
        if (texts.length < MESSAGES_PER_READ) break;
      }
      return [...byId.values()];
    },

    /** Adds a message to a conversation, creating the conversation where it is the first sign of it. */
    async append(conversationId: string, message: Message): Promise<void> {
      const results = await storage.commit([
        store.messageWrite(conversationId, message),
        ...store.activityWrites(conversationId),
      ]);
      store.reportDropped(conversationId, "messages.dropped", results[0]);
    },

    /** Conversations with the newest activity first. Throws InvalidCursorError. */
    async list(limit: number, cursor?: string): Promise<ConversationPage> {
      const page = await storage.listIndex(keys.conversations, {
        limit,
        ...(cursor === undefined ? {} : { cursor }),
        ...(ttlSeconds === null ? {} : { minScore: now() - ttlSeconds * 1000 }),
      });
      const ids = page.entries.map((entry) => entry.member);
      const texts = await storage.getMany(ids.map(keys.conversation));
      const conversations = texts.flatMap((text, i) => {
        const record = text === null ? null : records.parse(ids[i] ?? "", text);
        return record === null ? [] : [record];
      });
      return { conversations, ...(page.nextCursor === undefined ? {} : { nextCursor: page.nextCursor }) };
    },

    /** Removes the conversation, its messages, its backlog and its session. Returns whether there was one. */
    async delete(conversationId: string): Promise<boolean> {
      const [deleted] = await storage.commit([
        { type: "delete", key: keys.conversation(conversationId) },
        { type: "delete", key: keys.messages(conversationId) },
        { type: "delete", key: keys.backlog(conversationId) },
        { type: "delete", key: keys.session(conversationId) },
        { type: "unindex", key: keys.conversations, member: conversationId },
      ]);
      return deleted;
    },

    /** The requestIds that wait, oldest first. */
    async backlog(conversationId: string): Promise<string[]> {
      const entries = [...new Set(await storage.range(keys.backlog(conversationId), 0, -1))];
      const requestIds = entries.filter(isRequestId);
      if (requestIds.length < entries.length) {
        log.error("record.unreadable", {
          key: keys.backlog(conversationId),
          reasons: ["an entry is no requestId"],
        });
      }
      return requestIds;
    },

    /** Forgets conversations in the index that have outlived their time. */
    pruneWrites: (): PruneWrite[] =>
      ttlSeconds === null
        ? []
        : [{ type: "prune", key: keys.conversations, belowScore: now() - ttlSeconds * 1000 }],

    /** Creates the record where none stands. Result: the text that stands there now. */
    createWrite: (record: ConversationRecord): CreateWrite =>
      records.createWrite(record.conversationId, record),

    /** Renews the record alone, where it stands. */
    renewWrite: (conversationId: string): TouchWrite => ({
      type: "touch",
      key: keys.conversation(conversationId),
      ttlSeconds,
    }),

    /** Replaces a record whose stored text was `standing`, unless it has been changed or deleted meanwhile. */
    replace: (standing: string, record: ConversationRecord): Promise<boolean> => {
      const { key, value } = store.setWrite(record);
      return storage.compareAndSet(key, standing, value, ttlSeconds);
    },

    /** Replaces the record and restarts its time to live. */
    setWrite: (record: ConversationRecord): SetWrite => records.setWrite(record.conversationId, record),

    /** Everything that any activity in a conversation that may not exist yet entails. */
    activityWrites(conversationId: string): [CreateWrite, ...TouchWrite[], IndexWrite] {
      return [
        store.createWrite(store.fresh(conversationId)),
        ...store.touchWrites(conversationId),
        indexWrite(conversationId),
      ];
    },

    /**
     * What activity entails while a session is live: its registration renewed everything a moment ago, so there
     * is nothing to renew, only to put back where the conversation has been deleted meanwhile.
     */
    briefActivityWrites: (conversationId: string): [SetWrite, IndexWrite] => [
      { ...store.setWrite(store.fresh(conversationId)), onlyIfAbsent: true },
      indexWrite(conversationId),
    ],

    /** Renews record, messages and backlog alike, so that none of them outlives the others. */
    touchWrites: (conversationId: string): TouchWrite[] =>
      [keys.conversation, keys.messages, keys.backlog].map((keyOf) => ({
        type: "touch",
        key: keyOf(conversationId),
        ttlSeconds,
      })),

    indexWrite,

    messageWrite: (conversationId: string, message: Message): AppendWrite => ({
      type: "append",
      key: keys.messages(conversationId),
      value: stringifyJson(message),
      maxLength: MAX_MESSAGES,
      ttlSeconds,
    }),

    enqueueWrite: (conversationId: string, requestId: string): AppendWrite => ({
      type: "append",
      key: keys.backlog(conversationId),
      value: requestId,
      maxLength: MAX_BACKLOG,
      ttlSeconds,
    }),

    dequeueWrite: (conversationId: string, requestId: string): RemoveWrite => ({
      type: "remove",
      key: keys.backlog(conversationId),
      value: requestId,
    }),

    /** Says in the log that a list was full and how many of its oldest entries went. */
    reportDropped(
      conversationId: string,
      event: "messages.dropped" | "backlog.dropped",
      dropped: number,
    ): void {
      if (dropped > 0) log.warn(event, { conversationId, dropped });
    },
  };
  return store;
}

/** A page size from a query parameter. Throws InvalidRequestError. */
export function parseListLimit(text: string | undefined): number {
  const message = `must be a whole number from 1 to ${MAX_LIST_LIMIT}`;
  const schema = v.object({
    limit: v.pipe(
      v.optional(v.string(), "20"),
      v.regex(/^\d{1,4}$/, message),
      v.transform(Number),
      v.minValue(1, message),
      v.maxValue(MAX_LIST_LIMIT, message),
    ),
  });
  return validate(schema, { limit: text }).limit;
}
