/** Receipts by the built Worker: what a receiver gets, and that nobody waits for it. The schedule: `test/unit/receipts.test.ts`. */
import { Webhook } from "standardwebhooks";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { startAgent, type TestAgent } from "../support/agent.ts";
import { openPage } from "../support/page.ts";
import { type ReceiverBehaviour, startReceiver, type TestReceiver } from "../support/receiver.ts";
import { OUTBOUND_SECRET } from "../support/secrets.ts";
import { LOCAL_BINDINGS, startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
/** What no receipt may hold. */
const CANARY = "c4nary";
let receiver: TestReceiver;
let worker: TestWorker;
const agents: TestAgent[] = [];

beforeAll(async () => {
  receiver = await startReceiver();
  worker = await startWorker({
    ...LOCAL_BINDINGS,
    EVENTS_URL: receiver.url,
    SIGNING_SECRET: OUTBOUND_SECRET,
  });
});
afterAll(async () => {
  await worker.close();
  receiver.close();
});
afterEach(async () => {
  await Promise.all(agents.splice(0).map((agent) => agent.close()));
});

async function agent(): Promise<TestAgent> {
  const started = await startAgent();
  agents.push(started);
  return started;
}

function register(id: string, sessionUrl: string) {
  return worker.fetch(`${API}/${id}/session`, {
    json: { sessionUrl: `${sessionUrl}?token=${CANARY}`, metadata: { note: CANARY } },
  });
}

async function callBack(conversationId: string, requestId: string, fields: object = {}) {
  const response = await worker.fetch("/callback", {
    json: { requestId, conversationId, output: CANARY, toolName: CANARY, ...fields },
  });
  return (await response.json()) as { status: string };
}

/** A result that is settled at once, without anybody being there. */
const LATE = { deliverBy: "2020-01-01T00:00:00Z" };

describe("a receipt", () => {
  test("is signed so that the official library verifies it, and holds no content", async () => {
    const { url } = await agent();
    await register("told", url);
    expect(await callBack("told", "r1")).toMatchObject({ status: "delivered" });
    await worker.fetch(`${API}/told/session`, { method: "DELETE" });

    const receipts = await receiver.received("told", 3);
    for (const { headers, body } of receipts) {
      expect(headers["content-type"]).toBe("application/json");
      expect(body).not.toContain(CANARY);
      expect(new Webhook(OUTBOUND_SECRET).verify(body, headers as Record<string, string>)).toEqual(
        JSON.parse(body),
      );
    }
    const registrationId = expect.stringMatching(/^[0-9a-f-]{36}$/);
    const time = expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/);
    const byType = Object.fromEntries(receipts.map(({ type, body }) => [type, JSON.parse(body)]));
    expect(byType).toEqual({
      "session.started": {
        type: "session.started",
        timestamp: time,
        data: { conversationId: "told", registrationId, channel: "socket" },
      },
      "result.delivered": {
        type: "result.delivered",
        timestamp: time,
        data: {
          conversationId: "told",
          requestId: "r1",
          status: "delivered",
          channel: "socket",
          proof: "accepted",
          attempts: 1,
          receivedAt: time,
          settledAt: time,
        },
      },
      "session.ended": {
        type: "session.ended",
        timestamp: time,
        data: { conversationId: "told", registrationId, channel: "socket", reason: "ended" },
      },
    });
  });

  test("tells of a page's line, and of what it acknowledges", async () => {
    const page = await openPage(worker.url, "line");
    await page.hello({ agentSessionId: "conv_1" });
    const answer = callBack("line", "r1");
    const push = await page.push();
    page.ack(push.requestIds);
    expect(await answer).toMatchObject({ status: "delivered" });
    page.leave();
    const receipts = await receiver.received("line", 3);
    expect(receipts.map(({ type, data: { channel, reason } }) => [type, channel, reason]).toSorted()).toEqual(
      [
        ["result.delivered", "relay", undefined],
        ["session.ended", "relay", "ended"],
        ["session.started", "relay", undefined],
      ],
    );
  });
});

