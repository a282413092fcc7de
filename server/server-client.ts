/** The client of a server, with its surroundings handed in. */
import { isSigningKey, signStandardWebhook } from "../lib/auth/webhook-signature.ts";
import { createExchange, type Surroundings } from "./exchange.ts";
import { createMethods, type ServerClient } from "./methods.ts";

export type ServerClientOptions = {
  /** The origin of the deployment, as in `https://agent.example.com`. */
  baseUrl: string;
  /** For everything but callbacks: one of `API_TOKEN`. */
  apiToken?: string | undefined;
  /**
   * For callbacks: one of `WEBHOOK_SECRET`. One that begins with `whsec_` signs them as Standard Webhooks says, and is
   * never sent; any other is sent along.
   */
  webhookSecret?: string | undefined;
  /** How long one try may take, in ms. 15,000: the edge answers a callback within 8 s. */
  timeoutMs?: number | undefined;
  /** How often a request is tried at most. 3 */
  attempts?: number | undefined;
  /**
   * How long may be waited between the tries of one request, in ms, all together. 10,000. Where the edge asks for more,
   * the error says when to come again (`retryAfterSeconds`).
   */
  maxWaitMs?: number | undefined;
  /** In place of the global one. */
  fetch?: typeof fetch | undefined;
};

/** As `createServerClient`. */
export function openServerClient(surroundings: Surroundings, options: ServerClientOptions): ServerClient {
  const { baseUrl, apiToken, webhookSecret, timeoutMs = 15_000, attempts = 3, maxWaitMs = 10_000 } = options;
  const isKey = webhookSecret?.startsWith("whsec_") === true;
  if (isKey && !isSigningKey(webhookSecret)) {
    throw new TypeError("webhookSecret must be whsec_ and the base64 of a key of 24 to 64 bytes");
  }
  const exchange = createExchange(surroundings, { baseUrl, timeoutMs, attempts, maxWaitMs });
  return createMethods(exchange, {
    server: async () => bearer(apiToken),
    webhook: (id) => async (body) => {
      if (!isKey) return bearer(webhookSecret);
      const timestampSeconds = Math.floor(surroundings.now() / 1000);
      return signStandardWebhook({ id, timestampSeconds, body, secret: webhookSecret });
    },
  });
}

function bearer(secret: string | undefined): Record<string, string> {
  return secret === undefined ? {} : { authorization: `Bearer ${secret}` };
}
