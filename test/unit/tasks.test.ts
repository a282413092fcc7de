/** Tasks, tool calls that wait for them, and how far they are, on the tables and the loop of a conversation's object. */
import { describe, expect, onTestFinished, test } from "vitest";
import type { Core } from "../../lib/core.ts";
import { stringifyJson } from "../../lib/json.ts";
import { keys } from "../../lib/keys.ts";
import { createReplies, MAX_REPLIES } from "../../lib/live/replies.ts";
import { createTasks } from "../../lib/live/tasks.ts";
import { createLogger } from "../../lib/log.ts";
import type { Progress, Result } from "../../lib/result.ts";
import { parseToolCall, type Ticket } from "../../lib/task.ts";
import { startTask } from "../../lib/tasks.ts";
import { createClock, createTestChannel, START, testConversation } from "../support/live.ts";
import { startRunner } from "../support/runner.ts";
import { OUTBOUND_SECRET } from "../support/secrets.ts";
import { memorySql } from "../support/sql.ts";

const HOUR = 3_600_000;
const iso = (ms: number) => new Date(ms).toISOString();

function tasksTable() {
  const sql = memorySql();
  onTestFinished(() => sql.close());
  return createTasks(sql);
}

function ticket(taskId: string, fields: Partial<Ticket> = {}): Ticket {
  return {
    version: 1,
    taskId,
    conversationId: "c1",
    tool: "search",
    args: {},
    createdAt: iso(START),
    deadline: iso(START + 24 * HOUR),
    onHangup: "continue",
    ...fields,
  };
}

const result = (requestId: string, fields: Partial<Result> = {}): Result => ({
  requestId,
  success: true,
  delivery: "when_idle",
  ...fields,
});

describe("what a tool call must say", () => {
  test.each([
    [{ tool: "a", args: { x: 1 }, conversation_id: "conv_1" }],
    [{ tool_name: "a", tool_args: { x: 1 }, system__conversation_id: "conv_1" }],
  ])("%j is a call", (body) => {
    expect(parseToolCall(body, undefined)).toMatchObject({
      tool: "a",
      args: { x: 1 },
      agentSessionId: "conv_1",
      onHangup: "continue",
    });
  });

  test("a header may say whose agent calls, and the body goes first", () => {
    expect(parseToolCall({ tool: "a" }, "conv_h").agentSessionId).toBe("conv_h");
    expect(parseToolCall({ tool: "a", conversation_id: "conv_b" }, "conv_h").agentSessionId).toBe("conv_b");
  });

  test.each([
    [{}, "tool"],
    [{ tool: "" }, "tool"],
    [{ tool: "a", args: [1] }, "args"],
    [{ tool: "a", onHangup: "explode" }, "onHangup"],
    [{ tool: "a", deliverBy: "soon" }, "deliverBy"],
    [{ tool: "a", deliverBy: "2026-01-01T00:00:00+01" }, "deliverBy"],
    [{ tool: "a", conversationId: "a:b" }, "conversationId"],
  ])("%j is refused at %s", (body, path) => {
    expect(() => parseToolCall(body, undefined)).toThrowError(
      expect.objectContaining({ issues: expect.arrayContaining([expect.objectContaining({ path })]) }),
    );
  });
});

