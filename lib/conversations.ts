/** What instances do to conversations: in Redis, or else by the conversation's object, which keeps it for Redis. */
import type { ConversationRecord, Message } from "./conversation-store.ts";
import type { Core } from "./core.ts";
import type { SessionRecord } from "./session-store.ts";

/** Stores a new conversation. Throws StorageError. */
export function createConversation(
  record: ConversationRecord,
  { elseAsk, conversations, live }: Core,
): Promise<void> {
  return elseAsk(
    () => conversations.create(record),
    () => live.create(record),
  );
}

/** Adds a message. Throws StorageError, ConversationDeletedError, RecordTooLargeError. */
export function appendMessage(
  conversationId: string,
  message: Message,
  { elseAsk, conversations, live }: Core,
): Promise<void> {
  return elseAsk(
    () => conversations.append(conversationId, [message]),
    () => live.append(conversationId, message),
  );
}

/** The live session, or null. Throws StorageError. */
export function findSession(
  conversationId: string,
  { elseAsk, sessions, live }: Core,
): Promise<SessionRecord | null> {
  return elseAsk(
    () => sessions.get(conversationId),
    () => live.session(conversationId),
  );
}
