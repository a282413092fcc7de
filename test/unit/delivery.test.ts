/** The delivery of results, on the tables and the loop of a conversation's object. */
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { StorageError } from "../../lib/errors.ts";
import type { PushOutcome } from "../../lib/push/channel.ts";
import type { PushMessage } from "../../lib/push/message.ts";
import { createTestChannel, START, testConversation } from "../support/live.ts";

function conversation(options: Parameters<typeof testConversation>[0] = {}) {
  const made = testConversation(options);
  onTestFinished(() => made.close());
  return made;
}

/** A channel that answers one outcome after the other, and delivers when they are used up. */
function answering(...outcomes: (PushOutcome["outcome"] | Promise<PushOutcome>)[]) {
  const left = [...outcomes];
  return () => {
    const next = left.shift() ?? "delivered";
    return typeof next === "string" ? { outcome: next } : next;
  };
}

/** Lets Redis hang from now on. Resolves when something waits for it. */
function hang({ hooks }: ReturnType<typeof conversation>): Promise<void> {
  return new Promise((reached) => {
    hooks.beforeCommit = () => {
      reached();
      return new Promise(() => {});
    };
  });
}

/** An agent that answers when the test says so. */
function slowAgent() {
  const answers: ((outcome: PushOutcome) => void)[] = [];
  return {
    onPush: () => new Promise<PushOutcome>((resolve) => answers.push(resolve)),
    answer(outcome: PushOutcome["outcome"]) {
      answers.shift()?.({ outcome });
    },
  };
}

describe("a live session", () => {
  test("is told once, and the history has the result", async () => {
    const c = conversation();
    await c.register();
    expect(await c.callback("r1")).toEqual({ kind: "delivered", channel: "socket" });
    expect(c.pushed).toMatchObject([{ requestIds: ["r1"], delivery: "when_idle" }]);
    expect(await c.history()).toEqual(["callback:r1"]);
  });

  test("is told once when a hundred copies come at the same time, and all are told the same", async () => {
    const c = conversation();
    await c.register();
    const answers = await Promise.all(Array.from({ length: 100 }, () => c.callback("r1")));
    expect(new Set(answers.map((answer) => JSON.stringify(answer)))).toEqual(
      new Set([JSON.stringify({ kind: "delivered", channel: "socket" })]),
    );
    expect(c.tellings("r1")).toBe(1);
    expect(await c.history()).toEqual(["callback:r1"]);
  });

  test("hears results in the order in which they arrived, however slow it is", async () => {
    const agent = slowAgent();
    const c = conversation(agent);
    await c.register();
    const answers = ["r1", "r2", "r3"].map((requestId) => c.callback(requestId));
    await vi.waitFor(() => expect(c.pushed).toHaveLength(1));
    expect(c.pushed.map(({ requestIds }) => requestIds)).toEqual([["r1", "r2", "r3"]]);
    const late = c.callback("r4");
    agent.answer("delivered");
    await vi.waitFor(() => expect(c.pushed).toHaveLength(2));
    expect(c.pushed.at(-1)?.requestIds).toEqual(["r4"]);
    agent.answer("delivered");
    expect(await Promise.all([...answers, late])).toEqual(
      Array.from({ length: 4 }, () => ({ kind: "delivered", channel: "socket" })),
    );
  });

  test("that takes longer than a sender waits is pending, and the outcome is there afterwards", async () => {
    const agent = slowAgent();
    const c = conversation(agent);
    await c.register();
    const [first, twin] = [c.callback("r1"), c.callback("r1")];
    await vi.waitFor(() => expect(c.pushed).toHaveLength(1));
    await c.clock.advance(8_000);
    expect(await first).toEqual({ kind: "queued", reason: "pending" });
    expect(await twin).toEqual({ kind: "queued", reason: "pending" });
    agent.answer("delivered");
    await c.delivery.rest();
    expect(await c.callback("r1")).toEqual({ kind: "duplicate", delivered: true, channel: "socket" });
    expect(c.tellings("r1")).toBe(1);
  });

  test("without a way to be pushed to leaves the result waiting", async () => {
    const c = conversation();
    await c.register({ sessionUrl: undefined, transport: "webrtc" });
    expect(await c.callback("r1")).toEqual({ kind: "queued", reason: "no_push_channel" });
    expect(c.lines).toContainEqual(expect.objectContaining({ event: "callback.queued", level: "warn" }));
  });

  test("that ends while the agent is tried is told no more", async () => {
    const c = conversation({ onPush: () => ({ outcome: "unreachable" }) });
    await c.register();
    const answer = c.callback("r1");
    await vi.waitFor(() => expect(c.pushed).toHaveLength(1));
    await c.clock.advance(700_000);
    expect(await answer).toMatchObject({ kind: "queued" });
    const tried = c.pushed.length;
    await c.alarm();
    expect(c.pushed).toHaveLength(tried);
  });
});