describe("a task", () => {
  test("is done when its result comes, which is said as the ticket wishes unless the callback says otherwise", () => {
    const tasks = tasksTable();
    const deliverBy = iso(START + HOUR);
    tasks.open(ticket("c1:t", { topic: "weather", deliverBy }));
    const wished = tasks.finish(result("c1:t", { topic: "news" }), START);
    expect(wished).toEqual({
      result: { ...result("c1:t"), topic: "news", deliverBy },
      isCancelled: false,
    });
    expect(tasks.get("c1:t")).toMatchObject({ status: "done", overAt: START });
    // The same callback again is the same result.
    expect(tasks.finish(result("c1:t", { topic: "news" }), START + 1)).toEqual(wished);
  });

  test("that is forgotten makes no other result of a callback that comes again", async () => {
    const c = testConversation();
    onTestFinished(() => c.close());
    const tasks = createTasks(c.sql);
    tasks.open(ticket("c1:t", { topic: "weather" }));
    const callBack = () => {
      const { result: wished, isCancelled } = tasks.finish(result("c1:t"), c.clock.now());
      return c.delivery.receive(wished, stringifyJson(result("c1:t")), "http-request", isCancelled);
    };
    expect(await callBack()).toMatchObject({ kind: "queued" });
    await c.clock.advance(49 * HOUR);
    tasks.expire(c.clock.now());
    expect(tasks.isEmpty()).toBe(true);
    expect(await callBack()).toEqual({ kind: "duplicate", delivered: false });
    // What the ticket wished is followed all the same.
    await c.callback("newer", { topic: "weather" });
    expect(c.row("c1:t").status).toBe("superseded");
  });

  test.each(["up", "down"] as const)(
    "leaves no ticket when its conversation is deleted while Redis is %s",
    async (redis) => {
      const c = testConversation();
      onTestFinished(() => c.close());
      const { taskId, ...fields } = ticket("c1:t", { args: { of: "a person" } });
      await c.records.ticket(taskId, stringifyJson({ taskId, ...fields }));
      expect(await c.storage.get(keys.task(taskId))).toContain("a person");
      c.redisIs(redis);
      await c.forget([taskId]);
      c.restart();
      c.redisIs("up");
      await c.live(5_000);
      expect(await c.storage.get(keys.task(taskId))).toBe(null);
    },
  );

  test("that no runner took can be done all the same", () => {
    const tasks = tasksTable();
    tasks.open(ticket("c1:t"));
    expect(tasks.fail("c1:t", START)).toBe(true);
    expect(tasks.get("c1:t")).toMatchObject({ status: "failed" });
    tasks.finish(result("c1:t"), START);
    expect(tasks.get("c1:t")).toMatchObject({ status: "done" });
  });

  test("that was cancelled stays it, and what comes of it is not said", () => {
    const tasks = tasksTable();
    tasks.open(ticket("c1:t"));
    expect([tasks.cancel("c1:t", START), tasks.cancel("c1:t", START)]).toEqual([true, false]);
    expect(tasks.finish(result("c1:t"), START)).toMatchObject({ isCancelled: true });
    expect(tasks.get("c1:t")).toMatchObject({ status: "cancelled" });
  });

  test("is over at its deadline, known for 48 h after that, and then forgotten", () => {
    const tasks = tasksTable();
    tasks.open(ticket("c1:t"));
    expect(tasks.nextDue()).toBe(START + 24 * HOUR);
    tasks.expire(START + 24 * HOUR);
    expect(tasks.get("c1:t")).toMatchObject({ status: "expired" });
    expect(tasks.nextDue()).toBe(START + 72 * HOUR);
    tasks.expire(START + 72 * HOUR);
    expect(tasks.isEmpty()).toBe(true);
    expect(tasks.nextDue()).toBe(null);
  });

  test("ends 30 s after everybody has gone where it says so, and not before anybody was there", () => {
    const tasks = tasksTable();
    tasks.open(ticket("c1:stop", { onHangup: "cancel" }));
    tasks.open(ticket("c1:go"));
    // A call that is nothing but a phone: nobody was ever seen.
    tasks.attended(false, START);
    expect(tasks.hangUp(START + HOUR)).toEqual([]);

    tasks.attended(true, START);
    tasks.attended(false, START + 1_000);
    expect(tasks.nextDue()).toBe(START + 31_000);
    expect(tasks.hangUp(START + 30_999)).toEqual([]);
    // Back in time, and gone again.
    tasks.attended(true, START + 30_999);
    expect(tasks.hangUp(START + 31_000)).toEqual([]);
    tasks.attended(false, START + 40_000);
    tasks.attended(false, START + 50_000);
    expect(tasks.hangUp(START + 70_000)).toEqual(["c1:stop"]);
    expect(tasks.get("c1:go")).toMatchObject({ status: "processing" });
  });

  test("is listed newest first, in pages, with the newest progress", () => {
    const tasks = tasksTable();
    for (const id of ["c1:a", "c1:b", "c1:c"]) tasks.open(ticket(id));
    expect(tasks.progress("c1:b", { seq: 2, text: "two" }, START)).toBe(true);
    expect(tasks.progress("c1:b", { seq: 1, text: "one" }, START)).toBe(false);
    const [first, second] = tasks.list({ limit: 2 });
    expect([first?.taskId, second?.taskId]).toEqual(["c1:c", "c1:b"]);
    expect(second?.progress).toEqual({ seq: 2, text: "two", at: START });
    expect(tasks.list({ limit: 2, before: second?.seq ?? 0 }).map(({ taskId }) => taskId)).toEqual(["c1:a"]);
  });
});

