/** From the agent's tool call to the spoken result, through the built Worker and a runner of its own. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { openPage, type Page } from "../support/page.ts";
import { type Job, startRunner, type TestRunner } from "../support/runner.ts";
import { API_TOKEN, CLOSED_DOORS, OUTBOUND_SECRET, SHARED_SECRET } from "../support/secrets.ts";
import { LOCAL_BINDINGS, startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
let runner: TestRunner;
let worker: TestWorker;
const pages: Page[] = [];
let ids = 0;

beforeAll(async () => {
  runner = await startRunner(OUTBOUND_SECRET);
  worker = await startWorker({
    ...LOCAL_BINDINGS,
    TOOL_RUNNER_URL: runner.url,
    SIGNING_SECRET: OUTBOUND_SECRET,
  });
});
afterAll(async () => {
  await worker.close();
  await runner.close();
});
afterEach(() => {
  runner.behaviour = "accepts";
  for (const page of pages.splice(0)) page.vanish();
});

/** A page whose agent can call tools. */
async function attached(of = worker): Promise<{ id: string; agent: string; page: Page }> {
  ids += 1;
  const [id, agent] = [`task-${ids}`, `conv_agent${ids}`];
  const page = await openPage(of.url, id);
  pages.push(page);
  await page.hello({ agentSessionId: agent });
  return { id, agent, page };
}

type Answer = {
  ok: boolean;
  say: string;
  code?: string;
  result?: { requestId: string; status: string; output?: unknown; success?: boolean; error?: unknown };
};

async function callTool(body: unknown, query = "", init: RequestInit = {}, of = worker): Promise<Answer> {
  const response = await of.fetch(`/agent-tools${query}`, { json: body, ...init });
  expect(response.status).toBe(200);
  return (await response.json()) as Answer;
}

const jobOf = (answer: Answer): Promise<Job> =>
  runner.message(({ taskId }) => taskId === answer.result?.requestId) as Promise<Job>;

/** The newest job of a conversation, before its tool call is answered. */
const jobIn = (id: string): Promise<Job> =>
  runner.message(({ conversationId }) => conversationId === id) as Promise<Job>;

async function tasksOf(id: string) {
  const response = await worker.fetch(`${API}/${id}/tasks`);
  return ((await response.json()) as { tasks: { taskId: string; status: string }[] }).tasks;
}

