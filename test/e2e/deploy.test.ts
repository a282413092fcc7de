/** `npm run deploy`, up to an API that stands for Cloudflare's and writes down what it is told. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseEnv } from "node:util";
import { expect, test } from "vitest";
import { DOOR_SECRETS } from "../../lib/auth/secret-rules.ts";
import { type Environment, parseConfig, VARIABLE_NAMES } from "../../lib/config.ts";
import { startCloudflare, type Upload } from "../support/cloudflare.ts";

/** Deploys as the README says, and returns what was uploaded beside the code, and the paths of the files. */
async function deploy(...options: string[]): Promise<Upload & { files: string[] }> {
  const cloudflare = await startCloudflare({ isNew: false });
  const home = await mkdtemp(join(tmpdir(), "deploy-test-"));
  try {
    const wrangler = spawn(
      process.execPath,
      ["node_modules/wrangler/bin/wrangler.js", "deploy", ...options],
      { env: { PATH: process.env.PATH ?? "", HOME: home, ...cloudflare.environment }, stdio: "ignore" },
    );
    expect(await once(wrangler, "exit")).toEqual([0, null]);
  } finally {
    cloudflare.close();
    await rm(home, { recursive: true, force: true });
  }
  const [upload, ...others] = cloudflare.uploads;
  if (upload === undefined || others.length > 0) throw new Error(`${cloudflare.uploads.length} uploads`);
  return { ...upload, files: cloudflare.assets };
}

test("a second deployment leaves what the first one was given as it is", async () => {
  const variables = ({ bindings }: Upload) => bindings.filter(({ type }) => type === "plain_text");
  const first = await deploy("--var", "ELEVENLABS_AGENT_ENABLED:true");
  expect(variables(first)).toMatchObject([{ name: "ELEVENLABS_AGENT_ENABLED", text: "true" }]);
  const second = await deploy();
  expect(variables(second)).toEqual([]);
  expect(second.keep_bindings).toEqual(expect.arrayContaining(["plain_text", "secret_text"]));
}, 60_000);

test("a deployment records no trace, and no query string of a request", async () => {
  const { observability } = await deploy();
  expect(observability).toEqual({ enabled: true, redact_query_string: true, traces: { enabled: false } });
}, 60_000);

test("a deployment has the console and the description of the API, and serves none of it past the Worker", async () => {
  const { bindings, assets, files } = await deploy();
  expect(bindings).toContainEqual({ name: "ASSETS", type: "assets" });
  expect(assets?.config).toMatchObject({ run_worker_first: true, html_handling: "none" });
  expect(files.sort()).toEqual([
    "/console/console.css",
    "/console/console.js",
    "/console/icon.svg",
    "/console/index.html",
    "/docs.html",
    "/openapi.json",
  ]);
}, 60_000);

test("the deploy button asks for what the Worker reads, and says what each is", () => {
  const asked = Object.keys(parseEnv(readFileSync(".dev.vars.example", "utf8")));
  const { cloudflare } = JSON.parse(readFileSync("package.json", "utf8"));
  expect(Object.keys(cloudflare.bindings).sort()).toEqual(asked.toSorted());
  expect(asked.filter((name) => !VARIABLE_NAMES.some((known) => known === name))).toEqual([]);
  expect(asked).toEqual(expect.arrayContaining([...DOOR_SECRETS]));
});

test(".dev.vars.example lists nothing that would weaken a deployment", () => {
  const text = readFileSync(".dev.vars.example", "utf8");
  // What is commented out is an example too.
  const example = parseEnv(text.replaceAll(/^# ?(?=[A-Z_]+=)/gm, "")) as Environment;
  const parsed = parseConfig(example);
  const closed = parseConfig({ STORAGE: "embedded" });
  expect(parsed).toEqual({
    ok: true,
    config: { ...(closed.ok ? closed.config : {}), featureEnabled: true },
  });
});
