/**
 * Where the parts are put together: from the environment to a configuration, a storage and channels (once
 * for each isolate, because they hold no request), and from those to the core that serves one request, and to
 * what the Durable Objects work with.
 */
import { createAgentConversations } from "../lib/agent-conversations.ts";
import { type AssistantSessions, createAssistantSessions } from "../lib/assistant-session.ts";
import { type Config, type ParsedConfig, parseConfig } from "../lib/config.ts";
import { createStateStore } from "../lib/conversation-state.ts";
import { createConversationStore } from "../lib/conversation-store.ts";
import type { Core } from "../lib/core.ts";
import { StorageError } from "../lib/errors.ts";
import { parseExactly, stringifyJson } from "../lib/json.ts";
import { keys, partitionOf } from "../lib/keys.ts";
import { createLiveClient, type LiveClient } from "../lib/live/live-client.ts";
import { createLogger, type Logger } from "../lib/log.ts";
import { outageWrite } from "../lib/outages.ts";
import { type After, type InTime, leftInTime, after as ownTimer, pause } from "../lib/patience.ts";
import type { Channel } from "../lib/push/channel.ts";
import { createKeyWatch } from "../lib/push/key-watch.ts";
import { createMonitorChannel } from "../lib/push/monitor.ts";
import { createProviderChannel, type KeyWatch } from "../lib/push/provider.ts";
import { PROVIDER_NAMES, PROVIDERS } from "../lib/push/providers.ts";
import { createSocketChannel } from "../lib/push/socket.ts";
import { refusedKeyWrite } from "../lib/refused-keys.ts";
import { callObject } from "../lib/rpc.ts";
import { createSessionStore, type SessionStore } from "../lib/session-store.ts";
import { createBreaker, OF_AN_INSTANCE, withBreaker } from "../lib/storage/breaker.ts";
import { createDurableObjectStorage } from "../lib/storage/durable-object.ts";
import { createElseAsk, createRecordStorage, type ElseAsk } from "../lib/storage/fallback.ts";
import { createMemoryStorage } from "../lib/storage/memory.ts";
import type { LogWrite, Storage, TextStorage } from "../lib/storage/storage.ts";
import { createUpstashStorage } from "../lib/storage/upstash.ts";
import type { Bindings } from "./context.ts";

const now = () => Date.now();

const configs = new WeakMap<Bindings, ParsedConfig>();

/** The configuration of this isolate, parsed once. */
export function configOf(env: Bindings): ParsedConfig {
  const known = configs.get(env) ?? parseConfig(env);
  configs.set(env, known);
  return known;
}

/** What one isolate has, whatever it is asked. */
type Parts = {
  storage: Storage;
  elseAsk: ElseAsk;
  /** Where state and memory are read, and written by their objects. */
  records: TextStorage;
  /** The assistant's memory in this isolate alone, where it is not kept with everything else. */
  ownMemories: TextStorage | null;
  live: LiveClient;
  channels: readonly Channel[];
  /** Outages that are over, and were not noted yet: the next request does. */
  outages: LogWrite[];
};

const parts = new WeakMap<Config, Parts>();

function partsOf(config: Config, env: Bindings): Parts {
  const known = parts.get(config) ?? makeParts(config, env);
  parts.set(config, known);
  return known;
}

function makeParts(config: Config, env: Bindings): Parts {
  const redis = redisOf(config, leftInTime);
  const log = createLogger({ now });
  const breaker = createBreaker({ now, ...OF_AN_INSTANCE });
  const outages: LogWrite[] = [];
  const elseAsk = createElseAsk(breaker);
  const watched =
    redis &&
    withBreaker(redis, breaker, {
      refuses: false,
      degraded: (operation, failure) =>
        log.warn("storage.degraded", { driver: redis.name, operation, failure }),
      recovered(downMs, failedAt) {
        log.info("storage.recovered", { driver: redis.name, downMs });
        outages.push(outageWrite(redis.name, downMs, failedAt, now()));
      },
    });
  const storage = watched ?? embeddedStorage(env);
  return {
    storage,
    elseAsk,
    records: watched === null ? storage : createRecordStorage(watched, elseAsk, env.STORAGE_OBJECTS),
    ownMemories: config.useRedisSessions ? null : createMemoryStorage({ now }),
    live: createLiveClient(env.LIVE_CONVERSATIONS),
    channels: channelsOf(config),
    outages,
  };
}

/** Redis; null where the objects are themselves the storage. `inTime`: how who asks gives up. */
export function redisOf({ storage }: Config, inTime?: InTime): Storage | null {
  return storage.kind === "upstash" ? createUpstashStorage({ ...storage, ...(inTime && { inTime }) }) : null;
}

/**
 * What the objects have while the configuration is wrong. The doors are closed then, but alarms ring: what is kept
 * stays kept, and what is over goes all the same.
 */
