/** The relay on the tables and the loop of a conversation's object, with a clock that the test turns. */
import { describe, expect, onTestFinished, test } from "vitest";
import { keys } from "../../lib/keys.ts";
import { MAX_LINES } from "../../lib/live/relay.ts";
import { START, testConversation } from "../support/live.ts";

const MINUTE = 60_000;

function conversation(options: Parameters<typeof testConversation>[0] = {}) {
  const made = testConversation(options);
  onTestFinished(() => made.close());
  return made;
}
type Conversation = ReturnType<typeof conversation>;

/** A page that has been welcomed. */
async function attached(c: Conversation, fields: object = {}) {
  const line = c.open();
  await line.hello(fields);
  await c.clock.settle();
  expect(line.frames[0]).toMatchObject({ type: "welcome" });
  return line;
}

/** Whatever is written to Redis waits, until that is released. */
function holdRedis(c: Conversation): () => void {
  const { promise, resolve } = Promise.withResolvers<void>();
  c.hooks.beforeCommit = () => promise;
  return resolve;
}

async function sessionInRedis(c: Conversation) {
  return c.sessions.get("c1");
}

const eventsOf = (c: Conversation) => c.lines.map(({ event }) => event);
const countOf = (c: Conversation, event: string) => eventsOf(c).filter((other) => other === event).length;

describe("attaching", () => {
  test("registers: Redis has the record, 600 s, and where no session was given none that could be dialled", async () => {
    const c = conversation();
    const line = await attached(c, { agentSessionId: "conv_1" });
    const session = await sessionInRedis(c);
    expect(session).toMatchObject({
      sessionPayload: null,
      agentSessionId: "conv_1",
      channel: "relay",
      ttl: 600,
    });
    expect(session).not.toHaveProperty("wsUrl");
    expect(line.frames).toEqual([
      {
        type: "welcome",
        conversationId: "c1",
        registrationId: session?.registrationId,
        expiresAt: new Date(START + 600_000).toISOString(),
      },
    ]);
    expect(await c.storage.ttl(keys.session("c1"))).toBe(600);
  });

  test("keeps a session that is given raw, and reads its rules as POST does", async () => {
    const c = conversation();
    const session = {
      sessionUrl: "wss://agent.example/?token=x",
      odd: { "": [1, null] },
      transport: "websocket",
    };
    await attached(c, { session });
    expect(await sessionInRedis(c)).toMatchObject({ sessionPayload: session, wsUrl: session.sessionUrl });

    const wrong = c.open();
    await wrong.hello({ session: { ...session, transport: "pigeon" } });
    expect(wrong.socket.closing).toMatchObject({ code: 1008, reason: expect.stringContaining("transport") });
  });

  test("the word of a page proves no agent conversation, that of its token does", async () => {
    const c = conversation();
    await attached(c, { agentSessionId: "conv_1" });
    expect(await sessionInRedis(c)).not.toHaveProperty("provenAgentSessionId");
    const line = c.open({ kind: "page", agentSessionId: "conv_2" });
    await line.hello();
    expect(await sessionInRedis(c)).toMatchObject({
      agentSessionId: "conv_2",
      provenAgentSessionId: "conv_2",
    });
  });

  test.each([{ kind: "page", agentSessionId: undefined }, { kind: "server" }] as const)(
    "by a %j under an id that no agent has builds no key of it",
    async (caller) => {
      const c = conversation();
      await c.open(caller).hello({ agentSessionId: "conv 1:*" });
      await c.clock.settle();
      expect(await c.storage.get(keys.agentConversation("conv 1:*"))).toBe(null);
    },
  );

  test("goes on while Redis is down, and Redis is told afterwards", async () => {
    const c = conversation();
    c.redisIs("down");
    const line = await attached(c);
    c.callback("r1");
    await c.clock.settle();
    expect(line.pushes()).toEqual([["r1"]]);
    await line.ack("r1");
    c.redisIs("up");
    expect(await sessionInRedis(c)).toBe(null);
    await c.live(MINUTE);
    expect(await sessionInRedis(c)).toMatchObject({ channel: "relay" });
    expect(await c.history()).toEqual(["callback:r1"]);
  });

  test("while a result is taken in: it is said right behind the welcome", async () => {
    const c = conversation();
    const release = holdRedis(c);
    const answer = c.callback("r1");
    await c.clock.settle();
    const line = c.open();
    void line.hello();
    await c.clock.settle();
    release();
    await c.clock.settle();
    expect(line.frames.map(({ type }) => type)).toEqual(["welcome", "push"]);
    await line.ack("r1");
    expect(await answer).toEqual({ kind: "delivered", channel: "relay", proof: "heard" });
  });

  test("for so long that the alarm rings meanwhile: the page is not taken for one that was lost", async () => {
    const c = conversation();
    const release = holdRedis(c);
    const line = c.open();
    void line.hello();
    await c.clock.advance(1_500);
    expect(c.nextDue()).toBeGreaterThan(c.clock.now());
    const alarm = c.alarm();
    await c.clock.settle();
    release();
    await alarm;
    expect(line.frames).toMatchObject([{ type: "welcome" }]);
    expect(await sessionInRedis(c)).toMatchObject({ channel: "relay" });
  });

  test("is refused by a conversation that was deleted, and a delete ends the lines there are", async () => {
    const c = conversation();
    const line = await attached(c);
    await c.forget();
    expect(line.socket.closing).toEqual({ code: 4001, reason: "conversation_deleted" });
    const late = c.open();
    await late.hello();
    expect(late.socket.closing).toEqual({ code: 1008, reason: "conversation_deleted" });
    expect(await sessionInRedis(c)).toBe(null);
  });
});

