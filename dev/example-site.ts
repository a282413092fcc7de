/**
 * The example pages, and the backend that a page of yours would have: it holds the secrets, and hands a browser
 * what a browser may have. It also plays the task that finishes somewhere else.
 *
 * It answers this machine only, under its own name, and its backend nobody without the key that stands in the
 * address of the pages: another user of the machine, or a page of another site, gets nothing from it. A real backend
 * would know its user instead, and whose conversation is whose.
 */
import { createHash, randomUUID, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { build, stop as stopBuilding } from "esbuild";
import * as v from "valibot";
import { deliverySchema } from "../lib/result.ts";
import type { PageName, Pass, TaskAnswer } from "./pages/backend.ts";

export type ExampleSiteOptions = {
  /** 0, the default, takes any free port. */
  port?: number;
  /** The origin of the Worker. It must list the site in ALLOWED_ORIGINS. */
  edgeUrl: string;
  /** The origin of ElevenLabs' API, or of its stand-in: the pages may open conversations there. */
  providerUrl: string;
  /** The agent that the pages talk to. */
  agentId: string;
  /** The secrets of the Worker that a server has: API_TOKEN and WEBHOOK_SECRET. */
  apiToken: string;
  webhookSecret: string;
  /** What opens the backend. */
  key: string;
};

export type ExampleSite = {
  /** The origins under which it answers, the first of them the one that is shown. */
  origins: readonly [string, ...string[]];
  /** The address of a page, with the key. */
  pageUrl(name: PageName): string;
  /** Tasks that still run are forgotten. */
  close(): Promise<void>;
};

export const PAGE_NAMES: readonly PageName[] = ["relay", "proxy"];

const HOST = "127.0.0.1";
const PAGES = join(import.meta.dirname, "pages");
const MAX_BODY_BYTES = 4096;
const LONGEST_TASK_MS = 60_000;

const taskSchema = v.object({
  conversationId: v.string(),
  afterMs: v.optional(v.pipe(v.number(), v.minValue(0), v.maxValue(LONGEST_TASK_MS)), 0),
  delivery: v.optional(deliverySchema, "when_idle"),
});
const passSchema = v.object({ conversationId: v.optional(v.string()) });

/** What tasks come to, one after the other. */
const RESULTS = [
  { toolName: "research", output: "Three suppliers deliver by Friday; the cheapest is Acme at 1,240 euros." },
  { toolName: "booking", output: "A table for four is booked for 19:30, on the terrace." },
  { toolName: "calculation", output: "The loan is paid back after eleven years and two months." },
  { toolName: "translation", output: "The contract is translated; two clauses need a lawyer's eye." },
];

type File = { type: string; body: string };
type Answer = { status: number; type: string; body: string };

/** Answered with its status and message. */
class Refusal extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** Builds the pages and serves them. Throws the server's error if the port is taken. */
export async function startExampleSite(options: ExampleSiteOptions): Promise<ExampleSite> {
  const { port: wanted = 0, edgeUrl, providerUrl, agentId, apiToken, webhookSecret, key } = options;
  const files = await buildPages();
  const stopped = new AbortController();
  let finished = 0;

  async function askEdge(path: string, secret: string, body: object): Promise<TaskAnswer> {
    const response = await fetch(edgeUrl + path, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${secret}` },
      body: JSON.stringify(body),
    });
    const answer = (await response.json()) as TaskAnswer;
    if (!response.ok) throw new Refusal(502, `The Worker answered ${response.status}: ${answer.detail}`);
    return answer;
  }

  async function pass({ conversationId }: v.InferOutput<typeof passSchema>): Promise<Pass> {
    const granted =
      conversationId === undefined
        ? await askEdge("/agent-conversations/api/new", apiToken, { agentId })
        : await askEdge(`/agent-conversations/api/${encodeURIComponent(conversationId)}/token`, apiToken, {});
    const { conversationId: id, token, tokenExpiresAt } = granted as Record<string, string>;
    if (!id || !token || !tokenExpiresAt) throw new Refusal(502, "The Worker gives no tokens.");
    return { conversationId: id, token, tokenExpiresAt, edgeUrl, agentId };
  }

  async function finishTask({ conversationId, afterMs, delivery }: v.InferOutput<typeof taskSchema>) {
    if (afterMs > 0) await sleep(afterMs, undefined, { signal: stopped.signal });
    const result = RESULTS[finished++ % RESULTS.length];
    const requestId = `task-${randomUUID().slice(0, 8)}`;
    return askEdge("/callback", webhookSecret, { requestId, conversationId, delivery, ...result });
  }

  async function answerTo(request: IncomingMessage, port: number): Promise<Answer> {
    const { host, origin, authorization = "" } = request.headers;
    const hosts = originsAt(port).map((own) => new URL(own).host);
    if (host === undefined || !hosts.includes(host)) throw new Refusal(421, "This is another site.");
    if (origin !== undefined && origin !== `http://${host}`)
      throw new Refusal(403, "Pages of other sites are not answered.");
    const { pathname } = new URL(request.url ?? "/", `http://${host}`);

    if (request.method === "GET" || request.method === "HEAD") {
      const file = files.get(pathname === "/" ? "/relay" : pathname);
      if (file === undefined) throw new Refusal(404, "There is nothing here.");
      return { status: 200, ...file };
    }
    if (request.method !== "POST") throw new Refusal(405, "GET and POST are answered.");
    if (!isEqual(authorization, `Bearer ${key}`))
      throw new Refusal(401, "Open the page by the whole address that npm start prints.");
    const body = await readJson(request);
    if (pathname === "/backend/pass") return json(await pass(parse(passSchema, body)));
    if (pathname === "/backend/task") return json(await finishTask(parse(taskSchema, body)));
    throw new Refusal(404, "There is nothing here.");
  }

  const server = createServer(async (request, response) => {
    const { port } = server.address() as AddressInfo;
    const { status, type, body } = await answerTo(request, port).catch((error: unknown) => ({
      status: error instanceof Refusal ? error.status : 502,
      type: "text/plain; charset=utf-8",
      body: error instanceof Refusal ? error.message : "The Worker does not answer.",
    }));
    response.writeHead(status, { ...HEADERS, "content-security-policy": policy, "content-type": type });
    response.end(request.method === "HEAD" ? undefined : body);
  });
  // The compiler of a page cannot hold it to this; the browser does.
  const policy = [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src data:",
    `connect-src 'self' ${[edgeUrl, edgeUrl.replace(/^http/, "ws"), providerUrl.replace(/^http/, "ws")].join(" ")}`,
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join("; ");
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(wanted, HOST, resolve);
  });
  const origins = originsAt((server.address() as AddressInfo).port);

  return {
    origins,
    pageUrl: (name) => `${origins[0]}/${name}#${key}`,
    async close() {
      stopped.abort();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
    },
  };
}

const HEADERS = {
  // `no-store` would keep a page out of the back/forward cache.
  "cache-control": "no-cache",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
  "cross-origin-opener-policy": "same-origin",
};

function originsAt(port: number): [string, string] {
  return [`http://${HOST}:${port}`, `http://localhost:${port}`];
}

/** Everything that a page loads, by its path. */
async function buildPages(): Promise<Map<string, File>> {
  const { outputFiles } = await build({
    entryPoints: [join(PAGES, "page.ts")],
    bundle: true,
    format: "esm",
    target: "es2022",
    minify: true,
    write: false,
    logLevel: "error",
  });
  // It would leave a process behind.
  await stopBuilding();
  const read = (name: string) => readFileSync(join(PAGES, name), "utf8");
  return new Map<string, File>([
    ...PAGE_NAMES.map((name): [string, File] => [
      `/${name}`,
      { type: "text/html; charset=utf-8", body: read(`${name}.html`) },
    ]),
    ["/page.css", { type: "text/css; charset=utf-8", body: read("page.css") }],
    ["/page.js", { type: "text/javascript; charset=utf-8", body: outputFiles[0]?.text ?? "" }],
  ]);
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MAX_BODY_BYTES) throw new Refusal(413, "That is too much.");
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString());
  } catch {
    throw new Refusal(400, "That is no JSON.");
  }
}

function parse<S extends v.GenericSchema>(schema: S, body: unknown): v.InferOutput<S> {
  const result = v.safeParse(schema, body);
  if (!result.success) throw new Refusal(400, "That is not what is asked for.");
  return result.output;
}

function json(body: object): Answer {
  return { status: 200, type: "application/json", body: JSON.stringify(body) };
}

/** Whether two texts are the same, in a time that does not tell where they differ. */
function isEqual(one: string, other: string): boolean {
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(one), digest(other));
}
