/**
 * What a backend does with its client, and another Worker by a service binding, through the built Worker: one suite for
 * both, because the same rules hold.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { createServerClient, type ServerClient, ServerClientError } from "../../server/index.ts";
import { openServerClient } from "../../server/server-client.ts";
import { openPage, type Page } from "../support/page.ts";
import { startRunner, type TestRunner } from "../support/runner.ts";
import { API_TOKEN, CLOSED_DOORS, OUTBOUND_SECRET, SIGNING_SECRET } from "../support/secrets.ts";
import { standardHeaders } from "../support/webhooks.ts";
import { BOUND, LOCAL_BINDINGS, startWorker, type TestWorker } from "../support/worker.ts";

/** Calls the entrypoint as it is told to by a request, and answers what came of it. */
const CALLER = `export default {
  async fetch(request, { EDGE }) {
    const { method, args } = await request.json();
    try {
      return Response.json({ value: await EDGE[method](...args) });
    } catch (error) {
      const { name, message, code, status, issues, retryAfterSeconds } = error;
      return Response.json({ error: { name, message, code, status, issues, retryAfterSeconds } });
    }
  },
};`;

const CLOSED = { ...LOCAL_BINDINGS, ...CLOSED_DOORS, WEBHOOK_REQUIRE_SIGNATURE: "true" };
let runner: TestRunner;
let worker: TestWorker;
beforeAll(async () => {
  runner = await startRunner(OUTBOUND_SECRET);
  const outbound = { TOOL_RUNNER_URL: runner.url, SIGNING_SECRET: OUTBOUND_SECRET };
  worker = await startWorker({ ...CLOSED, ...outbound }, { bound: CALLER });
});
afterAll(async () => {
  await worker.close();
  await runner.close();
});

/** The methods of a binding, as a Worker has them that holds it. */
function bindingOf(to: TestWorker): ServerClient {
  return new Proxy({} as ServerClient, {
    get:
      (_, method) =>
      async (...args: unknown[]) => {
        const caller = await to.miniflare.getWorker(BOUND);
        const body = JSON.stringify({ method, args });
        const response = await caller.fetch("http://bound/", { method: "POST", body });
        const answer = (await response.json()) as { value: unknown } | { error: object };
        if ("value" in answer || !("error" in answer)) return (answer as { value: unknown }).value;
        throw Object.assign(new Error(), answer.error);
      },
  });
}

/** Of every three requests one is lost on its way, and the answer of another on its way back. */
function flakyFetch(): typeof fetch {
  let requests = 0;
  return async (url, init) => {
    // A conversation is begun once only, so that one would fail.
    if (String(url).endsWith("/new")) return fetch(url, init);
    requests += 1;
    if (requests % 3 === 1) throw new TypeError("fetch failed");
    const response = await fetch(url, init);
    if (requests % 3 === 2) return new Response("<html>", { status: 502 });
    return response;
  };
}

const options = () => ({ baseUrl: worker.url.href, apiToken: API_TOKEN, webhookSecret: SIGNING_SECRET });
const patience = { now: Date.now, wait: async () => {}, random: () => 0.5 };

const pages: Page[] = [];
afterEach(() => {
  for (const page of pages.splice(0)) page.vanish();
});