describe("a push", () => {
  test("is delivered when it is acknowledged, and the sender knows", async () => {
    const c = conversation();
    const line = await attached(c);
    const answer = c.callback("r1");
    await c.clock.settle();
    expect(line.pushes()).toEqual([["r1"]]);
    await line.ack("r1");
    expect(await answer).toEqual({ kind: "delivered", channel: "relay", proof: "heard" });
    expect(c.row("r1").status).toBe("delivered");
  });

  test("does not wait for Redis; its sender does, until the history has the result", async () => {
    const c = conversation();
    const line = await attached(c);
    const release = holdRedis(c);
    let answer: object | null = null;
    void c.callback("r1").then((given) => {
      answer = given;
    });
    await c.clock.settle();
    expect(line.pushes()).toEqual([["r1"]]);
    await line.ack("r1");
    await c.clock.settle();
    expect(c.row("r1").status).toBe("delivered");
    expect(answer).toBe(null);
    // Nor is who sends it again, or sends what nobody is to hear any more.
    const others: Promise<object>[] = [
      c.callback("r1"),
      c.callback("late", { deliverBy: "2020-01-01T00:00:00Z" }),
    ];
    let answered = 0;
    for (const other of others) void other.then(() => (answered += 1));
    await c.clock.settle();
    expect(answered).toBe(0);
    void c.callback("r2");
    await c.clock.settle();
    expect(line.pushes()).toEqual([["r1"], ["r2"]]);
    release();
    await c.clock.settle();
    expect(answer).toEqual({ kind: "delivered", channel: "relay", proof: "heard" });
    expect(await Promise.all(others)).toMatchObject([{ kind: "duplicate" }, { kind: "settled" }]);
    expect(await c.history()).toEqual(expect.arrayContaining(["callback:r1", "callback:late"]));
  });

  test("is unconfirmed after 5 s; an acknowledgement after 6 s settles it, and the next hand-over leaves it out", async () => {
    const c = conversation();
    const line = await attached(c, { agentSessionId: "conv_1" });
    const answer = c.callback("r1");
    await c.clock.advance(5_000);
    expect(await answer).toEqual({ kind: "queued", reason: "unconfirmed" });
    await c.clock.advance(1_000);
    await line.ack("r1");
    expect(c.row("r1")).toMatchObject({ status: "delivered", attempts: [{ outcome: "delivered" }] });
    expect(eventsOf(c)).toContain("result.settled");
    const next = await attached(c, { agentSessionId: "conv_2" });
    expect(next.pushes()).toEqual([]);
  });

  test("that is acknowledged after the object was evicted is settled all the same", async () => {
    const c = conversation();
    const line = await attached(c);
    void c.callback("r1");
    await c.clock.settle();
    c.restart();
    expect(c.row("r1").status).toBe("unconfirmed");
    await line.ack("r1");
    expect(c.row("r1").status).toBe("delivered");
  });

  test("that the page will not say waits, its sender knows at once, and the next attach tries again", async () => {
    const c = conversation();
    const line = await attached(c);
    const answer = c.callback("r1");
    await c.clock.settle();
    await line.say({ type: "nack", requestIds: ["r1"], reason: "conversation_closed" });
    expect(await answer).toEqual({ kind: "queued", reason: "push_failed" });
    expect(c.row("r1")).toMatchObject({ status: "waiting", tellings: 0, attempts: [{ outcome: "refused" }] });
    await c.clock.settle();
    expect(line.pushes()).toHaveLength(1);
    const next = await attached(c);
    expect(next.pushes()).toEqual([["r1"]]);
  });

  test("that is refused late, when it was unconfirmed already, waits again", async () => {
    const c = conversation();
    const line = await attached(c);
    void c.callback("r1");
    await c.clock.advance(5_000);
    expect(c.row("r1").status).toBe("unconfirmed");
    await line.say({ type: "nack", requestIds: ["r1"], reason: "send_failed" });
    expect(c.row("r1")).toMatchObject({ status: "waiting", tellings: 0 });
  });

  test("acknowledged in part and refused in part is both", async () => {
    const c = conversation();
    await c.callback("r1");
    await c.callback("r2");
    const line = await attached(c);
    expect(line.pushes()).toEqual([["r1", "r2"]]);
    await line.ack("r1");
    await line.say({ type: "nack", requestIds: ["r2"], reason: "partly_said" });
    await c.clock.settle();
    expect(c.row("r1").status).toBe("delivered");
    expect(c.row("r2").status).toBe("waiting");
  });

  test("cannot be refused by a page that was not told", async () => {
    const c = conversation();
    const first = await attached(c, { agentSessionId: "conv_1" });
    await attached(c, { agentSessionId: "conv_2" });
    void c.callback("r1");
    await c.clock.settle();
    await first.say({ type: "nack", requestIds: ["r1"], reason: "spite" });
    expect(c.row("r1").status).toBe("saying");
  });
});

