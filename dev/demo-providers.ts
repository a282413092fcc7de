/**
 * `npm run demo:providers`: one result for each provider besides ElevenLabs. A stand-in for all of them, the Worker in
 * `wrangler dev`, a call registered at each, and a callback that is the same for all; printed is what the
 * sender was answered, and what the stand-in saw. It reaches out to nobody, and ends by itself.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { PROVIDER_NAMES } from "../lib/push/providers.ts";
import { startFakeVoiceProviders, variablesOf } from "./fake-voice-providers.ts";
import { freePort } from "./free-port.ts";
import { newSecret } from "./new-secret.ts";

const START_LIMIT_MS = 60_000;

const port = await freePort();

const providers = await startFakeVoiceProviders();
const directory = mkdtempSync(join(tmpdir(), "demo-providers-"));
const [apiToken, webhookSecret] = [newSecret("API_TOKEN"), newSecret("WEBHOOK_SECRET")];
const variables = {
  ...variablesOf(providers),
  STORAGE: "embedded",
  ELEVENLABS_AGENT_ENABLED: "true",
  API_TOKEN: apiToken,
  SESSION_TOKEN_SECRET: newSecret("SESSION_TOKEN_SECRET"),
  WEBHOOK_SECRET: webhookSecret,
};
const environment = join(directory, "variables");
const lines = Object.entries(variables).map(([name, value]) => `${name}="${value}"`);
writeFileSync(environment, lines.join("\n"), { mode: 0o600 });

const worker = spawn(
  process.execPath,
  [
    join(import.meta.dirname, "worker.ts"),
    ...["--port", String(port), "--env-file", environment, "--persist-to", join(directory, "state")],
  ],
  { stdio: ["ignore", "ignore", "inherit"] },
);
const url = `http://127.0.0.1:${port}`;

async function post(path: string, token: string, body: object): Promise<unknown> {
  const response = await fetch(url + path, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
    body: JSON.stringify(body),
  });
  return response.json();
}

async function untilItAnswers(): Promise<void> {
  for (const deadline = Date.now() + START_LIMIT_MS; Date.now() < deadline; await sleep(100)) {
    if (worker.exitCode !== null) break;
    if (
      await fetch(`${url}/health`).then(
        ({ ok }) => ok,
        () => false,
      )
    )
      return;
  }
  throw new Error("The Worker did not begin.");
}

try {
  await untilItAnswers();
  for (const provider of PROVIDER_NAMES) {
    const [id, call] = [`demo-${provider}`, `call-${provider}`];
    const controlUrl = provider === "vapi" ? { controlUrl: `${providers.url}/${call}/control` } : {};
    await post(`/agent-conversations/api/${id}/session`, apiToken, {
      provider,
      agentSessionId: call,
      ...controlUrl,
    });
    const answer = await post("/callback", webhookSecret, {
      requestId: "r1",
      conversationId: id,
      output: "Your table is booked for eight.",
    });
    console.log(`${provider}\n  the sender is answered  ${JSON.stringify(answer)}`);
    for (const { method, path, body } of providers.call(call).seen) {
      const seen = [
        ...(method === "frame" ? [] : [method, path]),
        ...(body === null ? [] : [JSON.stringify(body)]),
      ];
      console.log(`  the provider sees       ${seen.join(" ")}`);
    }
  }
} finally {
  worker.kill("SIGTERM");
  if (worker.exitCode === null) await once(worker, "close");
  await providers.close();
  rmSync(directory, { recursive: true, force: true });
}
