/**
 * What was said to the agent, by request id, for each agent conversation: in memory, and in sessionStorage for
 * a page that makes its client anew. A result that comes again is acknowledged and not said again.
 */
import type { Page } from "./page.ts";

/** Of one agent conversation. With ids of 128 characters they fit into a hello of 64 KiB. */
const MOST_IDS = 400;
/** Agent conversations that are remembered; the last ones count. */
const MOST_CONVERSATIONS = 4;

export interface Said {
  has(requestId: string): boolean;
  add(requestIds: readonly string[]): void;
  /** Oldest first. */
  all(): string[];
  /** False where older ones may have been forgotten, so that what is missing proves nothing. */
  isWhole(): boolean;
}

/** An agent conversation: its id, or, where it has none, the object itself, which is not stored. */
export type AgentConversationKey = string | object;

/** Remembers for the agent conversations of one conversation. Never throws. */
export function createSaid(page: Page, conversationId: string): (key: AgentConversationKey) => Said {
  const place = `agent-session:${conversationId}`;
  const memory = new Map<AgentConversationKey, Set<string>>();

  function stored(): [string, string[]][] {
    try {
      const entries: unknown = JSON.parse(page.storage().getItem(place) ?? "[]");
      return Array.isArray(entries) ? entries.filter(isEntry) : [];
    } catch {
      return [];
    }
  }

  function store(key: string, ids: string[]): void {
    const entries = [...stored().filter(([other]) => other !== key), [key, ids]];
    try {
      page.storage().setItem(place, JSON.stringify(entries.slice(-MOST_CONVERSATIONS)));
    } catch {
      // The memory remains.
    }
  }

  return (key) => {
    const earlier = stored().find(([other]) => other === key)?.[1];
    const ids = new Set([...(earlier ?? []), ...(memory.get(key) ?? [])]);
    memory.delete(key);
    memory.set(key, ids);
    forgetOldest(memory, MOST_CONVERSATIONS);
    return {
      has: (requestId) => ids.has(requestId),
      add(requestIds) {
        for (const requestId of requestIds) ids.add(requestId);
        forgetOldest(ids, MOST_IDS);
        if (typeof key === "string") store(key, [...ids]);
      },
      all: () => [...ids],
      isWhole: () => ids.size < MOST_IDS,
    };
  };
}

function isEntry(entry: unknown): entry is [string, string[]] {
  return (
    Array.isArray(entry) &&
    typeof entry[0] === "string" &&
    Array.isArray(entry[1]) &&
    entry[1].every((id) => typeof id === "string")
  );
}

/** Sets and maps keep the order in which they were filled. */
function forgetOldest<K>(
  collection: { size: number; keys(): Iterator<K>; delete(key: K): unknown },
  most: number,
): void {
  const keys = collection.keys();
  while (collection.size > most) collection.delete(keys.next().value as K);
}
