/** What a client says on an ElevenLabs conversation socket, as the types of `@elevenlabs/types` name it. */
import type { Outgoing } from "@elevenlabs/types";

/** Audio has no `type`; everything else does. */
export type ClientFrame =
  | Outgoing.UserAudio
  | Outgoing.PongClientToOrchestratorEvent
  | Outgoing.UserMessageClientToOrchestratorEvent
  | Outgoing.UserActivityClientToOrchestratorEvent
  | Outgoing.UserFeedbackClientToOrchestratorEvent
  | Outgoing.ClientToolResultClientToOrchestratorEvent
  | Outgoing.McpToolApprovalResultClientToOrchestratorEvent
  | Outgoing.ContextualUpdateClientToOrchestratorEvent
  | Outgoing.ConversationInitiationClientToOrchestratorEvent
  | Outgoing.MultimodalMessageClientToOrchestratorEvent;

type TypedFrame = Extract<ClientFrame, { type: string }>;

/** What each frame must hold. The compiler keeps the table complete. */
const REQUIRED: { [T in TypedFrame["type"]]: (frame: Record<string, unknown>) => boolean } = {
  pong: (frame) => typeof frame.event_id === "number",
  user_message: (frame) => typeof (frame.text ?? frame.rich_content_id) === "string",
  user_activity: () => true,
  feedback: (frame) => typeof frame.event_id === "number" && "score" in frame,
  client_tool_result: (frame) => typeof frame.tool_call_id === "string" && "result" in frame,
  mcp_tool_approval_result: (frame) => typeof frame.tool_call_id === "string",
  contextual_update: (frame) => typeof frame.text === "string",
  conversation_initiation_client_data: () => true,
  multimodal_message: () => true,
};

/** Null where ElevenLabs would close the conversation with 1008. */
export function parseClientFrame(text: string): ClientFrame | null {
  try {
    const frame: unknown = JSON.parse(text);
    if (typeof frame !== "object" || frame === null) return null;
    if ("user_audio_chunk" in frame && !("type" in frame)) return frame as ClientFrame;
    const { type } = frame as { type?: unknown };
    if (typeof type !== "string" || !Object.hasOwn(REQUIRED, type)) return null;
    const isComplete = REQUIRED[type as TypedFrame["type"]];
    return isComplete(frame as Record<string, unknown>) ? (frame as ClientFrame) : null;
  } catch {
    return null;
  }
}

/** How much of a text is printed. */
const PRINTED_CHARACTERS = 600;

/** One line for people, or null for what only begins a conversation or keeps it going. */
export function describeFrame(frame: ClientFrame): string | null {
  if (!("type" in frame)) return null;
  switch (frame.type) {
    case "user_message":
      return `heard: ${oneLine(frame.text ?? `(rich content ${frame.rich_content_id})`)}`;
    case "contextual_update":
      return `was told silently${frame.context_id ? ` (${frame.context_id})` : ""}: ${oneLine(frame.text)}`;
    case "conversation_initiation_client_data":
    case "pong":
    case "user_activity":
      return null;
    default:
      return `received a ${frame.type} frame`;
  }
}

/** A text for people, without what would move the cursor of a terminal. */
export function oneLine(text: string): string {
  const line = text.replaceAll(/[\s\p{Cc}]+/gu, " ").trim();
  return line.length > PRINTED_CHARACTERS ? `${line.slice(0, PRINTED_CHARACTERS)}…` : line;
}
