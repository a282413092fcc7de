/** The recipes of `docs/runners.md`, as far as they can be tried without an account. */
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { drain, openJobs, take } from "../../dev/recipes/cron.ts";
import { OUTBOUND_SECRET, SHARED_SECRET } from "../support/secrets.ts";
import { standardHeaders } from "../support/webhooks.ts";

const secrets = { signing: OUTBOUND_SECRET, webhook: SHARED_SECRET };
let jobs: DatabaseSync;
/** What came to the edge, and what it answers next; without any, 200. */
let callbacks: Record<string, unknown>[];
let answers: number[];
const edge = createServer(async (request, response) => {
  let text = "";
  for await (const chunk of request) text += chunk;
  callbacks.push({ ...JSON.parse(text), as: request.headers.authorization });
  response.writeHead(answers.shift() ?? 200, { "retry-after": "2" }).end("{}");
});

beforeEach(async () => {
  vi.useFakeTimers({ toFake: ["Date"] });
  [jobs, callbacks, answers] = [openJobs(":memory:"), [], []];
  await new Promise<void>((resolve) => edge.listen(0, "127.0.0.1", resolve));
});
afterEach(async () => {
  vi.useRealTimers();
  edge.closeAllConnections();
  await new Promise((resolve) => edge.close(resolve));
});

function send(message: object): number {
  const body = JSON.stringify(message);
  return take(jobs, body, standardHeaders(OUTBOUND_SECRET, body), secrets);
}

const job = (taskId: string) => ({
  taskId,
  tool: "research",
  args: { query: taskId },
  callbackUrl: `http://127.0.0.1:${(edge.address() as AddressInfo).port}/callback`,
  deadline: new Date(Date.now() + 3_600_000).toISOString(),
});
const cancelled = (taskId: string) => ({ type: "task.cancelled", data: { taskId, reason: "requested" } });

/** What was worked on. */
let worked: string[];
async function cron(): Promise<void> {
  const work = async ({ taskId }: { taskId: string }) => {
    worked.push(taskId);
    if (taskId === "bad") throw new Error("no such ship");
    return `output of ${taskId}`;
  };
  await drain(jobs, work, secrets);
}
beforeEach(() => {
  worked = [];
});

describe("the table that cron drains", () => {
  test("is what stands in the documentation", () => {
    const [, code] =
      /```ts\n(\/\*\* A runner of a table[\s\S]*?)```/.exec(readFileSync("docs/runners.md", "utf8")) ?? [];

    expect(code).toBe(readFileSync("dev/recipes/cron.ts", "utf8"));
  });

  test("takes each job once, does all of them, and calls back with what came of each", async () => {
    for (const id of ["a", "bad", "a"]) expect(send(job(id))).toBe(202);
    await cron();
    await cron();

    const as = `Bearer ${SHARED_SECRET}`;
    expect(callbacks).toEqual([
      { requestId: "a", toolName: "research", success: true, output: "output of a", as },
      { requestId: "bad", toolName: "research", success: false, error: "Error: no such ship", as },
    ]);
    // Nor when it is sent again after it was done.
    send(job("a"));
    await cron();
    expect(worked).toEqual(["a", "bad"]);
  });

  test("believes nobody but the Worker", () => {
    const body = JSON.stringify(job("a"));
    expect(take(jobs, body, standardHeaders(OUTBOUND_SECRET, "{}"), secrets)).toBe(401);
    expect(take(jobs, body, {}, secrets)).toBe(401);
    expect(send({ type: "task.renamed", data: {} })).toBe(202);
  });

  test("does not do what was cancelled before", async () => {
    send(job("a"));
    send(cancelled("a"));
    await cron();

    expect(worked).toEqual([]);
  });

  test("tells again what could not be told, when the edge says, and does the work once", async () => {
    answers = [503];
    send(job("a"));
    await cron();
    await cron();
    expect(callbacks).toHaveLength(1);
    vi.setSystemTime(Date.now() + 2_000);
    await cron();

    expect(callbacks).toHaveLength(2);
    expect(worked).toEqual(["a"]);
  });

  test("is shared by two that drain it at once", async () => {
    for (const id of ["a", "b", "c", "d"]) send(job(id));
    await Promise.all([cron(), cron()]);

    expect(worked.toSorted()).toEqual(["a", "b", "c", "d"]);
  });

  test("forgets what nobody waits for any more", async () => {
    send(job("a"));
    vi.setSystemTime(Date.now() + 3_600_001);
    await cron();

    expect(worked).toEqual([]);
  });
});
