/** A storage that can be out of reach: what a Redis is to the code behind it, without a Redis. */
import { StorageError, type StorageFailure } from "../../lib/errors.ts";
import type { Storage } from "../../lib/storage/storage.ts";

export type Fault = {
  failure: StorageFailure;
  /** Whether the operation is done and only its answer lost. */
  isDone: boolean;
};

export type FaultyStorage = Storage & {
  /** The operations that were asked for, in order. */
  asked: string[];
  /** What becomes of every operation from now on. */
  fail(fault?: Partial<Fault>): void;
  heal(): void;
};

export function faultyStorage(storage: Storage): FaultyStorage {
  let fault: Fault | null = null;
  const asked: string[] = [];
  const own = {
    asked,
    fail: ({ failure = "network", isDone = false }: Partial<Fault> = {}) => {
      fault = { failure, isDone };
    },
    heal: () => {
      fault = null;
    },
  };
  return new Proxy(storage as FaultyStorage, {
    get(_, name: keyof FaultyStorage) {
      if (name in own) return own[name as keyof typeof own];
      const method = storage[name as keyof Storage];
      if (typeof method !== "function") return method;
      return async (...args: unknown[]) => {
        asked.push(name);
        const { failure, isDone } = fault ?? {};
        const result =
          failure === undefined || isDone
            ? await (method as (...args: unknown[]) => unknown).apply(storage, args)
            : undefined;
        if (failure !== undefined) throw new StorageError(storage.name, name, failure);
        return result;
      };
    },
  });
}
