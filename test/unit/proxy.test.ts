/** The proxy on a clock that the test turns, between sockets that do what the test says. */
import { describe, expect, test } from "vitest";
import type { NoConversation } from "../../lib/elevenlabs.ts";
import { ConversationDeletedError } from "../../lib/errors.ts";
import { createProxy, MAX_WAITING_BYTES, type ProxyOptions } from "../../lib/live/proxy.ts";
import { createTurn } from "../../lib/live/turn.ts";
import { createLogger } from "../../lib/log.ts";
import type { PushMessage } from "../../lib/push/message.ts";
import type { SessionRecord } from "../../lib/session-store.ts";
import { createClock } from "../support/live.ts";
import { metadata } from "../support/provider.ts";
import type { LogLine } from "../support/worker.ts";

type Frame = string | ArrayBuffer;

/** A socket as the runtime has it, and what the peer behind it does. */
function fakeSocket() {
  const listeners = new Map<string, (event: object) => void>();
  const socket = {
    isAccepted: false,
    sent: [] as Frame[],
    closedWith: null as { code: number; reason: string } | null,
    bufferedAmount: 0,
    binaryType: "blob",
    accept() {
      socket.isAccepted = true;
    },
    addEventListener: (type: string, listener: (event: object) => void) => listeners.set(type, listener),
    send(frame: Frame) {
      if (socket.closedWith !== null) throw new TypeError("Can't call WebSocket send() after close().");
      socket.sent.push(frame);
    },
    close(code: number, reason: string) {
      socket.closedWith ??= { code, reason };
    },
    says: (frame: Frame | object) =>
      listeners.get("message")?.({
        data: typeof frame === "string" || frame instanceof ArrayBuffer ? frame : JSON.stringify(frame),
      }),
    goes: (code: number, reason = "") => listeners.get("close")?.({ code, reason }),
    breaks: () => listeners.get("error")?.({}),
  };
  return socket;
}
type FakeSocket = ReturnType<typeof fakeSocket>;

function testProxy(own: Partial<ProxyOptions> = {}) {
  const clock = createClock();
  const lines: LogLine[] = [];
  const attached: SessionRecord[] = [];
  const detached: string[] = [];
  const asked: { agentId: string; signal: AbortSignal; answer: (opened: object) => void }[] = [];
  const turn = createTurn();
  let wakes = 0;
  const proxy = createProxy({
    conversationId: "c1",
    open(agentId, _parameters, signal) {
      const { promise, resolve } = Promise.withResolvers<{ socket: WebSocket } | NoConversation>();
      asked.push({ agentId, signal, answer: resolve as (opened: object) => void });
      return promise;
    },
    isDeleted: () => false,
    async attach(session, then) {
      attached.push(session);
      then();
      return attached.length > 1;
    },
    async detach(registrationId) {
      detached.push(registrationId);
    },
    turn,
    wake: () => {
      wakes += 1;
    },
    appendTranscript: null,
    log: createLogger({
      now: clock.now,
      write: (_level, line) => lines.push(JSON.parse(line) as LogLine),
    }),
    now: clock.now,
    wait: clock.wait,
    ...own,
  });
  const tester = {
    proxy,
    clock,
    turn,
    lines,
    attached,
    detached,
    asked,
    wakes: () => wakes,
    connect(): FakeSocket {
      const page = fakeSocket();
      proxy.connect(page as unknown as WebSocket, "agent_1", {});
      return page;
    },
    async opens(): Promise<FakeSocket> {
      const provider = fakeSocket();
      asked.at(-1)?.answer({ socket: provider });
      await clock.settle();
      return provider;
    },
    /** A page and its agent, which has begun. */
    async talk() {
      const page = tester.connect();
      const provider = await tester.opens();
      provider.says(metadata("conv_1"));
      await clock.settle();
      return { page, provider, session: attached.at(-1) as SessionRecord };
    },
    push: (session: { registrationId: string }, delivery: PushMessage["delivery"] = "when_idle") =>
      proxy.channel.push(
        { conversationId: "c1", registrationId: session.registrationId },
        { pushId: "p1", requestIds: ["r1"], results: [], delivery, text: "the text", contextId: "r1" },
      ),
  };
  return tester;
}

