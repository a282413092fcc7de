/**
 * What an operator asks of all conversations at once: what became of results, what waits, who is live, how much there
 * was in the last hour, and to have said what nobody has heard. All of it comes from the index, the log of settled
 * results and the conversations' objects; each question looks at a bounded part of them, however many there are.
 */
import type { Core } from "./core.ts";
import { ConversationDeletedError, StorageError } from "./errors.ts";
import { keys } from "./keys.ts";
import { FAILED, type OpenResults, type ResultStatus } from "./live/results.ts";
import { logFailure } from "./log.ts";
import { isLive, type SessionRecord } from "./session-store.ts";
import { listSettledResults, type SettledPage, type SettledResult } from "./settled-results.ts";
import { decodeLogEntryId } from "./storage/storage.ts";

/** How many conversations' objects one question asks. A Worker may make 50 calls a request at least. */
export const MAX_OBJECTS = 40;
/** The newest open results of a conversation that are shown. */
const SHOWN_OPEN = 20;
const [MINUTE_MS, MINUTES] = [60_000, 60];

export type SettledFilter = {
  limit: number;
  before?: string | undefined;
  status?: ResultStatus | undefined;
  /** Only what nobody is known to have heard. */
  failed: boolean;
  conversationId?: string | undefined;
  requestId?: string | undefined;
};

/** What became of results, newest first. Throws InvalidCursorError, StorageError. */
export function listSettled(
  { limit, before, status, failed, conversationId, requestId }: SettledFilter,
  core: Core,
): Promise<SettledPage> {
  const isWanted = (result: SettledResult) =>
    (status === undefined || result.status === status) &&
    (!failed || hasFailed(result)) &&
    (conversationId === undefined || result.conversationId === conversationId) &&
    (requestId === undefined || result.requestId === requestId);
  return listSettledResults({ limit, before, isWanted }, core);
}

function hasFailed({ status }: SettledResult): boolean {
  return FAILED.includes(status);
}

/** A conversation, by its last activity, and what its object knows; null where that did not answer. */
type Asked<T> = { conversationId: string; lastActivityAt: string; answer: T | null };
type Page<T> = { items: Asked<T>[]; nextCursor?: string };

type Asking = Pick<Core, "storage" | "log" | "live">;

/** Asks the objects of the conversations that were active last. */
async function askNewest<T>(
  limit: number,
  cursor: string | undefined,
  core: Asking,
  ask: (ids: string[]) => Promise<Map<string, T | null>>,
): Promise<Page<T>> {
  const page = await core.storage.listIndex(keys.conversations, {
    limit: Math.min(limit, MAX_OBJECTS),
    ...(cursor === undefined ? {} : { cursor }),
  });
  const answers = await ask(page.entries.map(({ member }) => member));
  const items = page.entries.flatMap(({ member, score }) => {
    const answer = answers.get(member);
    if (answer === undefined) return [];
    return [{ conversationId: member, lastActivityAt: new Date(score).toISOString(), answer }];
  });
  return { items, ...(page.nextCursor === undefined ? {} : { nextCursor: page.nextCursor }) };
}

/** What a conversation's object says; null where it did not answer, which is logged. */
async function orNull<T>(conversationId: string, answer: Promise<T>, { log }: Asking): Promise<T | null> {
  try {
    return await answer;
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    logFailure(log.with({ conversationId }), "console", error);
    return null;
  }
}

function openOf(conversationId: string, limit: number, core: Asking): Promise<OpenResults | null> {
  return orNull(conversationId, core.live.open(conversationId, limit), core);
}

/**
 * What is not settled in the conversations that were active last, of `limit` of them at most 40, and of how many of
 * those the objects did not answer. Throws InvalidCursorError, StorageError.
 */
export async function listWaiting(limit: number, cursor: string | undefined, core: Asking) {
  const { items, ...rest } = await askNewest(limit, cursor, core, async (ids) => {
    const answers = await Promise.all(ids.map((id) => openOf(id, SHOWN_OPEN, core)));
    return new Map(ids.map((id, i) => [id, answers[i] ?? null]));
  });
  const conversations = items.flatMap(({ conversationId, lastActivityAt, answer }) =>
    answer === null || answer.results.length === 0
      ? []
      : [{ conversationId, lastActivityAt, counts: answer.counts, results: answer.results }],
  );
  return { conversations, unanswered: items.filter(({ answer }) => answer === null).length, ...rest };
}

