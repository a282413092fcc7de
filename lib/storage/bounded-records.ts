/**
 * A bounded number of records in the order in which they were last written, each with its expiry: what the
 * in-memory storage keeps its keys in. Every operation is O(1) amortised, however many records there are.
 *
 * The order is a linked list, not the Map's own: to move a key to a Map's end is to delete it and set it
 * again, and in V8 each deletion leaves a hole in the chain that the next set of that key walks, so that a key
 * written over and over costs O(n) a write. For the same reason a record that goes stays in the Map as a husk
 * until there are many.
 */
export type BoundedRecordsOptions = {
  /** Milliseconds since the epoch. */
  now: () => number;
  /** How many records at most; when there are as many, the fifth that was written longest ago goes. */
  maxRecords: number;
};

export type BoundedRecords<C> = {
  /** The record at `key`, if it is alive. */
  find(key: string): { readonly content: C; readonly expiresAt: number } | undefined;
  /** Writes a record, which lives strictly while now < `expiresAt` (ms, Infinity for ever). */
  put(key: string, content: C, expiresAt: number): void;
  /** Whether a living record was there to be deleted. */
  delete(key: string): boolean;
  /** The keys of all records, in no particular order, and some whose records are gone. */
  keys(): string[];
  /** How many records there are, those included that have expired and were not noticed yet. */
  readonly size: number;
};

/** A husk has no content. Husks stand before all records, at the old end of the list. */
type Node<C> = Link<C> & { key: string; content: C | undefined; expiresAt: number };
type Link<C> = { older: Link<C> | Node<C>; newer: Link<C> | Node<C> };

const SWEEP_EVERY_MS = 5 * 60_000;

/** So that a handful of records does not clear away its husks all the time. */
const HUSKS_AT_LEAST = 16;

export function createBoundedRecords<C extends object>(options: BoundedRecordsOptions): BoundedRecords<C> {
  const { now, maxRecords } = options;
  const nodes = new Map<string, Node<C>>();
  /** Closes the list to a ring: its newer neighbour is the oldest record, its older one the newest. */
  const ring = {} as Link<C>;
  ring.older = ring.newer = ring;
  let size = 0;
  let sweptAt = now();
  let writesSinceSweep = 0;

  function link(node: Node<C>, older: Link<C>): void {
    node.older = older;
    node.newer = older.newer;
    older.newer.older = node;
    older.newer = node;
  }

  function unlink(node: Node<C>): void {
    node.older.newer = node.newer;
    node.newer.older = node.older;
  }

  /** Nodes from the oldest on, husks first. The one that is being looked at may be dropped or buried. */
  function* fromOldest(): Generator<Node<C>> {
    for (let link = ring.newer; "key" in link; ) {
      const { newer } = link;
      yield link;
      link = newer;
    }
  }

  /** Makes a husk of a record: another write of the key will find its place in the Map. */
  function bury(node: Node<C>): void {
    node.content = undefined;
    size--;
    unlink(node);
    link(node, ring);
    if (nodes.size - size > HUSKS_AT_LEAST + size / 4) dropHusks();
  }

  function drop(node: Node<C>): void {
    if (node.content !== undefined) size--;
    unlink(node);
    nodes.delete(node.key);
  }

  function dropHusks(): void {
    for (const node of fromOldest()) {
      if (node.content !== undefined) return;
      drop(node);
    }
  }

  function isSweepDue(): boolean {
    return now() - sweptAt >= SWEEP_EVERY_MS;
  }

  function sweep(): void {
    sweptAt = now();
    writesSinceSweep = 0;
    for (const node of fromOldest()) {
      if (node.content === undefined || sweptAt >= node.expiresAt) drop(node);
    }
  }

  /** Makes room for a fifth at once, which pays for having looked at every record. */
  function makeRoom(): void {
    if (isSweepDue()) sweep();
    dropHusks();
    const roomFor = Math.ceil(maxRecords / 5);
    for (const node of fromOldest()) {
      if (size <= maxRecords - roomFor) return;
      drop(node);
    }
  }

  return {
    find(key) {
      const node = nodes.get(key);
      if (node?.content === undefined) return undefined;
      if (now() < node.expiresAt) return node as Node<C> & { content: C };
      bury(node);
      return undefined;
    },

    put(key, content, expiresAt) {
      // A sweep looks at every record: it waits until as many writes have come, however slowly they come.
      if (++writesSinceSweep >= size && isSweepDue()) sweep();
      let node = nodes.get(key);
      if (node?.content === undefined && size >= maxRecords) {
        makeRoom();
        node = undefined;
      }
      if (node === undefined) {
        node = { ...ring, key, content: undefined, expiresAt };
        nodes.set(key, node);
      } else {
        unlink(node);
      }
      if (node.content === undefined) size++;
      node.content = content;
      node.expiresAt = expiresAt;
      link(node, ring.older);
    },

    delete(key) {
      const node = nodes.get(key);
      if (node?.content === undefined) return false;
      const wasAlive = now() < node.expiresAt;
      bury(node);
      return wasAlive;
    },

    keys: () => [...nodes.keys()],

    get size() {
      return size;
    },
  };
}
