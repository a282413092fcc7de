/**
 * Vapi: a command to the control URL of a running call. The URL differs for each call, so it is registered with it, and
 * taken only at Vapi's own hosts with the call's id in its path. The key is the one that control URLs ask for where the
 * assistant's `monitorPlan.controlAuthenticationEnabled` says so; the account's private key goes nowhere.
 * https://docs.vapi.ai/calls/call-features
 */
import type { Vapi } from "@vapi-ai/server-sdk";
import { jsonOf, pushByHttp } from "./http.ts";
import type { Provider } from "./provider.ts";
import { checkAddress } from "./push-target.ts";

const HOSTS = ".vapi.ai";

type AddMessage = { type: "add-message" } & Vapi.ClientInboundMessageAddMessage;

export const vapi: Provider<"VAPI"> = {
  account: "VAPI",
  apiUrl: "https://api.vapi.ai",
  // What interrupts is said word for word, fence and all.
  manners: { when_idle: "when_idle", interrupt: "when_idle", silent: "silent" },
  proof: "accepted",
  controlUrlOf(text, callId, apiUrl) {
    const target = checkAddress(text, "https", []);
    const url = target.ok ? target.url : ownOrigin(text, apiUrl);
    if (url === null) return null;
    const isOfVapi = url.hostname.endsWith(HOSTS) && url.port === "";
    const isOfCall = url.pathname === `/${encodeURIComponent(callId)}/control` && url.search === "";
    return (isOfVapi || url.origin === apiUrl) && isOfCall ? url : null;
  },
  push: ({ apiKey, controlUrl, manner, message: { text } }) =>
    controlUrl === null
      ? Promise.resolve({ outcome: "refused" })
      : pushByHttp({
          url: controlUrl,
          headers: { authorization: `Bearer ${apiKey}` },
          body: {
            type: "add-message",
            message: { role: "user", content: text },
            triggerResponseEnabled: manner !== "silent",
          } satisfies AddMessage,
          proof: "accepted",
          // What it answers with is not documented; an error is an error wherever it stands.
          isYes: (answer) => answer.body !== null && !isError(jsonOf(answer)),
          isOver: ({ status }) => status === 404,
        }),
};

/** At the origin that the configuration names, which may be this machine. */
function ownOrigin(text: string, apiUrl: string): URL | null {
  const isThere = text.startsWith(`${apiUrl}/`) && URL.canParse(text) && !/[\s\\#]/.test(text);
  return isThere ? new URL(text) : null;
}

function isError(body: unknown): boolean {
  return typeof body === "object" && body !== null && ("error" in body || "statusCode" in body);
}