/**
 * The sessions that are live among the conversations that were active last, of `limit` of them at most 40; `counts` is
 * null where the object did not answer. Throws InvalidCursorError, StorageError.
 */
export async function listSessions(
  limit: number,
  cursor: string | undefined,
  core: Asking & Pick<Core, "sessions" | "now">,
) {
  const { sessions: store, storage, now } = core;
  const { items, ...rest } = await askNewest(limit, cursor, core, async (ids) => {
    const texts = await storage.getMany(ids.map(keys.session));
    const live = ids.flatMap((id, i) => {
      const text = texts[i] ?? null;
      const session = text === null ? null : store.parse(id, text);
      return session !== null && isLive(session, now()) ? [session] : [];
    });
    const open = await Promise.all(live.map(({ conversationId }) => openOf(conversationId, 0, core)));
    return new Map(
      live.map((session, i): [string, { session: SessionRecord; counts: OpenResults["counts"] | null }] => [
        session.conversationId,
        { session, counts: open[i]?.counts ?? null },
      ]),
    );
  });
  const sessions = items.flatMap(({ lastActivityAt, answer }) => {
    if (answer === null) return [];
    return [{ ...answer, lastActivityAt }];
  });
  return { sessions, ...rest };
}

/** `at` is its beginning, ISO 8601. */
export type Minute = { at: string; delivered: number; failed: number; other: number };

/**
 * How many results were settled in each minute of the last hour, oldest first. `isPartial`: there were more than can be
 * looked through, and the minutes begin later. Throws StorageError.
 */
export async function rates(
  core: Pick<Core, "storage" | "log" | "now">,
): Promise<{ minutes: Minute[]; isPartial: boolean }> {
  const start = (Math.floor(core.now() / MINUTE_MS) - MINUTES + 1) * MINUTE_MS;
  const minutes: Minute[] = Array.from({ length: MINUTES }, (_, i) => ({
    at: new Date(start + i * MINUTE_MS).toISOString(),
    delivered: 0,
    failed: 0,
    other: 0,
  }));
  const query = { limit: Number.POSITIVE_INFINITY, since: start };
  const { results, nextBefore } = await listSettledResults(query, core);
  for (const result of results) {
    const place = Math.floor((Date.parse(result.settledAt) - start) / MINUTE_MS);
    const minute = minutes[place];
    // A log is written later than what it tells of: by a little, or by as long as an outage.
    if (minute === undefined) continue;
    minute[result.status === "delivered" ? "delivered" : hasFailed(result) ? "failed" : "other"] += 1;
  }
  if (nextBefore === undefined) return { minutes, isPartial: false };
  // Of what was settled since then nothing was written before.
  const { at } = decodeLogEntryId(nextBefore);
  return { minutes: minutes.slice(Math.floor((at - start) / MINUTE_MS) + 1), isPartial: true };
}

/** How many results are handed over by one question. */
const A_HANDOVER = 200;

/**
 * Has everything said that was settled since a time (ms), newest first, and that nobody is known to have heard. Returns
 * how many wait for it now, of how many conversations the objects did not answer, and where to go on. Throws
 * InvalidCursorError, StorageError.
 */
export async function sayFailedAgain(
  since: number,
  before: string | undefined,
  core: Core,
): Promise<{ again: number; unanswered: number; nextBefore?: string }> {
  const asked = new Set<string>();
  const isEnough = ({ conversationId }: SettledResult) => asked.add(conversationId).size >= MAX_OBJECTS;
  const query = { limit: A_HANDOVER, before, since, isWanted: hasFailed, isEnough };
  const page = await listSettledResults(query, core);
  const ofConversations = Map.groupBy(page.results, ({ conversationId }) => conversationId);
  const outcomes = await Promise.all(
    [...ofConversations].map(async ([conversationId, results]) => {
      const requestIds = results.map(({ requestId }) => requestId);
      // An entry of an earlier page may be of the same result, which has been said again by now.
      const settledAt = results.map((result) => Date.parse(result.settledAt));
      const again = core.live
        .again(conversationId, requestIds, true, settledAt)
        .then(({ length }) => length)
        .catch((error: unknown) => {
          if (error instanceof ConversationDeletedError) return 0;
          throw error;
        });
      return orNull(conversationId, again, core);
    }),
  );
  return {
    again: outcomes.reduce<number>((sum, count) => sum + (count ?? 0), 0),
    unanswered: outcomes.filter((count) => count === null).length,
    ...(page.nextBefore === undefined ? {} : { nextBefore: page.nextBefore }),
  };
}