describe("a push that is not confirmed", () => {
  test("is not repeated in the same agent conversation, however often it registers", async () => {
    const c = conversation({ onPush: answering("unconfirmed") });
    await c.register();
    expect(await c.callback("r1")).toEqual({ kind: "queued", reason: "unconfirmed" });
    for (let i = 0; i < 3; i++) await c.register();
    expect(c.tellings("r1")).toBe(1);
    expect(await c.callback("r1")).toEqual({ kind: "duplicate", delivered: false });
  });

  test("is told once more in the next agent conversation, as perhaps heard, and then delivered", async () => {
    const c = conversation({ onPush: answering("unconfirmed") });
    await c.register();
    await c.callback("r1");
    await c.register({ sessionUrl: "wss://agent.example/reloaded" });
    expect(c.tellings("r1")).toBe(2);
    expect(c.pushed.at(-1)?.text).toContain("may have heard this already");
    expect(c.row("r1").status).toBe("delivered");
  });

  test("is given up after the second time, and stays known as unconfirmed", async () => {
    const c = conversation({ onPush: () => ({ outcome: "unconfirmed" }) });
    for (const url of ["a", "b", "c"]) {
      await c.register({ sessionUrl: `wss://agent.example/${url}` });
      if (url === "a") await c.callback("r1");
    }
    expect(c.tellings("r1")).toBe(2);
    expect(c.row("r1")).toMatchObject({ status: "unconfirmed", settledAt: START });
    expect(await c.callback("r1")).toEqual({ kind: "duplicate", delivered: false });
  });

  test("follows the agent's id where it is known: another URL of it is the same conversation", async () => {
    const c = conversation({ onPush: answering("unconfirmed") });
    await c.register({ agentSessionId: "conv_1" });
    await c.callback("r1");
    await c.register({ sessionUrl: "wss://agent.example/again", agentSessionId: "conv_1" });
    expect(c.tellings("r1")).toBe(1);
    await c.register({ sessionUrl: "wss://agent.example/again", agentSessionId: "conv_2" });
    expect(c.tellings("r1")).toBe(2);
  });

  test("joins an id that is learned later, so that the same URL with another id is another conversation", async () => {
    const c = conversation({ onPush: answering("unconfirmed") });
    const { registrationId } = await c.register();
    await c.callback("r1");
    await c.records.renew(registrationId, "conv_1");
    c.delivery.wake();
    await c.delivery.rest();
    expect(c.tellings("r1")).toBe(1);
    await c.register({ agentSessionId: "conv_2" });
    expect(c.tellings("r1")).toBe(2);
  });

  test("is settled by an acknowledgement, early or late", async () => {
    const c = conversation({ onPush: answering("unconfirmed") });
    await c.register();
    await c.callback("r1");
    expect(c.results.acknowledge(["r1", "never-was"], c.clock.now())).toEqual(["r1"]);
    await c.register({ sessionUrl: "wss://agent.example/reloaded" });
    expect(c.tellings("r1")).toBe(1);
    expect(await c.callback("r1")).toMatchObject({ kind: "duplicate", delivered: true });
  });
});

describe("a push that did not get through", () => {
  test("lets the next accepting channel try where nobody was reached", async () => {
    const c = conversation({
      channels: (pushed) => [
        createTestChannel([], { name: "relay", onPush: () => ({ outcome: "unreachable" }) }),
        createTestChannel(pushed),
      ],
    });
    await c.register();
    const answer = c.callback("r1");
    await vi.waitFor(() => expect(c.row("r1").attempts).toHaveLength(1));
    await c.clock.advance(1_000);
    expect(await answer).toEqual({ kind: "delivered", channel: "socket" });
    expect(c.row("r1").attempts.map(({ channel, outcome }) => [channel, outcome])).toEqual([
      ["relay", "unreachable"],
      ["socket", "delivered"],
    ]);
  });

  test("is tried again when the next result is said, when a session registers, and by the alarm", async () => {
    const c = conversation({ onPush: answering("refused", "delivered", "refused") });
    await c.register();
    expect(await c.callback("r1")).toEqual({ kind: "queued", reason: "push_failed" });
    expect(await c.callback("r2")).toMatchObject({ kind: "delivered" });
    await c.delivery.rest();
    expect(c.pushed.map(({ requestIds }) => requestIds)).toEqual([["r1"], ["r2"], ["r1"]]);
    expect(c.row("r1").status).toBe("waiting");

    await c.clock.advance(59_000);
    await c.alarm();
    expect(c.tellings("r1")).toBe(2);
    expect(c.results.nextDue(true)).toBe(c.row("r1").retryAt);
    await c.clock.advance(300_000);
    await c.alarm();
    expect(c.row("r1").status).toBe("delivered");
  });

  test("calls for the alarm also where a hand-over fails that nobody waits for", async () => {
    const c = conversation({ onPush: answering("refused") });
    await c.callback("r1");
    await c.register();
    expect(c.row("r1")).toMatchObject({ reason: "push_failed", retryAt: c.clock.now() + 60_000 });
    expect(c.duesAtRest.at(-1)).toBe(c.row("r1").retryAt);
  });

  test("does not hold up the others: what the session refused goes apart from them", async () => {
    const refusesPoison = (message: PushMessage): PushOutcome => ({
      outcome: message.requestIds.includes("poison") ? "refused" : "delivered",
    });
    const c = conversation({ onPush: refusesPoison });
    await c.register();
    await c.callback("poison");
    expect(await c.callback("r2")).toMatchObject({ kind: "delivered" });
    expect(await c.callback("r3")).toMatchObject({ kind: "delivered" });
    await c.clock.settle();
    expect(c.row("poison").status).toBe("waiting");
  });
});

