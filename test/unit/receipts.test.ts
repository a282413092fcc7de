/** Receipts, on the tables of a conversation's object. In the real runtime: `test/worker/receipts.test.ts`. */
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { MAX_RECEIPTS, RECEIPT_RETRY_MS } from "../../lib/live/receipts.ts";
import type { PostOutcome } from "../../lib/outbound.ts";
import type { PushOutcome } from "../../lib/push/channel.ts";
import { type SentReceipt, START, testConversation } from "../support/live.ts";

function conversation(options: Parameters<typeof testConversation>[0] = {}) {
  const made = testConversation({ onReceipt: () => "accepted", ...options });
  onTestFinished(() => made.close());
  return made;
}

type Conversation = ReturnType<typeof conversation>;

const typesOf = ({ sent }: Conversation) => sent.map(({ type }) => type);
/** Receipts about one result, each once. */
const ofResult = ({ sent }: Conversation, requestId: string) =>
  sent.filter(({ data }) => data.requestId === requestId).map(({ type }) => type);
const eventsOf = ({ lines }: Conversation, event: string) => lines.filter((line) => line.event === event);
const hanging = () => new Promise<PostOutcome>(() => {});

describe("a receipt", () => {
  test("is sent at once, and holds ids, times and the outcome, and nothing of the result", async () => {
    const c = conversation();
    const { registrationId } = await c.register();
    await c.callback("r1", { toolName: "research", metadata: { note: "private" }, topic: "weather" });
    await c.receipts.rest();
    expect(c.sent.map(({ body }) => JSON.parse(body))).toEqual([
      {
        type: "session.started",
        timestamp: "2026-01-01T00:00:00.000Z",
        data: { conversationId: "c1", registrationId, channel: "socket" },
      },
      {
        type: "result.delivered",
        timestamp: "2026-01-01T00:00:00.000Z",
        data: {
          conversationId: "c1",
          requestId: "r1",
          status: "delivered",
          channel: "socket",
          attempts: 1,
          receivedAt: "2026-01-01T00:00:00.000Z",
          settledAt: "2026-01-01T00:00:00.000Z",
        },
      },
    ]);
  });

  test("has an id of its own, which tells nothing", async () => {
    const c = conversation();
    await c.register();
    await c.callback("r1");
    await c.receipts.rest();
    for (const { id } of c.sent) expect(id).toMatch(/^evt_[0-9a-f-]{36}$/);
    expect(new Set(c.sent.map(({ id }) => id)).size).toBe(2);
  });

  test("leaves nothing behind once it has been taken", async () => {
    const c = conversation();
    await c.callback("r1", { deliverBy: new Date(START - 1).toISOString() });
    await c.receipts.rest();
    expect(typesOf(c)).toEqual(["result.expired"]);
    expect(c.receipts.isEmpty()).toBe(true);
    expect(c.receipts.nextDue()).toBeNull();
  });

  test("is not written, and nobody looks for one, where none are wanted", async () => {
    const c = testConversation();
    onTestFinished(() => c.close());
    const statements = vi.spyOn(c.sql, "rows");
    await c.register();
    await c.callback("r1");
    await c.callback("r2", { deliverBy: new Date(START - 1).toISOString() });
    await c.alarm();
    await c.forget();
    expect(c.receipts.nextDue()).toBeNull();
    expect(c.receipts.isEmpty()).toBe(true);
    for (const [statement, ...bindings] of statements.mock.calls) {
      expect([statement, ...bindings].join(" ")).not.toContain("receipts");
    }
    expect(c.sent).toEqual([]);
  });
});

