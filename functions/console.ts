/** `/console/api/…`: what an operator asks of all conversations at once. Servers only. */
import { Hono } from "hono/tiny";
import * as v from "valibot";
import { listSessions, listSettled, listWaiting, rates, sayFailedAgain } from "../lib/console.ts";
import { parseListLimit } from "../lib/conversation-store.ts";
import { validate } from "../lib/json.ts";
import { isConversationId, isRequestId } from "../lib/keys.ts";
import { howTold, type ResultStatus } from "../lib/live/results.ts";
import { listOutages } from "../lib/outages.ts";
import { sessionDeadline } from "../lib/session-store.ts";
import { allAgainSchema } from "../lib/settled-results.ts";
import type {
  AllAgainAnswer,
  LiveSessionListAnswer,
  OutageListAnswer,
  RatesAnswer,
  SettledListAnswer,
  WaitingListAnswer,
} from "./answers.ts";
import { requireApiToken } from "./auth.ts";
import { readJsonObject } from "./body.ts";
import type { AppEnv } from "./context.ts";
import { resultQuerySchema, shownResult } from "./results.ts";
import { shownSession } from "./sessions.ts";

export const settledQuerySchema = v.object({
  before: v.optional(v.string()),
  status: resultQuerySchema.entries.status,
  failed: v.optional(v.picklist(["true", "false"], 'must be "true" or "false"')),
  conversationId: v.optional(v.pipe(v.string(), v.check(isConversationId, "must be a conversation's id"))),
  requestId: v.optional(v.pipe(v.string(), v.check(isRequestId, "must be a requestId"))),
});

export const DEFAULT_CONSOLE_LIMIT = 50;

export const consoleApi = new Hono<AppEnv>()
  .use(requireApiToken)

  .get("/results", async (c) => {
    const { limit: limitText, ...query } = c.req.query();
    const limit = parseListLimit(limitText, DEFAULT_CONSOLE_LIMIT);
    const { failed, ...filter } = validate(settledQuerySchema, query);
    const page = await listSettled({ limit, failed: failed === "true", ...filter }, c.var.core);
    const results = page.results.map(
      ({ id, conversationId, requestId, status, delivery, receivedAt, settledAt, attempts }) => ({
        id,
        conversationId,
        requestId,
        status,
        delivery,
        ...howTold(status, attempts),
        receivedAt,
        settledAt,
        attempts,
      }),
    );
    return c.json<SettledListAnswer>({ ...page, results });
  })

  .get("/waiting", async (c) => {
    const limit = parseListLimit(c.req.query("limit"), DEFAULT_CONSOLE_LIMIT);
    const { conversations, ...rest } = await listWaiting(limit, c.req.query("cursor"), c.var.core);
    return c.json<WaitingListAnswer>({
      conversations: conversations.map(({ conversationId, lastActivityAt, counts, results }) => ({
        conversationId,
        lastActivityAt,
        ...shownCounts(counts),
        results: results.map((row) => shownResult(row, false)),
      })),
      ...rest,
    });
  })

  .get("/sessions", async (c) => {
    const limit = parseListLimit(c.req.query("limit"), DEFAULT_CONSOLE_LIMIT);
    const { sessions, ...rest } = await listSessions(limit, c.req.query("cursor"), c.var.core);
    const now = c.var.core.now();
    return c.json<LiveSessionListAnswer>({
      sessions: sessions.map(({ session, lastActivityAt, counts }) => {
        const secondsLeft = Math.max(0, Math.ceil(((sessionDeadline(session) ?? now) - now) / 1000));
        return {
          ...shownSession(session, secondsLeft, c.var.core),
          lastActivityAt,
          ...(counts === null ? {} : shownCounts(counts)),
        };
      }),
      ...rest,
    });
  })

  .get("/rates", async (c) => c.json<RatesAnswer>(await rates(c.var.core)))

  .get("/outages", async (c) => c.json<OutageListAnswer>({ outages: await listOutages(c.var.core.storage) }))

  .post("/results/again", async (c) => {
    const { since, cursor } = validate(allAgainSchema, await readJsonObject(c));
    const { nextBefore, ...counts } = await sayFailedAgain(Date.parse(since), cursor, c.var.core);
    return c.json<AllAgainAnswer>({
      success: true,
      ...counts,
      ...(nextBefore === undefined ? {} : { nextCursor: nextBefore }),
    });
  });

/** Those that were not delivered yet: what is being said counts among what waits. */
function shownCounts({ waiting = 0, saying = 0, unconfirmed = 0 }: Partial<Record<ResultStatus, number>>) {
  return { waiting: waiting + saying, unconfirmed };
}
