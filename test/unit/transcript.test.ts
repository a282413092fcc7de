/** What is said in a live conversation, on its way into the history. */
import { describe, expect, onTestFinished, test } from "vitest";
import { MAX_MESSAGES_WITH_TRANSCRIPT, type Message } from "../../lib/conversation-store.ts";
import { ConversationDeletedError, StorageError } from "../../lib/errors.ts";
import type { Utterance } from "../../lib/live/provider-events.ts";
import { createTranscript } from "../../lib/live/transcript.ts";
import { createLogger } from "../../lib/log.ts";
import { createClock, testConversation } from "../support/live.ts";

function testTranscript(append: (messages: readonly Message[], mayStand: boolean) => void = () => {}) {
  const clock = createClock();
  const commits: { at: number; said: string[]; ids: string[]; mayStand: boolean }[] = [];
  const lines: string[] = [];
  let speaksUntil = 0;
  const transcript = createTranscript({
    agentSessionId: "conv_1",
    async append(messages, mayStand) {
      commits.push({
        at: clock.now(),
        said: messages.map(({ role, content }) => `${role}: ${content}`),
        ids: messages.map(({ id }) => id),
        mayStand,
      });
      append(messages, mayStand);
    },
    agentSpeaksUntil: () => speaksUntil,
    log: createLogger({ now: clock.now, write: (_level, line) => lines.push(line) }),
    now: clock.now,
    wait: clock.wait,
  });
  let eventId = 0;
  return {
    clock,
    commits,
    lines,
    end: transcript.end,
    speakFor: (ms: number) => {
      speaksUntil = clock.now() + ms;
    },
    user: (text: string) => transcript.hear({ role: "user", text, eventId: ++eventId }),
    agent: (text: string) => transcript.hear({ role: "agent", text, eventId: ++eventId }),
    hear: (said: Utterance) => transcript.hear(said),
    said: () => commits.map(({ said }) => said),
  };
}

const down = () => {
  throw new StorageError("sqlite", "commit", "server_error");
};

describe("what is said", () => {
  test("is committed in batches, five seconds apart, under ids of its own", async () => {
    const t = testTranscript();
    t.user("Hello?");
    t.agent("Hello.");
    await t.clock.advance(4_999);
    expect(t.commits).toEqual([]);
    await t.clock.advance(1);
    t.user("How are you?");
    await t.clock.advance(1_000);
    t.agent("Well.");
    await t.clock.advance(60_000);
    expect(t.said()).toEqual([
      ["user: Hello?", "agent: Hello."],
      ["user: How are you?", "agent: Well."],
    ]);
    expect(t.commits.map(({ at }) => at - (t.commits[0]?.at ?? 0))).toEqual([0, 5_000]);
    expect(t.commits.flatMap(({ ids }) => ids)).toEqual(
      [0, 1, 2, 3].map((i) => `elevenlabs:conv_1:live:${i}`),
    );
  });

  test("by the agent waits until it has been heard, and what was cut off is corrected", async () => {
    const t = testTranscript();
    t.user("Tell me all.");
    t.agent("There were three: one, two and three.");
    t.speakFor(20_000);
    t.user("Stop!");
    await t.clock.advance(10_000);
    expect(t.said()).toEqual([["user: Tell me all."]]);
    t.speakFor(0);
    t.hear({
      role: "agent",
      text: "There were three: one",
      eventId: 99,
      corrects: "There were three: one, two and three.",
    });
    await t.clock.advance(10_000);
    expect(t.said()).toEqual([["user: Tell me all."], ["agent: There were three: one", "user: Stop!"]]);
  });

  test("is corrected by its event too, and left out where nothing of it was heard", async () => {
    const t = testTranscript();
    t.agent("First.");
    t.agent("Second.");
    t.hear({ role: "agent", text: "  ", eventId: 2, corrects: "something else" });
    t.hear({ role: "agent", text: "x", eventId: 7, corrects: "never said" });
    await t.clock.advance(5_000);
    expect(t.said()).toEqual([["agent: First."]]);
  });

  test("is all final when the conversation is over", async () => {
    const t = testTranscript();
    t.agent("Goodbye.");
    t.speakFor(60_000);
    t.end();
    await t.clock.advance(5_000);
    expect(t.said()).toEqual([["agent: Goodbye."]]);
  });

  test("is committed again where nobody knows whether it was, and said to be so", async () => {
    let isDown = true;
    const t = testTranscript(() => isDown && down());
    t.user("Hello?");
    await t.clock.advance(10_000);
    t.user("Anybody?");
    isDown = false;
    await t.clock.advance(5_000);
    t.user("Ah.");
    await t.clock.advance(5_000);
    expect(t.commits.map(({ said, mayStand }) => [said.length, mayStand])).toEqual([
      [1, false],
      [1, true],
      [2, true],
      [1, false],
    ]);
    expect(t.commits[0]?.ids).toEqual(t.commits[1]?.ids);
  });

  test("is kept while the storage is away, but not without bound, nor for ever once it is over", async () => {
    const t = testTranscript(down);
    for (let i = 0; i < 600; i++) t.user(`${i}`);
    await t.clock.advance(5_000);
    expect(t.said()[0]).toHaveLength(500);
    expect(t.said()[0]?.at(-1)).toBe("user: 599");
    t.end();
    await t.clock.advance(600_000);
    expect(t.commits.length).toBeLessThan(15);
    expect(t.lines).toHaveLength(1);
  });

  test("is nobody's business once the conversation is deleted", async () => {
    const t = testTranscript(() => {
      throw new ConversationDeletedError();
    });
    t.user("Hello?");
    await t.clock.advance(60_000);
    expect(t.commits).toHaveLength(1);
  });
});

describe("a history", () => {
  const message = (id: string): Message => ({
    id,
    role: "user",
    content: id,
    source: "elevenlabs",
    timestamp: new Date(0).toISOString(),
  });
  const messages = (prefix: string, count: number) =>
    Array.from({ length: count }, (_, i) => message(`${prefix}${i}`));

  function conversation() {
    const made = testConversation();
    onTestFinished(() => made.close());
    return made;
  }

  test("takes what is said as long as half of it is free, so that no result ever loses its place to it", async () => {
    const c = conversation();
    const { conversations } = c;
    await c.callback("first");
    for (let i = 0; i < 60; i++) await conversations.appendTranscript("c1", messages(`said-${i}-`, 10));
    const held = await c.history();
    expect(held).toHaveLength(491);
    expect(held[0]).toBe("callback:first");
    await conversations.appendTranscript("c1", messages("last-", 9));
    expect(await c.history()).toHaveLength(MAX_MESSAGES_WITH_TRANSCRIPT);
    await conversations.append("c1", messages("other-", 500));
    expect((await c.history())[0]).toBe("callback:first");
    await conversations.appendTranscript("c1", messages("none-", 1));
    expect(await c.history()).toHaveLength(1_000);
    expect((await c.history()).filter((id) => id.startsWith("none"))).toEqual([]);
    expect(c.lines.filter(({ event }) => event === "messages.dropped").at(-1)).toMatchObject({ dropped: 1 });
  });

  test("has it once, however often it is told, and nothing of a deleted conversation", async () => {
    const c = conversation();
    const said = messages("said-", 3);
    await c.conversations.appendTranscript("c1", said);
    await c.conversations.appendTranscript("c1", said, true);
    expect(await c.history()).toEqual(["said-0", "said-1", "said-2"]);
    await c.records.forget();
    await expect(c.conversations.appendTranscript("c1", said)).rejects.toThrow(ConversationDeletedError);
    expect(await c.history()).toEqual([]);
  });
});
