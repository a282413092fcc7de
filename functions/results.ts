/**
 * `…/:id/results`: what became of the results of a conversation, pages that tell them by themselves, and operators who
 * want them told again; `…/:id/connections`: who was there to be told.
 */
import { Hono } from "hono/tiny";
import * as v from "valibot";
import { parseListLimit } from "../lib/conversation-store.ts";
import { parseExactly, stringifyJson, validate } from "../lib/json.ts";
import { conversationIdOf, isRequestId } from "../lib/keys.ts";
import { howTold, RESULT_STATUSES, type ResultRow } from "../lib/live/results.ts";
import type { AcknowledgedAnswer, AgainAnswer, ConnectionListAnswer, ResultListAnswer } from "./answers.ts";
import { requireApiToken, requireConversationAccess, requireReader } from "./auth.ts";
import { readJsonObject } from "./body.ts";
import type { AppEnv } from "./context.ts";

export const DEFAULT_RESULT_LIMIT = 50;
const MAX_ACKNOWLEDGED = 200;

export const resultQuerySchema = v.object({
  status: v.optional(v.picklist(RESULT_STATUSES, `must be one of ${RESULT_STATUSES.join(", ")}`)),
  before: v.optional(v.pipe(v.string(), v.regex(/^\d{1,15}$/, "unknown cursor"), v.transform(Number))),
  content: v.optional(v.picklist(["true", "false"], 'must be "true" or "false"')),
});

export const acknowledgementSchema = v.object({
  requestIds: v.pipe(
    v.array(v.pipe(v.string(), v.check(isRequestId, "must be a requestId"))),
    v.maxLength(MAX_ACKNOWLEDGED, `must be at most ${MAX_ACKNOWLEDGED}`),
  ),
});

export const results = new Hono<AppEnv>()
  .get("/:id/results", requireReader, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const { limit: limitText, ...query } = c.req.query();
    const limit = parseListLimit(limitText, DEFAULT_RESULT_LIMIT);
    const { status, before, content } = validate(resultQuerySchema, query);
    const rows = await c.var.core.live.results(conversationId, {
      limit: limit + 1,
      ...(status === undefined ? {} : { status }),
      ...(before === undefined ? {} : { before }),
    });
    const page = rows.slice(0, limit);
    const last = page.at(-1);
    const body: ResultListAnswer = {
      results: page.map((row) => shownResult(row, content === "true")),
      ...(rows.length > limit && last !== undefined ? { nextBefore: String(last.seq) } : {}),
    };
    return c.body(stringifyJson(body), 200, { "content-type": "application/json" });
  })

  .post("/:id/results/ack", requireConversationAccess, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const { requestIds } = validate(acknowledgementSchema, await readJsonObject(c));
    const acknowledged = await c.var.core.live.ack(conversationId, requestIds);
    return c.json<AcknowledgedAnswer>({ success: true, acknowledged });
  })

  .post("/:id/results/again", requireApiToken, async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    const { requestIds } = validate(acknowledgementSchema, await readJsonObject(c));
    const again = await c.var.core.live.again(conversationId, requestIds, false);
    return c.json<AgainAnswer>({ success: true, again });
  })

  .get("/:id/connections", requireApiToken, async (c) => {
    const connections = await c.var.core.live.connections(conversationIdOf(c.req.param("id")));
    return c.json<ConnectionListAnswer>({ connections });
  });

/** A result as its conversation's routes show it. */
export function shownResult(
  { requestId, status, delivery, attempts, receivedAt, settledAt, text }: ResultRow,
  withContent: boolean,
) {
  return {
    requestId,
    status,
    delivery,
    ...howTold(status, attempts),
    receivedAt: new Date(receivedAt).toISOString(),
    ...(settledAt === null ? {} : { settledAt: new Date(settledAt).toISOString() }),
    attempts,
    ...(withContent && text !== null ? { content: parseExactly(text) } : {}),
  };
}
