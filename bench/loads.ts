/** How much of it at a time: requests a second, and how long each takes, at 1, 16 and 128 connections. */

import { median, percentile, type Table } from "./figures.ts";
import { sendAll } from "./load.ts";
import type { Measured } from "./measure.ts";
import { OPERATIONS, SUBJECTS } from "./operations.ts";

const NAMES = ["register, known", "session read", "callback, by relay"];
/** How many requests at so many connections, by how long they take. */
const LOADS = [
  { connections: 1, requests: 50 },
  { connections: 16, requests: 200 },
  { connections: 128, requests: 400 },
];
const ROUNDS = 3;

type Load = { perSecond: number; p50: number; p99: number };

async function load({ place }: Measured, name: string, connections: number, requests: number): Promise<Load> {
  const operation = OPERATIONS.find((candidate) => candidate.name === name);
  if (operation === undefined) throw new TypeError(`no such operation: ${name}`);
  const batch = place.batch(operation);
  const wanted = Array.from({ length: requests }, (_, i) => operation.request(batch, i));
  const begin = performance.now();
  const times = await sendAll(place.url, wanted, { connections });
  const perSecond = (requests * 1_000) / (performance.now() - begin);
  return { perSecond, p50: percentile(times, 0.5), p99: percentile(times, 0.99) };
}

/** Three numbers a cell: requests a second, p50 and p99 in ms, each the median of the rounds. */
export async function measureLoads(subjects: readonly Measured[]): Promise<Table> {
  const inOrder = SUBJECTS.filter((name) => subjects.some((subject) => subject.name === name));
  const rows: string[][] = [];
  for (const name of NAMES) {
    const by = OPERATIONS.find((operation) => operation.name === name)?.by ?? [];
    for (const { connections, requests } of LOADS) {
      const found = new Map<string, Load[]>();
      for (let round = 0; round < ROUNDS; round++) {
        for (const subject of subjects.filter((candidate) => by.includes(candidate.name))) {
          const loads = found.get(subject.name) ?? [];
          found.set(subject.name, [...loads, await load(subject, name, connections, requests)]);
        }
      }
      const cells = inOrder.map((subject) => {
        const loads = found.get(subject);
        if (loads === undefined) return "";
        const of = (what: keyof Load) => median(loads.map((one) => one[what]));
        return `${of("perSecond").toFixed(0)}/s · ${of("p50").toFixed(1)} · ${of("p99").toFixed(1)}`;
      });
      rows.push([name, String(connections), ...cells]);
    }
  }
  return {
    title: "Requests a second · p50 ms · p99 ms, client and Redis on the same cores",
    header: ["operation", "connections", ...inOrder],
    rows,
  };
}
