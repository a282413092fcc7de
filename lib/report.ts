/**
 * What ElevenLabs reports when an agent conversation is over (its post-call webhooks). The transcript is appended to
 * the conversation it belongs to, each turn a message under an id of its own, so that a report that comes again
 * changes nothing. https://elevenlabs.io/docs, "Post-call webhooks"
 */
import * as v from "valibot";
import { MAX_MESSAGES, type Message } from "./conversation-store.ts";
import type { Core } from "./core.ts";
import { ConversationDeletedError } from "./errors.ts";
import { isJsonObject, type JsonObject, validate } from "./json.ts";
import { isAgentSessionId } from "./keys.ts";

/** The ids of reported turns in a history; no page may choose one. */
export const REPORT_ID = "elevenlabs:";

const TRANSCRIPT = "post_call_transcription";
/** Turns that one request carries to the storage. */
const BATCH_TURNS = 100;
/** Nobody says as much in one turn; a message has room for 64 KiB. */
const MAX_TURN_CHARACTERS = 16_000;

const seconds = v.optional(v.pipe(v.unknown(), v.transform(Number)), Number.NaN);

const transcriptSchema = v.object({
  event_timestamp: seconds,
  data: v.object({
    conversation_id: v.pipe(v.string(), v.check(isAgentSessionId, "must be an agent conversation's id")),
    transcript: v.array(
      v.object({ role: v.string(), message: v.nullish(v.string()), time_in_call_secs: seconds }),
    ),
    metadata: v.optional(v.object({ start_time_unix_secs: seconds })),
  }),
});

export type ReportOutcome =
  | { kind: "appended"; conversationId: string; messages: number }
  /** Not a transcript, or of no conversation that is known. */
  | { kind: "acknowledged"; reason: "other_type" | "unknown_conversation" }
  /** The conversation was deleted. */
  | { kind: "discarded"; conversationId: string };

/** Whether a body is a report, and not a result of a task. */
export function isReport(body: JsonObject): boolean {
  return typeof body.type === "string" && isJsonObject(body.data) && !Object.hasOwn(body, "requestId");
}

/** Takes a report in. Throws InvalidRequestError where a transcript has another shape, and StorageError. */
export async function takeReport(body: JsonObject, core: Core): Promise<ReportOutcome> {
  if (body.type !== TRANSCRIPT) return { kind: "acknowledged", reason: "other_type" };
  const { event_timestamp, data } = validate(transcriptSchema, body);
  const { conversation_id: agentSessionId, transcript, metadata } = data;
  const found = await core.agentConversations.find(agentSessionId);
  // The history is not written on the word of a page.
  if (!found?.isProven) return { kind: "acknowledged", reason: "unknown_conversation" };
  const { conversationId } = found;

  const start = [metadata?.start_time_unix_secs, event_timestamp].find(Number.isFinite) ?? 0;
  const messages = transcript.flatMap(({ role, message, time_in_call_secs: offset }, i): Message[] => {
    // A turn without words is one in which a tool was called; its result stands in the history already.
    if ((role !== "user" && role !== "agent") || !message?.trim()) return [];
    return [
      {
        id: `${REPORT_ID}${agentSessionId}:${i}`,
        role,
        content: message.slice(0, MAX_TURN_CHARACTERS),
        source: "elevenlabs",
        timestamp: timestampOf(start + (Number.isFinite(offset) ? offset : 0)),
      },
    ];
  });
  const told = messages.slice(-MAX_MESSAGES);
  try {
    for (let from = 0; from < told.length; from += BATCH_TURNS) {
      await core.conversations.append(conversationId, told.slice(from, from + BATCH_TURNS), true);
    }
  } catch (error) {
    if (error instanceof ConversationDeletedError) return { kind: "discarded", conversationId };
    throw error;
  }
  return { kind: "appended", conversationId, messages: told.length };
}

function timestampOf(unixSeconds: number): string {
  const date = new Date(unixSeconds * 1000);
  return Number.isNaN(date.getTime()) ? new Date(0).toISOString() : date.toISOString();
}
