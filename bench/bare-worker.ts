/**
 * The bare handler: what registering, calling back and reading a session cost where nothing is checked, logged
 * or looked after. It makes the same Redis requests as our Worker, with plain `fetch`, and the same object call
 * with as many rows written at the same points; `cost.ts` asserts all of that before it measures anything.
 *
 * It runs in workerd as it stands here, without its types, so it imports nothing but the runtime.
 */
import { DurableObject } from "cloudflare:workers";

type Env = {
  UPSTASH_REDIS_REST_URL: string;
  UPSTASH_REDIS_REST_TOKEN: string;
  LIVE_CONVERSATIONS: DurableObjectNamespace<LiveConversation>;
};

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS session (only_row INTEGER PRIMARY KEY, record TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS results (
    request_id TEXT PRIMARY KEY, text TEXT NOT NULL, status TEXT NOT NULL, in_history INTEGER NOT NULL DEFAULT 0
  );`;

export class LiveConversation extends DurableObject<Env> {
  readonly #sql = this.ctx.storage.sql;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    this.#sql.exec(SCHEMA);
  }

  async registered(record: string): Promise<void> {
    this.#sql.exec("INSERT OR REPLACE INTO session VALUES (1, ?)", record);
  }

  async deliver(conversationId: string, requestId: string, text: string): Promise<void> {
    this.#sql.exec(
      "INSERT INTO results (request_id, text, status) VALUES (?, ?, 'waiting')",
      requestId,
      text,
    );
    const messages = `elevenlabs:conversation:${conversationId}:messages`;
    const [session] = await redis(this.env, "/multi-exec", [
      ["get", sessionKey(conversationId)],
      ["rpush", messages, text],
      ["expire", messages, 2_592_000],
    ]);
    this.#sql.exec("UPDATE results SET in_history = 1 WHERE request_id = ?", requestId);
    this.#sql.exec("UPDATE results SET status = 'saying' WHERE request_id = ?", requestId);
    const { wsUrl } = JSON.parse(session.result) as { wsUrl: string };
    await say(wsUrl, JSON.stringify({ type: "user_message", text }));
    this.#sql.exec("UPDATE results SET status = 'delivered' WHERE request_id = ?", requestId);
  }
}

/** Sends one frame and waits for the closing handshake. */
async function say(wsUrl: string, frame: string): Promise<void> {
  const { webSocket } = await fetch(wsUrl.replace(/^ws/, "http"), { headers: { Upgrade: "websocket" } });
  if (!webSocket) throw new Error("the agent took no connection");
  const closed = new Promise((resolve) => webSocket.addEventListener("close", resolve));
  webSocket.accept();
  webSocket.send(frame);
  webSocket.close(1000, "delivered");
  await closed;
}

// biome-ignore lint/suspicious/noExplicitAny: nothing is checked here
async function redis(env: Env, path: string, body: unknown): Promise<any> {
  const response = await fetch(`${env.UPSTASH_REDIS_REST_URL}${path}`, {
    method: "POST",
    headers: {
      authorization: `Bearer ${env.UPSTASH_REDIS_REST_TOKEN}`,
      "content-type": "application/json",
    },
    body: JSON.stringify(body),
  });
  return response.json();
}

const sessionKey = (conversationId: string) => `elevenlabs:session:${conversationId}`;

export default {
  async fetch(request, env): Promise<Response> {
    const [, , , conversationId = "", operation] = new URL(request.url).pathname.split("/");
    if (request.method === "GET") {
      const { result } = await redis(env, "", ["get", sessionKey(conversationId)]);
      const { sessionPayload: _, wsUrl: __, ...session } = JSON.parse(result);
      return Response.json({ active: true, ...session });
    }
    const body = (await request.json()) as { [field: string]: unknown };
    const object = env.LIVE_CONVERSATIONS.get(env.LIVE_CONVERSATIONS.idFromName(conversationId));
    if (operation === "callback") {
      await object.deliver(conversationId, String(body.requestId), JSON.stringify(body));
      return Response.json({ received: true, delivered: true });
    }
    const { sessionUrl: wsUrl, ...rest } = body;
    const registrationId = crypto.randomUUID();
    const createdAt = new Date().toISOString();
    const record = JSON.stringify({ ...rest, conversationId, registrationId, wsUrl, createdAt });
    const told = object.registered(record);
    await redis(env, "", ["set", sessionKey(conversationId), record, "ex", 600]);
    await told;
    return Response.json({ success: true, conversationId, registrationId, ttl: 600 });
  },
} satisfies ExportedHandler<Env>;
