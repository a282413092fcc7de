/** The official SDKs fit by structure: held by the compiler, and tried with the real text conversation in Node. */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { type Callbacks, Conversation, type PartialOptions } from "@elevenlabs/client";
import type { UseConversationOptions, useConversation, useRawConversation } from "@elevenlabs/react";
import { afterEach, expect, expectTypeOf, test } from "vitest";
import { WebSocketServer } from "ws";
import type { AgentConversation } from "../../client/agent-conversation.ts";
import type { AgentSession, AgentSessionCallbacks } from "../../client/agent-session.ts";
import { pushOf } from "./support/edge.ts";
import { visit } from "./support/visit.ts";

const servers: WebSocketServer[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) {
    for (const client of server.clients) client.terminate();
    server.close();
  }
});

/** Speaks as much of the provider's conversation socket as the SDK needs. */
async function startProvider() {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: () => "convai" });
  servers.push(server);
  const heard: { type: string; text?: string }[] = [];
  const send = (event: object) => {
    for (const client of server.clients) client.send(JSON.stringify(event));
  };
  server.on("connection", (socket) => {
    send({
      type: "conversation_initiation_metadata",
      conversation_initiation_metadata_event: {
        conversation_id: "conv_sdk",
        agent_output_audio_format: "pcm_16000",
        user_input_audio_format: "pcm_16000",
      },
    });
    socket.on("message", (data) => heard.push(JSON.parse(String(data))));
  });
  await once(server, "listening");
  return {
    url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}/v1/convai/conversation?agent_id=a`,
    heard,
    send,
    hangUp: () => {
      for (const client of server.clients) client.close(1000);
    },
  };
}

async function startConversation(callbacks: AgentSessionCallbacks) {
  const provider = await startProvider();
  const conversation = await Conversation.startSession({
    signedUrl: provider.url,
    textOnly: true,
    ...callbacks,
  });
  return { provider, conversation };
}

test("the SDK's objects and callbacks fit, and the compiler says so", () => {
  expectTypeOf<Conversation>().toExtend<AgentConversation>();
  expectTypeOf<ReturnType<typeof useConversation>>().toExtend<AgentConversation>();
  expectTypeOf<NonNullable<ReturnType<typeof useRawConversation>>>().toExtend<AgentConversation>();
  expectTypeOf<AgentSessionCallbacks>().toExtend<Partial<Callbacks>>();
  expectTypeOf<AgentSessionCallbacks>().toExtend<UseConversationOptions>();
  expectTypeOf<keyof AgentSessionCallbacks>().toExtend<keyof Callbacks>();
  const throughProxy = (session: AgentSession, token: string): PartialOptions => ({
    signedUrl: session.proxyUrl("agent_1"),
    authorization: token,
    ...session.callbacks,
  });
  expect(throughProxy).toBeTypeOf("function");
});

test("a text conversation of the SDK is told a push once, and its end ends the line", async () => {
  const { edge, session } = await visit();
  const { provider, conversation } = await startConversation(session.callbacks);
  void session.attach(conversation);
  const { line, hello } = await edge.welcomed();
  expect(hello.agentSessionId).toBe("conv_sdk");
  line.send(pushOf(["a"]));
  line.send(pushOf(["b"], { delivery: "silent" }));
  expect([await line.next(), await line.next()]).toEqual([
    { type: "ack", requestIds: ["a"] },
    { type: "ack", requestIds: ["b"] },
  ]);
  await expect
    .poll(() => provider.heard.slice(1))
    .toEqual([
      { type: "user_message", text: "text of a" },
      { type: "contextual_update", text: "text of b" },
    ]);

  provider.send({
    type: "agent_chat_response_part",
    text_response_part: { text: "I", type: "start", event_id: 1 },
  });
  expect(await line.next()).toEqual({ type: "mode", mode: "speaking" });

  provider.hangUp();
  expect(await line.next()).toEqual({ type: "bye" });
  await expect.poll(() => session.status).toBe("idle");
});

test("a conversation that the page ends is left, and the next one is attached", async () => {
  const { edge, session } = await visit();
  const first = await startConversation(session.callbacks);
  void session.attach(first.conversation);
  const { line } = await edge.welcomed();
  await first.conversation.endSession();
  expect(await line.next()).toEqual({ type: "bye" });
  const second = await startConversation(session.callbacks);
  void session.attach(second.conversation);
  await edge.welcomed();
  await expect.poll(() => session.status).toBe("live");
  await second.conversation.endSession();
});

test("a start that fails does not end what is attached", async () => {
  const { edge, session } = await visit();
  const { conversation } = await startConversation(session.callbacks);
  void session.attach(conversation);
  await edge.welcomed();
  await expect.poll(() => session.status).toBe("live");
  await Conversation.startSession({
    signedUrl: "ws://127.0.0.1:1/",
    textOnly: true,
    ...session.callbacks,
  }).catch(() => {});
  expect(session.status).toBe("live");
  await conversation.endSession();
});
