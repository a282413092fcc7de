/** What an example page and its backend say to each other; types only. */

export type PageName = "relay" | "proxy";

/** `POST /backend/pass`: for this conversation, or for a new one. */
export type PassRequest = { conversationId?: string | undefined };

/** What a page needs to come to a conversation. */
export type Pass = {
  conversationId: string;
  token: string;
  /** ISO 8601. */
  tokenExpiresAt: string;
  edgeUrl: string;
  agentId: string;
};

/** `POST /backend/task`: lets a task finish, now or after a while; what comes of it is the backend's invention. */
export type TaskRequest = {
  conversationId: string;
  afterMs?: number;
  delivery?: "when_idle" | "interrupt" | "silent";
};

/** What the edge answered to the task's runner. */
export type TaskAnswer = Record<string, unknown>;