describe.each([
  ["over HTTP", () => createServerClient(options())],
  [
    "over HTTP, on a network that loses two of three requests",
    () => openServerClient({ fetch: flakyFetch(), ...patience }, options()),
  ],
  ["by a service binding", () => bindingOf(worker)],
])("%s", (_, open) => {
  let edge: ServerClient;
  beforeAll(() => {
    edge = open();
  });

  test("a result is brought to the page whose token the server has got, and is told of afterwards", async () => {
    const { conversationId, token } = await edge.createConversation({ metadata: { of: "user 1" } });
    const page = await openPage(worker.url, conversationId, { token: token ?? "" });
    pages.push(page);
    await page.hello({});
    expect(await edge.readSession(conversationId)).toMatchObject({ active: true, channel: "relay" });

    const callback = { requestId: "r1", conversationId, output: { hits: 3 } };
    const answer = edge.callBack(callback);
    const push = await page.push();
    page.ack(push.requestIds);
    expect(await answer).toMatchObject({ received: true, delivered: true, channel: "relay" });
    expect(await edge.callBack(callback)).toMatchObject({ status: "duplicate", delivered: true });
    const { results } = await edge.listResults(conversationId, { status: "delivered", content: true });
    expect(results).toMatchObject([{ requestId: "r1", content: { output: { hits: 3 } } }]);
    await expect(edge.callBack({ ...callback, output: "another" })).rejects.toMatchObject({
      code: "request_id_reused",
      status: 422,
    });
  });

  test("what became of results is told over all conversations, and what failed is said again", async () => {
    const { conversationId } = await edge.createConversation();
    const since = new Date().toISOString();
    await edge.callBack({ requestId: "r1", conversationId, output: "done", deliverBy: since });
    const settled = () => edge.listSettledResults({ conversationId, failed: true });
    await expect.poll(async () => (await settled()).results.length, { timeout: 10_000 }).toBe(1);
    const { again } = await edge.sayFailedAgain({ since });
    // On a network that loses answers it may have been done before.
    expect(again).toBeGreaterThanOrEqual(0);
    const { conversations } = await edge.listWaiting();
    expect(conversations).toContainEqual(expect.objectContaining({ conversationId, waiting: 1 }));
    const { sessions } = await edge.listLiveSessions();
    expect(sessions.map((session) => session.conversationId)).not.toContain(conversationId);
    expect((await edge.listConnections(conversationId)).connections).toEqual([]);
    expect((await edge.readRates()).minutes).toHaveLength(60);
    expect(await edge.listOutages()).toEqual({ outages: expect.any(Array) });
  });

  test("a conversation is written, read page by page, listed and deleted, and then takes nothing more", async () => {
    const { conversationId } = await edge.createConversation();
    const { message } = await edge.writeMessage(conversationId, { role: "system", content: "first" });
    await edge.writeMessage(conversationId, { id: "m2", role: "user", content: "second" });
    const newest = await edge.readConversation(conversationId, { limit: 1 });
    expect(newest?.messages).toMatchObject([{ id: "m2", content: "second" }]);
    const older = await edge.readConversation(conversationId, { limit: 1, before: newest?.nextBefore });
    expect(older).toMatchObject({ conversationId, messages: [message] });
    const { conversations } = await edge.listConversations({ limit: 100 });
    expect(conversations.map((record) => record.conversationId)).toContain(conversationId);
    expect(await edge.issueToken(conversationId)).toMatchObject({ token: expect.stringMatching(/^ey/) });

    await edge.writeState(conversationId, { step: 1 });
    await edge.deleteConversation(conversationId, { everything: true });
    expect(await edge.readConversation(conversationId)).toBeNull();
    expect(await edge.readState(conversationId)).toBeNull();
    const late = edge.writeMessage(conversationId, { role: "user", content: "late" });
    await expect(late).rejects.toMatchObject({ name: "ServerClientError", code: "conversation_deleted" });
    const callback = { requestId: "r1", conversationId, output: "late" };
    expect(await edge.callBack(callback)).toMatchObject({
      status: expect.stringMatching(/discarded|duplicate/),
    });
  });

  test("a session is registered, renewed and ended, and results that wait are acknowledged", async () => {
    const { conversationId } = await edge.createConversation();
    expect(await edge.readSession(conversationId)).toBeNull();
    const queued = await edge.callBack({ requestId: "r1", conversationId, output: "done" });
    expect(queued).toMatchObject({ status: expect.stringMatching(/queued|duplicate/), delivered: false });
    expect((await edge.acknowledgeResults(conversationId, ["r1"])).success).toBe(true);
    expect((await edge.listResults(conversationId)).results).toMatchObject([{ status: "delivered" }]);

    const { registrationId } = await edge.registerSession(conversationId, { transport: "webrtc" });
    expect(await edge.registerSession(conversationId, { registrationId })).toMatchObject({
      registrationId,
      ttl: 600,
    });
    await edge.registerSession(conversationId, { transport: "webrtc" });
    await expect(edge.registerSession(conversationId, { registrationId })).rejects.toMatchObject({
      code: "session_replaced",
    });
    await edge.endSession(conversationId);
    expect(await edge.readSession(conversationId)).toBeNull();
  });

  test("state and memory are written, changed, touched and deleted", async () => {
    const { conversationId: id } = await edge.createConversation();
    expect([await edge.readState(id), await edge.touchState(id)]).toEqual([null, null]);
    expect(await edge.writeState(id, { step: 1 })).toEqual({ step: 1 });
    expect(await edge.readState(id)).toEqual({ step: 1 });
    expect(await edge.touchState(id)).toMatchObject({ ttl: 3_600 });
    await edge.deleteState(id);
    expect(await edge.readState(id)).toBeNull();

    expect([await edge.readMemory(id), await edge.touchMemory(id)]).toEqual([null, null]);
    expect(await edge.changeMemory(id, { city: "Köln" })).toBeNull();
    await edge.writeMemory(id, { domain: "hotel" });
    expect(await edge.changeMemory(id, { city: "Köln" })).toMatchObject({ domain: "hotel", city: "Köln" });
    expect(await edge.touchMemory(id)).toMatchObject({ ttl: 1_800 });
    await edge.deleteMemory(id);
    expect(await edge.readMemory(id)).toBeNull();
  });

  test("the tasks of an agent are listed, reported on, and cancelled", async () => {
    const { conversationId } = await edge.createConversation();
    const body = JSON.stringify({ tool: "search", conversationId });
    const headers = { "content-type": "application/json", ...standardHeaders(SIGNING_SECRET, body) };
    await worker.fetch("/agent-tools", { method: "POST", body, headers });
    const [task] = (await edge.listTasks(conversationId)).tasks;
    expect(task).toMatchObject({ tool: "search", status: "processing" });
    const requestId = task?.taskId ?? "";

    // Whose it is, the id of the task says.
    const report = edge.reportProgress({ requestId, progress: { seq: 1, text: "half of it is done" } });
    expect(await report).toMatchObject({ status: expect.stringMatching(/progress|ignored/) });
    expect(await edge.cancelTask(conversationId, requestId)).toMatchObject({ success: true });
    expect((await edge.listTasks(conversationId)).tasks).toMatchObject([{ status: "cancelled" }]);
    expect(await edge.cancelTask(conversationId, `${conversationId}:${"x".repeat(22)}`)).toBeNull();
  });

  test("what is wrong is refused by its code, with every place", async () => {
    await expect(edge.readConversation("a:b")).rejects.toMatchObject({ code: "invalid_id" });
    await expect(edge.callBack({ requestId: "", conversationId: "c1" })).rejects.toMatchObject({
      code: "invalid_request",
      status: 400,
      issues: [{ path: "requestId", message: expect.stringMatching(/^must be/) }],
    });
    const url = "wss://evil.example/s3cret";
    await expect(edge.registerSession("c1", { sessionUrl: url })).rejects.toMatchObject({
      code: "session_url_not_allowed",
    });
    expect(worker.lines.filter((line) => line.includes("evil.example"))).toEqual([]);
    await expect(edge.signUrl("c1", { agentId: "agent_1" })).rejects.toMatchObject({ code: "forbidden" });
  });
});

