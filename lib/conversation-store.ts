/**
 * The conversations: what outlives a session. A conversation has a record, a history of messages and a place in
 * the index of conversations by last activity. All of it lives `CONVERSATION_TTL_SECONDS` from the last activity.
 *
 * A deleted conversation leaves a tombstone in the place of its record for 48 hours: it reads as absent, and
 * refuses to be written to.
 *
 * Writes that belong together are handed out as data (`messageWrite`, `createWrite`, …), so that the
 * conversation's object can send them in one round trip.
 */
import * as v from "valibot";
import { ConversationDeletedError, InvalidRequestError, RecordTooLargeError } from "./errors.ts";
import {
  byteLength,
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
import { type Result, resultText } from "./result.ts";
import {
  type AppendWrite,
  type CreateWrite,
  type IndexWrite,
  type PruneWrite,
  type ReadInCommit,
  type Storage,
  surplusOf,
  type TouchWrite,
  type TtlSeconds,
  type Write,
  type WriteOutcome,
} from "./storage/storage.ts";
import { createTtlStore } from "./ttl-store.ts";

export const MAX_MESSAGES = 1_000;
/** So many more may stand, or each message of a full history would cost one more request. */
const DROPPED_TOGETHER = 100;
/** Transcripts are put into a history as long as it has fewer messages than that, of whatever kind. */
export const MAX_MESSAGES_WITH_TRANSCRIPT = 500;
/** Of one message as it is stored, in UTF-8. */
export const MAX_MESSAGE_BYTES = 64 * 1024;
export const MAX_LIST_LIMIT = 100;
/** Of the messages of one page, as they are answered. */
const MAX_PAGE_BYTES = 1024 * 1024;
/** Longer than any sender keeps retrying: Svix, the most patient, gives up after 27.6 h. */
export const TOMBSTONE_SECONDS = 48 * 3600;

export const conversationRecordSchema = v.object({
  version: v.optional(v.number(), 1),
  conversationId: v.string(),
  agentId: v.optional(v.string()),
  metadata: v.optional(jsonObject),
  createdAt: v.string(),
  /** Of a tombstone. */
  deletedAt: v.optional(isoTimestamp),
});
export type ConversationRecord = v.InferOutput<typeof conversationRecordSchema>;

const shortText = v.pipe(v.string(), v.maxLength(256, "must be at most 256 characters"));

export const newConversationSchema = v.object({
  agentId: v.optional(shortText),
  metadata: v.optional(jsonObject),
});

const messageFields = {
  role: v.picklist(["user", "assistant", "agent", "system", "tool"]),
  source: v.optional(shortText, "api"),
  toolName: v.optional(shortText),
  toolArgs: v.optional(jsonValue),
  toolOutput: v.optional(jsonValue),
  status: v.optional(shortText),
};
export const newMessageSchema = v.object({
  /** Makes a repeated request harmless. */
  id: v.optional(
    v.pipe(
      v.string(),
      v.check(isRequestId, "must be 1 to 128 letters, digits, dots, dashes, underscores or colons"),
      v.check(isNoResultId, `must not begin with callback:`),
    ),
  ),
  ...messageFields,
  content: v.string(),
  timestamp: v.optional(isoTimestamp),
});
/** Where `content` is left out it is the text of `toolOutput`, which is not stored twice. */
export const storedMessageSchema = v.object({
  ...messageFields,
  id: v.string(),
  content: v.optional(v.string()),
  timestamp: v.string(),
});
type StoredMessage = v.InferOutput<typeof storedMessageSchema>;
export type Message = StoredMessage & { content: string };

/** The ids of results in the history, so that none of a person's own can be taken for one. */
export const RESULT_ID = "callback:";
export function isNoResultId(id: string): boolean {
  return !id.startsWith(RESULT_ID);
}
export const resultMessageId = (requestId: string): string => RESULT_ID + requestId;

/** Reads a message from a request body; `now` (ms) stands in for an absent timestamp. Throws InvalidRequestError. */
export function parseNewMessage(body: JsonObject, now: number): Message {
  const { id = crypto.randomUUID(), timestamp, ...message } = validate(newMessageSchema, body);
  return { id, ...message, timestamp: timestamp ?? new Date(now).toISOString() };
}

/** A result as it stands in the history, whole and once: what is not a text is stored as it came. `receivedAt` in ms. */
export function messageOfResult(result: Result, receivedAt: number): StoredMessage {
  const { requestId, success, output, error, toolName } = result;
  const told = success ? output : (error ?? output);
  const toolOutput = [output, told].find((part) => part !== undefined && typeof part !== "string");
  return {
    id: resultMessageId(requestId),
    role: "tool",
    ...(toolOutput !== undefined && toolOutput === told ? {} : { content: resultText(result) }),
    source: "callback",
    timestamp: new Date(receivedAt).toISOString(),
    ...(toolName === undefined ? {} : { toolName }),
    ...(toolOutput === undefined ? {} : { toolOutput }),
    status: success ? "completed" : "failed",
  };
}

/** The text of a message as it is stored. Throws RecordTooLargeError. */
export function messageText(message: StoredMessage): string {
  const text = stringifyJson(message);
  if (byteLength(text) > MAX_MESSAGE_BYTES) throw new RecordTooLargeError(MAX_MESSAGE_BYTES);
  return text;
}

/** No message of a result whose text is shorter is too long: of a character come seven bytes at most, escapes included. */
const SURELY_SHORT_ENOUGH = MAX_MESSAGE_BYTES / 8;

/** Throws RecordTooLargeError where the history could not take a result; `text` is the result as JSON. */
export function requireRoomFor(result: Result, text: string): void {
  if (text.length > SURELY_SHORT_ENOUGH) messageText(messageOfResult(result, 0));
}

/** The newest messages before a cursor, oldest first; `nextBefore` where there are older ones. */
export type MessagePage = { messages: Message[]; nextBefore?: string };

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

  /** A stored message, and how many bytes it has as it is answered. */
  function readMessage(conversationId: string, text: string): { message: Message; bytes: number } | null {
    let value: unknown;
    try {
      value = parseExactly(text);
    } catch {
      value = undefined;
    }
    const result = v.safeParse(storedMessageSchema, value);
    if (!result.success || !isJsonObject(value)) {
      const reasons = ["a message has another shape"];
      log.error("record.unreadable", { key: keys.messages(conversationId), reasons });
      return null;
    }
    const { content: stored, ...message } = result.output;
    const content = stored ?? resultText({ success: true, output: message.toolOutput });
    const bytes = byteLength(text) + (stored === undefined ? byteLength(content) : 0);
    return { message: { ...value, ...message, content }, bytes };
  }

  /** How long the tombstone of what was deleted at `deletedAt` (ms) has left, in seconds. */
  function tombstoneTtl(deletedAt: number): number {
    return Math.max(1, Math.ceil(TOMBSTONE_SECONDS - (now() - deletedAt) / 1000));
  }

  const store = {
    /** The conversation, or null: also where it was deleted. */
    async get(conversationId: string): Promise<ConversationRecord | null> {
      const record = await records.get(conversationId);
      return record?.deletedAt === undefined ? record : null;
    },

    /** A record as it is when nothing is known but the id. */
    fresh(conversationId: string, fields: Partial<ConversationRecord> = {}): ConversationRecord {
      return { version: 1, conversationId, ...fields, createdAt: new Date(now()).toISOString() };
    },

    /** Stores a new conversation under an id that nobody has used. */
    async create(record: ConversationRecord): Promise<void> {
      await storage.commit([
        store.createWrite(record),
        store.indexWrite(record.conversationId),
        ...store.pruneWrites(),
      ]);
    },

    /**
     * A page of the history, oldest first, of at most `limit` messages and 1 MiB (but always one message). A
     * message that a repeated write left twice is given once. Throws InvalidRequestError for a cursor that is none.
     */
    async page(conversationId: string, limit: number, before?: string): Promise<MessagePage> {
      const cursor = before === undefined ? null : decodeMessageCursor(before);
      const newestFirst: { message: Message; fromEnd: number }[] = [];
      let isBelow = cursor === null;
      let bytes = 0;
      // A cursor says how far from the end its message was; what was appended since has pushed it further.
      for (let skipped = cursor?.fromEnd ?? 0; ; skipped += limit + 1) {
        const texts = await storage.range(
          keys.messages(conversationId),
          -(skipped + limit + 1),
          -(skipped + 1),
        );
        for (const [i, text] of texts.toReversed().entries()) {
          const read = readMessage(conversationId, text);
          if (read === null) continue;
          const { message } = read;
          if (message.id === cursor?.id) isBelow = true;
          if (!isBelow || message.id === cursor?.id) continue;
          const last = newestFirst.at(-1);
          if (last !== undefined && (newestFirst.length === limit || bytes + read.bytes > MAX_PAGE_BYTES)) {
            return {
              messages: once(newestFirst),
              nextBefore: encodeMessageCursor(last.message.id, last.fromEnd),
            };
          }
          bytes += read.bytes;
          newestFirst.push({ message, fromEnd: skipped + i });
        }
        if (texts.length <= limit) return { messages: once(newestFirst) };
      }
    },

    /**
     * Adds messages to a conversation, creating the conversation where they are the first sign of it. One round trip.
     * `mayStand`: an earlier request may have left them there already; then they take its place. Throws
     * ConversationDeletedError, RecordTooLargeError.
     */
    async append(
      conversationId: string,
      messages: readonly StoredMessage[],
      mayStand = false,
    ): Promise<void> {
      const texts = messages.map(messageText);
      const writes: [CreateWrite, ReadInCommit, IndexWrite, ...Write[]] = [
        store.createWrite(store.fresh(conversationId)),
        { type: "get", key: keys.conversation(conversationId), ttlSeconds },
        store.indexWrite(conversationId),
        ...texts.flatMap((text) => store.messageWrites(conversationId, text, mayStand)),
      ];
      const outcomes = await storage.commit(writes);
      const [, standing] = outcomes;
      const record = standing === null ? null : records.parse(conversationId, standing);
      if (record?.deletedAt !== undefined) {
        await storage.commit(store.takeBackWrites(conversationId, record.deletedAt));
        throw new ConversationDeletedError();
      }
      store.reportDropped(conversationId, writes, outcomes);
    },

    /**
     * As `append`, for what was said in a live conversation. It takes no result's place: once the history has 500
     * messages of whatever kind, such messages are left out, so that half of it is always there for the others.
     */
    async appendTranscript(
      conversationId: string,
      messages: readonly StoredMessage[],
      mayStand = false,
    ): Promise<void> {
      const last = MAX_MESSAGES_WITH_TRANSCRIPT - messages.length;
      const standing = last < 0 ? [""] : await storage.range(keys.messages(conversationId), last, last);
      if (standing.length === 0) return store.append(conversationId, messages, mayStand);
      log.warn("messages.dropped", { conversationId, dropped: messages.length });
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
        return record === null || record.deletedAt !== undefined ? [] : [record];
      });
      return { conversations, ...(page.nextCursor === undefined ? {} : { nextCursor: page.nextCursor }) };
    },

    /**
     * Puts a tombstone in the place of the conversation and removes what belongs to it. The first result is the
     * text that stood there before.
     */
    deleteWrites: (conversationId: string, deletedAt: number): [ReadInCommit, ...Write[]] => {
      const tombstone: ConversationRecord = {
        version: 1,
        conversationId,
        createdAt: new Date(deletedAt).toISOString(),
        deletedAt: new Date(deletedAt).toISOString(),
      };
      return [
        { type: "get", key: keys.conversation(conversationId) },
        { ...records.setWrite(conversationId, tombstone), ttlSeconds: tombstoneTtl(deletedAt) },
        { type: "delete", key: keys.messages(conversationId) },
        { type: "delete", key: keys.session(conversationId) },
        { type: "unindex", key: keys.conversations, member: conversationId },
      ];
    },

    /** Removes what was written to a conversation that turned out to have been deleted. */
    takeBackWrites: (conversationId: string, deletedAt: string): Write[] => {
      return [
        { type: "delete", key: keys.messages(conversationId) },
        { type: "unindex", key: keys.conversations, member: conversationId },
        // Whoever wrote has made the tombstone live longer.
        {
          type: "touch",
          key: keys.conversation(conversationId),
          ttlSeconds: tombstoneTtl(Date.parse(deletedAt)),
        },
      ];
    },

    /** Whether a stored text is a conversation that has not been deleted. */
    stands(conversationId: string, text: string | null): boolean {
      return text !== null && records.parse(conversationId, text)?.deletedAt === undefined;
    },

    /** Forgets conversations in the index that have outlived their time. */
    pruneWrites: (): PruneWrite[] =>
      ttlSeconds === null
        ? []
        : [{ type: "prune", key: keys.conversations, belowScore: now() - ttlSeconds * 1000 }],

    /** Creates the record where none stands. */
    createWrite: (record: ConversationRecord): CreateWrite =>
      records.createWrite(record.conversationId, record),

    /** Makes record and messages live anew, so that neither outlives the other. */
    renewWrites: (conversationId: string): [TouchWrite, TouchWrite] => [
      { type: "touch", key: keys.conversation(conversationId), ttlSeconds },
      { type: "touch", key: keys.messages(conversationId), ttlSeconds },
    ],

    /** Notes the last activity. */
    indexWrite: (conversationId: string): IndexWrite => ({
      type: "index",
      key: keys.conversations,
      member: conversationId,
      score: now(),
    }),

    /** Appends a message; `text` is of `messageText`. Where it `mayStand` there already it is not left twice. */
    messageWrites(conversationId: string, text: string, mayStand: boolean): Write[] {
      const key = keys.messages(conversationId);
      const length = { maxLength: MAX_MESSAGES, slack: DROPPED_TOGETHER };
      const append: AppendWrite = { type: "append", key, value: text, ...length, ttlSeconds };
      return mayStand ? [{ type: "remove", key, value: text }, append] : [append];
    },

    /** Says in the log that the history was full and how many of its oldest messages went. */
    reportDropped(conversationId: string, writes: readonly Write[], outcomes: readonly WriteOutcome[]): void {
      const dropped = writes.reduce(
        (sum, write, i) => sum + (write.type === "append" ? surplusOf(write, Number(outcomes[i])) : 0),
        0,
      );
      if (dropped > 0) log.warn("messages.dropped", { conversationId, dropped });
    },
  };
  return store;
}

