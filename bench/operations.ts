/** What is measured: three requests of an ordinary size. */
import type { Request } from "./load.ts";

export type Operation = {
  name: string;
  /** How many are measured in a round; enough for the hundredths of a second in which the kernel counts. */
  requests: number;
  /** How many are made before the first round, for the compiler's sake. */
  warmUp: number;
  request(conversationId: string, agentUrl: string): Request;
};

let callbacks = 0;
const apiOf = (conversationId: string) => `/agent-conversations/api/${conversationId}`;

/** The later ones need the session that the first one registers. */
export const OPERATIONS: readonly Operation[] = [
  {
    name: "register",
    requests: 600,
    warmUp: 3_000,
    request: (conversationId, agentUrl) => ({
      method: "POST",
      path: `${apiOf(conversationId)}/session`,
      json: {
        sessionUrl: agentUrl,
        sessionPayload: { signedUrl: agentUrl, agent: "support", language: "en", userId: "user_42" },
        transport: "websocket",
        agentSessionId: `conv_${conversationId}`,
      },
    }),
  },
  {
    name: "session read",
    requests: 1_200,
    warmUp: 2_000,
    request: (conversationId) => ({ method: "GET", path: `${apiOf(conversationId)}/session` }),
  },
  {
    name: "callback, delivered",
    requests: 400,
    warmUp: 1_000,
    request: (conversationId) => ({
      method: "POST",
      path: `${apiOf(conversationId)}/callback`,
      json: {
        requestId: `task_${callbacks++}`,
        toolName: "search_flights",
        output: {
          found: 3,
          cheapest: { carrier: "KL", price: "184.20 EUR", departs: "2026-12-01T09:40:00Z" },
        },
      },
    }),
  },
];
