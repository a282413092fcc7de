/**
 * The records of a conversation in Redis, as its object writes them: the session, the conversation, the history, the
 * place in the index and the log of settled results; and what Redis still lacks of them, because it was down. Everything
 * goes out one request after the other, so that nothing overtakes, and whatever is still lacking is given by the alarm.
 */
import type { AgentConversations } from "../agent-conversations.ts";
import type { ConversationRecord, ConversationStore, Message } from "../conversation-store.ts";
import { messageOfResult, messageText, resultMessageId, TOMBSTONE_SECONDS } from "../conversation-store.ts";
import { AppError, ConversationDeletedError, isUnavailable, StorageError } from "../errors.ts";
import { byteLength, parseExactly, stringifyJson } from "../json.ts";
import { keys } from "../keys.ts";
import { type Logger, logFailure } from "../log.ts";
import { type After, earliest } from "../patience.ts";
import {
  SESSION_TTL_SECONDS,
  type SessionRecord,
  type SessionStore,
  sessionDeadline,
} from "../session-store.ts";
import { settledWrite } from "../settled-results.ts";
import { type Sql, tablesOf } from "../sql.ts";
import { createQueue } from "../storage/queue.ts";
import type { ReadInCommit, SetWrite, Storage, TtlSeconds, Write, WriteOutcome } from "../storage/storage.ts";
import { TASK_TTL_SECONDS } from "../task.ts";
import { type AgentConversation, agentConversationOf, isSame } from "./agent-conversation.ts";
import { createCurrentSession, hasEnded, isOlder } from "./current-session.ts";
import type { Presence } from "./delivery.ts";
import type { Results } from "./results.ts";

/** Times to live and the index are renewed at most this often, in ms. */
const RENEW_EVERY_MS = 60_000;
/** How often the session of a page that is connected is renewed, in ms. */
export const RENEW_SESSION_MS = 240_000;
/** A registration that is younger than this, in ms, need not be looked for in Redis. */
const FRESH_MS = 1_000;
/** By then a request that timed out has been carried out or never will be, in ms. */
const LATE_REQUESTS_MS = 3_000;
/**
 * How soon after it was settled a result is given to the log, in ms: what is settled meanwhile goes with it, and as long
 * the object stays awake, which is billed.
 */
export const PUBLISH_AFTER_MS = 500;
/** What one request carries of the history at most. Upstash takes 10 MB. */
const [BATCH_MESSAGES, BATCH_BYTES] = [50, 1024 * 1024];
/** The pauses after Redis has refused something, in ms: doubling. */
const [FIRST_PAUSE_MS, LONGEST_PAUSE_MS] = [1_000, 3_600_000];

