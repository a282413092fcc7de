/** The Hono app: middleware in order, routes, and errors to problem+json. */

import type { MiddlewareHandler } from "hono";
import { cors } from "hono/cors";
import { Hono } from "hono/tiny";
import { createLogger } from "../lib/log.ts";
import { handleAgentTool } from "./agent-tools.ts";
import { agents } from "./agents.ts";
import {
  requireOperator,
  requireOwnMachine,
  requireToolCredential,
  requireWebhookCredential,
} from "./auth.ts";
import { handleCallback } from "./callbacks.ts";
import { checks } from "./checks.ts";
import { configOf, coreFor } from "./compose.ts";
import { consoleApi } from "./console.ts";
import { handleConsole, handleConsoleFile } from "./console-assets.ts";
import type { AppContext, AppEnv } from "./context.ts";
import { conversations } from "./conversations.ts";
import { handleDocs, handleDocument } from "./docs.ts";
import { handleConfig, handleConfigHealth, handleHealth } from "./health.ts";
import { answerError, ProblemError } from "./problem.ts";
import { limitClient } from "./rate-limit.ts";
import { results } from "./results.ts";
import { sessions } from "./sessions.ts";
import { memories, states } from "./state.ts";
import { streams } from "./stream.ts";
import { tasks } from "./tasks.ts";

/** What a page's own code may send and read. */
const BROWSER_HEADERS = {
  allowMethods: ["GET", "POST", "PUT", "PATCH", "DELETE"],
  allowHeaders: ["authorization", "content-type", "x-request-id"],
  exposeHeaders: ["x-request-id", "retry-after"],
  maxAge: 3600,
};

const forOrigin = cors({ origin: allowedOrigin, ...BROWSER_HEADERS });

/** Who may ask at all. Who sends no Origin is no page, and needs no CORS headers; nor does a cache, since nothing is stored. */
const admit: MiddlewareHandler<AppEnv> = (c, next) => {
  requireOwnMachine(c);
  return c.req.header("origin") === undefined ? next() : forOrigin(c, next);
};

/** What every answer carries: of the usual security headers those that mean something for an answer that is no page. */
const ANSWER_HEADERS = [
  ["cross-origin-resource-policy", "same-origin"],
  ["referrer-policy", "no-referrer"],
  ["strict-transport-security", "max-age=15552000; includeSubDomains"],
  ["x-content-type-options", "nosniff"],
  ["x-frame-options", "SAMEORIGIN"],
] as const;

const api = new Hono<AppEnv>()
  .post("/:id/callback", requireWebhookCredential, handleCallback)
  .route("/", results)
  .route("/", streams)
  .route("/", tasks)
  .route("/", agents)
  .route("/", conversations)
  .route("/", sessions);

export const app = new Hono<AppEnv>();

app.use(frame);
app.use(admit);
// By itself, so that who is refused is told with the headers of CORS.
app.use(checks(limitClient));
app.get("/health", handleHealth);
app.get("/openapi.json", handleDocument);
app.get("/docs", handleDocs);
app.get("/console", handleConsole);
app.get("/console/:file", handleConsoleFile);
app.get("/config", requireOperator, handleConfig);
app.get("/config/health", requireOperator, handleConfigHealth);
app.post("/agent-tools", checks(loadCore), requireToolCredential, handleAgentTool);
app.use(checks(loadCore, requireFeature));
app.post("/callback", requireWebhookCredential, handleCallback);
app.route("/agent-conversations/api", api);
app.route("/state/api", states);
app.route("/memory/api", memories);
app.route("/console/api", consoleApi);
app.notFound(refuseRoute);
app.onError((error, c) => answerError(error, c));

/** Null leaves every CORS header out, so that a page elsewhere cannot read the answer. */
function allowedOrigin(origin: string, c: AppContext): string | null {
  const parsed = configOf(c.env);
  return parsed.ok && parsed.config.allowedOrigins.includes(origin) ? origin : null;
}

const REQUEST_ID = /^[\w\-=]{1,255}$/;

/** Around every request: the id by which it is found again, its log, and the headers of its answer. */
async function frame(c: AppContext, next: () => Promise<void>): Promise<void> {
  const given = c.req.header("x-request-id");
  const requestId = given !== undefined && REQUEST_ID.test(given) ? given : crypto.randomUUID();
  c.set("requestId", requestId);
  c.set("log", createLogger({ now: Date.now }, { requestId }));
  await next();
  const { headers } = c.res;
  headers.set("x-request-id", requestId);
  for (const [name, value] of ANSWER_HEADERS) headers.set(name, value);
  // Nearly every answer names a conversation; none is worth keeping, but files, which say so themselves.
  if (!headers.has("cache-control")) headers.set("cache-control", "no-store");
}

/** 405 where the path is one of ours and takes other methods, else 404. Hono's own middleware for this weighs 4 kB. */
function refuseRoute(c: AppContext): Response {
  const methods = app.routes.filter(isHandlerOf(c.req.path)).map(({ method }) => method);
  const allowed = new Set(methods.flatMap((method) => (method === "GET" ? ["GET", "HEAD"] : [method])));
  if (allowed.size === 0)
    return answerError(new ProblemError("not_found", "There is nothing at this path."), c);
  const allow = [...allowed].join(", ");
  return answerError(new ProblemError("method_not_allowed", `This path takes ${allow}.`, { allow }), c);
}

function isHandlerOf(path: string): (route: { method: string; path: string }) => boolean {
  return (route) =>
    route.method !== "ALL" && new RegExp(`^${route.path.replaceAll(/:\w+/g, "[^/]+")}$`).test(path);
}

/** Gives the request a configuration and a core, or says in the log which variables are wrong. */
function loadCore(c: AppContext): void {
  const parsed = configOf(c.env);
  if (!parsed.ok) {
    c.get("log").error("request.failed", {
      code: "misconfigured",
      problems: parsed.problems.map(({ path, message }) => `${path} ${message}`),
    });
    throw new ProblemError(
      "misconfigured",
      "The service is not configured completely; its log names the variables.",
    );
  }
  c.set("config", parsed.config);
  c.set(
    "core",
    coreFor(parsed.config, c.env, c.get("log"), (work) => c.executionCtx.waitUntil(work)),
  );
}

function requireFeature(c: AppContext): void {
  if (!c.get("config").featureEnabled) {
    c.get("log").info("feature.disabled", { method: c.req.method });
    throw new ProblemError("feature_disabled", "This feature is switched off.");
  }
}
