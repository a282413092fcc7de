/**
 * Retell: context added to a live call. With `trigger_response` the agent is interrupted, or nudged where it is silent;
 * while the user speaks nothing is triggered, and the context is in the next response all the same.
 * https://docs.retellai.com/api-references/update-live-call
 */
import type { CallUpdateLiveParams, CallUpdateLiveResponse } from "retell-sdk/resources/call";
import { jsonOf, pushByHttp } from "./http.ts";
import type { Provider } from "./provider.ts";

export const retell: Provider<"RETELL"> = {
  account: "RETELL",
  apiUrl: "https://api.retellai.com",
  manners: { when_idle: "interrupt", interrupt: "interrupt", silent: "silent" },
  proof: "accepted",
  push: ({ apiUrl, apiKey, call, manner, message: { text } }) =>
    pushByHttp({
      method: "PATCH",
      url: new URL(`/v2/update-live-call/${call}`, apiUrl),
      headers: { authorization: `Bearer ${apiKey}` },
      body: {
        call_control: {
          additional_context: text,
          ...(manner === "silent" ? {} : { trigger_response: true }),
        },
      } satisfies CallUpdateLiveParams,
      proof: "accepted",
      isYes: (answer) => (jsonOf(answer) as Partial<CallUpdateLiveResponse> | undefined)?.success === true,
      // Which status a call that is over has is not documented; there is no such call is what 404 means anywhere.
      isOver: ({ status }) => status === 404,
    }),
};
