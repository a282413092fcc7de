/** The built Worker under Miniflare, with whatever configuration a test wants, and every line it logs. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { inject } from "vitest";
import { ASSETS } from "../../console/assets.ts";
import { asDescribed } from "./contract.ts";

export type LogLine = { level: string; event: string; [field: string]: unknown };

export type TestWorker = {
  url: URL;
  /** Sends a request; a `json` body sets method and content type. Throws where the answer is not as openapi.json says. */
  fetch(path: string, init?: RequestInit & { json?: unknown }): Promise<Response>;
  /** Every line logged so far, raw. */
  lines: string[];
  /** Every line logged so far, parsed. */
  logs(): LogLine[];
  /** Resolves with the first line of this event, logged already or soon; rejects after five seconds. */
  logged(event: string): Promise<LogLine>;
  miniflare: Miniflare;
  /** Sends a request to another instance, by its place among `others`, from 1 on; 0 is the Worker itself. */
  fetchFrom(instance: number, path: string, init?: RequestInit & { json?: unknown }): Promise<Response>;
  /** How many objects of conversations there are, in memory or not. */
  conversationObjects(): Promise<number>;
  /** Takes the object of a conversation out of memory; its hibernating sockets stay open, unless they are closed. */
  evict(conversationId: string, webSockets?: "hibernate" | "close"): Promise<void>;
  close(): Promise<void>;
};

/** The configuration of local development: embedded storage, no authentication, loopback sessions. */
export const LOCAL_BINDINGS = {
  STORAGE: "embedded",
  ELEVENLABS_AGENT_ENABLED: "true",
  REQUIRE_AUTH: "false",
  PUSH_ALLOWED_HOSTS: "localhost,127.0.0.1,api.elevenlabs.io",
};

/** The same over Redis, through an Upstash-compatible gateway. */
export const bindingsOver = ({ url, token }: { url: string; token: string }) => ({
  ...LOCAL_BINDINGS,
  STORAGE: "upstash",
  UPSTASH_REDIS_REST_URL: url,
  UPSTASH_REDIS_REST_TOKEN: token,
});

/** The name of the Worker that stands for the outside. */
export const OUTBOUND = "outside";
/** The names of the Worker under test, and of the one whose classes stand in for its objects. */
const [NAME, OBJECTS] = ["worker", "objects"];
/** The name of the Worker that reads traces. */
const TRACES = "traces";
/** The name of the Worker that has a service binding to the one under test. */
export const BOUND = "bound";

const compatibilityDate =
  /^compatibility_date = "(.*)"$/m.exec(readFileSync("wrangler.toml", "utf8"))?.[1] ?? "";

type RateLimitOptions = { namespace_id: string; simple: { limit: number; period: 10 | 60 } };

export type TestWorkerOptions = {
  /** The source of a Worker that answers whatever the Worker under test dials, instead of the network. */
  outbound?: string;
  /** Bindings of further instances of the Worker over the same objects, beside those of the first. */
  others?: Record<string, string>[];
  /** The source of a Worker whose classes stand in for the objects. */
  objects?: string;
  /** Keeps what the objects store in this directory, so that it is there when they are started again. */
  directory?: string;
  /** Whether it has its files, as a deployment has. Default: it has. */
  hasAssets?: boolean;
  /** Lets the objects of conversations log `object.constructed`. */
  countsObjects?: boolean;
  /** Has the runtime trace; `lines` then holds what it records, each behind `trace `. */
  traces?: boolean;
  /** The source of a Worker that has a service binding, `EDGE`, to the entrypoint of the Worker under test. */
  bound?: string;
  /** Rate limiters by the name of their binding. Without any, nothing is limited. */
  rateLimits?: Record<string, RateLimitOptions>;
};

/** As `[assets]` in wrangler.toml has it. */
const FILES = {
  directory: ASSETS,
  binding: "ASSETS",
  routerConfig: { has_user_worker: true, invoke_user_worker_ahead_of_assets: true },
  assetConfig: { html_handling: "none", not_found_handling: "none" },
} as const;

const CLASSES = { LIVE_CONVERSATIONS: "LiveConversation", STORAGE_OBJECTS: "StorageObject" } as const;

