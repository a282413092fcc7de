/** When the storage could not be reached, as instances note it and operators read it. */
import { expect, onTestFinished, test } from "vitest";
import { StorageError } from "../../lib/errors.ts";
import { listOutages, outageWrite } from "../../lib/outages.ts";
import { createBreaker, OF_AN_INSTANCE, withBreaker } from "../../lib/storage/breaker.ts";
import { createSqliteKeys, createSqliteStorage } from "../../lib/storage/sqlite.ts";
import { createClock, START } from "../support/live.ts";
import { memorySql } from "../support/sql.ts";

const SECOND = 1_000;

/** A storage that can go, and an instance that notes it when it finds it again. */
function instance() {
  const sql = memorySql();
  onTestFinished(() => sql.close());
  const { now, advance } = createClock();
  const storage = createSqliteStorage(createSqliteKeys(sql), now);
  let isDown = false;
  const ping = async () => {
    if (isDown) throw new StorageError("sqlite", "ping", "timeout");
  };
  const noted: Promise<unknown>[] = [];
  const watched = withBreaker({ ...storage, ping }, createBreaker({ now, ...OF_AN_INSTANCE }), {
    refuses: false,
    recovered(downMs, failedAt) {
      noted.push(storage.commit([outageWrite("sqlite", downMs, failedAt, now())]));
    },
  });
  return {
    advance,
    storageIs(state: "down" | "up") {
      isDown = state === "down";
    },
    /** Asks it once a second. */
    async ask(times: number): Promise<void> {
      for (let i = 0; i < times; i++) {
        await watched.ping().catch(() => {});
        await advance(SECOND);
      }
    },
    /** From when to when each lasted, in s since the beginning. */
    async outages(): Promise<number[][]> {
      await Promise.all(noted);
      return (await listOutages(storage)).map(({ startedAt, endedAt }) =>
        [startedAt, endedAt].map((at) => (Date.parse(at) - START) / SECOND),
      );
    },
  };
}

test("an outage lasts from when nobody waited any more until the storage answered", async () => {
  const { ask, storageIs, outages } = instance();
  storageIs("down");
  await ask(60);
  storageIs("up");
  await ask(1);
  expect(await outages()).toEqual([[2, 60]]);
});

test("an outage is not said to have lasted while nobody asked", async () => {
  const { ask, advance, storageIs, outages } = instance();
  storageIs("down");
  await ask(10);
  storageIs("up");
  await advance(8 * 3_600 * SECOND);
  await ask(1);
  expect(await outages()).toEqual([[2, 9]]);
});