describe("a connection", () => {
  test("is a session once the provider has said which agent conversation it is, and not before", async () => {
    const t = testProxy();
    const page = t.connect();
    const provider = await t.opens();
    expect([page.isAccepted, provider.isAccepted]).toEqual([true, true]);
    expect([page.binaryType, provider.binaryType]).toEqual(["arraybuffer", "arraybuffer"]);
    expect(t.proxy.connection()).toBeNull();
    expect(t.proxy.isEmpty()).toBe(false);
    await t.clock.advance(1_000);
    provider.says(metadata("conv_1"));
    provider.says(metadata("conv_2"));
    await t.clock.settle();
    expect(t.attached).toEqual([
      {
        version: 1,
        conversationId: "c1",
        registrationId: expect.any(String),
        sessionPayload: null,
        createdAt: new Date(t.clock.now()).toISOString(),
        ttl: 600,
        agentSessionId: "conv_1",
        provenAgentSessionId: "conv_1",
        transport: "websocket",
        channel: "proxy",
      },
    ]);
    expect(t.proxy.connection()).toEqual({ session: t.attached[0], since: t.clock.now() });
    const { registrationId = "" } = t.attached[0] ?? {};
    expect(t.proxy.channel.accepts({ conversationId: "c1", registrationId }, "silent")).toBe(true);
    expect(t.proxy.channel.accepts({ conversationId: "c1", registrationId: "other" }, "silent")).toBe(false);
    expect(page.sent).toHaveLength(2);
    expect(provider.sent).toEqual([]);
    expect(t.wakes()).toBe(1);
  });

  test("that ends while it is being registered leaves no session", async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const t = testProxy({
      attach: async (_session, then) => {
        await promise;
        then();
        return false;
      },
    });
    const { page } = await t.talk();
    page.goes(1000);
    resolve();
    await t.clock.settle();
    expect(t.detached).toHaveLength(1);
    expect(t.proxy.connection()).toBeNull();
  });

  test("of a conversation that is deleted meanwhile ends with 1008", async () => {
    const t = testProxy({ attach: () => Promise.reject(new ConversationDeletedError()) });
    const { page, provider } = await t.talk();
    expect(page.closedWith).toEqual({ code: 1008, reason: "conversation_deleted" });
    expect(provider.closedWith?.code).toBe(1000);
  });

  test("that cannot be registered goes on without being pushed to", async () => {
    const t = testProxy({ attach: () => Promise.reject(new Error("secret")) });
    const { page, provider } = await t.talk();
    page.says("x");
    expect(provider.sent).toEqual(["x"]);
    expect(t.proxy.connection()).toBeNull();
    expect(JSON.stringify(t.lines)).not.toContain("secret");
  });

  test("that the page leaves before the agent is there calls off the call", async () => {
    const t = testProxy();
    const page = t.connect();
    expect(t.asked[0]?.signal.aborted).toBe(false);
    page.goes(1001, "going away");
    expect(t.asked[0]?.signal.aborted).toBe(true);
    expect(t.proxy.isEmpty()).toBe(true);
    const provider = await t.opens();
    expect(provider.closedWith?.code).toBe(1000);
    expect(page.closedWith).toEqual({ code: 1001, reason: "going away" });
  });

  test.each<[string, (socket: FakeSocket) => void]>([
    ["no code", (socket) => socket.goes(1005)],
    ["no word", (socket) => socket.goes(1006)],
    ["a code that cannot be", (socket) => socket.goes(1015)],
    ["an error", (socket) => socket.breaks()],
  ])("that ends with %s ends with 1011 on the other side", async (_how, go) => {
    const t = testProxy();
    const { page, provider, session } = await t.talk();
    go(provider);
    expect(page.closedWith).toEqual({ code: 1011, reason: "The connection was lost." });
    await t.clock.settle();
    expect(t.detached).toEqual([session.registrationId]);
  });

  test.each([
    ["the page does not read", "page", 1013],
    ["the provider does not read", "provider", 1013],
  ] as const)("ends when %s", async (_why, who, code) => {
    const t = testProxy();
    const sockets = await t.talk();
    const [lazy, other] =
      who === "page" ? [sockets.page, sockets.provider] : [sockets.provider, sockets.page];
    lazy.bufferedAmount = MAX_WAITING_BYTES;
    other.says("x");
    expect(sockets.page.closedWith).toBeNull();
    lazy.bufferedAmount += 1;
    other.says("x");
    expect(sockets.page.closedWith?.code).toBe(code);
    expect(sockets.provider.closedWith?.code).toBe(1000);
    const sent = lazy.sent.length;
    other.says("more");
    expect(lazy.sent).toHaveLength(sent);
    expect(t.lines.find(({ event }) => event === "proxy.refused")).toMatchObject({ closeCode: 1013 });
  });

  test("passes what it cannot read", async () => {
    const t = testProxy();
    const { page, provider } = await t.talk();
    const frames = ["", "{", "\ufeff", new ArrayBuffer(3), '{"type":"interruption"}', "x".repeat(100_000)];
    for (const frame of frames) {
      page.says(frame);
      provider.says(frame);
    }
    expect(provider.sent).toEqual(frames);
    expect(page.sent.slice(1)).toEqual(frames);
  });

  test("that is over knows nothing of who speaks", async () => {
    const t = testProxy();
    const { provider } = await t.talk();
    const audio_base_64 = "A".repeat(400_000);
    provider.says(JSON.stringify({ type: "audio", audio_event: { audio_base_64, event_id: 1 } }));
    expect(t.turn.busyUntil(t.clock.now())).not.toBeNull();
    provider.goes(1000);
    expect(t.turn.busyUntil(t.clock.now())).toBeNull();
  });
});

