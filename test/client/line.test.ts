import { describe, expect, test } from "vitest";
import { AgentSessionError } from "../../client/agent-session.ts";
import { testConversation } from "./support/conversation.ts";
import { pushOf } from "./support/edge.ts";
import { testPage } from "./support/page.ts";
import { liveVisit, visit } from "./support/visit.ts";

const waiting = (page: ReturnType<typeof testPage>, ms: number) =>
  expect.poll(() => page.waits(), { interval: 5 }).toEqual([ms]);

describe("a line that is lost", () => {
  test("comes back with a hello that lists what was heard", async () => {
    const { edge, page, line, session, statuses } = await liveVisit();
    line.send(pushOf(["a"]));
    await line.next();
    line.cut();
    await waiting(page, 500);
    expect(session.status).toBe("reconnecting");
    page.advance(500);
    const { hello } = await edge.welcomed();
    expect(hello).toEqual({ type: "hello", agentSessionId: "conv_1", heard: ["a"] });
    await expect.poll(() => statuses).toEqual(["connecting", "live", "reconnecting", "live"]);
  });

  test("brings the session again", async () => {
    const { edge, page, session, conversation } = await visit();
    void session.attach(conversation, { sessionUrl: "wss://agent.example/s" });
    (await edge.welcomed()).line.close(1011, "restart");
    await waiting(page, 500);
    page.advance(500);
    expect((await edge.welcomed()).hello.session).toEqual({ sessionUrl: "wss://agent.example/s" });
  });

  test("waits longer each time, from 1 s to 30 s, and any part of it", async () => {
    const { edge, page, session, conversation, statuses } = await visit();
    page.chance = 0.999;
    void session.attach(conversation);
    for (const ms of [1, 2, 4, 8, 16, 30, 30].map((s) => s * 999)) {
      (await edge.nextLine()).close(1011);
      await waiting(page, ms);
      page.advance(ms);
    }
    page.chance = 0;
    (await edge.nextLine()).close(1011);
    await waiting(page, 0);
    expect(statuses).toEqual(["connecting"]);
  });

  test("forgets its failures once it has lived for ten seconds, not before", async () => {
    const { edge, page, session, conversation } = await visit();
    void session.attach(conversation);
    (await edge.nextLine()).close(1011);
    await waiting(page, 500);
    page.advance(500);
    const brief = await edge.welcomed();
    await expect.poll(() => session.status).toBe("live");
    brief.line.cut();
    await waiting(page, 1_000);
    page.advance(1_000);
    const steady = await edge.welcomed();
    await expect.poll(() => session.status).toBe("live");
    page.advance(10_000);
    steady.line.cut();
    await waiting(page, 500);
  });

  test("asks for a token whenever it is opened", async () => {
    let issued = 0;
    const { edge, page, session, conversation } = await visit({ getToken: async () => `token-${++issued}` });
    void session.attach(conversation);
    for (const token of ["token-1", "token-2", "token-3"]) {
      const { line } = await edge.welcomed();
      expect(line.offered[1]).toBe(`bearer.${token}`);
      await expect.poll(() => session.status).toBe("live");
      line.cut();
      await expect.poll(() => session.status).toBe("reconnecting");
      page.advance(page.waits()[0] ?? 0);
    }
  });
});

describe("a line that does not come about", () => {
  test("is tried again where there is no token", async () => {
    const tokens = [Promise.reject(new Error("no token")), "good"];
    const { edge, page, session, conversation } = await visit({ getToken: () => tokens.shift() ?? "" });
    const attached = session.attach(conversation);
    await waiting(page, 500);
    expect([session.status, page.complaints.map(String)]).toEqual(["connecting", ["Error: no token"]]);
    page.advance(500);
    expect((await edge.welcomed()).line.offered[1]).toBe("bearer.good");
    await attached;
  });

  test("is tried again where getToken throws, or the token cannot be sent", async () => {
    const tokens = ["spaces and, commas", "good"];
    const { edge, page, session, conversation } = await visit({
      getToken: () => {
        if (tokens.length === 2 && page.complaints.length === 0) throw new Error("thrown");
        return tokens.shift() ?? "";
      },
    });
    void session.attach(conversation);
    await waiting(page, 500);
    page.advance(500);
    await waiting(page, 1_000);
    expect(page.complaints).toHaveLength(2);
    page.advance(1_000);
    await edge.welcomed();
  });

  test("is given up after ten seconds without a token, and what comes late is not used", async () => {
    const late = Promise.withResolvers<string>();
    const tokens = [late.promise, "good"];
    const { edge, page, session, conversation } = await visit({ getToken: () => tokens.shift() ?? "" });
    void session.attach(conversation);
    page.advance(10_000);
    expect(page.waits()).toEqual([500]);
    late.resolve("late");
    page.advance(500);
    await edge.welcomed();
    expect(page.offers).toEqual([["agent-session.v1", "bearer.good"]]);
  });

  test("is given up after ten seconds without a welcome", async () => {
    const { edge, page, session, conversation } = await visit();
    void session.attach(conversation);
    const silent = await edge.nextLine();
    await silent.next();
    page.advance(10_000);
    await silent.closed;
    page.advance(500);
    await edge.welcomed();
    await expect.poll(() => session.status).toBe("live");
  });

  test("is tried again where nobody listens", async () => {
    const { edge, page, session, conversation } = await visit();
    await edge.stop();
    void session.attach(conversation);
    await waiting(page, 500);
    page.advance(500);
    await waiting(page, 1_000);
    expect(session.status).toBe("connecting");
  });
});

