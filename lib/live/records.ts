/**
 * The records of a conversation in Redis, as its object writes them. Here is the session: who is there, who takes whose
 * place, what Redis has still to be told of that; and the deletion. What the object knows of its conversation is the book
 * (`book.ts`); the history, the log of settled results and the time to live are what each request takes with it
 * (`exchange.ts`).
 */
import type { AgentConversations } from "../agent-conversations.ts";
import type { ConversationRecord, Message } from "../conversation-store.ts";
import { AppError, isUnavailable } from "../errors.ts";
import { parseExactly, stringifyJson } from "../json.ts";
import { keys } from "../keys.ts";
import { earliest } from "../patience.ts";
import {
  SESSION_TTL_SECONDS,
  type SessionRecord,
  type SessionStore,
  sessionDeadline,
} from "../session-store.ts";
import { type Sql, tablesOf } from "../sql.ts";
import type { SetWrite, TtlSeconds, Write, WriteOutcome } from "../storage/storage.ts";
import { TASK_TTL_SECONDS } from "../task.ts";
import { type AgentConversation, agentConversationOf, isSame } from "./agent-conversation.ts";
import { BOOK, createBook } from "./book.ts";
import { createCurrentSession, hasEnded, isOlder } from "./current-session.ts";
import type { Presence } from "./delivery.ts";
import { createExchange, type ExchangeOptions, OUTBOX } from "./exchange.ts";

/** How often the session of a page that is connected is renewed, in ms. */
export const RENEW_SESSION_MS = 240_000;
/** A registration that is younger than this, in ms, need not be looked for in Redis. */
const FRESH_MS = 1_000;
/** By then a request that timed out has been carried out or never will be, in ms. */
const LATE_REQUESTS_MS = 3_000;

export type RecordsOptions = Omit<ExchangeOptions, "tables" | "book"> & {
  sql: Sql;
  sessions: SessionStore;
  /** How long a conversation lives from its last activity; null for ever. */
  ttlSeconds: TtlSeconds;
  /** Where it is noted whose an agent conversation is; null where nobody asks. */
  agents: AgentConversations | null;
  /** The session of the page that is connected to the object, the newest if there are several; null where none is. */
  connected: () => SessionRecord | null;
  /** Told when another registration, or none, is the current one, in the same turn. */
  sessionChanged: (before: SessionRecord | null, after: SessionRecord | null) => void;
  /** Told which results were settled because the conversation was deleted, in the same turn. */
  discarded: (requestIds: readonly string[]) => void;
};

export type Records = ReturnType<typeof createRecords>;

