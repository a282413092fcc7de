/** `/health`: whether anything can be stored, for load balancers and people. */
import { StorageError } from "../lib/errors.ts";
import { configOf, coreFor } from "./compose.ts";
import type { AppContext } from "./context.ts";

export async function handleHealth(c: AppContext): Promise<Response> {
  const parsed = configOf(c.env);
  if (!parsed.ok) {
    return c.json({ status: "unavailable", storage: unreachable(0, "misconfigured") }, 503);
  }
  const { storage, now } = coreFor(parsed.config, c.env, c.get("log"), (work) =>
    c.executionCtx.waitUntil(work),
  );
  const start = now();
  try {
    await storage.ping();
  } catch (error) {
    const reason = error instanceof StorageError ? error.failure : "internal_error";
    return c.json({ status: "unavailable", storage: unreachable(now() - start, reason) }, 503);
  }
  return c.json({
    status: "ok",
    storage: { connected: true, latencyMs: now() - start, usingFallback: false },
  });
}

function unreachable(latencyMs: number, lastError: string) {
  return { connected: false, latencyMs, usingFallback: false, lastError };
}
