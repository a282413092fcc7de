/**
 * What memory idle lines take: pages that have said hello, each of a conversation of its own, and are quiet. While an
 * object is in memory its database is open; so the open files of the process tell when all of them hibernate.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { openPage, type Page } from "../test/support/page.ts";
import type { Table } from "./figures.ts";
import type { Workerd } from "./workerd.ts";
import { type Gateway, type Script, startScript } from "./workers.ts";

const FEW = 1_000;
const MANY = 10_000;
const AT_ONCE = 16;
const BATCH = 100;
/** Attached and gone before anything is measured, for the compiler's sake. */
const WARM_UP = 200;

/** What workerd has open: each connection twice, and three files of the database of an object that is in memory. */
const FILES_A_LINE = 2;
const FILES_AN_OBJECT = 3;
/** For whatever else it does. */
const SPARE_FILES = 100;
/** So many objects have to have room while the last lines are attached. */
const OBJECTS_AT_ONCE = 400;

const HIBERNATE_WITHIN_MS = 60_000;
const LOOK_MS = 250;
const WAKES_MS = 1_000;

/** Pages that hold a line each. */
type Lines = { attach: (upTo: number) => Promise<void>; leave: () => void; wake: () => void };

function linesOf(workerd: Workerd, compresses: boolean): Lines {
  const pages: Page[] = [];
  let names = 0;
  const attachEach = async (left: Iterable<number>) => {
    for (const _ of left) {
      const conversationId = `idle_${names++}`;
      const page = await openPage(new URL(workerd.url), conversationId, { compresses });
      pages.push(page);
      await page.hello({ agentSessionId: `agent_${conversationId}` });
    }
  };
  return {
    async attach(upTo) {
      while (pages.length < upTo) {
        await roomFor(workerd, BATCH);
        const left = Array(Math.min(BATCH, upTo - pages.length)).keys();
        await Promise.all(Array.from({ length: AT_ONCE }, () => attachEach(left)));
      }
    },
    leave() {
      for (const page of pages.splice(0)) page.vanish();
    },
    wake() {
      for (const page of pages) page.send({ type: "activity" });
    },
  };
}

/** Resolves when so many more lines may be attached: objects that are in memory have gone. */
async function roomFor(workerd: Workerd, lines: number): Promise<void> {
  for (;;) {
    const { open, limit } = await workerd.files();
    if (open + lines * (FILES_A_LINE + FILES_AN_OBJECT) < limit - SPARE_FILES) return;
    await sleep(LOOK_MS);
  }
}

/** Resolves when no object is in memory. */
async function hibernated(workerd: Workerd, lines: number, others: number): Promise<void> {
  for (let waitedMs = 0; waitedMs < HIBERNATE_WITHIN_MS; waitedMs += LOOK_MS) {
    const { open } = await workerd.files();
    if (open <= others + FILES_A_LINE * lines + FILES_AN_OBJECT) return;
    await sleep(LOOK_MS);
  }
}

// --- The table --------------------------------------------------------------------------------------------------

const HEADER = [
  ...["idle relay lines", "KiB a line", "KiB each further line"],
  ...["RSS MiB", "open files", "attached in s"],
];

export async function measureIdle(ours: Script, gateway: Gateway): Promise<Table[]> {
  const rows = [
    ...(await rowsOf(ours, gateway, { compresses: false, counts: [FEW, MANY] })),
    ...(await rowsOf(ours, gateway, { compresses: true, counts: [FEW] })),
  ];
  return [{ header: HEADER, rows }];
}

/** What the process holds with so many lines, in bytes. */
type Seen = { count: number; rss: number };

function kibibytesALine(before: Seen, after: Seen): string {
  return ((after.rss - before.rss) / 1_024 / (after.count - before.count)).toFixed(0);
}

async function rowsOf(
  ours: Script,
  gateway: Gateway,
  { compresses, counts }: { compresses: boolean; counts: readonly number[] },
): Promise<string[][]> {
  const workerd = await startScript(ours, gateway, { filesIn: "memory" });
  const lines = linesOf(workerd, compresses);
  try {
    const { open: others, limit } = await workerd.files();
    const room = Math.floor((limit - SPARE_FILES - FILES_AN_OBJECT * OBJECTS_AT_ONCE) / FILES_A_LINE);
    if (room < FEW) {
      console.warn(`workerd may open no more than ${limit} files (ulimit -n); not measured: idle lines.\n`);
      return [];
    }
    await lines.attach(WARM_UP);
    lines.leave();
    await hibernated(workerd, 0, others);
    const row = async (what: string, count: number, before: Seen, attachedMs?: number) => {
      const seen = { count, rss: await workerd.rssBytes() };
      const { open } = await workerd.files();
      const mebibytes = (seen.rss / 1_024 / 1_024).toFixed(0);
      const further = before.count === 0 ? "" : kibibytesALine(before, seen);
      const attached = attachedMs === undefined ? "" : (attachedMs / 1_000).toFixed(1);
      const each = count === 0 ? "" : kibibytesALine(none, seen);
      rows.push([`${count}${what}`, each, further, mebibytes, String(open), attached]);
      return seen;
    };
    const rows: string[][] = [];
    const none = { count: 0, rss: await workerd.rssBytes() };
    const kind = compresses ? ", compressing" : "";
    let before = compresses ? none : await row("", 0, none);
    for (const wanted of counts) {
      const count = Math.min(wanted, room);
      if (count < wanted)
        console.log(`workerd may open ${limit} files (ulimit -n): ${count} lines in place of ${wanted}.\n`);
      const begin = performance.now();
      await lines.attach(count);
      const attachedMs = performance.now() - begin;
      if (wanted === FEW) {
        lines.wake();
        await sleep(WAKES_MS);
        await row(`${kind}, in memory`, count, none, attachedMs);
      }
      await hibernated(workerd, count, others);
      before = await row(`${kind}, hibernating`, count, before, wanted === FEW ? undefined : attachedMs);
    }
    return rows;
  } finally {
    lines.leave();
    await workerd.stop();
  }
}
