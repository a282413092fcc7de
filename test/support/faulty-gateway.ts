/**
 * The gateway behind a door that can misbehave, to see what the storage driver and the routes do when
 * Upstash is slow, refuses, garbles its answer or loses it. It also keeps a list of what came through, so
 * that a test can assert how many round trips and commands an operation costs.
 */
import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { type GatewayOptions, startGateway } from "../../dev/gateway.ts";

export type Fault =
  /** Works. */
  | { kind: "ok" }
  /** Works, but answers this much later. Redis executes the commands at once. */
  | { kind: "slow"; ms: number }
  /** Answers with this status and an error text, without asking Redis. */
  | { kind: "status"; status: 429 | 500 | 503 }
  /** Executes, then answers 200 with the first half of the JSON text. */
  | { kind: "truncated" }
  /** Executes, then answers 200 with JSON of another shape. */
  | { kind: "wrong-json" }
  /** Resets the connection before Redis sees anything. */
  | { kind: "reset-before" }
  /** Executes, then resets the connection: the answer is lost. */
  | { kind: "reset-after" }
  /** Reads the request and never answers; Redis sees nothing. */
  | { kind: "silent" };

/** One HTTP request as it arrived: its path and the commands in it, option names as the client wrote them. */
export type SeenRequest = { path: string; commands: unknown[][] };

export type FaultyGateway = {
  url: string;
  token: string;
  /** Every request since the start or the last {@link FaultyGateway.clear}, failed ones included. */
  seen: SeenRequest[];
  /** How many HTTP requests, that is round trips, were seen. */
  requestCount(): number;
  /** How many Redis commands were in them; MULTI and EXEC of a transaction are not counted. */
  commandCount(): number;
  /** What happens to requests from now on; with `times`, to that many, and then all is well again. */
  fail(fault: Fault, times?: number): void;
  /** All is well from now on. */
  heal(): void;
  /** Forgets what was seen. */
  clear(): void;
  close(): Promise<void>;
};

/** Starts a gateway with `options` and the faulty door before it. Throws as `startGateway` does. */
export async function startFaultyGateway(options: GatewayOptions): Promise<FaultyGateway> {
  const { port = 0, host = "127.0.0.1", ...rest } = options;
  const gateway = await startGateway({ ...rest, host });
  const seen: SeenRequest[] = [];
  let fault: Fault = { kind: "ok" };
  let remaining = Number.POSITIVE_INFINITY;

  const heal = () => {
    fault = { kind: "ok" };
    remaining = Number.POSITIVE_INFINITY;
  };

  const server = createServer((request, response) => {
    const path = request.url ?? "/";
    readAll(request)
      .then(async (body) => {
        seen.push({ path, commands: commandsOf(path, body) });
        const current = fault;
        if (current.kind !== "ok" && --remaining <= 0) heal();
        await behave(current, gateway.url, request, body, response);
      })
      // The client hung up, or sent what is not JSON: there is nobody to answer, or nothing to answer to.
      .catch(() => request.socket.destroy());
  });
  server.keepAliveTimeout = 120_000;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, resolve);
  });

  return {
    url: `http://${host}:${(server.address() as AddressInfo).port}`,
    token: gateway.token,
    seen,
    requestCount: () => seen.length,
    commandCount: () => seen.reduce((sum, { commands }) => sum + commands.length, 0),
    fail(next, times = Number.POSITIVE_INFINITY) {
      fault = next;
      remaining = times;
    },
    heal,
    clear: () => void seen.splice(0),
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
      await gateway.close();
    },
  };
}

async function behave(
  fault: Fault,
  gatewayUrl: string,
  request: IncomingMessage,
  body: Buffer,
  response: ServerResponse,
): Promise<void> {
  switch (fault.kind) {
    case "silent":
      return;
    case "reset-before":
      request.socket.resetAndDestroy();
      return;
    case "status":
      reply(response, fault.status, JSON.stringify({ error: `ERR injected ${fault.status}` }));
      return;
  }

  const answer = await forward(gatewayUrl, request, body);
  switch (fault.kind) {
    case "reset-after":
      request.socket.resetAndDestroy();
      return;
    case "truncated":
      reply(response, 200, answer.text.slice(0, Math.floor(answer.text.length / 2)));
      return;
    case "wrong-json":
      reply(response, 200, '{"unexpected":["shape"]}');
      return;
    case "slow":
      await new Promise((resolve) => setTimeout(resolve, fault.ms));
      break;
  }
  if (answer.syncToken !== undefined) response.setHeader("upstash-sync-token", answer.syncToken);
  reply(response, answer.status, answer.text);
}

function reply(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(text),
  });
  response.end(text);
}

type Answer = { status: number; text: string; syncToken: string | undefined };

function forward(gatewayUrl: string, request: IncomingMessage, body: Buffer): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const outbound = httpRequest(
      `${gatewayUrl}${request.url}`,
      {
        method: request.method,
        headers: {
          authorization: request.headers.authorization ?? "",
          "upstash-encoding": request.headers["upstash-encoding"] ?? "",
          "content-length": body.length,
        },
      },
      (inbound) => {
        readAll(inbound).then((bytes) => {
          const syncToken = inbound.headers["upstash-sync-token"];
          resolve({
            status: inbound.statusCode ?? 502,
            text: bytes.toString("utf8"),
            syncToken: typeof syncToken === "string" ? syncToken : undefined,
          });
        }, reject);
      },
    );
    outbound.once("error", reject);
    outbound.end(body);
  });
}

async function readAll(stream: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function commandsOf(path: string, body: Buffer): unknown[][] {
  const { pathname } = new URL(path, "http://gateway");
  if (pathname !== "/" && pathname !== "/pipeline" && pathname !== "/multi-exec")
    return [pathname.slice(1).split("/").map(decodeURIComponent)];
  const parsed: unknown = JSON.parse(body.toString("utf8"));
  return (pathname === "/" ? [parsed] : parsed) as unknown[][];
}
