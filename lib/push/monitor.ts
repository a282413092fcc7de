/**
 * The `monitor` channel: ElevenLabs' monitoring socket of a running conversation (Enterprise). It can add
 * context, but cannot make the agent speak; so it takes silent results only, unless it is told to take all. Its envelope differs from the conversation socket's, and a frame
 * of the other shape is ignored without an error. No acknowledgement is documented; the closing handshake
 * shows that the frame was read.
 */
import type { Channel, PushableSession } from "./channel.ts";
import { dialAndSend } from "./dial.ts";
import { type AllowedHosts, checkPushTarget, isElevenLabsConversationUrl } from "./push-target.ts";

const CONVERSATION_ID = /^[A-Za-z0-9_-]{1,128}$/;

export type MonitorOptions = {
  apiKey: string;
  allowedHosts: AllowedHosts;
  /** Whether it also takes what ought to be spoken: better as context than not at all, for whoever says so. */
  takesAll: boolean;
};

export function createMonitorChannel({ apiKey, allowedHosts, takesAll }: MonitorOptions): Channel {
  function monitorUrl({ wsUrl, agentSessionId }: PushableSession): URL | null {
    const target = wsUrl === undefined ? null : checkPushTarget(wsUrl, allowedHosts);
    if (!target?.ok || !isElevenLabsConversationUrl(target.url)) return null;
    // The page says which conversation is its own; the URL that ElevenLabs signed knows better.
    const signedId = target.url.searchParams.get("conversation_id");
    const id = signedId ?? agentSessionId ?? "";
    if (!CONVERSATION_ID.test(id) || (agentSessionId !== undefined && agentSessionId !== id)) return null;
    return new URL(`wss://${target.url.host}/v1/convai/conversations/${id}/monitor`);
  }
  return {
    name: "monitor",
    accepts: (session, delivery) => (takesAll || delivery === "silent") && monitorUrl(session) !== null,
    async push(session, message) {
      const url = monitorUrl(session);
      if (url === null) return { outcome: "refused" };
      return dialAndSend({
        url,
        headers: { "xi-api-key": apiKey },
        frame: JSON.stringify({
          command_type: "contextual_update",
          parameters: { contextual_update: message.text },
        }),
        isReady: isConnected,
      });
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
