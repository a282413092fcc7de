/** The stand-in for ElevenLabs as its clients see it: signed URLs, frames, answers, and how a conversation ends. */
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { Conversation } from "@elevenlabs/client";
import type { ConversationMetadata, Outgoing } from "@elevenlabs/types";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { type FakeProvider, type ServerFrame, startFakeProvider } from "../../dev/fake-provider.ts";

const API_KEY = "key-of-the-test";
let provider: FakeProvider;
let lines: string[];
let clock: number;

beforeEach(async () => {
  lines = [];
  clock = 0;
  provider = await startFakeProvider({ apiKey: API_KEY, now: () => clock, log: (line) => lines.push(line) });
});
afterEach(() => provider.close());

const websocketUrl = (query: string) =>
  `${provider.url.replace("http", "ws")}/v1/convai/conversation${query}`;

async function signedUrl(query = "agent_id=a", key = API_KEY): Promise<string> {
  const url = `${provider.url}/v1/convai/conversation/get-signed-url?${query}`;
  const response = await fetch(url, { headers: { "xi-api-key": key } });
  expect(response.status).toBe(200);
  return ((await response.json()) as { signed_url: string }).signed_url;
}

/** Opens a conversation, sends one text, closes, and tells how the agent closed. */
async function say(text: string | Buffer): Promise<{ code: number; reason: string }> {
  const socket = new WebSocket(provider.agentUrl);
  await once(socket, "open");
  socket.send(text);
  socket.close(1000);
  return closed(socket);
}

async function closed(socket: WebSocket): Promise<{ code: number; reason: string }> {
  const [code, reason] = (await once(socket, "close")) as [number, Buffer];
  return { code, reason: String(reason) };
}

/** The next frame that a socket gets. */
async function next(socket: WebSocket): Promise<ServerFrame> {
  const [data] = (await once(socket, "message")) as [Buffer];
  return JSON.parse(String(data));
}

const framesHeard = () => provider.conversations.flatMap(({ frames }) => frames);

describe("a self-hosted agent", () => {
  test("greets with the conversation's metadata, and speaks convai where that is offered", async () => {
    const socket = new WebSocket(provider.agentUrl, ["convai"]);
    const greeting = (await next(socket)) as ConversationMetadata;

    expect(greeting.type).toBe("conversation_initiation_metadata");
    expect(greeting.conversation_initiation_metadata_event.conversation_id).toMatch(/^conv_[A-Za-z0-9]+$/);
    expect(socket.protocol).toBe("convai");
    socket.terminate();
  });

  test("prints a user_message in one line and completes the closing handshake", async () => {
    const frame: Outgoing.UserMessageClientToOrchestratorEvent = {
      type: "user_message",
      text: "ready:\n  3 \u001b[2Jissues",
    };

    expect(await say(JSON.stringify(frame))).toEqual({ code: 1000, reason: "" });
    expect(framesHeard()).toEqual([frame]);
    expect(lines).toEqual(["demo agent heard: ready: 3 [2Jissues"]);
  });

  test("prints a contextual_update with its context_id", async () => {
    const frame: Outgoing.ContextualUpdateClientToOrchestratorEvent = {
      type: "contextual_update",
      text: "the order has shipped",
      context_id: "order-1",
    };

    expect((await say(JSON.stringify(frame))).code).toBe(1000);
    expect(lines).toEqual(["demo agent was told silently (order-1): the order has shipped"]);
  });

  test("keeps what only keeps a conversation going to itself", async () => {
    await say('{"type":"pong","event_id":1}');
    await say('{"user_audio_chunk":"AAAA"}');

    expect(framesHeard()).toHaveLength(2);
    expect(lines).toEqual([]);
  });

  test("hands every well-formed frame to onFrame", async () => {
    const heard: unknown[] = [];
    const other = await startFakeProvider({ log: () => {}, onFrame: (frame) => heard.push(frame) });
    const socket = new WebSocket(other.agentUrl);
    await once(socket, "open");
    socket.send('{"type":"user_activity"}');
    socket.close(1000);
    await once(socket, "close");
    await other.close();

    expect(heard).toEqual([{ type: "user_activity" }]);
  });

  test.each([
    ["no JSON", "hello"],
    ["no object", "42"],
    ["a type that is not in the contract", '{"type":"input_text","text":"hi"}'],
    ["a user_message without a text", '{"type":"user_message"}'],
    ["a contextual_update whose text is no string", '{"type":"contextual_update","text":7}'],
    ["a name every object has", '{"type":"constructor"}'],
    ["a binary frame", Buffer.from('{"type":"user_activity"}')],
  ])("closes with 1008 at a malformed frame: %s", async (_, text) => {
    expect(await say(text)).toEqual({ code: 1008, reason: "Invalid message received" });
    expect(framesHeard()).toEqual([]);
  });

  test("ends open conversations with 1001 when it is closed", async () => {
    const socket = new WebSocket(provider.agentUrl);
    await once(socket, "open");
    const ended = closed(socket);

    await provider.close();

    expect((await ended).code).toBe(1001);
  });
});

