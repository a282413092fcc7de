/** `/health` for load balancers and people; `/config` and `/config/health` for whoever operates the service. */
import { type Config, configProblems } from "../lib/config.ts";
import type { Core } from "../lib/core.ts";
import { StorageError } from "../lib/errors.ts";
import type { Provider } from "../lib/push/provider.ts";
import { PROVIDER_NAMES, PROVIDERS } from "../lib/push/providers.ts";
import { listRefusedKeys } from "../lib/refused-keys.ts";
import { SESSION_TTL_SECONDS } from "../lib/session-store.ts";
import type { Storage } from "../lib/storage/storage.ts";
import { version } from "../package.json";
import type {
  CompleteAnswer,
  ConfigAnswer,
  HealthAnswer,
  IncompleteAnswer,
  WrongConfigAnswer,
} from "./answers.ts";
import { configOf, coreFor, providerKeys } from "./compose.ts";
import type { AppContext } from "./context.ts";

/** The storage is asked at most this often by one isolate, however many ask here. */
const ASK_EVERY_MS = 5_000;

/** What was found when the storage was asked last. */
type Health = { status: 200 | 503; body: HealthAnswer };
type Finding = { askedAt: number; health: Promise<Health> };
const findings = new WeakMap<Storage, Finding>();

export async function handleHealth(c: AppContext): Promise<Response> {
  const parsed = configOf(c.env);
  if (!parsed.ok) {
    return c.json<HealthAnswer, 503>(
      { status: "unavailable", storage: unreachable(0, "misconfigured") },
      503,
    );
  }
  const { config } = parsed;
  const core = coreFor(config, c.env, c.get("log"), (work) => c.executionCtx.waitUntil(work));
  let finding = findings.get(core.storage);
  if (finding === undefined || core.now() >= finding.askedAt + ASK_EVERY_MS) {
    finding = { askedAt: core.now(), health: look(config, core) };
    findings.set(core.storage, finding);
    // Others wait for it too, so it must not end with this request.
    c.executionCtx.waitUntil(finding.health);
  }
  const { status, body } = await finding.health;
  return c.json(body, status);
}

async function look(config: Config, { storage, live, now }: Core): Promise<Health> {
  const start = now();
  const failure = await failureOf(storage.ping());
  const latencyMs = now() - start;
  if (failure === null) {
    return {
      status: 200,
      body: { status: "ok", storage: { connected: true, latencyMs, usingFallback: false } },
    };
  }
  // Without a Redis the objects are the storage, and nothing stands in for them.
  const isStoodInFor = config.storage.kind === "upstash" && (await failureOf(live.ping())) === null;
  if (!isStoodInFor)
    return { status: 503, body: { status: "unavailable", storage: unreachable(latencyMs, failure) } };
  const storageHealth = { connected: false, latencyMs, usingFallback: true, lastError: failure };
  return { status: 200, body: { status: "degraded", storage: storageHealth } };
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

const LIMITERS = ["CLIENT_RATE_LIMIT", "CONVERSATION_RATE_LIMIT", "FAILED_LOGIN_RATE_LIMIT"] as const;

/** What is switched on, and what is wrong. Names of variables, never their values. */
export async function handleConfig(c: AppContext): Promise<Response> {
  const parsed = configOf(c.env);
  const problems = await problemsOf(c);
  if (!parsed.ok) return c.json<WrongConfigAnswer, 503>({ version, problems }, 503);
  const { config } = parsed;
  const { channels } = coreFor(config, c.env, c.get("log"), () => {});
  return c.json<ConfigAnswer>({
    version,
    features: {
      agent: config.featureEnabled,
      auth: config.requireAuth,
      monitor: config.elevenLabs.monitor !== "off",
      runner: config.outbound.runner !== null,
      events: config.outbound.events !== null,
      rateLimits: LIMITERS.every((name) => c.env[name] !== undefined),
    },
    storage: config.storage.kind,
    // Those that pages hold themselves, and those that dial.
    channels: [
      "relay",
      ...(config.elevenLabs.agentIds.length === 0 ? [] : ["proxy" as const]),
      ...channels.map(({ name }) => name),
    ],
    providers: PROVIDER_NAMES.filter((name) => config.providers[name] !== undefined).map((name) => {
      const { manners, proof, dedupes = false }: Provider = PROVIDERS[name];
      return { name, manners, proof, dedupes };
    }),
    ttlSeconds: {
      session: SESSION_TTL_SECONDS,
      conversation: config.conversationTtlSeconds,
      state: config.stateTtlSeconds,
    },
    problems,
  });
}

/** Whether the configuration is complete: 200, or 503 with the names of what is missing or malformed. */
export async function handleConfigHealth(c: AppContext): Promise<Response> {
  const problems = await problemsOf(c);
  return problems.length === 0
    ? c.json<CompleteAnswer>({ status: "ok", problems })
    : c.json<IncompleteAnswer, 503>({ status: "misconfigured", problems }, 503);
}

async function problemsOf(c: AppContext): Promise<{ variable: string; message: string }[]> {
  const problems = configProblems(c.env).map(({ path, message }) => ({ variable: path, message }));
  const refused = (await refusedKeys(c)).map((variable) => ({ variable, message: REFUSED }));
  return [...problems, ...refused];
}

const REFUSED = "was refused by its provider a short time ago, so nothing is told there";

/** The variables of keys that were refused: as any instance found, or else, where the storage does not answer, this one. */
async function refusedKeys(c: AppContext): Promise<string[]> {
  const parsed = configOf(c.env);
  if (!parsed.ok) return [];
  const { providers } = parsed.config;
  const configured = PROVIDER_NAMES.filter((name) => providers[name] !== undefined);
  const variables = [...new Set(configured.map((name) => `${PROVIDERS[name].account}_API_KEY`))];
  const { storage } = coreFor(parsed.config, c.env, c.get("log"), () => {});
  const [here, anywhere] = [
    providerKeys.refused(),
    await listRefusedKeys(storage, variables).catch(() => []),
  ];
  return variables.filter((variable) => [...here, ...anywhere].includes(variable));
}
