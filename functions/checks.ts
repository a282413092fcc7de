/** What a request must pass before it is served. */
import type { MiddlewareHandler } from "hono";
import type { AppContext, AppEnv } from "./context.ts";

/** Lets a request through, or throws what refuses it. */
export type Check = (c: AppContext) => void | Promise<void>;

/** Checks as one middleware, one after the other: each layer of middleware costs every request some microseconds. */
export function checks(...all: readonly Check[]): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    for (const check of all) {
      const checked = check(c);
      // Most are done when they return.
      if (checked !== undefined) await checked;
    }
    await next();
  };
}
