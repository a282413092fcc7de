/**
 * The plain store operations, a record set with a time to live and read again, by libraries that people use for it: each
 * in a Node process of its own, over the same Redis, the REST ones through the same gateway.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { median, type Table, withRange } from "./figures.ts";
import type { Gateway } from "./workers.ts";

const STORES = [
  { name: "ours, over REST", file: "own-store.ts" },
  { name: "unstorage, upstash driver, over REST", file: "peers/store.mjs", kind: "unstorage" },
  { name: "connect-redis, over TCP", file: "peers/store.mjs", kind: "connect-redis" },
];
const ROUNDS = 3;

/** What a store's process says of one round. */
export type StoreCosts = { setµs: number; getµs: number };

async function costsOf(file: string, env: Record<string, string>): Promise<StoreCosts> {
  const store = fork(join(import.meta.dirname, file), {
    stdio: ["ignore", "ignore", "inherit", "ipc"],
    env: { ...process.env, ...env },
  });
  const [costs] = (await once(store, "message")) as [StoreCosts];
  if (store.exitCode === null) await once(store, "exit");
  return costs;
}

export async function measureStores(
  { redisUrl, gateway }: { redisUrl: string; gateway: Gateway },
  withPeers: boolean,
): Promise<Table> {
  const rounds = STORES.map((): StoreCosts[] => []);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [i, { file, kind = "" }] of STORES.entries()) {
      if (kind !== "" && !withPeers) continue;
      const env = { REDIS_URL: redisUrl, REST_URL: gateway.url, REST_TOKEN: gateway.token, STORE: kind };
      rounds[i]?.push(await costsOf(file, env));
    }
  }
  const [ours = []] = rounds;
  const ratio = (of: StoreCosts[], what: keyof StoreCosts) =>
    (median(ours.map((one) => one[what])) / median(of.map((one) => one[what]))).toFixed(2);
  return {
    title: "Plain store operations, CPU time of the Node process, µs",
    header: ["store", "ours ÷ it, set", "ours ÷ it, get", "set µs", "get µs"],
    rows: STORES.flatMap(({ name }, i) => {
      const of = rounds[i] ?? [];
      if (of.length === 0) return [];
      return [
        [
          ...[name, ratio(of, "setµs"), ratio(of, "getµs")],
          withRange(of.map(({ setµs }) => setµs)),
          withRange(of.map(({ getµs }) => getµs)),
        ],
      ];
    }),
  };
}
