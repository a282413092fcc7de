/**
 * The floor: what the operations cost where nothing is checked, logged or looked after. It makes the same Redis requests
 * as our Worker, with plain `fetch`, and the same object call with as many rows written at the same points; `cost.ts`
 * asserts all of that before it measures anything. With `WITHOUT_OBJECTS` it does the same without any object, and so
 * without a promise to say anything once.
 *
 * It runs in workerd as it stands here, without its types, so it imports nothing but the runtime.
 */
import { DurableObject } from "cloudflare:workers";

type Env = {
  UPSTASH_REDIS_REST_URL: string;
  UPSTASH_REDIS_REST_TOKEN: string;
  LIVE_CONVERSATIONS: DurableObjectNamespace<LiveConversation>;
  STORAGE_OBJECTS: DurableObjectNamespace<StorageObject>;
  WITHOUT_OBJECTS?: string;
  TOOL_RUNNER_URL: string;
  /** `whsec_` and a key in base64. */
  SIGNING_SECRET: string;
  /** How much later ours gives what was settled to the log, in ms. */
  LOGGED_AFTER_MS: string;
};

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS session (only_row INTEGER PRIMARY KEY, record TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS book (only_row INTEGER PRIMARY KEY, content TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS results (
    request_id TEXT PRIMARY KEY, text TEXT NOT NULL, status TEXT NOT NULL, in_history INTEGER NOT NULL DEFAULT 0,
    logged TEXT
  );
  CREATE TABLE IF NOT EXISTS tasks (task_id TEXT PRIMARY KEY, ticket TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS connections (seq INTEGER PRIMARY KEY, content TEXT NOT NULL);`;

const KEPT_SECONDS = 2_592_000;
type Said = "delivered" | "queued" | "duplicate";
const STATUSES = { delivered: 200, queued: 202, duplicate: 200 } as const;

export class LiveConversation extends DurableObject<Env> {
  readonly #sql = this.ctx.storage.sql;
  #isNew: boolean;
  /** The pages that were told and have not answered, by requestId. */
  readonly #told = new Map<string, () => void>();
  /** What is to be given to the log of settled results. */
  #unlogged: { requestId: string; text: string }[] = [];
  /** What waits for a session. */
  #waiting: { requestId: string; text: string }[] = [];

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    this.#sql.exec(SCHEMA);
    this.#isNew = this.#sql.exec("SELECT 1 FROM book").toArray().length === 0;
  }

  async registered(record: string, conversationId: string): Promise<void> {
    this.#sql.exec("INSERT OR REPLACE INTO session VALUES (1, ?)", record);
    const events = this.#isNew ? ["registered"] : ["registered", "replaced"];
    this.#note(JSON.stringify(events.map((event) => ({ event, conversationId }))));
    if (this.#waiting.length > 0) this.ctx.waitUntil(this.#handOver(conversationId, record));
    if (!this.#isNew) return;
    this.#isNew = false;
    this.#sql.exec("INSERT INTO book VALUES (1, 'new')");
    await firstTime(this.env, conversationId, (work) => this.ctx.waitUntil(work));
    this.#sql.exec("UPDATE book SET content = 'known'");
    this.#sql.exec("UPDATE book SET content = 'renewed'");
  }

  /** Says all that waits in one frame; nobody waits for that. */
  async #handOver(conversationId: string, session: string): Promise<void> {
    const waiting = this.#waiting;
    this.#waiting = [];
    const each = (statement: string) =>
      this.ctx.storage.transactionSync(() => {
        for (const { requestId } of waiting) this.#sql.exec(statement, requestId);
      });
    this.#sql.exec("UPDATE book SET content = 'had a session'");
    // By then the session is over; the alarm is a row, too.
    await this.ctx.storage.setAlarm(Date.now() + 600_000);
    each("UPDATE results SET status = 'saying' WHERE request_id = ?");
    const { agentSessionId } = JSON.parse(session) as { agentSessionId: string };
    await Promise.all([
      redis(this.env, "", ["set", agentKey(agentSessionId), conversationId, "ex", KEPT_SECONDS]),
      sayTo(session, waiting.map(({ text }) => text).join("\n")),
    ]);
    each("UPDATE results SET status = 'delivered' WHERE request_id = ?");
    for (const result of waiting) this.#logLater(result);
  }

  override alarm(): void {}

  /** A page opens a line. */
  override async fetch(): Promise<Response> {
    const { 0: page, 1: socket } = new WebSocketPair();
    this.ctx.acceptWebSocket(socket);
    const headers = { "sec-websocket-protocol": "agent-session.v1" };
    return new Response(null, { status: 101, webSocket: page, headers });
  }

  override webSocketMessage(socket: WebSocket, message: string): void {
    const { type, requestIds = [] } = JSON.parse(message) as { type: string; requestIds?: string[] };
    if (type === "hello") socket.send('{"type":"welcome"}');
    for (const requestId of requestIds) this.#told.get(requestId)?.();
  }

  async deliver(conversationId: string, requestId: string, text: string): Promise<Said> {
    const { rowsWritten } = this.#sql.exec(
      "INSERT OR IGNORE INTO results (request_id, text, status) VALUES (?, ?, 'waiting')",
      requestId,
      text,
    );
    if (rowsWritten === 0) return "duplicate";
    const [line] = this.ctx.getWebSockets();
    return line === undefined
      ? this.#deliverBySocket(conversationId, requestId, text)
      : this.#deliverByLine(line, conversationId, requestId, text);
  }

  async openTask(taskId: string, ticket: string): Promise<void> {
    this.#sql.exec("INSERT OR IGNORE INTO tasks VALUES (?, ?)", taskId, ticket);
    await redis(this.env, "", ["set", `elevenlabs:task:${taskId}`, ticket, "ex", 86_400]);
  }

  /** The page is told while the history gets the result. */
  async #deliverByLine(
    line: WebSocket,
    conversationId: string,
    requestId: string,
    text: string,
  ): Promise<Said> {
    const appended = append(this.env, conversationId, text);
    this.#sql.exec("UPDATE results SET status = 'saying' WHERE request_id = ?", requestId);
    const told = new Promise<void>((resolve) => this.#told.set(requestId, resolve));
    line.send(JSON.stringify({ type: "push", requestIds: [requestId], text }));
    await told;
    this.#told.delete(requestId);
    this.#delivered(requestId, text);
    await appended;
    return "delivered";
  }

  async #deliverBySocket(conversationId: string, requestId: string, text: string): Promise<Said> {
    const session = await lookAndAppend(this.env, conversationId, text);
    const status = session === null ? "waiting for a session" : "saying";
    this.#sql.exec("UPDATE results SET in_history = 1, status = ? WHERE request_id = ?", status, requestId);
    if (session === null) {
      if (this.#isNew) this.#sql.exec("INSERT INTO book VALUES (1, 'known')");
      this.#isNew = false;
      this.#waiting.push({ requestId, text });
      return "queued";
    }
    await sayTo(session, text);
    this.#delivered(requestId, text);
    return "delivered";
  }

  #delivered(requestId: string, text: string): void {
    this.#sql.exec("UPDATE results SET status = 'delivered' WHERE request_id = ?", requestId);
    this.#logLater({ requestId, text });
  }

  #logLater(result: { requestId: string; text: string }): void {
    this.#unlogged.push(result);
    if (this.#unlogged.length === 1) this.ctx.waitUntil(this.#log());
  }

  /** Keeps the newest fifty to a hundred. */
  #note(content: string): void {
    const { seq } = this.#sql
      .exec<{ seq: number }>("INSERT INTO connections (content) VALUES (?) RETURNING seq", content)
      .one();
    if (seq > 50 && seq % 50 === 0) this.#sql.exec("DELETE FROM connections WHERE seq <= ?", seq - 50);
  }

  /** What is settled one after the other goes out together. */
  async #log(): Promise<void> {
    await scheduler.wait(Number(this.env.LOGGED_AFTER_MS));
    const settled = this.#unlogged;
    this.#unlogged = [];
    const commands = settled.map(({ text }) => [
      ...["xadd", "elevenlabs:results:settled", "maxlen", "~", 10_000, "*", "result", text],
    ]);
    await (commands.length === 1
      ? redis(this.env, "", commands[0])
      : redis(this.env, "/multi-exec", commands));
    for (const { requestId } of settled)
      this.#sql.exec(
        "UPDATE results SET in_history = 1, logged = 'delivered' WHERE request_id = ?",
        requestId,
      );
  }
}

export class StorageObject extends DurableObject<Env> {
  readonly #sql = this.ctx.storage.sql;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    this.#sql.exec("CREATE TABLE IF NOT EXISTS copies (key TEXT PRIMARY KEY, value TEXT NOT NULL)");
  }

  async set(key: string, value: string, ttlSeconds: number): Promise<void> {
    await redis(this.env, "", ["set", key, value, "ex", ttlSeconds]);
    this.#sql.exec("INSERT OR REPLACE INTO copies VALUES (?, ?)", key, value);
  }

  async patch(key: string, changes: object, ttlSeconds: number): Promise<string> {
    const { result } = await redis(this.env, "", ["get", key]);
    const value = JSON.stringify({ ...JSON.parse(result), ...changes });
    await redis(this.env, "", ["eval", COMPARE_AND_SET, 1, key, result, ttlSeconds * 1_000, value]);
    this.#sql.exec("INSERT OR REPLACE INTO copies VALUES (?, ?)", key, value);
    return value;
  }
}

const COMPARE_AND_SET = `if redis.call("GET", KEYS[1]) ~= ARGV[1] then return 0 end
redis.call("SET", KEYS[1], ARGV[3], "PX", ARGV[2]) return 1`;

/** What Redis is told of a conversation that it did not know. */
async function firstTime(
  env: Env,
  conversationId: string,
  after: (work: Promise<unknown>) => void,
): Promise<void> {
  const record = JSON.stringify({ version: 1, conversationId, createdAt: new Date().toISOString() });
  await redis(env, "/multi-exec", [
    ["set", `elevenlabs:conversation:${conversationId}`, record, "ex", KEPT_SECONDS, "nx"],
    ["zadd", "elevenlabs:conversations", Date.now(), conversationId],
  ]);
  after(redis(env, "", ["set", agentKey(`conv_${conversationId}`), conversationId, "ex", KEPT_SECONDS]));
}

/** Reads the session and appends a result to the history. Returns the session as JSON. */
async function lookAndAppend(env: Env, conversationId: string, text: string): Promise<string | null> {
  const look = ["get", sessionKey(conversationId)];
  const [session] = await redis(env, "/multi-exec", [look, ...appending(conversationId, text)]);
  return session.result;
}

function append(env: Env, conversationId: string, text: string): Promise<unknown> {
  return redis(env, "/multi-exec", appending(conversationId, text));
}

function appending(conversationId: string, text: string): unknown[][] {
  const messages = messagesKey(conversationId);
  return [
    ["rpush", messages, text],
    ["expire", messages, KEPT_SECONDS],
  ];
}

function sayTo(session: string, text: string): Promise<void> {
  const { wsUrl } = JSON.parse(session) as { wsUrl: string };
  return say(wsUrl, JSON.stringify({ type: "user_message", text }));
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

const agentKey = (agentSessionId: string) => `elevenlabs:agent:${agentSessionId}`;
const sessionKey = (conversationId: string) => `elevenlabs:session:${conversationId}`;
const messagesKey = (conversationId: string) => `elevenlabs:conversation:${conversationId}:messages`;

export default {
  async fetch(request, env, ctx): Promise<Response> {
    const [, kind, , id = "", operation] = new URL(request.url).pathname.split("/");
    if (kind === "state" || kind === "memory") return answerRecord(request, env, `${kind}:${id}`, kind);
    if (kind === "agent-tools") return startTask(request, env);
    if (operation === "stream")
      return env.LIVE_CONVERSATIONS.get(env.LIVE_CONVERSATIONS.idFromName(id)).fetch(request);
    if (request.method === "GET")
      return operation === "session" ? readSession(env, id) : readHistory(env, id);
    const text = await request.text();
    const body = JSON.parse(text) as { [field: string]: unknown };
    const hasObjects = env.WITHOUT_OBJECTS === undefined;
    const object = () => env.LIVE_CONVERSATIONS.get(env.LIVE_CONVERSATIONS.idFromName(id));
    if (operation === "callback") {
      const said = hasObjects
        ? await object().deliver(id, String(body.requestId), text)
        : await deliverAlone(env, id, text);
      const delivered = said === "delivered";
      return Response.json({ received: true, delivered }, { status: STATUSES[said] });
    }
    if (operation === "message") return appendMessage(env, id, text);
    const { sessionUrl: wsUrl, ...rest } = body;
    const registrationId = crypto.randomUUID();
    const createdAt = new Date().toISOString();
    const record = JSON.stringify({ ...rest, conversationId: id, registrationId, wsUrl, createdAt });
    const isNew = !hasObjects && id.includes("_new_");
    const told = hasObjects
      ? object().registered(record, id)
      : isNew && firstTime(env, id, (work) => ctx.waitUntil(work));
    await redis(env, "", ["set", sessionKey(id), record, "ex", 600]);
    await told;
    return Response.json({ success: true, conversationId: id, registrationId, ttl: 600 });
  },
} satisfies ExportedHandler<Env>;

async function deliverAlone(env: Env, id: string, text: string): Promise<Said> {
  const session = await lookAndAppend(env, id, text);
  if (session === null) return "queued";
  await sayTo(session, text);
  return "delivered";
}

async function readSession(env: Env, id: string): Promise<Response> {
  const { result } = await redis(env, "", ["get", sessionKey(id)]);
  const { sessionPayload: _, wsUrl: __, ...session } = JSON.parse(result);
  return Response.json({ active: true, ...session });
}

async function readHistory(env: Env, id: string): Promise<Response> {
  const [record, messages] = await Promise.all([
    redis(env, "", ["get", `elevenlabs:conversation:${id}`]),
    redis(env, "", ["lrange", messagesKey(id), -50, -1]),
  ]);
  const texts = messages.result as string[];
  return Response.json({ ...JSON.parse(record.result), messages: texts.map((text) => JSON.parse(text)) });
}

async function appendMessage(env: Env, id: string, text: string): Promise<Response> {
  const message = JSON.stringify({ id: crypto.randomUUID(), ...JSON.parse(text), source: "api" });
  const record = JSON.stringify({ version: 1, conversationId: id });
  await redis(env, "/multi-exec", [
    ["set", `elevenlabs:conversation:${id}`, record, "ex", KEPT_SECONDS, "nx"],
    ["getex", `elevenlabs:conversation:${id}`, "ex", KEPT_SECONDS],
    ["zadd", "elevenlabs:conversations", Date.now(), id],
    ["rpush", messagesKey(id), message],
    ["expire", messagesKey(id), KEPT_SECONDS],
  ]);
  return Response.json({ success: true, message }, { status: 201 });
}

/** Notes a task and hands it to the runner, signed. */
async function startTask(request: Request, env: Env): Promise<Response> {
  const call = (await request.json()) as { tool: string; conversation_id: string; args: object };
  const { tool, conversation_id: agentSessionId, args } = call;
  const { result: conversationId } = await redis(env, "", ["get", agentKey(agentSessionId)]);
  const taskId = `${conversationId}:${crypto.randomUUID()}`;
  const createdAt = new Date().toISOString();
  const ticket = JSON.stringify({ taskId, conversationId, tool, args, createdAt, agentSessionId });
  await env.LIVE_CONVERSATIONS.get(env.LIVE_CONVERSATIONS.idFromName(conversationId)).openTask(
    taskId,
    ticket,
  );
  const callbackUrl = new URL("/callback", request.url).href;
  const body = JSON.stringify({ taskId, tool, args, conversationId, callbackUrl });
  const timestamp = Math.floor(Date.now() / 1_000);
  const code = await crypto.subtle.sign(
    "HMAC",
    await signingKey(env),
    new TextEncoder().encode(`${taskId}.${timestamp}.${body}`),
  );
  const response = await fetch(env.TOOL_RUNNER_URL, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      "webhook-id": taskId,
      "webhook-timestamp": String(timestamp),
      "webhook-signature": `v1,${btoa(String.fromCharCode(...new Uint8Array(code)))}`,
    },
    body,
  });
  response.body?.cancel();
  const result = { requestId: taskId, status: "processing" };
  return Response.json({ ok: response.ok, say: "It has begun.", result });
}

let key: Promise<CryptoKey> | undefined;

function signingKey({ SIGNING_SECRET: secret }: Env): Promise<CryptoKey> {
  const bytes = () => Uint8Array.from(atob(secret.slice("whsec_".length)), (char) => char.charCodeAt(0));
  key ??= crypto.subtle.importKey("raw", bytes(), { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return key;
}

async function answerRecord(
  request: Request,
  env: Env,
  key: string,
  kind: "state" | "memory",
): Promise<Response> {
  const ttlSeconds = kind === "state" ? 3_600 : 1_800;
  if (request.method === "GET") {
    const command = kind === "state" ? ["get", key] : ["getex", key, "ex", ttlSeconds];
    const { result } = await redis(env, "", command);
    return Response.json(JSON.parse(result));
  }
  const object = env.STORAGE_OBJECTS.get(env.STORAGE_OBJECTS.idFromName(key));
  const given = (await request.json()) as object;
  let value = JSON.stringify(given);
  if (request.method === "PATCH") value = await object.patch(key, given, ttlSeconds);
  else await object.set(key, value, ttlSeconds);
  return new Response(value, { headers: { "content-type": "application/json" } });
}