describe("a conversation that is over, as its provider says at the push", () => {
  test("has no session from then on, and what it was not told is told to the next, once and in order", async () => {
    const c = conversation({ onPush: answering("ended") });
    await c.callback("r1", { delivery: "silent" });
    await c.callback("r2");
    await c.register();
    // The first push was to be the silent one; the other was not tried in a conversation that is over.
    expect(c.pushed.map(({ requestIds }) => requestIds)).toEqual([["r1"]]);
    expect(await c.sessions.get("c1")).toBeNull();
    expect(await c.callback("r3")).toEqual({ kind: "queued", reason: "session_expired" });
    expect(c.row("r1")).toMatchObject({ status: "waiting", tellings: 0, attempts: [{ outcome: "ended" }] });
    expect(c.row("r1").retryAt).toBeNull();

    await c.register();
    expect(c.pushed.slice(1).map(({ requestIds }) => requestIds)).toEqual([["r1"], ["r2", "r3"]]);
    for (const requestId of ["r1", "r2", "r3"]) expect(c.row(requestId).status).toBe("delivered");
  });

  test("answers the sender that waits, though Redis is down", async () => {
    const c = conversation({ onPush: answering("ended") });
    await c.register();
    c.redisIs("down");
    expect(await c.callback("r1")).toEqual({ kind: "queued", reason: "session_expired" });
    expect(await c.callback("r2")).toEqual({ kind: "queued", reason: "session_expired" });
    expect(c.pushed).toHaveLength(1);
  });

  test("answers the sender that waits, though Redis refuses to delete the session", async () => {
    const c = conversation({ onPush: answering("ended") });
    await c.register();
    c.hooks.beforeUpdate = () => Promise.reject(new StorageError("sqlite", "update", "rejected"));
    const answer = c.callback("r1");
    await c.delivery.rest();
    await c.clock.advance(8_000);
    expect(await answer).toEqual({ kind: "queued", reason: "session_expired" });
    expect(c.pushed).toHaveLength(1);
  });

  test("leaves alone whoever has taken its place meanwhile", async () => {
    const agent = slowAgent();
    const c = conversation({ onPush: agent.onPush });
    await c.register({ sessionUrl: "wss://agent.example/first" });
    const answer = c.callback("r1");
    await vi.waitFor(() => expect(c.pushed).toHaveLength(1));
    await c.register({ sessionUrl: "wss://agent.example/second" }, false);
    agent.answer("ended");
    await vi.waitFor(() => expect(c.pushed).toHaveLength(2));
    agent.answer("delivered");
    expect(await answer).toMatchObject({ kind: "delivered" });
    expect(await c.sessions.get("c1")).toMatchObject({ wsUrl: "wss://agent.example/second" });
  });

  test("leaves the registration alone that goes on with another one meanwhile", async () => {
    const agent = slowAgent();
    const c = conversation({ onPush: agent.onPush });
    const { registrationId } = await c.register({ agentSessionId: "first" });
    const answer = c.callback("r1");
    await vi.waitFor(() => expect(c.pushed).toHaveLength(1));
    await c.records.renew(registrationId, "second");
    agent.answer("ended");
    await vi.waitFor(() => expect(c.pushed).toHaveLength(2));
    agent.answer("delivered");
    expect(await answer).toMatchObject({ kind: "delivered" });
    expect(await c.sessions.get("c1")).toMatchObject({ registrationId, agentSessionId: "second" });
  });
});

describe("nobody there", () => {
  test("an expired session is told apart from one that never was", async () => {
    const c = conversation();
    expect(await c.callback("r1")).toEqual({ kind: "queued", reason: "session_not_found" });
    await c.register({ sessionUrl: undefined, transport: "webrtc" });
    await c.clock.advance(601_000);
    expect(await c.callback("r2")).toEqual({ kind: "queued", reason: "session_expired" });
  });

  test("what waits is handed over in one push, oldest first, and only once", async () => {
    const c = conversation();
    for (const requestId of ["r1", "r2", "r3"]) await c.callback(requestId);
    await c.register();
    await c.register({ sessionUrl: "wss://agent.example/reloaded" });
    await c.delivery.rest();
    expect(c.pushed.map(({ requestIds }) => requestIds)).toEqual([["r1", "r2", "r3"]]);
  });

  test("a hand-over is two pushes: the silent results as context, the others as one text", async () => {
    const c = conversation();
    await c.callback("s1", { delivery: "silent" });
    await c.callback("r1");
    await c.callback("s2", { mode: "context" });
    await c.callback("r2", { delivery: "interrupt" });
    await c.register();
    expect(c.pushed).toMatchObject([
      { requestIds: ["s1", "s2"], delivery: "silent" },
      { requestIds: ["r1", "r2"], delivery: "interrupt" },
    ]);
  });

  test("two hundred waiting results are all handed over, each once", async () => {
    const c = conversation();
    for (let i = 0; i < 200; i++) await c.callback(`task-${i}`);
    await c.register();
    await c.delivery.rest();
    expect(c.pushed.flatMap(({ requestIds }) => requestIds)).toEqual(
      Array.from({ length: 200 }, (_, i) => `task-${i}`),
    );
    for (const { text } of c.pushed) expect(text.length).toBeLessThanOrEqual(4_000);
  });

  test("of more than two hundred the oldest is dropped, and known to have been", async () => {
    const c = conversation();
    for (let i = 0; i < 201; i++) await c.callback(`task-${i}`);
    expect(c.row("task-0").status).toBe("dropped");
    expect(await c.callback("task-0")).toEqual({ kind: "duplicate", delivered: false });
    expect(c.row("task-1").status).toBe("waiting");
    expect(c.lines).toContainEqual(
      expect.objectContaining({ event: "result.settled", status: "dropped", callbackRequestId: "task-0" }),
    );
  });

  test("a result waits as long as its conversation lives, and not for ever", async () => {
    const c = conversation();
    await c.callback("r1");
    await c.clock.advance(30 * 24 * 3600 * 1000 - 1);
    await c.alarm();
    expect(c.row("r1").status).toBe("waiting");
    await c.clock.advance(1);
    await c.alarm();
    expect(c.row("r1").status).toBe("expired");
  });
});

