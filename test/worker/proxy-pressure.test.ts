/**
 * A page that stops reading: it is cut off, its memory is bounded, and nobody else notices. In workerd itself: under
 * Miniflare a Worker of the same process stands between, and keeps what the page does not read as well.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { startWorkerd, type Workerd } from "../../bench/workerd.ts";
import { type ProviderConversation, startProvider, type TestProvider } from "../support/provider.ts";
import { connectPage, type ProxiedPage } from "../support/proxied-page.ts";
import { LOCAL_BINDINGS } from "../support/worker.ts";

const MIB = 1024 * 1024;
const PIECE = "x".repeat(16 * 1024);
let worker: Workerd;
let provider: TestProvider;

beforeAll(async () => {
  provider = await startProvider();
  worker = await startWorkerd({
    modules: { "index.js": readFileSync(join(inject("bundleDirectory"), "index.js"), "utf8") },
    objects: { LIVE_CONVERSATIONS: "LiveConversation", STORAGE_OBJECTS: "StorageObject" },
    compatibilityDate:
      /^compatibility_date = "(.*)"$/m.exec(readFileSync("wrangler.toml", "utf8"))?.[1] ?? "",
    bindings: {
      ...LOCAL_BINDINGS,
      ELEVENLABS_API_URL: provider.url,
      ELEVENLABS_API_KEY: "el-key",
      ELEVENLABS_AGENT_IDS: "agent_1",
    },
  });
});
afterAll(async () => {
  await worker.stop();
  await provider.close();
});

async function connect(id: string): Promise<{ page: ProxiedPage; agent: ProviderConversation }> {
  const before = provider.conversations.length;
  const page = await connectPage(new URL(worker.url), id);
  const agent = await provider.opened(before + 1);
  await page.received(1);
  return { page, agent };
}

/** Says so many bytes as fast as the connection takes them, or until it is closed. Resolves with how many it took. */
async function sayMuch({ socket, closed }: ProviderConversation, bytes: number): Promise<number> {
  let said = 0;
  for (; said < bytes && socket.readyState === socket.OPEN; said += PIECE.length) {
    const taken = new Promise<void>((resolve) => socket.send(PIECE, () => resolve()));
    await Promise.race([taken, closed]);
  }
  return said;
}

test("is closed with 1013 while 64 MiB come, the memory of the process grows by less than 16 MiB, and others talk on", async () => {
  // Whatever passes becomes garbage in the runtime's heap first; it has grown to its size by then.
  for (let i = 0; i < 3; i++) {
    const { page, agent } = await connect(`reading-${i}`);
    for (let piece = 0; piece < 512; piece++) {
      agent.socket.send(PIECE);
      if (piece % 64 === 63) await page.received(piece + 2);
    }
    page.socket.close(1000);
    await agent.closed;
  }

  const other = await connect("other");
  const slow = await connect("slow");
  slow.page.socket.pause();
  const isKnown = process.platform === "linux";
  const before = isKnown ? await worker.rssBytes() : 0;
  let peak = before;
  let slowest = 0;
  let isOver = false;
  const watching = (async () => {
    for (let i = 0; !isOver; i++) {
      const start = Date.now();
      other.page.socket.send(`ping ${i}`);
      await other.agent.received(i + 1);
      other.agent.socket.send(`pong ${i}`);
      await other.page.received(i + 2);
      slowest = Math.max(slowest, Date.now() - start);
      if (isKnown) peak = Math.max(peak, await worker.rssBytes());
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  })();
  const said = await sayMuch(slow.agent, 64 * MIB);
  expect((await slow.agent.closed).code).toBe(1000);
  isOver = true;
  await watching;
  slow.page.socket.resume();
  expect(await slow.page.closed()).toEqual({
    code: 1013,
    reason: "The page does not read what it is sent.",
  });
  if (isKnown) {
    console.info(
      `after ${(said / MIB).toFixed(1)} MiB: memory +${((peak - before) / MIB).toFixed(1)} MiB; slowest round trip of another conversation ${slowest} ms`,
    );
    expect(peak - before).toBeLessThan(16 * MIB);
  }
  expect(slowest).toBeLessThan(2_000);
  expect(other.page.socket.readyState).toBe(other.page.socket.OPEN);
  other.page.vanish();
});