describe("the same page, come back", () => {
  test("replaces its own line and is told what it did not hear, though the old line never closed", async () => {
    const c = conversation();
    const old = await attached(c, { agentSessionId: "conv_1" });
    const answer = c.callback("r1");
    await c.clock.settle();
    expect(old.pushes()).toEqual([["r1"]]);
    const back = await attached(c, { agentSessionId: "conv_1", heard: [] });
    expect(old.frames.at(-1)).toEqual({ type: "replaced" });
    expect(old.socket.closing).toMatchObject({ code: 4001 });
    expect(back.pushes()).toEqual([["r1"]]);
    await back.ack("r1");
    expect(await answer).toEqual({ kind: "delivered", channel: "relay", proof: "heard" });
    expect(countOf(c, "session.replaced")).toBe(0);
  });

  test("replaces its own line also where that is not welcomed yet", async () => {
    const c = conversation();
    await c.callback("r1");
    const [old, back] = [c.open(), c.open()];
    void old.hello({ agentSessionId: "conv_1", heard: [] });
    void back.hello({ agentSessionId: "conv_1", heard: [] });
    await c.clock.settle();
    expect(old.socket.closing).toMatchObject({ code: 4001 });
    expect(back.pushes()).toEqual([["r1"]]);
  });

  test("says what it heard, and is not told again", async () => {
    const c = conversation();
    const line = await attached(c, { agentSessionId: "conv_1" });
    void c.callback("r1");
    await c.clock.settle();
    await line.lose();
    await c.clock.settle();
    expect(c.row("r1").status).toBe("unconfirmed");
    const back = await attached(c, { agentSessionId: "conv_1", heard: ["r1"] });
    expect(back.pushes()).toEqual([]);
    expect(c.row("r1").status).toBe("delivered");
  });

  test("proves nothing without its list, nor in another agent conversation", async () => {
    const c = conversation();
    const line = await attached(c, { agentSessionId: "conv_1" });
    void c.callback("r1");
    await c.clock.settle();
    await line.lose();
    await c.clock.settle();
    const silent = await attached(c, { agentSessionId: "conv_1" });
    expect(silent.pushes()).toEqual([]);
    expect(c.row("r1")).toMatchObject({ status: "unconfirmed", tellings: 1 });
    // The next agent conversation is told once more, as perhaps heard.
    const next = await attached(c, { agentSessionId: "conv_2", heard: [] });
    expect(next.pushes()).toEqual([["r1"]]);
    expect(next.frames.at(-1)?.text).toContain("may have heard this already");
  });
});

