/** Signed URLs through the built Worker: who gets one, for which agents, and what is said where there is none. */
import { afterEach, describe, expect, test } from "vitest";
import { type ProviderOptions, SIGNATURE, startProvider, type TestProvider } from "../support/provider.ts";
import { API_TOKEN, CLOSED_DOORS, SHARED_SECRET } from "../support/secrets.ts";
import { LOCAL_BINDINGS, startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
const API_KEY = "el-key-0123456789";
let worker: TestWorker;
let provider: TestProvider;

afterEach(async () => {
  await worker.close();
  await provider.close();
});

async function start(options: ProviderOptions = {}, own: Record<string, string> = {}): Promise<void> {
  provider = await startProvider(options);
  worker = await startWorker({
    ...LOCAL_BINDINGS,
    ...CLOSED_DOORS,
    ELEVENLABS_API_URL: provider.url,
    ELEVENLABS_API_KEY: API_KEY,
    ELEVENLABS_AGENT_IDS: "agent_1,agent_2",
    ...own,
  });
}

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

async function tokenOf(id: string): Promise<string> {
  const response = await worker.fetch(`${API}/${id}/token`, { method: "POST", headers: bearer(API_TOKEN) });
  return ((await response.json()) as { token: string }).token;
}

async function ask(query: string, credential?: string) {
  const headers = bearer(credential ?? (await tokenOf("c1")));
  const response = await worker.fetch(`${API}/c1/signed-url${query}`, { headers });
  return { response, body: (await response.json()) as Record<string, unknown> };
}

test("a page with its token is given one that starts a listed agent, for 15 minutes", async () => {
  await start();
  const { response, body } = await ask("?agentId=agent_2");
  expect(response.status).toBe(200);
  expect(response.headers.get("cache-control")).toBe("no-store");
  const origin = provider.url.replace("http:", "ws:");
  expect(body).toEqual({
    signedUrl: `${origin}/v1/convai/conversation?agent_id=agent_2&conversation_signature=${SIGNATURE}`,
    expiresAt: expect.any(String),
  });
  const livesMs = Date.parse(String(body.expiresAt)) - Date.now();
  expect(livesMs).toBeGreaterThan(14 * 60_000);
  expect(livesMs).toBeLessThanOrEqual(15 * 60_000);
  expect(provider.asked).toMatchObject([{ headers: { "xi-api-key": API_KEY } }]);
});

describe("nobody is asked for one", () => {
  test.each(["", "?agentId=", "?agentId=agent_3", "?agentId=agent_1,agent_2", "?agentid=agent_1"])(
    "for an agent that is not listed: %s",
    async (query) => {
      await start();
      const { response, body } = await ask(query);
      expect(response.status).toBe(403);
      expect(body).toMatchObject({ code: "forbidden" });
      expect(provider.asked).toEqual([]);
    },
  );

  test("for any agent, where none is listed", async () => {
    await start({}, { ELEVENLABS_AGENT_IDS: "" });
    expect((await ask("?agentId=agent_1")).response.status).toBe(403);
    expect(provider.asked).toEqual([]);
  });

  test("with no credential, another conversation's or a webhook's", async () => {
    await start();
    const refused = [await tokenOf("c2"), SHARED_SECRET, ""];
    const statuses: number[] = [];
    for (const credential of refused)
      statuses.push((await ask("?agentId=agent_1", credential)).response.status);
    expect(statuses).toEqual([403, 401, 401]);
    expect(provider.asked).toEqual([]);
  });
});

describe("where the provider", () => {
  test.each<[string, ProviderOptions["answer"], number, string]>([
    ["refuses the key", (response) => response.writeHead(401).end(), 502, "provider_refused"],
    ["answers garbage", (response) => response.end("<html>"), 502, "provider_refused"],
    [
      "names another host",
      (response) => response.end(JSON.stringify({ signed_url: "wss://evil.example/?k=provider-secret" })),
      502,
      "provider_refused",
    ],
    [
      "redirects",
      (response) => response.writeHead(302, { location: "/elsewhere" }).end(),
      502,
      "provider_refused",
    ],
    ["fails", (response) => response.writeHead(500).end("provider-secret"), 503, "provider_unavailable"],
    ["hangs up", (response) => response.socket?.destroy(), 503, "provider_unavailable"],
  ])("%s, the answer says so and nothing else", async (_what, answer, status, code) => {
    await start(answer === undefined ? {} : { answer });
    const { response, body } = await ask("?agentId=agent_1");
    expect(response.status).toBe(status);
    expect(body).toMatchObject({ code, status });
    expect(response.headers.has("retry-after")).toBe(status === 503);
    expect(await worker.logged("provider.failed")).toMatchObject({ level: "warn", conversationId: "c1" });
    // A connection that breaks is tried once more by the runtime.
    expect(provider.asked.length).toBeLessThanOrEqual(2);
    const said = JSON.stringify([body, worker.lines]);
    for (const secret of [API_KEY, SIGNATURE, "provider-secret", "evil.example"])
      expect(said).not.toContain(secret);
  });
});

test("they are counted with the sessions of the conversation", async () => {
  await start();
  await worker.close();
  worker = await startWorker(
    {
      ...LOCAL_BINDINGS,
      ELEVENLABS_API_URL: provider.url,
      ELEVENLABS_API_KEY: API_KEY,
      ELEVENLABS_AGENT_IDS: "agent_1",
    },
    { rateLimits: { CONVERSATION_RATE_LIMIT: { namespace_id: "1", simple: { limit: 2, period: 60 } } } },
  );
  const statuses: number[] = [];
  for (let i = 0; i < 3; i++)
    statuses.push((await worker.fetch(`${API}/c1/signed-url?agentId=agent_1`)).status);
  expect(statuses).toEqual([200, 200, 429]);
});
