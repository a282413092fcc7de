/** The state machine of results, held against a model of it that is written down as a table. */
import * as fc from "fast-check";
import { describe, expect, onTestFinished, test } from "vitest";
import type { AgentConversation } from "../../lib/live/agent-conversation.ts";
import {
  createResults,
  FORGOTTEN_TOGETHER_MS,
  MAX_WAITING,
  type ResultStatus,
  SETTLED_MS,
} from "../../lib/live/results.ts";
import type { SqlValue } from "../../lib/sql.ts";
import { memorySql } from "../support/sql.ts";

const TTL_SECONDS = 3600;
const START = Date.parse("2026-01-01T00:00:00Z");

/** What the design says of a result, kept in the simplest way. */
type Model = {
  status: ResultStatus;
  text: string;
  topic: string | undefined;
  deliverBy: number | undefined;
  tellings: number;
  /** The agent conversation in which it may have been heard. */
  toldTo: string | null;
  /** The one in which it is being said. */
  sayingTo: string | null;
  receivedAt: number;
  waitsSince: number;
  again: number;
  settledAt: number | null;
};

type World = { now: number; models: Map<string, Model>; isLive: string };

const isOpen = ({ status, settledAt }: Model) =>
  settledAt === null && (status === "waiting" || status === "unconfirmed");

const conversationOf = (name: string): AgentConversation => ({
  agentSessionId: name,
  urlDigest: null,
  registrationId: `registration of ${name}`,
});

function settle(model: Model, status: ResultStatus, now: number): void {
  Object.assign(model, { status, settledAt: now, sayingTo: null });
}

/** Few ids and few conversations, so that everything meets everything. */
const anId = fc.constantFrom("a", "b", "c", "d");
const aConversation = fc.constantFrom("first", "second", "third");

const anAct = fc.oneof(
  fc.record({
    act: fc.constant("insert" as const),
    id: anId,
    text: fc.constantFrom("one", "two"),
    topic: fc.option(fc.constantFrom("x", "y"), { nil: undefined }),
    deliverInMs: fc.option(fc.integer({ min: -10, max: 5_000 }), { nil: undefined }),
  }),
  fc.record({ act: fc.constant("say" as const), to: aConversation }),
  fc.record({
    act: fc.constant("conclude" as const),
    outcome: fc.constantFrom(
      "delivered" as const,
      "unreachable" as const,
      "refused" as const,
      "ended" as const,
      "unconfirmed" as const,
    ),
  }),
  fc.record({ act: fc.constant("acknowledge" as const), id: anId }),
  fc.record({ act: fc.constant("again" as const), id: anId, onlyFailed: fc.boolean() }),
  fc.record({ act: fc.constant("restart" as const) }),
  fc.record({
    act: fc.constant("pass" as const),
    ms: fc.constantFrom(1, 1_000, 100_000, SETTLED_MS, FORGOTTEN_TOGETHER_MS),
  }),
  fc.record({ act: fc.constant("wipe" as const) }),
);

