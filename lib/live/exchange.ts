/**
 * What Redis lacks of a conversation, because it was down or has not been asked yet: messages of its history, entries of
 * the log of settled results, another minute of life. All that an object tells Redis goes out one request after the other,
 * so that nothing overtakes; each request takes with it what is lacking, and what is lacking still is given by the alarm.
 */
import type { ConversationRecord, ConversationStore, Message } from "../conversation-store.ts";
import { messageOfResult, messageText, resultMessageId } from "../conversation-store.ts";
import { isUnavailable, StorageError } from "../errors.ts";
import { byteLength, parseExactly, stringifyJson } from "../json.ts";
import { type Logger, logFailure } from "../log.ts";
import { type After, earliest } from "../patience.ts";
import { settledWrite } from "../settled-results.ts";
import type { Tables } from "../sql.ts";
import { createQueue } from "../storage/queue.ts";
import type { ReadInCommit, SetWrite, Storage, Write, WriteOutcome } from "../storage/storage.ts";
import { type Book, RENEW_EVERY_MS } from "./book.ts";
import type { Results } from "./results.ts";

/**
 * How soon after it was settled a result is given to the log, in ms: what is settled meanwhile goes with it, and as long
 * the object stays awake, which is billed.
 */
export const PUBLISH_AFTER_MS = 500;
/** What one request carries of the history at most. Upstash takes 10 MB. */
const [BATCH_MESSAGES, BATCH_BYTES] = [50, 1024 * 1024];
/** The pauses after Redis has refused something, in ms: doubling. */
const [FIRST_PAUSE_MS, LONGEST_PAUSE_MS] = [1_000, 3_600_000];

export const OUTBOX = `
  CREATE TABLE IF NOT EXISTS outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL);`;

export type ExchangeOptions = {
  conversationId: string;
  /** A table `outbox` is among them. */
  tables: Tables;
  storage: Storage;
  conversations: ConversationStore;
  results: Results;
  book: Book;
  log: Logger;
  /** The clock, in ms since the epoch. */
  now: () => number;
  after: After;
  /** When the storage may be tried again, in ms; null for at once. */
  nextTryAt: () => number | null;
  /** Told that not all that was settled could be given to the log. */
  unpublished: () => void;
};

