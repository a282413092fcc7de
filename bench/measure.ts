/** What one batch of an operation costs a subject. */
import { setTimeout as sleep } from "node:timers/promises";
import { AFTER_ANSWER_MS, type Operation } from "./operations.ts";
import type { Subject } from "./subjects.ts";
import type { Place } from "./world.ts";

export type Measured = Subject & { place: Place };

/** CPU time a request, in µs, the work after the answers included. */
export async function measure(
  { name, place, cpuMs }: Measured,
  operation: Operation,
  requests: number,
): Promise<number> {
  const batch = place.batch(operation);
  await operation.prepare?.(batch, requests);
  const wanted = Array.from({ length: requests }, (_, i) => operation.request(batch, i));
  const before = await cpuMs();
  await place.send(wanted);
  const hasObjects = name === "floor" || name === "ours";
  await sleep((hasObjects ? operation.settlesMs : undefined) ?? AFTER_ANSWER_MS);
  return (((await cpuMs()) - before) * 1_000) / requests;
}