describe("a signed URL", () => {
  test("opens one conversation, once", async () => {
    const url = await signedUrl();
    const socket = new WebSocket(url, ["convai"]);
    await once(socket, "open");
    socket.send('{"type":"conversation_initiation_client_data"}');
    expect((await next(socket)).type).toBe("conversation_initiation_metadata");
    socket.terminate();

    expect(await closed(new WebSocket(url))).toEqual({ code: 1008, reason: "Invalid signature" });
  });

  test("names its conversation where that was asked for", async () => {
    const url = await signedUrl("agent_id=a&include_conversation_id=true");
    const socket = new WebSocket(url);
    await once(socket, "open");

    expect(provider.conversations.map(({ id }) => id)).toEqual([
      new URL(url).searchParams.get("conversation_id"),
    ]);
    socket.terminate();
  });

  test("is too old after fifteen minutes", async () => {
    const url = await signedUrl();
    clock = 15 * 60_000;

    expect((await closed(new WebSocket(url))).reason).toBe("Invalid signature");
  });

  test("is for its agent only", async () => {
    const url = await signedUrl();

    expect((await closed(new WebSocket(url.replace("agent_id=a", "agent_id=b")))).code).toBe(1008);
  });

  test.each([
    ["a wrong key", "agent_id=a", "wrong", 401],
    ["no agent", "", API_KEY, 422],
  ])("is refused for %s", async (_, query, key, status) => {
    const url = `${provider.url}/v1/convai/conversation/get-signed-url?${query}`;

    expect((await fetch(url, { headers: { "xi-api-key": key } })).status).toBe(status);
  });

  test("is the only thing that its API has", async () => {
    const socket = new WebSocket(websocketUrl("/monitor"));

    const refusal = new Promise((resolve) => socket.once("error", resolve));

    expect(String(await refusal)).toContain("404");
    expect((await fetch(provider.url)).status).toBe(404);
  });
});

describe("a conversation", () => {
  test("says nothing before its client does, and then its metadata first", async () => {
    const socket = new WebSocket(websocketUrl("?agent_id=a"));
    await once(socket, "open");
    const received: string[] = [];
    socket.on("message", (data) => received.push(JSON.parse(String(data)).type));
    socket.ping();
    await once(socket, "pong");
    expect(received).toEqual([]);

    socket.send('{"type":"user_message","text":"hello"}');
    await expect.poll(() => received.at(-1)).toBe("agent_response");
    expect(received[0]).toBe("conversation_initiation_metadata");
    socket.terminate();
  });

  test("pings now and then", async () => {
    const restless = await startFakeProvider({ pingEveryMs: 10, log: () => {} });
    const socket = new WebSocket(restless.agentUrl);
    const pings: unknown[] = [];
    socket.on("message", (data) => pings.push(JSON.parse(String(data)).ping_event));
    await expect
      .poll(() => pings.slice(0, 4))
      .toEqual([undefined, ...[1, 2, 3].map((event_id) => ({ event_id }))]);
    await restless.close();
  });

  test("is closed by the agent as a test wants it", async () => {
    const socket = new WebSocket(provider.agentUrl);
    await once(socket, "open");
    const [conversation] = provider.conversations;
    expect(conversation?.isOpen).toBe(true);
    conversation?.hangUp(1011, "gone");

    expect(await closed(socket)).toEqual({ code: 1011, reason: "gone" });
    await provider.until(([first]) => (first?.isOpen ? undefined : first));
  });
});

