/** A core over the in-memory storage with a clock that the test turns, and a channel that the test scripts. */
import { type Core, createCore } from "../../lib/core.ts";
import { createLogger } from "../../lib/log.ts";
import type { Channel, PushResult } from "../../lib/push/channel.ts";
import type { PushMessage } from "../../lib/push/message.ts";
import { parseRegistration, type SessionRecord, sessionRecord } from "../../lib/session-store.ts";
import { createMemoryStorage } from "../../lib/storage/memory.ts";
import type { Storage } from "../../lib/storage/storage.ts";
import { createTurns } from "../../lib/turns.ts";
import type { LogLine } from "./worker.ts";

export const START = Date.parse("2026-01-01T00:00:00Z");

export type TestCore = Core & {
  /** Turns the clock, in ms. */
  advance(ms: number): void;
  /** What the channel was asked to push, in order. */
  pushed: PushMessage[];
  logs: LogLine[];
  /** Resolves when everything that was put off until after the answers is done. */
  settled(): Promise<void>;
};

export type TestCoreOptions = {
  /** What the channel answers; called for every push. Default: delivered. */
  onPush?: (message: PushMessage) => PushResult | Promise<PushResult>;
  /** Something between the stores and the memory. */
  wrap?: (storage: Storage) => Storage;
};

export function testCore({
  onPush = () => ({ ok: true }),
  wrap = (storage) => storage,
}: TestCoreOptions = {}): TestCore {
  let clock = START;
  const now = () => clock;
  const pushed: PushMessage[] = [];
  const logs: LogLine[] = [];
  const later: Promise<unknown>[] = [];
  const channel: Channel = {
    name: "socket",
    accepts: (session) => session.wsUrl !== undefined,
    async push(_session, message) {
      pushed.push(message);
      return onPush(message);
    },
  };
  const core = createCore({
    storage: wrap(createMemoryStorage({ now })),
    channels: [channel],
    log: createLogger({ now, write: (_level, line) => logs.push(JSON.parse(line)) }),
    now,
    wait: async (ms) => {
      clock += ms;
    },
    afterResponse: (work) => later.push(work()),
    conversationTtlSeconds: 30 * 24 * 3600,
    stateTtlSeconds: 3600,
    turns: createTurns(),
  });
  return {
    ...core,
    pushed,
    logs,
    advance: (ms) => {
      clock += ms;
    },
    async settled() {
      for (let work = later.shift(); work !== undefined; work = later.shift()) await work;
    },
  };
}

/** A session record as a registration of `url` at the core's time makes it. */
export function sessionOf(
  core: Core,
  conversationId: string,
  url = "wss://agent.example/live",
): SessionRecord {
  return sessionRecord(
    conversationId,
    parseRegistration({ sessionUrl: url }),
    crypto.randomUUID(),
    core.now(),
  );
}
