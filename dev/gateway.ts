/**
 * Upstash's REST protocol over any Redis, so that the production driver can be run and tested without an
 * account: single commands (JSON body or path), `/pipeline`, `/multi-exec`, base64 answers, sync tokens.
 *
 * It is a translator and nothing else: what a command means is Redis's business, and replies go out in the
 * shapes Redis sent them. ioredis would reshape some (HGETALL becomes an object, scores are paired), which is
 * why commands are sent as {@link RawCommand}. All requests share one connection; commands that would change
 * or block that connection are refused, as Upstash refuses them.
 */
import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Command, Redis } from "ioredis";

export type GatewayOptions = {
  /** `redis://` or `rediss://`, with user, password and database number where needed. */
  redisUrl: string;
  /** What clients must present as bearer token. */
  token: string;
  /** 0, the default, takes any free port. */
  port?: number;
  host?: string;
  /**
   * A Redis that sends nothing for this many milliseconds while commands wait is given up, and they are
   * answered with 503. Default 5,000.
   */
  silenceLimitMs?: number;
};

export type Gateway = {
  /** What goes into UPSTASH_REDIS_REST_URL; no trailing slash. */
  url: string;
  token: string;
  /** Ends the HTTP server with all its connections, and the connection to Redis. */
  close(): Promise<void>;
};

type Argument = string | Buffer;
type Reply = null | number | string | Buffer | Error | Reply[];
type Outcome = { result: Reply } | { error: string };
type Json = null | number | string | Json[] | { [key: string]: Json };

/** Upstash's limit of one request. */
const MAX_BODY_BYTES = 10 * 1024 * 1024;

/** Commands that would change the shared connection for everybody, never answer, or stop the server. */
const REFUSED = new Set([
  ...["AUTH", "HELLO", "QUIT", "RESET", "SELECT", "READONLY", "READWRITE", "ASKING"],
  ...["MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"],
  ...["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE", "MONITOR"],
  ...["BLPOP", "BRPOP", "BRPOPLPUSH", "BLMOVE", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP"],
  ...["WAIT", "WAITAOF", "SYNC", "PSYNC", "REPLCONF", "REPLICAOF", "SLAVEOF", "FAILOVER", "SHUTDOWN"],
]);
const CLIENT_SUBCOMMANDS = new Set(["GETNAME", "ID", "INFO", "LIST", "SETINFO"]);

/** A request that is answered with `{"error": message}` and this status. */
class Refusal extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** An ioredis command whose reply stays what Redis sent. */
class RawCommand extends Command {
  override transformReply(reply: Buffer | Buffer[]): Buffer | Buffer[] {
    return reply;
  }
}

/**
 * Starts the gateway once Redis has answered a PING. Later outages are answered with 503 at once, nothing is
 * queued or sent twice, and the gateway reconnects by itself.
 *
 * Throws an Error with one plain sentence, free of credentials, if the URL is no Redis URL, Redis does not
 * answer within 3 s, or the port is taken.
 */
export async function startGateway(options: GatewayOptions): Promise<Gateway> {
  const { redisUrl, token, port = 0, host = "127.0.0.1", silenceLimitMs = 5_000 } = options;
  const link = await connect(redisUrl, silenceLimitMs);
  const bootId = randomUUID().slice(0, 8);
  let answers = 0;

  const server = createServer((request, response) => {
    response.setHeader("upstash-sync-token", `${bootId}:${++answers}`);
    handle(link, token, request).then(
      (body) => answer(response, 200, body),
      (error: unknown) => {
        if (error instanceof Refusal) answer(response, error.status, { error: error.message });
        else
          answer(response, 500, { error: `ERR gateway: ${error instanceof Error ? error.message : error}` });
      },
    );
  });
  // Longer than any client keeps an idle connection: closing first makes a client's next request fail.
  server.keepAliveTimeout = 120_000;

  try {
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(port, host, resolve);
    });
  } catch (cause) {
    link.redis.disconnect();
    throw new Error(`The gateway cannot listen on ${host}:${port}: ${(cause as Error).message}`, { cause });
  }

  const bound = (server.address() as AddressInfo).port;
  return {
    url: `http://${host.includes(":") ? `[${host}]` : host}:${bound}`,
    token,
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      link.redis.disconnect();
      await closed;
    },
  };
}

