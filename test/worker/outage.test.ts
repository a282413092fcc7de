/**
 * An outage that nobody notices: two instances of the built Worker and their objects, each with a way of its own
 * to a real Redis that is killed, frozen, restarted, or answers badly, now to the one and now to the other, while
 * users go on with whichever instance takes their request. OUTAGE_OPERATIONS sets how many things are done across
 * each fault; the default keeps `npm test` quick, and `npm run test:outage` does 2,000.
 */
import { afterAll, describe, type ExpectStatic, test } from "vitest";
import type { Fault } from "../support/faulty-gateway.ts";
import { type Instances, startInstances } from "../support/instances.ts";
import { type Moment, startUsers, type Users } from "../support/outage.ts";
import { seededRandom } from "../support/random.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";

const OPERATIONS = Number(process.env.OUTAGE_OPERATIONS ?? 120);
const USERS = 20;
/** The fault begins after this share of the operations, and ends after that one. */
const [BEGIN, END] = [0.25, 0.75];
/** How often it is decided anew, meanwhile, who of the three has the fault. */
const TURNS = 8;

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
      const instances = await startInstances(server.url);
      const random = seededRandom(trouble.name.length);
      const anyInstance = () => (random() < 0.5 ? instances.a : instances.b);
      const users = await startUsers((path, init) => anyInstance().fetch(path, init), USERS, random);
      try {
        await users.act(OPERATIONS, momentsOf(trouble, server, instances, users, random));
        await recovered(instances, expect);
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
      } finally {
        await users.close();
        await instances.close();
        await server.stop();
      }
    },
  );
});

/** When the trouble begins, where it goes, and when it ends. */
function momentsOf(
  trouble: Trouble,
  server: RedisServer,
  { a, b, objects, heal }: Instances,
  users: Users,
  random: () => number,
): Moment[] {
  if (!("fault" in trouble)) {
    return [
      {
        share: BEGIN,
        // So that it is known what was acknowledged before, and is gone.
        inSilence: trouble.losesData ?? false,
        async happen() {
          await trouble.begin(server);
          if (trouble.losesData) users.forget();
        },
      },
      { share: END, happen: () => trouble.end(server) },
    ];
  }
  const gateways = [a.gateway, b.gateway, objects];
  const flap = (turn: number) => {
    // All three at first, then whomever chance picks.
    for (const gateway of gateways) {
      if (turn === 0 || random() < 0.5) gateway.fail(trouble.fault);
      else gateway.heal();
    }
  };
  return [
    ...Array.from({ length: TURNS }, (_, turn) => ({
      share: BEGIN + ((END - BEGIN) * turn) / TURNS,
      happen: () => flap(turn),
    })),
    { share: END, happen: heal },
  ];
}

/** Resolves when both instances say that they are themselves again. */
async function recovered({ a, b }: Instances, expect: ExpectStatic): Promise<void> {
  for (const { fetch } of [a, b]) {
    const status = async () => ((await (await fetch("/health")).json()) as { status: string }).status;
    await expect.poll(status, { timeout: 60_000, interval: 100 }).toBe("ok");
  }
}
