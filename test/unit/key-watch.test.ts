import { expect, test } from "vitest";
import { createLogger } from "../../lib/log.ts";
import { createKeyWatch, KEY_PAUSE_MS } from "../../lib/push/key-watch.ts";
import { messageOf } from "../../lib/push/message.ts";
import { createProviderChannel, type Provider, type ProviderOutcome } from "../../lib/push/provider.ts";

function watch() {
  const lines: object[] = [];
  let now = 0;
  const log = createLogger({ now: () => now, write: (_level, line) => lines.push(JSON.parse(line)) });
  return {
    keys: createKeyWatch(() => now, log),
    lines,
    pass: (ms: number) => {
      now += ms;
    },
  };
}

test("a key that was refused rests for a minute, is tried again, and is logged once until it is taken", () => {
  const { keys, lines, pass } = watch();
  keys.note("TELNYX_API_KEY", false);
  expect([keys.isRefused("TELNYX_API_KEY"), keys.isRefused("RETELL_API_KEY")]).toEqual([true, false]);
  pass(KEY_PAUSE_MS - 1);
  expect(keys.isRefused("TELNYX_API_KEY")).toBe(true);
  pass(1);
  expect(keys.isRefused("TELNYX_API_KEY")).toBe(false);
  keys.note("TELNYX_API_KEY", false);
  expect(keys.isRefused("TELNYX_API_KEY")).toBe(true);
  expect(lines).toMatchObject([
    { level: "error", event: "provider.unauthorized", variable: "TELNYX_API_KEY" },
  ]);

  pass(KEY_PAUSE_MS);
  expect(keys.refused()).toEqual(["TELNYX_API_KEY"]);
  keys.note("TELNYX_API_KEY", true);
  expect([keys.isRefused("TELNYX_API_KEY"), keys.refused()]).toEqual([false, []]);
  keys.note("TELNYX_API_KEY", false);
  expect(lines).toHaveLength(2);
});

test("of all that wait for a key that was refused, one tries it again", () => {
  const { keys, pass } = watch();
  keys.note("TELNYX_API_KEY", false);
  pass(KEY_PAUSE_MS);
  const askers = Array.from({ length: 5 }, () => keys.isRefused("TELNYX_API_KEY"));
  expect(askers).toEqual([false, true, true, true, true]);
  // Nobody heard what became of that one.
  pass(KEY_PAUSE_MS);
  expect(keys.isRefused("TELNYX_API_KEY")).toBe(false);
  keys.note("TELNYX_API_KEY", true);
  expect(keys.isRefused("TELNYX_API_KEY")).toBe(false);
});

test.each([302, 403, 429])("an answer of %i says nothing of the key", async (httpStatus) => {
  const { keys, lines, pass } = watch();
  const answers: ProviderOutcome[] = [
    { outcome: "unauthorized", httpStatus: 401 },
    { outcome: "refused", httpStatus },
    { outcome: "unauthorized", httpStatus: 401 },
  ];
  const provider: Provider = {
    account: "TELNYX",
    apiUrl: "https://api.telnyx.com",
    manners: { when_idle: "when_idle", interrupt: "interrupt", silent: "silent" },
    proof: "accepted",
    push: async () => answers.shift() ?? { outcome: "delivered" },
  };
  const channel = createProviderChannel("telnyx", provider, { apiKey: "key", apiUrl: provider.apiUrl }, keys);
  const session = {
    conversationId: "c1",
    registrationId: "r1",
    provider: "telnyx",
    provenAgentSessionId: "call",
  };
  const result = { requestId: "r1", success: true, delivery: "when_idle" } as const;
  const message = messageOf([{ result, perhapsHeard: false }], "when_idle");
  for (let tries = 0; tries < 3; tries++) {
    await channel.push(session, message);
    expect(keys.refused()).toEqual(["TELNYX_API_KEY"]);
    pass(KEY_PAUSE_MS);
  }
  expect(answers).toEqual([]);
  expect(lines).toHaveLength(1);
});