// --- Redis ---------------------------------------------------------------------------------------------------

type Link = { redis: Redis; lastError(): string };

async function connect(redisUrl: string, silenceLimitMs: number): Promise<Link> {
  const url = URL.canParse(redisUrl) ? new URL(redisUrl) : undefined;
  if (!url || !["redis:", "rediss:"].includes(url.protocol) || url.hostname === "")
    throw new Error("Not a Redis URL: expected redis://[user:password@]host[:port][/database]");

  let reason = "";
  const redis = new Redis(redisUrl, {
    lazyConnect: true,
    // RESP2, because that is the shape of what Upstash answers: flat arrays, doubles as text.
    protocol: 2,
    connectTimeout: 3_000,
    socketTimeout: silenceLimitMs,
    retryStrategy: (attempt) => Math.min(attempt * 50, 500),
    // A command is sent at once or refused at once, and never twice: whether to repeat it is the client's call.
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
  });
  redis.on("ready", () => {
    reason = "";
  });
  redis.on("error", (error: Error) => {
    // Node reports a refused dual-stack host as an AggregateError without a message of its own.
    reason = error.message || (error as NodeJS.ErrnoException).code || error.name;
  });

  try {
    await redis.connect();
    await send(redis, ["PING"]);
  } catch (error) {
    redis.disconnect();
    const detail = reason || (error instanceof Error ? error.message : String(error));
    throw new Error(`Redis at ${url.host} does not answer: ${detail}`, { cause: error });
  }
  return { redis, lastError: () => reason };
}

function send(redis: Redis, [name = "", ...args]: Argument[]): Promise<Reply> {
  return redis.sendCommand(new RawCommand(String(name), args)) as Promise<Reply>;
}

/** Waits for every reply. What Redis objects to is an outcome; a Redis that cannot be asked is a 503. */
async function settle(link: Link, replies: Promise<Reply>[]): Promise<Outcome[]> {
  const settled = await Promise.allSettled(replies);
  return settled.map((reply) => {
    if (reply.status === "fulfilled") return { result: reply.value };
    const error: unknown = reply.reason;
    if (error instanceof Error && error.name === "ReplyError") return { error: error.message };
    throw unreachable(link);
  });
}

function unreachable(link: Link): Refusal {
  return new Refusal(503, `ERR Redis is not reachable: ${link.lastError() || "connection closed"}`);
}

async function runPipeline(link: Link, commands: Argument[][]): Promise<Outcome[]> {
  const reasons = commands.map(refusalOf);
  const outcomes = await settle(
    link,
    commands.filter((_, i) => reasons[i] === null).map((command) => send(link.redis, command)),
  );
  return reasons.map((reason) => (reason === null ? (outcomes.shift() as Outcome) : { error: reason }));
}

async function runTransaction(link: Link, commands: Argument[][]): Promise<Outcome[]> {
  for (const command of commands) {
    const reason = refusalOf(command);
    if (reason !== null) throw new Refusal(400, reason);
  }
  // Written in one tick, so nothing of another request can come between MULTI and EXEC on the connection.
  const outcomes = await settle(
    link,
    [["MULTI"], ...commands, ["EXEC"]].map((command) => send(link.redis, command)),
  );
  const exec = outcomes.at(-1) as Outcome;
  if ("error" in exec) {
    const culprit = outcomes.find((outcome) => "error" in outcome) as { error: string };
    throw new Refusal(400, `EXECABORT Transaction discarded because of: ${culprit.error}`);
  }
  return (exec.result as Reply[]).map((reply) =>
    reply instanceof Error ? { error: reply.message } : { result: reply },
  );
}

/** Why a command is not for a shared connection, or null. */
function refusalOf([name, ...args]: Argument[]): string | null {
  if (name === undefined || name.length === 0) return "ERR empty command";
  const upper = String(name).toUpperCase();
  const subcommand = String(args[0] ?? "").toUpperCase();
  const refused =
    REFUSED.has(upper) ||
    (upper === "CLIENT" && !CLIENT_SUBCOMMANDS.has(subcommand)) ||
    (upper.startsWith("XREAD") && args.some((arg) => String(arg).toUpperCase() === "BLOCK"));
  return refused ? `ERR Command is not available: '${String(name)}'` : null;
}

