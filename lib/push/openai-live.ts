/**
 * OpenAI GPT-Live: a sideband attached to a session that runs. Commentary is what the model may tell the user, thinking is
 * what it only knows; it owns its turns, so nothing interrupts. The acknowledgement says that it stands in the session's
 * timeline, and promises neither words nor playback.
 * https://developers.openai.com/api/docs/guides/voice-server-controls
 */
import type {
  CommentaryAppendEvent,
  CommentaryAppendedEvent,
  ErrorEvent,
  ThinkingAppendEvent,
  ThinkingAppendedEvent,
} from "openai/resources/live/live";
import type { PushOutcome } from "./channel.ts";
import type { Provider } from "./provider.ts";
import { bySideband, type SidebandEvent, unanswered } from "./sideband.ts";

/** 500 tokens. A token has at least one byte, so this many bytes are never more. */
const MAX_BYTES = 500;

type Append = CommentaryAppendEvent | ThinkingAppendEvent;
type Appended = (CommentaryAppendedEvent | ThinkingAppendedEvent)["type"];

export const openaiLive: Provider<"OPENAI"> = {
  account: "OPENAI",
  apiUrl: "https://api.openai.com",
  manners: { when_idle: "when_idle", interrupt: "when_idle", silent: "silent" },
  proof: "in_context",
  maxBytes: MAX_BYTES,
  push: ({ apiUrl, apiKey, call, manner, message: { pushId, text } }) =>
    bySideband(new URL(`/v1/live/sessions/${call}/attach`, apiUrl), apiKey, async (sideband) => {
      const append: Append = {
        type: manner === "silent" ? "session.thinking.append" : "session.commentary.append",
        event_id: pushId,
        delegation_id: null,
        content: text,
      };
      const answer = await sideband.ask(append, (event) => outcomeIn(event, pushId));
      return "none" in answer ? unanswered(answer) : answer;
    }),
};

const APPENDED: readonly string[] = [
  "session.commentary.appended",
  "session.thinking.appended",
] satisfies Appended[];

function outcomeIn(event: SidebandEvent, eventId: string): PushOutcome | null {
  if (APPENDED.includes(event.type) && event.client_event_id === eventId)
    return { outcome: "delivered", proof: "in_context" };
  if (event.type === "error") {
    const { client_event_id, error } = event as Partial<ErrorEvent>;
    return client_event_id === eventId || error?.client_event_id === eventId ? { outcome: "refused" } : null;
  }
  // It may have been said before the end.
  return event.type === "session.closed" ? { outcome: "unconfirmed" } : null;
}
