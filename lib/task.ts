/**
 * A task: what a tool call of the agent asks for, and a runner works on until it calls back. Its id names its
 * conversation, and is the `requestId` of the callback.
 */
import * as v from "valibot";
import { InvalidRequestError } from "./errors.ts";
import { isoTimestamp, type JsonObject, jsonObject, validate } from "./json.ts";
import { isConversationId } from "./keys.ts";

/** How long a ticket stands, in seconds: by then the runner has called back, or never will. */
export const TASK_TTL_SECONDS = 24 * 3600;

/** What becomes of the work when everybody has gone. */
export const onHangupSchema = v.picklist(["continue", "cancel"]);
export type OnHangup = v.InferOutput<typeof onHangupSchema>;

const name = v.pipe(
  v.string(),
  v.nonEmpty("must not be empty"),
  v.maxLength(256, "must be at most 256 characters"),
);
const topic = v.pipe(
  v.string(),
  v.nonEmpty("must not be empty"),
  v.maxLength(128, "must be at most 128 characters"),
);

export const toolCallSchema = v.object({
  tool: v.optional(name),
  tool_name: v.optional(name),
  args: v.optional(jsonObject),
  tool_args: v.optional(jsonObject),
  /** The provider's id of the agent conversation, under the names that its own variable goes by. */
  conversation_id: v.optional(v.string()),
  system__conversation_id: v.optional(v.string()),
  /** Ours, for agents that know it. */
  conversationId: v.optional(v.pipe(v.string(), v.check(isConversationId, "must be a conversation's id"))),
  deliverBy: v.optional(isoTimestamp),
  topic: v.optional(topic),
  onHangup: v.optional(onHangupSchema, "continue"),
});

/** A tool call, before it is known whose it is: `agentSessionId` is the provider's id, `conversationId` ours. */
export type ToolCall = {
  tool: string;
  args: JsonObject;
  agentSessionId: string | undefined;
  conversationId: string | undefined;
  deliverBy: string | undefined;
  topic: string | undefined;
  onHangup: OnHangup;
};

/** Reads a tool call from a request body; `header` is the provider's id where a header carries it. Throws InvalidRequestError. */
export function parseToolCall(body: JsonObject, header: string | undefined): ToolCall {
  const call = validate(toolCallSchema, body);
  const tool = call.tool ?? call.tool_name;
  if (tool === undefined) {
    throw new InvalidRequestError("Nothing says which tool is called.", [
      { path: "tool", message: "is required" },
    ]);
  }
  const { conversationId, deliverBy, topic, onHangup } = call;
  return {
    tool,
    args: call.args ?? call.tool_args ?? {},
    agentSessionId: call.conversation_id ?? call.system__conversation_id ?? header,
    conversationId,
    deliverBy,
    topic,
    onHangup,
  };
}

/** The ticket of a task, as it stands in Redis until its time is over. Times are ISO 8601. */
export type Ticket = {
  version: 1;
  taskId: string;
  conversationId: string;
  tool: string;
  args: JsonObject;
  createdAt: string;
  /** By then its result must have come. */
  deadline: string;
  deliverBy?: string;
  topic?: string;
  onHangup: OnHangup;
  agentSessionId?: string;
};
