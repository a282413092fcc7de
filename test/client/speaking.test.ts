import { expect, test } from "vitest";
import { createSpeaking } from "../../client/speaking.ts";
import { pushOf } from "./support/edge.ts";
import { testPage } from "./support/page.ts";
import { liveVisit } from "./support/visit.ts";

function setUp() {
  const page = testPage();
  const told: string[] = [];
  const speaking = createSpeaking(page, (frame) =>
    told.push(`${page.now()} ${frame.type === "mode" ? frame.mode : "activity"}`),
  );
  return { page, told, speaking };
}

test("speaking counts at once, and listening after half a second", () => {
  const { page, told, speaking } = setUp();
  speaking.mode("speaking");
  page.advance(2_000);
  speaking.mode("listening");
  page.advance(2_000);
  expect(told).toEqual(["0 speaking", "2500 listening"]);
});

test("a mode that flaps in mid-speech is not reported", () => {
  const { page, told, speaking } = setUp();
  for (let i = 0; i < 5; i++) {
    speaking.mode("speaking");
    page.advance(300);
    speaking.mode("listening");
    page.advance(400);
  }
  page.advance(1_000);
  expect(told).toEqual(["0 speaking", "3600 listening"]);
});

test("the listening of a conversation that begins is not reported", () => {
  const { page, told, speaking } = setUp();
  speaking.mode("listening");
  page.advance(10_000);
  expect(told).toEqual([]);
});

test("in text the parts of an answer count, until it has stopped", () => {
  const { page, told, speaking } = setUp();
  speaking.textPart("start");
  page.advance(400);
  speaking.textPart("delta");
  page.advance(4_000);
  speaking.textPart("stop");
  speaking.message("agent");
  page.advance(1_000);
  expect(told).toEqual(["0 speaking", "4900 listening"]);
});

test("an answer that never says that it ends is over with its message, or after five seconds", () => {
  const { page, told, speaking } = setUp();
  speaking.textPart("start");
  speaking.message("agent");
  page.advance(10_000);
  speaking.textPart("delta");
  page.advance(10_000);
  expect(told).toEqual(["0 speaking", "500 listening", "10000 speaking", "15000 listening"]);
});

test("in voice the text that ends before the audio does not end the speaking", () => {
  const { page, told, speaking } = setUp();
  speaking.textPart("start");
  speaking.mode("speaking");
  speaking.textPart("stop");
  speaking.message("agent");
  page.advance(6_000);
  speaking.mode("listening");
  page.advance(1_000);
  expect(told).toEqual(["0 speaking", "6500 listening"]);
});

test("a voice and a message of the user are signs of activity, at most once a second", () => {
  const { page, told, speaking } = setUp();
  speaking.voice(0.3);
  for (let i = 0; i < 30; i++) {
    speaking.voice(0.9);
    page.advance(50);
  }
  page.advance(1_000);
  speaking.message("user");
  expect(told).toEqual(["0 activity", "1000 activity", "2500 activity"]);
});

test("an agent conversation that ended in mid-speech leaves nothing to its successor", () => {
  const { page, told, speaking } = setUp();
  speaking.mode("speaking");
  speaking.reset();
  speaking.repeat();
  page.advance(1_000);
  expect(told).toEqual(["0 speaking"]);
});

test("the SDK's callbacks reach the edge, and a new line is told again who speaks", async () => {
  const { session, line, page, edge } = await liveVisit();
  const { callbacks } = session;
  callbacks.onVadScore({ vadScore: 0.8 });
  expect(await line.next()).toEqual({ type: "activity" });
  page.advance(1_000);
  callbacks.onMessage({ source: "user" });
  expect(await line.next()).toEqual({ type: "activity" });
  callbacks.onAgentChatResponsePart({ type: "start" });
  expect(await line.next()).toEqual({ type: "mode", mode: "speaking" });
  callbacks.onAgentChatResponsePart({ type: "stop" });
  page.advance(500);
  expect(await line.next()).toEqual({ type: "mode", mode: "listening" });
  callbacks.onModeChange({ mode: "speaking" });
  expect(await line.next()).toEqual({ type: "mode", mode: "speaking" });

  line.cut();
  await expect.poll(() => session.status).toBe("reconnecting");
  page.advance(500);
  const { line: next } = await edge.welcomed();
  expect(await next.next()).toEqual({ type: "mode", mode: "speaking" });
});

test("nothing is reported before the welcome", async () => {
  const { session, line, edge, page } = await liveVisit();
  line.cut();
  await expect.poll(() => session.status).toBe("reconnecting");
  session.callbacks.onVadScore({ vadScore: 0.8 });
  page.advance(500);
  const { line: next, hello } = await edge.welcomed();
  expect(hello.type).toBe("hello");
  next.send(pushOf(["a"]));
  expect(await next.next()).toMatchObject({ type: "ack" });
});
