/**
 * An outage that nobody notices: the built Worker over a real Redis that is killed, frozen, restarted, or
 * answers badly, while users go on. OUTAGE_OPERATIONS sets how many things are done across each fault; the
 * default keeps `npm test` quick, and `npm run test:outage` does 2,000.
 */
import { afterAll, describe, type ExpectStatic, test } from "vitest";
import { type Fault, startFaultyGateway } from "../support/faulty-gateway.ts";
import { seededRandom, startUsers } from "../support/outage.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { bindingsOver, startWorker, type TestWorker } from "../support/worker.ts";

const OPERATIONS = Number(process.env.OUTAGE_OPERATIONS ?? 120);
const USERS = 20;
/** The fault begins after this share of the operations, and ends after that one. */
const [BEGIN, END] = [0.25, 0.75];

const redis = await startRedis({ covers: "outages of a real Redis" });
await redis?.stop();

type Trouble = {
  name: string;
  keepData?: boolean;
  /** What Redis had is gone for good when the fault is over. */
  losesData?: boolean;
} & (
  | { begin: (redis: RedisServer) => Promise<void> | void; end: (redis: RedisServer) => Promise<void> | void }
  | { fault: Fault }
);

const TROUBLES: Trouble[] = [
  {
    name: "killed, back with its data",
    keepData: true,
    begin: (redis) => redis.kill(),
    end: (redis) => redis.restart(),
  },
  {
    name: "killed, back empty",
    losesData: true,
    begin: (redis) => redis.kill(),
    end: (redis) => redis.restart(),
  },
  { name: "frozen", begin: (redis) => redis.freeze(), end: (redis) => redis.thaw() },
  { name: "slow", fault: { kind: "slow", ms: 2_000 } },
  { name: "429", fault: { kind: "status", status: 429 } },
  { name: "500", fault: { kind: "status", status: 500 } },
  { name: "503", fault: { kind: "status", status: 503 } },
  { name: "truncated JSON", fault: { kind: "truncated" } },
  { name: "wrong JSON", fault: { kind: "wrong-json" } },
  { name: "connection reset", fault: { kind: "reset-before" } },
  { name: "answer lost", fault: { kind: "reset-after" } },
  { name: "no answer", fault: { kind: "silent" } },
];

describe.skipIf(redis === null)("an outage", () => {
  const table: Record<string, string | number>[] = [];
  afterAll(() => console.table(table));

  test.concurrent.for(TROUBLES)(
    "$name: nothing acknowledged is lost, nothing is pushed twice, nobody waits long",
    { timeout: 120_000 },
    async (trouble, { expect }) => {
      const server = await startRedis({ covers: "outages", keepData: trouble.keepData ?? false });
      if (server === null) throw new Error("redis-server was there a moment ago");
      const gateway = await startFaultyGateway({ redisUrl: server.url, token: "gateway-token" });
      const worker = await startWorker(bindingsOver(gateway));
      const users = await startUsers(worker, USERS, seededRandom(trouble.name.length));
      try {
        await users.act(OPERATIONS, [
          {
            share: BEGIN,
            // So that it is known what was acknowledged before, and is gone.
            inSilence: trouble.losesData ?? false,
            async happen() {
              await ("fault" in trouble ? gateway.fail(trouble.fault) : trouble.begin(server));
              if (trouble.losesData) users.forget();
            },
          },
          { share: END, happen: () => ("fault" in trouble ? gateway.heal() : trouble.end(server)) },
        ]);
        await recovered(worker, expect);
        const report = await users.report();
        const { operations, acknowledged, lost, duplicated, undelivered, unexpected, slowestMs } = report;
        table.push({
          fault: trouble.name,
          operations,
          acknowledged,
          lost: lost.length + undelivered.length,
          duplicated: duplicated.length,
          "slowest ms": Math.round(slowestMs),
        });
        expect({ lost, duplicated, undelivered, unexpected }).toEqual({
          lost: [],
          duplicated: [],
          undelivered: [],
          unexpected: [],
        });
        expect(acknowledged).toBeGreaterThan(OPERATIONS / 2);
        expect(slowestMs).toBeLessThan(5_000);
        const events = worker.logs().map(({ event }) => event);
        expect(events.filter((event) => event === "storage.degraded")).toHaveLength(1);
        expect(events.filter((event) => event === "storage.recovered")).toHaveLength(1);
      } finally {
        await users.close();
        await worker.close();
        await gateway.close();
        await server.stop();
      }
    },
  );
});

/** Resolves when the Worker says that it is itself again. */
async function recovered(worker: TestWorker, expect: ExpectStatic): Promise<void> {
  const status = async () => ((await (await worker.fetch("/health")).json()) as { status: string }).status;
  await expect.poll(status, { timeout: 60_000, interval: 100 }).toBe("ok");
}
