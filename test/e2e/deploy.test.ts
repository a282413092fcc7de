/** `npm run deploy`, up to an API that stands for Cloudflare's and writes down what it is told. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseEnv } from "node:util";
import { expect, test } from "vitest";
import { type Environment, parseConfig } from "../../lib/config.ts";

type Metadata = {
  bindings: { name: string; type: string }[];
  keep_bindings: string[];
  observability: unknown;
};

/** Deploys as the README says, and returns what was uploaded beside the code. */
async function deploy(...options: string[]): Promise<Metadata> {
  const uploads: string[] = [];
  const api = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const [, metadata] =
      /name="metadata"[^\r]*\r\n(?:[^\r]+\r\n)*\r\n([^\r]*)/.exec(Buffer.concat(chunks).toString()) ?? [];
    if (metadata !== undefined) uploads.push(metadata);
    const deployed = { environment: "production", script: { tag: "t", tags: [], migration_tag: "v2" } };
    const url = request.url ?? "";
    const result = url.includes("/services/")
      ? { id: "x", default_environment: deployed }
      : url.endsWith("/deployments")
        ? { deployments: [] }
        : url.endsWith("/secrets")
          ? []
          : {};
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ success: true, errors: [], messages: [], result }));
  });
  await new Promise<void>((resolve) => api.listen(0, "127.0.0.1", resolve));
  const { port } = api.address() as AddressInfo;
  const home = await mkdtemp(join(tmpdir(), "deploy-test-"));
  try {
    const wrangler = spawn(
      process.execPath,
      ["node_modules/wrangler/bin/wrangler.js", "deploy", ...options],
      {
        env: {
          PATH: process.env.PATH ?? "",
          HOME: home,
          CI: "true",
          CLOUDFLARE_API_BASE_URL: `http://127.0.0.1:${port}`,
          CLOUDFLARE_API_TOKEN: "t",
          CLOUDFLARE_ACCOUNT_ID: "0".repeat(32),
          WRANGLER_SEND_METRICS: "false",
          WRANGLER_HIDE_BANNER: "true",
        },
        stdio: "ignore",
      },
    );
    // What it does with the answers after the upload is not looked at.
    await once(wrangler, "exit");
  } finally {
    api.closeAllConnections();
    api.close();
    await rm(home, { recursive: true, force: true });
  }
  expect(uploads).toHaveLength(1);
  return JSON.parse(uploads[0] ?? "{}") as Metadata;
}

test("a second deployment leaves what the first one was given as it is", async () => {
  const variables = ({ bindings }: Metadata) => bindings.filter(({ type }) => type === "plain_text");
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
