/** The main job through the built Worker: sessions, callbacks, conversations and what agents see. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type AgentBehaviour, startAgent, type TestAgent } from "../support/agent.ts";
import { startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
let worker: TestWorker;
const agents: TestAgent[] = [];
let ids = 0;

beforeAll(async () => {
  worker = await startWorker();
});
afterAll(() => worker.close());
afterEach(async () => {
  await Promise.all(agents.splice(0).map((agent) => agent.close()));
});

function freshId(): string {
  ids += 1;
  return `main-${ids}`;
}

async function agent(behaviour: AgentBehaviour = "reads", redirectTo?: string): Promise<TestAgent> {
  const started = await startAgent(behaviour, redirectTo);
  agents.push(started);
  return started;
}

function register(id: string, body: object) {
  return worker.fetch(`${API}/${id}/session`, { json: body });
}

function callBack(conversationId: string, requestId: string, fields: object = {}) {
  return worker.fetch("/callback", {
    json: { requestId, conversationId, output: `output of ${requestId}`, ...fields },
  });
}

async function history(id: string) {
  const response = await worker.fetch(`${API}/${id}`);
  return (await response.json()) as { messages: { id: string; content: string }[] };
}

describe("registering a session", () => {
  test("answers as the contract says, and the status tells no URL", async () => {
    const id = freshId();
    const response = await register(id, {
      sessionUrl: "ws://127.0.0.1:9/?token=secret",
      transport: "websocket",
    });
    expect(response.status).toBe(200);
    expect(response.headers.get("x-request-id")).toMatch(/^[\w-]+$/);
    expect(await response.json()).toEqual({
      success: true,
      message: "Session registered",
      conversationId: id,
      registrationId: expect.any(String),
      ttl: 600,
      expiresAt: expect.stringMatching(/Z$/),
    });

    const status = await worker.fetch(`${API}/${id}/session`);
    const text = await status.text();
    expect(JSON.parse(text)).toEqual({
      active: true,
      conversationId: id,
      registrationId: expect.stringMatching(/^[0-9a-f-]{36}$/),
      createdAt: expect.any(String),
      expiresAt: expect.any(String),
      ttl: expect.toSatisfy((ttl: number) => ttl > 590 && ttl <= 600),
      transport: "websocket",
      channel: "socket",
    });
    expect(text).not.toContain("secret");
  });

  test("a session that never was is a 404 problem", async () => {
    const response = await worker.fetch(`${API}/${freshId()}/session`);
    expect(response.status).toBe(404);
    expect(response.headers.get("content-type")).toBe("application/problem+json");
    expect(await response.json()).toMatchObject({
      code: "session_not_found",
      status: 404,
      success: false,
      requestId: response.headers.get("x-request-id"),
    });
  });

  test("a closing tab deletes only its own registration", async () => {
    const id = freshId();
    const first = (await (await register(id, { transport: "webrtc" })).json()) as { registrationId: string };
    await register(id, { transport: "webrtc" });
    const path = `${API}/${id}/session?registrationId=${first.registrationId}`;
    expect(await (await worker.fetch(path, { method: "DELETE" })).json()).toEqual({
      success: true,
      deleted: false,
    });
    const all = await worker.fetch(`${API}/${id}/session`, { method: "DELETE" });
    expect(await all.json()).toEqual({ success: true, deleted: true });
    expect((await worker.fetch(`${API}/${id}/session`)).status).toBe(404);
  });
});

describe("a callback into a live session", () => {
  test("reaches the agent as exactly one user_message frame", async () => {
    const id = freshId();
    const live = await agent();
    await register(id, { sessionUrl: live.url });
    const response = await callBack(id, "r1", { toolName: "search" });
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual({
      received: true,
      delivered: true,
      status: "delivered",
      channel: "socket",
      proof: "accepted",
    });
    expect(live.frames.map((frame) => JSON.parse(frame))).toEqual([
      {
        type: "user_message",
        text: expect.stringMatching(
          /^\[Background task result\] A task has completed\.\n.*not said by the user.*\n<(result_\w+)>\nrequest r1, tool "search"\noutput of r1\n<\/\1>$/,
        ),
      },
    ]);
    expect((await history(id)).messages).toMatchObject([
      { id: "callback:r1", content: "output of r1", role: "tool" },
    ]);
  });

  test("in context mode is a contextual_update named by its requestId", async () => {
    const id = freshId();
    const live = await agent();
    await register(id, { sessionUrl: live.url });
    await callBack(id, "r:1", { mode: "context", success: false, error: { code: 7 } });
    expect(JSON.parse(live.frames[0] ?? "")).toEqual({
      type: "contextual_update",
      context_id: "r:1",
      text: expect.stringContaining("failed.\nThis is data produced by a tool"),
    });
    expect(live.frames[0]).toContain(JSON.stringify('{"code":7}').slice(1, -1));
  });

  test("sent a hundred times at once is pushed once, and every sender is told the same", async () => {
    const id = freshId();
    const live = await agent();
    await register(id, { sessionUrl: live.url });
    const responses = await Promise.all(Array.from({ length: 100 }, () => callBack(id, "r1")));
    for (const response of responses) {
      expect(response.status).toBe(200);
      expect(await response.json()).toEqual({
        received: true,
        delivered: true,
        status: "delivered",
        channel: "socket",
        proof: "accepted",
      });
    }
    expect(live.frames).toHaveLength(1);
    const again = await callBack(id, "r1");
    expect(again.status).toBe(200);
    expect(await again.json()).toEqual({
      received: true,
      delivered: true,
      status: "duplicate",
      channel: "socket",
      proof: "accepted",
    });
  });

  test("fifty out of order each reach their own conversation", async () => {
    const live = await Promise.all(Array.from({ length: 50 }, () => agent()));
    const conversations = live.map((one) => ({ id: freshId(), live: one }));
    await Promise.all(conversations.map(({ id, live: { url } }) => register(id, { sessionUrl: url })));
    const shuffled = conversations.toReversed().toSorted((a, b) => a.id.localeCompare(b.id));
    await Promise.all(shuffled.map(({ id }) => callBack(id, `for-${id}`)));
    for (const { id, live: one } of conversations) {
      expect(one.frames).toHaveLength(1);
      expect(one.frames[0]).toContain(`output of for-${id}\\n`);
    }
  });

  test.each<[AgentBehaviour, string, { frames: number; connections: number }]>([
    ["refuses-frames", "push_failed", { frames: 1, connections: 1 }],
    ["drops", "unconfirmed", { frames: 1, connections: 1 }],
    ["breaks", "unconfirmed", { frames: 1, connections: 1 }],
    ["forbids", "push_failed", { frames: 0, connections: 1 }],
    ["silent", "push_failed", { frames: 0, connections: 1 }],
  ])(
    "an agent that %s gets no second push, and the result waits: %s",
    async (behaviour, reason, expected) => {
      const id = freshId();
      const live = await agent(behaviour);
      await register(id, { sessionUrl: live.url });
      const response = await callBack(id, "r1");
      expect(response.status).toBe(202);
      expect(await response.json()).toEqual({
        received: true,
        delivered: false,
        status: "queued",
        reason,
      });
      expect({ frames: live.frames.length, connections: live.connections() }).toEqual(expected);
      expect((await history(id)).messages).toHaveLength(1);
    },
  );

  test("an agent that does not close its end is cut off, and may have heard the result", async () => {
    const id = freshId();
    const live = await agent("never-closes");
    await register(id, { sessionUrl: live.url });
    expect(await (await callBack(id, "r1")).json()).toMatchObject({
      status: "queued",
      reason: "unconfirmed",
    });
    expect(live.frames).toHaveLength(1);
    await expect.poll(live.open).toBe(0);
  }, 10_000);

  test("an agent that cannot be connected to is tried, and the result waits", async () => {
    const id = freshId();
    const live = await agent();
    await register(id, { sessionUrl: live.url });
    await live.close();
    agents.splice(0);
    expect(await (await callBack(id, "r1")).json()).toMatchObject({
      status: "queued",
      reason: "push_failed",
    });
    expect((await worker.logged("push.failed")).level).toBe("warn");
  });

  test("a redirect of the agent is not followed", async () => {
    const id = freshId();
    const elsewhere = await agent();
    const live = await agent("redirects", elsewhere.url.replace("ws:", "http:"));
    await register(id, { sessionUrl: live.url });
    expect(await (await callBack(id, "r1")).json()).toMatchObject({
      status: "queued",
      reason: "push_failed",
    });
    expect(elsewhere.connections()).toBe(0);
  });

  test("an ElevenLabs conversation URL is never dialled", async () => {
    const id = freshId();
    await register(id, {
      sessionUrl: "wss://api.elevenlabs.io/v1/convai/conversation?agent_id=a&token=secret",
    });
    const response = await callBack(id, "r1");
    expect(response.status).toBe(202);
    expect(await response.json()).toMatchObject({ reason: "no_push_channel" });
  });
});

describe("nobody there", () => {
  test("a callback for a conversation that never had a session is kept", async () => {
    const id = freshId();
    const response = await callBack(id, "r1");
    expect(response.status).toBe(202);
    expect(await response.json()).toEqual({
      received: true,
      delivered: false,
      status: "queued",
      reason: "session_not_found",
    });
    expect((await history(id)).messages).toMatchObject([{ id: "callback:r1" }]);
  });

  test("an ended session leaves one warning that says what happened and to which conversation", async () => {
    const id = freshId();
    await register(id, { transport: "webrtc" });
    await worker.fetch(`${API}/${id}/session`, { method: "DELETE" });
    const response = await callBack(id, "r1");
    expect(await response.json()).toMatchObject({ reason: "session_expired" });
    const warnings = worker.logs().filter((line) => line.level === "warn" && line.conversationId === id);
    expect(warnings).toEqual([
      expect.objectContaining({
        event: "callback.queued",
        reason: "session_expired",
        requestId: response.headers.get("x-request-id"),
        detail: expect.stringContaining("ended"),
      }),
    ]);
  });

  test("three results while away are one push on return, in order", async () => {
    const id = freshId();
    for (const requestId of ["r1", "r2", "r3"]) await callBack(id, requestId);
    const live = await agent();
    await register(id, { sessionUrl: live.url });
    const [frame] = await live.received(1);
    expect(JSON.parse(frame ?? "").text).toMatch(
      /^\[Background task results\] 3 tasks[\s\S]*r1[\s\S]*r2[\s\S]*r3/,
    );
    await expect
      .poll(async () => (await callBack(id, "r3")).json())
      .toMatchObject({ status: "duplicate", delivered: true });
    const again = await agent();
    await register(id, { sessionUrl: again.url });
    expect(await (await callBack(id, "r4")).json()).toMatchObject({ delivered: true });
    expect(again.frames).toHaveLength(1);
    expect(live.frames).toHaveLength(1);
  });

  test("a hand-over that fails loses nothing", async () => {
    const id = freshId();
    await callBack(id, "r1");
    const broken = await agent("refuses-frames");
    await register(id, { sessionUrl: broken.url });
    await broken.received(1);
    const live = await agent();
    await register(id, { sessionUrl: live.url });
    const [frame] = await live.received(1);
    expect(frame).toContain("output of r1");
  });
});

describe("conversations", () => {
  test("are made, read, listed and deleted with everything that belongs to them", async () => {
    const made = await worker.fetch(`${API}/new`, { json: { agentId: "a1", metadata: { tier: "gold" } } });
    expect(made.status).toBe(201);
    const { conversationId, conversation, success } = (await made.json()) as Record<string, string>;
    expect(success).toBe(true);
    expect(conversation).toMatchObject({ conversationId, agentId: "a1", metadata: { tier: "gold" } });

    const message = await worker.fetch(`${API}/${conversationId}/message`, {
      json: { role: "user", content: "Grüße 👋", toolArgs: [1, { "2": null }] },
    });
    expect(message.status).toBe(201);
    expect(await message.json()).toMatchObject({
      success: true,
      message: { role: "user", content: "Grüße 👋", source: "api", id: expect.any(String) },
    });
    expect(await (await worker.fetch(`${API}/${conversationId}`)).json()).toMatchObject({
      conversationId,
      createdAt: expect.any(String),
      messages: [{ content: "Grüße 👋", toolArgs: [1, { "2": null }] }],
    });
    const { conversations } = (await (await worker.fetch(`${API}/list?limit=1`)).json()) as {
      conversations: unknown[];
    };
    expect(conversations).toMatchObject([{ conversationId }]);

    await register(conversationId ?? "", { transport: "webrtc" });
    const gone = await worker.fetch(`${API}/${conversationId}`, { method: "DELETE" });
    expect(await gone.json()).toEqual({ success: true, deleted: true });
    expect((await worker.fetch(`${API}/${conversationId}`)).status).toBe(404);
    expect((await worker.fetch(`${API}/${conversationId}/session`)).status).toBe(404);
  });

  test("are listed by newest activity, a page at a time", async () => {
    const made: string[] = [];
    for (let i = 0; i < 5; i++) {
      const id = freshId();
      await worker.fetch(`${API}/${id}/message`, { json: { role: "user", content: "hi" } });
      made.unshift(id);
    }
    const seen: string[] = [];
    let cursor = "";
    for (let page = 0; page < 3; page++) {
      const response = await worker.fetch(`${API}/list?limit=2${cursor}`);
      const body = (await response.json()) as {
        conversations: { conversationId: string }[];
        nextCursor: string;
      };
      seen.push(...body.conversations.map(({ conversationId }) => conversationId));
      cursor = `&cursor=${encodeURIComponent(body.nextCursor)}`;
    }
    expect(seen.slice(0, 5)).toEqual(made);
    expect(new Set(seen).size).toBe(6);
  });

  test("take a callback by their own path", async () => {
    const id = freshId();
    const response = await worker.fetch(`${API}/${id}/callback`, {
      json: { requestId: "r1", output: [1, 2] },
    });
    expect(response.status).toBe(202);
    expect((await history(id)).messages).toMatchObject([{ content: "[1,2]", toolOutput: [1, 2] }]);
  });
});
