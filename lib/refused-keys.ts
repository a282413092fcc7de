/**
 * Which keys of providers were refused a short time ago, for whoever asks any instance: the isolate that was refused is
 * hardly ever the one that an operator asks. Nothing is decided by it.
 */
import { stringifyJson } from "./json.ts";
import { keys } from "./keys.ts";
import type { SetWrite, Storage } from "./storage/storage.ts";

/** How long it is told of a key after it was refused last. A key that has been mended is told of as long. */
export const REFUSED_TOLD_SECONDS = 600;

/** The note that the key of a variable was refused at `now` (ms). */
export function refusedKeyWrite(variable: string, now: number): SetWrite {
  const value = stringifyJson({ version: 1, refusedAt: new Date(now).toISOString() });
  return { type: "set", key: keys.refusedKey(variable), value, ttlSeconds: REFUSED_TOLD_SECONDS };
}

/** Those of the variables whose key was refused. Throws StorageError. */
export async function listRefusedKeys(
  storage: Pick<Storage, "getMany">,
  variables: readonly string[],
): Promise<string[]> {
  if (variables.length === 0) return [];
  const notes = await storage.getMany(variables.map(keys.refusedKey));
  return variables.filter((_, i) => notes[i] != null);
}
