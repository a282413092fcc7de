/** The relay through the built Worker: pages that hold a line, and what is said over it. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { openPage, type Page, type PageOptions } from "../support/page.ts";
import { startWorker, type TestWorker } from "../support/worker.ts";

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
