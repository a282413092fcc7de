/**
 * An example runner, which is what TOOL_RUNNER_URL names: it takes the work that agents ask for, works some seconds, tells
 * how far it is, and calls back. `npm start` runs it. One of your own does the same, but keeps its tasks where a restart
 * does not lose them: see `docs/runners.md`.
 */
import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { Webhook } from "standardwebhooks";
import * as v from "valibot";
import { oneLine } from "./client-frames.ts";

export type RunnerOptions = {
  /** 0, the default, takes any free port. */
  port?: number;
  /** The entries of the Worker's SIGNING_SECRET: a message that any of them signed is believed. */
  signingSecrets: readonly string[];
  /** An entry of the Worker's WEBHOOK_SECRET. One that begins with `whsec_` signs; another is shown. */
  webhookSecret: string;
  /** What is done. By default research that finds something after a few steps. */
  work?: Work;
  /** How long each step of the research takes. Default 2,000. */
  stepMs?: number;
  /** Where the human lines go; standard output by default. */
  log?: (line: string) => void;
};

/** Resolves with the output of a task; what it throws is why the task has failed. */
export type Work = (job: Job, task: Task) => Promise<unknown>;

export type Task = {
  /** Aborted when nobody wants the result any more. */
  signal: AbortSignal;
  /** Tells how far the task is. */
  progress(text: string): Promise<void>;
};

export type Runner = {
  /** What TOOL_RUNNER_URL is to be. */
  url: string;
  /** Tasks that still run are forgotten. */
  close(): Promise<void>;
};

const jobSchema = v.object({
  taskId: v.string(),
  tool: v.string(),
  args: v.record(v.string(), v.unknown()),
  conversationId: v.string(),
  callbackUrl: v.string(),
  /** ISO 8601. */
  deadline: v.string(),
});
export type Job = v.InferOutput<typeof jobSchema>;

const cancelledSchema = v.object({
  type: v.literal("task.cancelled"),
  data: v.object({ taskId: v.string(), reason: v.string() }),
});

const HOST = "127.0.0.1";
const PATH = "/run";
const MAX_BODY_BYTES = 128 * 1024;
/** Of how many messages it is remembered that they came. */
const MAX_SEEN = 10_000;
/** Between two tries to call back, where the edge does not say how long to wait; doubled up to the longest. */
const [FIRST_PAUSE_MS, LONGEST_PAUSE_MS] = [500, 60_000];
const CALL_LIMIT_MS = 30_000;

