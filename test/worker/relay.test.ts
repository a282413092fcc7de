/** The relay through the built Worker: pages that hold a line, and what is said over it. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { openPage, type Page, type PageOptions } from "../support/page.ts";
import { API_TOKEN, CLOSED_DOORS } from "../support/secrets.ts";
import { LOCAL_BINDINGS, startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
let worker: TestWorker;
const pages: Page[] = [];
let ids = 0;

beforeAll(async () => {
  worker = await startWorker();
});
afterAll(() => worker.close());
afterEach(() => {
  for (const page of pages.splice(0)) page.vanish();
});

function freshId(): string {
  ids += 1;
  return `relay-${ids}`;
}

async function open(id: string, options?: PageOptions): Promise<Page> {
  const page = await openPage(worker.url, id, options);
  pages.push(page);
  return page;
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

async function resultsOf(id: string) {
  const response = await worker.fetch(`${API}/${id}/results`);
  return ((await response.json()) as { results: { requestId: string; status: string }[] }).results;
}

describe("a page that attaches", () => {
  test("is registered, welcomed, told what comes, and the sender knows that it was heard", async () => {
    const id = freshId();
    const page = await open(id);
    expect(page.protocol()).toBe("agent-session.v1");
    const welcome = await page.hello({ agentSessionId: "conv_1" });
    expect(welcome).toEqual({
      type: "welcome",
      conversationId: id,
      registrationId: expect.any(String),
      expiresAt: expect.stringMatching(/Z$/),
    });
    expect(await sessionOf(id)).toMatchObject({
      active: true,
      registrationId: welcome.registrationId,
      agentSessionId: "conv_1",
      channel: "relay",
    });

    const answer = callBack(id, "r1", { toolName: "search", output: { hits: 3 } });
    const push = await page.push();
    expect(push).toEqual({
      type: "push",
      pushId: expect.any(String),
      requestIds: ["r1"],
      delivery: "when_idle",
      text: expect.stringContaining('{"hits":3}'),
      results: [{ requestId: "r1", success: true, toolName: "search", output: { hits: 3 } }],
    });
    page.ack(push.requestIds);
    const response = await answer;
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual({
      received: true,
      delivered: true,
      status: "delivered",
      channel: "relay",
      proof: "heard",
    });
  });

  test("is told what waited, and its ping is answered", async () => {
    const id = freshId();
    expect((await callBack(id, "r1")).status).toBe(202);
    const page = await open(id);
    await page.hello();
    page.send("ping");
    const push = await page.push();
    page.ack(push.requestIds);
    await page.eventually("pong", () => page.frames.find((frame) => frame === "pong"));
    await expect
      .poll(() => resultsOf(id))
      .toMatchObject([{ requestId: "r1", status: "delivered", channel: "relay" }]);
  });

  test("ends its session by bye, and leaves it out of reach where it is lost", async () => {
    const [left, lost] = [freshId(), freshId()];
    const leaving = await open(left);
    await leaving.hello();
    leaving.leave();
    await leaving.closed();
    await expect.poll(async () => (await worker.fetch(`${API}/${left}/session`)).status).toBe(404);
    expect(await (await callBack(left, "r1")).json()).toMatchObject({ reason: "session_expired" });

    const losing = await open(lost);
    await losing.hello();
    losing.vanish();
    await expect.poll(async () => (await sessionOf(lost)).channel).toBe(null);
    expect(await (await callBack(lost, "r1")).json()).toMatchObject({ reason: "no_push_channel" });
  });
});

describe("the door of the relay", () => {
  let closed: TestWorker;
  beforeAll(async () => {
    closed = await startWorker({
      ...LOCAL_BINDINGS,
      ...CLOSED_DOORS,
      ALLOWED_ORIGINS: "https://app.example",
    });
  });
  afterAll(() => closed.close());

  async function tokenOf(id: string): Promise<string> {
    const headers = { authorization: `Bearer ${API_TOKEN}` };
    const response = await closed.fetch(`${API}/${id}/token`, { method: "POST", headers });
    return ((await response.json()) as { token: string }).token;
  }

  test("is open to the conversation's token, from a listed page, its own, or no page at all", async () => {
    const token = await tokenOf("mine");
    for (const origin of [undefined, "https://app.example", closed.url.origin]) {
      const page = await openPage(closed.url, "mine", { token, ...(origin === undefined ? {} : { origin }) });
      expect(page.protocol()).toBe("agent-session.v1");
      expect(await page.hello()).toMatchObject({ conversationId: "mine" });
      page.leave();
    }
  });

  test("is shut before any object is made", async () => {
    const before = await closed.conversationObjects();
    const [token, other] = [await tokenOf("shut"), await tokenOf("another")];
    const refusals: [PageOptions, number][] = [
      [{}, 401],
      [{ token: "nonsense" }, 401],
      [{ token: other }, 403],
      [{ token, origin: "https://evil.example" }, 403],
      [{ token, origin: "null" }, 403],
      [{ token, subprotocols: [] }, 400],
    ];
    for (const [options, status] of refusals) {
      await expect(openPage(closed.url, "shut", options)).rejects.toThrow(`refused with ${status}`);
    }
    const plain = await closed.fetch(`${API}/shut/stream`, { headers: { authorization: `Bearer ${token}` } });
    expect(plain.status).toBe(426);
    expect(await plain.json()).toMatchObject({ code: "upgrade_required" });
    await expect(openPage(closed.url, "no%20id", { token: API_TOKEN })).rejects.toThrow("refused with 400");
    expect(await closed.conversationObjects()).toBe(before);
  });

  test("the token appears in no log", async () => {
    const token = await tokenOf("quiet");
    const page = await openPage(closed.url, "quiet", { token });
    await page.hello();
    page.leave();
    await page.closed();
    expect(closed.lines.join()).not.toContain(token);
  });
});

describe("a line that breaks the rules", () => {
  test.each([
    [
      "a flood",
      (page: Page) => Array.from({ length: 2_000 }, () => page.send({ type: "activity" })),
      "too many",
    ],
    ["a binary frame", (page: Page) => page.socket.send(Buffer.from([1, 2])), "text"],
    ["a frame of 65 KiB", (page: Page) => page.send({ type: "ack", filler: "x".repeat(66_000) }), "too long"],
    ["a frame that is none", (page: Page) => page.send("{"), "JSON"],
  ])("%s closes it with 1008, and the session waits for the page", async (_name, offend, reason) => {
    const id = freshId();
    const page = await open(id);
    await page.hello();
    offend(page);
    expect(await page.closed()).toEqual({ code: 1008, reason: expect.stringContaining(reason) });
    await expect.poll(async () => (await sessionOf(id)).channel).toBe(null);
  });

  test("an unknown frame is ignored, with a line in the log", async () => {
    const page = await open(freshId());
    await page.hello();
    page.send({ type: "wave" });
    expect(await worker.logged("relay.unknown_frame")).toMatchObject({ type: "wave" });
    expect(page.isOpen()).toBe(true);
  });
});
