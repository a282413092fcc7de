/**
 * What an object knows of its conversation, besides its session and its results: one row. It is written where it says
 * something else than before, and gone with the conversation, or with its tombstone.
 */
import { TOMBSTONE_SECONDS } from "../conversation-store.ts";
import { ConversationDeletedError } from "../errors.ts";
import type { Tables } from "../sql.ts";
import type { TtlSeconds } from "../storage/storage.ts";

/** Times to live and the index are renewed at most this often, in ms. */
export const RENEW_EVERY_MS = 60_000;

type Content = {
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
const BLANK: Content = {
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
const BLANK_TEXT = JSON.stringify(BLANK);

export const BOOK = `
  CREATE TABLE IF NOT EXISTS book (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), content TEXT NOT NULL);`;

export type Book = ReturnType<typeof createBook>;

type BookOptions = {
  /** A table `book` is among them. */
  tables: Tables;
  /** The clock, in ms since the epoch. */
  now: () => number;
  /** How long a conversation lives from its last activity; null for ever. */
  ttlSeconds: TtlSeconds;
  /** Told that a deletion is over: whoever writes to the conversation now begins it anew. */
  tombstoneGone: () => void;
};

export function createBook({ tables, now, ttlSeconds, tombstoneGone }: BookOptions) {
  const [row] = tables.rows<{ content: string }>("SELECT content FROM book");
  let content: Content =
    row === undefined ? BLANK : { ...BLANK, ...(JSON.parse(row.content) as Partial<Content>) };
  /** It as it stands in its table; null where it does not. */
  let written = row?.content ?? null;

  function note(change: Partial<Content>): void {
    content = { ...content, ...change };
    const text = JSON.stringify(content);
    if (text === (written ?? BLANK_TEXT)) return;
    written = text;
    tables.run("INSERT OR REPLACE INTO book VALUES (1, ?)", text);
  }

  /** The old one is over: nothing that was known holds any more. */
  function beginAnew(): void {
    if (content.deletedAt !== null) tombstoneGone();
    content = BLANK;
    written = null;
    tables.run("DELETE FROM book");
  }

  function isDeleted(): boolean {
    if (content.deletedAt !== null && now() >= content.deletedAt + TOMBSTONE_SECONDS * 1000) beginAnew();
    return content.deletedAt !== null;
  }

  /** Until when there is something to know, in ms: as long as the conversation, or its tombstone, lives. Null for ever. */
  function endsAt(): number | null {
    if (content.deletedAt !== null) return content.deletedAt + TOMBSTONE_SECONDS * 1000;
    if (content === BLANK || ttlSeconds === null) return null;
    return content.renewedAt === 0 ? null : content.renewedAt + ttlSeconds * 1000;
  }

  return {
    get content(): Readonly<Content> {
      return content;
    },
    note,
    isDeleted,

    /** Throws ConversationDeletedError. */
    requireStanding(): void {
      if (isDeleted()) throw new ConversationDeletedError();
    },

    /** Something happened in the conversation, so it is to live on. Written down where it cannot be seen to at once. */
    noteActivity(): void {
      if (isDeleted() || content.renewDueAt !== null || now() < content.renewedAt + RENEW_EVERY_MS) return;
      content = { ...content, renewDueAt: now() };
    },

    /** So that somebody looks again when Redis is back; it may have come back empty. */
    lookAgain(): void {
      if (!isDeleted()) note({ known: 0, renewDueAt: now() });
    },

    /** The conversation is deleted from now on, with the tickets of these tasks; Redis has to be told. */
    close(deletedAt: number, ticketsDue: readonly string[]): void {
      note({ ...BLANK, deletedAt, deletionDue: 1, ticketsDue });
    },

    endsAt,

    /** Forgets what is over. Returns whether anything is left. */
    tidy(): boolean {
      const end = endsAt();
      if (end !== null && end <= now() && content.renewDueAt === null) beginAnew();
      return written !== null;
    },

    /** The table is gone. */
    forgetTable(): void {
      content = BLANK;
      written = null;
    },
  };
}
