/** The Workers that are compared: ours as it is deployed, and bare ones, with the same configuration. */
import { spawnSync } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { stripTypeScriptTypes } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PUBLISH_AFTER_MS } from "../lib/live/exchange.ts";
import { startWorkerd, type Workerd, type WorkerOptions } from "./workerd.ts";

const ROOT = join(import.meta.dirname, "..");

export type Script = {
  name: "bare" | "ours";
  source: string;
  /** The classes of its objects by the names of their bindings. */
  objects: Record<string, string>;
};

export const OBJECTS = { LIVE_CONVERSATIONS: "LiveConversation", STORAGE_OBJECTS: "StorageObject" };

export type Gateway = { url: string; token: string };

/** Answers, and does nothing else. */
export const EMPTY: Script = {
  name: "bare",
  source: `export default { fetch: () => new Response("") };`,
  objects: {},
};

/** The floor. */
export async function bareScript(): Promise<Script> {
  return { name: "bare", source: await withoutTypes("bare-worker.ts"), objects: OBJECTS };
}

/** A proxy that passes frames on and does nothing else. */
export async function bareProxyScript(): Promise<Script> {
  const { LIVE_CONVERSATIONS } = OBJECTS;
  return { name: "bare", source: await withoutTypes("bare-proxy.ts"), objects: { LIVE_CONVERSATIONS } };
}

/** Built by wrangler, as for a deployment; for a profile with the names that the source has. */
export async function ourScript({ isMinified = true } = {}): Promise<Script> {
  const directory = await mkdtemp(join(tmpdir(), "bundle-"));
  try {
    const wrangler = join(ROOT, "node_modules/.bin/wrangler");
    const build = spawnSync(
      wrangler,
      ["deploy", "--dry-run", "--outdir", directory, ...(isMinified ? [] : ["--minify=false"])],
      {
        cwd: ROOT,
        encoding: "utf8",
        env: { ...process.env, WRANGLER_SEND_METRICS: "false", CI: "true" },
      },
    );
    if (build.status !== 0) throw new Error(`The Worker does not build:\n${build.stdout}\n${build.stderr}`);
    return {
      name: "ours",
      source: await readFile(join(directory, "index.js"), "utf8"),
      objects: OBJECTS,
    };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

export type ScriptOptions = {
  /** With `recording-worker.ts` in front of it. */
  isRecorded?: boolean;
  /** Besides those that both have. */
  bindings?: Record<string, string>;
} & Pick<WorkerOptions, "filesIn" | "args">;

export async function startScript(
  { source, objects }: Script,
  { url, token }: Gateway,
  { isRecorded = false, bindings = {}, ...options }: ScriptOptions = {},
): Promise<Workerd> {
  return startWorkerd({
    ...options,
    modules: {
      ...(isRecorded ? { "recording-worker.js": await withoutTypes("recording-worker.ts") } : {}),
      "index.js": source,
    },
    objects,
    compatibilityDate: await compatibilityDate(),
    bindings: {
      STORAGE: "upstash",
      UPSTASH_REDIS_REST_URL: url,
      UPSTASH_REDIS_REST_TOKEN: token,
      ELEVENLABS_AGENT_ENABLED: "true",
      REQUIRE_AUTH: "false",
      PUSH_ALLOWED_HOSTS: "localhost,127.0.0.1",
      // For the floor; ours does not know it.
      LOGGED_AFTER_MS: String(PUBLISH_AFTER_MS),
      ...bindings,
    },
  });
}

/** The agent that pages may start by the proxy. */
export const AGENT_ID = "agent_1";

/** What the proxy needs, with a provider of the loopback. */
export function agentBindings(providerUrl: string): Record<string, string> {
  return {
    ELEVENLABS_API_URL: providerUrl,
    ELEVENLABS_API_KEY: "a-key-that-opens-nothing-else",
    ELEVENLABS_AGENT_IDS: AGENT_ID,
  };
}

export const apiOf = (conversationId: string) => `/agent-conversations/api/${conversationId}`;

async function compatibilityDate(): Promise<string> {
  const wrangler = await readFile(join(ROOT, "wrangler.toml"), "utf8");
  return /^compatibility_date = "(.*)"$/m.exec(wrangler)?.[1] ?? "";
}

async function withoutTypes(file: string): Promise<string> {
  return stripTypeScriptTypes(await readFile(join(import.meta.dirname, file), "utf8"));
}
