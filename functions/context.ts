/** What a request carries through the app: the Worker's bindings, and what the middleware found out. */
import type { Context } from "hono";
import type { Config, Environment } from "../lib/config.ts";
import type { Core } from "../lib/core.ts";
import type { Logger } from "../lib/log.ts";
import type { Caller } from "../lib/registration.ts";
import { type Trace, traceBy } from "../lib/trace.ts";
import type { LiveConversation, StorageObject } from "./index.ts";

export type Bindings = Environment & {
  LIVE_CONVERSATIONS: DurableObjectNamespace<LiveConversation>;
  STORAGE_OBJECTS: DurableObjectNamespace<StorageObject>;
  /** The console and the description of the API. Absent where the Worker was put together without files. */
  ASSETS?: Fetcher;
  /** Requests of one client, by address. Absent where the platform has no such limiter. */
  CLIENT_RATE_LIMIT?: RateLimit;
  /** Requests that name one conversation. */
  CONVERSATION_RATE_LIMIT?: RateLimit;
  /** Refused credentials of one client. */
  FAILED_LOGIN_RATE_LIMIT?: RateLimit;
};

export type AppEnv = {
  Bindings: Bindings;
  Variables: {
    requestId: string;
    log: Logger;
    config: Config;
    core: Core;
    /** Set by what asks for a credential. */
    caller: Caller;
    /** The request's body, once something has read it. */
    body: Uint8Array | "not_kept" | undefined;
  };
};

export type AppContext = Context<AppEnv>;

/** Spans of a request. Hono's type of the context does not know them yet. */
export function traceOf(c: AppContext): Trace {
  const { tracing } = c.executionCtx as ExecutionContext;
  return traceBy(tracing, { requestId: c.get("requestId") });
}
