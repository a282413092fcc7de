/**
 * The result of a task: what a callback brings, and what every part of the product calls by this one name. It
 * waits, is said, and is settled in its conversation's object (`live/`).
 */
import * as v from "valibot";
import { InvalidRequestError } from "./errors.ts";
import { isoTimestamp, type JsonObject, jsonObject, jsonValue, stringifyJson, validate } from "./json.ts";
import { conversationOfTask, isConversationId, isRequestId } from "./keys.ts";

/**
 * When a result is said: `when_idle`, when nobody is speaking; `interrupt`, at once; `silent`, at once and
 * without the agent speaking.
 */
export const deliverySchema = v.picklist(["when_idle", "interrupt", "silent"]);
export type Delivery = v.InferOutput<typeof deliverySchema>;

const MAX_PROGRESS_CHARACTERS = 1_000;

const resultFields = {
  requestId: v.pipe(
    v.string(),
    v.check(isRequestId, "must be 1 to 128 letters, digits, dots, dashes, underscores or colons"),
  ),
  success: v.optional(v.boolean(), true),
  output: v.optional(jsonValue),
  error: v.optional(jsonValue),
  toolName: v.optional(v.pipe(v.string(), v.maxLength(256, "must be at most 256 characters"))),
  /** Not said after this moment. */
  deliverBy: v.optional(isoTimestamp),
  /** A newer result of the same topic takes the place of one that still waits. */
  topic: v.optional(
    v.pipe(v.string(), v.nonEmpty("must not be empty"), v.maxLength(128, "must be at most 128 characters")),
  ),
  metadata: v.optional(jsonObject),
};

export const callbackSchema = v.object({
  ...resultFields,
  conversationId: v.optional(
    v.pipe(
      v.string(),
      v.check(isConversationId, "must be 1 to 128 letters, digits, dots, dashes or underscores"),
    ),
  ),
  delivery: v.optional(deliverySchema),
  /** The earlier name of `delivery`: to speak, or only to know. */
  mode: v.optional(v.picklist(["speak", "context"])),
});

export const progressSchema = v.object({
  requestId: resultFields.requestId,
  conversationId: callbackSchema.entries.conversationId,
  delivery: v.optional(deliverySchema, "silent"),
  progress: v.object({
    /** Which of several is newer: a higher one. */
    seq: v.pipe(
      v.number(),
      v.safeInteger("must be a whole number"),
      v.minValue(0, "must be a whole number that is not negative"),
    ),
    text: v.pipe(
      v.string(),
      v.nonEmpty("must not be empty"),
      v.maxLength(MAX_PROGRESS_CHARACTERS, `must be at most ${MAX_PROGRESS_CHARACTERS} characters`),
    ),
  }),
});

/** How far a task has come; the result is still to come. */
export type Progress = { requestId: string; seq: number; text: string; delivery: Delivery };

const resultSchema = v.object({ ...resultFields, delivery: deliverySchema });
export type Result = v.InferOutput<typeof resultSchema>;

/** Whose a callback is; `namedByTask`: nothing but the id of a task says so. */
type Owner = { conversationId: string; namedByTask: boolean };
export type Callback = Owner & { result: Result };
export type ProgressCallback = Owner & { progress: Progress };

/** Whether a callback tells the progress of a task, not its result. */
export function isProgress(body: JsonObject): boolean {
  return Object.hasOwn(body, "progress");
}

/** Reads the progress of a task from a request body. Throws as `parseCallback`. */
export function parseProgress(body: JsonObject, pathConversationId?: string): ProgressCallback {
  const { progress, requestId, delivery, conversationId } = validate(progressSchema, body);
  const owner = ownerOf({ requestId, conversationId }, pathConversationId);
  return { ...owner, progress: { requestId, ...progress, delivery } };
}

/**
 * Reads a callback from a request body. `pathConversationId` is the one of the path, where it has one.
 * Throws InvalidRequestError, also where nothing says which conversation the result belongs to.
 */
export function parseCallback(body: JsonObject, pathConversationId?: string): Callback {
  const { conversationId, mode, delivery, ...fields } = validate(callbackSchema, body);
  const owner = ownerOf({ requestId: fields.requestId, conversationId }, pathConversationId);
  const said = delivery ?? (mode === "context" ? "silent" : "when_idle");
  return { ...owner, result: { ...fields, delivery: said } };
}

/** Which conversation a callback belongs to. Throws InvalidRequestError. */
function ownerOf(
  { requestId, conversationId }: { requestId: string; conversationId: string | undefined },
  pathConversationId: string | undefined,
): Owner {
  if (
    pathConversationId !== undefined &&
    conversationId !== undefined &&
    conversationId !== pathConversationId
  ) {
    throw new InvalidRequestError("The body names another conversation than the path.", [
      { path: "conversationId", message: "must be the conversation of the path" },
    ]);
  }
  const named = pathConversationId ?? conversationId;
  const owner = named ?? conversationOfTask(requestId);
  if (owner === null) {
    throw new InvalidRequestError("Nothing says which conversation the result belongs to.", [
      { path: "conversationId", message: "is required" },
    ]);
  }
  return { conversationId: owner, namedByTask: named === undefined };
}

/** The whole text of a result: the output, or the error where it failed; JSON where it is not a string. */
export function resultText(result: Pick<Result, "success" | "output" | "error">): string {
  const content = result.success ? result.output : (result.error ?? result.output);
  if (content === undefined) return result.success ? "(no output)" : "(no error message)";
  return typeof content === "string" ? content : stringifyJson(content);
}