describe("a tool call that waits", () => {
  function replies() {
    const clock = createClock();
    return { clock, replies: createReplies(clock) };
  }

  test("is given the result, and the result is delivered when that is confirmed", async () => {
    const { replies: r } = replies();
    expect(r.expect("t", 10_000)).toBe(true);
    const taken = r.take("t", 10_000);
    const outcome = r.offer(result("t"));
    expect(await taken).toMatchObject({ requestId: "t" });
    r.end("t", true);
    expect(await outcome).toEqual({ outcome: "delivered", proof: "accepted" });
    expect(r.offer(result("t"))).toBe(null);
  });

  test("is given a result that came before it began to wait", async () => {
    const { replies: r } = replies();
    r.expect("t", 10_000);
    const outcome = r.offer(result("t"));
    expect(await r.take("t", 10_000)).toMatchObject({ requestId: "t" });
    r.end("t", true);
    expect(await outcome).toEqual({ outcome: "delivered", proof: "accepted" });
  });

  test("that goes away leaves the result to be pushed; one that never says so leaves it unconfirmed", async () => {
    const { clock, replies: r } = replies();
    r.expect("gone", 10_000);
    void r.take("gone", 10_000);
    const gone = r.offer(result("gone"));
    r.end("gone", false);
    expect(await gone).toEqual({ outcome: "unreachable" });

    r.expect("mute", 10_000);
    void r.take("mute", 10_000);
    const mute = r.offer(result("mute"));
    await clock.advance(5_000);
    expect(await mute).toEqual({ outcome: "unconfirmed" });

    r.expect("late", 10_000);
    const late = r.offer(result("late"));
    expect(await r.take("late", 10_000)).toMatchObject({ requestId: "late" });
    await clock.advance(5_000);
    expect(await late).toEqual({ outcome: "unconfirmed" });

    r.expect("never", 10_000);
    const never = r.offer(result("never"));
    await clock.advance(5_000);
    expect(await never).toEqual({ outcome: "unreachable" });
  });

  test("ends with nothing when its time is over, and later results are pushed", async () => {
    const { clock, replies: r } = replies();
    r.expect("t", 1_000);
    const taken = r.take("t", 1_000);
    await clock.advance(1_000);
    expect(await taken).toBe(null);
    expect(r.offer(result("t"))).toBe(null);
  });

  test("is one of a hundred; those that never came make room after their time", async () => {
    const { clock, replies: r } = replies();
    for (let i = 0; i < MAX_REPLIES; i++) expect(r.expect(`t${i}`, 1_000)).toBe(true);
    expect(r.expect("one more", 1_000)).toBe(false);
    await clock.advance(12_000);
    expect(r.expect("one more", 1_000)).toBe(true);
  });

  test("has the result as its answer, and nothing is pushed", async () => {
    const c = testConversation();
    onTestFinished(() => c.close());
    await c.register();
    c.replies.expect("c1:t", 60_000);
    const taken = c.replies.take("c1:t", 60_000);
    const answer = c.callback("c1:t");
    expect(await taken).toMatchObject({ output: "output of c1:t." });
    c.replies.end("c1:t", true);
    expect(await answer).toEqual({ kind: "delivered", channel: "reply", proof: "accepted" });
    await c.delivery.rest();
    expect(c.pushed).toEqual([]);
    expect(await c.history()).toEqual(["callback:c1:t"]);
    expect(c.row("c1:t")).toMatchObject({
      status: "delivered",
      attempts: [{ channel: "reply", outcome: "delivered", proof: "accepted" }],
    });
  });

  test("that has gone leaves the result to the session, once", async () => {
    const c = testConversation();
    onTestFinished(() => c.close());
    await c.register();
    c.replies.expect("c1:t", 60_000);
    void c.replies.take("c1:t", 60_000);
    const answer = c.callback("c1:t");
    await c.clock.settle();
    expect(c.pushed).toEqual([]);
    c.replies.end("c1:t", false);
    expect(await answer).toEqual({ kind: "delivered", channel: "socket" });
    expect(c.tellings("c1:t")).toBe(1);
  });
});

