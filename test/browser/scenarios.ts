/**
 * What a visitor of the example pages lives through, with the official SDK, the built Worker and the stand-in for
 * ElevenLabs; the same for a visitor with a browser and for one without.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { ProviderConversation } from "../../dev/fake-provider.ts";
import type { PageName } from "../../dev/pages/backend.ts";
import type { StartVisitor, Tab, Visitor } from "./support/visitor.ts";
import { startWorld, type World } from "./support/world.ts";

const MINUTE_MS = 60_000;

export function tellScenarios(channels: readonly PageName[], startVisitor: StartVisitor): void {
  let world: World;
  let visitor: Visitor;
  /** The agent conversations of the current test. */
  let conversations: () => readonly ProviderConversation[];
  let ids = 0;

  beforeAll(async () => {
    world = await startWorld();
    visitor = await startVisitor(world);
  });
  afterAll(async () => {
    await visitor.close();
    await world.close();
  });
  beforeEach(() => {
    conversations = world.conversationsFromNow();
  });
  afterEach(() => visitor.closeTabs());

  const freshRequest = () => `task-${++ids}`;

  async function open(channel: PageName, conversationId?: string): Promise<Tab> {
    const tab = await visitor.open(channel, conversationId);
    await tab.connected();
    return tab;
  }

  /** How often agents were told of a result as if by the user. */
  const tellings = (requestId: string) =>
    conversations()
      .flatMap(({ told }) => told)
      .filter((text) => text.includes(`request ${requestId}`)).length;

  describe.each(channels)("by %s", (channel) => {
    const isRelay = channel === "relay";

    test("the agent speaks of a result, and the page shows its words", async () => {
      const tab = await open(channel);
      const requestId = freshRequest();

      expect(await world.callBack(tab.conversationId, requestId)).toMatchObject({
        status: "delivered",
        channel,
      });
      expect(await tab.shows("agent", requestId)).toBe(
        `Your task ${requestId} has finished: output of ${requestId}.`,
      );
      expect(tellings(requestId)).toBe(1);
      expect(await world.result(tab.conversationId, requestId)).toMatchObject({
        status: "delivered",
        channel,
      });
    });

    test("a silent result is known to the agent, who says nothing until it is asked", async () => {
      const tab = await open(channel);
      const requestId = freshRequest();
      const answer = await world.callBack(tab.conversationId, requestId, { delivery: "silent" });
      expect(answer).toMatchObject({ status: "delivered", channel });
      expect(conversations()[0]?.said).toEqual([]);

      await tab.say("what is new?");
      expect(await tab.shows("agent", requestId)).toContain(
        `By the way: Your task ${requestId} has finished`,
      );
      expect(conversations()[0]?.told).toEqual(["what is new?"]);
    });

    test("the agent starts a task, knows how far it is, and speaks of its result once", async () => {
      const tab = await open(channel);
      await tab.say("research ships");
      expect(await tab.shows("agent", "started")).toMatch(/^I have started on that/);
      const work = await world.work(tab.conversationId);
      expect(work).toMatchObject({ tool: "research", args: { query: "ships" } });
      await tab.showsTask("under way");
      await work.progress("two of three asked");
      await tab.showsTask("two of three asked");
      await tab.say("how far is it?");
      await tab.shows("agent", "By the way: A task is under way: two of three asked.");

      work.finish("the cheapest is Acme");
      expect(await tab.shows("agent", "Acme")).toBe("Your task research has finished: the cheapest is Acme.");
      await tab.showsTask("done");
      expect(tellings(work.taskId)).toBe(1);
      await expect
        .poll(() => world.result(tab.conversationId, work.taskId))
        .toMatchObject({ status: "delivered", channel });
    });

    test("a tool call that waits is answered with the result, and nothing is pushed", async () => {
      const tab = await open(channel);
      await tab.say("research ships and wait");
      const work = await world.work(tab.conversationId);
      work.finish("the cheapest is Acme");

      expect(await tab.shows("agent", "Acme")).toBe("the cheapest is Acme");
      expect(tellings(work.taskId)).toBe(0);
      await expect
        .poll(() => world.result(tab.conversationId, work.taskId))
        .toMatchObject({ status: "delivered", channel: "reply" });
    });

    test("a task that is cancelled is stopped, and its result is not said", async () => {
      const tab = await open(channel);
      await tab.say("research ships");
      const work = await world.work(tab.conversationId);
      await tab.showsTask("under way");
      const stopped = new Promise((resolve) => work.signal.addEventListener("abort", resolve));
      await tab.cancelTask();
      await stopped;

      await tab.showsTask("cancelled");
      expect(await world.callBack(tab.conversationId, work.taskId)).toMatchObject({ status: "cancelled" });
      expect(tellings(work.taskId)).toBe(0);
    });

    test("the result of a task whose page was reloaded is said to the agent of the next", async () => {
      const tab = await open(channel);
      await tab.say("research ships");
      const work = await world.work(tab.conversationId);
      await tab.reload();
      await tab.connected();
      await tab.showsTask("under way");
      work.finish("the cheapest is Acme");

      await tab.shows("agent", "the cheapest is Acme");
      expect(tellings(work.taskId)).toBe(1);
      expect(conversations()[0]?.told.join()).not.toContain("Acme");
    });

    test("while the agent speaks a result waits for its turn, and its sender is told so", async () => {
      const tab = await open(channel);
      const requestId = freshRequest();
      await tab.say(`tell me ${"a long story ".repeat(30)}`);
      // So much that the edge has been told of it.
      await world.provider.until(() => conversations().find(({ saying }) => saying.length > 150));

      expect(await world.callBack(tab.conversationId, requestId)).toMatchObject({ reason: "agent_busy" });
      await tab.shows("agent", requestId);
      expect(conversations().map(({ interruptions }) => interruptions)).toEqual([0]);
    });

    test("a connection to the edge that drops comes back, and what came meanwhile is said once", async () => {
      const tab = await open(channel);
      const requestId = freshRequest();
      world.network.cut();
      await world.callBack(tab.conversationId, requestId);

      await tab.shows("agent", requestId);
      await tab.connected();
      expect(tellings(requestId)).toBe(1);
      // By relay the agent has noticed nothing.
      expect(conversations()).toHaveLength(isRelay ? 1 : 2);
    });

    test("a reload comes back to the conversation, and everything that waited is said at once", async () => {
      const tab = await open(channel);
      await tab.say("remember me");
      await tab.shows("agent", "remember me");
      await tab.goAway();
      await world.provider.until(() => (conversations()[0]?.isOpen === false ? true : undefined));
      const requestIds = [freshRequest(), freshRequest(), freshRequest()];
      for (const requestId of requestIds) {
        expect(await world.callBack(tab.conversationId, requestId)).toMatchObject({ status: "queued" });
      }
      await tab.comeAgain();

      await tab.shows("agent", "3 of your tasks have finished.");
      const [, second] = conversations();
      expect(second?.told).toHaveLength(1);
      for (const requestId of requestIds) {
        expect(second?.told[0]).toContain(`request ${requestId}`);
        expect(await world.result(tab.conversationId, requestId)).toMatchObject({ status: "delivered" });
      }
      const transcript = await tab.transcript();
      expect(transcript[0]).toEqual({ from: "user", text: "remember me" });
      expect(transcript.filter(({ from }) => from === "task")).toHaveLength(3);
    });

    test("of two tabs the newer one hears", async () => {
      const older = await open(channel);
      const newer = await open(channel, older.conversationId);
      if (!isRelay) await older.becomes({ agent: "ended" });
      const [first, second] = [freshRequest(), freshRequest()];
      await world.callBack(older.conversationId, first);
      await newer.shows("agent", first);
      await newer.close();
      if (isRelay) {
        // The next newest takes over by itself.
        await world.provider.until(() => conversations().find(({ isOpen }) => !isOpen));
      } else {
        await older.reload();
        await older.connected();
      }
      await world.callBack(older.conversationId, second);

      await older.shows("agent", second);
      expect([tellings(first), tellings(second)]).toEqual([1, 1]);
      expect(conversations()[0]?.told.some((text) => text.includes(`request ${first}`))).toBe(false);
    });

    test("the Worker begins anew, and results go on", async () => {
      const tab = await open(channel);
      const [before, after] = [freshRequest(), freshRequest()];
      await world.callBack(tab.conversationId, before);
      await tab.shows("agent", before);
      await world.restartWorker();
      await world.callBack(tab.conversationId, after);

      await tab.shows("agent", after);
      await tab.connected();
      expect([tellings(before), tellings(after)]).toEqual([1, 1]);
      expect(conversations()).toHaveLength(isRelay ? 1 : 2);
    });

    test("after a minute without a network what came meanwhile is said, once", async () => {
      const tab = await open(channel);
      const requestId = freshRequest();
      world.network.freeze();
      await visitor.networkIs("offline");
      const answered = world.callBack(tab.conversationId, requestId);
      await tab.pass(MINUTE_MS);
      if (isRelay) await tab.becomes({ line: "reconnecting" });
      expect(await answered).toMatchObject(isRelay ? { reason: "unconfirmed" } : { status: "delivered" });
      world.network.thaw();
      await visitor.networkIs("online");

      await tab.shows("agent", requestId);
      await tab.connected();
      expect(tellings(requestId)).toBe(1);
      expect(await world.result(tab.conversationId, requestId)).toMatchObject({ status: "delivered" });
    });

    test("a page that is left and come back to hears what came meanwhile", async () => {
      const tab = await open(channel);
      const requestId = freshRequest();
      await tab.goAway();
      await world.provider.until(() => (conversations()[0]?.isOpen === false ? true : undefined));
      expect(await world.callBack(tab.conversationId, requestId)).toMatchObject({ status: "queued" });

      expect(await tab.goBack()).toBe(visitor.keepsPages);
      await tab.shows("agent", requestId);
      await tab.connected();
      expect(tellings(requestId)).toBe(1);
    });
  });
}
