import { StorageError } from "../../lib/errors.ts";
import { partitionOf } from "../../lib/keys.ts";
import { createLogger } from "../../lib/log.ts";
import { createFallback } from "../../lib/storage/fallback.ts";
import { createMemoryStorage } from "../../lib/storage/memory.ts";
import { createMemoryStandby } from "../../lib/storage/memory-standby.ts";
import type { Storage } from "../../lib/storage/storage.ts";
import { storageContract } from "./storage-contract.ts";
import { storageModel } from "./storage-model.ts";

/** One request's view of a fallback, with a primary that works or never does. */
function make(primaryOf: (memory: Storage) => Storage) {
  return async () => {
    let clock = Date.parse("2026-01-01T00:00:00Z");
    const now = () => clock;
    const primary = primaryOf(createMemoryStorage({ now, maxRecords: 100_000 }));
    const standby = createMemoryStandby({ now, primary, partitionOf, maxRecords: 100_000 });
    const fallback = createFallback({ primary, standby, partitionOf, now });
    const log = createLogger({ now, write: () => {} });
    return {
      storage: fallback.forRequest({ log, afterResponse: () => {} }),
      advance: (ms: number) => {
        clock += ms;
      },
      close: async () => {},
    };
  };
}

const failing = (memory: Storage): Storage =>
  new Proxy(memory, {
    get: (target, name: keyof Storage) =>
      typeof target[name] === "function"
        ? () => Promise.reject(new StorageError("primary", name, "network"))
        : target[name],
  });

for (const [name, primaryOf] of [
  ["fallback while the primary works", (memory: Storage) => memory],
  ["fallback while the primary fails", failing],
] as const) {
  storageContract(name, { rollsBack: true }, make(primaryOf));
  storageModel(name, { rollsBack: true, runs: 100 }, make(primaryOf));
}