/** Oldest first, each once: where it came first. */
function once(newestFirst: readonly { message: Message }[]): Message[] {
  const byId = new Map<string, Message>();
  for (const { message } of newestFirst.toReversed())
    if (!byId.has(message.id)) byId.set(message.id, message);
  return [...byId.values()];
}

/** Where a page ends: its oldest message, and how many newer ones there were then. URL-safe. */
function encodeMessageCursor(id: string, fromEnd: number): string {
  return `${fromEnd}.${btoa(id).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
}

function decodeMessageCursor(cursor: string): { id: string; fromEnd: number } {
  const [, fromEnd, encoded] = /^(\d{1,6})\.([A-Za-z0-9_-]{1,400})$/.exec(cursor) ?? [];
  try {
    if (fromEnd !== undefined && encoded !== undefined) {
      return { fromEnd: Number(fromEnd), id: atob(encoded.replaceAll("-", "+").replaceAll("_", "/")) };
    }
  } catch {
    // Not base64.
  }
  throw new InvalidRequestError("The cursor is not one that this list gave out.", [
    { path: "before", message: "unknown cursor" },
  ]);
}

/** A page size as a query parameter; `fallback` where it is left out. */
export function listLimitSchema(fallback: number) {
  const message = `must be a whole number from 1 to ${MAX_LIST_LIMIT}`;
  return v.object({
    limit: v.pipe(
      v.optional(v.string(), String(fallback)),
      v.regex(/^\d{1,4}$/, message),
      v.transform(Number),
      v.minValue(1, message),
      v.maxValue(MAX_LIST_LIMIT, message),
    ),
  });
}

/** A page size from a query parameter. Throws InvalidRequestError. */
export function parseListLimit(text: string | undefined, fallback: number): number {
  return validate(listLimitSchema(fallback), { limit: text }).limit;
}
