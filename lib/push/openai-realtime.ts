/**
 * OpenAI Realtime: a sideband to a call that runs. The text is put into the conversation as one item, under an id of our
 * own, and acknowledged; then a response is asked for. While another response is made that is refused, and asked for
 * again when it is done: the item stays, and is never put in twice.
 * https://developers.openai.com/api/docs/guides/realtime-server-controls
 */
import type {
  ConversationItemCreateEvent,
  OutputAudioBufferClearEvent,
  RealtimeErrorEvent,
  ResponseCancelEvent,
  ResponseCreateEvent,
} from "openai/resources/realtime/realtime";
import type { PushOutcome } from "./channel.ts";
import type { Provider } from "./provider.ts";
import { bySideband, type Sideband, type SidebandEvent, unanswered } from "./sideband.ts";

/** How long the response before ours may take, in ms. */
const RESPONSE_DONE_WITHIN_MS = 8_000;
const IS_ACTIVE = "conversation_already_has_active_response";

export const openaiRealtime: Provider<"OPENAI"> = {
  account: "OPENAI",
  apiUrl: "https://api.openai.com",
  manners: { when_idle: "when_idle", interrupt: "interrupt", silent: "silent" },
  proof: "speaking",
  push: ({ apiUrl, apiKey, call, manner, message: { pushId, text } }) =>
    bySideband(new URL(`/v1/realtime?call_id=${call}`, apiUrl), apiKey, async (sideband) => {
      // An id has at most 32 characters.
      const itemId = pushId.replaceAll("-", "");
      const create: ConversationItemCreateEvent = {
        type: "conversation.item.create",
        event_id: pushId,
        item: { id: itemId, type: "message", role: "user", content: [{ type: "input_text", text }] },
      };
      const added = await sideband.ask(create, (event) => itemIn(event, itemId, pushId));
      if ("none" in added) return unanswered(added);
      if (added.is === "refused") return { outcome: "refused" };
      if (manner === "silent") return IN_CONTEXT;
      const speak = async () => {
        if (manner === "interrupt") await silence(sideband, `${itemId}-c`);
        return respond(sideband, `${itemId}-r`);
      };
      // A connection that breaks takes nothing back.
      const isAnswered = await speak().catch(() => false);
      // It knows, and speaks of it when it speaks next.
      return isAnswered ? { outcome: "delivered", proof: "speaking" } : { ...IN_CONTEXT, manner: "silent" };
    }),
};

const IN_CONTEXT = { outcome: "delivered", proof: "in_context" } as const satisfies PushOutcome;

function itemIn(event: SidebandEvent, itemId: string, eventId: string): { is: "there" | "refused" } | null {
  const isAck = event.type === "conversation.item.added" || event.type === "conversation.item.done";
  if (isAck && (event.item as { id?: unknown } | undefined)?.id === itemId) return { is: "there" };
  return errorOf(event, eventId) === null ? null : { is: "refused" };
}

/** Ends the response that is being made, if any, and what of it is still to be heard. */
async function silence(sideband: Sideband, eventId: string): Promise<void> {
  const cancel: ResponseCancelEvent = { type: "response.cancel", event_id: eventId };
  await sideband.ask(cancel, (event) =>
    event.type === "response.done" || errorOf(event, eventId) !== null ? event : null,
  );
  // By a transport that has no such buffer it is an error, which nobody waits for.
  sideband.send({ type: "output_audio_buffer.clear" } satisfies OutputAudioBufferClearEvent);
}

/** Asks for a response, and once more behind the one that is being made. Returns whether it has begun. */
async function respond(sideband: Sideband, eventId: string): Promise<boolean> {
  for (const id of [eventId, `${eventId}2`]) {
    const create: ResponseCreateEvent = { type: "response.create", event_id: id };
    const answer = await sideband.ask(create, (event) => {
      if (event.type === "response.created") return { code: null };
      const error = errorOf(event, id);
      return error === null ? null : { code: error.code ?? "" };
    });
    if ("none" in answer) return false;
    if (answer.code === null) return true;
    if (answer.code !== IS_ACTIVE) return false;
    const isDone = (event: SidebandEvent) => (event.type === "response.done" ? event : null);
    if ("none" in (await sideband.ask(null, isDone, RESPONSE_DONE_WITHIN_MS))) return false;
  }
  return false;
}

/** The error that a command has caused. */
function errorOf(event: SidebandEvent, eventId: string): RealtimeErrorEvent["error"] | null {
  if (event.type !== "error") return null;
  const { error } = event as unknown as RealtimeErrorEvent;
  return error?.event_id === eventId ? error : null;
}
