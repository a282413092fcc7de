/**
 * A standby in memory, for use outside Workers, where nobody else has to see what was written during an
 * outage. It has no alarm: what it holds is given back when its partition is used again.
 */
import { StorageError } from "../errors.ts";
import type { Standby } from "./fallback.ts";
import { createMemoryStorage, type MemoryStorageOptions } from "./memory.ts";
import type { Storage, TtlSeconds, Write } from "./storage.ts";
import { giveBackText, isTextWrite, repeatable, type WriteBackOutcome } from "./write-back.ts";

export type MemoryStandbyOptions = MemoryStorageOptions & {
  primary: Storage;
  partitionOf: (key: string) => string;
};

type Unsynced = { base: string | null; tried: string[] };

export function createMemoryStandby({ primary, partitionOf, ...options }: MemoryStandbyOptions): Standby {
  const memory = createMemoryStorage(options);
  const unsynced = new Map<string, Unsynced>();
  const journals = new Map<string, Write[]>();
  /** When each text was last written here, so that a copy that comes late does not undo it. */
  const writtenAt = new Map<string, number>();

  /** The text at a key; undefined where an entry of another kind stands there. */
  async function textAt(key: string): Promise<string | null | undefined> {
    return memory.get(key).catch(() => undefined);
  }

  async function remember(write: Write, wasTried: boolean): Promise<void> {
    const { key } = write;
    const text = await textAt(key);
    const standing = text === undefined ? "list" : text === null ? undefined : "string";
    if (isTextWrite(write, standing)) {
      const known = unsynced.get(key);
      const tried = known?.tried ?? [];
      if (wasTried && "value" in write) tried.push(write.value);
      // A new object each time: that is how `writeBack` sees that a text was written again meanwhile.
      unsynced.set(key, { base: known === undefined ? (text ?? null) : known.base, tried });
      writtenAt.set(key, options.now());
    } else if (write.type !== "touch") {
      const partition = partitionOf(key);
      journals.set(partition, [...(journals.get(partition) ?? []), write]);
    }
  }

  /** The memory as seen during an outage: whatever is written is remembered first. */
  function remembering(wasTried: boolean): Storage {
    const write = async (writes: readonly Write[]) => {
      for (const one of writes) await remember(one, wasTried);
    };
    return {
      ...memory,
      async getAndTouch(key, ttlSeconds) {
        if ((await memory.get(key)) !== null) await write([{ type: "touch", key, ttlSeconds }]);
        return memory.getAndTouch(key, ttlSeconds);
      },
      async commit(writes) {
        await write(writes);
        return memory.commit(writes);
      },
      async claim(key, value, ttlSeconds) {
        await write([{ type: "create", key, value, ttlSeconds }]);
        return memory.claim(key, value, ttlSeconds);
      },
      async compareAndSet(key, expected, next, ttlSeconds) {
        if ((await memory.get(key)) === expected) {
          await write([
            next === null ? { type: "delete", key } : { type: "set", key, value: next, ttlSeconds },
          ]);
        }
        return memory.compareAndSet(key, expected, next, ttlSeconds);
      },
    };
  }

  function isOutdated({ key }: Write, at: number): boolean {
    return (writtenAt.get(key) ?? Number.NEGATIVE_INFINITY) >= at && unsynced.has(key);
  }

  async function giveBack(partition: string): Promise<boolean> {
    const journal = journals.get(partition) ?? [];
    if (journal.length > 0) {
      const touches: Write[] = [];
      for (const key of new Set(journal.filter(({ type }) => type === "append").map((write) => write.key))) {
        touches.push({ type: "touch", key, ttlSeconds: await secondsLeft(key) });
      }
      await primary.commit([...repeatable(journal), ...touches]);
      const later = journals.get(partition)?.slice(journal.length) ?? [];
      if (later.length > 0) journals.set(partition, later);
      else journals.delete(partition);
    }
    for (const [key, entry] of unsynced) {
      if (partitionOf(key) !== partition) continue;
      const text = await memory.get(key);
      const mine = text === null ? null : { text, ttlSeconds: await secondsLeft(key) };
      const outcome = await giveBackText(primary, { key, ...entry, mine }, await primary.get(key));
      if (outcome.kind === "raced" || unsynced.get(key) !== entry) continue;
      unsynced.delete(key);
      writtenAt.delete(key);
      if (outcome.kind === "superseded") {
        const ttlSeconds = await primary.ttl(key);
        const copy = { type: "set", key, value: outcome.text, ttlSeconds: finite(ttlSeconds) } as const;
        await memory.commit([copy]);
      }
    }
    return !journals.has(partition) && ![...unsynced.keys()].some((key) => partitionOf(key) === partition);
  }

  const secondsLeft = async (key: string): Promise<TtlSeconds> => finite(await memory.ttl(key));

  return {
    outage: remembering(false),
    tried: remembering(true),

    async copy(writes, at) {
      for (const write of writes) {
        if (isOutdated(write, at)) {
          // Acknowledged before ours and overtaken on its way: it is no newer.
          if (write.type === "set") unsynced.get(write.key)?.tried.push(write.value);
          continue;
        }
        if (write.type === "set" || write.type === "delete") unsynced.delete(write.key);
        await memory.commit([write]);
      }
    },

    async copyClaim(key, value, ttlSeconds) {
      const standing = unsynced.has(key) ? await memory.get(key) : null;
      if (standing === null) await memory.commit([{ type: "set", key, value, ttlSeconds }]);
      return standing ?? value;
    },

    async writeBack(partition): Promise<WriteBackOutcome> {
      try {
        return { clean: await giveBack(partition) };
      } catch (error) {
        if (!(error instanceof StorageError)) throw error;
        return { clean: false, failure: error.failure };
      }
    },
  };
}

function finite(seconds: number | null): TtlSeconds {
  return seconds === Number.POSITIVE_INFINITY ? null : seconds;
}
