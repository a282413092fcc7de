/**
 * `npm run dev`, and a part of `npm start`: the Worker on this machine, in `wrangler dev` without what that opens
 * besides. Left alone it serves to every process of the machine, without a credential,
 *
 * - a Local Explorer that runs SQL on the objects, and reads session URLs with their tokens there;
 * - a debugger that runs any code in the Worker, and a port for other Workers that reaches its objects;
 *
 * and stores a trace of each push with its full URL, which outlives the 600 s of the session. No configuration file
 * of wrangler switches these off; environment variables and its programming interface do.
 *
 *     node dev/worker.ts [--port 8787] [--env-file FILE] [--persist-to DIR] [--watch]
 *
 * Without `--env-file` the variables come from `.dev.vars`. With `--watch` it begins anew when a file changes, which
 * cuts the connections that are open.
 */
import { chmodSync, mkdirSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";

/** What wrangler must not do on its own: show, record, phone home, ask, download, read other variables. */
const WRANGLER_ENVIRONMENT = {
  X_LOCAL_EXPLORER: "false",
  X_LOCAL_OBSERVABILITY: "false",
  WRANGLER_SEND_METRICS: "false",
  WRANGLER_SEND_ERROR_REPORTS: "false",
  WRANGLER_WRITE_LOGS: "false",
  // The banner is what looks for updates.
  WRANGLER_HIDE_BANNER: "true",
  WRANGLER_NO_SKILLS_UPDATE_PROMPTS: "true",
  CLOUDFLARE_CF_FETCH_ENABLED: "false",
  CLOUDFLARE_INCLUDE_PROCESS_ENV: "false",
  CLOUDFLARE_LOAD_DEV_VARS_FROM_DOT_ENV: "true",
};
Object.assign(process.env, WRANGLER_ENVIRONMENT);

const ROOT = resolve(import.meta.dirname, "..");
const { values } = parseArgs({
  options: {
    port: { type: "string", default: "8787" },
    "env-file": { type: "string" },
    watch: { type: "boolean", default: false },
    "persist-to": { type: "string", default: join(ROOT, ".wrangler/state") },
  },
});
const stateDirectory = resolve(values["persist-to"]);

// The objects hold live sessions: nobody else on this machine reads them.
const stored = join(stateDirectory, "v3");
mkdirSync(stored, { recursive: true });
chmodSync(stored, 0o700);
// What an earlier `wrangler dev` may have recorded.
rmSync(join(stored, "observability"), { recursive: true, force: true });

// Imported when the environment says what it says.
const { unstable_startWorker } = await import("wrangler");
const worker = await unstable_startWorker({
  config: join(ROOT, "wrangler.toml"),
  ...(values["env-file"] === undefined ? {} : { envFiles: [resolve(values["env-file"])] }),
  dev: {
    remote: false,
    watch: values.watch,
    server: { hostname: "127.0.0.1", port: Number(values.port) },
    // No debugger, and, as no registry is named, no port for other Workers.
    inspector: false,
    persist: stateDirectory,
  },
});

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.once(signal, () => void worker.dispose().finally(() => process.exit(0)));
}