describe("several lines", () => {
  test("two tabs for twenty minutes: one session.replaced, and only the newest is renewed and told", async () => {
    const c = conversation();
    const first = await attached(c, { agentSessionId: "conv_1" });
    await c.live(2 * MINUTE);
    const second = await attached(c, { agentSessionId: "conv_2" });
    await c.live(20 * MINUTE);
    expect(countOf(c, "session.replaced")).toBe(1);
    expect(countOf(c, "session.registered")).toBe(1);
    expect(await sessionInRedis(c)).toMatchObject({
      agentSessionId: "conv_2",
      renewedAt: expect.any(String),
    });
    void c.callback("r1");
    await c.clock.settle();
    expect([first.pushes(), second.pushes()]).toEqual([[], [["r1"]]]);
    expect([first.socket.closing, second.socket.closing]).toEqual([null, null]);
  });

  test("when the newest goes the next newest takes over, and the record follows", async () => {
    const c = conversation();
    const [a, b, newest] = [
      await attached(c, { agentSessionId: "conv_a" }),
      await attached(c, { agentSessionId: "conv_b" }),
      await attached(c, { agentSessionId: "conv_c" }),
    ];
    await newest.say({ type: "bye" });
    expect(await sessionInRedis(c)).toMatchObject({ agentSessionId: "conv_b", channel: "relay" });
    void c.callback("r1");
    await c.clock.settle();
    expect(b.pushes()).toEqual([["r1"]]);
    await b.lose();
    await c.clock.settle();
    // It may have been heard there, so who takes over is told as of one that was.
    expect(a.pushes()).toEqual([["r1"]]);
    expect(await sessionInRedis(c)).toMatchObject({ agentSessionId: "conv_a" });
    await a.say({ type: "bye" });
    expect(await sessionInRedis(c)).toBe(null);
  });

  test("when the newest goes while the object is away the record follows too", async () => {
    const c = conversation();
    await attached(c, { agentSessionId: "conv_1" });
    const newest = await attached(c, { agentSessionId: "conv_2" });
    newest.die();
    c.restart();
    await c.live(2_000);
    expect(await sessionInRedis(c)).toMatchObject({ agentSessionId: "conv_1", channel: "relay" });
    expect(c.nextDue()).toBeGreaterThan(c.clock.now() + MINUTE);
  });

  test("a line that goes takes nothing from the registration that came after it", async () => {
    const c = conversation();
    await attached(c, { agentSessionId: "conv_1" });
    const second = await attached(c, { agentSessionId: "conv_2" });
    const posted = await c.register({ sessionUrl: "wss://agent.example/2" });
    await second.say({ type: "bye" });
    await c.clock.settle();
    expect(await sessionInRedis(c)).toMatchObject({ registrationId: posted.registrationId });
  });

  test("a line is the session again when the registration that came after it is over", async () => {
    const c = conversation();
    const line = await attached(c, { agentSessionId: "conv_1" });
    const posted = await c.register({ sessionUrl: "wss://agent.example/2" });
    expect(await sessionInRedis(c)).toMatchObject({ registrationId: posted.registrationId });
    await c.live(11 * MINUTE);
    expect(await sessionInRedis(c)).toMatchObject({ agentSessionId: "conv_1", channel: "relay" });
    expect(line.socket.closing).toBe(null);
  });

  test("no more than so many: the oldest makes room", async () => {
    const c = conversation();
    const lines = [];
    for (let i = 0; i <= MAX_LINES; i++) lines.push(await attached(c, { agentSessionId: `conv_${i}` }));
    expect(lines.map(({ socket }) => socket.closing?.code ?? null)).toEqual([
      4001,
      ...Array.from({ length: MAX_LINES }, () => null),
    ]);
  });
});

describe("a session whose page is attached", () => {
  test("lives as long as the line, and 600 s longer without it", async () => {
    const c = conversation();
    const line = await attached(c);
    await c.live(60 * MINUTE);
    expect(await sessionInRedis(c)).not.toBe(null);
    await line.lose();
    expect(await sessionInRedis(c)).toMatchObject({ channel: null });
    expect(await c.callback("r1")).toEqual({ kind: "queued", reason: "no_push_channel" });
    await c.live(11 * MINUTE);
    expect(await c.callback("r2")).toEqual({ kind: "queued", reason: "session_expired" });
    expect(await sessionInRedis(c)).toBe(null);
  });

  test("is registered anew where Redis has lost it", async () => {
    const c = conversation();
    await attached(c, { agentSessionId: "conv_1" });
    await c.emptyRedis();
    await c.live(5 * MINUTE);
    expect(await sessionInRedis(c)).toMatchObject({ agentSessionId: "conv_1" });
  });

  test("whose socket was lost while the object was away is found out of reach", async () => {
    const c = conversation();
    const line = await attached(c);
    line.die();
    c.restart();
    await c.alarm();
    expect(await c.callback("r1")).toEqual({ kind: "queued", reason: "no_push_channel" });
    expect(await sessionInRedis(c)).toMatchObject({ channel: null });
  });

  test("is there again after the object was away, with what it reported of the agent", async () => {
    const c = conversation();
    const line = await attached(c);
    await line.say({ type: "mode", mode: "speaking" });
    c.restart();
    expect(await c.callback("r1")).toEqual({ kind: "queued", reason: "agent_busy" });
    await line.say({ type: "mode", mode: "listening" });
    await c.clock.settle();
    expect(line.pushes()).toEqual([["r1"]]);
  });
});