test("a push before the welcome is not said: it could not be acknowledged", async () => {
  const { edge, session, conversation } = await visit();
  void session.attach(conversation);
  const line = await edge.nextLine();
  await line.next();
  line.send(pushOf(["a"]));
  line.welcome();
  line.send(pushOf(["b"]));
  expect(await line.next()).toEqual({ type: "ack", requestIds: ["b"] });
  expect(conversation.told).toEqual(["user: text of b"]);
});

describe("a line that must not come back", () => {
  test.for([
    ["the frame", (line: { send(frame: object): void }) => line.send({ type: "replaced" })],
    ["the close code", (line: { close(code: number): void }) => line.close(4001)],
  ] as const)("is replaced, by %s", async ([, replace]) => {
    const { edge, page, line, session, conversation, statuses } = await liveVisit();
    replace(line);
    await expect.poll(() => session.status).toBe("replaced");
    page.advance(60_000);
    page.fire("online");
    page.fire("pageshow");
    expect([page.waits(), page.listeners(), edge.count()]).toEqual([[], 0, 1]);
    expect(statuses).toEqual(["connecting", "live", "replaced"]);
    void session.attach(conversation);
    await edge.welcomed();
    await expect.poll(() => session.status).toBe("live");
  });

  test("was refused: the attach rejects with the reason, and another may be tried", async () => {
    const { edge, session, conversation, page } = await visit();
    const attached = session.attach(conversation, { sessionUrl: "wss://elsewhere.example" });
    const line = await edge.nextLine();
    await line.next();
    line.close(1008, "session_url_not_allowed");
    const error = await attached.catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(AgentSessionError);
    expect(error).toMatchObject({ code: "refused", message: "session_url_not_allowed" });
    expect([session.status, page.waits()]).toEqual(["idle", []]);
  });

  test("but one that was closed for a broken rule later comes back", async () => {
    const { page, line, session } = await liveVisit();
    line.close(1008, "token_expired");
    await waiting(page, 500);
    expect(session.status).toBe("reconnecting");
  });
});

describe("the keepalive", () => {
  test("asks after 25 s of silence, and is content with any frame", async () => {
    const { page, line, session, edge } = await liveVisit();
    page.advance(25_000);
    expect(await line.next()).toBe("ping");
    line.sendText("pong");
    await waiting(page, 25_000);
    page.advance(20_000);
    line.send({ type: "whatever" });
    await waiting(page, 25_000);
    expect([session.status, edge.count()]).toEqual(["live", 1]);
  });

  test("takes the line for lost where nothing comes back for 10 s", async () => {
    const { page, line, session, edge } = await liveVisit();
    page.advance(25_000);
    await line.next();
    page.advance(9_999);
    expect(session.status).toBe("live");
    page.advance(1);
    expect(session.status).toBe("reconnecting");
    page.advance(500);
    await edge.welcomed();
  });
});