describe("what a callback asks for", () => {
  test("deliverBy: not said after that moment, and known as expired", async () => {
    const c = conversation();
    const late = new Date(START - 1).toISOString();
    expect(await c.callback("r0", { deliverBy: late })).toEqual({ kind: "settled", status: "expired" });
    await c.callback("r1", { deliverBy: new Date(START + 60_000).toISOString() });
    await c.clock.advance(60_000);
    await c.register();
    expect(c.pushed).toEqual([]);
    expect(await c.callback("r1", { deliverBy: new Date(START + 60_000).toISOString() })).toEqual({
      kind: "duplicate",
      delivered: false,
    });
    expect(await c.history()).toEqual(["callback:r0", "callback:r1"]);
  });

  test("topic: a newer result takes the place of one that waits", async () => {
    const c = conversation();
    await c.callback("r1", { topic: "weather" });
    await c.callback("r2", { topic: "news" });
    await c.callback("r3", { topic: "weather" });
    await c.register();
    expect(c.pushed.flatMap(({ requestIds }) => requestIds)).toEqual(["r2", "r3"]);
    expect(c.row("r1").status).toBe("superseded");
  });

  test("the same requestId with another result is refused, and nothing is pushed", async () => {
    const c = conversation();
    await c.register();
    await c.callback("r1");
    expect(await c.callback("r1", { output: "something else" })).toEqual({ kind: "reused" });
    expect(c.pushed).toHaveLength(1);
  });

  test("a settled result is known for 48 hours, and forgotten within an hour after that", async () => {
    const c = conversation();
    await c.register();
    await c.callback("r1");
    await c.clock.advance(48 * 3600 * 1000);
    await c.alarm();
    expect(await c.callback("r1")).toMatchObject({ kind: "duplicate" });
    await c.clock.advance(3600 * 1000);
    await c.alarm();
    expect(await c.callback("r1")).toMatchObject({ kind: "queued" });
  });
});

describe("while somebody speaks", () => {
  test("results gather, senders know at once, and one push follows the end of the turn", async () => {
    const c = conversation();
    await c.register();
    c.turn.note({ type: "agent_speaking" });
    for (const requestId of ["r1", "r2", "r3"]) {
      expect(await c.callback(requestId)).toEqual({ kind: "queued", reason: "agent_busy" });
    }
    await c.clock.advance(2_000);
    c.turn.note({ type: "agent_listening" });
    c.delivery.wake();
    await c.delivery.rest();
    expect(c.pushed.map(({ requestIds }) => requestIds)).toEqual([["r1", "r2", "r3"]]);
  });

  test("nobody waits for more than eight seconds", async () => {
    const c = conversation();
    await c.register();
    c.turn.note({ type: "agent_speaking" });
    await c.callback("r1");
    await c.clock.advance(7_999);
    expect(c.pushed).toEqual([]);
    await c.clock.advance(1);
    await c.delivery.rest();
    expect(c.tellings("r1")).toBe(1);
  });

  test("interrupt goes at once and overtakes; silent goes at once and does not speak", async () => {
    const c = conversation();
    await c.register();
    c.turn.note({ type: "agent_speaking" });
    await c.callback("r1");
    expect(await c.callback("now", { delivery: "interrupt" })).toMatchObject({ kind: "delivered" });
    expect(await c.callback("quiet", { delivery: "silent" })).toMatchObject({ kind: "delivered" });
    expect(c.pushed.map(({ requestIds, delivery }) => [...requestIds, delivery])).toEqual([
      ["now", "interrupt"],
      ["quiet", "silent"],
    ]);
  });
});

