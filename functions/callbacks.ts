/** `/callback` and `…/:id/callback`: a task has a result, or ElevenLabs reports on a conversation that is over. */
import { InvalidRequestError } from "../lib/errors.ts";
import type { JsonObject } from "../lib/json.ts";
import { conversationIdOf, isTaskId } from "../lib/keys.ts";
import { type CallbackAnswer, outcomeOf } from "../lib/live/delivery.ts";
import { isReport, takeReport } from "../lib/report.ts";
import { isProgress, parseCallback, parseProgress } from "../lib/result.ts";
import type { KeptCallbackAnswer, NotSaidStatus, ReportAnswer, SettledCallbackAnswer } from "./answers.ts";
import { webhookForm } from "./auth.ts";
import { readEvent, readJsonObject, requireShortBody } from "./body.ts";
import { type AppContext, traceOf } from "./context.ts";
import { ProblemError } from "./problem.ts";
import { limitConversation } from "./rate-limit.ts";

/** Both callback routes; the one without a conversation in its path wants it in the body. */
export async function handleCallback(c: AppContext): Promise<Response> {
  const id = c.req.param("id");
  const path = id === undefined ? undefined : conversationIdOf(id);
  const form = webhookForm(c);
  if (form === "elevenlabs") {
    const report = await readEvent(c);
    if (report === null || isReport(report)) return handleReport(c, report);
    requireShortBody(c);
  }
  const body = await readJsonObject(c);
  if (form !== "shared_secret") requireSignedConversation(body);
  const { live } = c.get("core");
  if (isProgress(body)) {
    const told = parseProgress(body, path);
    await limitConversation(c, "progress", told.conversationId);
    return respond(c, await live.progress(told));
  }
  const callback = parseCallback(body, path);
  await limitConversation(c, "callback", callback.conversationId);
  const { conversationId, result } = callback;
  const { requestId: callbackRequestId, delivery } = result;
  const attributes = { conversationId, callbackRequestId, delivery };
  return traceOf(c)("callback", attributes, async (note) => {
    const answer = await live.deliver(callback, c.get("requestId"));
    note(outcomeOf(answer));
    return respond(c, answer);
  });
}

/** A signature says nothing of the path, so with one the body names its conversation, itself or by its task. */
function requireSignedConversation(body: JsonObject): void {
  if (Object.hasOwn(body, "conversationId")) return;
  if (typeof body.requestId === "string" && isTaskId(body.requestId)) return;
  throw new InvalidRequestError(
    "The signature does not cover the path, so the body must name its conversation.",
    [{ path: "conversationId", message: "is required where the body is signed" }],
  );
}

/** `report` is null where it was too long to be kept, as audio is. */
async function handleReport(c: AppContext, report: JsonObject | null): Promise<Response> {
  const { log } = c.get("core");
  const type = typeof report?.type === "string" && /^\w{1,64}$/.test(report.type) ? report.type : null;
  const outcome =
    report === null
      ? ({ kind: "acknowledged", reason: "too_long" } as const)
      : await takeReport(report, c.get("core"));
  const { kind, ...fields } = outcome;
  log.info(kind === "appended" ? "report.appended" : "report.acknowledged", { type, ...fields });
  return c.json<ReportAnswer>({ received: true, status: kind });
}

function respond(c: AppContext, answer: CallbackAnswer | { kind: "taken" | "ignored" }): Response {
  switch (answer.kind) {
    case "taken":
      return kept(c, { received: true, delivered: false, status: "progress" });
    case "ignored":
      return settled(c, { received: true, delivered: false, status: "ignored" });
    case "unknown_task":
      throw new InvalidRequestError("There is no task of this id, so nothing says whose the callback is.", [
        { path: "conversationId", message: "is required" },
      ]);
    case "delivered": {
      const { channel, proof, manner } = answer;
      return settled(c, { received: true, delivered: true, status: "delivered", channel, proof, manner });
    }
    case "duplicate": {
      const { delivered, channel, proof, manner } = answer;
      return settled(c, { received: true, delivered, status: "duplicate", channel, proof, manner });
    }
    case "queued":
      return kept(c, { received: true, delivered: false, status: "queued", reason: answer.reason });
    case "settled":
      return settled(c, { received: true, delivered: false, status: answer.status as NotSaidStatus });
    case "discarded":
      return settled(c, { received: true, delivered: false, status: "discarded" });
    case "reused":
      throw new ProblemError("request_id_reused", "This requestId was used before, for another result.");
  }
}

const settled = (c: AppContext, answer: SettledCallbackAnswer) => c.json(answer);
const kept = (c: AppContext, answer: KeptCallbackAnswer) => c.json(answer, 202);
