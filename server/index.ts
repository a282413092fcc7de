/**
 * The client of a server: the HTTP API of a deployment, typed, for a backend. It needs `fetch` and WebCrypto and nothing
 * else, so it runs in Node from version 20 on, in Workers, Deno and Bun.
 */
import type { Surroundings } from "./exchange.ts";
import type { ServerClient } from "./methods.ts";
import { openServerClient, type ServerClientOptions } from "./server-client.ts";

export type { SessionChanges, SessionState, SessionStateInput } from "../lib/assistant-session.ts";
export type { JsonObject, JsonValue } from "../lib/json.ts";
export { ServerClientError, type ServerErrorCode } from "./exchange.ts";
export type {
  CallbackAnswer,
  CallbackRequest,
  CreateConversationRequest,
  MessageRequest,
  PageQuery,
  ProgressAnswer,
  ProgressRequest,
  RenewalRequest,
  ResultQuery,
  ServerClient,
  TokenRequest,
} from "./methods.ts";

export type { ServerClientOptions } from "./server-client.ts";

const here: Surroundings = {
  fetch: (...args) => fetch(...args),
  now: Date.now,
  wait: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  random: Math.random,
};

/**
 * A client of a deployment. A request is sent again where the edge asks for that (429 and 503 with `Retry-After`), and,
 * where a second time is harmless, when it was not answered.
 *
 * ```ts
 * const edge = createServerClient({ baseUrl, apiToken, webhookSecret });
 * const { conversationId, token } = await edge.createConversation();
 * const answer = await edge.callBack({ requestId, conversationId, output });
 * ```
 *
 * Throws TypeError where `baseUrl` or `webhookSecret` is malformed.
 */
export function createServerClient(options: ServerClientOptions): ServerClient {
  return openServerClient({ ...here, ...(options.fetch && { fetch: options.fetch }) }, options);
}