describe("an object that dies", () => {
  test("before anybody looked at a result: the sender's retry is a first delivery", async () => {
    const c = conversation();
    await c.register();
    const reached = hang(c);
    void c.callback("r1");
    await reached;
    c.hooks.beforeCommit = async () => {};
    c.restart();
    expect(await c.callback("r1")).toMatchObject({ kind: "delivered" });
    expect(await c.history()).toEqual(["callback:r1"]);
  });

  test("before it has written that the history has a result: it is given again, and stands there once", async () => {
    const c = conversation();
    await c.open().hello();
    void c.callback("r1");
    await vi.waitFor(async () => expect(await c.history()).toEqual(["callback:r1"]));
    c.restart();
    expect(c.results.notInHistory(-1)).toMatchObject([{ requestId: "r1" }]);
    await c.alarm();
    expect(c.results.lacksHistory()).toBe(false);
    c.restart();
    expect(c.results.lacksHistory()).toBe(false);
    expect(await c.history()).toEqual(["callback:r1"]);
  });

  test("while a frame is on its way: it may have been heard, and is told once more in the next conversation", async () => {
    const agent = slowAgent();
    const c = conversation(agent);
    await c.register();
    void c.callback("r1");
    await vi.waitFor(() => expect(c.pushed).toHaveLength(1));
    c.restart();
    expect(c.row("r1")).toMatchObject({ status: "unconfirmed", attempts: [{ outcome: "unconfirmed" }] });
    await c.register();
    expect(c.tellings("r1")).toBe(1);
    await c.register({ sessionUrl: "wss://agent.example/reloaded" }, false);
    await vi.waitFor(() => expect(c.tellings("r1")).toBe(2));
  });

  test("with a result that waits, or is settled, goes on where it was", async () => {
    const c = conversation();
    await c.callback("r1");
    c.restart();
    await c.register();
    expect(c.tellings("r1")).toBe(1);
    c.restart();
    expect(await c.callback("r1")).toMatchObject({ kind: "duplicate", delivered: true });
    await c.register({ sessionUrl: "wss://agent.example/reloaded" });
    expect(c.tellings("r1")).toBe(1);
  });

  test("after a sender was told pending is called by its alarm within half a minute", async () => {
    const c = conversation();
    await c.register();
    const reached = hang(c);
    const answer = c.callback("r1");
    await reached;
    await c.clock.advance(8_000);
    expect(await answer).toEqual({ kind: "queued", reason: "pending" });
    expect(c.results.nextDue(true)).toBe(START + 30_000);
    c.hooks.beforeCommit = async () => {};
    c.restart();
    await c.alarm();
    expect(c.row("r1").status).toBe("delivered");
  });
});

describe("while Redis is down", () => {
  test("a conversation that Redis has forgotten meanwhile is made anew with the first message after it", async () => {
    const c = conversation();
    await c.register();
    await c.live(120_000);
    await c.emptyRedis();
    // An instance could not reach Redis, and asks the object, which can.
    await c.records.append({
      id: "m1",
      role: "user",
      content: "still here",
      source: "api",
      timestamp: new Date(START).toISOString(),
    });
    expect(await c.conversations.get("c1")).not.toBe(null);
    expect(await c.history()).toEqual(["m1"]);
  });

  test("a request that had been given up, and is carried out late, does not bring back the session before", async () => {
    const c = conversation();
    c.redisIs("down");
    const given = await c.register({ sessionUrl: "wss://agent.example/given-up" });
    c.redisIs("up");
    await c.clock.advance(100);
    const { registrationId } = await c.register({ sessionUrl: "wss://agent.example/now" });
    await c.sessions.set(given);
    await c.live(10_000);
    expect(await c.sessions.get("c1")).toMatchObject({ registrationId });
  });

  test("a session is pushed to by the copy, and the history follows when Redis is back", async () => {
    const c = conversation();
    await c.register();
    c.redisIs("down");
    await c.clock.advance(60_000);
    expect(await c.callback("r1")).toMatchObject({ kind: "delivered" });
    await c.alarm();
    c.redisIs("up");
    await c.alarm();
    expect(await c.history()).toEqual(["callback:r1"]);
  });

  test("a copy dies with the 600 s of its session", async () => {
    const c = conversation();
    await c.register();
    c.redisIs("down");
    await c.clock.advance(600_000);
    expect(await c.callback("r1")).toEqual({ kind: "queued", reason: "session_expired" });
    expect(c.pushed).toEqual([]);
  });

  test("a session that is registered meanwhile is pushed to, and stands in Redis afterwards with the time it has left", async () => {
    const c = conversation();
    c.redisIs("down");
    const session = await c.register();
    expect(await c.callback("r1")).toMatchObject({ kind: "delivered" });
    await c.clock.advance(100_000);
    c.redisIs("up");
    await c.alarm();
    expect(await c.sessions.get("c1")).toMatchObject({ registrationId: session.registrationId });
    expect(await c.conversations.get("c1")).not.toBeNull();
    await c.clock.advance(500_000);
    expect(await c.sessions.get("c1")).toBeNull();
  });

  test("a session that is ended meanwhile is not pushed to, and is gone from Redis afterwards", async () => {
    const c = conversation();
    const { registrationId } = await c.register();
    c.redisIs("down");
    expect(await c.records.ended(registrationId)).toBe(true);
    expect(await c.callback("r1")).toEqual({ kind: "queued", reason: "session_expired" });
    c.redisIs("up");
    expect(await c.callback("r2")).toEqual({ kind: "queued", reason: "session_expired" });
    await c.alarm();
    expect(await c.sessions.get("c1")).toBeNull();
  });

  test("what was registered later by an instance that reached Redis is not replaced by what was kept", async () => {
    const c = conversation();
    c.redisIs("down");
    const kept = await c.register();
    await c.clock.advance(1_000);
    c.redisIs("up");
    const later = { ...kept, registrationId: "later", createdAt: new Date(c.clock.now()).toISOString() };
    await c.sessions.set(later);
    await c.alarm();
    expect(await c.sessions.get("c1")).toMatchObject({ registrationId: "later" });
  });

  test("nobody is there, as far as anybody knows, is looked at again when Redis is back", async () => {
    const c = conversation();
    c.redisIs("down");
    expect(await c.callback("r1")).toEqual({ kind: "queued", reason: "session_not_found" });
    const registered = {
      version: 1,
      conversationId: "c1",
      registrationId: "elsewhere",
      sessionPayload: null,
      wsUrl: "wss://agent.example/live",
      createdAt: new Date(c.clock.now()).toISOString(),
      ttl: 600,
    };
    c.redisIs("up");
    await c.sessions.set(registered);
    expect(c.records.nextDue()).not.toBeNull();
    await c.alarm();
    expect(c.row("r1").status).toBe("delivered");
  });

  test("a hundred messages of 60 kB are given back, however many requests it takes", async () => {
    const c = conversation();
    c.redisIs("down");
    for (let i = 0; i < 100; i++) {
      await c.records.append({
        id: `m${i}`,
        role: "user",
        content: "x".repeat(60_000),
        source: "api",
        timestamp: new Date(START).toISOString(),
      });
    }
    c.redisIs("up");
    let requests = 0;
    c.hooks.beforeCommit = async () => void requests++;
    await c.alarm();
    expect(requests).toBeGreaterThan(5);
    const { messages } = await c.conversations.page("c1", 1_000);
    expect(messages.at(-1)?.id).toBe("m99");
    expect(c.records.nextDue()).toBeGreaterThan(c.clock.now() + 60_000);
  });
});

