/** The official SDKs fit by structure: held by the compiler, and tried with the real text conversation in Node. */
import { type Callbacks, Conversation, type PartialOptions } from "@elevenlabs/client";
import type { UseConversationOptions, useConversation, useRawConversation } from "@elevenlabs/react";
import { afterEach, expect, expectTypeOf, test } from "vitest";
import type { AgentConversation } from "../../client/agent-conversation.ts";
import type { AgentSession, AgentSessionCallbacks } from "../../client/agent-session.ts";
import { type FakeProvider, startFakeProvider } from "../../dev/fake-provider.ts";
import { pushOf } from "./support/edge.ts";
import { visit } from "./support/visit.ts";

const providers: FakeProvider[] = [];
afterEach(async () => {
  for (const provider of providers.splice(0)) await provider.close();
});

async function startConversation(callbacks: AgentSessionCallbacks) {
  const provider = await startFakeProvider({ log: () => {} });
  providers.push(provider);
  const conversation = await Conversation.startSession({
    signedUrl: `${provider.url.replace("http", "ws")}/v1/convai/conversation?agent_id=a`,
    textOnly: true,
    ...callbacks,
  });
  const [heard] = provider.conversations;
  if (heard === undefined) throw new Error("no conversation was opened");
  return { heard, conversation };
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
  const { heard, conversation } = await startConversation(session.callbacks);
  void session.attach(conversation);
  const { line, hello } = await edge.welcomed();
  expect(hello.agentSessionId).toBe(heard.id);
  line.send(pushOf(["b"], { delivery: "silent" }));
  expect(await line.next()).toEqual({ type: "ack", requestIds: ["b"] });
  line.send(pushOf(["a"]));
  expect(await line.next()).toEqual({ type: "ack", requestIds: ["a"] });
  expect(await line.next()).toEqual({ type: "mode", mode: "speaking" });
  expect(heard.frames.slice(1)).toEqual([
    { type: "contextual_update", text: "text of b" },
    { type: "user_message", text: "text of a" },
  ]);

  heard.hangUp();
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
