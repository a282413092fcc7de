/**
 * The `monitor` channel: ElevenLabs' monitoring socket of a running conversation (Enterprise). It can add
 * context, but cannot make the agent speak; so it takes silent results only, unless it is told to take all.
 *
 * It reaches every conversation of the account. So which one it is must be proven (`provenAgentSessionId`): what
 * a page says, in the body or in a URL whose signature nobody can check, opens no monitor.
 *
 * Its envelope differs from the conversation socket's, and a frame of the other shape is ignored without an error.
 * No acknowledgement is documented; the closing handshake shows that the frame was read.
 */
import { isAgentSessionId } from "../keys.ts";
import { isElsewhere } from "../session-store.ts";
import type { Channel, PushableSession } from "./channel.ts";
import { dialAndSend } from "./dial.ts";
import { type AllowedHosts, checkPushTarget, mayHoldElevenLabsKey } from "./push-target.ts";

export type MonitorOptions = {
  apiKey: string;
  /** The origin of the API, beside its known hosts. */
  apiUrl: string;
  allowedHosts: AllowedHosts;
  /** Whether it also takes what ought to be spoken: better as context than not at all, for whoever says so. */
  takesAll: boolean;
};

export function createMonitorChannel({ apiKey, apiUrl, allowedHosts, takesAll }: MonitorOptions): Channel {
  function monitorUrl(session: PushableSession): URL | null {
    const { wsUrl, agentSessionId, provenAgentSessionId: id = "" } = session;
    if (isElsewhere(session)) return null;
    const target = wsUrl === undefined ? null : checkPushTarget(wsUrl, allowedHosts);
    if (!target?.ok || !mayHoldElevenLabsKey(target, apiUrl)) return null;
    // A page that says otherwise, having started anew perhaps, is believed so far.
    const said = [agentSessionId, target.url.searchParams.get("conversation_id")];
    if (!isAgentSessionId(id) || said.some((other) => other != null && other !== id)) return null;
    return new URL(`${target.url.protocol}//${target.url.host}/v1/convai/conversations/${id}/monitor`);
  }
  return {
    name: "monitor",
    accepts: (session, delivery) => (takesAll || delivery === "silent") && monitorUrl(session) !== null,
    async push(session, message) {
      const url = monitorUrl(session);
      if (url === null) return { outcome: "refused" };
      const outcome = await dialAndSend({
        url,
        headers: { "xi-api-key": apiKey },
        frame: JSON.stringify({
          command_type: "contextual_update",
          parameters: { contextual_update: message.text },
        }),
        isReady: isConnected,
      });
      // It has nothing else.
      const isAsAsked = outcome.outcome !== "delivered" || message.delivery === "silent";
      return isAsAsked ? outcome : { ...outcome, manner: "silent" };
    },
  };
}

function isConnected(frame: unknown): boolean {
  if (typeof frame !== "string") return false;
  try {
    return (JSON.parse(frame) as { type?: unknown } | null)?.type === "connected";
  } catch {
    return false;
  }
}
