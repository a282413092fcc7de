/** The line `result.settled`: one of each result, however it was settled, so that lines can be counted. */
import * as fc from "fast-check";
import { describe, expect, onTestFinished, test } from "vitest";
import type { PushOutcome } from "../../lib/push/channel.ts";
import { type TestConversation, testConversation } from "../support/live.ts";
import { memorySql } from "../support/sql.ts";

const MINUTE = 60_000;

function conversation(...outcomes: PushOutcome["outcome"][]): TestConversation {
  const made = testConversation({ onPush: () => ({ outcome: outcomes.shift() ?? "delivered" }) });
  onTestFinished(() => made.close());
  return made;
}

const settledIn = ({ lines }: TestConversation) => lines.filter(({ event }) => event === "result.settled");
const correctedIn = ({ lines }: TestConversation) =>
  lines.filter(({ event }) => event === "result.corrected");

const REPLY = { toolName: "search" };

/** Each way to settle the result r1, and what its line says. */
const WAYS: [string, Record<string, unknown>, () => Promise<TestConversation>][] = [
  [
    "delivered by a push",
    {
      status: "delivered",
      channel: "socket",
      attempts: 1,
      ms: 0,
      delivery: "when_idle",
      requestId: "http-request",
    },
    async () => {
      const c = conversation();
      await c.register();
      await c.callback("r1");
      return c;
    },
  ],
  [
    "delivered when the user is back",
    { status: "delivered", channel: "socket", attempts: 1, ms: MINUTE },
    async () => {
      const c = conversation();
      await c.callback("r1");
      await c.clock.advance(MINUTE);
      await c.register();
      return c;
    },
  ],
  [
    "acknowledged late",
    { status: "delivered", channel: "socket", attempts: 1, ms: MINUTE, acknowledged: true },
    async () => {
      const c = conversation("unconfirmed");
      await c.register();
      await c.callback("r1");
      await c.clock.advance(MINUTE);
      c.delivery.acknowledge(["r1"]);
      c.delivery.acknowledge(["r1"]);
      return c;
    },
  ],
  [
    "given to the tool call that waits",
    { status: "delivered", channel: "reply", attempts: 1 },
    async () => {
      const c = conversation();
      c.replies.expect("r1", 5_000);
      const taken = c.replies.take("r1", 5_000);
      const answered = c.callback("r1", REPLY);
      await taken;
      c.replies.end("r1", true);
      await answered;
      return c;
    },
  ],
  [
    "expired while it waited",
    { status: "expired", channel: null, attempts: 0, ms: MINUTE },
    async () => {
      const c = conversation();
      await c.callback("r1", { deliverBy: new Date(c.clock.now() + MINUTE).toISOString() });
      await c.clock.advance(MINUTE);
      await c.alarm();
      return c;
    },
  ],
  [
    "expired when it came",
    { status: "expired", ms: 0, requestId: "http-request" },
    async () => {
      const c = conversation();
      await c.callback("r1", { deliverBy: new Date(c.clock.now() - 1).toISOString() });
      return c;
    },
  ],
  [
    "superseded",
    { status: "superseded", channel: null },
    async () => {
      const c = conversation();
      await c.callback("r1", { topic: "weather" });
      await c.callback("r2", { topic: "weather" });
      return c;
    },
  ],
  [
    "dropped because too many wait",
    { status: "dropped" },
    async () => {
      const c = conversation();
      for (let i = 1; i <= 201; i++) await c.callback(`r${i}`);
      return c;
    },
  ],
  [
    "cancelled while it waits",
    { status: "cancelled" },
    async () => {
      const c = conversation();
      await c.callback("r1");
      c.delivery.cancel("r1");
      c.delivery.cancel("r1");
      return c;
    },
  ],
  [
    "given up",
    { status: "unconfirmed", channel: "socket", attempts: 2 },
    async () => {
      const c = conversation("unconfirmed", "unconfirmed");
      await c.register({ sessionUrl: "wss://agent.example/first" });
      await c.callback("r1");
      await c.register({ sessionUrl: "wss://agent.example/second" });
      return c;
    },
  ],
  [
    "given up because the object died twice while it was said",
    { status: "unconfirmed", attempts: 2 },
    async () => {
      const c = testConversation({ onPush: () => new Promise(() => {}) });
      onTestFinished(() => c.close());
      for (const name of ["first", "second"]) {
        await c.register({ sessionUrl: `wss://agent.example/${name}` }, false);
        void c.callback("r1");
        await c.clock.settle();
        c.restart();
      }
      return c;
    },
  ],
  [
    "waiting when its conversation is deleted",
    { status: "dropped", reason: "conversation_deleted" },
    async () => {
      const c = conversation();
      await c.callback("r1");
      await c.forget();
      await c.forget();
      return c;
    },
  ],
];