test("goes through ten thousand random histories as the model does", () => {
  fc.assert(
    fc.property(fc.array(anAct, { minLength: 5, maxLength: 40 }), (acts) => {
      const sql = memorySql();
      try {
        let results = createResults({ sql, ttlSeconds: TTL_SECONDS });
        const world: World = { now: START, models: new Map(), isLive: "first" };
        /** How often each result may have been heard in each agent conversation. */
        const heard = new Map<string, number>();
        const { models } = world;

        for (const step of acts) {
          switch (step.act) {
            case "insert": {
              const { id, text, topic, deliverInMs } = step;
              const deliverBy = deliverInMs === undefined ? undefined : world.now + deliverInMs;
              const insertion = results.insert(
                {
                  requestId: id,
                  success: true,
                  delivery: "when_idle",
                  topic,
                  deliverBy: deliverBy === undefined ? undefined : new Date(deliverBy).toISOString(),
                },
                text,
                world.now,
              );
              const known = models.get(id);
              if (known !== undefined) {
                expect(insertion.kind).toBe(known.text !== "" && known.text !== text ? "reused" : "known");
                break;
              }
              const isLate = deliverBy !== undefined && deliverBy <= world.now;
              for (const other of models.values()) {
                if (!isLate && topic !== undefined && other.topic === topic && isOpen(other)) {
                  settle(other, "superseded", world.now);
                }
              }
              models.set(id, {
                status: isLate ? "expired" : "waiting",
                text,
                topic,
                deliverBy,
                tellings: 0,
                toldTo: null,
                sayingTo: null,
                receivedAt: world.now,
                waitsSince: world.now,
                again: 0,
                settledAt: isLate ? world.now : null,
              });
              expect(insertion.kind).toBe("new");
              break;
            }
            case "say": {
              const ids = [...models.keys()];
              const due = results.due(conversationOf(step.to), world.now).map(({ requestId }) => requestId);
              const sayable = ids.filter((id) => {
                const model = models.get(id);
                return model !== undefined && isOpen(model) && model.toldTo !== step.to;
              });
              // What is due is never more than may be said; a pause may hold it back.
              expect(sayable).toEqual(expect.arrayContaining(due));
              const said = results.say(due, "socket", conversationOf(step.to), world.now);
              expect(said).toEqual(due);
              for (const id of said)
                Object.assign(models.get(id) ?? {}, { status: "saying", sayingTo: step.to });
              // Nobody can say what is being said.
              expect(results.say(said, "relay", conversationOf("third"), world.now)).toEqual([]);
              break;
            }
            case "conclude": {
              const saying = [...models].filter(([, { status }]) => status === "saying");
              results.conclude([...models.keys()], { outcome: step.outcome }, world.now);
              for (const [id, model] of saying) {
                if (step.outcome === "delivered" || step.outcome === "unconfirmed") hear(heard, id, model);
                if (step.outcome === "delivered") settle(model, "delivered", world.now);
                else if (step.outcome === "unconfirmed") leaveUnconfirmed(model, world.now);
                else
                  Object.assign(model, {
                    status: model.tellings > 0 ? "unconfirmed" : "waiting",
                    sayingTo: null,
                  });
              }
              break;
            }
            case "acknowledge": {
              const model = models.get(step.id);
              const settles =
                model !== undefined && ["waiting", "saying", "unconfirmed"].includes(model.status);
              expect(results.acknowledge([step.id], world.now)).toEqual(settles ? [step.id] : []);
              if (model !== undefined && settles) settle(model, "delivered", world.now);
              break;
            }
            case "again": {
              const model = models.get(step.id);
              const isWanted =
                model !== undefined &&
                model.text !== "" &&
                model.status !== "saying" &&
                (!step.onlyFailed || ["unconfirmed", "expired", "dropped"].includes(model.status));
              expect(results.again([step.id], step.onlyFailed, world.now)).toEqual(isWanted ? [step.id] : []);
              if (model === undefined || !isWanted) break;
              Object.assign(model, {
                tellings: model.status === "delivered" || model.tellings > 0 ? 1 : 0,
                status: "waiting",
                toldTo: null,
                deliverBy: undefined,
                settledAt: null,
                waitsSince: world.now,
                again: model.again + 1,
              });
              break;
            }
            case "restart": {
              results = createResults({ sql, ttlSeconds: TTL_SECONDS });
              results.recover(world.now);
              for (const [id, model] of models) {
                if (model.status !== "saying") continue;
                hear(heard, id, model);
                leaveUnconfirmed(model, world.now);
              }
              break;
            }
            case "pass": {
              world.now += step.ms;
              const late = [...models].filter(
                ([, model]) =>
                  isOpen(model) &&
                  ((model.deliverBy ?? Number.POSITIVE_INFINITY) <= world.now ||
                    model.waitsSince + TTL_SECONDS * 1000 <= world.now),
              );
              expect(results.expire(world.now).toSorted()).toEqual(late.map(([id]) => id).toSorted());
              for (const [, model] of late) settle(model, "expired", world.now);
              const isOver = ({ settledAt }: Model, ms: number) =>
                settledAt !== null && settledAt <= world.now - ms;
              if ([...models.values()].some((model) => isOver(model, SETTLED_MS + FORGOTTEN_TOGETHER_MS)))
                for (const [id, model] of models) if (isOver(model, SETTLED_MS)) models.delete(id);
              break;
            }
            case "wipe": {
              results.wipe(world.now);
              for (const model of models.values()) {
                if (model.settledAt === null) settle(model, "dropped", world.now);
                model.text = "";
                model.topic = undefined;
              }
            }
          }
          const rows = results.list({ limit: 100 });
          // Said so plainly because `expect` would take most of the time.
          const differs =
            rows.length !== models.size || rows.some((row) => !isAs(models.get(row.requestId), row));
          if (differs) expect(rows).toEqual([...models]);
        }
        for (const [telling, times] of heard) expect({ telling, times }).toEqual({ telling, times: 1 });
      } finally {
        sql.close();
      }
    }),
    { numRuns: 10_000 },
  );
}, 120_000);

