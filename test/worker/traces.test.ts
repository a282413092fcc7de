/** Spans of our own, as the runtime records them where it traces. It does so in no deployment of ours by itself. */
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { type AgentBehaviour, startAgent } from "../support/agent.ts";
import { openPage } from "../support/page.ts";
import { LOCAL_BINDINGS, startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
/** What no span may hold. */
const CANARY = "c4nary";
/** As the runtime names its own: they are not ours to name. */
const OURS = ["callback", "push", "acknowledge"];

type Attributes = Record<string, unknown>;
type TailEvent = {
  spanContext: { spanId?: string };
  event: { type: string; name?: string; spanId?: string; info?: { name: string; value: unknown }[] };
};

let worker: TestWorker;

beforeAll(async () => {
  worker = await startWorker(LOCAL_BINDINGS, { traces: true });
});
afterAll(() => worker.close());

const traced = (): TailEvent[] =>
  worker.lines
    .filter((line) => line.startsWith("trace "))
    .map((line) => JSON.parse(line.slice("trace ".length)) as TailEvent);

/** The spans of ours so far, in the order in which they began, as name and attributes. */
function spans(conversationId: string): [string, Attributes][] {
  const events = traced();
  return events
    .filter(({ event }) => event.type === "spanOpen" && OURS.includes(event.name ?? ""))
    .map(({ event: { name = "", spanId } }): [string, Attributes] => {
      const noted = events.filter(
        ({ event, spanContext }) => event.type === "attributes" && spanContext.spanId === spanId,
      );
      const pairs = noted.flatMap(({ event: { info = [] } }) => info);
      return [name, Object.fromEntries(pairs.map((pair) => [pair.name, pair.value]))];
    })
    .filter(([, attributes]) => attributes.conversationId === conversationId);
}

async function register(conversationId: string, behaviour?: AgentBehaviour): Promise<void> {
  const agent = await startAgent(behaviour);
  onTestFinished(() => agent.close());
  await worker.fetch(`${API}/${conversationId}/session`, {
    json: { sessionUrl: `${agent.url}?token=${CANARY}`, metadata: { note: CANARY } },
  });
}

function callBack(conversationId: string, requestId: string) {
  return worker.fetch("/callback", {
    json: { requestId, conversationId, output: CANARY, toolName: CANARY, metadata: { note: CANARY } },
    headers: { "x-request-id": `http-${requestId}` },
  });
}

describe("a callback", () => {
  test("is followed by spans to its confirmation, which hold ids, channel and outcome", async () => {
    await register("told");
    await callBack("told", "r1");
    const ids = { requestId: "http-r1", conversationId: "told", callbackRequestId: "r1" };
    const delivered = { outcome: "delivered", channel: "socket" };
    await expect.poll(() => spans("told")).toHaveLength(2);
    expect(Object.fromEntries(spans("told"))).toEqual({
      callback: { ...ids, ...delivered, delivery: "when_idle" },
      push: {
        conversationId: "told",
        callbackRequestId: "r1",
        results: 1,
        delivery: "when_idle",
        ...delivered,
        proof: "accepted",
      },
    });
  });

  test("has the runtime's spans of its work within ours, and each of ours ends", async () => {
    await register("within");
    const before = traced().length;
    await callBack("within", "r1");
    /** The names of what is directly within the one span of this name, and whether that has ended. */
    const spanOf = (name: string) => {
      const events = traced().slice(before);
      const id = events.find(({ event }) => event.type === "spanOpen" && event.name === name)?.event.spanId;
      const within = events.filter(({ spanContext }) => spanContext.spanId === id);
      return {
        within: within.flatMap(({ event }) => (event.type === "spanOpen" ? [event.name] : [])),
        ended: within.some(({ event }) => event.type === "spanClose"),
      };
    };
    await expect
      .poll(() => spanOf("callback"))
      .toEqual({ within: ["durable_object_subrequest"], ended: true });
    await expect.poll(() => spanOf("push")).toEqual({ within: ["fetch"], ended: true });
  });

  test("that is not confirmed says so, with the code of the close", async () => {
    await register("refused", "refuses-frames");
    await callBack("refused", "r1");
    await expect.poll(() => spans("refused")).toHaveLength(2);
    expect(Object.fromEntries(spans("refused"))).toMatchObject({
      callback: { outcome: "queued", reason: "push_failed" },
      push: { outcome: "refused", closeCode: 1008 },
    });
  });

  test("that a page acknowledges has a span of that too", async () => {
    const page = await openPage(worker.url, "by-page");
    onTestFinished(() => page.vanish());
    await page.hello({ agentSessionId: CANARY });
    const answered = callBack("by-page", "r1");
    const { requestIds } = await page.push();
    page.send({ type: "ack", requestIds });
    await answered;
    await expect.poll(() => spans("by-page")).toHaveLength(3);
    expect(Object.fromEntries(spans("by-page"))).toMatchObject({
      push: { channel: "relay", outcome: "delivered" },
      acknowledge: { callbackRequestId: "r1", results: 1 },
    });
  });
});

test("no span of ours holds a URL, a token or a content", async () => {
  await register("secret");
  await callBack("secret", "r1");
  await expect.poll(() => spans("secret")).toHaveLength(2);
  const held = JSON.stringify(["told", "refused", "by-page", "secret"].map(spans));
  expect(held).not.toContain(CANARY);
  expect(held).not.toMatch(/wss?:|https?:/);
});

test("where nobody traces, the same is answered", async () => {
  const plain = await startWorker();
  onTestFinished(() => plain.close());
  const response = await plain.fetch("/callback", {
    json: { requestId: "r1", conversationId: "untraced", output: CANARY },
  });
  expect(await response.json()).toMatchObject({ status: "queued" });
  expect(plain.lines.filter((line) => line.startsWith("trace "))).toEqual([]);
});
