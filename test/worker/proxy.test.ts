/** The proxy through the built Worker: a page, a provider, and what passes between them. */
import { createHash, randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import type { ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  type Frame,
  metadata,
  type ProviderConversation,
  SIGNATURE,
  startProvider,
  type TestProvider,
} from "../support/provider.ts";
import { connectPage, type ProxiedPage, type ProxiedPageOptions } from "../support/proxied-page.ts";
import { API_TOKEN, CLOSED_DOORS } from "../support/secrets.ts";
import { LOCAL_BINDINGS, startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
const API_KEY = "el-key-0123456789";
let worker: TestWorker;
let provider: TestProvider;
const pages: ProxiedPage[] = [];
let ids = 0;

const bindings = () => ({
  ...LOCAL_BINDINGS,
  ELEVENLABS_API_URL: provider.url,
  ELEVENLABS_API_KEY: API_KEY,
  ELEVENLABS_AGENT_IDS: "agent_1,agent_2",
});

beforeAll(async () => {
  provider = await startProvider();
  worker = await startWorker(bindings());
});
afterAll(async () => {
  await worker.close();
  await provider.close();
});
afterEach(() => {
  for (const page of pages.splice(0)) page.vanish();
  provider.options = {};
});

/** As `expect.poll`, for a machine that may have much else to do. */
const soon = <T>(look: () => T) => expect.poll(look, { timeout: 5_000 });

function freshId(): string {
  ids += 1;
  return `proxy-${ids}`;
}

async function open(id: string, options?: ProxiedPageOptions, base = worker.url): Promise<ProxiedPage> {
  const page = await connectPage(base, id, options);
  pages.push(page);
  return page;
}

/** A page and its agent, which has said its metadata. */
async function connect(
  id: string,
  options?: ProxiedPageOptions,
  base?: URL,
): Promise<{ page: ProxiedPage; agent: ProviderConversation }> {
  const before = provider.conversations.length;
  const page = await open(id, options, base);
  const agent = await provider.opened(before + 1);
  await page.received(1);
  return { page, agent };
}

function callBack(conversationId: string, requestId: string, fields: object = {}) {
  return worker.fetch("/callback", {
    json: { requestId, conversationId, output: `output of ${requestId}`, ...fields },
  });
}

async function sessionOf(id: string) {
  const response = await worker.fetch(`${API}/${id}/session`);
  return (await response.json()) as Record<string, unknown>;
}

/** Waits until the conversation's session is this agent's. */
async function registered(id: string, { agentSessionId }: ProviderConversation): Promise<void> {
  await soon(() => sessionOf(id)).toMatchObject({ agentSessionId, channel: "proxy" });
}

async function resultsOf(id: string) {
  const response = await worker.fetch(`${API}/${id}/results`);
  const { results } = (await response.json()) as { results: { requestId: string; status: string }[] };
  return results.toReversed();
}

const eventOf = ({ data }: Frame) => JSON.parse(String(data)) as { type: string; text?: string };
const ping = { type: "ping", ping_event: { event_id: 1 } };

describe("a page that connects", () => {
  test("talks to the agent, which hears of the SDK, of convai and of no credential", async () => {
    const query = "&source=js_sdk&version=1.25.0&environment=a%20b&token=x";
    const { page, agent } = await connect(freshId(), { query, token: "page-token" });
    expect(page.protocol()).toBe("convai");
    expect(page.frames.map(eventOf)).toEqual([metadata(agent.agentSessionId)]);
    const parameters = "&source=js_sdk&version=1.25.0&environment=a%20b";
    expect(agent.path).toBe(
      `/v1/convai/conversation?agent_id=agent_1&conversation_signature=${SIGNATURE}${parameters}`,
    );
    expect(agent.headers["sec-websocket-protocol"]).toBe("convai");
    expect(JSON.stringify(agent.headers)).not.toMatch(/page-token|el-key/);
    page.say({ type: "pong", event_id: 1 });
    expect((await agent.received(1)).map(eventOf)).toEqual([{ type: "pong", event_id: 1 }]);
  });

  test("is a session by it, vouched for by the provider, and nothing secret is stored of it", async () => {
    const id = freshId();
    const { agent } = await connect(id);
    await registered(id, agent);
    expect(await sessionOf(id)).toMatchObject({ active: true, transport: "websocket", channel: "proxy" });
  });

  test("has results told to its agent, and nothing but the provider's frames comes back", async () => {
    const id = freshId();
    const { page, agent } = await connect(id);
    await registered(id, agent);
    const answer = callBack(id, "r1", { toolName: "search" });
    const [told] = (await agent.received(1)).map(eventOf);
    expect(told).toEqual({ type: "user_message", text: expect.stringContaining("output of r1") });
    agent.say(ping);
    const response = await answer;
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual({
      received: true,
      delivered: true,
      status: "delivered",
      channel: "proxy",
      proof: "accepted",
    });
    expect(page.frames.map(eventOf)).toEqual([metadata(agent.agentSessionId), ping]);

    const silent = callBack(id, "r2", { delivery: "silent" });
    expect((await agent.received(2)).map(eventOf)[1]).toEqual({
      type: "contextual_update",
      context_id: "r2",
      text: expect.stringContaining("output of r2"),
    });
    agent.say(ping);
    expect(await (await silent).json()).toMatchObject({ status: "delivered", channel: "proxy" });
  });

  test("is told what waited, and its session ends when it goes", async () => {
    const id = freshId();
    expect((await callBack(id, "r1")).status).toBe(202);
    const { page, agent } = await connect(id);
    expect(eventOf((await agent.received(1))[0] as Frame).text).toContain("output of r1");
    agent.say(ping);
    await soon(() => resultsOf(id)).toMatchObject([{ status: "delivered", channel: "proxy" }]);
    page.socket.close(1000, "User ended conversation");
    await soon(async () => (await worker.fetch(`${API}/${id}/session`)).status).toBe(404);
    expect(await (await callBack(id, "r2")).json()).toMatchObject({ reason: "session_expired" });
  });

  test("takes the place of the one before, whose agent is left too", async () => {
    const id = freshId();
    const first = await connect(id);
    await registered(id, first.agent);
    const second = await connect(id);
    expect(await first.page.closed()).toEqual({ code: 4001, reason: "replaced" });
    expect(await first.agent.closed).toEqual({ code: 1000, reason: "replaced" });
    await registered(id, second.agent);
    expect(second.page.socket.readyState).toBe(second.page.socket.OPEN);
    const answer = callBack(id, "r1");
    await second.agent.received(1);
    second.agent.say(ping);
    expect(await (await answer).json()).toMatchObject({ status: "delivered", channel: "proxy" });
    expect(first.agent.frames).toEqual([]);
  });

  test("says what it says before the agent is there in the same order", async () => {
    const page = await (async () => {
      provider.options.answer = (response: ServerResponse, signedUrl: string) =>
        void setTimeout(() => response.end(JSON.stringify({ signed_url: signedUrl })), 300);
      return open(freshId());
    })();
    const before = provider.conversations.length;
    for (let i = 0; i < 100; i++) page.socket.send(i % 2 === 0 ? `text ${i}` : Buffer.from([i]));
    const agent = await provider.opened(before + 1);
    page.socket.send("text 100");
    const frames = await agent.received(101);
    expect(frames.map(({ data, isBinary }) => (isBinary ? data[0] : String(data)))).toEqual(
      Array.from({ length: 101 }, (_, i) => (i % 2 === 0 ? `text ${i}` : i)),
    );
  });

  test("that says too much before the agent is there is cut off", async () => {
    provider.options.answer = () => {};
    const page = await open(freshId());
    for (let i = 0; i < 5; i++) page.socket.send("x".repeat(1024 * 1024));
    expect(await page.closed()).toMatchObject({ code: 1013 });
  });

  test("is let go where the conversation is deleted, and finds nobody afterwards", async () => {
    const id = freshId();
    const { page, agent } = await connect(id);
    await registered(id, agent);
    const deleted = await worker.fetch(`${API}/${id}`, { method: "DELETE" });
    expect(await deleted.json()).toMatchObject({ deleted: true });
    expect(await page.closed()).toEqual({ code: 4001, reason: "conversation_deleted" });
    expect((await agent.closed).code).toBe(1000);
    const asked = provider.asked.length;
    expect(await (await open(id)).closed()).toEqual({ code: 1008, reason: "conversation_deleted" });
    expect(provider.asked).toHaveLength(asked);
  });

  test("talks on where its session is ended, and is pushed nothing more", async () => {
    const id = freshId();
    const { page, agent } = await connect(id);
    await registered(id, agent);
    await worker.fetch(`${API}/${id}/session`, { method: "DELETE" });
    expect(await (await callBack(id, "r1")).json()).toMatchObject({ reason: "session_expired" });
    page.say({ type: "pong", event_id: 2 });
    expect((await agent.received(1)).map(eventOf)).toEqual([{ type: "pong", event_id: 2 }]);
  });
});

test("with the life of the object that holds it a connection ends, and the session with it", async () => {
  const directory = await mkdtemp(join(tmpdir(), "proxy-"));
  let mortal = await startWorker(bindings(), { directory });
  try {
    const { page, agent } = await connect("mortal", {}, mortal.url);
    const session = () => mortal.fetch(`${API}/mortal/session`);
    await soon(async () => (await session()).status).toBe(200);
    await mortal.close();
    await Promise.all([page.closed(), agent.closed]);
    mortal = await startWorker(bindings(), { directory });
    const json = { requestId: "r1", conversationId: "mortal", output: "x" };
    expect(await (await mortal.fetch("/callback", { json })).json()).toMatchObject({
      reason: "session_expired",
    });
    await expect.poll(async () => (await session()).status, { timeout: 5_000 }).toBe(404);
  } finally {
    await mortal.close();
    await rm(directory, { recursive: true, force: true });
  }
});

describe("frames", () => {
  /** Texts, JSON with odd spacing, empty ones, bytes, and long ones. */
  function frameOf(i: number): Frame {
    const text = (data: string) => ({ data: Buffer.from(data), isBinary: false });
    if (i % 250 === 7) return { data: randomBytes(1024 * 1024), isBinary: true };
    if (i % 250 === 9) return text(randomBytes(512 * 1024).toString("hex"));
    const audio = randomBytes(6_000).toString("base64");
    return [
      text(`{ "type" :\t"pong" ,\r\n  "event_id":${i} , "é😀\\u0000\\/" : 1.0e2 }`),
      text(""),
      { data: Buffer.alloc(0), isBinary: true },
      { data: randomBytes(i), isBinary: true },
      text(`{"type":"audio","audio_event":{"audio_base_64":"${audio}","event_id":${i}}}`),
      text(`\ufefftext \u0000 ${i}`),
      text('{"type":"user_transcript"'),
    ][i % 7] as Frame;
  }
  const summary = (frames: readonly Frame[]) =>
    frames.map(
      ({ data, isBinary }) =>
        `${isBinary ? "binary" : "text"} ${data.length} ${createHash("sha256").update(data).digest("hex")}`,
    );

  test("pass both ways, a thousand each, equal in bytes, kind and order", async () => {
    const { page, agent } = await connect(freshId());
    const thousand = () => Array.from({ length: 1_000 }, (_, i) => frameOf(i));
    const [fromPage, fromAgent] = [thousand(), thousand()];
    for (let i = 0; i < 1_000; i++) {
      for (const [socket, frames] of [
        [page.socket, fromPage],
        [agent.socket, fromAgent],
      ] as const) {
        const { data, isBinary } = frames[i] as Frame;
        socket.send(data, { binary: isBinary });
      }
      // As conversations do, they give each other time to read.
      if (i % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 20));
    }
    expect(summary(await agent.received(1_000))).toEqual(summary(fromPage));
    expect(summary((await page.received(1_001)).slice(1))).toEqual(summary(fromAgent));
  });

  test("of other conversations are none of each other's business", async () => {
    const talks = [await connect(freshId()), await connect(freshId())];
    for (const [i, { page, agent }] of talks.entries()) {
      page.socket.send(`from page ${i}`);
      agent.socket.send(`from agent ${i}`);
    }
    for (const [i, { page, agent }] of talks.entries()) {
      expect((await agent.received(1)).map(({ data }) => String(data))).toEqual([`from page ${i}`]);
      expect((await page.received(2)).slice(1).map(({ data }) => String(data))).toEqual([`from agent ${i}`]);
    }
  });
});

describe("whoever goes takes the other along", () => {
  const codes = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014, 3000, 4000, 4001, 4999];

  // A machine that has much else to do may need a second try.
  test.each(codes)("with %i and the reason for it, within a second", { retry: 2 }, async (code) => {
    const reason = `because of ${code}, naïvely`;
    for (const goes of ["page", "agent"] as const) {
      const talk = await connect(freshId());
      const start = Date.now();
      talk[goes].socket.close(code, reason);
      const seen = goes === "page" ? await talk.agent.closed : await talk.page.closed();
      expect(seen).toEqual({ code, reason });
      expect(Date.now() - start).toBeLessThan(1_000);
    }
  });

  test("with 1011 where it gave no code, or went without a word", async () => {
    for (const goes of ["page", "agent"] as const) {
      for (const leave of ["close", "terminate"] as const) {
        const talk = await connect(freshId());
        talk[goes].socket[leave]();
        const seen = goes === "page" ? await talk.agent.closed : await talk.page.closed();
        expect(seen).toEqual({ code: 1011, reason: "The connection was lost." });
      }
    }
  });

  test("after what it said last", async () => {
    const { page, agent } = await connect(freshId());
    for (let i = 0; i < 20; i++) agent.socket.send(`last words ${i}`);
    agent.socket.close(1000, "bye");
    expect(await page.closed()).toEqual({ code: 1000, reason: "bye" });
    expect(page.frames).toHaveLength(21);
  });

  test("and the agent is not called where the page goes first", async () => {
    let answer = () => {};
    provider.options.answer = (response, signedUrl) => {
      answer = () => response.end(JSON.stringify({ signed_url: signedUrl }));
    };
    const [asked, opened] = [provider.asked.length, provider.conversations.length];
    const page = await open(freshId());
    await soon(() => provider.asked.length).toBe(asked + 1);
    page.socket.close(1000);
    await page.closed();
    answer();
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(provider.conversations).toHaveLength(opened);
  });
});

