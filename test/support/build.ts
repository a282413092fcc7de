/**
 * Builds the Worker once for a whole test run, the way it is deployed, and hands the bundle's path to the
 * tests. Vitest's global setup.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildSync } from "esbuild";
import type { TestProject } from "vitest/node";

declare module "vitest" {
  interface ProvidedContext {
    bundleDirectory: string;
    /** The same Worker, not minified, whose conversations' objects log `object.constructed`. */
    countingBundleDirectory: string;
  }
}

export default function setup(project: TestProject): () => void {
  const directory = mkdtempSync(join(tmpdir(), "edge-agent-sessions-"));
  const build = spawnSync("node_modules/.bin/wrangler", ["deploy", "--dry-run", "--outdir", directory], {
    encoding: "utf8",
    env: { ...process.env, WRANGLER_SEND_METRICS: "false", CI: "true" },
  });
  if (build.status !== 0) throw new Error(`The Worker does not build:\n${build.stdout}\n${build.stderr}`);
  const counting = mkdtempSync(join(tmpdir(), "edge-agent-sessions-counting-"));
  buildSync({
    entryPoints: ["test/support/counting-worker.ts"],
    outfile: join(counting, "index.js"),
    bundle: true,
    format: "esm",
    external: ["cloudflare:workers"],
    conditions: ["workerd"],
  });
  project.provide("bundleDirectory", directory);
  project.provide("countingBundleDirectory", counting);
  return () => {
    for (const made of [directory, counting]) rmSync(made, { recursive: true, force: true });
  };
}