describe("a tool call", () => {
  test("becomes a task, a runner takes it, and its result is said with nothing but the id of the task", async () => {
    const { id, agent, page } = await attached();
    // Whose agent it is, is noted behind the welcome.
    await expect
      .poll(() => callTool({ tool: "search", args: { q: "x" }, conversation_id: agent }))
      .toMatchObject({ ok: true, say: expect.stringMatching(/started/), result: { status: "processing" } });
    const job = await jobIn(id);
    expect(job).toEqual({
      taskId: expect.stringMatching(new RegExp(`^${id}:[\\w-]{22}$`)),
      tool: "search",
      args: { q: "x" },
      conversationId: id,
      callbackUrl: new URL("/callback", worker.url).href,
      deadline: expect.stringMatching(/Z$/),
    });
    expect(await tasksOf(id)).toMatchObject([{ taskId: job.taskId, tool: "search", status: "processing" }]);

    const answer = runner.callBack(job, { output: "three hits" });
    const push = await page.push();
    expect(push.text).toContain("three hits");
    page.ack(push.requestIds);
    expect(await (await answer).json()).toMatchObject({ status: "delivered", channel: "relay" });
    expect(await tasksOf(id)).toMatchObject([{ status: "done" }]);
    // Twice is a duplicate.
    expect(await (await runner.callBack(job, { output: "three hits" })).json()).toMatchObject({
      status: "duplicate",
    });
  });

  test("finds its conversation by our own id too, and by the provider's under its other name", async () => {
    const { id, agent } = await attached();
    expect(await callTool({ tool: "a", conversationId: id })).toMatchObject({ ok: true });
    await expect
      .poll(() => callTool({ tool_name: "a", tool_args: {}, system__conversation_id: agent }))
      .toMatchObject({ ok: true });
  });

  test("that cannot be started is answered in words, always 200, and no runner hears of it", async () => {
    const { id } = await attached();
    const before = runner.requests();
    const deep = JSON.parse(`${'{"a":'.repeat(150)}1${"}".repeat(150)}`) as object;
    for (const [body, code] of [
      [{ tool: "a" }, "conversation_not_found"],
      [{ tool: "a", conversation_id: "conv_nobody" }, "conversation_not_found"],
      [{ tool: "a", conversation_id: "no/such" }, "conversation_not_found"],
      [{ conversationId: id }, "invalid_request"],
      [{ tool: "a", conversationId: "a:b" }, "invalid_request"],
      [{ tool: "a", conversationId: id, args: deep }, "invalid_request"],
      [{ tool: "a", conversationId: id, args: { filler: "x".repeat(66_000) } }, "payload_too_large"],
    ] as const) {
      const answer = await callTool(body);
      expect(answer).toEqual({ ok: false, say: expect.stringMatching(/^[A-Z].*\.$/), code });
    }
    expect(await callTool({ tool: "a", conversationId: id }, "?wait=291")).toMatchObject({
      code: "invalid_request",
    });
    expect(runner.requests()).toBe(before);
  });

  test.each([
    ["refuses", 1],
    ["redirects", 1],
    ["fails", 3],
  ] as const)("whose runner %s is said to have failed, after %d tries", async (behaviour, tries) => {
    const { id } = await attached();
    runner.behaviour = behaviour;
    const before = runner.requests();
    expect(await callTool({ tool: "a", conversationId: id })).toMatchObject({
      ok: false,
      code: "runner_unavailable",
    });
    expect(runner.requests() - before).toBe(tries);
    await expect.poll(() => tasksOf(id)).toMatchObject([{ status: "failed" }]);
  });

  test("whose runner hangs is given up after five seconds; what it brings later is said all the same", async () => {
    const { id, page } = await attached();
    runner.behaviour = "hangs";
    const start = Date.now();
    expect(await callTool({ tool: "a", conversationId: id })).toMatchObject({ code: "runner_unavailable" });
    expect(Date.now() - start).toBeLessThan(6_500);
    void runner.callBack(await jobIn(id), { output: "late but there" });
    expect((await page.push()).text).toContain("late but there");
  });

  test.each(["stumbles", "babbles"] as const)("whose runner %s has been taken", async (behaviour) => {
    const { id } = await attached();
    runner.behaviour = behaviour;
    expect(await callTool({ tool: "a", conversationId: id })).toMatchObject({ ok: true });
  });

  test("whose runner calls back before it accepts has its result said", async () => {
    const { id, page } = await attached();
    runner.behaviour = "eager";
    const answer = callTool({ tool: "quick", conversationId: id });
    const push = await page.push();
    expect(push.text).toContain("eager result of quick");
    page.ack(push.requestIds);
    expect(await answer).toMatchObject({ ok: true, result: { requestId: push.requestIds[0] } });
  });

  test("for a conversation that was deleted starts nothing", async () => {
    const { id } = await attached();
    await worker.fetch(`${API}/${id}`, { method: "DELETE" });
    expect(await callTool({ tool: "a", conversationId: id })).toMatchObject({
      code: "conversation_not_found",
    });
  });

  test("names no other conversation: an unknown task needs one, and another's id brings nothing here", async () => {
    const { id } = await attached();
    const stranger = `${id}:${"A".repeat(22)}`;
    const response = await worker.fetch("/callback", { json: { requestId: stranger, output: "x" } });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({
      code: "invalid_request",
      errors: [{ path: "conversationId" }],
    });
    // With the conversation named it is a callback like any other.
    const named = { requestId: stranger, conversationId: id, output: "x", delivery: "silent" };
    expect((await worker.fetch("/callback", { json: named })).status).toBeLessThan(300);
  });
});

describe("a page's word", () => {
  test("finds a conversation for its agent, but takes none over that another named before; a server's does", async () => {
    const closed = await startWorker({
      ...LOCAL_BINDINGS,
      ...CLOSED_DOORS,
      TOOL_RUNNER_URL: runner.url,
      SIGNING_SECRET: OUTBOUND_SECRET,
    });
    const asServer = { authorization: `Bearer ${API_TOKEN}` };
    const tokenOf = async (id: string, fields: object = {}) => {
      const response = await closed.fetch(`${API}/${id}/token`, { json: fields, headers: asServer });
      return ((await response.json()) as { token: string }).token;
    };
    const open = async (id: string) => {
      const page = await openPage(closed.url, id, { token: await tokenOf(id) });
      await page.hello({ agentSessionId: "conv_shared" });
      return page;
    };
    const headers = { authorization: `Bearer ${SHARED_SECRET}` };
    const call = async () => {
      const answer = await callTool({ tool: "a", conversation_id: "conv_shared" }, "", { headers }, closed);
      return answer.result?.requestId.split(":")[0];
    };
    try {
      const [first, thief] = [await open("first"), await open("thief")];
      await expect.poll(call).toBe("first");
      await tokenOf("owner", { agentSessionId: "conv_shared" });
      expect(await call()).toBe("owner");
      for (const page of [first, thief]) page.vanish();
    } finally {
      await closed.close();
    }
  });
});

