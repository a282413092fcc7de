/** Under any drops each result is said exactly once: a page against an edge that keeps its table as the design says. */
import { expect, test } from "vitest";
import type { EdgeLine } from "./support/edge.ts";
import { pushOf } from "./support/edge.ts";
import { visit } from "./support/visit.ts";

const RESULTS = 100;

/** Chance that repeats (mulberry32): a failure names its seed. */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

test.for([1, 2, 3, 4, 5, 6, 7, 8])("100 results under random drops, seed %i", async (seed) => {
  const random = seeded(seed);
  const { edge, page, session, conversation } = await visit();
  page.chance = 0;
  const table = new Map<string, "waiting" | "unconfirmed" | "delivered">();
  for (let i = 0; i < RESULTS; i++) table.set(`r${i}`, "waiting");
  const withStatus = (status: string) => [...table].filter(([, is]) => is === status).map(([id]) => id);
  const faults = { cutBefore: 0, cutAfter: 0, ackLost: 0, twice: 0, mixed: 0 };

  /** Reads answers until each of these ids has one. */
  async function answers(line: EdgeLine, ids: string[]): Promise<void> {
    const open = new Set(ids);
    while (open.size > 0) {
      const frame = await line.next();
      if (typeof frame === "string" || (frame.type !== "ack" && frame.type !== "nack")) continue;
      for (const id of frame.requestIds) {
        open.delete(id);
        table.set(id, frame.type === "ack" ? "delivered" : "waiting");
      }
    }
  }

  /** Pushes until the line is gone or nothing waits. */
  async function pushOn(line: EdgeLine): Promise<void> {
    for (let waiting = withStatus("waiting"); waiting.length > 0; waiting = withStatus("waiting")) {
      const ids = waiting.slice(0, 1 + Math.floor(random() * 3));
      const chance = random();
      if (chance < 0.1) {
        faults.cutBefore++;
        return line.cut();
      }
      if (chance < 0.3) {
        // Perhaps the push arrives, perhaps it does not; its acknowledgement does not.
        faults.cutAfter++;
        line.send(pushOf(ids));
        for (const id of ids) table.set(id, "unconfirmed");
        if (random() < 0.5) await new Promise((resolve) => setTimeout(resolve, 2));
        return line.cut();
      }
      if (chance < 0.4) {
        faults.ackLost++;
        line.send(pushOf(ids));
        await answers(line, ids);
        for (const id of ids) table.set(id, "unconfirmed");
        continue;
      }
      if (chance < 0.5) {
        faults.twice++;
        line.send(pushOf(ids));
        line.send(pushOf(ids));
        await answers(line, ids);
        await answers(line, ids);
        continue;
      }
      const told = withStatus("delivered")[0];
      if (chance < 0.55 && told !== undefined) {
        // No edge should; a page that believes it would say a result twice.
        faults.mixed++;
        line.send(pushOf([told, ...ids]));
        await answers(line, [told, ...ids]);
        return;
      }
      line.send(pushOf(ids));
      await answers(line, ids);
    }
    if (withStatus("unconfirmed").length > 0) line.cut();
  }

  void session.attach(conversation);
  let lines = 0;
  while (withStatus("delivered").length < RESULTS) {
    await expect
      .poll(
        () => {
          if (page.waits()[0] === 0) page.advance(0);
          return edge.count();
        },
        { interval: 1 },
      )
      .toBeGreaterThan(lines);
    lines++;
    const { line, hello } = await edge.welcomed();
    for (const id of withStatus("unconfirmed")) {
      table.set(id, hello.heard?.includes(id) ? "delivered" : "waiting");
    }
    await expect.poll(() => session.status, { interval: 1 }).toBe("live");
    await pushOn(line);
    await (withStatus("delivered").length < RESULTS ? line.closed : undefined);
  }

  const said = conversation.told.flatMap((text) => text.replace("user: text of ", "").split(","));
  expect(said.toSorted()).toEqual([...table.keys()].toSorted());
  expect(Math.min(...Object.values(faults))).toBeGreaterThan(0);
});
