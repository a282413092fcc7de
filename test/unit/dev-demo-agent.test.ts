/** The demo agent as a client sees it: greeting, frames, and how a conversation ends. */
import { once } from "node:events";
import type { ConversationMetadata, Outgoing } from "@elevenlabs/types";
import { afterEach, beforeEach, expect, test } from "vitest";
import { WebSocket } from "ws";
import { type DemoAgent, startDemoAgent } from "../../dev/demo-agent.ts";

let agent: DemoAgent;
let lines: string[];

beforeEach(async () => {
  lines = [];
  agent = await startDemoAgent({ log: (line) => lines.push(line) });
});
afterEach(() => agent.close());

/** Opens a conversation, sends one text, closes, and tells how the agent closed. */
async function say(text: string | Buffer): Promise<{ code: number; reason: string }> {
  const socket = new WebSocket(agent.url);
  await once(socket, "open");
  socket.send(text);
  socket.close(1000);
  const [code, reason] = (await once(socket, "close")) as [number, Buffer];
  return { code, reason: String(reason) };
}

test("greets with the conversation's metadata, and speaks convai where that is offered", async () => {
  const socket = new WebSocket(agent.url, ["convai"]);
  const [data] = (await once(socket, "message")) as [Buffer];

  const greeting = JSON.parse(String(data)) as ConversationMetadata;
  expect(greeting.type).toBe("conversation_initiation_metadata");
  expect(greeting.conversation_initiation_metadata_event.conversation_id).toMatch(/^conv_[A-Za-z0-9]+$/);
  expect(socket.protocol).toBe("convai");
  socket.terminate();
});

test("prints a user_message in one line and completes the closing handshake", async () => {
  const frame: Outgoing.UserMessageClientToOrchestratorEvent = {
    type: "user_message",
    text: "ready:\n  3 issues",
  };

  expect(await say(JSON.stringify(frame))).toEqual({ code: 1000, reason: "" });
  expect(agent.frames).toEqual([frame]);
  expect(lines).toEqual(["demo agent heard: ready: 3 issues"]);
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

  expect(agent.frames).toHaveLength(2);
  expect(lines).toEqual([]);
});

test("hands every well-formed frame to onFrame", async () => {
  const heard: unknown[] = [];
  const other = await startDemoAgent({ log: () => {}, onFrame: (frame) => heard.push(frame) });
  const socket = new WebSocket(other.url);
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
  expect(agent.frames).toEqual([]);
});

test("ends open conversations with 1001 when it is closed", async () => {
  const socket = new WebSocket(agent.url);
  await once(socket, "open");
  const closed = once(socket, "close");

  await agent.close();

  expect((await closed)[0]).toBe(1001);
});
