/** What a request does: its Redis requests, its object calls, and the rows that the object writes. */
import { setTimeout as sleep } from "node:timers/promises";
import { type SeenRequest, startFaultyGateway } from "../test/support/faulty-gateway.ts";
import { sendAll } from "./load.ts";
import { OPERATIONS } from "./operations.ts";
import { type Script, startScript } from "./workers.ts";

export type Doings = { redis: SeenRequest[]; objectCalls: number; rowsWritten: number };

/** For this long after a registration its object does not look for the session, so a callback would do less than usual. */
export const REGISTERED_LATELY_MS = 1_100;
/** Work after the answer counts too. */
export const AFTER_ANSWER_MS = 100;

/** What each operation does once its conversation is known, in the order of OPERATIONS. */
export async function record(
  script: Script,
  { redisUrl, agentUrl, token }: { redisUrl: string; agentUrl: string; token: string },
): Promise<Doings[]> {
  const gateway = await startFaultyGateway({ redisUrl, token });
  const workerd = await startScript(script, gateway, { isRecorded: true });
  const conversationId = `recorded_${script.name}`;
  const counts = async () => {
    await sleep(AFTER_ANSWER_MS);
    const answer = await fetch(`${workerd.url}/recorded/${conversationId}`);
    return (await answer.json()) as Omit<Doings, "redis">;
  };
  const sendEach = async (then: () => Promise<void>) => {
    for (const { request } of OPERATIONS) {
      const before = await counts();
      gateway.clear();
      await sendAll(workerd.url, [request(conversationId, agentUrl)], { connections: 1 });
      const after = await counts();
      doings.push({
        redis: [...gateway.seen],
        objectCalls: after.objectCalls - before.objectCalls,
        rowsWritten: after.rowsWritten - before.rowsWritten,
      });
      await then();
    }
  };
  const doings: Doings[] = [];
  try {
    await sendEach(async () => {});
    // What is done only once in a conversation has been done now.
    doings.splice(0);
    await sendEach(() => sleep(REGISTERED_LATELY_MS));
    return doings;
  } finally {
    await workerd.stop();
    await gateway.close();
  }
}

/** Two Workers with equal outlines do the same: paths, command names and numbers of arguments; contents are their own. */
export function outlineOf({ redis, ...counts }: Doings) {
  const outline = ([name, ...args]: unknown[]) => `${String(name).toLowerCase()} with ${args.length}`;
  return { ...counts, redis: redis.map(({ path, commands }) => [path, ...commands.map(outline)]) };
}