describe("the page", () => {
  test("that is hidden says goodbye, and comes back from the bfcache with what it heard", async () => {
    const { page, line, session, edge } = await liveVisit();
    line.send(pushOf(["a"]));
    await line.next();
    page.fire("pagehide");
    expect(await line.next()).toEqual({ type: "bye" });
    expect(await line.closed).toBe(1000);
    page.advance(3_600_000);
    page.fire("online");
    expect([session.status, page.waits()]).toEqual(["reconnecting", []]);
    page.fire("pageshow");
    expect((await edge.welcomed()).hello.heard).toEqual(["a"]);
    await expect.poll(() => session.status).toBe("live");
  });

  test("that comes back to an agent conversation that has ended goes idle", async () => {
    const { page, session, conversation, edge } = await liveVisit();
    page.fire("pagehide");
    conversation.open = false;
    page.fire("pageshow");
    expect([session.status, edge.count(), page.listeners()]).toEqual(["idle", 1, 0]);
  });

  test("that is shown for the first time opens no second line", async () => {
    const { page, edge, line } = await liveVisit();
    page.fire("pageshow");
    line.send(pushOf(["a"]));
    await line.next();
    expect(edge.count()).toBe(1);
  });

  test("that is hidden before the welcome comes back too, and the attach resolves then", async () => {
    const { page, session, conversation, edge } = await visit();
    const attached = session.attach(conversation);
    const line = await edge.nextLine();
    await line.next();
    page.fire("pagehide");
    expect(await line.next()).toEqual({ type: "bye" });
    page.fire("pageshow");
    await edge.welcomed();
    await attached;
  });

  test("that is online again tries at once, as if nothing had failed", async () => {
    const { page, session, conversation, edge } = await visit();
    page.chance = 0.999;
    void session.attach(conversation);
    for (const ms of [999, 1_998, 3_996]) {
      (await edge.nextLine()).close(1011);
      await waiting(page, ms);
      if (ms < 3_000) page.advance(ms);
    }
    page.fire("online");
    (await edge.nextLine()).close(1011);
    await waiting(page, 999);
  });

  test("whose network changes looks whether its line still lives, and believes no event", async () => {
    const { page, line, session } = await liveVisit();
    page.fire("offline");
    expect(await line.next()).toBe("ping");
    line.sendText("pong");
    await waiting(page, 25_000);
    expect(session.status).toBe("live");
    page.fire("online");
    expect(await line.next()).toBe("ping");
    page.advance(10_000);
    expect(session.status).toBe("reconnecting");
  });
});

describe("what was said", () => {
  test("is known to a client that is made anew on the same page", async () => {
    const stored = new Map<string, string>();
    const first = await liveVisit({ page: testPage(stored) });
    first.line.send(pushOf(["a"]));
    await first.line.next();
    first.session.close();
    const second = await liveVisit({ page: testPage(stored) });
    expect(second.hello.heard).toEqual(["a"]);
    second.line.send(pushOf(["a"]));
    expect(await second.line.next()).toEqual({ type: "ack", requestIds: ["a"] });
    expect(second.conversation.told).toEqual([]);
  });

  test("in one agent conversation is said again in the next", async () => {
    const { edge, session, line } = await liveVisit();
    line.send(pushOf(["a"]));
    await line.next();
    const next = testConversation("conv_2");
    void session.attach(next);
    const { line: nextLine, hello } = await edge.welcomed();
    expect(hello.heard).toEqual([]);
    nextLine.send(pushOf(["a"]));
    await nextLine.next();
    expect(next.told).toEqual(["user: text of a"]);
  });

  test("proves nothing where older ones were forgotten: then the hello says nothing of it", async () => {
    const ids = Array.from({ length: 401 }, (_, i) => `request-${i}`);
    const { edge, page, line } = await liveVisit();
    line.send(pushOf(ids));
    await line.next();
    line.cut();
    await waiting(page, 500);
    page.advance(500);
    const { hello, line: next } = await edge.welcomed();
    expect(hello).toEqual({ type: "hello", agentSessionId: "conv_1" });
    next.send(pushOf(["request-400"]));
    expect(await next.next()).toMatchObject({ type: "ack" });
  });

  test("is left out of a hello that would be longer than 64 KiB", async () => {
    const { edge, page, session, conversation } = await visit();
    const sessionPayload = "é".repeat(20_000);
    void session.attach(conversation, { transport: "webrtc", sessionPayload });
    const { line, hello } = await edge.welcomed();
    expect(hello.heard).toEqual([]);
    line.send(pushOf(Array.from({ length: 300 }, (_, i) => `${"r".repeat(120)}${i}`)));
    await line.next();
    line.cut();
    await waiting(page, 500);
    page.advance(500);
    const again = await edge.welcomed();
    expect(again.hello).toEqual({ type: "hello", session: hello.session, agentSessionId: "conv_1" });
  });
});
