/**
 * Telnyx: a message added to the AI assistant of a call leg. What comes again under the same `command_id` is ignored for
 * the same call, so what was not answered in time is sent again as it was, as Telnyx advises.
 * https://developers.telnyx.com, "Add messages to an AI assistant", "Retrying commands"
 */
import type { ActionAddAIAssistantMessagesParams } from "telnyx/resources/calls/actions";
import { type HttpAnswer, jsonOf, pushByHttp } from "./http.ts";
import type { Provider } from "./provider.ts";

/** Three of them are answered while a sender of a result still waits. */
const DEADLINE_MS = 2_000;
/** The codes of a call that is over, of one that there is not, and of one that nobody has answered. */
const OVER = "90018";

export const telnyx: Provider<"TELNYX"> = {
  account: "TELNYX",
  apiUrl: "https://api.telnyx.com",
  // A response that is triggered begins at once, whoever speaks.
  manners: { when_idle: "interrupt", interrupt: "interrupt", silent: "silent" },
  proof: "accepted",
  dedupes: true,
  push: ({ apiUrl, apiKey, call, manner, message: { pushId, text } }) =>
    pushByHttp({
      url: new URL(`/v2/calls/${call}/actions/ai_assistant_add_messages`, apiUrl),
      headers: { authorization: `Bearer ${apiKey}` },
      body: {
        command_id: pushId,
        messages: [{ role: "user", content: text }],
        trigger_response: manner !== "silent",
      } satisfies ActionAddAIAssistantMessagesParams,
      proof: "accepted",
      isYes: (answer) =>
        (jsonOf(answer) as { data?: { result?: unknown } } | undefined)?.data?.result === "ok",
      isOver: (answer) => codesOf(answer).includes(OVER),
      deadlineMs: DEADLINE_MS,
    }),
};

function codesOf(answer: HttpAnswer): unknown[] {
  const { errors } = (jsonOf(answer) ?? {}) as { errors?: unknown };
  return Array.isArray(errors) ? errors.map((error: { code?: unknown } | null) => error?.code) : [];
}