describe("what becomes of a result", () => {
  const answering = (...outcomes: PushOutcome["outcome"][]) => {
    const left = [...outcomes];
    return () => ({ outcome: left.shift() ?? "delivered" }) as PushOutcome;
  };

  test("unconfirmed, and then delivered by an acknowledgement that comes late", async () => {
    const c = conversation({ onPush: answering("unconfirmed") });
    await c.register();
    await c.callback("r1");
    c.delivery.acknowledge(["r1"]);
    c.delivery.acknowledge(["r1"]);
    await c.receipts.rest();
    expect(ofResult(c, "r1")).toEqual(["result.unconfirmed", "result.delivered"]);
    expect(c.sent.at(-2)?.data).not.toHaveProperty("settledAt");
    expect(c.sent.at(-1)?.data).toMatchObject({ channel: "socket", status: "delivered" });
  });

  test("unconfirmed twice: the second time it is given up, and settled", async () => {
    const c = conversation({ onPush: () => ({ outcome: "unconfirmed" }) });
    await c.register();
    await c.callback("r1");
    await c.register({ sessionUrl: "wss://agent.example/reloaded" });
    await c.receipts.rest();
    expect(ofResult(c, "r1")).toEqual(["result.unconfirmed", "result.unconfirmed"]);
    const [first, second] = c.sent.filter(({ type }) => type === "result.unconfirmed");
    expect(first?.data).not.toHaveProperty("settledAt");
    expect(second?.data).toMatchObject({ status: "unconfirmed", attempts: 2, settledAt: expect.anything() });
  });

  test("expired, on arrival and later", async () => {
    const c = conversation();
    await c.callback("r1", { deliverBy: new Date(START - 1).toISOString() });
    await c.callback("r2", { deliverBy: new Date(START + 60_000).toISOString() });
    await c.live(61_000);
    expect(c.sent.map(({ type, data, timestamp }) => [type, data.requestId, timestamp])).toEqual([
      ["result.expired", "r1", "2026-01-01T00:00:00.000Z"],
      ["result.expired", "r2", "2026-01-01T00:01:00.000Z"],
    ]);
    expect(c.sent[0]?.data).toMatchObject({ attempts: 0, channel: null });
  });

  test("superseded, and then the newer one is delivered", async () => {
    const c = conversation();
    await c.callback("r1", { topic: "weather" });
    await c.callback("r2", { topic: "weather" });
    await c.register();
    await c.receipts.rest();
    expect(ofResult(c, "r1")).toEqual(["result.superseded"]);
    expect(ofResult(c, "r2")).toEqual(["result.delivered"]);
  });

  test("unconfirmed because the object died while it was being said", async () => {
    const c = conversation({ onPush: () => new Promise(() => {}) });
    await c.register();
    void c.callback("r1");
    await vi.waitFor(() => expect(c.row("r1").status).toBe("saying"));
    c.restart();
    await c.receipts.rest();
    expect(ofResult(c, "r1")).toEqual(["result.unconfirmed"]);
  });

  test("delivered, as a page on a line acknowledges it, is told once", async () => {
    const c = conversation();
    const line = c.open();
    await line.hello({ agentSessionId: "conv_1" });
    const answer = c.callback("r1");
    await vi.waitFor(() => expect(line.pushes()).toEqual([["r1"]]));
    await line.ack("r1");
    expect(await answer).toEqual({ kind: "delivered", channel: "relay", proof: "heard" });
    await c.delivery.rest();
    await c.receipts.rest();
    expect(ofResult(c, "r1")).toEqual(["result.delivered"]);
    expect(c.sent.at(-1)?.data).toMatchObject({ channel: "relay", attempts: 1 });
  });

  test("a duplicate, one that waits and one that was refused tell nothing", async () => {
    const c = conversation({ onPush: () => ({ outcome: "refused" }) });
    await c.callback("r1");
    await c.callback("r1");
    await c.register();
    await c.receipts.rest();
    expect(typesOf(c)).toEqual(["session.started"]);
  });
});

