/** What a request carries through the app: the Worker's bindings, and what the middleware found out. */
import type { Context } from "hono";
import type { Config, Environment } from "../lib/config.ts";
import type { Core } from "../lib/core.ts";
import type { Logger } from "../lib/log.ts";
import type { StorageObject } from "../lib/storage/storage-object.ts";

export type Bindings = Environment & { STORAGE_OBJECTS: DurableObjectNamespace<StorageObject> };

export type AppEnv = {
  Bindings: Bindings;
  Variables: {
    requestId: string;
    log: Logger;
    config: Config;
    core: Core;
  };
};

export type AppContext = Context<AppEnv>;
