/** What a request does: its Redis requests, its object calls, and the rows that the conversation's object writes. */
import { setTimeout as sleep } from "node:timers/promises";
import { type SeenRequest, startFaultyGateway } from "../test/support/faulty-gateway.ts";
import { sendAll } from "./load.ts";
import { AFTER_ANSWER_MS, OPERATIONS, type Operation, REGISTERED_LATELY_MS } from "./operations.ts";
import { type Script, startScript } from "./workers.ts";
import { type Outside, startPlace } from "./world.ts";

export type Doings = {
  redis: SeenRequest[];
  objectCalls: number;
  rowsWritten: number;
  /** With the entries of indexes, which the platform bills as rows. */
  rowsBilled: number;
};

/** What each operation that the script knows does once its conversation is known, by its name. */
export async function record(
  script: Script,
  outside: Outside,
  operations: readonly Operation[] = OPERATIONS,
): Promise<Map<string, Doings>> {
  const gateway = await startFaultyGateway({ redisUrl: outside.redisUrl, token: outside.token });
  const workerd = await startScript(script, gateway, { isRecorded: true, bindings: outside.bindings });
  const isOurs = script.name === "ours";
  const doings = new Map<string, Doings>();
  try {
    const place = await startPlace({
      url: workerd.url,
      prefix: `recorded_${script.name}`,
      agentUrl: outside.agentUrl,
      has: { lines: true, proxy: isOurs, stores: true },
      few: true,
    });
    const known = operations.filter(({ by }) => by.includes(isOurs ? "ours" : "floor"));
    // What is done only once in a conversation is not what is recorded.
    for (let time = 1; time <= 2; time++) {
      for (const operation of known) {
        const batch = place.batch(operation);
        await operation.prepare?.(batch, 1);
        const request = operation.request(batch, 0);
        const id = batch.conversationId(0);
        const counts = async () => {
          await sleep(operation.settlesMs ?? AFTER_ANSWER_MS);
          const answer = await fetch(`${workerd.url}/recorded/${id}`);
          return (await answer.json()) as Omit<Doings, "redis">;
        };
        const before = await counts();
        gateway.clear();
        await sendAll(workerd.url, [request], { connections: 1 });
        const after = await counts();
        doings.set(operation.name, {
          redis: [...gateway.seen],
          objectCalls: after.objectCalls - before.objectCalls,
          rowsWritten: after.rowsWritten - before.rowsWritten,
          rowsBilled: after.rowsBilled - before.rowsBilled,
        });
        if (request.path.endsWith("/session")) await sleep(REGISTERED_LATELY_MS);
      }
    }
    return doings;
  } finally {
    await workerd.stop();
    await gateway.close();
  }
}

export const commandsOf = ({ redis }: Doings): number =>
  redis.reduce((sum, { commands }) => sum + commands.length, 0);

/** Two Workers with equal outlines do the same: paths, command names and numbers of arguments; contents are their own. */
export function outlineOf({ redis, objectCalls, rowsWritten }: Doings) {
  const outline = ([name, ...args]: unknown[]) => `${String(name).toLowerCase()} with ${args.length}`;
  const requests = redis.map(({ path, commands }) => [path, ...commands.map(outline)].join(" "));
  return { objectCalls, rowsWritten, redis: requests.toSorted() };
}