describe("a session", () => {
  const sessionsOf = ({ sent }: Conversation) =>
    sent.map(({ type, data: { registrationId, channel, reason } }) => [
      type,
      registrationId,
      channel,
      ...(reason === undefined ? [] : [reason]),
    ]);

  test("is started when it is registered, and ended when another takes its place", async () => {
    const c = conversation();
    const [a, b] = [await c.register(), await c.register({ sessionUrl: undefined, transport: "webrtc" })];
    await c.receipts.rest();
    expect(sessionsOf(c)).toEqual([
      ["session.started", a.registrationId, "socket"],
      ["session.ended", a.registrationId, "socket", "replaced"],
      ["session.started", b.registrationId, null],
    ]);
  });

  test("is ended when it is deleted, once", async () => {
    const c = conversation();
    const { registrationId } = await c.register();
    await c.records.ended(registrationId);
    await c.records.ended(registrationId);
    await c.records.ended(null);
    await c.receipts.rest();
    expect(sessionsOf(c).slice(1)).toEqual([["session.ended", registrationId, "socket", "ended"]]);
  });

  test("is ended when its time is over, then", async () => {
    const c = conversation();
    const { registrationId } = await c.register();
    await c.live(700_000);
    expect(sessionsOf(c).slice(1)).toEqual([["session.ended", registrationId, "socket", "expired"]]);
    expect(c.sent.at(-1)?.timestamp).toBe("2026-01-01T00:10:00.000Z");
  });

  test("that is over when another comes has expired, and was not replaced", async () => {
    const c = conversation();
    await c.register();
    await c.clock.advance(700_000);
    await c.register();
    await c.receipts.rest();
    expect(c.sent.map(({ type, data }) => [type, data.reason])).toEqual([
      ["session.started", undefined],
      ["session.ended", "expired"],
      ["session.started", undefined],
    ]);
  });

  test("is the same however often it is renewed, told again or found in Redis", async () => {
    const c = conversation();
    const { registrationId } = await c.register();
    await c.clock.advance(300_000);
    await c.records.renew(registrationId, "conv_1");
    await c.callback("r1");
    c.restart();
    await c.callback("r2");
    await c.receipts.rest();
    expect(c.sent.filter(({ type }) => type.startsWith("session."))).toHaveLength(1);
  });

  test("of a page on a line is started by its hello, and ended by its goodbye", async () => {
    const c = conversation();
    const line = c.open();
    await line.hello();
    const { registrationId } = line.frames[0] as unknown as { registrationId: string };
    await c.live(1_000_000);
    await line.say({ type: "bye" });
    await c.receipts.rest();
    expect(sessionsOf(c)).toEqual([
      ["session.started", registrationId, "relay"],
      ["session.ended", registrationId, "relay", "ended"],
    ]);
  });

  test("of a page that is lost ends when its time is over", async () => {
    const c = conversation();
    const line = c.open();
    await line.hello();
    await line.lose();
    await c.live(599_000);
    expect(typesOf(c)).toEqual(["session.started"]);
    await c.live(2_000);
    expect(c.sent.at(-1)).toMatchObject({
      type: "session.ended",
      data: { reason: "expired", channel: null },
    });
  });
});