/** Starts the runner. Throws the server's error if the port is taken. */
export async function startRunner(options: RunnerOptions): Promise<Runner> {
  const { port = 0, signingSecrets, webhookSecret, stepMs = 2_000, log = console.log } = options;
  const { work = research(stepMs) } = options;
  const seen = new Set<string>();
  const running = new Map<string, AbortController>();

  /** The status of the answer. Whatever is not 2xx or 4xx comes again, and so does what takes too long. */
  async function answerTo(request: IncomingMessage): Promise<number> {
    if (request.url !== PATH) return 404;
    if (request.method !== "POST") return 405;
    const body = await readBody(request);
    if (body === null) return 413;
    const message = verified(body, request, signingSecrets);
    if (message === null) {
      log("runner refuses a message that the Worker has not signed");
      return 401;
    }
    // A message that is sent again has the same id.
    const id = String(request.headers["webhook-id"]);
    if (seen.has(id)) return 202;
    seen.add(id);
    const [oldest] = seen;
    if (seen.size > MAX_SEEN && oldest !== undefined) seen.delete(oldest);

    if (v.is(jobSchema, message)) void run(message);
    else if (v.is(cancelledSchema, message)) cancel(message.data);
    return 202;
  }

  function cancel({ taskId, reason }: v.InferOutput<typeof cancelledSchema>["data"]): void {
    const controller = running.get(taskId);
    if (controller === undefined) return;
    log(`runner stops, because the task ${taskId} was cancelled (${oneLine(reason)})`);
    controller.abort();
  }

  async function run(job: Job): Promise<void> {
    const controller = new AbortController();
    const { signal } = controller;
    const name = oneLine(job.tool);
    running.set(job.taskId, controller);
    log(`runner begins ${name} ${oneLine(JSON.stringify(job.args))}, task ${job.taskId}`);
    let seq = 0;
    const task: Task = {
      signal,
      async progress(text) {
        log(`runner is at ${name}: ${oneLine(text)}`);
        // The next one tells more, so it is not sent again.
        await send(job, { progress: { seq: ++seq, text } }).catch(() => {});
      },
    };
    const outcome = await work(job, task).then(
      (output) => ({ success: true, output }),
      (error: unknown) => ({ success: false, error: error instanceof Error ? error.message : String(error) }),
    );
    if (!signal.aborted) log(`runner called back for ${name}: ${await callBack(job, outcome, signal)}`);
    running.delete(job.taskId);
  }

  /** Tells the result until it is taken, or its time is over. Returns what came of it, for people. */
  async function callBack(job: Job, outcome: object, signal: AbortSignal): Promise<string> {
    const id = `msg_${randomUUID()}`;
    for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(LONGEST_PAUSE_MS, pauseMs * 2)) {
      const response = await send(job, { toolName: job.tool, ...outcome }, id).catch(() => null);
      if (response !== null && !mayPass(response.status)) return wordsOf(response);
      const afterMs = retryAfterMs(response) ?? pauseMs;
      if (Date.now() + afterMs > Date.parse(job.deadline)) return "nobody took it in time";
      log(`runner tries again in ${afterMs / 1000} s: ${response?.status ?? "nobody answers"}`);
      await sleep(afterMs, undefined, { signal }).catch(() => {});
      if (signal.aborted) return "it was not wanted any more";
    }
  }

  /** One message to the edge. `id` is the same whenever the same message is sent; the signature is always fresh. */
  function send({ taskId, callbackUrl }: Job, fields: object, id = `msg_${randomUUID()}`): Promise<Response> {
    const body = JSON.stringify({ requestId: taskId, ...fields });
    return fetch(callbackUrl, {
      method: "POST",
      headers: { "content-type": "application/json", ...credential(webhookSecret, id, body) },
      body,
      signal: AbortSignal.timeout(CALL_LIMIT_MS),
    });
  }

  const server = createServer((request, response) => {
    void answerTo(request)
      .catch(() => 400)
      .then((status) => response.writeHead(status).end());
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, HOST, resolve);
  });

  return {
    url: `http://${HOST}:${(server.address() as AddressInfo).port}${PATH}`,
    async close() {
      for (const controller of running.values()) controller.abort();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
    },
  };
}

/** The body as it came, for nothing else is what was signed; null where it is too long. */
async function readBody(request: IncomingMessage): Promise<Buffer | null> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MAX_BODY_BYTES) return null;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** The message, if one of the secrets has signed it, not long ago. */
function verified(body: Buffer, { headers }: IncomingMessage, secrets: readonly string[]): unknown {
  for (const secret of secrets) {
    try {
      return new Webhook(secret).verify(body, headers as Record<string, string>);
    } catch {
      // Another one may have.
    }
  }
  return null;
}

/** How the edge knows whose a callback is. */
function credential(secret: string, id: string, body: string): Record<string, string> {
  if (!secret.startsWith("whsec_")) return { authorization: `Bearer ${secret}` };
  const now = new Date();
  return {
    "webhook-id": id,
    "webhook-timestamp": String(Math.floor(now.getTime() / 1000)),
    "webhook-signature": new Webhook(secret).sign(id, now, body),
  };
}

/** Whether the same may be answered otherwise later. */
function mayPass(status: number): boolean {
  return status >= 500 || [408, 425, 429].includes(status);
}

function retryAfterMs(response: Response | null): number | null {
  const seconds = response?.headers.get("retry-after") ?? "";
  return /^\d{1,5}$/.test(seconds) ? Number(seconds) * 1000 : null;
}

async function wordsOf(response: Response): Promise<string> {
  const { status, channel, reason, code } = (await response.json().catch(() => ({}))) as Record<
    string,
    unknown
  >;
  return [status, channel, reason, code].filter((word) => typeof word === "string").join(", ");
}

const STEPS = ["Asking three suppliers", "Comparing their prices", "Reading the small print"];

/** What could take an hour. */
function research(stepMs: number): Work {
  return async ({ args }, { progress, signal }) => {
    for (const step of STEPS) {
      await progress(step);
      await sleep(stepMs, undefined, { signal });
    }
    const about = typeof args.query === "string" ? `About “${args.query}”: three` : "Three";
    return `${about} suppliers deliver by Friday, and the cheapest is Acme at 1,240 euros.`;
  };
}
