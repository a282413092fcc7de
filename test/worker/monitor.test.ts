/** The monitor channel, against a Worker that stands for ElevenLabs: whatever the product dials reaches it. */
import { afterEach, describe, expect, test } from "vitest";
import { API_TOKEN, CLOSED_DOORS, SHARED_SECRET } from "../support/secrets.ts";
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

const API = "/agent-conversations/api";
const SESSION_URL = "wss://api.elevenlabs.io/v1/convai/conversation?agent_id=a&conversation_signature=s";

let worker: TestWorker;
afterEach(() => worker.close());

async function start(own: Record<string, string> = {}): Promise<void> {
  const bindings = {
    ...LOCAL_BINDINGS,
    ...CLOSED_DOORS,
    ELEVENLABS_MONITOR: "all",
    ELEVENLABS_API_KEY: "el-key",
    ...own,
  };
  worker = await startWorker(bindings, { outbound: FAKE_ELEVENLABS });
}

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

/** The token of conversation c1, with or without the word of its server. */
async function pageToken(agentSessionId?: string): Promise<string> {
  const json = agentSessionId === undefined ? {} : { agentSessionId };
  const response = await worker.fetch(`${API}/c1/token`, { json, headers: bearer(API_TOKEN) });
  return ((await response.json()) as { token: string }).token;
}

/** Registers a session with a credential, and sends a result for it. */
async function deliver(credential: string, registration: object): Promise<unknown> {
  const registered = await worker.fetch(`${API}/c1/session`, {
    json: { sessionUrl: SESSION_URL, ...registration },
    headers: bearer(credential),
  });
  expect(registered.status).toBe(200);
  const callback = { requestId: crypto.randomUUID(), conversationId: "c1", output: "done" };
  return (await worker.fetch("/callback", { json: callback, headers: bearer(SHARED_SECRET) })).json();
}

async function seen(): Promise<unknown> {
  const elevenlabs = await worker.miniflare.getWorker(OUTBOUND);
  return (await elevenlabs.fetch("http://elevenlabs/seen")).json();
}

/** As context, which is all that a monitor can give. */
const SILENTLY = {
  received: true,
  delivered: true,
  status: "delivered",
  channel: "monitor",
  proof: "accepted",
};
const DELIVERED = { ...SILENTLY, manner: "silent" };

describe("a conversation that a server vouches for", () => {
  test("is told the result as context, where a page's token names it", async () => {
    await start();
    for (const registration of [{ agentSessionId: "conv_abc" }, {}]) {
      expect(await deliver(await pageToken("conv_abc"), registration)).toEqual(DELIVERED);
    }
    const monitor = {
      url: "https://api.elevenlabs.io/v1/convai/conversations/conv_abc/monitor",
      key: "el-key",
    };
    const frame = {
      command_type: "contextual_update",
      parameters: { contextual_update: expect.stringContaining("done") },
    };
    expect(await seen()).toEqual([monitor, { frame }, monitor, { frame }]);
  });

  test("is told the result where a server registers it", async () => {
    await start();
    expect(await deliver(API_TOKEN, { agentSessionId: "conv_abc" })).toEqual(DELIVERED);
  });

  test("is told silent results only, unless it is to be told all", async () => {
    await start({ ELEVENLABS_MONITOR: "true" });
    expect(await deliver(API_TOKEN, { agentSessionId: "conv_abc" })).toMatchObject({
      reason: "no_push_channel",
    });
    const silent = { requestId: "silent", conversationId: "c1", output: "done", delivery: "silent" };
    const response = await worker.fetch("/callback", { json: silent, headers: bearer(SHARED_SECRET) });
    expect(await response.json()).toEqual(SILENTLY);
  });

  test("keeps the result where the key is refused", async () => {
    await start({ ELEVENLABS_API_KEY: "wrong-key" });
    const outcome = await deliver(API_TOKEN, { agentSessionId: "conv_abc" });
    expect(outcome).toMatchObject({ status: "queued", reason: "push_failed" });
  });
});

describe("what a page says without proof opens no monitor", () => {
  const signed = `${SESSION_URL}&conversation_id=conv_victim`;
  test.each<[string, string | undefined, object]>([
    ["in the body", undefined, { agentSessionId: "conv_victim" }],
    ["in the URL", undefined, { sessionUrl: signed }],
    ["in both", undefined, { sessionUrl: signed, agentSessionId: "conv_victim" }],
    ["as the proof itself", undefined, { provenAgentSessionId: "conv_victim" }],
    [
      "as the proof itself, beside a payload",
      undefined,
      { provenAgentSessionId: "conv_victim", sessionPayload: {} },
    ],
    ["in the body, against its token", "conv_own", { agentSessionId: "conv_victim" }],
    ["in the URL, against its token", "conv_own", { sessionUrl: signed }],
  ])("%s", async (_where, vouched, registration) => {
    await start();
    expect(await deliver(await pageToken(vouched), registration)).toMatchObject({
      status: "queued",
      reason: "no_push_channel",
    });
    expect(await seen()).toEqual([]);
  });

  test("when it renews its registration", async () => {
    await start();
    const token = await pageToken("conv_own");
    await deliver(token, {});
    const session = await worker.fetch(`${API}/c1/session`, { headers: bearer(token) });
    const { registrationId } = (await session.json()) as { registrationId: string };
    const json = { registrationId, agentSessionId: "conv_victim" };
    expect((await worker.fetch(`${API}/c1/session`, { json, headers: bearer(token) })).status).toBe(200);
    const callback = { requestId: "after", conversationId: "c1", output: "done" };
    const response = await worker.fetch("/callback", { json: callback, headers: bearer(SHARED_SECRET) });
    expect(await response.json()).toMatchObject({ reason: "no_push_channel" });
    expect(JSON.stringify(await seen())).not.toContain("conv_victim");
  });
});

test("the key goes to no host that only a pattern allows", async () => {
  await start({ PUSH_ALLOWED_HOSTS: "*.elevenlabs.io" });
  for (const host of ["evil.elevenlabs.io", "api.elevenlabs.io.elevenlabs.io"]) {
    const sessionUrl = SESSION_URL.replace("api.elevenlabs.io", host);
    expect(await deliver(API_TOKEN, { sessionUrl, agentSessionId: "conv_abc" })).toMatchObject({
      reason: "no_push_channel",
    });
  }
  expect(await seen()).toEqual([]);
  expect(await deliver(API_TOKEN, { agentSessionId: "conv_abc" })).toEqual(DELIVERED);
});

test.each(["a b", ".", "..", "", "x".repeat(257), "café"])(
  "%j is no agent conversation that a token can name",
  async (id) => {
    await start();
    for (const path of [`${API}/new`, `${API}/c1/token`]) {
      const json = { agentSessionId: id };
      expect((await worker.fetch(path, { json, headers: bearer(API_TOKEN) })).status).toBe(400);
    }
  },
);
