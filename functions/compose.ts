/**
 * Where the parts are put together: from the environment to a configuration, a storage and channels (once
 * for each isolate, because they hold no request), and from those to the core that serves one request.
 */
import { type Config, type ParsedConfig, parseConfig } from "../lib/config.ts";
import { type Core, createCore } from "../lib/core.ts";
import { partitionOf } from "../lib/keys.ts";
import type { Logger } from "../lib/log.ts";
import type { Channel } from "../lib/push/channel.ts";
import { createMonitorChannel } from "../lib/push/monitor.ts";
import { createSocketChannel } from "../lib/push/socket.ts";
import { createDurableObjectStorage } from "../lib/storage/durable-object.ts";
import type { Storage } from "../lib/storage/storage.ts";
import { createUpstashStorage } from "../lib/storage/upstash.ts";
import type { Bindings } from "./context.ts";

const now = () => Date.now();
const wait = (ms: number) => scheduler.wait(ms);

const configs = new WeakMap<Bindings, ParsedConfig>();

/** The configuration of this isolate, parsed once. */
export function configOf(env: Bindings): ParsedConfig {
  const known = configs.get(env) ?? parseConfig(env);
  configs.set(env, known);
  return known;
}

const parts = new WeakMap<Config, { storage: Storage; channels: readonly Channel[] }>();

function partsOf(config: Config, env: Bindings) {
  const known = parts.get(config) ?? { storage: storageOf(config, env), channels: channelsOf(config) };
  parts.set(config, known);
  return known;
}

function storageOf({ storage }: Config, env: Bindings): Storage {
  return storage.kind === "embedded"
    ? createDurableObjectStorage({ namespace: env.STORAGE_OBJECTS, partitionOf, now })
    : createUpstashStorage(storage);
}

/** In the order of their precedence. */
function channelsOf({ elevenLabs, pushAllowedHosts: allowedHosts }: Config): Channel[] {
  return [
    ...(elevenLabs.monitor ? [createMonitorChannel({ apiKey: elevenLabs.apiKey, allowedHosts })] : []),
    createSocketChannel(allowedHosts),
  ];
}

/** The core that serves one request. */
export function coreFor(
  config: Config,
  env: Bindings,
  log: Logger,
  afterResponse: Core["afterResponse"],
): Core {
  const { conversationTtlSeconds } = config;
  return createCore({ ...partsOf(config, env), conversationTtlSeconds, log, now, wait, afterResponse });
}