describe("a push", () => {
  test("is delivered when the provider has not objected and has shown that it is there", async () => {
    const t = testProxy();
    const { provider, session } = await t.talk();
    const early = t.push(session);
    provider.says({ type: "ping" });
    await t.clock.advance(299);
    await expect(Promise.race([early, "nothing yet"])).resolves.toBe("nothing yet");
    await t.clock.advance(1);
    expect(await early).toEqual({ outcome: "delivered", proof: "accepted" });

    const late = t.push(session, "silent");
    await t.clock.advance(4_999);
    provider.says({ type: "ping" });
    expect(await late).toEqual({ outcome: "delivered", proof: "accepted" });
    expect(provider.sent.map((frame) => JSON.parse(String(frame)))).toEqual([
      { type: "user_message", text: "the text" },
      { type: "contextual_update", text: "the text", context_id: "r1" },
    ]);
  });

  test("is unconfirmed when the provider says nothing for five seconds", async () => {
    const t = testProxy();
    const { session } = await t.talk();
    const outcome = t.push(session);
    await t.clock.advance(5_000);
    expect(await outcome).toEqual({ outcome: "unconfirmed" });
  });

  test.each([
    [1008, { outcome: "refused", closeCode: 1008 }],
    [1007, { outcome: "refused", closeCode: 1007 }],
    [1000, { outcome: "unconfirmed", closeCode: 1000 }],
    [1011, { outcome: "unconfirmed", closeCode: 1011 }],
  ])("on which the provider closes with %i is %j", async (code, outcome) => {
    const t = testProxy();
    const { provider, session } = await t.talk();
    const pushed = t.push(session);
    provider.says({ type: "ping" });
    await t.clock.advance(200);
    provider.goes(code);
    expect(await pushed).toEqual(outcome);
  });

  test("is unconfirmed when the page goes meanwhile", async () => {
    const t = testProxy();
    const { page, session } = await t.talk();
    const pushed = t.push(session);
    page.goes(1000);
    expect(await pushed).toEqual({ outcome: "unconfirmed" });
  });

  test("reaches nobody by another registration, after a release, or when the connection is over", async () => {
    const t = testProxy();
    const { page, provider, session } = await t.talk();
    expect(await t.push({ registrationId: "another" })).toEqual({ outcome: "unreachable" });
    t.proxy.release("another");
    expect(t.proxy.connection()).not.toBeNull();
    t.proxy.release(session.registrationId);
    expect(await t.push(session)).toEqual({ outcome: "unreachable" });
    expect(page.closedWith).toBeNull();
    page.goes(1000);
    expect(await t.push(session)).toEqual({ outcome: "unreachable" });
    expect(provider.sent).toEqual([]);
    await t.clock.settle();
    expect(t.detached).toEqual([]);
  });

  test("that is spoken is a turn of the user's, and context is none", async () => {
    const t = testProxy();
    const { session } = await t.talk();
    void t.push(session, "silent");
    expect(t.turn.busyUntil(t.clock.now())).toBeNull();
    void t.push(session, "interrupt");
    expect(t.turn.busyUntil(t.clock.now())).toBe(t.clock.now() + 1_500);
    await t.clock.advance(5_000);
  });
});

describe("what is said", () => {
  const heard = (text: string, event_id: number) => ({
    type: "user_transcript",
    user_transcription_event: { user_transcript: text, event_id },
  });

  test("goes into the transcript, but for what we said in the user's name", async () => {
    const said: string[] = [];
    const t = testProxy({
      appendTranscript: async (messages) => void said.push(...messages.map(({ content }) => content)),
    });
    const { provider, session } = await t.talk();
    void t.push(session);
    provider.says(heard("the text", 1));
    provider.says(heard("What did you find?", 2));
    await t.clock.advance(5_000);
    expect(said).toEqual(["What did you find?"]);
  });

  test("wakes those who wait when it becomes quiet sooner than was expected, and only then", async () => {
    const t = testProxy();
    const { provider } = await t.talk();
    const before = t.wakes();
    const audio_base_64 = "A".repeat(400_000);
    provider.says(JSON.stringify({ type: "audio", audio_event: { audio_base_64, event_id: 1 } }));
    provider.says(heard("x", 1));
    expect(t.wakes()).toBe(before);
    provider.says({ type: "interruption", interruption_event: { event_id: 2 } });
    expect(t.wakes()).toBe(before + 1);
  });
});
