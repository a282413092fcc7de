/** What is tried again, and what an answer to a later try may not undo. */
import { expect, test } from "vitest";
import { type Channel, type PushOutcome, pushBy } from "../../lib/push/channel.ts";
import { messageOf, type PushMessage } from "../../lib/push/message.ts";
import type { Result } from "../../lib/result.ts";

const result: Result = { requestId: "r1", success: true, delivery: "when_idle" };
const message = messageOf([{ result, perhapsHeard: false }], "when_idle");
const session = { conversationId: "c1", registrationId: "reg" };

async function pushed(
  dedupes: boolean,
  answers: PushOutcome["outcome"][],
  isThere: () => boolean = () => true,
) {
  const sent: PushMessage[] = [];
  const channel: Channel = {
    name: "telnyx",
    dedupes,
    accepts: () => true,
    async push(_session, pushedMessage) {
      sent.push(pushedMessage);
      return { outcome: answers[sent.length - 1] ?? "delivered" };
    },
  };
  const { outcome } = await pushBy(channel, session, message, {
    now: () => 0,
    wait: async () => {},
    isThere,
  });
  expect(new Set(sent.map(({ pushId }) => pushId)).size).toBe(1);
  return { outcome, tries: sent.length };
}

test.each<[string, boolean, PushOutcome["outcome"][], PushOutcome["outcome"], number]>([
  ["nobody was reached: again", false, ["unreachable", "delivered"], "delivered", 2],
  ["nobody was reached, three times", false, ["unreachable", "unreachable", "unreachable"], "unreachable", 3],
  ["it may have been taken: not again", false, ["unconfirmed"], "unconfirmed", 1],
  [
    "it may have been taken, by who knows what it has had: again",
    true,
    ["unconfirmed", "delivered"],
    "delivered",
    2,
  ],
  ["likewise, three times", true, ["unconfirmed", "unconfirmed", "unconfirmed"], "unconfirmed", 3],
  ["then it is refused", true, ["unconfirmed", "refused", "refused"], "unconfirmed", 3],
  ["then the call is over", true, ["unconfirmed", "ended", "ended"], "unconfirmed", 3],
  ["it is refused at once", true, ["refused"], "refused", 1],
  ["the call is over at once", true, ["ended"], "ended", 1],
])("%s", async (_name, dedupes, answers, outcome, tries) => {
  expect(await pushed(dedupes, answers)).toEqual({ outcome, tries });
});

test("a session that is gone is not told, and what was sent to it before stays open", async () => {
  const answers = [true, false];
  const isThere = () => answers.shift() ?? false;
  expect(await pushed(true, ["unconfirmed"], isThere)).toEqual({ outcome: "unconfirmed", tries: 1 });
});