/** Nothing here rejects because Redis is down, unless it says so. */
export function createRecords(options: RecordsOptions) {
  const { conversationId, sql, storage, sessions, conversations, results, now, ttlSeconds } = options;
  // Made together: where the book is, so is the outbox.
  const tables = tablesOf(sql, "book", BOOK + OUTBOX);
  const book = createBook({ tables, now, ttlSeconds, tombstoneGone: results.forgetWiped });
  const { isDeleted, requireStanding, noteActivity, lookAgain } = book;
  const exchange = createExchange({ ...options, tables, book });
  const { inTurn, noteFailure } = exchange;
  const current = createCurrentSession(
    sql,
    { parse: (text) => sessions.parse(conversationId, text), stringify: textOf },
    SESSION_TTL_SECONDS * 1000,
    options.sessionChanged,
  );

  /** When Redis was first told of the copy that came here at `since`. */
  let savedAt: { since: number; at: number } | null = null;
  /** Resolves when the history has been brought up to date for pages that are connected, as far as it could be. */
  let brought: Promise<void> = Promise.resolve();
  let lastRead: { text: string; record: SessionRecord | null } | null = null;
  /** The registration of a page that is being attached: it is current, but nothing can be said to it yet. */
  let arriving: string | null = null;

  /** Tells Redis that the conversation was deleted. Throws StorageError. */
  async function tellOfDeletion(deletedAt: number): Promise<readonly WriteOutcome[]> {
    const outcomes = await storage.commit([
      ...conversations.deleteWrites(conversationId, deletedAt),
      ...book.content.ticketsDue.map((taskId): Write => ({ type: "delete", key: keys.task(taskId) })),
    ]);
    book.note({ deletionDue: 0, ticketsDue: [] });
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
    tables.transaction(() => {
      current.set(session, copy.since, "set");
      book.note({ hadSession: 1 });
      results.identify(to);
    });
    arriving = session.registrationId;
    try {
      await inTurn(async () => {
        const [key, value] = [keys.session(conversationId), stringifyJson(session)];
        try {
          await exchange.ask({ type: "set", key, value, ttlSeconds: SESSION_TTL_SECONDS });
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
        const text = await exchange.ask(
          isFresh ? undefined : { type: "get", key: keys.session(conversationId) },
        );
        const inRedis = read(text);
        if (isDeleted()) return { session: null, hadSession: false };
        session = isFresh ? current.alone(now()) : current.choose(inRedis, now());
      } catch (error) {
        noteFailure("look", error);
        if (isUnavailable(error)) lookAgain();
        // What was to be renewed with it still is, whenever the object lives again.
        else book.note({});
        // Where something else in the request was refused, the session can still be read.
        const alone = () => current.alone(now());
        session = isUnavailable(error) ? alone() : await readSession().catch(alone);
      }
      if (isDeleted()) return { session: null, hadSession: false };
      session = connected() ?? (isCutOff(session) ? null : session);
      if (session !== null && book.content.hadSession === 0) book.note({ hadSession: 1 });
      return { session, hadSession: book.content.hadSession === 1 };
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
      if (book.content.hadSession === 0) book.note({ hadSession: 1 });
      brought = exchange.askBehind("look", (error) => {
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
        book.note({ hadSession: 1 });
        if (to !== null) results.identify(to);
      };
      // Where nobody waits to hear what another was told, the session is all that there is to write.
      if (book.content.hadSession === 1 && !results.hasOpen()) take();
      else tables.transaction(take);
      await inTurn(async () => {
        try {
          await saveSession();
          await exchange.ask();
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
          await exchange.ask();
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
        exchange.keep(message);
        // Nor is it known what Redis has, if it has been away.
        lookAgain();
        try {
          await exchange.ask();
        } catch (error) {
          noteFailure("append", error);
          if (!isUnavailable(error)) {
            exchange.drop(message.id);
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
        book.note({ creation: stringifyJson(record), known: 0, renewDueAt: now() });
        try {
          await exchange.ask();
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
      const wasKnown =
        book.content.known === 1 || book.content.creation !== null || book.content.hadSession === 1;
      const settled = tables.transaction(() => {
        current.clear();
        exchange.wipe();
        book.close(deletedAt, taskIds);
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
      if (now() < exchange.pausedUntil()) return;
      await keepConnected();
      await inTurn(async () => {
        try {
          if (isDeleted() && book.content.deletionDue === 1) {
            await tellOfDeletion(book.content.deletedAt ?? now());
          }
          await saveSession();
          await exchange.giveAll();
        } catch (error) {
          noteFailure("give back", error);
        }
      });
    },

    publish: exchange.publish,

    /** When something has to be done next, in ms; null for never. */
    nextDue(): number | null {
      const isLacking = book.content.deletionDue === 1 || (current.copy(now())?.unsaved ?? null) !== null;
      const keepAt = keepDueAt();
      return earliest(
        exchange.nextDue(isLacking),
        keepAt === null ? null : Math.max(keepAt, exchange.pausedUntil()),
        current.diesAt(),
      );
    },

    /** Forgets what is over. Returns whether anything is left. */
    tidy(): boolean {
      current.tidy(now());
      const [lacks, knows] = [exchange.tidy(), book.tidy()];
      return lacks || knows || current.diesAt() !== null;
    },

    exist: () => tables.exist() || current.exists(),

    forgetTables(): void {
      tables.forget();
      book.forgetTable();
      exchange.forgetTable();
      current.forgetTables();
    },
  };
  return records;
}
