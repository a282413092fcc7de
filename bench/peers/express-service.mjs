/**
 * The service that people write by hand for the same job: Express, ioredis, ws and zod, in one process or in a cluster
 * of so many as WORKERS says. The same routes over the same Redis; where ours promises more, it does what such
 * services do: it remembers a requestId for 48 h, keeps what it could not say in a list, and merges a memory by
 * reading and writing it. A page may be connected to another worker than the one that is called back, so in a cluster
 * pushes and acknowledgements go over Redis' PUB/SUB.
 *
 * Tells its parent `{port, pids}` by IPC when it listens.
 */
import cluster from "node:cluster";
import { createHmac, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import express from "express";
import { Redis } from "ioredis";
import { WebSocket, WebSocketServer } from "ws";
import { z } from "zod";

const { REDIS_URL = "", RUNNER_URL = "", SIGNING_SECRET = "", WORKERS = "1" } = process.env;
const IS_CLUSTER = Number(WORKERS) > 1;
const DAY = 86_400;
const KEPT = 2_592_000;
const ACK_MS = 5_000;
const DIAL_MS = 5_000;

if (IS_CLUSTER && cluster.isPrimary) {
  const ports = Array.from({ length: Number(WORKERS) }, () => {
    const worker = cluster.fork();
    return new Promise((resolve) => worker.once("message", ({ port }) => resolve(port)));
  });
  const [port] = await Promise.all(ports);
  process.send?.({
    port,
    pids: [process.pid, ...Object.values(cluster.workers ?? {}).map((w) => w?.process.pid)],
  });
  process.once("disconnect", () => process.exit());
} else {
  const port = await listen();
  process.send?.({ port, pids: [process.pid] });
  process.once("disconnect", () => process.exit());
}

function listen() {
  const redis = new Redis(REDIS_URL);
  const keys = {
    session: (id) => `elevenlabs:session:${id}`,
    conversation: (id) => `elevenlabs:conversation:${id}`,
    messages: (id) => `elevenlabs:conversation:${id}:messages`,
    index: "elevenlabs:conversations",
    waiting: (id) => `waiting:${id}`,
    callback: (id, requestId) => `callback:${id}:${requestId}`,
    agent: (id) => `elevenlabs:agent:${id}`,
    task: (id) => `elevenlabs:task:${id}`,
    state: (id) => `conv:${id}`,
    memory: (id) => `session:${id}`,
  };
  const log = (event, fields) =>
    console.log(JSON.stringify({ level: "info", event, time: new Date().toISOString(), ...fields }));

  const id = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/);
  const registration = z.looseObject({
    sessionUrl: z.url().optional(),
    sessionPayload: z.unknown().optional(),
    agentSessionId: z.string().max(256).optional(),
    transport: z.enum(["websocket", "webrtc"]).optional(),
    metadata: z.record(z.string(), z.unknown()).optional(),
  });
  const callback = z.looseObject({
    requestId: z.string().max(128),
    success: z.boolean().default(true),
    output: z.unknown().optional(),
    error: z.string().optional(),
    toolName: z.string().optional(),
  });
  const message = z.object({
    id: z.string().optional(),
    role: z.enum(["user", "agent", "tool", "system"]),
    content: z.string(),
  });
  const memory = z.looseObject({ domain: z.string().optional(), city: z.string().optional() });
  const toolCall = z.looseObject({
    tool: z.string(),
    conversation_id: z.string(),
    args: z.unknown().optional(),
  });

  // --- Pages that hold a line ---------------------------------------------------------------------------------

  /** By conversation, in this process. */
  const lines = new Map();
  /** Called when a push was acknowledged, by the first result that it tells. */
  const acknowledged = new Map();
  if (IS_CLUSTER) {
    const subscriber = redis.duplicate();
    void subscriber.subscribe("push", "ack");
    subscriber.on("message", (channel, text) => {
      const { conversationId, frame, requestIds } = JSON.parse(text);
      if (channel === "push") lines.get(conversationId)?.send(JSON.stringify(frame));
      else for (const requestId of requestIds) acknowledged.get(requestId)?.(true);
    });
  }

  function pushByLine(conversationId, results) {
    const [{ requestId: first }] = results;
    const frame = {
      type: "push",
      pushId: randomUUID(),
      requestIds: results.map(({ requestId }) => requestId),
      text: textOf(results),
      results,
    };
    return new Promise((resolve) => {
      const timer = setTimeout(() => end(false), ACK_MS);
      const end = (isAcknowledged) => {
        clearTimeout(timer);
        acknowledged.delete(first);
        resolve(isAcknowledged);
      };
      acknowledged.set(first, end);
      const line = lines.get(conversationId);
      if (line !== undefined) line.send(JSON.stringify(frame));
      else if (IS_CLUSTER) void redis.publish("push", JSON.stringify({ conversationId, frame }));
      else end(false);
    });
  }

  function pushBySocket(url, results) {
    return new Promise((resolve) => {
      const socket = new WebSocket(url, { perMessageDeflate: false, handshakeTimeout: DIAL_MS });
      const timer = setTimeout(() => socket.terminate(), DIAL_MS);
      socket.on("open", () => {
        socket.send(JSON.stringify({ type: "user_message", text: textOf(results) }));
        socket.close(1000, "delivered");
      });
      socket.on("error", () => {});
      socket.on("close", (code) => {
        clearTimeout(timer);
        resolve(code === 1000);
      });
    });
  }

  const textOf = (results) =>
    results
      .map(
        ({ requestId, toolName, output, error }) =>
          `Result of the background task ${requestId} (${toolName}):\n${JSON.stringify(error ?? output)}`,
      )
      .join("\n\n");

  const say = (conversationId, session, results) =>
    session.wsUrl === undefined ? pushByLine(conversationId, results) : pushBySocket(session.wsUrl, results);

  async function register(conversationId, body) {
    const { sessionUrl: wsUrl, sessionPayload = body, ...rest } = body;
    const registrationId = randomUUID();
    const createdAt = new Date().toISOString();
    const session = { ...rest, conversationId, registrationId, sessionPayload, wsUrl, createdAt, ttl: 600 };
    const record = JSON.stringify({ version: 1, conversationId, createdAt });
    const commands = redis
      .multi()
      .set(keys.session(conversationId), JSON.stringify(session), "EX", 600)
      .set(keys.conversation(conversationId), record, "EX", KEPT, "NX")
      .zadd(keys.index, Date.now(), conversationId)
      .lrange(keys.waiting(conversationId), 0, -1);
    if (body.agentSessionId !== undefined)
      commands.set(keys.agent(body.agentSessionId), conversationId, "EX", KEPT);
    const replies = await commands.exec();
    const waiting = (replies?.[3]?.[1] ?? []).map((text) => JSON.parse(text));
    if (waiting.length > 0) void handOver(conversationId, session, waiting);
    log("session.registered", { conversationId, registrationId });
    return session;
  }

  async function handOver(conversationId, session, waiting) {
    if (!(await say(conversationId, session, waiting))) return;
    const commands = redis.multi().ltrim(keys.waiting(conversationId), waiting.length, -1);
    for (const { requestId } of waiting)
      commands.set(keys.callback(conversationId, requestId), "delivered", "EX", 2 * DAY);
    await commands.exec();
    for (const { requestId } of waiting) log("result.settled", { conversationId, requestId });
  }

  // --- Routes -------------------------------------------------------------------------------------------------

  const app = express();
  app.disable("x-powered-by");
  app.disable("etag");
  app.use((request, response, next) => {
    const given = request.get("x-request-id");
    response.set("x-request-id", given ?? randomUUID());
    response.set("x-content-type-options", "nosniff");
    response.set("cache-control", "no-store");
    next();
  });
  app.use(express.json({ limit: "64kb" }));
  const api = express.Router();

  api.post("/:id/session", async (request, response) => {
    const conversationId = id.parse(request.params.id);
    const { registrationId, createdAt } = await register(conversationId, registration.parse(request.body));
    const expiresAt = new Date(Date.parse(createdAt) + 600_000).toISOString();
    response.json({
      ...{
        success: true,
        message: "Session registered",
        conversationId,
        registrationId,
        ttl: 600,
        expiresAt,
      },
    });
  });

  api.get("/:id/session", async (request, response) => {
    const text = await redis.get(keys.session(id.parse(request.params.id)));
    if (text === null) return void response.status(404).json({ code: "session_not_found" });
    const { conversationId, registrationId, createdAt, transport, agentSessionId } = JSON.parse(text);
    const endsAt = Date.parse(createdAt) + 600_000;
    response.json({
      ...{
        active: true,
        conversationId,
        registrationId,
        createdAt,
        expiresAt: new Date(endsAt).toISOString(),
      },
      ...{ ttl: Math.ceil((endsAt - Date.now()) / 1_000), transport, agentSessionId },
    });
  });

  api.post("/:id/callback", async (request, response) => {
    const conversationId = id.parse(request.params.id);
    const result = callback.parse(request.body);
    const { requestId } = result;
    const key = keys.callback(conversationId, requestId);
    if ((await redis.set(key, "pending", "EX", 2 * DAY, "NX")) === null) {
      const delivered = (await redis.get(key)) === "delivered";
      return void response.json({ received: true, delivered, status: "duplicate" });
    }
    const { success, ...rest } = result;
    const entry = {
      ...{
        id: `callback:${requestId}`,
        role: "tool",
        source: "callback",
        timestamp: new Date().toISOString(),
      },
      ...{ toolName: rest.toolName, toolOutput: rest.output, status: success ? "completed" : "failed" },
    };
    const replies = await redis
      .multi()
      .get(keys.session(conversationId))
      .rpush(keys.messages(conversationId), JSON.stringify(entry))
      .expire(keys.messages(conversationId), KEPT)
      .exec();
    const text = replies?.[0]?.[1] ?? null;
    const isSaid = text !== null && (await say(conversationId, JSON.parse(text), [result]));
    if (!isSaid) {
      await redis
        .multi()
        .rpush(keys.waiting(conversationId), JSON.stringify(result))
        .expire(keys.waiting(conversationId), KEPT)
        .exec();
      log("callback.queued", { conversationId, requestId });
      const reason = text === null ? "session_not_found" : "push_failed";
      return void response.status(202).json({ received: true, delivered: false, status: "queued", reason });
    }
    await redis.set(key, "delivered", "EX", 2 * DAY);
    log("result.settled", { conversationId, requestId });
    response.json({ received: true, delivered: true, status: "delivered" });
  });

  api.post("/:id/message", async (request, response) => {
    const conversationId = id.parse(request.params.id);
    const given = message.parse(request.body);
    const entry = { id: randomUUID(), ...given, source: "api", timestamp: new Date().toISOString() };
    await redis
      .multi()
      .rpush(keys.messages(conversationId), JSON.stringify(entry))
      .ltrim(keys.messages(conversationId), -1_000, -1)
      .expire(keys.messages(conversationId), KEPT)
      .expire(keys.conversation(conversationId), KEPT)
      .zadd(keys.index, Date.now(), conversationId)
      .exec();
    response.status(201).json({ success: true, message: entry });
  });

  api.get("/:id", async (request, response) => {
    const conversationId = id.parse(request.params.id);
    const [record, texts] = await Promise.all([
      redis.get(keys.conversation(conversationId)),
      redis.lrange(keys.messages(conversationId), -50, -1),
    ]);
    if (record === null) return void response.status(404).json({ code: "conversation_not_found" });
    response.json({ ...JSON.parse(record), messages: texts.map((text) => JSON.parse(text)) });
  });

  app.use("/agent-conversations/api", api);

  for (const [path, keyOf, schema, ttl] of [
    ["/state/api/:id", keys.state, z.record(z.string(), z.unknown()), 3_600],
    ["/memory/api/:id", keys.memory, memory, 1_800],
  ]) {
    app.get(path, async (request, response) => {
      const key = keyOf(id.parse(request.params.id));
      const text = await (ttl === 1_800 ? redis.getex(key, "EX", ttl) : redis.get(key));
      if (text === null) return void response.status(404).json({ code: "not_found" });
      response.json(JSON.parse(text));
    });
    app.put(path, async (request, response) => {
      const record = schema.parse(request.body);
      await redis.set(keyOf(id.parse(request.params.id)), JSON.stringify(record), "EX", ttl);
      response.json(record);
    });
    app.patch(path, async (request, response) => {
      const key = keyOf(id.parse(request.params.id));
      const text = await redis.get(key);
      if (text === null) return void response.status(404).json({ code: "not_found" });
      const record = schema.parse({ ...JSON.parse(text), ...request.body });
      await redis.set(key, JSON.stringify(record), "EX", ttl);
      response.json(record);
    });
  }

  app.post("/agent-tools", async (request, response) => {
    const { tool, conversation_id: agentSessionId, args } = toolCall.parse(request.body);
    const conversationId = await redis.get(keys.agent(agentSessionId));
    if (conversationId === null) return void response.json({ ok: false });
    const taskId = `${conversationId}:${randomUUID()}`;
    await redis.set(keys.task(taskId), JSON.stringify({ tool, args, conversationId }), "EX", DAY);
    const body = JSON.stringify({ taskId, tool, args, conversationId });
    const [webhookId, timestamp] = [randomUUID(), String(Math.floor(Date.now() / 1_000))];
    const secret = Buffer.from(SIGNING_SECRET.replace(/^whsec_/, ""), "base64");
    const signature = createHmac("sha256", secret)
      .update(`${webhookId}.${timestamp}.${body}`)
      .digest("base64");
    const accepted = await fetch(RUNNER_URL, {
      method: "POST",
      headers: {
        ...{ "content-type": "application/json", "webhook-id": webhookId },
        ...{ "webhook-timestamp": timestamp, "webhook-signature": `v1,${signature}` },
      },
      body,
    });
    await accepted.arrayBuffer();
    log("task.opened", { conversationId, taskId });
    response.json({ ok: accepted.ok, taskId });
  });

  app.use((error, _request, response, _next) => {
    response.status(error instanceof z.ZodError ? 400 : 500).json({ code: "failed" });
  });

  // --- Sockets of pages ---------------------------------------------------------------------------------------

  const server = createServer(app);
  const sockets = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    handleProtocols: () => "agent-session.v1",
  });
  server.on("upgrade", (request, socket, head) => {
    const conversationId = /^\/agent-conversations\/api\/([^/]+)\/stream$/.exec(request.url ?? "")?.[1];
    if (conversationId === undefined) return void socket.destroy();
    sockets.handleUpgrade(request, socket, head, (line) => {
      line.on("message", async (data) => {
        const frame = JSON.parse(String(data));
        if (frame.type === "hello") {
          lines.set(conversationId, line);
          const { agentSessionId } = frame;
          const { registrationId } = await register(conversationId, { agentSessionId, sessionPayload: null });
          line.send(JSON.stringify({ type: "welcome", conversationId, registrationId }));
        } else if (frame.type === "ack") {
          const { requestIds } = frame;
          if (requestIds.some((requestId) => acknowledged.has(requestId)))
            for (const requestId of requestIds) acknowledged.get(requestId)?.(true);
          else if (IS_CLUSTER) void redis.publish("ack", JSON.stringify({ requestIds }));
        }
      });
      line.on("close", () => {
        if (lines.get(conversationId) === line) lines.delete(conversationId);
      });
    });
  });
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () => resolve(server.address().port));
  });
}