describe("where there is no agent", () => {
  test.each<[string, TestProvider["options"], string]>([
    ["refuses the key", { answer: (response) => response.writeHead(401).end() }, "does not let"],
    ["fails", { answer: (response) => response.writeHead(500).end() }, "cannot be reached"],
    ["answers garbage", { answer: (response) => response.end("<html>") }, "does not let"],
    ["hangs up", { answer: (response) => response.socket?.destroy() }, "cannot be reached"],
    [
      "redirects the request",
      { answer: (response) => response.writeHead(302, { location: "/elsewhere" }).end() },
      "does not let",
    ],
    [
      "names a host that is not its own",
      { answer: (response) => response.end(JSON.stringify({ signed_url: "wss://evil.example/?k=secret" })) },
      "does not let",
    ],
    [
      "redirects the socket",
      {
        upgrade: (socket) => {
          socket.end("HTTP/1.1 302 Found\r\nlocation: ws://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n");
          return true;
        },
      },
      "does not let",
    ],
    [
      "refuses the socket",
      {
        upgrade: (socket) => {
          socket.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
          return true;
        },
      },
      "does not let",
    ],
  ])("because the provider %s, the page is told so in the close", async (_what, options, reason) => {
    provider.options = options;
    const asked = provider.asked.length;
    const page = await open(freshId());
    expect(await page.closed()).toEqual({ code: 1011, reason: expect.stringContaining(reason) });
    expect(page.frames).toEqual([]);
    // A connection that breaks is tried once more by the runtime.
    expect(provider.asked.length - asked).toBeLessThanOrEqual(2);
  });

  test("because the provider does not answer, or its socket never opens, the page knows within 6 s", {
    retry: 1,
  }, async () => {
    provider.options = {
      answer: (response, signedUrl) => {
        if (!signedUrl.includes("agent_2")) response.end(JSON.stringify({ signed_url: signedUrl }));
      },
      upgrade: () => true,
    };
    const start = Date.now();
    const waiting = [await open(freshId()), await open(freshId(), { agentId: "agent_2" })];
    for (const page of waiting) {
      expect(await page.closed()).toEqual({
        code: 1011,
        reason: "The agent's provider cannot be reached.",
      });
    }
    expect(Date.now() - start).toBeLessThan(6_000);
    expect(Date.now() - start).toBeGreaterThan(4_500);
  });
});

