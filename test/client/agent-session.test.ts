import { describe, expect, test } from "vitest";
import { AgentSessionError, openAgentSession, type Progress } from "../../client/agent-session.ts";
import { testConversation } from "./support/conversation.ts";
import { pushOf } from "./support/edge.ts";
import { testPage } from "./support/page.ts";
import { liveVisit, visit } from "./support/visit.ts";

const rejection = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => "resolved",
    (error: unknown) => (error instanceof AgentSessionError ? error.code : error),
  );

describe("attaching", () => {
  test("says hello with the session, the agent conversation and what was heard, and resolves when welcomed", async () => {
    const { edge, session, conversation, statuses } = await visit();
    const attached = session.attach(conversation, { transport: "webrtc", metadata: { page: "shop" } });
    const line = await edge.nextLine();
    expect(line.path).toBe("/agent-conversations/api/c1/stream");
    expect(line.offered).toEqual(["agent-session.v1", "bearer.token-1"]);
    expect(await line.next()).toEqual({
      type: "hello",
      session: { transport: "webrtc", metadata: { page: "shop" } },
      agentSessionId: "conv_1",
      heard: [],
    });
    expect(session.status).toBe("connecting");
    line.welcome();
    expect(await attached).toEqual({
      conversationId: "c1",
      registrationId: "r1",
      expiresAt: "2026-01-01T00:00:00Z",
    });
    expect(statuses).toEqual(["connecting", "live"]);
  });

  test("leaves out the id and the session where nobody knows them", async () => {
    const { hello } = await liveVisit({ conversation: testConversation(null) });
    expect(hello).toEqual({ type: "hello", heard: [] });
  });

  test("prefers the id that the page gives", async () => {
    const { edge, session, conversation } = await visit();
    void session.attach(conversation, { agentSessionId: "conv_page" });
    expect((await edge.welcomed()).hello.agentSessionId).toBe("conv_page");
  });

  test("what is attached already changes nothing, also as another object of the same agent conversation", async () => {
    const { edge, session, conversation, line } = await liveVisit();
    const again = testConversation();
    await Promise.all([session.attach(conversation), session.attach(again)]);
    expect(edge.count()).toBe(1);
    line.send(pushOf(["a"]));
    await line.next();
    expect([conversation.told, again.told]).toEqual([[], ["user: text of a"]]);
  });

  test("another agent conversation takes the place of the first", async () => {
    const { edge, session, line } = await liveVisit();
    const attached = session.attach(testConversation("conv_2"));
    expect(await line.next()).toEqual({ type: "bye" });
    expect((await edge.welcomed()).hello).toMatchObject({ agentSessionId: "conv_2", heard: [] });
    await attached;
    expect(session.status).toBe("live");
  });

  test("rejects where another attach takes its place", async () => {
    const { edge, session, conversation } = await visit();
    const first = rejection(session.attach(conversation));
    const second = session.attach(testConversation("conv_2"));
    expect(await first).toBe("superseded");
    await edge.welcomed();
    await second;
  });

  test("gives the URL of the proxy", () => {
    const at = (baseUrl: string) =>
      openAgentSession(testPage(), { baseUrl, conversationId: "c 1", token: "t" }).session.proxyUrl(
        "agent_1&",
      );
    expect(at("https://edge.example")).toBe(
      "wss://edge.example/agent-conversations/api/c%201/connect?agentId=agent_1%26",
    );
    expect(at("http://localhost:8787/")).toMatch(/^ws:\/\/localhost:8787\/agent-conversations\//);
  });
});

describe("a push", () => {
  test("is told to the page, said to the agent, and only then acknowledged", async () => {
    const order: string[] = [];
    const there = await liveVisit({ onPush: () => order.push("page") });
    const say = there.conversation.sendUserMessage;
    there.conversation.sendUserMessage = (text) => {
      order.push("agent");
      expect(there.line.pending()).toEqual([]);
      say(text);
    };
    const { type: _, ...push } = pushOf(["a", "b"]);
    there.line.send({ type: "push", ...push });
    expect(await there.line.next()).toEqual({ type: "ack", requestIds: ["a", "b"] });
    expect(order).toEqual(["page", "agent"]);
    expect(there.pushes[0]).toMatchObject(push);
  });

  test.for([
    ["when_idle", "user"],
    ["interrupt", "user"],
    ["silent", "context"],
  ] as const)("%s goes as %s", async ([delivery, kind]) => {
    const { line, conversation } = await liveVisit();
    line.send(pushOf(["a"], { delivery }));
    await line.next();
    expect(conversation.told).toEqual([`${kind}: text of a`]);
  });

  test("what is to be said again is said again, once for each time", async () => {
    const { edge, page, conversation, line } = await liveVisit();
    const again = (n: number) =>
      pushOf(["a"], { results: [{ requestId: "a", success: true, output: "done", again: n }] });
    for (const push of [pushOf(["a"]), again(1), again(1), again(2)]) {
      line.send(push);
      expect(await line.next()).toEqual({ type: "ack", requestIds: ["a"] });
    }
    expect(conversation.told).toHaveLength(3);
    line.cut();
    await expect.poll(() => page.waits()).toEqual([500]);
    page.advance(500);
    expect((await edge.welcomed()).hello.heard).toEqual(["a", "a#1", "a#2"]);
  });

  test("that comes again is acknowledged and neither told nor said again", async () => {
    const { line, conversation, pushes } = await liveVisit();
    line.send(pushOf(["a"]));
    line.send(pushOf(["a"]));
    line.send(pushOf(["b"]));
    expect([await line.next(), await line.next(), await line.next()]).toEqual(
      ["a", "a", "b"].map((id) => ({ type: "ack", requestIds: [id] })),
    );
    expect(conversation.told).toEqual(["user: text of a", "user: text of b"]);
    expect(pushes).toHaveLength(2);
  });

  test("of which a part was said returns the rest, and a new hello asks for it", async () => {
    const { edge, page, line, conversation } = await liveVisit();
    line.send(pushOf(["a"]));
    await line.next();
    line.send(pushOf(["a", "b"]));
    expect(await line.next()).toEqual({ type: "ack", requestIds: ["a"] });
    expect(await line.next()).toEqual({ type: "nack", requestIds: ["b"], reason: "partly_said" });
    await line.closed;
    page.advance(1_000);
    const { line: next, hello } = await edge.welcomed();
    expect(hello.heard).toEqual(["a"]);
    next.send(pushOf(["b"]));
    await next.next();
    expect(conversation.told).toEqual(["user: text of a", "user: text of b"]);
  });

  test("is returned where the conversation is closed, and the page is not told", async () => {
    const { line, conversation, pushes } = await liveVisit();
    conversation.open = false;
    line.send(pushOf(["a"]));
    expect(await line.next()).toEqual({ type: "nack", requestIds: ["a"], reason: "conversation_closed" });
    expect(pushes).toEqual([]);
    conversation.open = true;
    line.send(pushOf(["a"]));
    expect(await line.next()).toEqual({ type: "ack", requestIds: ["a"] });
    expect(conversation.told).toEqual(["user: text of a"]);
  });

  test("is returned where the page closes the conversation when it is told", async () => {
    const there = await liveVisit({
      onPush: () => {
        there.conversation.open = false;
      },
    });
    there.line.send(pushOf(["a"]));
    expect(await there.line.next()).toMatchObject({ type: "nack", reason: "conversation_closed" });
  });

  test("is returned where the SDK throws, and can be said later", async () => {
    const { line, conversation, page } = await liveVisit();
    const say = conversation.sendUserMessage;
    conversation.sendUserMessage = () => {
      throw new Error("no socket");
    };
    line.send(pushOf(["a"]));
    expect(await line.next()).toEqual({ type: "nack", requestIds: ["a"], reason: "send_failed" });
    expect(page.complaints).toEqual([new Error("no socket")]);
    conversation.sendUserMessage = say;
    line.send(pushOf(["a"]));
    expect(await line.next()).toMatchObject({ type: "ack" });
  });

  test("is not said where the page closes the client when it is told", async () => {
    const there = await liveVisit({ onPush: () => there.session.close() });
    there.line.send(pushOf(["a"]));
    expect(await there.line.next()).toEqual({ type: "bye" });
    expect(there.conversation.told).toEqual([]);
  });

  test("is judged by what the SDK reported last where there is no isOpen", async () => {
    const { isOpen: _, ...bare } = testConversation();
    const render = { ...bare, status: "connecting" };
    const { edge, session } = await visit();
    session.callbacks.onStatusChange({ status: "connected" });
    void session.attach(render);
    const { line } = await edge.welcomed();
    line.send(pushOf(["a"]));
    expect(await line.next()).toMatchObject({ type: "ack" });
  });

  test("is judged by its status where the callbacks are not passed on", async () => {
    const { isOpen: _, ...bare } = testConversation();
    const { edge, session } = await visit();
    void session.attach({ ...bare, status: "disconnected" });
    const { line } = await edge.welcomed();
    line.send(pushOf(["a"]));
    expect(await line.next()).toMatchObject({ type: "nack" });
  });
});

describe("progress of a task", () => {
  const progress = { type: "progress", requestId: "a", seq: 1, delivery: "silent", text: "halfway" } as const;

  test("is told to the page and, as context, to the agent; nothing is acknowledged", async () => {
    const told: Progress[] = [];
    const { line, conversation } = await liveVisit({ onProgress: (one) => told.push(one) });
    line.send(progress);
    line.send({ ...progress, seq: 2, delivery: "when_idle", text: "nearly there" });
    line.send(pushOf(["b"]));
    // Only the push is answered.
    expect(await line.next()).toEqual({ type: "ack", requestIds: ["b"] });
    expect(conversation.told).toEqual(["context: halfway", "user: nearly there", "user: text of b"]);
    expect(told).toMatchObject([{ requestId: "a", seq: 1, text: "halfway" }, { seq: 2 }]);
  });

  test("is not told after the result, nor where the conversation is closed", async () => {
    const told: Progress[] = [];
    const { line, conversation } = await liveVisit({ onProgress: (one) => told.push(one) });
    line.send(pushOf(["a"]));
    await line.next();
    line.send(progress);
    conversation.open = false;
    line.send({ ...progress, requestId: "other" });
    line.send(pushOf(["b"]));
    expect(await line.next()).toMatchObject({ type: "nack" });
    expect(told).toEqual([]);
  });
});

describe("the page is left alone", () => {
  test("by listeners that throw", async () => {
    const { line, conversation, page } = await liveVisit({
      onPush: () => {
        throw new Error("onPush");
      },
      onStatus: () => {
        throw new Error("onStatus");
      },
    });
    line.send(pushOf(["a"]));
    expect(await line.next()).toMatchObject({ type: "ack" });
    expect(conversation.told).toHaveLength(1);
    expect(page.complaints.map(String)).toEqual(["Error: onStatus", "Error: onStatus", "Error: onPush"]);
  });

  test("by callbacks that are called with nothing", async () => {
    const { session, page } = await visit();
    for (const callback of Object.values(session.callbacks) as ((event?: unknown) => void)[]) callback();
    expect(page.complaints.length).toBeGreaterThan(0);
  });

  test("by frames that are malformed, unknown or binary", async () => {
    const { line, conversation, pushes, page } = await liveVisit();
    for (const text of ["", "{", "null", "[]", "7", '"push"', "pong", "{}"]) line.sendText(text);
    line.sendText(new Uint8Array([1, 2, 3]));
    line.send({ type: "confetti" });
    const malformed = [
      { requestIds: "a" },
      { requestIds: [] },
      { requestIds: [1] },
      { text: 7 },
      { delivery: "loud" },
    ];
    for (const fields of malformed) line.send({ ...pushOf(["a"]), ...fields });
    line.welcome();
    line.send(pushOf(["b"]));
    expect(await line.next()).toEqual({ type: "ack", requestIds: ["b"] });
    expect([conversation.told, pushes.length, page.complaints]).toEqual([["user: text of b"], 1, []]);
  });

  test("by a storage that cannot be had", async () => {
    const page = testPage();
    page.storage = () => {
      throw new DOMException("denied", "SecurityError");
    };
    const { line, conversation, edge } = await liveVisit({ page });
    line.send(pushOf(["a"]));
    await line.next();
    line.cut();
    await expect.poll(() => page.waits()).toEqual([500]);
    page.advance(500);
    expect((await edge.welcomed()).hello.heard).toEqual(["a"]);
    expect(conversation.told).toHaveLength(1);
  });

  test("by a rejected attach that nobody looks at", async () => {
    const unhandled: unknown[] = [];
    const note = (error: unknown) => unhandled.push(error);
    process.on("unhandledRejection", note);
    const { session, conversation } = await visit();
    void session.attach(conversation);
    session.close();
    void session.attach(conversation);
    await new Promise((resolve) => setImmediate(resolve));
    process.off("unhandledRejection", note);
    expect(unhandled).toEqual([]);
  });
});

describe("the end of an agent conversation", () => {
  test.for(["onDisconnect", "onStatusChange"] as const)(
    "by %s says goodbye, goes idle, and another may come",
    async (how) => {
      const { edge, session, conversation, line, page, statuses } = await liveVisit();
      conversation.open = false;
      if (how === "onDisconnect") session.callbacks.onDisconnect();
      else session.callbacks.onStatusChange({ status: "disconnected" });
      expect(await line.next()).toEqual({ type: "bye" });
      expect(await line.closed).toBe(1000);
      expect([session.status, page.listeners(), page.waits()]).toEqual(["idle", 0, []]);
      void session.attach(testConversation("conv_2"));
      expect((await edge.welcomed()).hello.heard).toEqual([]);
      expect(statuses.slice(0, 3)).toEqual(["connecting", "live", "idle"]);
    },
  );

  test("before the welcome rejects the attach", async () => {
    const { edge, session, conversation } = await visit();
    const attached = rejection(session.attach(conversation));
    const line = await edge.nextLine();
    await line.next();
    conversation.open = false;
    session.callbacks.onDisconnect();
    expect(await attached).toBe("ended");
    expect(await line.next()).toEqual({ type: "bye" });
  });

  test("that is an earlier one's, coming late, does not end the one that is attached", async () => {
    const { session, line } = await liveVisit();
    session.callbacks.onDisconnect();
    session.callbacks.onStatusChange({ status: "disconnected" });
    line.send(pushOf(["a"]));
    expect(await line.next()).toMatchObject({ type: "ack" });
    expect(session.status).toBe("live");
  });
});

describe("closing", () => {
  test("says goodbye once, and for good", async () => {
    const { session, conversation, line, page, statuses, edge } = await liveVisit();
    session.close();
    session.close();
    expect(await line.next()).toEqual({ type: "bye" });
    expect(await line.closed).toBe(1000);
    expect(statuses).toEqual(["connecting", "live", "closed"]);
    expect([page.listeners(), page.waits()]).toEqual([0, []]);
    expect(await rejection(session.attach(conversation))).toBe("closed");
    session.callbacks.onDisconnect();
    expect([session.status, edge.count()]).toEqual(["closed", 1]);
  });

  test("before the welcome rejects the attach", async () => {
    const { session, conversation } = await visit();
    const attached = rejection(session.attach(conversation));
    session.close();
    expect(await attached).toBe("closed");
  });

  test("from the page's own onStatus leaves nothing behind", async () => {
    const there = await visit({ onStatus: (status) => status === "connecting" && there.session.close() });
    expect(await rejection(there.session.attach(there.conversation))).toBe("closed");
    expect([there.page.offers, there.page.waits(), there.page.listeners()]).toEqual([[], [], 0]);
    expect(there.session.status).toBe("closed");
  });
});
