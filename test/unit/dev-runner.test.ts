/** The example runner as the Worker sees it: what it believes, takes once, stops, and calls back with. */
import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Runner, type RunnerOptions, startRunner, type Work } from "../../dev/runner.ts";
import { verifyStandardWebhook } from "../../lib/auth/webhook-signature.ts";
import { OUTBOUND_SECRET, SHARED_SECRET, SIGNING_SECRET } from "../support/secrets.ts";
import { standardHeaders } from "../support/webhooks.ts";

type Callback = { body: Record<string, unknown>; text: string; headers: IncomingHttpHeaders };

/** What came to the edge, and what it answers next; without any, 200. */
let callbacks: Callback[];
let answers: { status: number; headers?: Record<string, string> }[];
let lines: string[];
let runner: Runner | undefined;
const edge = createServer(async (request, response) => {
  let text = "";
  for await (const chunk of request) text += chunk;
  callbacks.push({ text, body: JSON.parse(text), headers: request.headers });
  const { status, headers = {} } = answers.shift() ?? { status: 200 };
  response.writeHead(status, headers).end('{"status":"delivered","channel":"relay"}');
});

beforeEach(async () => {
  [callbacks, answers, lines] = [[], [], []];
  await new Promise<void>((resolve) => edge.listen(0, "127.0.0.1", resolve));
});
afterEach(async () => {
  await runner?.close();
  edge.closeAllConnections();
  await new Promise((resolve) => edge.close(resolve));
});

async function start(options: Partial<RunnerOptions> = {}): Promise<void> {
  runner = await startRunner({
    signingSecrets: [SIGNING_SECRET, OUTBOUND_SECRET],
    webhookSecret: SHARED_SECRET,
    work: async ({ args }) => ({ echo: args }),
    log: (line) => lines.push(line),
    ...options,
  });
}

const jobOf = (taskId: string) => ({
  taskId,
  tool: "research",
  args: { query: "ships" },
  conversationId: "c1",
  callbackUrl: `http://127.0.0.1:${(edge.address() as AddressInfo).port}/callback`,
  deadline: new Date(Date.now() + 60_000).toISOString(),
});

/** Sends a signed message; `headers` of its text take the place of good ones. Returns the status of the answer. */
async function send(
  body: object,
  id = "m1",
  headers: (text: string) => Record<string, string> = () => ({}),
): Promise<number> {
  const text = JSON.stringify(body);
  const signed = { ...standardHeaders(OUTBOUND_SECRET, text, { id }), ...headers(text) };
  const response = await fetch(runner?.url ?? "", { method: "POST", headers: signed, body: text });
  return response.status;
}

const cancelled = (taskId: string) => ({
  type: "task.cancelled",
  timestamp: new Date().toISOString(),
  data: { conversationId: "c1", taskId, reason: "requested" },
});

