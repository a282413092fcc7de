/** The client as a React hook. */
import { useEffect, useMemo, useRef, useState } from "react";
import type { PageSession } from "../lib/live/relay-protocol.ts";
import { type AgentConversation, knowsIfOpen } from "./agent-conversation.ts";
import {
  type AgentSession,
  type AgentSessionOptions,
  type AgentSessionStatus,
  openAgentSession,
} from "./agent-session.ts";
import { thisPage } from "./page.ts";

export type UseAgentSessionOptions = AgentSessionOptions & {
  /**
   * The agent conversation, as soon as there is one: it is attached, and left when the component goes. Best what
   * `useRawConversation()` returns; null ends it. Where it is left out, `attach` is for the component to call.
   */
  conversation?: AgentConversation | null | undefined;
  /** What `attach` takes beside the conversation; only looked at when it is attached. */
  session?: PageSession | undefined;
};

export type UseAgentSession = Pick<AgentSession, "callbacks" | "proxyUrl" | "attach"> & {
  status: AgentSessionStatus;
};

/**
 * `createAgentSession` for the time a component is mounted. Another `baseUrl` or `conversationId` begins anew;
 * the other options may change with every render. `callbacks`, `proxyUrl` and `attach` keep their identity.
 */
export function useAgentSession(options: UseAgentSessionOptions): UseAgentSession {
  const { baseUrl, conversationId, conversation } = options;
  const latest = useRef(options);
  const [status, setStatus] = useState<AgentSessionStatus>("idle");

  const { session, leave } = useMemo(
    () =>
      openAgentSession(thisPage, {
        baseUrl,
        conversationId,
        getToken: () => latest.current.getToken?.() ?? latest.current.token ?? "",
        onPush: (push) => latest.current.onPush?.(push),
        onProgress: (progress) => latest.current.onProgress?.(progress),
        onStatus(to) {
          setStatus(to);
          latest.current.onStatus?.(to);
        },
      }),
    [baseUrl, conversationId],
  );

  useEffect(() => {
    latest.current = options;
  });

  useEffect(() => {
    if (conversation === null) leave();
    if (!conversation) return;
    // What `useConversation` returns exists before it is connected, and is new with every render.
    if (!knowsIfOpen(conversation) && conversation.status !== "connected") return;
    void session.attach(conversation, latest.current.session);
  }, [session, leave, conversation]);

  // Left, not closed: strict mode mounts a component twice, and what was said must outlive that.
  useEffect(() => leave, [leave]);

  return { callbacks: session.callbacks, proxyUrl: session.proxyUrl, attach: session.attach, status };
}