describe("a result that the provider", () => {
  test("says nothing to within five seconds is unconfirmed", async () => {
    const id = freshId();
    const { agent } = await connect(id);
    await registered(id, agent);
    const response = await callBack(id, "r1");
    expect(await response.json()).toMatchObject({ status: "queued", reason: "unconfirmed" });
    expect(await resultsOf(id)).toMatchObject([{ status: "unconfirmed" }]);
  });

  test("closes on is refused, or unconfirmed where it does not say why", async () => {
    for (const [code, reason, outcome] of [
      [1008, "push_failed", "refused"],
      [1011, "unconfirmed", "unconfirmed"],
    ] as const) {
      const id = freshId();
      const { page, agent } = await connect(id);
      await registered(id, agent);
      agent.socket.on("message", () => {
        agent.say(ping);
        agent.socket.close(code, "Invalid message received");
      });
      expect(await (await callBack(id, "r1")).json()).toMatchObject({ status: "queued", reason });
      expect(await page.closed()).toEqual({ code, reason: "Invalid message received" });
      expect(await resultsOf(id)).toMatchObject([
        { attempts: [{ channel: "proxy", outcome, closeCode: code }] },
      ]);
    }
  });
});

describe("while the agent speaks", () => {
  /** So many seconds of sound, in pieces, as fast as they can be sent. */
  function speak(agent: ProviderConversation, seconds: number): void {
    for (let i = 0; i < seconds * 4; i++) {
      const audio_base_64 = Buffer.alloc(8_000).toString("base64");
      agent.say({ type: "audio", audio_event: { audio_base_64, event_id: 1 } });
    }
  }

  /** Sends three results and returns the first frame that tells any of them, and when it came, in ms. */
  async function threeResults(id: string, agent: ProviderConversation) {
    const start = Date.now();
    for (const requestId of ["r1", "r2", "r3"]) {
      expect(await (await callBack(id, requestId)).json()).toMatchObject({ reason: "agent_busy" });
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    agent.socket.once("message", () => resolve());
    await promise;
    agent.say(ping);
    return { text: eventOf(agent.frames[0] as Frame).text ?? "", ms: Date.now() - start };
  }

  test("three results gather, and are one push when it has been heard", async () => {
    const id = freshId();
    const { page, agent } = await connect(id);
    await registered(id, agent);
    speak(agent, 3);
    await page.received(13);
    const { text, ms } = await threeResults(id, agent);
    for (const requestId of ["r1", "r2", "r3"]) expect(text).toContain(`output of ${requestId}`);
    expect(ms).toBeGreaterThan(2_500);
    expect(ms).toBeLessThan(5_000);
    await soon(() => resultsOf(id)).toMatchObject([
      { status: "delivered" },
      { status: "delivered" },
      { status: "delivered" },
    ]);
    expect(agent.frames).toHaveLength(1);
  });

  test("they wait no longer than eight seconds, however long it speaks", async () => {
    const id = freshId();
    const { page, agent } = await connect(id);
    await registered(id, agent);
    speak(agent, 60);
    await page.received(241);
    const { ms } = await threeResults(id, agent);
    expect(ms).toBeGreaterThan(7_500);
    expect(ms).toBeLessThan(9_500);
    expect(agent.frames).toHaveLength(1);
  });

  test("what interrupts goes at once, and when the user interrupts the rest need not wait for the end", async () => {
    const id = freshId();
    const { page, agent } = await connect(id);
    await registered(id, agent);
    speak(agent, 60);
    await page.received(241);
    expect(await (await callBack(id, "r1")).json()).toMatchObject({ reason: "agent_busy" });
    const start = Date.now();
    agent.say({ type: "interruption", interruption_event: { event_id: 2 } });
    await agent.received(1);
    agent.say(ping);
    expect(Date.now() - start).toBeLessThan(4_000);

    speak(agent, 60);
    const urgent = callBack(id, "r2", { delivery: "interrupt" });
    expect(eventOf((await agent.received(2))[1] as Frame).text).toContain("output of r2");
    agent.say(ping);
    expect(await (await urgent).json()).toMatchObject({ status: "delivered" });
  });
});

describe("what is said", () => {
  const user = (user_transcript: string, event_id: number) => ({
    type: "user_transcript",
    user_transcription_event: { user_transcript, event_id },
  });
  const agentSays = (agent_response: string, event_id: number) => ({
    type: "agent_response",
    agent_response_event: { agent_response, event_id },
  });
  const historyOf = async (at: TestWorker, id: string) => {
    const response = await at.fetch(`${API}/${id}`);
    const { messages } = (await response.json()) as { messages: Record<string, string>[] };
    return messages;
  };

  test("stands in the history where a deployment asks for it, as it was heard, and nowhere else", async () => {
    const keeping = await startWorker({ ...bindings(), ELEVENLABS_TRANSCRIPTS: "true" });
    try {
      const id = freshId();
      const [kept, other] = [await connect(id, {}, keeping.url), await connect(id)];
      await registered(id, other.agent);
      for (const { agent } of [kept, other]) {
        agent.say(user("What is new?", 1));
        agent.say(agentSays("Three things: a, b and c.", 2));
        agent.say({ type: "interruption", interruption_event: { event_id: 3 } });
        agent.say({
          type: "agent_response_correction",
          agent_response_correction_event: {
            original_agent_response: "Three things: a, b and c.",
            corrected_agent_response: "Three things: a",
            event_id: 2,
          },
        });
        agent.say(user("Enough.", 4));
      }
      await expect
        .poll(() => historyOf(keeping, id), { timeout: 8_000 })
        .toMatchObject([
          {
            id: `elevenlabs:${kept.agent.agentSessionId}:live:0`,
            role: "user",
            content: "What is new?",
            source: "elevenlabs",
          },
          { role: "agent", content: "Three things: a" },
          { role: "user", content: "Enough." },
        ]);
      expect(await historyOf(worker, id)).toEqual([]);
      expect(keeping.lines.join()).not.toMatch(/What is new|Three things/);
    } finally {
      await keeping.close();
    }
  });
});

describe("the door", () => {
  let closed: TestWorker;
  beforeAll(async () => {
    closed = await startWorker({ ...bindings(), ...CLOSED_DOORS, ALLOWED_ORIGINS: "https://app.example" });
  });
  afterAll(() => closed.close());

  async function tokenOf(id: string): Promise<string> {
    const headers = { authorization: `Bearer ${API_TOKEN}` };
    const response = await closed.fetch(`${API}/${id}/token`, { method: "POST", headers });
    return ((await response.json()) as { token: string }).token;
  }

  test("opens to the conversation's own token, from a listed page, and the agent hears no token", async () => {
    const token = await tokenOf("mine");
    const { page, agent } = await connect("mine", { token, origin: "https://app.example" }, closed.url);
    expect(page.protocol()).toBe("convai");
    expect(JSON.stringify([agent.path, agent.headers])).not.toContain(token);
    const said = closed.lines.join();
    for (const secret of [token, API_KEY, SIGNATURE, provider.url]) expect(said).not.toContain(secret);
  });

  test("is shut before any object is made, and the provider is not asked", async () => {
    const before = [await closed.conversationObjects(), provider.asked.length];
    const [token, other] = [await tokenOf("shut"), await tokenOf("another")];
    const refusals: [ProxiedPageOptions, number][] = [
      [{}, 401],
      [{ token: "nonsense" }, 401],
      [{ token: other }, 403],
      [{ token, origin: "https://evil.example" }, 403],
      [{ token, origin: "null" }, 403],
      [{ token, agentId: "agent_3" }, 403],
      [{ token, agentId: "" }, 403],
      [{ token, subprotocols: [] }, 400],
      [{ token, subprotocols: ["agent-session.v1"] }, 400],
    ];
    for (const [options, status] of refusals) {
      await expect(connectPage(closed.url, "shut", options)).rejects.toThrow(`refused with ${status}`);
    }
    const plain = await closed.fetch(`${API}/shut/connect?agentId=agent_1`, {
      headers: { authorization: `Bearer ${token}` },
    });
    expect(plain.status).toBe(426);
    expect(await plain.json()).toMatchObject({ code: "upgrade_required" });
    expect([await closed.conversationObjects(), provider.asked.length]).toEqual(before);
  });
});