/** One row: what the object knows of its conversation. */
type Book = {
  /** Whether the conversation's record stands in Redis. */
  known: 0 | 1;
  /** When times to live and the index were renewed last, and when they are to be without further activity; ms. */
  renewedAt: number;
  renewDueAt: number | null;
  /** Whether Redis was given a message: where a history begins again after that, it has lost everything. */
  hasHistory: 0 | 1;
  hadSession: 0 | 1;
  /** The record to create, where it is more than an id. */
  creation: string | null;
  deletedAt: number | null;
  /** Whether Redis has still to be told of the deletion. */
  deletionDue: 0 | 1;
  /** The tasks whose tickets go with it. */
  ticketsDue: readonly string[];
};
const NEW_BOOK: Book = {
  known: 0,
  renewedAt: 0,
  renewDueAt: null,
  hasHistory: 0,
  hadSession: 0,
  creation: null,
  deletedAt: null,
  deletionDue: 0,
  ticketsDue: [],
};
const BLANK = JSON.stringify(NEW_BOOK);

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS book (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), content TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL);`;

export type RecordsOptions = {
  conversationId: string;
  sql: Sql;
  storage: Storage;
  sessions: SessionStore;
  conversations: ConversationStore;
  results: Results;
  log: Logger;
  /** The clock, in ms since the epoch. */
  now: () => number;
  after: After;
  /** How long a conversation lives from its last activity; null for ever. */
  ttlSeconds: TtlSeconds;
  /** When the storage may be tried again, in ms; null for at once. */
  nextTryAt: () => number | null;
  /** Where it is noted whose an agent conversation is; null where nobody asks. */
  agents: AgentConversations | null;
  /** The session of the page that is connected to the object, the newest if there are several; null where none is. */
  connected: () => SessionRecord | null;
  /** Told when another registration, or none, is the current one, in the same turn. */
  sessionChanged: (before: SessionRecord | null, after: SessionRecord | null) => void;
  /** Told which results were settled because the conversation was deleted, in the same turn. */
  discarded: (requestIds: readonly string[]) => void;
  /** Told that not all that was settled could be given to the log. */
  unpublished: () => void;
};

export type Records = ReturnType<typeof createRecords>;

/** Nothing here rejects because Redis is down, unless it says so. */
export function createRecords(options: RecordsOptions) {
  const { conversationId, storage, sessions, conversations, results, log, now, ttlSeconds, nextTryAt } =
    options;
  const sql = tablesOf(options.sql, "book", SCHEMA);
  const inTurn = createQueue();
  const current = createCurrentSession(
    options.sql,
    { parse: (text) => sessions.parse(conversationId, text), stringify: textOf },
    SESSION_TTL_SECONDS * 1000,
    options.sessionChanged,
  );

  const [row] = sql.rows<{ content: string }>("SELECT content FROM book");
  let book: Book =
    row === undefined ? NEW_BOOK : { ...NEW_BOOK, ...(JSON.parse(row.content) as Partial<Book>) };
  /** The book as it stands in its table; null where it does not. */
  let written = row?.content ?? null;
  /** When Redis was first told of the copy that came here at `since`. */
  let savedAt: { since: number; at: number } | null = null;
  /** False where the outbox is certainly empty. */
  let mayHoldMessages = true;
  /** Messages that Redis may have, because a request that held them got no answer, or an earlier life sent them. */
  const perhapsSent = new Set([
    ...results.notInHistory(-1).map(({ requestId }) => resultMessageId(requestId)),
    ...outbox(-1).map(({ id }) => id),
  ]);
  let refusals = 0;
  let pausedUntil = 0;
  /** The same of the log, which must keep nothing else from Redis. */
  let [logRefusals, logPausedUntil] = [0, 0];
  /** Whether what was settled is being given to the log, and until when that is left to the alarm. */
  let isPublishing = false;
  let unpublishedUntil = 0;
  /** Resolves when the history has been brought up to date for pages that are connected, as far as it could be. */
  let brought: Promise<void> = Promise.resolve();
  let lastRead: { text: string; record: SessionRecord | null } | null = null;
  /** The registration of a page that is being attached: it is current, but nothing can be said to it yet. */
  let arriving: string | null = null;

  function note(change: Partial<Book>): void {
    book = { ...book, ...change };
    const text = JSON.stringify(book);
    if (text === (written ?? BLANK)) return;
    written = text;
    sql.run("INSERT OR REPLACE INTO book VALUES (1, ?)", text);
  }

  /** Begins a new book. The old one is over: nothing that was known holds any more. */
  function beginAnew(): void {
    if (book.deletedAt !== null) results.forgetWiped();
    book = NEW_BOOK;
    written = null;
    sql.run("DELETE FROM book");
  }

  function outbox(limit: number): { id: string; text: string }[] {
    if (!mayHoldMessages) return [];
    const held = sql.rows<{ id: string; text: string }>(
      "SELECT id, text FROM outbox ORDER BY seq LIMIT ?",
      limit,
    );
    mayHoldMessages = held.length > 0;
    return held;
  }

  /** Throws ConversationDeletedError. */
  function requireStanding(): void {
    if (isDeleted()) throw new ConversationDeletedError();
  }

  function isDeleted(): boolean {
    if (book.deletedAt !== null && now() >= book.deletedAt + TOMBSTONE_SECONDS * 1000) beginAnew();
    return book.deletedAt !== null;
  }

  /** Until when there is something to know, in ms: as long as the conversation, or its tombstone, lives. Null for ever. */
  function bookEndsAt(): number | null {
    if (book.deletedAt !== null) return book.deletedAt + TOMBSTONE_SECONDS * 1000;
    if (book === NEW_BOOK || ttlSeconds === null) return null;
    return book.renewedAt === 0 ? null : book.renewedAt + ttlSeconds * 1000;
  }

  /** Something happened in the conversation, so it is to live on. Written down where it cannot be seen to at once. */
  function noteActivity(): void {
    if (isDeleted() || book.renewDueAt !== null || now() < book.renewedAt + RENEW_EVERY_MS) return;
    book = { ...book, renewDueAt: now() };
  }

  /** So that somebody looks again when Redis is back; it may have come back empty. */
  function lookAgain(): void {
    if (!isDeleted()) note({ known: 0, renewDueAt: now() });
  }

  /** The next messages that the history lacks, as writes that may be repeated. */
  function missingMessages(): { writes: Write[]; ids: string[]; note: () => void } {
    const fromResults = results.notInHistory(BATCH_MESSAGES).map(({ requestId, text, receivedAt }) => ({
      id: resultMessageId(requestId),
      text: stringifyJson(messageOfResult(results.parse(text ?? ""), receivedAt)),
      requestId,
    }));
    const writes: Write[] = [];
    const sent: { id: string; requestId?: string }[] = [];
    let bytes = 0;
    for (const message of [...outbox(BATCH_MESSAGES), ...fromResults].slice(0, BATCH_MESSAGES)) {
      bytes += byteLength(message.text);
      if (sent.length > 0 && bytes > BATCH_BYTES) break;
      writes.push(...conversations.messageWrites(conversationId, message.text, perhapsSent.has(message.id)));
      sent.push(message);
    }
    return {
      writes,
      ids: sent.map(({ id }) => id),
      note() {
        for (const { id, requestId } of sent) {
          perhapsSent.delete(id);
          if (requestId === undefined) sql.run("DELETE FROM outbox WHERE id = ?", id);
        }
        results.markInHistory(sent.flatMap(({ requestId }) => requestId ?? []));
      },
    };
  }

  const mayLog = () => now() >= logPausedUntil;

  /** How long who refuses is left alone, in ms, after so many refusals before this one. */
  const pauseAfter = (earlier: number) => Math.min(FIRST_PAUSE_MS * 2 ** earlier, LONGEST_PAUSE_MS);

  /** Results that the log of settled ones lacks, as writes; none while it is left alone. */
  function settledEntries(): { writes: Write[]; note: () => void } {
    const settled = mayLog() ? results.notLogged(BATCH_MESSAGES) : [];
    return {
      writes: settled.map((row) => settledWrite(conversationId, row)),
      note: () => results.markLogged(settled),
    };
  }

  /** What renews the conversation, where that is due: it is made if it is not known to stand. */
  function renewal(appends: boolean): { writes: Write[]; note: (outcomes: WriteOutcome[]) => void } {
    const isDue = book.renewDueAt !== null && book.renewDueAt <= now();
    // With the first message it is also seen whether the record still stands.
    if (isDeleted() || !(isDue || (appends && book.hasHistory === 0))) return { writes: [], note: () => {} };
    const hasHistory = appends ? 1 : book.hasHistory;
    const index = conversations.indexWrite(conversationId);
    if (book.known === 0) {
      const record =
        book.creation === null
          ? conversations.fresh(conversationId)
          : (parseExactly(book.creation) as ConversationRecord);
      return {
        writes: [conversations.createWrite(record), index],
        note([isNew]) {
          // One that stood was made by an instance: how long it has left is seen to a little later.
          const renewDueAt = isNew === true ? null : now() + RENEW_EVERY_MS;
          note({ known: 1, creation: null, renewedAt: now(), renewDueAt, hasHistory });
        },
      };
    }
    const [record, messages] = conversations.renewWrites(conversationId);
    return {
      writes: [record, index, ...(appends ? [] : [messages])],
      note([stands]) {
        if (stands === true) note({ renewedAt: now(), renewDueAt: null, hasHistory });
        else note({ known: 0, renewDueAt: now(), hasHistory });
      },
    };
  }

  /**
   * One request: reads or writes the session where that is asked for, appends what the history and the log lack, renews
   * what is due. Returns the text of a session that was read. Throws StorageError.
   */
  async function exchange(onSession?: ReadInCommit | SetWrite): Promise<string | null> {
    const messages = missingMessages();
    const hadHistory = book.hasHistory === 1;
    const renewed = renewal(messages.writes.length > 0);
    const settled = settledEntries();
    const first: Write[] = onSession === undefined ? [] : [onSession];
    const writes = [...first, ...messages.writes, ...renewed.writes, ...settled.writes];
    if (writes.length === 0) return null;
    let outcomes: WriteOutcome[];
    try {
      outcomes = await storage.commit(writes);
      refusals = 0;
      if (settled.writes.length > 0) logRefusals = 0;
    } catch (error) {
      for (const id of messages.ids) perhapsSent.add(id);
      if (!(error instanceof StorageError) || isUnavailable(error) || settled.writes.length === 0)
        throw error;
      // It may be the log that is refused, of which nobody waits to hear: the rest goes without it.
      logPausedUntil = now() + pauseAfter(logRefusals);
      logRefusals += 1;
      logFailure(log, "publish", error);
      return exchange(onSession);
    }
    // What is written in one turn becomes true together; where one of them fails, what it says is done again.
    messages.note();
    settled.note();
    // It may have been deleted meanwhile.
    const before = first.length + messages.writes.length;
    if (!isDeleted()) renewed.note(outcomes.slice(before, before + renewed.writes.length));
    conversations.reportDropped(conversationId, writes, outcomes);
    const isLost =
      renewed.writes.length > 0
        ? book.known === 0
        : hadHistory && begins(messages.writes, outcomes.slice(first.length));
    if (isLost) makeAgain();
    return onSession?.type === "get" ? (outcomes[0] as string | null) : null;
  }

  /** Redis has lost the conversation: it is made again, and nobody waits for it. */
  function makeAgain(): void {
    lookAgain();
    void exchangeBehind("renew");
  }

  /** One request that nobody waits for, or that is not to fail who does. `failed` hears why before it is noted. */
  function exchangeBehind(operation: string, failed: (error: unknown) => void = () => {}): Promise<void> {
    return inTurn(async () => void (await exchange()))
      .catch((error: unknown) => {
        failed(error);
        noteFailure(operation, error);
      })
      .catch((error: unknown) => logFailure(log, operation, error));
  }

  /** After a failure: whoever is out of reach is tried again by the alarm, and so is who refuses, ever more rarely. */
  function noteFailure(operation: string, error: unknown): void {
    if (!(error instanceof StorageError)) throw error;
    if (isUnavailable(error)) return;
    pausedUntil = now() + pauseAfter(refusals);
    refusals += 1;
    logFailure(log, operation, error);
  }

  /** Tells Redis that the conversation was deleted. Throws StorageError. */
  async function tellOfDeletion(deletedAt: number): Promise<readonly WriteOutcome[]> {
    const outcomes = await storage.commit([
      ...conversations.deleteWrites(conversationId, deletedAt),
      ...book.ticketsDue.map((taskId): Write => ({ type: "delete", key: keys.task(taskId) })),
    ]);
    note({ deletionDue: 0, ticketsDue: [] });
    return outcomes;
  }

  /** Tells Redis of a session that was registered or ended while it was down. Throws StorageError. */
  async function saveSession(): Promise<void> {
    const copy = current.copy(now());
    if (copy === null || copy.unsaved === null) return;
    const { record } = copy;
    const key = keys.session(conversationId);
    const standingAt = (text: string) => sessions.parse(conversationId, text);
    if (record === null) {
      const change = (text: string) => {
        const standing = standingAt(text);
        return standing === null || hasEnded(standing, copy) ? null : undefined;
      };
      await storage.update(key, change, SESSION_TTL_SECONDS);
    } else {
      const ttlSeconds = (copy.diesAt - now()) / 1000;
      const value = stringifyJson(record);
      const [isNew] = await storage.commit([{ type: "create", key, value, ttlSeconds }]);
      // What was registered later with an instance that reached Redis stays.
      const change = (text: string) => {
        const standing = standingAt(text);
        return standing === null || isOlder(standing, record) ? value : undefined;
      };
      if (!isNew) await storage.update(key, change, ttlSeconds);
    }
    // A request that was given up may still be carried out, and undo this: so it is looked at once more.
    if (savedAt?.since !== copy.since) savedAt = { since: copy.since, at: now() };
    if (now() - savedAt.at >= LATE_REQUESTS_MS) current.saved(copy);
  }

  /** What `read` reads. */
  function textOf(record: SessionRecord): string {
    return record === lastRead?.record ? lastRead.text : stringifyJson(record);
  }

  /** A session as it stands in Redis; the same text is the same record, of which nothing need be found out again. */
  function read(text: string | null): SessionRecord | null {
    if (text === null) return null;
    if (text !== lastRead?.text) lastRead = { text, record: sessions.parse(conversationId, text) };
    return lastRead.record;
  }

  /** The session as Redis and the copy have it. Throws StorageError where Redis does not answer. */
  async function readSession(): Promise<SessionRecord | null> {
    const inRedis = await sessions.get(conversationId);
    return isDeleted() ? null : current.choose(inRedis, now());
  }

  /** Notes that the agent conversation of a session is ours, so that a tool call of its agent finds us. Nobody waits for it. */
  function noteAgent(
    { agentSessionId, provenAgentSessionId }: SessionRecord,
    before: SessionRecord | null,
  ): void {
    const { agents } = options;
    if (agents === null || agentSessionId === undefined || before?.agentSessionId === agentSessionId) return;
    const note = provenAgentSessionId === agentSessionId ? agents.set : agents.claim;
    void inTurn(() =>
      note(agentSessionId, conversationId).catch((error: unknown) => noteFailure("agent", error)),
    );
  }

  /** The session of the page that is connected, with what became known of it since. */
  function connected(): SessionRecord | null {
    const session = options.connected();
    const record = session === null ? null : (current.copy(now())?.record ?? null);
    return record?.registrationId === session?.registrationId ? record : session;
  }

  /**
   * Makes the session of a page that is connected the current one. `then` is called before anything else is looked for.
   */
  async function attach(session: SessionRecord, to: AgentConversation, then: () => void): Promise<boolean> {
    requireStanding();
    const before = current.copy(now());
    const copy = { registrationId: session.registrationId, since: now() };
    noteActivity();
    sql.transaction(() => {
      current.set(session, copy.since, "set");
      note({ hadSession: 1 });
      results.identify(to);
    });
    arriving = session.registrationId;
    try {
      await inTurn(async () => {
        const [key, value] = [keys.session(conversationId), stringifyJson(session)];
        try {
          await exchange({ type: "set", key, value, ttlSeconds: SESSION_TTL_SECONDS });
          // Where one before it is still to be saved, a late request of that may yet take its place.
          if (before?.unsaved !== "set") current.saved(copy);
        } catch (error) {
          noteFailure("attach", error);
          lookAgain();
        }
        requireStanding();
        then();
      });
    } finally {
      if (arriving === session.registrationId) arriving = null;
    }
    noteAgent(session, before?.record ?? null);
    return before?.record != null && !isSame(await agentConversationOf(before.record), to);
  }

  /** Keeps the session of the page that is connected alive; where there is no session any more, that is the next one. */
  async function keepConnected(): Promise<void> {
    if ((keepDueAt() ?? Number.POSITIVE_INFINITY) > now()) return;
    const session = connected();
    const registrationId = session?.registrationId ?? current.alone(now())?.registrationId ?? "";
    try {
      // It was lost while nobody was here to see it.
      if (session === null) {
        if (isCutOff(current.alone(now()))) await records.ended(registrationId);
        else await records.disconnected(registrationId);
        return;
      }
      if (current.alone(now())?.registrationId === registrationId) {
        if ((await records.renew(registrationId)) !== null) return;
        // It is another's by now.
        if (current.alone(now())?.registrationId !== registrationId) return;
      }
      if (options.connected()?.registrationId === registrationId) await records.follow(session);
    } catch (error) {
      if (!(error instanceof AppError)) throw error;
    }
  }

  /** Whether a session is over because the agent conversation was on a connection that is no more. */
  function isCutOff(session: SessionRecord | null): boolean {
    return session?.channel === "proxy" && connected()?.registrationId !== session.registrationId;
  }

  /** When the session of the page that is connected is to be seen to, in ms. */
  function keepDueAt(): number | null {
    const [session, alone] = [connected(), current.alone(now())];
    if (isDeleted() || arriving !== null) return null;
    if (session === null) return alone?.channel == null ? null : now();
    if (alone === null) return now();
    // One that is another's, or whose own connection was lost while nobody was here to see it.
    if (alone.registrationId !== session.registrationId) return alone.channel == null ? null : now();
    return Date.parse(alone.renewedAt ?? alone.createdAt) + RENEW_SESSION_MS;
  }

  /** Who is there, by Redis and the copy, when it is our turn. */
  function lookInTurn(): Promise<Presence> {
    return inTurn(async () => {
      const copy = current.copy(now());
      const isFresh = connected() !== null || (copy?.record != null && now() - copy.since < FRESH_MS);
      let session: SessionRecord | null;
      try {
        const text = await exchange(isFresh ? undefined : { type: "get", key: keys.session(conversationId) });
        const inRedis = read(text);
        if (isDeleted()) return { session: null, hadSession: false };
        session = isFresh ? current.alone(now()) : current.choose(inRedis, now());
      } catch (error) {
        noteFailure("look", error);
        if (isUnavailable(error)) lookAgain();
        // What was to be renewed with it still is, whenever the object lives again.
        else note({});
        // Where something else in the request was refused, the session can still be read.
        const alone = () => current.alone(now());
        session = isUnavailable(error) ? alone() : await readSession().catch(alone);
      }
      if (isDeleted()) return { session: null, hadSession: false };
      session = connected() ?? (isCutOff(session) ? null : session);
      if (session !== null && book.hadSession === 0) note({ hadSession: 1 });
      return { session, hadSession: book.hadSession === 1 };
    }).then((presence) => (arriving === null ? presence : records.look()));
  }

  const records = {
    current,
    isDeleted,
    requireStanding,
    noteActivity,

    /** Whether anybody is there, as far as is known: a page that is connected, or a session that never needed to be. */
    isAttended(): boolean {
      const alone = current.alone(now());
      return connected() !== null || (alone !== null && alone.channel === undefined);
    },

    /**
     * Who is there. A page that is connected is there at once, whatever Redis does; one that is being attached is waited
     * for; a registration that has just come here need not be looked for.
     */
    look(): Promise<Presence> {
      const session = connected();
      if (session === null || arriving !== null || isDeleted()) return lookInTurn();
      if (book.hadSession === 0) note({ hadSession: 1 });
      brought = exchangeBehind("look", (error) => {
        if (isUnavailable(error)) lookAgain();
      });
      return Promise.resolve({ session, hadSession: true });
    },

    /** A session as an instance gave it, which is as it gave it to Redis: there it need not be read again. */
    given(text: string): SessionRecord {
      const record = parseExactly(text) as SessionRecord;
      lastRead = { text, record };
      return record;
    },

    /** What was said to a page without waiting for Redis is in the history, or an alarm has to see to it. */
    brought: (): Promise<void> => brought,

    /** Whether a session that was looked for a moment ago still counts. */
    isThere(session: SessionRecord): boolean {
      const { registrationId, agentSessionId } = connected() ?? {};
      if (registrationId === undefined) return current.isThere(session, now());
      return registrationId === session.registrationId && agentSessionId === session.agentSessionId;
    },

    attach,

    /** The page that is connected is the session from now on, because whoever was it went. */
    async follow(session: SessionRecord): Promise<void> {
      const { renewedAt: _, ...first } = session;
      const record = { ...first, createdAt: new Date(now()).toISOString() };
      await attach(record, await agentConversationOf(record), () => {});
    },

    /**
     * A connection is over: another that is there takes its place, or its session ends, if it `isOver`, or lives out its
     * time out of reach. Where somebody else is current by now, nothing happens. Returns whether the session has ended.
     */
    async detach(registrationId: string, isOver: boolean): Promise<boolean> {
      if (current.alone(now())?.registrationId !== registrationId) return false;
      const next = options.connected();
      if (next !== null) await records.follow(next);
      else if (isOver) return records.ended(registrationId);
      else await records.disconnected(registrationId);
      return false;
    },

    /** The page of this registration has lost its connection: its session lives on, out of reach, for the time it has left. */
    disconnected: (registrationId: string): Promise<void> =>
      inTurn(async () => {
        const record = current.alone(now());
        if (record === null || record.registrationId !== registrationId) return;
        current.amend(registrationId, { channel: null });
        const ttlSeconds = ((sessionDeadline(record) ?? now()) - now()) / 1000;
        const change = (text: string) => {
          const standing = sessions.parse(conversationId, text);
          return standing?.registrationId === registrationId
            ? stringifyJson({ ...standing, channel: null })
            : undefined;
        };
        await storage
          .update(keys.session(conversationId), change, ttlSeconds)
          .catch((error: unknown) => noteFailure("disconnected", error));
      }),

    /**
     * Takes over a registration that Redis has, or, where `isUnsaved`, has still to get. `to` is null where nothing was
     * told yet. Returns whether it replaced another. What it does before its first await is done when it returns. Throws
     * ConversationDeletedError.
     */
    async registered(
      session: SessionRecord,
      to: AgentConversation | null,
      isUnsaved: boolean,
    ): Promise<boolean> {
      requireStanding();
      const before = current.copy(now());
      const isSame = before?.record != null && before.registrationId === session.registrationId;
      // One that was overtaken on its way, by a later registration or by its own end, is no news.
      const isNews =
        before === null ||
        (before.record === null
          ? before.registrationId !== session.registrationId
          : !isOlder(session, before.record));
      noteActivity();
      const take = () => {
        if (isNews)
          // Where one before it is still to be saved, a late request of that may yet take its place.
          current.set(session, now(), isUnsaved || before?.unsaved === "set" ? "set" : null);
        note({ hadSession: 1 });
        if (to !== null) results.identify(to);
      };
      // Where nobody waits to hear what another was told, the session is all that there is to write.
      if (book.hadSession === 1 && !results.hasOpen()) take();
      else sql.transaction(take);
      await inTurn(async () => {
        try {
          await saveSession();
          await exchange();
        } catch (error) {
          noteFailure("registered", error);
          lookAgain();
        }
      });
      noteAgent(session, before?.record ?? null);
      return before?.record != null && !isSame;
    },

    /**
     * Lets a registration live another 600 s. `isProven`: whether a server vouches for the `agentSessionId`. Null where it
     * is not, or no longer, the current one. Throws ConversationDeletedError, and StorageError where nobody can know.
     */
    renew: (
      registrationId: string,
      agentSessionId?: string,
      isProven = false,
    ): Promise<SessionRecord | null> =>
      inTurn(async () => {
        requireStanding();
        const renewedAt = new Date(now()).toISOString();
        const renewal = {
          renewedAt,
          ...(agentSessionId === undefined ? {} : { agentSessionId }),
          ...(agentSessionId === undefined || !isProven ? {} : { provenAgentSessionId: agentSessionId }),
        };
        let renewed: SessionRecord | null = null;
        let isUnsaved = false;
        try {
          const copy = current.alone(now());
          await storage.update(
            keys.session(conversationId),
            (text) => {
              const standing = sessions.parse(conversationId, text);
              renewed = standing?.registrationId === registrationId ? { ...standing, ...renewal } : null;
              return renewed === null ? undefined : stringifyJson(renewed);
            },
            SESSION_TTL_SECONDS,
          );
          // What Redis has not been told of yet, or a replica does not know, is here.
          if (renewed === null && copy?.registrationId === registrationId) {
            const chosen = await readSession();
            if (chosen?.registrationId === registrationId) renewed = { ...chosen, ...renewal };
            isUnsaved = true;
          }
        } catch (error) {
          noteFailure("renew", error);
          const copy = current.copy(now());
          if (copy === null || !isUnavailable(error)) throw error;
          const alone = current.alone(now());
          renewed = alone?.registrationId === registrationId ? { ...alone, ...renewal } : null;
          isUnsaved = true;
        }
        requireStanding();
        const latest: SessionRecord | null = renewed;
        if (latest === null) return null;
        const to = await agentConversationOf(latest);
        const copy = current.copy(now());
        if (copy?.record != null && isOlder(latest, copy.record)) return null;
        noteActivity();
        noteAgent(latest, copy?.record ?? null);
        current.set(latest, now(), isUnsaved ? "set" : null);
        results.identify(to);
        const before = copy?.record;
        const isAnother =
          before?.agentSessionId !== latest.agentSessionId ||
          before?.provenAgentSessionId !== latest.provenAgentSessionId;
        // Another agent conversation may be reached by it, or another way.
        if (isAnother) results.forgive(registrationId);
        try {
          await saveSession();
          await exchange();
        } catch (error) {
          noteFailure("renew", error);
        }
        return latest;
      }),

    /** Ends a registration, or whichever is current. Returns whether it was. */
    ended: (registrationId: string | null): Promise<boolean> =>
      inTurn(async () => {
        const copy = current.copy(now());
        const isCurrent =
          copy?.record != null && (registrationId === null || copy.registrationId === registrationId);
        // Another one is current, or an end is still to be told: that must not be forgotten.
        const concernsCopy = isCurrent || copy === null || (copy.record === null && copy.unsaved === null);
        const ending = { registrationId: registrationId ?? copy?.registrationId ?? null, since: now() };
        if (concernsCopy) current.end(ending.registrationId, ending.since, "delete");
        try {
          const deleted =
            registrationId === null
              ? (await storage.commit([{ type: "delete", key: keys.session(conversationId) }]))[0]
              : await sessions.delete(conversationId, registrationId);
          if (concernsCopy) current.saved(ending);
          return deleted;
        } catch (error) {
          noteFailure("ended", error);
          if (!isUnavailable(error)) throw error;
          return isCurrent;
        }
      }),

    /** The live session while the caller could not reach Redis. Throws StorageError where nobody can know. */
    session: (): Promise<SessionRecord | null> =>
      inTurn(async () => {
        try {
          return await readSession();
        } catch (error) {
          // An ending is known as well as a session is.
          if (current.copy(now()) === null || !isUnavailable(error)) throw error;
          return current.alone(now());
        }
      }),

    /**
     * Appends a message for a caller that could not reach Redis, behind those that are kept; keeps it where Redis is
     * down. Throws ConversationDeletedError, RecordTooLargeError, and StorageError where Redis refuses it.
     */
    append: (message: Message): Promise<void> =>
      inTurn(async () => {
        requireStanding();
        mayHoldMessages = true;
        sql.run("INSERT OR IGNORE INTO outbox (id, text) VALUES (?, ?)", message.id, messageText(message));
        // The caller's own request may have been done, and its answer lost.
        perhapsSent.add(message.id);
        // Nor is it known what Redis has, if it has been away.
        lookAgain();
        try {
          await exchange();
        } catch (error) {
          noteFailure("append", error);
          if (!isUnavailable(error)) {
            sql.run("DELETE FROM outbox WHERE id = ?", message.id);
            throw error;
          }
        }
        requireStanding();
      }),

    /** Writes the ticket of a task, for whoever looks in Redis; what it says is known here too. Throws ConversationDeletedError. */
    ticket: (taskId: string, text: string): Promise<void> =>
      inTurn(async () => {
        requireStanding();
        noteActivity();
        const write: SetWrite = {
          type: "set",
          key: keys.task(taskId),
          value: text,
          ttlSeconds: TASK_TTL_SECONDS,
        };
        await storage.commit([write]).catch((error: unknown) => noteFailure("ticket", error));
        requireStanding();
      }),

    /** Creates the conversation for a caller that could not reach Redis; keeps it where Redis is down. */
    create: (record: ConversationRecord): Promise<void> =>
      inTurn(async () => {
        requireStanding();
        note({ creation: stringifyJson(record), known: 0, renewDueAt: now() });
        try {
          await exchange();
        } catch (error) {
          noteFailure("create", error);
          if (!isUnavailable(error)) throw error;
        }
        requireStanding();
      }),

    /**
     * Deletes the conversation for 48 h, the tickets of its tasks included; from now on it is gone here, and in Redis
     * when the promise resolves, or as soon as that takes it. Returns whether there was one.
     */
    async forget(taskIds: readonly string[] = []): Promise<boolean> {
      if (isDeleted()) return false;
      const deletedAt = now();
      const wasKnown = book.known === 1 || book.creation !== null || book.hadSession === 1;
      const settled = sql.transaction(() => {
        current.clear();
        sql.run("DELETE FROM outbox");
        note({ ...NEW_BOOK, deletedAt, deletionDue: 1, ticketsDue: taskIds });
        return results.wipe(deletedAt);
      });
      options.discarded(settled);
      return inTurn(async () => {
        try {
          const [standing] = await tellOfDeletion(deletedAt);
          return conversations.stands(conversationId, standing as string | null);
        } catch (error) {
          noteFailure("forget", error);
          return wasKnown || isUnavailable(error);
        }
      });
    },

    /** Gives Redis what it lacks, as far as it takes it now, and keeps the session of a page that is connected. */
    async giveBack(): Promise<void> {
      if (now() < pausedUntil) return;
      await keepConnected();
      await inTurn(async () => {
        try {
          if (isDeleted() && book.deletionDue === 1) {
            await tellOfDeletion(book.deletedAt ?? now());
          }
          await saveSession();
          do await exchange();
          while (lacksMessages() || (mayLog() && results.lacksLog()));
        } catch (error) {
          noteFailure("give back", error);
        }
      });
    },

    /**
     * Gives the log what was settled, a little later, so that what is settled one after the other goes in one request, if
     * it has not gone with another by then. Where that fails, it is left to the alarm. An object that dies meanwhile gives
     * it when it lives again.
     */
    publish(): void {
      if (isPublishing || now() < Math.max(unpublishedUntil, pausedUntil, logPausedUntil)) return;
      if (!results.lacksLog()) return;
      isPublishing = true;
      options.after(PUBLISH_AFTER_MS, () => {
        const failed = () => {
          unpublishedUntil = now() + FIRST_PAUSE_MS;
        };
        void exchangeBehind("publish", failed)
          .then(() => {
            isPublishing = false;
            results.writeMarks();
            if (results.lacksLog()) options.unpublished();
          })
          .catch((error: unknown) => logFailure(log, "publish", error));
      });
    },

    /** When something has to be done next, in ms; null for never. */
    nextDue(): number | null {
      const lacks =
        book.deletionDue === 1 || (current.copy(now())?.unsaved ?? null) !== null || lacksMessages();
      const lacksLog = !isPublishing && results.lacksLog();
      const retryAt = Math.max(now() + FIRST_PAUSE_MS, nextTryAt() ?? 0, pausedUntil);
      const keepAt = keepDueAt();
      return earliest(
        book.renewDueAt === null ? bookEndsAt() : Math.max(book.renewDueAt, retryAt),
        lacks ? retryAt : null,
        lacksLog ? Math.max(retryAt, logPausedUntil) : null,
        keepAt === null ? null : Math.max(keepAt, pausedUntil),
        current.diesAt(),
      );
    },

    /** Forgets what is over. Returns whether anything is left. */
    tidy(): boolean {
      current.tidy(now());
      // What is being given to the log is written with that.
      if (!isPublishing) results.writeMarks();
      const endsAt = bookEndsAt();
      if (endsAt !== null && endsAt <= now() && book.renewDueAt === null) beginAnew();
      return written !== null || current.diesAt() !== null || outbox(1).length > 0;
    },

    exist: () => sql.exist() || current.exists(),

    forgetTables(): void {
      sql.forget();
      current.forgetTables();
      book = NEW_BOOK;
      written = null;
      mayHoldMessages = false;
    },
  };
  return records;

  function lacksMessages(): boolean {
    return results.lacksHistory() || outbox(1).length > 0;
  }
}

/** Whether a message is the first of its history, by the outcomes of these writes. */
function begins(writes: readonly Write[], outcomes: readonly WriteOutcome[]): boolean {
  return writes.some(({ type }, i) => type === "append" && outcomes[i] === 0);
}