describe("while the agent speaks", () => {
  test("three results are one push after it ends, at most 8 s later; interrupt and silent do not wait", async () => {
    const c = conversation();
    const line = await attached(c);
    await line.say({ type: "mode", mode: "speaking" });
    for (const requestId of ["r1", "r2", "r3"]) {
      expect(await c.callback(requestId)).toEqual({ kind: "queued", reason: "agent_busy" });
    }
    void c.callback("now", { delivery: "interrupt" });
    await c.clock.settle();
    await line.ack("now");
    void c.callback("quiet", { delivery: "silent" });
    await c.clock.settle();
    await line.ack("quiet");
    expect(line.pushes()).toEqual([["now"], ["quiet"]]);
    await line.say({ type: "mode", mode: "listening" });
    await c.clock.settle();
    expect(line.pushes().at(-1)).toEqual(["r1", "r2", "r3"]);
    await line.ack("r1", "r2", "r3");

    await line.say({ type: "mode", mode: "speaking" });
    await c.callback("r4");
    await c.clock.advance(7_999);
    expect(line.pushes()).toHaveLength(3);
    await c.clock.advance(1);
    expect(line.pushes().at(-1)).toEqual(["r4"]);
  });

  test("the user's activity holds results for a moment, and only the newest line is listened to", async () => {
    const c = conversation();
    const old = await attached(c, { agentSessionId: "conv_1" });
    const line = await attached(c, { agentSessionId: "conv_2" });
    await old.say({ type: "mode", mode: "speaking" });
    await line.say({ type: "activity" });
    expect(await c.callback("r1")).toEqual({ kind: "queued", reason: "agent_busy" });
    await c.clock.advance(1_500);
    expect(line.pushes()).toEqual([["r1"]]);
  });
});

describe("what breaks the rules", () => {
  test.each([
    ["a frame before hello", { type: "ack", requestIds: [] }],
    ["no JSON", "hello"],
    ["no object", "[1]"],
    ["no type", { hello: true }],
    ["a requestId that is none", { type: "hello", heard: ["no spaces please"] }],
    ["a count that is none", { type: "hello", heard: ["r1#once"] }],
    ["two counts", { type: "hello", heard: ["r1#1#2"] }],
    ["a frame of more than 64 KiB", { type: "hello", session: { sessionPayload: "x".repeat(70_000) } }],
  ])("%s closes the line with 1008", async (_name, frame) => {
    const c = conversation();
    const line = c.open();
    await line.say(frame);
    expect(line.socket.closing).toMatchObject({ code: 1008, reason: expect.stringMatching(/\w/) });
  });

  test("more ids than anybody looks up are refused; as what was heard they prove nothing", async () => {
    const c = conversation();
    await c.callback("r0");
    const many = Array.from({ length: 501 }, (_, i) => `r${i}`);
    const line = await attached(c, { agentSessionId: "conv_1", heard: many });
    expect(c.row("r0").status).toBe("saying");
    await line.ack(...many);
    expect(line.socket.closing).toMatchObject({ code: 1008 });
  });

  test("a second hello, a binary frame and a flood do too", async () => {
    const c = conversation();
    const twice = await attached(c);
    await twice.hello();
    expect(twice.socket.closing).toMatchObject({ code: 1008 });

    const flooding = await attached(c);
    await Promise.all(Array.from({ length: 250 }, () => flooding.say({ type: "activity" })));
    expect(flooding.socket.closing).toEqual({ code: 1008, reason: "too many frames" });
    expect(countOf(c, "relay.refused")).toBe(2);
  });

  test("what is not known is ignored, with a line in the log that holds no content", async () => {
    const c = conversation();
    const line = await attached(c);
    await line.say({ type: "wave", secret: "s3cret" });
    await line.say({ type: "a type with spaces" });
    expect(line.socket.closing).toBe(null);
    expect(c.lines.filter(({ event }) => event === "relay.unknown_frame")).toMatchObject([
      { type: "wave" },
      { type: "(not a word)" },
    ]);
    expect(JSON.stringify(c.lines)).not.toContain("s3cret");
  });

  test("pages that never say hello do not gather", async () => {
    const c = conversation();
    const lines = Array.from({ length: MAX_LINES + 3 }, () => c.open());
    expect(lines.filter(({ socket }) => socket.closing === null)).toHaveLength(MAX_LINES);
  });
});
