/** Who may call. With `REQUIRE_AUTH` on, every route but health asks for a bearer credential. */
import { createMiddleware } from "hono/factory";
import type { Config } from "../lib/config.ts";
import { matchesAnySecret } from "../lib/secrets.ts";
import type { AppEnv } from "./context.ts";
import { ProblemError } from "./problem.ts";

/** Lets a request pass that carries one of the secrets which `secretsOf` finds in the configuration. */
export function requireBearer(secretsOf: (config: Config) => readonly string[]) {
  return createMiddleware<AppEnv>(async (c, next) => {
    const config = c.get("config");
    if (
      config.requireAuth &&
      !(await matchesAnySecret(bearerOf(c.req.header("authorization")), secretsOf(config)))
    ) {
      c.get("log").warn("auth.rejected", { method: c.req.method, route: c.req.routePath });
      throw new ProblemError("unauthorized", "A valid bearer credential is required.", {
        "www-authenticate": "Bearer",
      });
    }
    await next();
  });
}

function bearerOf(header: string | undefined): string {
  return /^Bearer +(\S+)$/i.exec(header ?? "")?.[1] ?? "";
}