export const OUT_OF_REACH: Storage = {
  name: "none",
  get: outOfReach("get"),
  getMany: outOfReach("getMany"),
  getAndTouch: outOfReach("getAndTouch"),
  ttl: outOfReach("ttl"),
  range: outOfReach("range"),
  listIndex: outOfReach("listIndex"),
  readLog: outOfReach("readLog"),
  update: outOfReach("update"),
  commit: outOfReach("commit"),
  ping: outOfReach("ping"),
};

function outOfReach(operation: string): () => Promise<never> {
  return () => Promise.reject(new StorageError("none", operation, "server_error"));
}

export function embeddedStorage({ STORAGE_OBJECTS: namespace }: Bindings): Storage {
  return createDurableObjectStorage({ namespace, partitionOf, now });
}

/** What this isolate knows of the keys of providers, for all of its objects. */
export const providerKeys = createKeyWatch(now, createLogger({ now }));

/**
 * In the order of their precedence. Whoever pushes by them gives the storage, where a key that is refused is noted for
 * all, and its timer.
 */
export function channelsOf(
  { elevenLabs, providers, pushAllowedHosts: allowedHosts }: Config,
  storage: Storage | null = null,
  after: After = ownTimer,
): Channel[] {
  const { apiKey, apiUrl, monitor } = elevenLabs;
  const watch: KeyWatch = {
    isRefused: providerKeys.isRefused,
    note(variable, isTaken) {
      providerKeys.note(variable, isTaken);
      if (isTaken || storage === null) return;
      // Without it the isolate and the log know all the same.
      void storage.commit([refusedKeyWrite(variable, now())]).catch(() => {});
    },
  };
  return [
    ...PROVIDER_NAMES.flatMap((name) => {
      const account = providers[name];
      return account === undefined ? [] : [createProviderChannel(name, PROVIDERS[name], account, watch)];
    }),
    ...(monitor === "off"
      ? []
      : [createMonitorChannel({ apiKey, apiUrl, allowedHosts, takesAll: monitor === "all" })]),
    createSocketChannel(allowedHosts, apiUrl, after),
  ];
}

/** The core that serves one request. `waitUntil` keeps work alive after the answer. */
export function coreFor(
  config: Config,
  env: Bindings,
  log: Logger,
  waitUntil: (work: Promise<unknown>) => void,
): Core {
  const parts = partsOf(config, env);
  // Notes for people, which are not worth another try.
  if (parts.outages.length > 0) waitUntil(parts.storage.commit(parts.outages.splice(0)).catch(() => {}));
  return new RequestCore(config, env, parts, log, waitUntil);
}

/** A request needs one or two of its stores, and pays for no more: a class, because a literal makes its getters anew. */
class RequestCore implements Core {
  readonly #config: Config;
  readonly #env: Bindings;
  readonly #parts: Parts;
  readonly log: Logger;
  readonly afterResponse: Core["afterResponse"];
  readonly now = now;
  readonly wait = pause;
  #sessions: SessionStore | null = null;

  constructor(
    config: Config,
    env: Bindings,
    parts: Parts,
    log: Logger,
    waitUntil: (work: Promise<unknown>) => void,
  ) {
    this.#config = config;
    this.#env = env;
    this.#parts = parts;
    this.log = log;
    this.afterResponse = waitUntil;
  }

  get storage() {
    return this.#parts.storage;
  }

  get elseAsk() {
    return this.#parts.elseAsk;
  }

  get live() {
    return this.#parts.live;
  }

  get channels() {
    return this.#parts.channels;
  }

  get sessions() {
    this.#sessions ??= createSessionStore(this.storage, this.log);
    return this.#sessions;
  }

  get conversations() {
    const { storage, log } = this;
    return createConversationStore({ storage, log, now, ttlSeconds: this.#config.conversationTtlSeconds });
  }

  get states() {
    const { log } = this;
    const { records: storage } = this.#parts;
    return createStateStore({ storage, log, now, ttlSeconds: this.#config.stateTtlSeconds });
  }

  get agentConversations() {
    const { log } = this;
    const { records: storage } = this.#parts;
    return createAgentConversations({ storage, log, ttlSeconds: this.#config.conversationTtlSeconds });
  }

  get memories(): AssistantSessions {
    const { ownMemories, records } = this.#parts;
    const memories = createAssistantSessions({ storage: ownMemories ?? records, log: this.log });
    if (ownMemories !== null) return memories;
    const { STORAGE_OBJECTS: namespace } = this.#env;
    return {
      ...memories,
      // Where the memory is, so that however many change it at once, nobody has to try again.
      async updateSession(conversationId, changes) {
        const text = await callObject("update", UPDATE_MS, () =>
          namespace
            .get(namespace.idFromName(keys.memory(conversationId)))
            .updateMemory(conversationId, stringifyJson(changes)),
        );
        return text === null ? null : (parseExactly(text) as never);
      },
    };
  }
}

/** How long the update of a memory may take, those before it included, in ms. */
const UPDATE_MS = 3_000;
