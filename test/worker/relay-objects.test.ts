/** What holds the lines of the relay: objects that leave memory, that are many, that die with their Worker. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { openPage, type Page } from "../support/page.ts";
import { LOCAL_BINDINGS, startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
let worker: TestWorker;
const pages: Page[] = [];

beforeAll(async () => {
  worker = await startWorker();
});
afterAll(() => worker.close());
afterEach(() => {
  for (const page of pages.splice(0)) page.vanish();
});

async function open(id: string): Promise<Page> {
  const page = await openPage(worker.url, id);
  pages.push(page);
  return page;
}

function callBack(conversationId: string, requestId: string) {
  return worker.fetch("/callback", { json: { requestId, conversationId, output: `output of ${requestId}` } });
}

async function statusesOf(worker: TestWorker, id: string): Promise<string[]> {
  const response = await worker.fetch(`${API}/${id}/results?limit=100`);
  const { results } = (await response.json()) as { results: { status: string }[] };
  return results.map(({ status }) => status);
}

describe("the object of a conversation", () => {
  test("leaves memory between a push and its acknowledgement, and the result is settled all the same", async () => {
    const id = "evicted";
    expect((await callBack(id, "r1")).status).toBe(202);
    const page = await open(id);
    await page.hello();
    await page.push();
    await worker.evict(id);
    expect(await statusesOf(worker, id)).toEqual(["unconfirmed"]);
    expect(page.isOpen()).toBe(true);
    page.ack(["r1"]);
    await expect.poll(() => statusesOf(worker, id)).toEqual(["delivered"]);
  });

  test("hibernates while its pages are quiet, pings included, and speaks when a result comes", async () => {
    const counting = await startWorker(LOCAL_BINDINGS, { countsObjects: true });
    try {
      const id = "hibernating";
      const page = await openPage(counting.url, id);
      await page.hello();
      const constructed = () => counting.logs().filter(({ event }) => event === "object.constructed").length;
      expect(constructed()).toBe(1);
      // The runtime lets an idle object go after ten seconds of its own clock, which nobody can turn.
      for (let second = 0; second < 12; second++) {
        page.send("ping");
        await new Promise((resolve) => setTimeout(resolve, 1_000));
      }
      expect(page.frames.filter((frame) => frame === "pong")).toHaveLength(12);
      expect(constructed()).toBe(1);
      const answer = counting.fetch("/callback", {
        json: { requestId: "r1", conversationId: id, output: "x" },
      });
      page.ack((await page.push()).requestIds);
      expect(await (await answer).json()).toMatchObject({ status: "delivered", channel: "relay" });
      expect(constructed()).toBe(2);
      page.vanish();
    } finally {
      await counting.close();
    }
  }, 30_000);

  test("of two hundred conversations each has its line, and each is told its own", async () => {
    const all: { id: string; page: Page }[] = [];
    async function attach(i: number): Promise<void> {
      const id = `many-${i}`;
      const page = await open(id);
      await page.hello({ agentSessionId: `conv_${i}` });
      page.socket.on("message", (data) => {
        const frame = JSON.parse(String(data)) as { type: string; requestIds: string[] };
        if (frame.type === "push") page.ack(frame.requestIds);
      });
      all.push({ id, page });
    }
    for (let i = 0; i < 200; i += 20) {
      await Promise.all(Array.from({ length: 20 }, (_, j) => attach(i + j)));
    }
    for (const { id, page } of all.filter((_, i) => i % 20 === 0)) {
      const response = await callBack(id, `for-${id}`);
      expect(await response.json()).toMatchObject({ status: "delivered", channel: "relay" });
      expect(page.pushes().map(({ requestIds }) => requestIds)).toEqual([[`for-${id}`]]);
    }
    expect(all.flatMap(({ page }) => page.pushes())).toHaveLength(10);
  }, 60_000);
});

describe("a hundred results", () => {
  test("with acknowledgements lost, the line cut and the Worker restarted: each is heard exactly once", async () => {
    const directory = await mkdtemp(join(tmpdir(), "objects-"));
    let own = await startWorker(LOCAL_BINDINGS, { directory });
    const id = "hundred";
    /** What the page's user heard, and how often. */
    const heard = new Map<string, number>();
    let pushes = 0;
    let page: Page | null = null;

    /** Says whatever comes, and acknowledges it; twenty acknowledgements are lost, and once the line breaks before. */
    async function attach(): Promise<Page> {
      const opened = await openPage(own.url, id);
      opened.socket.on("message", (data) => {
        const frame = JSON.parse(String(data)) as { type: string; requestIds: string[] };
        if (frame.type !== "push") return;
        pushes += 1;
        if (pushes === 40) return opened.vanish();
        for (const requestId of frame.requestIds) heard.set(requestId, (heard.get(requestId) ?? 0) + 1);
        if (pushes % 4 !== 0 || pushes > 80) opened.ack(frame.requestIds);
      });
      await opened.hello({ agentSessionId: "conv_one", heard: [...heard.keys()] });
      return opened;
    }
    const send = (i: number) =>
      own
        .fetch("/callback", { json: { requestId: `r${i}`, conversationId: id, output: `output ${i}` } })
        .then((response) => response.status);
    try {
      page = await attach();
      for (let i = 0; i < 100; i += 1) {
        const answer = send(i);
        // A lost acknowledgement takes five seconds to be missed; the page comes back before that.
        await expect
          .poll(() => heard.has(`r${i}`) || page?.isOpen() === false, { timeout: 8_000 })
          .toBe(true);
        if (i === 60) {
          // Nobody says whether it was answered before the Worker went.
          await Promise.allSettled([answer, own.close()]);
          own = await startWorker(LOCAL_BINDINGS, { directory });
          page = await attach();
          // A sender that got no answer sends again.
          expect(await send(i)).toBeLessThan(300);
        } else if (page.isOpen() === false || (await isUnanswered(answer))) {
          page.vanish();
          page = await attach();
          expect(await answer).toBeLessThan(300);
        }
      }
      page.vanish();
      page = await attach();
      await expect.poll(() => statusesOf(own, id)).toEqual(Array.from({ length: 100 }, () => "delivered"));
      expect([...heard.entries()].filter(([, times]) => times !== 1)).toEqual([]);
      expect(heard.size).toBe(100);
    } finally {
      page?.vanish();
      await own.close();
      await rm(directory, { recursive: true, force: true });
    }
  }, 60_000);

  /** Whether an answer does not come while it should have. */
  async function isUnanswered(answer: Promise<unknown>): Promise<boolean> {
    const late = new Promise<boolean>((resolve) => setTimeout(resolve, 250, true));
    return Promise.race([answer.then(() => false), late]);
  }
});
