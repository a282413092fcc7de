/** An agent conversation as the SDK's objects behave: what is sent when it is closed is lost without an error. */
export function testConversation(id: string | null = "conv_1") {
  const conversation = {
    open: true,
    /** What the agent was told, as `user: …` or `context: …`. */
    told: [] as string[],
    isOpen: () => conversation.open,
    getId: () => {
      if (id === null) throw new Error("No active conversation");
      return id;
    },
    sendUserMessage(text: string) {
      if (conversation.open) conversation.told.push(`user: ${text}`);
    },
    sendContextualUpdate(text: string) {
      if (conversation.open) conversation.told.push(`context: ${text}`);
    },
  };
  return conversation;
}