describe("a conversation that was deleted", () => {
  test("is gone for 48 hours: retries are duplicates, new callbacks are discarded, nothing is said", async () => {
    const c = conversation();
    await c.callback("r1");
    expect(await c.records.forget()).toBe(true);
    expect(await c.conversations.get("c1")).toBeNull();
    expect(await c.callback("r1")).toEqual({ kind: "duplicate", delivered: false });
    await expect(c.register()).rejects.toMatchObject({ code: "conversation_deleted" });
    expect(c.pushed).toEqual([]);
    expect(c.row("r1").text).toBeNull();
    expect(await c.history()).toEqual([]);
  });

  test("during a hand-over does not come back, whatever the agent says afterwards", async () => {
    const agent = slowAgent();
    const c = conversation(agent);
    await c.callback("r1");
    await c.register({}, false);
    await vi.waitFor(() => expect(c.pushed).toHaveLength(1));
    const forgotten = c.records.forget();
    agent.answer("delivered");
    await forgotten;
    await c.delivery.rest();
    await c.alarm();
    expect(await c.conversations.get("c1")).toBeNull();
    expect(await c.sessions.get("c1")).toBeNull();
    expect(await c.history()).toEqual([]);
    expect(c.row("r1").status).toBe("dropped");
  });

  test("while Redis is down is deleted there afterwards, and what was kept for it is dropped", async () => {
    const c = conversation();
    await c.register();
    await c.callback("r1");
    c.redisIs("down");
    await c.records.append({
      id: "m1",
      role: "user",
      content: "hi",
      source: "api",
      timestamp: new Date(START).toISOString(),
    });
    expect(await c.records.forget()).toBe(true);
    c.redisIs("up");
    await c.alarm();
    expect(await c.conversations.get("c1")).toBeNull();
    expect(await c.history()).toEqual([]);
    await expect(
      c.conversations.append("c1", [{ id: "m2", role: "user", content: "x", source: "api", timestamp: "t" }]),
    ).rejects.toMatchObject({ code: "conversation_deleted" });
    expect(await c.history()).toEqual([]);
  });

  test("is free again after 48 hours", async () => {
    const c = conversation();
    await c.register();
    await c.records.forget();
    await c.clock.advance(48 * 3600 * 1000);
    await c.register();
    expect(await c.conversations.get("c1")).not.toBeNull();
  });

  test("and then the ids of its results are as good as new", async () => {
    const c = conversation();
    await c.register();
    await c.callback("r1");
    await c.clock.advance(60_000);
    await c.records.forget();
    await c.clock.advance(48 * 3600 * 1000);
    await c.alarm();
    expect(c.results.list({ limit: 10 })).toEqual([]);
    await c.register();
    expect(await c.callback("r1", { output: "something else" })).toMatchObject({ kind: "delivered" });
    expect(await c.history()).toEqual(["callback:r1"]);
  });
});

