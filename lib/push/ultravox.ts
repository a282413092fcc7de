/**
 * Ultravox: a data message to a call, which its agent takes for the user's words. It is said at the end of a turn, at
 * once, or when somebody speaks next. One that nobody has joined yet and one that is over are answered alike.
 * https://docs.ultravox.ai/apps/datamessages, https://docs.ultravox.ai/api-reference/calls/calls-send-data-message-post
 */
import { pushByHttp } from "./http.ts";
import type { Provider } from "./provider.ts";

const URGENCIES = { when_idle: "soon", interrupt: "immediate", silent: "later" } as const;

export const ultravox: Provider<"ULTRAVOX"> = {
  account: "ULTRAVOX",
  apiUrl: "https://api.ultravox.ai",
  manners: { when_idle: "when_idle", interrupt: "interrupt", silent: "silent" },
  proof: "accepted",
  push: ({ apiUrl, apiKey, call, manner, message: { text } }) =>
    pushByHttp({
      url: new URL(`/api/calls/${call}/send_data_message`, apiUrl),
      headers: { "x-api-key": apiKey },
      body: { type: "user_text_message", text, urgency: URGENCIES[manner] },
      proof: "accepted",
      isYes: ({ status }) => status === 204,
      // What is not over may not have begun, so it is tried again.
      isOver: ({ status }) => status === 404,
    }),
};