export function createExchange(options: ExchangeOptions) {
  const { conversationId, tables, storage, conversations, results, book, log, now, nextTryAt } = options;
  const inTurn = createQueue();
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

  /** Messages of who could not reach Redis, oldest first. */
  function outbox(limit: number): { id: string; text: string }[] {
    if (!mayHoldMessages) return [];
    const held = tables.rows<{ id: string; text: string }>(
      "SELECT id, text FROM outbox ORDER BY seq LIMIT ?",
      limit,
    );
    mayHoldMessages = held.length > 0;
    return held;
  }

  const drop = (messageId: string): void => void tables.run("DELETE FROM outbox WHERE id = ?", messageId);

  const lacksMessages = (): boolean => results.lacksHistory() || outbox(1).length > 0;

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
          if (requestId === undefined) drop(id);
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
    const { known, renewDueAt: dueAt, creation, hasHistory: hadHistory } = book.content;
    const isDue = dueAt !== null && dueAt <= now();
    // With the first message it is also seen whether the record still stands.
    if (book.isDeleted() || !(isDue || (appends && hadHistory === 0))) return { writes: [], note: () => {} };
    const hasHistory = appends ? 1 : hadHistory;
    const index = conversations.indexWrite(conversationId);
    if (known === 0) {
      const record =
        creation === null
          ? conversations.fresh(conversationId)
          : (parseExactly(creation) as ConversationRecord);
      return {
        writes: [conversations.createWrite(record), index],
        note([isNew]) {
          // One that stood was made by an instance: how long it has left is seen to a little later.
          const renewDueAt = isNew === true ? null : now() + RENEW_EVERY_MS;
          book.note({ known: 1, creation: null, renewedAt: now(), renewDueAt, hasHistory });
        },
      };
    }
    const [record, messages] = conversations.renewWrites(conversationId);
    return {
      writes: [record, index, ...(appends ? [] : [messages])],
      note([stands]) {
        if (stands === true) book.note({ renewedAt: now(), renewDueAt: null, hasHistory });
        else book.note({ known: 0, renewDueAt: now(), hasHistory });
      },
    };
  }

  /**
   * One request: reads or writes the session where that is asked for, appends what the history and the log lack, renews
   * what is due. Returns the text of a session that was read. Throws StorageError.
   */
  async function ask(onSession?: ReadInCommit | SetWrite): Promise<string | null> {
    const messages = missingMessages();
    const hadHistory = book.content.hasHistory === 1;
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
      return ask(onSession);
    }
    // What is written in one turn becomes true together; where one of them fails, what it says is done again.
    messages.note();
    settled.note();
    // It may have been deleted meanwhile.
    const before = first.length + messages.writes.length;
    if (!book.isDeleted()) renewed.note(outcomes.slice(before, before + renewed.writes.length));
    conversations.reportDropped(conversationId, writes, outcomes);
    const isLost =
      renewed.writes.length > 0
        ? book.content.known === 0
        : hadHistory && begins(messages.writes, outcomes.slice(first.length));
    if (isLost) makeAgain();
    return onSession?.type === "get" ? (outcomes[0] as string | null) : null;
  }

  /** Redis has lost the conversation: it is made again, and nobody waits for it. */
  function makeAgain(): void {
    book.lookAgain();
    void askBehind("renew");
  }

  /** One request that nobody waits for, or that is not to fail who does. `failed` hears why before it is noted. */
  function askBehind(operation: string, failed: (error: unknown) => void = () => {}): Promise<void> {
    return inTurn(async () => void (await ask()))
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

  return {
    /** Work that asks Redis, one after the other. */
    inTurn,
    ask,
    askBehind,
    noteFailure,

    /** Until when Redis is left alone because it has refused something, in ms. */
    pausedUntil: (): number => pausedUntil,

    /** Keeps a message of who could not reach Redis. */
    keep(message: Message): void {
      mayHoldMessages = true;
      tables.run("INSERT OR IGNORE INTO outbox (id, text) VALUES (?, ?)", message.id, messageText(message));
      // The caller's own request may have been done, and its answer lost.
      perhapsSent.add(message.id);
    },
    drop,
    /** The conversation was deleted. */
    wipe: (): void => void tables.run("DELETE FROM outbox"),

    /** Gives everything that is lacking, in as many requests as it takes. Throws StorageError. */
    async giveAll(): Promise<void> {
      do await ask();
      while (lacksMessages() || (mayLog() && results.lacksLog()));
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
        void askBehind("publish", failed)
          .then(() => {
            isPublishing = false;
            results.writeMarks();
            if (results.lacksLog()) options.unpublished();
          })
          .catch((error: unknown) => logFailure(log, "publish", error));
      });
    },

    /** When Redis is to be given something next, in ms, `isLacking` something besides what is known here; null for never. */
    nextDue(isLacking: boolean): number | null {
      const lacks = isLacking || lacksMessages();
      const lacksLog = !isPublishing && results.lacksLog();
      const retryAt = Math.max(now() + FIRST_PAUSE_MS, nextTryAt() ?? 0, pausedUntil);
      const { renewDueAt } = book.content;
      return earliest(
        renewDueAt === null ? book.endsAt() : Math.max(renewDueAt, retryAt),
        lacks ? retryAt : null,
        lacksLog ? Math.max(retryAt, logPausedUntil) : null,
      );
    },

    /** Writes what is still to be written. Returns whether anything is lacking that nobody else keeps. */
    tidy(): boolean {
      // What is being given to the log is written with that.
      if (!isPublishing) results.writeMarks();
      return outbox(1).length > 0;
    },

    /** The table is gone. */
    forgetTable(): void {
      mayHoldMessages = false;
    },
  };
}

/** Whether a message is the first of its history, by the outcomes of these writes. */
function begins(writes: readonly Write[], outcomes: readonly WriteOutcome[]): boolean {
  return writes.some(({ type }, i) => type === "append" && outcomes[i] === 0);
}