describe("what happens while something else is under way", () => {
  /** Holds the next commit back until `go` is called. */
  function holdCommit({ hooks }: ReturnType<typeof conversation>) {
    const { promise: gone, resolve: go } = Promise.withResolvers<void>();
    const { promise: reached, resolve: reach } = Promise.withResolvers<void>();
    hooks.beforeCommit = async () => {
      hooks.beforeCommit = async () => {};
      reach();
      await gone;
    };
    return { reached, go };
  }
  const message = (id: string) =>
    ({ id, role: "user", content: id, source: "api", timestamp: new Date(START).toISOString() }) as const;

  test("a session that ends between two channels is not dialled by the second", async () => {
    const dialled: PushMessage[] = [];
    const c = conversation({
      channels: () => [
        createTestChannel([], {
          name: "relay",
          onPush: async () => {
            await c.records.ended(null);
            return { outcome: "unreachable" };
          },
        }),
        createTestChannel(dialled),
      ],
    });
    await c.register();
    const answer = c.callback("r1");
    await vi.waitFor(() => expect(c.row("r1").attempts).toHaveLength(1));
    await c.clock.advance(1_000);
    expect(await answer).toEqual({ kind: "queued", reason: "session_expired" });
    expect(dialled).toEqual([]);
  });

  test("an id that is learned while a result is being said is where it was said", async () => {
    const agent = slowAgent();
    const c = conversation(agent);
    const { registrationId } = await c.register();
    const answer = c.callback("r1");
    await vi.waitFor(() => expect(c.pushed).toHaveLength(1));
    await c.records.renew(registrationId, "conv_1");
    await c.register({ sessionUrl: "wss://agent.example/again", agentSessionId: "conv_1" }, false);
    agent.answer("unconfirmed");
    await answer;
    await c.delivery.rest();
    expect(c.tellings("r1")).toBe(1);
  });

  test("an acknowledgement of what was not said yet, by a page that told it by itself, answers its sender", async () => {
    const c = conversation();
    const answer = c.callback("r1");
    expect(c.delivery.acknowledge(["r1"])).toEqual(["r1"]);
    expect(await answer).toEqual({ kind: "delivered" });
  });

  test("what a page told by itself was told by no channel that had failed to", async () => {
    const c = conversation({ onPush: answering("refused"), onReceipt: () => "accepted" });
    await c.register();
    expect(await c.callback("r1")).toMatchObject({ kind: "queued", reason: "push_failed" });
    expect(c.delivery.acknowledge(["r1"])).toEqual(["r1"]);
    expect(await c.callback("r1")).toEqual({ kind: "duplicate", delivered: true });
    expect(c.lines.find(({ event }) => event === "result.settled")).toMatchObject({ channel: null });
    await c.live(1_000);
    expect(c.sent.find(({ type }) => type === "result.delivered")?.data).toMatchObject({ channel: null });
  });

  test("an acknowledgement of what is being said answers its sender", async () => {
    const agent = slowAgent();
    const c = conversation(agent);
    await c.register();
    const answer = c.callback("r1");
    await vi.waitFor(() => expect(c.pushed).toHaveLength(1));
    c.delivery.acknowledge(["r1"]);
    expect(await answer).toEqual({ kind: "delivered", channel: "socket", proof: "heard" });
    agent.answer("refused");
    await c.delivery.rest();
    expect(c.row("r1").status).toBe("delivered");
  });

  test("a delete while a message is on its way to Redis leaves nothing of it", async () => {
    const c = conversation();
    const { reached, go } = holdCommit(c);
    const appended = c.records.append(message("m1"));
    await reached;
    const forgotten = c.records.forget();
    c.redisIs("down");
    go();
    await expect(appended).rejects.toMatchObject({ code: "conversation_deleted" });
    await forgotten;
    c.redisIs("up");
    await c.alarm();
    await c.alarm();
    expect(await c.history()).toEqual([]);
    expect(await c.conversations.list(10)).toEqual({ conversations: [] });
  });

  test("a delete while a registration is renewed voids the session", async () => {
    const c = conversation();
    const { registrationId } = await c.register();
    await c.clock.advance(61_000);
    const { reached, go } = holdCommit(c);
    const renewed = c.records.renew(registrationId, undefined);
    await reached;
    const forgotten = c.records.forget();
    go();
    await Promise.allSettled([renewed, forgotten]);
    await c.alarm();
    expect(c.records.current.alone(c.clock.now())).toBeNull();
    expect(await c.sessions.get("c1")).toBeNull();
  });

  test("a retry of a sender does not bring a deleted conversation back into the list", async () => {
    const c = conversation();
    await c.callback("r1");
    await c.records.forget();
    await c.clock.advance(61_000);
    await c.callback("r1");
    for (let i = 0; i < 3; i++) {
      await c.alarm();
      await c.clock.advance(61_000);
    }
    expect(await c.conversations.list(10)).toEqual({ conversations: [] });
  });

  test("a registration that comes while another is being ended is not forgotten", async () => {
    const c = conversation();
    const { reached, go } = holdCommit(c);
    const ended = c.records.ended(null);
    await reached;
    c.redisIs("down");
    const registering = c.register({ sessionUrl: "wss://agent.example/new" }, false);
    await c.clock.settle();
    c.redisIs("up");
    go();
    await ended;
    const { registrationId } = await registering;
    await c.alarm();
    expect(await c.sessions.get("c1")).toMatchObject({ registrationId });
  });

  test("an older registration's renewal does not take the place of a newer one in Redis", async () => {
    const c = conversation();
    const first = await c.register();
    await c.clock.advance(1_000);
    const second = { ...first, registrationId: "second", createdAt: new Date(c.clock.now()).toISOString() };
    await c.sessions.set(second);
    expect(await c.records.renew(first.registrationId, undefined)).toBeNull();
    expect(await c.sessions.get("c1")).toMatchObject({ registrationId: "second" });
  });
});