export async function startWorker(
  bindings: Record<string, string> = LOCAL_BINDINGS,
  {
    outbound,
    rateLimits = {},
    others = [],
    objects,
    directory: persisted,
    hasAssets = true,
    countsObjects = false,
    traces = false,
    bound,
  }: TestWorkerOptions = {},
): Promise<TestWorker> {
  const lines: string[] = [];
  const waiting = new Set<() => void>();
  const directory = inject(countsObjects ? "countingBundleDirectory" : "bundleDirectory");
  const scriptName = objects === undefined ? NAME : OBJECTS;
  const instance = (name: string, own: Record<string, string>) =>
    ({
      name,
      modules: true,
      scriptPath: join(directory, "index.js"),
      modulesRoot: directory,
      compatibilityDate,
      bindings: own,
      ratelimits: rateLimits,
      ...(hasAssets ? { assets: FILES } : {}),
      durableObjects: Object.fromEntries(
        Object.entries(CLASSES).map(([binding, className]) => [
          binding,
          { className, useSQLite: true, ...(name === scriptName ? {} : { scriptName }) },
        ]),
      ),
      ...(outbound === undefined ? {} : { outboundService: OUTBOUND }),
      ...(traces ? { streamingTails: [TRACES] } : {}),
    }) as const;
  const outside = { name: OUTBOUND, modules: true, script: outbound ?? "", compatibilityDate } as const;
  const standIns = {
    name: OBJECTS,
    modules: true,
    script: objects ?? "",
    compatibilityDate,
    durableObjects: Object.fromEntries(
      Object.entries(CLASSES).map(([binding, className]) => [binding, { className, useSQLite: true }]),
    ),
  } as const;
  const traceReader = {
    name: TRACES,
    modules: true as const,
    // Some of the runtime's own attributes are BigInts.
    script: `const plain = (_key, value) => typeof value === "bigint" ? Number(value) : value;
      const write = (line) => console.log("trace " + JSON.stringify(line, plain));
      export default { tailStream(onset) { write(onset); return write; } };`,
    compatibilityDate,
    compatibilityFlags: ["streaming_tail_worker", "experimental"],
  };
  const caller = {
    name: BOUND,
    modules: true,
    script: bound ?? "",
    compatibilityDate,
    serviceBindings: { EDGE: { name: NAME, entrypoint: "AgentSessions" } },
  } as const;
  const miniflare = new Miniflare({
    ...convertV4MiniflareOptions({
      workers: [
        instance(NAME, bindings),
        ...others.map((own, i) => instance(`${NAME}-${i + 1}`, { ...bindings, ...own })),
        ...(outbound === undefined ? [] : [outside]),
        ...(objects === undefined ? [] : [standIns]),
        ...(traces ? [traceReader] : []),
        ...(bound === undefined ? [] : [caller]),
      ],
      handleStructuredLogs: ({ message }) => {
        lines.push(message);
        for (const wake of waiting) wake();
      },
    }),
    ...(persisted === undefined ? {} : { resourcePersistencePath: persisted }),
  });
  const url = await miniflare.ready;
  if (Object.keys(rateLimits).length > 0) await clearOfTheMinute();
  const logs = () => lines.flatMap((line) => (line.startsWith("{") ? [JSON.parse(line) as LogLine] : []));

  async function fetchFrom(instance: number, path: string, given?: RequestInit & { json?: unknown }) {
    const [target, init] = [new URL(path, url), withJson(given)];
    if (instance === 0) return asDescribed(target, init, await fetch(target, init));
    const worker = await miniflare.getWorker(`${NAME}-${instance}`);
    const response = (await worker.fetch(target, init as never)) as unknown as Response;
    return asDescribed(target, init, response);
  }

  return {
    url,
    lines,
    logs,
    miniflare,
    fetch: (path, init) => fetchFrom(0, path, init),
    fetchFrom,
    logged(event) {
      const { promise, resolve, reject } = Promise.withResolvers<LogLine>();
      const timer = setTimeout(
        () => reject(new Error(`no ${event} was logged:\n${lines.join("\n")}`)),
        5_000,
      );
      const look = () => {
        const line = logs().find((candidate) => candidate.event === event);
        if (line !== undefined) resolve(line);
      };
      waiting.add(look);
      look();
      return promise.finally(() => {
        clearTimeout(timer);
        waiting.delete(look);
      });
    },
    conversationObjects: async () => (await miniflare.listDurableObjectIds("LIVE_CONVERSATIONS")).length,
    evict: (name, webSockets = "hibernate") =>
      miniflare.unsafeEvictDurableObject(NAME, CLASSES.LIVE_CONVERSATIONS, { name, webSockets }),
    close: () => miniflare.dispose(),
  };
}

/** Longer than a test needs to go over a limit. */
const LIMITS_TAKE_MS = 8_000;

/** Miniflare begins to count anew with each minute of the clock, which nobody can hand it; so a test begins well before its end. */
async function clearOfTheMinute(): Promise<void> {
  const left = 60_000 - (Date.now() % 60_000);
  if (left < LIMITS_TAKE_MS) await new Promise((resolve) => setTimeout(resolve, left + 50));
}

function withJson({ json, ...init }: RequestInit & { json?: unknown } = {}): RequestInit {
  if (json === undefined) return init;
  const headers = { "content-type": "application/json", ...(init.headers as Record<string, string>) };
  return { method: "POST", ...init, body: JSON.stringify(json), headers };
}
