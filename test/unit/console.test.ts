/** What an operator asks of all conversations at once, over a log that a test fills. */
import { expect, onTestFinished, test } from "vitest";
import { listSessions, listWaiting, rates } from "../../lib/console.ts";
import { StorageError } from "../../lib/errors.ts";
import { createLiveClient, type LiveConversations } from "../../lib/live/live-client.ts";
import type { ResultRow } from "../../lib/live/results.ts";
import { createLogger } from "../../lib/log.ts";
import { createSessionStore, parseRegistration, sessionRecord } from "../../lib/session-store.ts";
import { MAX_LOOKED_THROUGH, settledWrite } from "../../lib/settled-results.ts";
import { createSqliteKeys, createSqliteStorage } from "../../lib/storage/sqlite.ts";
import { createClock } from "../support/live.ts";
import { memorySql } from "../support/sql.ts";

const MINUTE = 60_000;

function operator() {
  const sql = memorySql();
  onTestFinished(() => sql.close());
  const clock = createClock();
  const core = {
    storage: createSqliteStorage(createSqliteKeys(sql), clock.now),
    log: createLogger({ now: clock.now, write: () => {} }),
    now: clock.now,
  };
  /** Results of a status that were settled then, and are written to the log now. */
  const log = (
    name: string,
    count: number,
    settledAt = clock.now(),
    status: ResultRow["status"] = "delivered",
  ) =>
    core.storage.commit(
      Array.from({ length: count }, (_, i) =>
        settledWrite("c1", {
          requestId: `${name}-${i}`,
          status,
          delivery: "when_idle",
          receivedAt: settledAt,
          settledAt,
          attempts: [],
        } as unknown as ResultRow),
      ),
    );
  return { clock, core, log };
}

test("the figures begin where what could be looked through begins, however late some of it was written", async () => {
  const { clock, core, log } = operator();
  const settledInOutage = clock.now();
  await clock.advance(30 * MINUTE);
  await log("busy", 1_500);
  await clock.advance(10 * MINUTE);
  await log("later", MAX_LOOKED_THROUGH - 1);
  // It was kept by an object that could not give it sooner.
  await log("kept", 1, settledInOutage);
  const { minutes, isPartial } = await rates(core);
  expect(isPartial).toBe(true);
  // The minute of the busy ones was not looked through, so it must not stand there as quiet.
  expect(Math.min(...minutes.map(({ at }) => Date.parse(at)))).toBeGreaterThan(settledInOutage + 30 * MINUTE);
});

/** The live side where the object of one conversation does not answer, and the others have one result that waits. */
function liveWithout(silent: string) {
  const open = { counts: { waiting: 1 }, results: [{ requestId: "r1" }] };
  return createLiveClient({
    idFromName: (name: string) => name,
    get: (name: string) => ({
      open: async () => {
        if (name === silent) throw new Error("the object is out of order");
        return { value: open };
      },
    }),
  } as unknown as LiveConversations);
}

test("a conversation whose object does not answer is never one in which nothing waits", async () => {
  const { clock, core } = operator();
  const { now } = clock;
  const sessions = createSessionStore(core.storage, core.log);
  for (const conversationId of ["talks", "silent"]) {
    const registration = parseRegistration({ sessionUrl: "wss://agent.example/live" });
    await sessions.set(sessionRecord(conversationId, registration, "registration", now()));
    await core.storage.commit([
      { type: "index", key: "elevenlabs:conversations", member: conversationId, score: now() },
    ]);
  }
  const asking = { ...core, live: liveWithout("silent"), sessions, channels: [] };
  const waiting = await listWaiting(10, undefined, asking);
  expect(waiting.conversations.map(({ conversationId }) => conversationId)).toEqual(["talks"]);
  expect(waiting.unanswered).toBe(1);
  const live = await listSessions(10, undefined, asking);
  expect(live.sessions.map(({ session, counts }) => [session.conversationId, counts])).toEqual([
    ["talks", { waiting: 1 }],
    ["silent", null],
  ]);
});

test("what is to be said again is asked for once, also where the answer is lost", async () => {
  const asked: (number[] | undefined)[] = [];
  const live = createLiveClient({
    idFromName: (name: string) => name,
    get: () => ({
      again: async (_ids: string[], _onlyFailed: boolean, settledAt?: number[]) => {
        asked.push(settledAt);
        throw new Error("the object did it, and broke");
      },
    }),
  } as unknown as LiveConversations);
  await expect(live.again("c1", ["r1"], false)).rejects.toThrow(StorageError);
  expect(asked).toEqual([undefined]);
  // Who knows when it was settled may ask twice: it is settled otherwise by then.
  await expect(live.again("c1", ["r1"], true, [1])).rejects.toThrow(StorageError);
  expect(asked).toEqual([undefined, [1], [1]]);
});
