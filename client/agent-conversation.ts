/**
 * The agent conversation as the SDK hands it to the page, by structure: an object of `@elevenlabs/client`, the
 * raw one of `@elevenlabs/react`, or what its `useConversation` returns.
 */
export type AgentConversation = {
  sendUserMessage(text: string): unknown;
  sendContextualUpdate(text: string): unknown;
  getId?(): string;
  // `status` is protected in the SDK's own classes: a type that names it would not take them.
} & ({ isOpen(): boolean } | { status: string });

/** Whether the object itself knows if it is open, now. */
export function knowsIfOpen(
  conversation: AgentConversation,
): conversation is AgentConversation & { isOpen(): boolean } {
  return "isOpen" in conversation;
}

/**
 * Whether what is sent now can reach the agent: the SDK does not throw where it cannot. `lastStatus` is what
 * the SDK reported last: the `status` of a React render is a picture of that moment and does not change.
 */
export function isOpen(conversation: AgentConversation, lastStatus: string | undefined): boolean {
  try {
    if (knowsIfOpen(conversation)) return conversation.isOpen();
  } catch {
    return false;
  }
  return (lastStatus ?? conversation.status) === "connected";
}

/** The provider's id of the agent conversation, where the SDK knows it. */
export function idOf(conversation: AgentConversation): string | undefined {
  try {
    return conversation.getId?.() || undefined;
  } catch {
    return undefined;
  }
}
