/** The monitor channel, against a Worker that stands for ElevenLabs: whatever the product dials reaches it. */
import { afterEach, expect, test } from "vitest";
import { LOCAL_BINDINGS, OUTBOUND, startWorker, type TestWorker } from "../support/worker.ts";

/** Records every dial and frame; greets like a monitoring socket unless the API key is wrong. */
const FAKE_ELEVENLABS = `
let seen = [];
export default {
  async fetch(request) {
    if (new URL(request.url).pathname === "/seen") return Response.json(seen);
    const key = request.headers.get("xi-api-key");
    seen.push({ url: request.url, key });
    if (key !== "el-key") return new Response("no", { status: 401 });
    const { 0: client, 1: server } = new WebSocketPair();
    server.accept();
    server.addEventListener("message", ({ data }) => seen.push({ frame: JSON.parse(data) }));
    server.addEventListener("close", ({ code }) => server.close(code));
    server.send(JSON.stringify({ type: "connected" }));
    server.send(JSON.stringify({ type: "history_complete" }));
    return new Response(null, { status: 101, webSocket: client });
  },
};`;

let worker: TestWorker;
afterEach(() => worker.close());

async function start(apiKey: string): Promise<void> {
  const bindings = { ...LOCAL_BINDINGS, ELEVENLABS_MONITOR: "true", ELEVENLABS_API_KEY: apiKey };
  worker = await startWorker(bindings, { outbound: FAKE_ELEVENLABS });
}

async function deliver(registration: object): Promise<unknown> {
  await worker.fetch("/agent-conversations/api/c1/session", { json: registration });
  const callback = { requestId: "r1", conversationId: "c1", output: "done" };
  return (await worker.fetch("/callback", { json: callback })).json();
}

async function seen(): Promise<unknown> {
  const elevenlabs = await worker.miniflare.getWorker(OUTBOUND);
  return (await elevenlabs.fetch("http://elevenlabs/seen")).json();
}

const SESSION_URL = "wss://api.elevenlabs.io/v1/convai/conversation?agent_id=a&conversation_signature=s";

test("adds the result to the running conversation as context", async () => {
  await start("el-key");
  const outcome = await deliver({ sessionUrl: SESSION_URL, agentSessionId: "conv_abc" });
  expect(outcome).toEqual({ received: true, delivered: true, status: "delivered", channel: "monitor" });
  expect(await seen()).toEqual([
    { url: "https://api.elevenlabs.io/v1/convai/conversations/conv_abc/monitor", key: "el-key" },
    {
      frame: {
        command_type: "contextual_update",
        parameters: { contextual_update: expect.stringContaining("done") },
      },
    },
  ]);
});

test("finds the conversation's id in the URL where the page did not tell it", async () => {
  await start("el-key");
  await deliver({ sessionUrl: `${SESSION_URL}&conversation_id=conv_xyz` });
  expect(await seen()).toContainEqual(
    expect.objectContaining({ url: expect.stringContaining("/conversations/conv_xyz/monitor") }),
  );
});

test("without any id of the conversation dials nothing", async () => {
  await start("el-key");
  expect(await deliver({ sessionUrl: SESSION_URL })).toMatchObject({ reason: "no_push_channel" });
  expect(await seen()).toEqual([]);
});

test("a refused key keeps the result", async () => {
  await start("wrong-key");
  const outcome = await deliver({ sessionUrl: SESSION_URL, agentSessionId: "conv_abc" });
  expect(outcome).toMatchObject({ status: "queued", reason: "push_failed" });
});