// --- HTTP ----------------------------------------------------------------------------------------------------

async function handle(link: Link, token: string, request: IncomingMessage): Promise<Json> {
  const url = new URL(request.url ?? "/", "http://gateway");
  const presented = /^Bearer +(.+)$/i.exec(request.headers.authorization ?? "")?.[1];
  if ((presented ?? url.searchParams.get("_token")) !== token)
    throw new Refusal(401, "WRONGPASS invalid or missing auth token");
  if (!["GET", "HEAD", "POST", "PUT"].includes(request.method ?? ""))
    throw new Refusal(405, `ERR method not allowed: ${request.method}`);

  const body = await readBody(request);
  // ioredis lets some commands through before a connection is ready (MULTI and EXEC, but not what is between).
  if (link.redis.status !== "ready") throw unreachable(link);
  const base64 = request.headers["upstash-encoding"] === "base64";
  const present = (outcomes: Outcome[]) =>
    outcomes.map((outcome) => ("error" in outcome ? outcome : { result: toJson(outcome.result, base64) }));

  if (url.pathname === "/pipeline") return present(await runPipeline(link, parseCommands(body)));
  if (url.pathname === "/multi-exec") return present(await runTransaction(link, parseCommands(body)));

  const command = url.pathname === "/" ? parseCommand(parseJson(body)) : pathCommand(url, body);
  const reason = refusalOf(command);
  if (reason !== null) throw new Refusal(400, reason);
  const [outcome] = await settle(link, [send(link.redis, command)]);
  if (outcome === undefined || "error" in outcome) throw new Refusal(400, outcome?.error ?? "ERR no answer");
  return { result: toJson(outcome.result, base64) };
}

async function readBody(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    // What is too much is read to its end but not kept: a client that is still writing would miss the answer.
    if (bytes <= MAX_BODY_BYTES) chunks.push(chunk);
  }
  if (bytes > MAX_BODY_BYTES)
    throw new Refusal(
      413,
      `ERR max request size exceeded. Limit: ${MAX_BODY_BYTES} bytes, Actual: ${bytes} bytes`,
    );
  return Buffer.concat(chunks);
}

function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString("utf8"));
  } catch {
    throw new Refusal(400, "ERR failed to parse command: the body is not JSON");
  }
}

function parseCommands(body: Buffer): Argument[][] {
  const commands = parseJson(body);
  if (!Array.isArray(commands) || commands.length === 0)
    throw new Refusal(400, "ERR failed to parse pipeline request: expected an array of commands");
  return commands.map(parseCommand);
}

function parseCommand(command: unknown): Argument[] {
  if (!Array.isArray(command))
    throw new Refusal(400, "ERR failed to parse command: expected an array of arguments");
  if (command.length === 0) throw new Refusal(400, "ERR empty command");
  return command.map((argument: unknown) => {
    if (typeof argument === "string") return argument;
    if (typeof argument === "number" || typeof argument === "boolean") return String(argument);
    throw new Refusal(400, "ERR failed to parse command: arguments are strings, numbers or booleans");
  });
}

/** `/set/key/value`, `/set/key?EX=60` with the value as body: path, then body, then query. */
function pathCommand(url: URL, body: Buffer): Argument[] {
  try {
    const command: Argument[] = url.pathname.slice(1).split("/").map(decodeURIComponent);
    if (body.length > 0) command.push(body);
    for (const [name, value] of url.searchParams) {
      if (name === "_token") continue;
      command.push(name);
      if (value !== "") command.push(value);
    }
    return command;
  } catch {
    throw new Refusal(400, "ERR failed to parse command: the path is not valid percent-encoding");
  }
}

function toJson(reply: Reply, base64: boolean): Json {
  if (reply === null || typeof reply === "number") return reply;
  if (Array.isArray(reply)) return reply.map((item) => toJson(item, base64));
  if (reply instanceof Error) return reply.message;
  const bytes = typeof reply === "string" ? Buffer.from(reply) : reply;
  const text = bytes.toString("utf8");
  return base64 && text !== "OK" ? bytes.toString("base64") : text;
}

function answer(response: ServerResponse, status: number, body: Json): void {
  const text = JSON.stringify(body);
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(text),
  });
  response.end(response.req.method === "HEAD" ? undefined : text);
}
