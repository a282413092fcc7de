/** `/agent-tools`: the agent calls a tool whose work takes long. */
import * as v from "valibot";
import { AppError } from "../lib/errors.ts";
import { stringifyJson, validate } from "../lib/json.ts";
import { logFailure } from "../lib/log.ts";
import { parseToolCall } from "../lib/task.ts";
import { refuseTool, startTask, type ToolAnswer, type ToolRefusal } from "../lib/tasks.ts";
import type { ToolAnswerBody } from "./answers.ts";
import { readJsonObject } from "./body.ts";
import type { AppContext } from "./context.ts";
import { limitConversation } from "./rate-limit.ts";

/** The longest that a tool call may wait for its result, in seconds: ElevenLabs gives a tool 300. */
const MAX_WAIT_SECONDS = 290;
const message = `must be a whole number of seconds from 0 to ${MAX_WAIT_SECONDS}`;

export const toolQuerySchema = v.object({
  wait: v.pipe(
    v.optional(v.string(), "0"),
    v.regex(/^\d{1,3}$/, message),
    v.transform(Number),
    v.maxValue(MAX_WAIT_SECONDS, message),
  ),
});

/** Agents speak what their tools answer, so whoever was let in is answered 200, with words that can be spoken. */
export async function handleAgentTool(c: AppContext): Promise<Response> {
  const body: ToolAnswerBody = await answerOf(c);
  return c.body(stringifyJson(body), 200, { "content-type": "application/json" });
}

async function answerOf(c: AppContext): Promise<ToolAnswer> {
  const { core, config } = c.var;
  const { runner } = config.outbound;
  if (!config.featureEnabled || runner === null) return refuseTool("feature_disabled");
  try {
    const { wait } = validate(toolQuerySchema, c.req.query());
    const call = parseToolCall(await readJsonObject(c), c.req.header("system__conversation_id"));
    await limitConversation(c, "task", call.conversationId ?? `agent:${call.agentSessionId ?? ""}`);
    const callbackUrl = new URL("/callback", c.req.url).href;
    const options = { waitMs: wait * 1000, signal: c.req.raw.signal };
    return await startTask(call, { ...runner, callbackUrl }, options, core);
  } catch (error) {
    const code = error instanceof AppError ? error.code : "internal_error";
    logFailure(core.log, "tool call", error);
    const known: readonly string[] = REFUSALS;
    return refuseTool(known.includes(code) ? (code as ToolRefusal) : "invalid_request");
  }
}

const REFUSALS = ["payload_too_large", "rate_limited", "internal_error"] as const satisfies ToolRefusal[];
