/** A runner of tasks that behaves as a test wants it to, and a program of its own as far as the Worker can tell. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { verifyStandardWebhook } from "../../lib/auth/webhook-signature.ts";

export type RunnerBehaviour =
  /** Accepts, and does nothing until it is told to. */
  | "accepts"
  /** Calls back with a result before it accepts. */
  | "eager"
  | "refuses"
  | "fails"
  /** Fails once, and then accepts. */
  | "stumbles"
  | "redirects"
  | "hangs"
  /** Answers 200 with what is no HTTP body of anything. */
  | "babbles";

export type Job = {
  taskId: string;
  tool: string;
  args: unknown;
  conversationId: string;
  callbackUrl: string;
  deadline: string;
};

export type TestRunner = Awaited<ReturnType<typeof startRunner>>;

export async function startRunner(secret: string) {
  /** Whatever came with a signature that verifies; and how many requests came at all. */
  const received: { id: string; text: string; body: Record<string, unknown> }[] = [];
  const waiting = new Set<() => void>();
  let requests = 0;
  const runner = { behaviour: "accepts" as RunnerBehaviour };

  async function take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    const [id, timestamp, signature] = ["webhook-id", "webhook-timestamp", "webhook-signature"].map((name) =>
      String(request.headers[name]),
    );
    const headers = { id, timestamp, signature };
    const check = await verifyStandardWebhook({ body, headers, secrets: [secret], now: Date.now() });
    requests += 1;
    if (!check.ok) return void response.writeHead(401).end();
    const text = body.toString();
    received.push({ id: id ?? "", text, body: JSON.parse(text) as Record<string, unknown> });
    for (const wake of waiting) wake();
    switch (runner.behaviour) {
      case "hangs":
        return;
      case "refuses":
        return void response.writeHead(422).end();
      case "fails":
        return void response.writeHead(500).end("oops");
      case "stumbles":
        runner.behaviour = "accepts";
        return void response.writeHead(503).end();
      case "redirects":
        return void response.writeHead(307, { location: "http://127.0.0.1:9/" }).end();
      case "babbles":
        return void response.writeHead(200, { "content-type": "application/json" }).end("<not json>");
      case "eager": {
        const job = received.at(-1)?.body as Job;
        await callBack(job, { output: `eager result of ${job.tool}` });
        return void response.writeHead(202).end();
      }
      default:
        return void response.writeHead(202).end();
    }
  }

  /** Calls back as the job says, with nothing but the id of the task. */
  async function callBack(job: Job, fields: object): Promise<Response> {
    return fetch(job.callbackUrl, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ requestId: job.taskId, ...fields }),
    });
  }

  const server = createServer((request, response) => void take(request, response));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };

  return Object.assign(runner, {
    url: `http://127.0.0.1:${port}/run`,
    received,
    requests: () => requests,
    callBack,
    /** The newest message that `fits`, now or soon. */
    message(fits: (body: Record<string, unknown>) => boolean): Promise<Record<string, unknown>> {
      const { promise, resolve, reject } = Promise.withResolvers<Record<string, unknown>>();
      const timer = setTimeout(() => reject(new Error(`not received: ${JSON.stringify(received)}`)), 8_000);
      const look = () => {
        const found = received.findLast(({ body }) => fits(body));
        if (found !== undefined) resolve(found.body);
      };
      waiting.add(look);
      look();
      return promise.finally(() => {
        clearTimeout(timer);
        waiting.delete(look);
      });
    },
    async close(): Promise<void> {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  });
}
