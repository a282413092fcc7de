/**
 * Everything around a browser: the built Worker behind a network of the test's own, the stand-in for ElevenLabs, the
 * example pages, and the example runner, which does what a test says.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type ExampleSite, startExampleSite } from "../../../dev/example-site.ts";
import {
  type FakeProvider,
  type ProviderConversation,
  startFakeProvider,
} from "../../../dev/fake-provider.ts";
import { type Job, startRunner, type Task } from "../../../dev/runner.ts";
import { API_TOKEN, CLOSED_DOORS, OUTBOUND_SECRET, SHARED_SECRET } from "../../support/secrets.ts";
import { LOCAL_BINDINGS, startWorker, type TestWorker } from "../../support/worker.ts";
import { type Plug, startPlug } from "./plug.ts";
import { PATIENCE_MS } from "./visitor.ts";

const ELEVENLABS_API_KEY = "elevenlabs-key-of-the-test-0123456789";
/** The stand-in speaks about as fast as people read, so that it can be met while it speaks. */
const PAUSE_MS = 30;

/** What the runner has begun and does not end by itself. */
export type Work = Job & Task & { finish(output: unknown): void };

export type World = {
  site: ExampleSite;
  provider: FakeProvider;
  /** Between browsers and the Worker. */
  network: Plug;
  /** What the sender of a result is answered. */
  callBack(conversationId: string, requestId: string, fields?: object): Promise<Record<string, unknown>>;
  /** Resolves with the work that the agent of a conversation has asked for last, now or soon. */
  work(conversationId: string): Promise<Work>;
  /** A result as the conversation remembers it. */
  result(conversationId: string, requestId: string): Promise<Record<string, unknown> | undefined>;
  /** The Worker ends and begins again, with what its objects have written. */
  restartWorker(): Promise<void>;
  /** The agent conversations since this was called. */
  conversationsFromNow(): () => readonly ProviderConversation[];
  close(): Promise<void>;
};

export async function startWorld(): Promise<World> {
  const directory = await mkdtemp(join(tmpdir(), "browser-test-"));
  const network = await startPlug();
  const provider = await startFakeProvider({
    apiKey: ELEVENLABS_API_KEY,
    pauseMs: PAUSE_MS,
    tool: { url: `http://127.0.0.1:${network.port}/agent-tools`, secret: SHARED_SECRET },
    log: () => {},
  });
  const begun: Work[] = [];
  const runner = await startRunner({
    signingSecrets: [OUTBOUND_SECRET],
    webhookSecret: SHARED_SECRET,
    work(job, task) {
      const { promise, resolve: finish } = Promise.withResolvers<unknown>();
      begun.push({ ...job, ...task, finish });
      return promise;
    },
    log: () => {},
  });
  const site = await startExampleSite({
    edgeUrl: `http://127.0.0.1:${network.port}`,
    providerUrl: provider.url,
    agentId: "demo",
    apiToken: API_TOKEN,
    webhookSecret: SHARED_SECRET,
    key: "key-of-the-test",
  });
  let worker: TestWorker;

  async function start(): Promise<void> {
    worker = await startWorker(
      {
        ...LOCAL_BINDINGS,
        ...CLOSED_DOORS,
        ALLOWED_ORIGINS: site.origins.join(","),
        ELEVENLABS_API_URL: provider.url,
        ELEVENLABS_API_KEY,
        ELEVENLABS_AGENT_IDS: "demo",
        TOOL_RUNNER_URL: runner.url,
        SIGNING_SECRET: OUTBOUND_SECRET,
      },
      { directory },
    );
    network.leadTo(Number(worker.url.port));
  }
  await start();

  const bearer = (secret: string) => ({ authorization: `Bearer ${secret}` });
  return {
    site,
    provider,
    network,
    async callBack(conversationId, requestId, fields = {}) {
      const json = { conversationId, requestId, output: `output of ${requestId}`, ...fields };
      const response = await worker.fetch("/callback", { headers: bearer(SHARED_SECRET), json });
      return (await response.json()) as Record<string, unknown>;
    },
    async work(conversationId) {
      for (const end = Date.now() + PATIENCE_MS; Date.now() < end; await sleep(20)) {
        const work = begun.findLast((job) => job.conversationId === conversationId);
        if (work !== undefined) return work;
      }
      throw new Error("the runner was asked for nothing");
    },
    async result(conversationId, requestId) {
      const path = `/agent-conversations/api/${conversationId}/results`;
      const response = await worker.fetch(path, { headers: bearer(API_TOKEN) });
      const { results } = (await response.json()) as { results: Record<string, unknown>[] };
      return results.find((result) => result.requestId === requestId);
    },
    async restartWorker() {
      await worker.close();
      await start();
    },
    conversationsFromNow() {
      const earlier = provider.conversations.length;
      return () => provider.conversations.slice(earlier);
    },
    async close() {
      await site.close();
      await network.close();
      await worker.close();
      await runner.close();
      await provider.close();
      await rm(directory, { recursive: true, force: true });
    },
  };
}
