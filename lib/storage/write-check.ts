/**
 * What can be known to be wrong with a write before any storage is asked. Every driver checks the whole
 * commit here first, so that a malformed write leaves nothing of its neighbours behind: the one half of
 * "all or nothing" that a Redis transaction does not give.
 */
import { ttlMillis, type Write } from "./storage.ts";

/** Throws RangeError where a TTL, a length or a score is not one. */
export function checkWrites(writes: readonly Write[]): void {
  for (const write of writes) {
    if ("ttlSeconds" in write) ttlMillis(write.ttlSeconds);
    if (write.type === "append" && !(Number.isSafeInteger(write.maxLength) && write.maxLength > 0))
      throw new RangeError(`not a length of a list: ${write.maxLength}`);
    if (write.type === "index") checkScore(write.score);
    if (write.type === "prune") checkScore(write.belowScore);
  }
}

function checkScore(score: number): void {
  if (!Number.isFinite(score)) throw new RangeError(`not a score: ${score}`);
}
