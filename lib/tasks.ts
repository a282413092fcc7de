/**
 * The story of a tool call: whose agent calls, a ticket, a runner that takes the work, and words for the agent to say
 * meanwhile; or, where the call can wait, the result itself.
 */
import type { Core } from "./core.ts";
import { ConversationDeletedError, isUnavailable } from "./errors.ts";
import { stringifyJson } from "./json.ts";
import { isAgentSessionId, newTaskId } from "./keys.ts";
import { logFailure } from "./log.ts";
import { type Destination, postSigned } from "./outbound.ts";
import { MAX_PUSH_CHARACTERS } from "./push/message.ts";
import { type Result, resultText } from "./result.ts";
import { TASK_TTL_SECONDS, type Ticket, type ToolCall } from "./task.ts";

/** Who does the work, and where it calls back. */
export type Runner = Destination & { callbackUrl: string };

/** What the tool call is answered. `say` is in words that an agent can speak. */
export type ToolAnswer =
  | { ok: true; say: string; result: { requestId: string; status: "processing" } }
  | {
      ok: boolean;
      say: string;
      result: { requestId: string; status: "completed"; success: boolean; output?: unknown; error?: unknown };
    }
  | { ok: false; say: string; code: ToolRefusal };

export type ToolRefusal =
  | "feature_disabled"
  | "invalid_request"
  | "payload_too_large"
  | "conversation_not_found"
  | "runner_unavailable"
  | "storage_unavailable"
  | "rate_limited"
  | "internal_error";

const SAY: Record<ToolRefusal, string> = {
  feature_disabled: "I cannot start work in the background at the moment.",
  invalid_request: "I could not start that, because something about the request was not right.",
  payload_too_large: "I could not start that, because the request was too long.",
  conversation_not_found: "I could not start that, because I do not know which conversation this is.",
  runner_unavailable: "I could not start that right now. Please ask me again in a moment.",
  storage_unavailable: "I could not start that right now. Please ask me again in a moment.",
  rate_limited: "That was too much at once. Please ask me again in a minute.",
  internal_error: "I could not start that, because something went wrong.",
};
const STARTED = "I have started on that. I will tell you as soon as I have the result.";

/** An answer that says why nothing was started. */
export function refuseTool(code: ToolRefusal): ToolAnswer {
  return { ok: false, say: SAY[code], code };
}

/** How long the runner may take to accept, all tries together, in ms; and the pauses between them. */
const ACCEPT_MS = 5_000;
const PAUSES_MS = [100, 400];

export type StartOptions = {
  /** How long the tool call can wait for the result, in ms; 0 where it cannot. */
  waitMs: number;
  /** Aborted when the caller goes away. */
  signal: AbortSignal;
};

/**
 * Starts the task that a tool call asks for. Two requests to Redis at most, before the runner is asked. Never throws
 * but what nobody expects.
 */
export async function startTask(
  call: ToolCall,
  runner: Runner,
  { waitMs, signal }: StartOptions,
  core: Core,
): Promise<ToolAnswer> {
  try {
    const conversationId = call.conversationId ?? (await conversationOf(call.agentSessionId, core));
    if (conversationId === null) return refuseTool("conversation_not_found");
    const ticket = ticketOf(call, conversationId, core.now());
    const waits = await core.live.openTask(ticket, waitMs);
    const log = core.log.with({ conversationId, callbackRequestId: ticket.taskId });
    // A runner may be done before it says that it has begun.
    const replied = waits ? replyTo(ticket, waitMs, signal, core) : null;
    const accepted = isAccepted(ticket, runner, core);
    if ((await Promise.race([accepted, replied ?? accepted])) === false) {
      log.warn("task.failed");
      core.afterResponse(quietly(core.live.failTask(ticket), core));
      return refuseTool("runner_unavailable");
    }
    log.info("task.opened");
    const result = await replied;
    return result === null ? processing(ticket) : completed(ticket, result);
  } catch (error) {
    if (error instanceof ConversationDeletedError) return refuseTool("conversation_not_found");
    if (!isUnavailable(error)) throw error;
    logFailure(core.log, "tool call", error);
    return refuseTool("storage_unavailable");
  }
}

async function conversationOf(agentSessionId: string | undefined, core: Core): Promise<string | null> {
  if (agentSessionId === undefined || !isAgentSessionId(agentSessionId)) return null;
  return (await core.agentConversations.find(agentSessionId))?.conversationId ?? null;
}

function ticketOf(call: ToolCall, conversationId: string, now: number): Ticket {
  const { tool, args, deliverBy, topic, onHangup, agentSessionId } = call;
  const over = now + TASK_TTL_SECONDS * 1000;
  const deadline = Math.min(over, deliverBy === undefined ? over : Date.parse(deliverBy));
  return {
    version: 1,
    taskId: newTaskId(conversationId),
    conversationId,
    tool,
    args,
    createdAt: new Date(now).toISOString(),
    deadline: new Date(deadline).toISOString(),
    ...(deliverBy === undefined ? {} : { deliverBy }),
    ...(topic === undefined ? {} : { topic }),
    onHangup,
    ...(agentSessionId === undefined ? {} : { agentSessionId }),
  };
}

/** Hands the work over, in three tries at most. A runner that has taken it already knows a repetition by its id. */
async function isAccepted(
  ticket: Ticket,
  { url, secret, callbackUrl }: Runner,
  core: Core,
): Promise<boolean> {
  const { taskId, tool, args, conversationId, deadline } = ticket;
  const body = stringifyJson({ taskId, tool, args, conversationId, callbackUrl, deadline });
  const start = core.now();
  for (let tries = 0; ; tries++) {
    const deadlineMs = ACCEPT_MS - (core.now() - start);
    const { outcome } = await postSigned({ url, id: taskId, body, secret, now: core.now, deadlineMs });
    const pause = PAUSES_MS[tries];
    if (outcome === "accepted") return true;
    if (outcome === "refused" || pause === undefined || core.now() - start + pause >= ACCEPT_MS) return false;
    await core.wait(pause);
  }
}

/** The result, if it comes while the tool call waits. */
async function replyTo(
  ticket: Ticket,
  waitMs: number,
  signal: AbortSignal,
  core: Core,
): Promise<Result | null> {
  const end = (wasAnswered: boolean) =>
    core.afterResponse(quietly(core.live.endReply(ticket, wasAnswered), core));
  const gone = Promise.withResolvers<null>();
  const leave = () => gone.resolve(null);
  if (signal.aborted) leave();
  signal.addEventListener("abort", leave);
  try {
    const result = await Promise.race([core.live.awaitReply(ticket, waitMs), gone.promise]);
    // Whoever has gone was told nothing: then it is said like any other.
    end(result !== null && !signal.aborted);
    return result;
  } catch (error) {
    logFailure(core.log, "reply", error);
    end(false);
    return null;
  } finally {
    signal.removeEventListener("abort", leave);
  }
}

function processing({ taskId: requestId }: Ticket): ToolAnswer {
  return { ok: true, say: STARTED, result: { requestId, status: "processing" } };
}

function completed({ taskId: requestId }: Ticket, result: Result): ToolAnswer {
  const { success, output, error } = result;
  return {
    ok: success,
    say: resultText(result).slice(0, MAX_PUSH_CHARACTERS),
    result: {
      requestId,
      status: "completed",
      success,
      ...(output === undefined ? {} : { output }),
      ...(error === undefined ? {} : { error }),
    },
  };
}

async function quietly(work: Promise<unknown>, { log }: Core): Promise<void> {
  await work.catch((error: unknown) => logFailure(log, "task", error));
}