describe("a tool call that waits", () => {
  test("has the result as its answer, and nothing is pushed", async () => {
    const { id, page } = await attached();
    const answer = callTool({ tool: "a", conversationId: id }, "?wait=20");
    const job = await jobIn(id);
    const callback = runner.callBack(job, { output: { price: 12 } });
    expect(await answer).toEqual({
      ok: true,
      say: '{"price":12}',
      result: { requestId: job.taskId, status: "completed", success: true, output: { price: 12 } },
    });
    expect(await (await callback).json()).toMatchObject({ status: "delivered", channel: "reply" });
    expect(page.pushes()).toEqual([]);
  });

  test("needs no page: that of a telephone call is kept under the provider's own id", async () => {
    const id = "conv_of_a_telephone_call";
    const answer = callTool({ tool: "a", conversationId: id }, "?wait=20");
    void runner.callBack(await jobIn(id), { output: "heard on the phone" });
    expect(await answer).toMatchObject({ ok: true, say: "heard on the phone" });
    const history = (await (await worker.fetch(`${API}/${id}`)).json()) as {
      messages: { content: string }[];
    };
    expect(history.messages).toMatchObject([{ content: "heard on the phone" }]);
  });

  test("passes arguments and result on as they came, to the last digit and key", async () => {
    const { id } = await attached();
    const exact = '{"zero":-0,"huge":1e400,"long":12345678901234567890,"__proto__":{"constructor":1}}';
    const post = (url: URL | string, body: string) =>
      fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body });
    const answer = post(
      new URL("/agent-tools?wait=20", worker.url),
      `{"tool":"a","conversationId":"${id}","args":${exact}}`,
    );
    const { taskId, callbackUrl } = await jobIn(id);
    expect(runner.received.findLast(({ body }) => body.taskId === taskId)?.text).toContain(`"args":${exact}`);
    await post(callbackUrl, `{"requestId":"${taskId}","output":${exact}}`);
    expect(await (await answer).text()).toContain(`"output":${exact}`);
  });

  test("is told that it failed, where it did", async () => {
    const { id } = await attached();
    const answer = callTool({ tool: "a", conversationId: id }, "?wait=20");
    void runner.callBack(await jobIn(id), { success: false, error: "no flights" });
    expect(await answer).toMatchObject({ ok: false, say: "no flights", result: { success: false } });
  });

  test("even where the runner is faster than its own acceptance", async () => {
    const { id } = await attached();
    runner.behaviour = "eager";
    const answer = await callTool({ tool: "a", conversationId: id }, "?wait=20");
    expect(answer).toMatchObject({ ok: true, say: "eager result of a", result: { status: "completed" } });
  });

  test.each([
    ["its task is cancelled", (job: Job) => `/tasks/${encodeURIComponent(job.taskId)}`],
    ["its conversation is deleted", () => ""],
  ])("no longer than until %s", async (_, path) => {
    const { id } = await attached();
    const answer = callTool({ tool: "a", conversationId: id }, "?wait=60");
    const job = await jobIn(id);
    await worker.fetch(`${API}/${id}${path(job)}`, { method: "DELETE" });
    expect(await answer).toMatchObject({
      ok: false,
      say: "The task was cancelled.",
      result: { requestId: job.taskId, status: "completed", success: false },
    });
  });

  test("no longer than it said: what comes later is pushed", async () => {
    const { id, page } = await attached();
    const answer = await callTool({ tool: "a", conversationId: id }, "?wait=1");
    expect(answer).toMatchObject({ ok: true, result: { status: "processing" } });
    void runner.callBack(await jobIn(id), { output: "later" });
    expect((await page.push()).text).toContain("later");
  });
});