describe("a receiver", () => {
  test.for<ReceiverBehaviour>([500, 307, 404, "hangs_up", "nonsense"])(
    "that answers with %s is told again, with the same id and body and a signature of then",
    { concurrent: true },
    async (behaviour, { expect }) => {
      const id = `fails-${behaviour}`;
      receiver.behaviours.set(id, [behaviour, 204]);
      expect(await callBack(id, "r1", LATE)).toMatchObject({ status: "expired" });
      const [first, second] = await receiver.received(id, 2, 12_000);
      if (first === undefined || second === undefined) throw new Error("two came");
      expect(second.at - first.at).toBeGreaterThanOrEqual(4_900);
      expect(second.body).toBe(first.body);
      expect(second.headers["webhook-id"]).toBe(first.headers["webhook-id"]);
      expect(second.headers["webhook-timestamp"]).not.toBe(first.headers["webhook-timestamp"]);
      const verified = new Webhook(OUTBOUND_SECRET).verify(second.body, second.headers as never);
      expect(verified).toMatchObject({ type: "result.expired" });
      // A redirect is not followed.
      expect(receiver.of(id).map(({ path }) => path)).toEqual([first.path, first.path]);
    },
  );

  test("that hangs delays neither callbacks nor pushes nor whatever else the object does", async () => {
    receiver.behaviours.set("hangs", ["hangs"]);
    const { url, received } = await agent();
    const start = Date.now();
    await register("hangs", url);
    for (let i = 0; i < 10; i++)
      expect(await callBack("hangs", `r${i}`)).toMatchObject({ status: "delivered" });
    await received(10);
    await callBack("hangs", "late", LATE);
    expect((await worker.fetch(`${API}/hangs/results`)).status).toBe(200);
    expect((await worker.fetch(`${API}/hangs/session`, { method: "DELETE" })).status).toBe(200);
    // A receipt is waited for 15 s.
    expect(Date.now() - start).toBeLessThan(7_000);
    expect(receiver.of("hangs")).toHaveLength(2);
  });

  test("that is back is told what happened in an object that was out of memory since", async () => {
    receiver.behaviours.set("evicted", [503, 204]);
    await callBack("evicted", "r1", LATE);
    await receiver.received("evicted", 1);
    await worker.evict("evicted");
    const [first, second] = await receiver.received("evicted", 2, 12_000);
    expect(second?.headers["webhook-id"]).toBe(first?.headers["webhook-id"]);
  });

  test("hears no more of a conversation that was deleted", async () => {
    receiver.behaviours.set("deleted", [500]);
    await callBack("deleted", "r1", LATE);
    await receiver.received("deleted", 1);
    await worker.fetch(`${API}/deleted`, { method: "DELETE" });
    await new Promise((resolve) => setTimeout(resolve, 7_000));
    expect(receiver.of("deleted")).toHaveLength(1);
  });

  test("is named in no line of the log", async () => {
    receiver.behaviours.set("logged", [401]);
    await callBack("logged", "r1", LATE);
    const failed = await worker.logged("event.failed");
    expect(failed).toMatchObject({ level: "warn", webhookId: expect.stringMatching(/^evt_/) });
    expect(worker.lines.join("\n")).not.toContain(CANARY);
  });

  test.each([
    "https://10.0.0.5/",
    "https://169.254.169.254/latest",
    "http://events.example/",
    "https://u@e.example/",
  ])("at %s is refused: the service is closed until that is mended", async (url) => {
    const closed = await startWorker({ ...LOCAL_BINDINGS, EVENTS_URL: url, SIGNING_SECRET: OUTBOUND_SECRET });
    try {
      const response = await closed.fetch(`${API}/c/session`, { json: { sessionUrl: "ws://127.0.0.1:9/" } });
      expect([response.status, await response.json()]).toMatchObject([503, { code: "misconfigured" }]);
      const health = await closed.fetch("/config/health");
      expect(await health.json()).toMatchObject({ problems: [{ variable: "EVENTS_URL" }] });
    } finally {
      await closed.close();
    }
  });
});
