/**
 * The `socket` channel: dials the registered URL itself and writes an ElevenLabs client frame. For agents
 * whose URL accepts pushes: self-hosted and bridged agents, other providers. Never for ElevenLabs' own
 * conversation URLs, because dialling one of those opens a new conversation.
 */
import type {
  ContextualUpdateClientToOrchestratorEvent,
  UserMessageClientToOrchestratorEvent,
} from "@elevenlabs/types";
import type { Channel } from "./channel.ts";
import { dialAndSend } from "./dial.ts";
import type { PushMessage } from "./message.ts";
import { type AllowedHosts, checkPushTarget, isElevenLabsConversationUrl } from "./push-target.ts";

type Frame = UserMessageClientToOrchestratorEvent | ContextualUpdateClientToOrchestratorEvent;

/** `apiUrl` is the origin of ElevenLabs' API. */
export function createSocketChannel(allowedHosts: AllowedHosts, apiUrl: string): Channel {
  /** Checked again before every dialling: the allow-list may have changed since the registration. */
  function targetOf(wsUrl: string | undefined): URL | null {
    const target = wsUrl === undefined ? null : checkPushTarget(wsUrl, allowedHosts);
    return target?.ok && !isElevenLabsConversationUrl(target.url, apiUrl) ? target.url : null;
  }
  return {
    name: "socket",
    accepts: (session) => targetOf(session.wsUrl) !== null,
    async push(session, message) {
      const url = targetOf(session.wsUrl);
      if (url === null) return { outcome: "refused" };
      return dialAndSend({ url, frame: JSON.stringify(frameOf(message)) });
    },
  };
}

export function frameOf({ delivery, text, contextId }: PushMessage): Frame {
  return delivery === "silent"
    ? { type: "contextual_update", text, context_id: contextId }
    : { type: "user_message", text };
}