describe("the example runner", () => {
  test("takes work, says so at once, and calls back when it is done", async () => {
    const done = Promise.withResolvers<string>();
    await start({ work: () => done.promise });

    expect(await send(jobOf("t1"))).toBe(202);
    expect(callbacks).toEqual([]);
    done.resolve("found");
    await expect.poll(() => callbacks).toHaveLength(1);
    expect(callbacks[0]?.body).toEqual({
      requestId: "t1",
      toolName: "research",
      success: true,
      output: "found",
    });
    expect(callbacks[0]?.headers.authorization).toBe(`Bearer ${SHARED_SECRET}`);
    await expect.poll(() => lines.at(-1)).toBe("runner called back for research: delivered, relay");
  });

  test("tells its progress in order, and of its failure", async () => {
    const work: Work = async (_, { progress }) => {
      await progress("begun");
      await progress("halfway");
      throw new Error("no ships");
    };
    await start({ work });
    await send(jobOf("t1"));

    await expect.poll(() => callbacks).toHaveLength(3);
    expect(callbacks.map(({ body }) => body)).toEqual([
      { requestId: "t1", progress: { seq: 1, text: "begun" } },
      { requestId: "t1", progress: { seq: 2, text: "halfway" } },
      { requestId: "t1", toolName: "research", success: false, error: "no ships" },
    ]);
  });

  test("finds something by itself, in steps", async () => {
    runner = await startRunner({
      signingSecrets: [OUTBOUND_SECRET],
      webhookSecret: SHARED_SECRET,
      stepMs: 1,
      log: () => {},
    });
    await send(jobOf("t1"));

    await expect.poll(() => callbacks).toHaveLength(4);
    expect(callbacks.at(-1)?.body.output).toMatch(/^About “ships”: three suppliers/);
  });

  test("signs what it calls back with where the secret is a key", async () => {
    await start({ webhookSecret: SIGNING_SECRET });
    await send(jobOf("t1"));

    await expect.poll(() => callbacks).toHaveLength(1);
    const [{ text, headers } = { text: "", headers: {} as IncomingHttpHeaders }] = callbacks;
    const [id, timestamp, signature] = ["webhook-id", "webhook-timestamp", "webhook-signature"].map((name) =>
      String(headers[name]),
    );
    const check = await verifyStandardWebhook({
      body: Buffer.from(text),
      headers: { id, timestamp, signature },
      secrets: [SIGNING_SECRET],
      now: Date.now(),
    });
    expect(check).toEqual({ ok: true });
    expect(headers.authorization).toBeUndefined();
  });

  test("takes a message once, however often it comes", async () => {
    await start();
    for (let i = 0; i < 3; i++) expect(await send(jobOf("t1"))).toBe(202);
    await send(jobOf("t2"), "m2");

    await expect.poll(() => callbacks.map(({ body }) => body.requestId)).toEqual(["t1", "t2"]);
  });

  test.each<[string, (text: string) => Record<string, string>]>([
    ["another key", (text) => standardHeaders(`whsec_${Buffer.alloc(32).toString("base64")}`, text)],
    ["a signature of another body", (text) => standardHeaders(OUTBOUND_SECRET, `${text} `)],
    ["an old signature", (text) => standardHeaders(OUTBOUND_SECRET, text, { timestamp: 1_600_000_000 })],
    ["no signature", () => ({ "webhook-signature": "" })],
  ])("refuses %s", async (_, headers) => {
    await start();

    expect(await send(jobOf("t1"), "m1", headers)).toBe(401);
    expect(lines).toEqual(["runner refuses a message that the Worker has not signed"]);
    expect(callbacks).toEqual([]);
  });

  test("answers nothing else, and nothing that is too long", async () => {
    await start();
    const { origin, href } = new URL(runner?.url ?? "");

    expect((await fetch(origin)).status).toBe(404);
    expect((await fetch(href)).status).toBe(405);
    expect(await send({ filler: "x".repeat(200_000) })).toBe(413);
    // What it does not know is no reason to send it again.
    expect(await send({ type: "task.renamed" })).toBe(202);
  });

  test("stops what is not wanted any more, and does not call back for it", async () => {
    const begun = Promise.withResolvers<AbortSignal>();
    const work: Work = (_, { signal }) => {
      begun.resolve(signal);
      return new Promise((_, reject) => signal.addEventListener("abort", reject));
    };
    await start({ work });
    await send(jobOf("t1"));
    const signal = await begun.promise;
    expect(await send(cancelled("t2"), "m2")).toBe(202);
    expect(signal.aborted).toBe(false);
    expect(await send(cancelled("t1"), "m3")).toBe(202);

    expect(signal.aborted).toBe(true);
    expect(lines.at(-1)).toBe("runner stops, because the task t1 was cancelled (requested)");
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(callbacks).toEqual([]);
  });

  test("calls back again with the same message where the edge could not take it, when it says", async () => {
    answers = [{ status: 503, headers: { "retry-after": "1" } }, { status: 500 }];
    await start();
    await send(jobOf("t1"));

    await expect.poll(() => callbacks, { timeout: 5_000 }).toHaveLength(3);
    expect(new Set(callbacks.map(({ text }) => text)).size).toBe(1);
    expect(lines).toContain("runner tries again in 1 s: 503");
    await expect.poll(() => lines.at(-1)).toMatch(/delivered/);
  });

  test.each([400, 401, 422])("does not call back again where it was answered %d", async (status) => {
    answers = [{ status }];
    await start();
    await send(jobOf("t1"));

    await expect.poll(() => lines.at(-1)).toMatch(/^runner called back/);
    expect(callbacks).toHaveLength(1);
  });

  test("gives up where nobody takes it before its time is over", async () => {
    answers = [{ status: 503, headers: { "retry-after": "2" } }];
    await start();
    await send({ ...jobOf("t1"), deadline: new Date(Date.now() + 1_000).toISOString() });

    await expect.poll(() => lines.at(-1)).toBe("runner called back for research: nobody took it in time");
  });
});
