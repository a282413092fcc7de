/**
 * The `socket` channel: dials the registered URL itself and writes an ElevenLabs client frame. For agents
 * whose URL accepts pushes: self-hosted and bridged agents, other providers. Never for ElevenLabs' own
 * conversation URLs, because dialling one of those opens a new conversation.
 */
import type {
  ContextualUpdateClientToOrchestratorEvent,
  UserMessageClientToOrchestratorEvent,
} from "@elevenlabs/types";
import type { After } from "../patience.ts";
import { isElsewhere } from "../session-store.ts";
import type { Channel, PushableSession } from "./channel.ts";
import { dialAndSend } from "./dial.ts";
import type { PushMessage } from "./message.ts";
import { type AllowedHosts, checkPushTarget, isElevenLabsConversationUrl } from "./push-target.ts";

type Frame = UserMessageClientToOrchestratorEvent | ContextualUpdateClientToOrchestratorEvent;

/** `apiUrl` is the origin of ElevenLabs' API. */
export function createSocketChannel(allowedHosts: AllowedHosts, apiUrl: string, by?: After): Channel {
  /** Where each record that was looked at is dialled, for as long as somebody holds it. */
  const targets = new WeakMap<PushableSession, { readonly url: URL } | null>();

  /** Checked again for every record that is read: the allow-list may have changed since the registration. */
  function targetOf(session: PushableSession): { readonly url: URL } | null {
    const known = targets.get(session);
    if (known !== undefined) return known;
    const { wsUrl } = session;
    // Whoever else hosts an agent is told by a channel of its own; its URL may begin a conversation, as ElevenLabs' does.
    if (isElsewhere(session)) return null;
    const checked = wsUrl === undefined ? null : checkPushTarget(wsUrl, allowedHosts);
    const target = checked?.ok && !isElevenLabsConversationUrl(checked, apiUrl) ? checked : null;
    targets.set(session, target);
    return target;
  }
  return {
    name: "socket",
    accepts: (session) => targetOf(session) !== null,
    async push(session, message) {
      const target = targetOf(session);
      if (target === null) return { outcome: "refused" };
      return dialAndSend({ url: target.url, frame: JSON.stringify(frameOf(message)) }, by);
    },
  };
}

export function frameOf({ delivery, text, contextId }: PushMessage): Frame {
  return delivery === "silent"
    ? { type: "contextual_update", text, context_id: contextId }
    : { type: "user_message", text };
}