test("remembers of its table what stands in it, whatever happens", () => {
  const texts = ["{}", JSON.stringify({ output: "x".repeat(5_000) })];
  const step = fc.record({
    act: fc.constantFrom(
      ...(["insert", "say", "conclude", "acknowledge", "excuse", "disprove", "identify"] as const),
      ...(["markInHistory", "markLogged", "again", "cancel", "pass", "wipe", "recover"] as const),
    ),
    ids: fc.uniqueArray(fc.constantFrom("r1", "r2", "r3", "r4"), { minLength: 1 }),
    text: fc.constantFrom(...texts),
    topic: fc.constantFrom(undefined, "weather"),
    isWritten: fc.boolean(),
    outcome: fc.constantFrom(
      "delivered" as const,
      "unconfirmed" as const,
      "refused" as const,
      "ended" as const,
    ),
  });
  fc.assert(
    fc.property(fc.array(step, { minLength: 5, maxLength: 30 }), (steps) => {
      const sql = memorySql();
      try {
        const results = createResults({ sql, ttlSeconds: TTL_SECONDS });
        let now = START;
        for (const { act, ids, text, topic, outcome, isWritten } of steps) {
          now += 1_000;
          const to = {
            ...conversationOf((now / 1_000) % 2 === 0 ? "first" : "second"),
            agentSessionId: null,
          };
          if (act === "insert") {
            for (const requestId of ids)
              results.insert({ requestId, success: true, delivery: "when_idle", topic }, text, now);
          } else if (act === "say") results.say(ids, "relay", to, now);
          else if (act === "conclude") results.conclude(ids, { outcome }, now);
          else if (act === "acknowledge") results.acknowledge(ids, now);
          else if (act === "excuse") results.excuse(ids, "push_failed", { retryAt: now + 5_000 });
          else if (act === "disprove")
            results.disprove(({ requestId }) => ids.some((id) => id === requestId), "unreachable");
          else if (act === "identify") results.identify({ ...to, agentSessionId: "conv_1" });
          else if (act === "markInHistory") results.markInHistory(ids);
          else if (act === "markLogged") results.markLogged(results.notLogged(ids.length));
          else if (act === "again") results.again(ids, outcome === "delivered", now);
          else if (act === "cancel") results.cancel(ids[0] ?? "", now);
          else if (act === "recover") results.recover(now);
          else if (act === "wipe") results.wipe(now);
          else {
            now += SETTLED_MS + FORGOTTEN_TOGETHER_MS - 3_000;
            results.expire(now);
          }
          const seen = ({ ...table }: typeof results) => ({
            due: [table.nextDue(true), table.nextDue(false)],
            waits: [table.hasOpen(), table.isEmpty()],
            rows: ["r1", "r2", "r3", "r4"].map((id) => table.get(id)),
            unexamined: table.unexamined(),
            notInHistory: table.notInHistory(-1),
            notLogged: [table.lacksLog(), table.notLogged(10).map(({ requestId }) => requestId)],
            open: table.open(2),
          });
          const known = seen(results);
          if (isWritten) {
            results.writeMarks();
            expect(seen(results)).toEqual(known);
          }
          const { notInHistory, ...standing } = seen(createResults({ sql, ttlSeconds: TTL_SECONDS }));
          expect(known).toMatchObject(standing);
          // What was not written yet is given again.
          if (isWritten) expect(known.notInHistory).toEqual(notInHistory);
          else expect(notInHistory).toEqual(expect.arrayContaining(known.notInHistory));
        }
      } finally {
        sql.close();
      }
    }),
    { numRuns: 500 },
  );
}, 60_000);