describe("a server without the right secret", () => {
  test.each([
    ["has the API token of nobody", { apiToken: "x".repeat(40) }],
    ["has none", {}],
  ])("%s, and is unauthorized, once", async (_, secrets) => {
    let requests = 0;
    const counting: typeof fetch = (...args) => {
      requests += 1;
      return fetch(...args);
    };
    const edge = createServerClient({ baseUrl: worker.url.href, fetch: counting, ...secrets });
    const error = await edge.createConversation().catch((error: unknown) => error);
    expect(error).toBeInstanceOf(ServerClientError);
    expect(error).toMatchObject({ code: "unauthorized", status: 401 });
    await expect(edge.callBack({ requestId: "r1", conversationId: "c1" })).rejects.toMatchObject({
      code: "unauthorized",
    });
    expect(requests).toBe(2);
  });
});

describe("a service binding", () => {
  let other: TestWorker | undefined;
  afterEach(async () => {
    await other?.close();
    other = undefined;
  });

  test("is switched off with the feature, and closed with a configuration that is wrong", async () => {
    other = await startWorker({ ...CLOSED, ELEVENLABS_AGENT_ENABLED: "false" }, { bound: CALLER });
    await expect(bindingOf(other).readState("c1")).rejects.toMatchObject({ code: "feature_disabled" });
    await other.close();
    other = await startWorker({ ...CLOSED, STORAGE: "floppy" }, { bound: CALLER });
    await expect(bindingOf(other).readState("c1")).rejects.toMatchObject({
      code: "misconfigured",
      status: 503,
    });
  }, 60_000);

  test("needs no secret, and opens nothing to whoever comes over the network", async () => {
    other = await startWorker({ ...LOCAL_BINDINGS, REQUIRE_AUTH: "true" }, { bound: CALLER });
    const { conversationId } = await bindingOf(other).createConversation();
    const queued = await bindingOf(other).callBack({ requestId: "r1", conversationId, output: 1 });
    expect(queued).toMatchObject({ status: "queued" });
    for (const host of ["service-binding", other.url.host]) {
      const response = await other.fetch(`/agent-conversations/api/${conversationId}`, { headers: { host } });
      expect(response.status).toBe(503);
    }
  });

  test("counts what is asked of one conversation, and no addresses", async () => {
    const limit = (namespace_id: string, limit: number) =>
      ({ namespace_id, simple: { limit, period: 60 } }) as const;
    const rateLimits = { CLIENT_RATE_LIMIT: limit("1", 1), CONVERSATION_RATE_LIMIT: limit("2", 2) };
    other = await startWorker(CLOSED, { bound: CALLER, rateLimits });
    const edge = bindingOf(other);
    for (const id of ["c1", "c1", "c2"]) expect(await edge.readConversation(id)).toBeNull();
    await expect(edge.readConversation("c1")).rejects.toMatchObject({
      code: "rate_limited",
      retryAfterSeconds: 60,
    });
  });

  test("has the methods of the client and no others", async () => {
    const edge = bindingOf(worker) as unknown as Record<string, () => Promise<unknown>>;
    for (const name of ["fetch", "env", "ctx", "constructor", "app"]) {
      await expect(edge[name]?.()).rejects.toThrow();
    }
  });
});
