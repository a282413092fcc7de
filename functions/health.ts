/** `/health` for load balancers and people; `/config` and `/config/health` for whoever operates the service. */
import { configProblems } from "../lib/config.ts";
import { StorageError } from "../lib/errors.ts";
import { SESSION_TTL_SECONDS } from "../lib/session-store.ts";
import { version } from "../package.json";
import { configOf, coreFor } from "./compose.ts";
import type { AppContext } from "./context.ts";

export async function handleHealth(c: AppContext): Promise<Response> {
  const parsed = configOf(c.env);
  if (!parsed.ok) {
    return c.json({ status: "unavailable", storage: unreachable(0, "misconfigured") }, 503);
  }
  const { storage, live, now } = coreFor(parsed.config, c.env, c.get("log"), (work) =>
    c.executionCtx.waitUntil(work),
  );
  const start = now();
  const failure = await failureOf(storage.ping());
  const latencyMs = now() - start;
  if (failure === null) {
    return c.json({ status: "ok", storage: { connected: true, latencyMs, usingFallback: false } });
  }
  // Without a Redis the objects are the storage, and nothing stands in for them.
  const isStoodInFor = parsed.config.storage.kind === "upstash" && (await failureOf(live.ping())) === null;
  if (!isStoodInFor) return c.json({ status: "unavailable", storage: unreachable(latencyMs, failure) }, 503);
  const storageHealth = { connected: false, latencyMs, usingFallback: true, lastError: failure };
  return c.json({ status: "degraded", storage: storageHealth });
}

/** How the storage failed, null where it answered. */
async function failureOf(answer: Promise<unknown>): Promise<string | null> {
  try {
    await answer;
    return null;
  } catch (error) {
    return error instanceof StorageError ? error.failure : "internal_error";
  }
}

function unreachable(latencyMs: number, lastError: string) {
  return { connected: false, latencyMs, usingFallback: false, lastError };
}

/** What is switched on, and what is wrong. Names of variables, never their values. */
export function handleConfig(c: AppContext): Response {
  const parsed = configOf(c.env);
  const problems = problemsOf(c);
  if (!parsed.ok) return c.json({ version, problems }, 503);
  const { config } = parsed;
  const { channels } = coreFor(config, c.env, c.get("log"), () => {});
  return c.json({
    version,
    features: {
      agent: config.featureEnabled,
      auth: config.requireAuth,
      monitor: config.elevenLabs.monitor !== "off",
      rateLimits: c.env.CLIENT_RATE_LIMIT !== undefined && c.env.CONVERSATION_RATE_LIMIT !== undefined,
    },
    storage: config.storage.kind,
    channels: channels.map(({ name }) => name),
    ttlSeconds: {
      session: SESSION_TTL_SECONDS,
      conversation: config.conversationTtlSeconds,
      state: config.stateTtlSeconds,
    },
    problems,
  });
}

/** Whether the configuration is complete: 200, or 503 with the names of what is missing or malformed. */
export function handleConfigHealth(c: AppContext): Response {
  const problems = problemsOf(c);
  return problems.length === 0
    ? c.json({ status: "ok", problems })
    : c.json({ status: "misconfigured", problems }, 503);
}

function problemsOf(c: AppContext) {
  return configProblems(c.env).map(({ path, message }) => ({ variable: path, message }));
}