/**
 * Notes that a result may have been heard; one that was forgotten and came again is another, and so is one that was to
 * be said again.
 */
function hear(heard: Map<string, number>, id: string, model: Model): void {
  const telling = `${id} of ${model.receivedAt}, ${model.again}, in ${model.sayingTo}`;
  heard.set(telling, (heard.get(telling) ?? 0) + 1);
}

function leaveUnconfirmed(model: Model, now: number): void {
  model.status = "unconfirmed";
  model.tellings += 1;
  model.toldTo = model.sayingTo;
  model.sayingTo = null;
  if (model.tellings === 2) model.settledAt = now;
}

function isAs(
  model: Model | undefined,
  { status, tellings, settledAt }: { status: ResultStatus; tellings: number; settledAt: number | null },
): boolean {
  return model?.status === status && model.tellings === tellings && model.settledAt === settledAt;
}

/** A table of its own. */
function table() {
  const sql = memorySql();
  onTestFinished(() => sql.close());
  return createResults({ sql, ttlSeconds: TTL_SECONDS });
}

const result = (requestId: string, fields: object = {}) =>
  ({ requestId, success: true, delivery: "when_idle", ...fields }) as const;

test("a delivery writes its row four times, from its arrival to the log", () => {
  const sql = memorySql();
  onTestFinished(() => sql.close());
  const written: string[] = [];
  const run = (statement: string, ...bindings: SqlValue[]) => {
    written.push(statement);
    return sql.run(statement, ...bindings);
  };
  const results = createResults({ sql: { ...sql, run }, ttlSeconds: TTL_SECONDS });
  results.insert(result("r1"), "{}", START);
  results.markInHistory(["r1"]);
  results.say(["r1"], "socket", conversationOf("first"), START);
  results.conclude(["r1"], { outcome: "delivered" }, START);
  results.markLogged(results.notLogged(10));
  results.writeMarks();
  expect(written).toHaveLength(4);
  // An entry of an index would be another row, and is billed as one.
  const indexes = "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL";
  expect(sql.rows(indexes)).toEqual([]);
});

test("of two lives of an object over one table, one takes each step", () => {
  const sql = memorySql();
  onTestFinished(() => sql.close());
  const to = conversationOf("first");
  const dead = createResults({ sql, ttlSeconds: TTL_SECONDS });
  dead.insert(result("r1"), "{}", START);
  dead.insert(result("r2"), "{}", START);
  const results = createResults({ sql, ttlSeconds: TTL_SECONDS });
  expect(results.say(["r1"], "relay", to, START)).toEqual(["r1"]);
  // It remembers that both wait.
  expect(dead.say(["r1"], "relay", to, START)).toEqual([]);
  expect(results.expire(START + TTL_SECONDS * 1000)).toEqual(["r2"]);
  expect(dead.expire(START + TTL_SECONDS * 1000)).toEqual([]);
  expect(results.conclude(["r1"], { outcome: "delivered" }, START)).toEqual(["r1"]);
  expect(dead.conclude(["r1"], { outcome: "unconfirmed" }, START)).toEqual([]);
  expect(results.get("r1")).toMatchObject({ status: "delivered", tellings: 0 });
});