describe("a result that is", () => {
  test.each(WAYS)("%s has one line", async (_, fields, settle) => {
    const c = await settle();
    const ours = settledIn(c).filter(({ callbackRequestId }) => callbackRequestId === "r1");
    expect(ours).toEqual([expect.objectContaining({ level: "info", callbackRequestId: "r1", ...fields })]);
    expect(correctedIn(c)).toEqual([]);
  });

  test("waiting has none", async () => {
    const c = conversation("refused", "unconfirmed");
    await c.callback("r1");
    await c.register();
    expect(settledIn(c)).toEqual([]);
  });

  test("given up and acknowledged after all has a line of its own, and is not counted twice", async () => {
    const c = conversation("unconfirmed", "unconfirmed");
    await c.register({ sessionUrl: "wss://agent.example/first" });
    await c.callback("r1");
    await c.register({ sessionUrl: "wss://agent.example/second" });
    c.delivery.acknowledge(["r1"]);
    expect(settledIn(c)).toMatchObject([{ status: "unconfirmed" }]);
    expect(correctedIn(c)).toMatchObject([
      { callbackRequestId: "r1", status: "delivered", acknowledged: true },
    ]);
  });
});

test("whatever happens, and in which order, each settled result has one line, and the others none", async () => {
  const anId = fc.constantFrom("a", "b", "c");
  const anAct = fc.oneof(
    fc.record({ act: fc.constant("callback" as const), id: anId }),
    fc.record({ act: fc.constant("acknowledge" as const), id: anId }),
    fc.record({ act: fc.constant("cancel" as const), id: anId }),
    fc.record({ act: fc.constant("register" as const), id: fc.constantFrom("first", "second", "third") }),
    fc.record({ act: fc.constant("restart" as const) }),
    fc.record({ act: fc.constant("hour" as const) }),
    fc.record({ act: fc.constant("disprove" as const), id: anId }),
  );
  const outcome = fc.constantFrom("delivered", "unreachable", "refused", "unconfirmed", "unconfirmed");
  await fc.assert(
    fc.asyncProperty(
      fc.array(anAct, { maxLength: 14 }),
      fc.array(outcome as fc.Arbitrary<PushOutcome["outcome"]>, { maxLength: 8 }),
      async (acts, outcomes) => {
        const left = [...outcomes];
        const c = testConversation({ onPush: () => ({ outcome: left.shift() ?? "unconfirmed" }) });
        for (const given of acts) {
          if (given.act === "callback") void c.callback(given.id, { deliverBy: "2026-01-01T05:00:00Z" });
          else if (given.act === "acknowledge") c.delivery.acknowledge([given.id]);
          else if (given.act === "cancel") c.delivery.cancel(given.id);
          else if (given.act === "register")
            await c.register({ sessionUrl: `wss://agent.example/${given.id}` }, false);
          else if (given.act === "restart") c.restart();
          else if (given.act === "disprove")
            c.results.disprove(({ requestId }) => requestId === given.id, "unreachable");
          else await c.live(60 * MINUTE);
          await c.clock.advance(2_000);
        }
        for (const id of ["a", "b", "c"]) {
          const of = (lines: TestConversation["lines"]) =>
            lines.filter(({ callbackRequestId }) => callbackRequestId === id);
          const row = c.results.get(id);
          const [counted, corrected] = [of(settledIn(c)), of(correctedIn(c))];
          if (row === null) expect(counted).toEqual([]);
          else if (row.settledAt !== null) {
            expect(counted).toHaveLength(1);
            expect([...counted, ...corrected].at(-1)).toMatchObject({ status: row.status });
          } else expect(counted).toHaveLength(Math.min(row.givenUp, 1));
        }
        c.close();
      },
    ),
    { numRuns: 300 },
  );
}, 120_000);

test("a table that an earlier version made is given what it lacks", async () => {
  const { createResults } = await import("../../lib/live/results.ts");
  const sql = memorySql();
  onTestFinished(() => sql.close());
  const made = createResults({ sql, ttlSeconds: null });
  const result = { requestId: "r1", success: true, output: "done", delivery: "when_idle" } as never;
  made.insert(result, "{}", 1);
  sql.script(`
    ALTER TABLE results DROP COLUMN given_up;
    ALTER TABLE results ADD COLUMN unfinished INTEGER NOT NULL DEFAULT 1;
    CREATE INDEX results_unsettled ON results (seq) WHERE settled_at IS NULL;
    CREATE INDEX results_unfinished ON results (seq) WHERE unfinished = 1;
    CREATE INDEX results_settled ON results (settled_at) WHERE settled_at IS NOT NULL;`);
  const results = createResults({ sql, ttlSeconds: null });
  expect(results.get("r1")).toMatchObject({ status: "waiting", givenUp: 0 });
  expect(results.unexamined()).toMatchObject([{ requestId: "r1" }]);
  // The entries of an index are billed as rows.
  const indexes = "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL";
  expect(sql.rows(indexes)).toEqual([]);
});