describe("what was found to go wrong once", () => {
  test("two ends while Redis is down: both are told to it", async () => {
    const c = conversation();
    const first = await c.register();
    await c.clock.advance(1_000);
    const second = await c.register({ sessionUrl: "wss://agent.example/second" });
    c.redisIs("down");
    await c.records.ended(second.registrationId);
    await c.records.ended(first.registrationId);
    c.redisIs("up");
    await c.alarm();
    expect(await c.sessions.get("c1")).toBeNull();
  });

  test("a registration that comes after its own end is no news", async () => {
    const c = conversation();
    const session = await c.register();
    await c.records.ended(session.registrationId);
    const to = { agentSessionId: null, urlDigest: null, registrationId: session.registrationId };
    await c.records.registered(session, to, false);
    expect(await c.callback("r1")).toEqual({ kind: "queued", reason: "session_expired" });
  });

  test("a renewal in an outage is refused only where it is known to be another's", async () => {
    const c = conversation();
    c.redisIs("down");
    await expect(c.records.renew("unknown", undefined)).rejects.toMatchObject({
      code: "storage_unavailable",
    });
    const { registrationId } = await c.register();
    expect(await c.records.renew("unknown", undefined)).toBeNull();
    expect(await c.records.renew(registrationId, undefined)).toMatchObject({ registrationId });
  });

  test("a registration that Redis could not take stays one that it has to be told of, whatever comes late", async () => {
    const c = conversation();
    c.redisIs("down");
    const session = await c.register();
    const to = { agentSessionId: null, urlDigest: null, registrationId: session.registrationId };
    await c.records.registered(session, to, false);
    c.redisIs("up");
    await c.alarm();
    expect(await c.sessions.get("c1")).toMatchObject({ registrationId: session.registrationId });
  });

  test("a conversation whose first sign came in an outage is made afterwards, by an object that died in between too", async () => {
    const c = conversation();
    c.redisIs("down");
    await c.callback("r1");
    c.restart();
    c.redisIs("up");
    await c.alarm();
    expect(await c.conversations.get("c1")).not.toBeNull();
    expect((await c.conversations.list(10)).conversations).toHaveLength(1);
  });

  test("a conversation that Redis has forgotten in an outage is there again with what was acknowledged in it", async () => {
    const c = conversation();
    await c.conversations.create(c.conversations.fresh("c1"));
    await c.callback("r1");
    c.redisIs("down");
    await c.callback("r2");
    c.redisIs("up");
    await c.emptyRedis();
    await c.alarm();
    expect(await c.conversations.get("c1")).not.toBeNull();
    expect(await c.history()).toEqual(["callback:r2"]);
  });

  test("a registration that was given up as lost and is carried out late does not take a newer one's place", async () => {
    const c = conversation();
    c.redisIs("down");
    const given = await c.register();
    await c.clock.advance(1_000);
    const newer = await c.register({ sessionUrl: "wss://agent.example/newer" });
    c.redisIs("up");
    await c.alarm();
    await c.sessions.set(given);
    expect(c.records.nextDue()).toBeLessThanOrEqual(c.clock.now() + 1_000);
    await c.clock.advance(3_000);
    await c.alarm();
    expect(await c.sessions.get("c1")).toMatchObject({ registrationId: newer.registrationId });
    expect(c.records.nextDue()).toBeGreaterThan(c.clock.now() + 60_000);
  });

  test("messages that are kept stay before those that come when Redis is back", async () => {
    const c = conversation();
    const message = (id: string) =>
      ({ id, role: "user", content: id, source: "api", timestamp: new Date(START).toISOString() }) as const;
    c.redisIs("down");
    await c.records.append(message("m1"));
    c.redisIs("up");
    await c.records.append(message("m2"));
    expect(await c.history()).toEqual(["m1", "m2"]);
  });

  test("what stood behind an unconfirmed message is tried again by the alarm", async () => {
    const c = conversation({ onPush: answering("unconfirmed") });
    for (let i = 0; i < 120; i++) await c.callback(`task-${i}`);
    await c.register();
    expect(c.results.list({ status: "waiting", limit: 200 }).length).toBeGreaterThan(0);
    expect(c.results.nextDue(true)).toBe(START + 60_000);
    await c.clock.advance(60_000);
    await c.alarm();
    expect(c.results.list({ status: "waiting", limit: 200 })).toEqual([]);
  });

  test("nothing calls the alarm again and again for what was told here already", async () => {
    const c = conversation({ onPush: answering("unconfirmed", "refused") });
    await c.register({ sessionUrl: "wss://agent.example/a" });
    await c.callback("r1");
    await c.register({ sessionUrl: "wss://agent.example/b" });
    await c.register({ sessionUrl: "wss://agent.example/a" });
    await c.clock.advance(60_000);
    await c.alarm();
    expect(c.results.nextDue(true)).toBeGreaterThan(c.clock.now() + 3_600_000);
  });

  test("a channel that throws may have sent something", async () => {
    const c = conversation({
      onPush: () => {
        throw new Error("broken");
      },
    });
    await c.register();
    expect(await c.callback("r1")).toEqual({ kind: "queued", reason: "unconfirmed" });
  });

  test("a result that comes too late takes nobody's place", async () => {
    const c = conversation();
    await c.callback("r1", { topic: "weather" });
    await c.callback("r2", { topic: "weather", deliverBy: new Date(START - 1).toISOString() });
    expect(c.row("r1").status).toBe("waiting");
  });

  test("results that are held have a time at which somebody looks again", async () => {
    const c = conversation();
    await c.register();
    c.turn.note({ type: "agent_speaking" });
    await c.callback("r1");
    expect(c.results.nextDue(true)).toBe(START + 8_000);
    c.restart();
    await c.clock.advance(8_000);
    await c.alarm();
    expect(c.tellings("r1")).toBe(1);
  });
});

test("a renewal that Redis refused is still due in the next life of the object", async () => {
  const c = conversation();
  await c.register();
  await c.callback("r1");
  await c.clock.advance(61_000);
  c.hooks.beforeCommit = () => Promise.reject(new StorageError("sqlite", "commit", "rejected"));
  expect(await c.callback("r2")).toMatchObject({ kind: "delivered" });
  c.restart();
  const renewed: string[] = [];
  c.hooks.beforeCommit = async (writes) => {
    for (const { type, key } of writes) if (type === "touch") renewed.push(key);
  };
  await c.live(120_000);
  expect(renewed).toContain("elevenlabs:conversation:c1");
});