describe("progress", () => {
  const progress = (seq: number, fields: Partial<Progress> = {}): Progress => ({
    requestId: "r1",
    seq,
    text: `step ${seq}`,
    delivery: "silent",
    ...fields,
  });
  const steps = (pushed: { progress?: { seq: number } }[]) =>
    pushed.map(({ progress }) => progress?.seq ?? "result");

  test("is context, fenced, and nothing waits for it", async () => {
    const c = testConversation();
    onTestFinished(() => c.close());
    await c.register();
    expect(c.delivery.progress(progress(1))).toBe(true);
    await c.delivery.rest();
    expect(c.pushed).toMatchObject([
      {
        requestIds: [],
        delivery: "silent",
        contextId: "progress:r1",
        text: expect.stringContaining("step 1"),
      },
    ]);
    expect(c.pushed[0]?.text).toContain("nothing inside");
    expect(c.results.list({ limit: 10 })).toEqual([]);
    expect(await c.history()).toEqual([]);
  });

  test("of ten thousand at once the first may be said, and the newest is", async () => {
    const c = testConversation();
    onTestFinished(() => c.close());
    await c.register();
    for (let seq = 1; seq <= 10_000; seq++) expect(c.delivery.progress(progress(seq))).toBe(true);
    await c.delivery.rest();
    expect(c.pushed.length).toBeLessThanOrEqual(2);
    expect(steps(c.pushed).at(-1)).toBe(10_000);
  });

  test("an older one is not told, nor any after the result", async () => {
    const c = testConversation();
    onTestFinished(() => c.close());
    await c.register();
    c.delivery.progress(progress(2));
    await c.delivery.rest();
    expect(c.delivery.progress(progress(2))).toBe(false);
    expect(c.delivery.progress(progress(1))).toBe(false);
    await c.callback("r1");
    expect(c.delivery.progress(progress(3))).toBe(false);
    await c.delivery.rest();
    expect(steps(c.pushed)).toEqual([2, "result"]);
  });

  test("that is under way when the result comes is told before it; one that waits is not told at all", async () => {
    const answers: (() => void)[] = [];
    const c = testConversation({
      onPush: () => new Promise((resolve) => answers.push(() => resolve({ outcome: "delivered" }))),
    });
    onTestFinished(() => c.close());
    await c.register();
    c.delivery.progress(progress(1));
    await c.clock.settle();
    c.delivery.progress(progress(2));
    void c.callback("r1");
    await c.clock.settle();
    expect(steps(c.pushed)).toEqual([1]);
    answers.shift()?.();
    await expect.poll(() => answers.length).toBe(1);
    answers.shift()?.();
    await c.delivery.rest();
    expect(steps(c.pushed)).toEqual([1, "result"]);
  });

  test("is never kept for later: not where nobody is there, nor where it cannot be said", async () => {
    const c = testConversation();
    onTestFinished(() => c.close());
    c.delivery.progress(progress(1));
    await c.delivery.rest();
    await c.register();
    expect(c.pushed).toEqual([]);

    const mute = testConversation({
      channels: (pushed) => [createTestChannel(pushed, { accepts: () => false })],
    });
    onTestFinished(() => mute.close());
    await mute.register();
    mute.delivery.progress(progress(1));
    await mute.delivery.rest();
    expect(mute.pushed).toEqual([]);
  });

  test("that is to be spoken gathers while somebody speaks, and only the newest is said", async () => {
    const c = testConversation();
    onTestFinished(() => c.close());
    await c.register();
    c.turn.note({ type: "agent_speaking" });
    c.delivery.progress(progress(1, { delivery: "when_idle" }));
    await c.clock.settle();
    c.delivery.progress(progress(2, { delivery: "when_idle" }));
    await c.clock.settle();
    expect(c.pushed).toEqual([]);
    c.turn.note({ type: "agent_listening" });
    c.delivery.wake();
    await c.delivery.rest();
    expect(steps(c.pushed)).toEqual([2]);
  });
});

describe("a tool call whose caller goes away", () => {
  test("says so to the object, so that the result is said like any other", async () => {
    const runner = await startRunner(OUTBOUND_SECRET);
    onTestFinished(() => runner.close());
    const ended: boolean[] = [];
    const after: Promise<unknown>[] = [];
    const leaving = new AbortController();
    const core = {
      now: () => Date.now(),
      wait: async () => {},
      log: createLogger({ now: () => 0, write: () => {} }),
      afterResponse: (work: Promise<unknown>) => after.push(work),
      live: {
        openTask: async () => true,
        awaitReply: () => {
          leaving.abort();
          return new Promise(() => {});
        },
        endReply: async (_ticket: Ticket, wasAnswered: boolean) => void ended.push(wasAnswered),
      },
    } as unknown as Core;
    const call = parseToolCall({ tool: "a", conversationId: "c1" }, undefined);
    const destination = {
      url: runner.url,
      secret: OUTBOUND_SECRET,
      callbackUrl: "http://127.0.0.1/callback",
    };
    const options = { waitMs: 60_000, signal: leaving.signal };
    const answer = await startTask(call, destination, options, core);
    await Promise.all(after);
    expect(answer).toMatchObject({ ok: true, result: { status: "processing" } });
    expect(ended).toEqual([false]);
  });
});
