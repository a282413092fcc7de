/** The hook in the real React, strict mode included. The DOM is happy-dom's; the sockets are Node's. */
import { Window } from "happy-dom";
import { act, createElement, StrictMode } from "react";
import { afterAll, afterEach, beforeEach, expect, test } from "vitest";
import type { AgentConversation } from "../../client/agent-conversation.ts";
import { type UseAgentSession, useAgentSession } from "../../client/react.ts";
import { testConversation } from "./support/conversation.ts";
import { type Edge, pushOf, startEdge } from "./support/edge.ts";

const dom = new Window();
Object.assign(globalThis, {
  window: dom,
  document: dom.document,
  sessionStorage: dom.sessionStorage,
  IS_REACT_ACT_ENVIRONMENT: true,
});
const { createRoot } = await import("react-dom/client");

let edge: Edge;
let root: ReturnType<typeof createRoot>;
let latest: UseAgentSession;

beforeEach(async () => {
  edge = await startEdge();
  dom.sessionStorage.clear();
  root = createRoot(dom.document.createElement("div") as unknown as HTMLElement);
});
afterEach(async () => {
  await act(async () => root.unmount());
  await edge.stop();
});
afterAll(() => dom.happyDOM.close());

type Props = {
  conversation?: AgentConversation | null;
  conversationId?: string;
  onPush?: () => void;
  onProgress?: () => void;
};

function Page({ conversationId = "c1", ...props }: Props) {
  latest = useAgentSession({
    baseUrl: edge.baseUrl,
    conversationId,
    token: "t",
    session: { transport: "webrtc" },
    ...props,
  });
  return null;
}

const render = (props: Props = {}) =>
  act(async () => root.render(createElement(StrictMode, null, createElement(Page, props))));

/** React shows what happened within an `act` when it is over. */
async function becomes(status: string): Promise<void> {
  for (let i = 0; latest.status !== status && i < 200; i++) {
    await act(() => new Promise((resolve) => setTimeout(resolve, 5)));
  }
  expect(latest.status).toBe(status);
}

test("nothing happens without an agent conversation", async () => {
  await render({ conversation: null });
  expect([latest.status, edge.count()]).toEqual(["idle", 0]);
  expect(latest.proxyUrl("a")).toContain("/agent-conversations/api/c1/connect?agentId=a");
});

test("an agent conversation is attached, said in once in strict mode, and left at the end", async () => {
  const conversation = testConversation();
  await render({ conversation });
  const { line, hello } = await edge.welcomed();
  expect(hello.session).toEqual({ transport: "webrtc" });
  await becomes("live");
  line.send(pushOf(["a"]));
  expect(await line.next()).toEqual({ type: "ack", requestIds: ["a"] });
  expect([conversation.told, edge.count()]).toEqual([["user: text of a"], 1]);
  await act(async () => root.render(null));
  expect(await line.next()).toEqual({ type: "bye" });
});

test("an agent conversation that becomes null is left", async () => {
  await render({ conversation: testConversation() });
  const { line } = await edge.welcomed();
  await becomes("live");
  await render({ conversation: null });
  expect(await line.next()).toEqual({ type: "bye" });
  expect(latest.status).toBe("idle");
});

test("what useConversation returns is attached once it is connected, and a new render of it is the same", async () => {
  const { isOpen: _, ...bare } = testConversation();
  await render({ conversation: { ...bare, status: "connecting" } });
  expect(latest.status).toBe("idle");
  await render({ conversation: { ...bare, status: "connected" } });
  const { line } = await edge.welcomed();
  await becomes("live");
  await render({ conversation: { ...bare, status: "connected" } });
  line.send(pushOf(["a"]));
  expect(await line.next()).toEqual({ type: "ack", requestIds: ["a"] });
  expect(edge.count()).toBe(1);
});

test("the listeners of the last render are called, and what the hook returns keeps its identity", async () => {
  const conversation = testConversation();
  const told: string[] = [];
  await render({ conversation, onPush: () => told.push("first") });
  const { callbacks, attach, proxyUrl } = latest;
  const { line } = await edge.welcomed();
  await becomes("live");
  await render({
    conversation,
    onPush: () => told.push("second"),
    onProgress: () => told.push("progress"),
  });
  expect(latest).toMatchObject({ callbacks, attach, proxyUrl });
  line.send({ type: "progress", requestId: "a", seq: 1, delivery: "silent", text: "halfway" });
  line.send(pushOf(["a"]));
  await line.next();
  expect(told).toEqual(["progress", "second"]);
});

test("another conversation begins anew", async () => {
  const conversation = testConversation();
  await render({ conversation });
  const { line } = await edge.welcomed();
  await becomes("live");
  await render({ conversation, conversationId: "c2" });
  expect(await line.next()).toEqual({ type: "bye" });
  expect((await edge.welcomed()).line.path).toContain("/api/c2/stream");
  await becomes("live");
});

test("attach is for the component to call where it hands in no agent conversation", async () => {
  await render();
  await act(async () => void latest.attach(testConversation()));
  await edge.welcomed();
  await becomes("live");
});
