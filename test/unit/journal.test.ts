/** The log of settled results, as a conversation's object gives it what was settled, whatever becomes of Redis and of it. */
import { expect, onTestFinished, test } from "vitest";
import { StorageError } from "../../lib/errors.ts";
import { PUBLISH_AFTER_MS } from "../../lib/live/exchange.ts";
import { type TestConversation, testConversation } from "../support/live.ts";

const LATE = { deliverBy: "2025-01-01T00:00:00Z" };

function conversation(): TestConversation {
  const made = testConversation();
  onTestFinished(() => made.close());
  return made;
}

/** The entries of the log, oldest first. */
async function logOf({ storage }: TestConversation): Promise<string[]> {
  const entries = await storage.readLog("elevenlabs:results", { limit: 100 });
  return entries.reverse().map(({ value }) => {
    const { conversationId, requestId, status } = JSON.parse(value) as Record<string, string>;
    return `${conversationId} ${requestId} ${status}`;
  });
}

test("what is settled within half a second goes in one request", async () => {
  const c = conversation();
  let commits = 0;
  await c.register();
  await c.callback("r1");
  expect(await logOf(c)).toEqual([]);
  c.hooks.beforeCommit = async () => void commits++;
  await c.callback("r2", LATE);
  await c.clock.advance(PUBLISH_AFTER_MS);
  expect(await logOf(c)).toEqual(["c1 r1 delivered", "c1 r2 expired"]);
  // That of the message of r2.
  expect(commits).toBe(1);
});

test("what is settled while Redis is down is given when it is back, once", async () => {
  const c = conversation();
  await c.register();
  c.redisIs("down");
  await c.callback("r1", LATE);
  await c.live(60_000);
  c.redisIs("up");
  expect(await logOf(c)).toEqual([]);
  await c.live(60_000);
  expect(await logOf(c)).toEqual(["c1 r1 expired"]);
});

test("what an object had not given when it died it gives in its next life", async () => {
  const c = conversation();
  await c.register();
  await c.callback("r1");
  c.restart();
  expect(await logOf(c)).toEqual([]);
  await c.live(60_000);
  expect(await logOf(c)).toEqual(["c1 r1 delivered"]);
});

test("what is settled anew is another entry", async () => {
  const c = conversation();
  await c.callback("r1", LATE);
  await c.clock.advance(PUBLISH_AFTER_MS);
  expect(c.delivery.again(["r1"], true)).toEqual(["r1"]);
  await c.register();
  await c.clock.advance(PUBLISH_AFTER_MS);
  expect(await logOf(c)).toEqual(["c1 r1 expired", "c1 r1 delivered"]);
});

test("an entry that is not the newest of its result brings nothing about", async () => {
  const c = testConversation({ onPush: () => ({ outcome: "unconfirmed" }) });
  onTestFinished(() => c.close());
  await c.callback("r1", LATE);
  const settledAt = () => c.row("r1").settledAt ?? 0;
  const first = settledAt();
  await c.register();
  expect(c.delivery.again(["r1"], true, [first])).toEqual(["r1"]);
  await c.live(1_000);
  // It may have been heard by now, so an older page of the same hand-over must not have it said once more.
  expect(c.row("r1").status).toBe("unconfirmed");
  expect(c.delivery.again(["r1"], true, [first])).toEqual([]);
  await c.register({ sessionUrl: "wss://agent.example/another" });
  await c.live(1_000);
  expect(c.tellings("r1")).toBe(2);
  expect(c.delivery.again(["r1"], true, [first])).toEqual([]);
  expect(c.delivery.again(["r1"], true, [settledAt()])).toEqual(["r1"]);
});

test("of a conversation that was deleted it says what became of what waited, and of nothing else", async () => {
  const c = conversation();
  await c.callback("r1", { output: "confidential" });
  await c.forget();
  await c.live(60_000);
  expect(await logOf(c)).toEqual(["c1 r1 dropped"]);
  const [entry] = await c.storage.readLog("elevenlabs:results", { limit: 1 });
  expect(entry?.value).not.toContain("confidential");
});

/** Redis refuses whatever writes to the log, as where its token may not. Returns how often it did. */
function refuseTheLog(c: TestConversation): () => number {
  let refused = 0;
  c.hooks.beforeCommit = async (writes) => {
    if (!writes.some(({ type }) => type === "log")) return;
    refused++;
    throw new StorageError("sqlite", "commit", "rejected");
  };
  return () => refused;
}

test("a log that Redis refuses keeps nothing else from it, and is tried ever more rarely", async () => {
  const c = conversation();
  const refused = refuseTheLog(c);
  const page = c.open();
  await page.hello();
  await c.callback("r1", LATE);
  await c.live(60_000);
  await c.callback("r2", LATE);
  await c.live(1_200_000);
  expect(await c.history()).toEqual(["callback:r1", "callback:r2"]);
  // The page is still there, so its session still stands.
  expect(await c.sessions.get("c1")).not.toBeNull();
  expect(refused()).toBeGreaterThan(2);
  expect(refused()).toBeLessThan(20);
  const before = refused();
  await c.live(24 * 3_600_000);
  expect(refused() - before).toBeLessThan(30);
  expect(await logOf(c)).toEqual([]);
  c.hooks.beforeCommit = async () => {};
  await c.live(3_600_000);
  expect(await logOf(c)).toEqual(["c1 r1 expired", "c1 r2 expired"]);
});

test("an object whose log is refused rests", async () => {
  const c = conversation();
  const refused = refuseTheLog(c);
  await c.callback("r1", LATE);
  await c.live(49 * 3_600_000);
  expect(refused()).toBeLessThan(70);
  expect(c.results.isEmpty()).toBe(true);
  const before = refused();
  await c.live(3_600_000);
  expect(refused()).toBe(before);
});