describe("a receiver that fails", () => {
  const AT_MS = [0, ...RECEIPT_RETRY_MS.map((_, i) => RECEIPT_RETRY_MS.slice(0, i + 1))].map((pauses) =>
    [pauses].flat().reduce((sum, pause) => sum + pause, 0),
  );
  const expired = { deliverBy: new Date(START - 1).toISOString() };
  const agesOf = ({ sent }: Conversation) => sent.map(({ at }) => at - START);

  test.each<PostOutcome>(["refused", "unreachable", "unconfirmed"])(
    "is tried again after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h and 14 h, where it is %s, and then no more",
    async (outcome) => {
      const c = conversation({ onReceipt: () => outcome });
      await c.callback("r1", expired);
      await c.live(47 * 3_600_000);
      expect(AT_MS).toEqual([0, 5, 305, 2_105, 9_305, 27_305, 63_305, 113_705].map((s) => s * 1_000));
      expect(agesOf(c)).toEqual(AT_MS);
      expect(new Set(c.sent.map(({ id, body }) => `${id} ${body}`)).size).toBe(1);
      expect(c.receipts.isEmpty()).toBe(true);
    },
  );

  test("is logged once for each receipt, and once more when it is dropped", async () => {
    const c = conversation({ onReceipt: () => "unconfirmed" });
    await c.callback("r1", expired);
    await c.live(47 * 3_600_000);
    const [{ id: webhookId }] = c.sent as [SentReceipt];
    expect(eventsOf(c, "event.failed")).toMatchObject([
      { level: "warn", webhookId, type: "result.expired", failure: "unconfirmed" },
    ]);
    expect(eventsOf(c, "event.dropped")).toMatchObject([
      { level: "warn", webhookId, type: "result.expired", reason: "given_up", tries: 8 },
    ]);
  });

  test("and recovers is told everything, and nothing again", async () => {
    let isUp = false;
    const c = conversation({ onReceipt: () => (isUp ? "accepted" : "unconfirmed") });
    await c.callback("r1", expired);
    await c.callback("r2", expired);
    await c.live(60_000);
    isUp = true;
    await c.live(24 * 3_600_000);
    expect(ofResult(c, "r1")).toHaveLength(3);
    expect(ofResult(c, "r2")).toHaveLength(3);
    expect(c.receipts.isEmpty()).toBe(true);
    expect(eventsOf(c, "event.dropped")).toEqual([]);
  });

  test("holds up no other: who is due meanwhile is tried while one hangs", async () => {
    let tries = 0;
    const c = conversation({
      onReceipt: ({ data }) => (data.requestId === "r1" || tries++ > 0 ? hanging() : "unconfirmed"),
    });
    await c.callback("r1", expired);
    await c.callback("r2", expired);
    await c.live(6_000);
    expect(agesOf(c)).toEqual([0, 0, 5_000]);
  });

  test("holds up nothing: results are delivered while it hangs", async () => {
    const c = conversation({ onReceipt: hanging });
    await c.register();
    for (let i = 0; i < 20; i++)
      expect(await c.callback(`r${i}`)).toEqual({ kind: "delivered", channel: "socket" });
    await c.alarm();
    expect(c.pushed).toHaveLength(20);
  });

  test("is sent two at once, and the others behind them", async () => {
    const answers: ((outcome: PostOutcome) => void)[] = [];
    const c = conversation({ onReceipt: () => new Promise((resolve) => answers.push(resolve)) });
    for (let i = 0; i < 10; i++) await c.callback(`r${i}`, expired);
    await c.clock.settle();
    expect(c.sent).toHaveLength(2);
    answers.shift()?.("unconfirmed");
    await c.clock.settle();
    expect(c.sent).toHaveLength(3);
    for (const answer of answers.splice(0)) answer("accepted");
    await c.clock.settle();
    expect(c.sent.map(({ data }) => data.requestId)).toEqual(["r0", "r1", "r2", "r3", "r4"]);
  });

  test("is told again what the object was sending when it died", async () => {
    let hangs = true;
    const c = conversation({ onReceipt: () => (hangs ? hanging() : "accepted") });
    await c.callback("r1", expired);
    await c.clock.settle();
    expect(c.nextDue()).toBe(START + 20_000);
    hangs = false;
    c.restart();
    await c.live(20_000);
    expect(c.sent).toHaveLength(2);
    expect(c.sent[0]?.id).toBe(c.sent[1]?.id);
    expect(c.receipts.isEmpty()).toBe(true);
  });

  test("has the newest five hundred kept for it; the oldest is dropped, and that is logged", async () => {
    const c = conversation({ onReceipt: () => "unreachable" });
    for (let i = 0; i <= MAX_RECEIPTS; i++) c.receipts.note("result.expired", { requestId: `r${i}` });
    expect(eventsOf(c, "event.dropped")).toMatchObject([{ type: "result.expired", reason: "too_many" }]);
    await c.receipts.rest();
    expect(c.sent).toHaveLength(MAX_RECEIPTS);
    expect(c.sent[0]?.data.requestId).toBe("r1");
  });
});

describe("a conversation that is deleted", () => {
  test("takes its unsent receipts with it, and nothing more is told of it", async () => {
    const c = conversation({ onReceipt: () => "unreachable" });
    await c.register();
    await c.callback("r1");
    await c.receipts.rest();
    const told = c.sent.length;
    await c.forget();
    await c.callback("r1");
    await c.live(49 * 3_600_000);
    expect(c.receipts.isEmpty()).toBe(true);
    expect(c.sent).toHaveLength(told);
    expect(eventsOf(c, "event.dropped")).toEqual([]);
  });
});

describe("what the runner is told", () => {
  test("goes to the runner alone, and is told although the conversation is deleted", async () => {
    let isUp = false;
    const c = conversation({ onReceipt: () => (isUp ? "accepted" : "unconfirmed") });
    c.receipts.note("task.cancelled", { taskId: "c1:t1", reason: "conversation_deleted" }, "runner");
    await c.receipts.rest();
    await c.forget();
    isUp = true;
    await c.live(10_000);
    expect(c.sent.map(({ to, type, data }) => [to, type, data.taskId])).toEqual([
      ["runner", "task.cancelled", "c1:t1"],
      ["runner", "task.cancelled", "c1:t1"],
    ]);
    expect(c.receipts.isEmpty()).toBe(true);
  });

  test("does not wait for a receiver of receipts that hangs", async () => {
    const c = conversation({ onReceipt: ({ to }) => (to === "events" ? hanging() : "accepted") });
    c.receipts.note("task.cancelled", { taskId: "c1:t1" });
    await c.clock.settle();
    c.receipts.note("task.cancelled", { taskId: "c1:t1" }, "runner");
    await c.clock.settle();
    expect(c.sent.map(({ to }) => to)).toEqual(["events", "runner"]);
  });
});