describe("its server tool", () => {
  test("is called for who wants something looked for, and what it says is said", async () => {
    const calls: unknown[] = [];
    const edge = createServer(async (request, response) => {
      let text = "";
      for await (const chunk of request) text += chunk;
      calls.push([request.url, request.headers["x-webhook-secret"], JSON.parse(text)]);
      response.writeHead(200).end('{"ok":true,"say":"I have started on that."}');
    }).listen(0, "127.0.0.1");
    await once(edge, "listening");
    const url = `http://127.0.0.1:${(edge.address() as AddressInfo).port}/agent-tools`;
    const able = await startFakeProvider({
      tool: { url, secret: "secret-of-the-tool" },
      log: (line) => lines.push(line),
    });
    const socket = new WebSocket(able.agentUrl);
    await once(socket, "open");
    const say = (text: string) => socket.send(JSON.stringify({ type: "user_message", text }));
    say("research ships");
    say("research ships and wait");
    const said = await able.until(([heard]) => (heard?.said.length === 2 ? heard.said : undefined));

    expect(said).toEqual(["I have started on that.", "I have started on that."]);
    const { id } = able.conversations[0] ?? {};
    const body = { tool_name: "research", tool_args: { query: "ships" }, conversation_id: id };
    expect(calls).toHaveLength(2);
    expect(calls).toContainEqual(["/agent-tools", "secret-of-the-tool", body]);
    expect(calls).toContainEqual(["/agent-tools?wait=20", "secret-of-the-tool", body]);
    expect(lines).toContain(`demo agent calls its tool: ${JSON.stringify(body)}`);

    edge.closeAllConnections();
    edge.close();
    say("research boats");
    await able.until(([heard]) => (heard?.said[2] === "My tool does not answer." ? true : undefined));
    socket.terminate();
    await able.close();
  });
});

describe("the official SDK", () => {
  test("has a text conversation: what it says is answered in parts and as a whole, in order", async () => {
    const parts: string[] = [];
    const messages: string[] = [];
    const conversation = await Conversation.startSession({
      signedUrl: await signedUrl(),
      textOnly: true,
      onAgentChatResponsePart: ({ type, text }) => parts.push(`${type} ${text}`),
      onMessage: ({ message }) => messages.push(message),
    });
    conversation.sendContextualUpdate("the user is in Bonn");
    conversation.sendUserMessage("hello");
    conversation.sendUserMessage("again");
    await expect.poll(() => messages).toHaveLength(2);

    expect(messages[0]).toMatch(/^You said “hello”\..* By the way: the user is in Bonn$/);
    expect(messages[1]).toMatch(/^You said “again”\..*finished\.$/);
    const first = parts.slice(0, parts.indexOf("stop ") + 1);
    expect([first[0], first[1], first.at(-1)]).toEqual(["start ", "delta You said “hello”. ", "stop "]);
    expect(first.map((part) => part.replace(/^\w+ /, "")).join("")).toBe(messages[0]);
    expect(provider.conversations).toMatchObject([
      {
        id: conversation.getId(),
        agentId: "a",
        offered: ["convai"],
        told: ["hello", "again"],
        noted: ["the user is in Bonn"],
        said: messages,
        isOpen: true,
      },
    ]);
    await conversation.endSession();
    await provider.until(([heard]) => (heard?.isOpen ? undefined : true));
  });

  test("answers pings, and speaks no frame that is not in the contract", async () => {
    const restless = await startFakeProvider({ pingEveryMs: 20, log: () => {} });
    const signedUrl = `${restless.url.replace("http", "ws")}/v1/convai/conversation?agent_id=a`;
    const conversation = await Conversation.startSession({ signedUrl, textOnly: true });
    const frames = await restless.until(([heard]) =>
      heard?.frames.some((frame) => "type" in frame && frame.type === "pong") ? heard.frames : undefined,
    );
    expect(frames.map((frame) => "type" in frame && frame.type).slice(0, 2)).toEqual([
      "conversation_initiation_client_data",
      "pong",
    ]);
    await conversation.endSession();
    await restless.close();
  });
});