describe("what is due next", () => {
  test("nothing where there is nothing, and no table is made by looking", () => {
    const results = table();
    expect(results.nextDue(true)).toBeNull();
    expect(results.exist()).toBe(false);
  });

  test("a retry only while somebody is live, an expiry in any case, then the forgetting", () => {
    const results = table();
    const to = conversationOf("first");
    results.insert(result("r1"), "text", START);
    results.say(["r1"], "socket", to, START);
    results.conclude(["r1"], { outcome: "refused", closeCode: 1008 }, START);
    expect(results.nextDue(true)).toBe(START + 60_000);
    expect(results.nextDue(false)).toBe(START + TTL_SECONDS * 1000);
    results.acknowledge(["r1"], START + 5);
    expect(results.nextDue(true)).toBe(START + 5 + SETTLED_MS + FORGOTTEN_TOGETHER_MS);
  });

  test("a result that this session did not take is not due there until its retry, or until another comes", () => {
    const results = table();
    const to = conversationOf("first");
    results.insert(result("r1"), "text", START);
    results.say(["r1"], "socket", to, START);
    results.conclude(["r1"], { outcome: "refused" }, START);
    expect(results.due(to, START + 59_999)).toEqual([]);
    expect(results.due(to, START + 60_000)).toHaveLength(1);
    expect(results.due(conversationOf("second"), START)).toHaveLength(1);
    results.insert(result("r2"), "text", START);
    expect(results.due(to, START).map(({ requestId }) => requestId)).toEqual(["r1", "r2"]);
  });

  test("of more than two hundred that wait, the oldest are dropped", () => {
    const results = table();
    for (let i = 0; i <= MAX_WAITING; i++) results.insert(result(`r${i}`), "text", START);
    expect(results.list({ status: "dropped", limit: 10 }).map(({ requestId }) => requestId)).toEqual(["r0"]);
    expect(results.list({ status: "waiting", limit: 1_000 })).toHaveLength(MAX_WAITING);
  });
});

describe("what is to be said again", () => {
  test("waits as long as a new one does, and forgets by when it was to be said", () => {
    const results = table();
    results.insert(result("late", { deliverBy: new Date(START).toISOString() }), "text", START);
    results.insert(result("old"), "text", START);
    const over = START + TTL_SECONDS * 1000;
    expect(results.expire(over)).toEqual(["old"]);
    expect(results.again(["late", "old", "never"], true, over)).toEqual(["late", "old"]);
    expect(results.expire(over + TTL_SECONDS * 1000 - 1)).toEqual([]);
    expect(results.nextDue(false)).toBe(over + 30_000);
    expect(results.expire(over + TTL_SECONDS * 1000)).toEqual(["late", "old"]);
  });

  test("is due at once where it was told before, and marked as perhaps heard", () => {
    const results = table();
    const to = conversationOf("first");
    results.insert(result("r1"), "text", START);
    results.say(["r1"], "socket", to, START);
    results.conclude(["r1"], { outcome: "delivered" }, START);
    expect(results.again(["r1"], true, START)).toEqual([]);
    expect(results.again(["r1"], false, START)).toEqual(["r1"]);
    expect(results.due(to, START)).toMatchObject([{ requestId: "r1", tellings: 1, again: 1 }]);
    expect(results.get("r1")?.attempts).toHaveLength(1);
  });

  test("is no more than may wait", () => {
    const results = table();
    for (let i = 0; i < MAX_WAITING + 3; i++) results.insert(result(`r${i}`), "text", START);
    expect(results.again(["r0", "r1", "r2"], true, START)).toEqual([]);
    results.acknowledge(["r10"], START);
    expect(results.again(["r0", "r1", "r2"], true, START)).toEqual(["r0"]);
  });
});

describe("what the log lacks", () => {
  test("is what was settled, and again what was settled anew; never what is still open", () => {
    const results = table();
    const insert = (requestId: string) => results.insert(result(requestId), "text", START);
    const lacking = () => results.notLogged(10).map(({ requestId, status }) => `${requestId} ${status}`);
    for (const requestId of ["a", "b", "c"]) insert(requestId);
    expect(results.lacksLog()).toBe(false);
    results.acknowledge(["a"], START + 1);
    results.cancel("b", START + 1);
    expect(lacking()).toEqual(["a delivered", "b cancelled"]);
    const read = results.notLogged(1);
    results.again(["a"], false, START + 2);
    results.acknowledge(["a"], START + 3);
    // What was read is not what stands there by now.
    results.markLogged(read);
    expect(lacking()).toEqual(["a delivered", "b cancelled"]);
    results.markLogged(results.notLogged(10));
    expect(results.lacksLog()).toBe(false);
    results.wipe(START + 4);
    expect(lacking()).toEqual(["c dropped"]);
  });
});