describe("progress of a task", () => {
  test("is told as context, is no result, and is not told after it", async () => {
    const { id, page } = await attached();
    const job = await jobOf(await callTool({ tool: "a", conversationId: id }));
    const told = await runner.callBack(job, { progress: { seq: 1, text: "halfway" } });
    expect(told.status).toBe(202);
    expect(await told.json()).toEqual({ received: true, delivered: false, status: "progress" });
    expect(await page.frame("progress")).toMatchObject({
      requestId: job.taskId,
      seq: 1,
      delivery: "silent",
      text: expect.stringContaining("halfway"),
    });
    const older = await runner.callBack(job, { progress: { seq: 0, text: "begun" } });
    expect(await older.json()).toMatchObject({ status: "ignored" });
    expect(await tasksOf(id)).toMatchObject([{ progress: { seq: 1, text: "halfway" } }]);

    void runner.callBack(job, { output: "done" });
    page.ack((await page.push()).requestIds);
    const after = await runner.callBack(job, { progress: { seq: 2, text: "too late" } });
    expect(await after.json()).toMatchObject({ status: "ignored" });
    expect(page.framesOf("progress")).toHaveLength(1);
  });

  test.each([
    [{ seq: -1, text: "x" }, "progress.seq"],
    [{ seq: 1.5, text: "x" }, "progress.seq"],
    [{ seq: 1, text: "" }, "progress.text"],
    [{ seq: 1, text: "x".repeat(1_001) }, "progress.text"],
    ["halfway", "progress"],
  ])("%j is refused", async (progress, path) => {
    const response = await worker.fetch("/callback", {
      json: { requestId: "p", conversationId: "p", progress },
    });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ errors: [{ path }] });
  });
});

describe("a task that is not wanted any more", () => {
  test("is cancelled: the runner is told, and what it brings is kept and not said", async () => {
    const { id, page } = await attached();
    const job = await jobOf(await callTool({ tool: "a", conversationId: id }));
    const url = `${API}/${id}/tasks/${encodeURIComponent(job.taskId)}`;
    expect(await (await worker.fetch(url, { method: "DELETE" })).json()).toEqual({
      success: true,
      cancelled: true,
    });
    expect(await runner.message(({ type }) => type === "task.cancelled")).toMatchObject({
      data: { taskId: job.taskId, conversationId: id, reason: "requested" },
    });
    const brought = await runner.callBack(job, { output: "too late" });
    expect(await brought.json()).toEqual({ received: true, delivered: false, status: "cancelled" });
    const history = (await (await worker.fetch(`${API}/${id}`)).json()) as { messages: { id: string }[] };
    expect(history.messages.map((message) => message.id)).toContain(`callback:${job.taskId}`);
    expect(page.pushes()).toEqual([]);
    // Again it changes nothing, and of another conversation there is none.
    expect(await (await worker.fetch(url, { method: "DELETE" })).json()).toMatchObject({ cancelled: false });
    const foreign = await worker.fetch(`${API}/other/tasks/${encodeURIComponent(job.taskId)}`, {
      method: "DELETE",
    });
    expect(foreign.status).toBe(404);
    expect(await foreign.json()).toMatchObject({ code: "task_not_found" });
  });

  test("is superseded by a newer one of its topic, and says nothing after its time", async () => {
    ids += 1;
    const id = `task-${ids}`;
    const fields = { conversationId: id, topic: "weather" };
    const first = await jobOf(await callTool({ tool: "a", ...fields }));
    const second = await jobOf(await callTool({ tool: "a", ...fields }));
    expect((await runner.callBack(first, { output: "rain" })).status).toBe(202);
    expect((await runner.callBack(second, { output: "sun" })).status).toBe(202);
    const late = await jobOf(
      await callTool({ tool: "a", conversationId: id, deliverBy: new Date(Date.now() - 1).toISOString() }),
    );
    expect(await (await runner.callBack(late, { output: "x" })).json()).toMatchObject({ status: "expired" });
    const response = await worker.fetch(`${API}/${id}/results`);
    const { results } = (await response.json()) as { results: { status: string }[] };
    expect(results.map(({ status }) => status)).toEqual(["expired", "waiting", "superseded"]);
  });
});

describe("the door", () => {
  test("asks for a webhook's credential, and where the feature is off it answers in words", async () => {
    const closed = await startWorker({
      ...LOCAL_BINDINGS,
      ...CLOSED_DOORS,
      WEBHOOK_REQUIRE_SIGNATURE: "true",
    });
    const off = await startWorker({ ...LOCAL_BINDINGS, ELEVENLABS_AGENT_ENABLED: "false" });
    try {
      expect((await closed.fetch("/agent-tools", { json: { tool: "a" } })).status).toBe(401);
      // The tools of ElevenLabs cannot sign, also where callbacks must.
      const headers = { authorization: `Bearer ${SHARED_SECRET}` };
      for (const answer of [
        await callTool({ tool: "a" }, "", { headers }, closed),
        await callTool({ tool: "a" }, "", {}, off),
      ]) {
        expect(answer).toMatchObject({ ok: false, code: "feature_disabled" });
      }
    } finally {
      await Promise.all([closed.close(), off.close()]);
    }
  });
});
