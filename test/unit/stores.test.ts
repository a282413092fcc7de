/** The stores as a program has them that imports the package. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import type { Logger } from "../../lib/log.ts";
import {
  createAssistantSessions,
  createMemoryStorage,
  createSessionStore,
  getConversationStore,
  type MemoryStorage,
  RedisConversationStore,
} from "../../stores/index.ts";
import { type FaultyGateway, startFaultyGateway } from "../support/faulty-gateway.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";

const START = Date.parse("2026-01-01T00:00:00Z");
let clock: number;
let storage: MemoryStorage;
beforeEach(() => {
  clock = START;
  storage = createMemoryStorage({ now: () => clock });
});
const advance = (seconds: number) => {
  clock += seconds * 1000;
};
const silent: Logger = { info() {}, warn() {}, error() {}, with: () => silent };
const options = () => ({ storage, now: () => clock, log: silent });

const SESSION_URL = "wss://api.elevenlabs.io/v1/convai/conversation?token=s3cret";

describe("the live sessions", () => {
  const registration = { sessionUrl: SESSION_URL, agentSessionId: "conv_1", of: { its: ["own"] } };

  test("hold the raw payload for 600 s, whatever reads it", async () => {
    const sessions = createSessionStore(options());
    const session = await sessions.set("c1", registration);
    expect(session).toMatchObject({ conversationId: "c1", wsUrl: SESSION_URL, sessionPayload: registration });
    advance(599.999);
    expect(await sessions.get("c1")).toEqual(session);
    expect(await sessions.secondsLeft("c1")).toBe(1);
    advance(0.001);
    expect(await sessions.get("c1")).toBeNull();
    expect(await sessions.secondsLeft("c1")).toBe(0);
  });

  test("begin anew with a registration, which has an id of its own", async () => {
    const sessions = createSessionStore(options());
    const first = await sessions.set("c1", registration);
    advance(500);
    const second = await sessions.set("c1", { transport: "webrtc" });
    expect(second.registrationId).not.toBe(first.registrationId);
    expect(await sessions.secondsLeft("c1")).toBe(600);
    expect(await sessions.delete("c1", first.registrationId)).toBe(false);
    expect(await sessions.delete("c1", second.registrationId)).toBe(true);
    expect(await sessions.delete("c1")).toBe(false);
  });

  test("tell of a record of the first design how long the storage keeps it", async () => {
    const value = JSON.stringify({ sessionUrl: SESSION_URL });
    await storage.commit([{ type: "set", key: "elevenlabs:session:c1", value, ttlSeconds: 90.5 }]);
    expect(await createSessionStore(options()).secondsLeft("c1")).toBe(91);
  });

  test("take nothing that cannot be pushed to, and no id that is none", async () => {
    const sessions = createSessionStore(options());
    await expect(sessions.set("c1", { metadata: {} })).rejects.toMatchObject({ code: "invalid_request" });
    for (const call of [sessions.get("a:b"), sessions.set("a:b", registration), sessions.delete("a:b")]) {
      await expect(call).rejects.toMatchObject({ code: "invalid_id" });
    }
  });
});

test("the orchestrator's state comes and goes by every method", async () => {
  const store = new RedisConversationStore({ ...options(), keyPrefix: "mine:", ttlSeconds: 60 });
  await store.initialize();
  await store.set("c1", { at: new Date(START) });
  expect(await storage.get("mine:c1")).toBe('{"at":{"$date":"2026-01-01T00:00:00.000Z"}}');
  advance(59);
  expect(await store.refreshTTL("c1")).toBe(60);
  advance(59);
  expect(await store.get("c1")).toEqual({ at: new Date(START) });
  expect(await store.getHealth()).toEqual({ connected: true, latencyMs: 0, usingFallback: false });
  expect(await store.delete("c1")).toBe(true);
  await store.close();
  await expect(store.get("c1")).rejects.toMatchObject({ code: "store_closed" });
});

test("there is one store of a process, until it is closed", async () => {
  expect(() => getConversationStore()).toThrow(TypeError);
  const store = getConversationStore(options());
  expect(getConversationStore()).toBe(store);
  await store.close();
  expect(() => getConversationStore()).toThrow(TypeError);
});

test("the assistant's memory is saved, changed, refreshed and cleared", async () => {
  const sessions = createAssistantSessions(options());
  await sessions.saveSession("c1", { domain: "hotel", city: "Köln" });
  advance(1_000);
  expect(await sessions.updateSession("c1", { price: 90 })).toMatchObject({ city: "Köln", price: 90 });
  advance(1_000);
  expect(await sessions.refreshSessionTTL("c1")).toBe(1_800);
  advance(1_799);
  expect(await sessions.getSession("c1")).toMatchObject({ domain: "hotel" });
  expect(await sessions.clearSession("c1")).toBe(true);
});

test("a record that cannot be read is absent, and said on the console where nobody else is told", async () => {
  const error = vi.spyOn(console, "error").mockImplementation(() => {});
  await storage.commit([{ type: "set", key: "session:c1", value: "{", ttlSeconds: 60 }]);
  expect(await createAssistantSessions({ storage }).getSession("c1")).toBeNull();
  expect(error).toHaveBeenCalledOnce();
  expect(JSON.parse(String(error.mock.calls[0]?.[0]))).toMatchObject({
    event: "record.unreadable",
    key: "session:c1",
  });
  error.mockRestore();
});

describe("where the language cannot keep the source text of a number, as in Node 20", () => {
  const { rawJSON, isRawJSON } = JSON as unknown as Record<string, unknown>;
  beforeEach(() => {
    Object.assign(JSON, { rawJSON: undefined, isRawJSON: undefined });
    vi.resetModules();
  });
  afterEach(() => {
    Object.assign(JSON, { rawJSON, isRawJSON });
    vi.resetModules();
  });

  test("records are kept all the same, with numbers as a double carries them", async () => {
    const stores = await import("../../stores/index.ts");
    await storage.commit([
      { type: "set", key: "conv:c1", value: '{"id":12345678901234567890,"none":-0}', ttlSeconds: 60 },
    ]);
    const store = new stores.RedisConversationStore(options());
    const state = await store.get("c1");
    expect(state).toEqual({ id: 12345678901234567000, none: -0 });
    await store.set("c1", state ?? {});
    expect(await storage.get("conv:c1")).toBe('{"id":12345678901234567000,"none":0}');
    const memory = await stores.createAssistantSessions(options()).saveSession("c1", {
      domain: "general",
      price: 1e21,
    });
    expect(memory.price).toBe(1e21);
  });
});

const redis = await startRedis({ covers: "the package's stores against a real Redis" });
afterAll(() => redis?.stop());

describe.skipIf(redis === null)("with the URL and the token of a database", () => {
  const { url: redisUrl, client } = redis ?? ({} as RedisServer);
  let gateway: FaultyGateway;
  beforeAll(async () => {
    gateway = await startFaultyGateway({ redisUrl, token: "gateway-token" });
  });
  afterAll(() => gateway?.close());

  test("the records are those of the deployed service, with their times to live", async () => {
    const { url, token } = gateway;
    const session = await createSessionStore({ url, token }).set("c1", { sessionUrl: SESSION_URL });
    await new RedisConversationStore({ url, token }).set("c1", { step: 1 });
    await createAssistantSessions({ url, token }).saveSession("c1", { domain: "general" });
    expect(JSON.parse((await client.get("elevenlabs:session:c1")) ?? "")).toEqual(session);
    const ttls = ["elevenlabs:session:c1", "conv:c1", "session:c1"].map((key) => client.ttl(key));
    expect(await Promise.all(ttls)).toEqual([600, 3_600, 1_800]);
  });

  test("of updates at the same time none is lost, without any object that does them in turn", async () => {
    const { url, token } = gateway;
    const [a, b] = [createAssistantSessions({ url, token }), createAssistantSessions({ url, token })];
    await a.saveSession("c2", { domain: "general" });
    const fields = ["brand", "category", "city", "lastQuery", "lastAnswer", "lastImageUrl"];
    await Promise.all(
      fields.map((field, i) => (i % 2 === 0 ? a : b).updateSession("c2", { [field]: "set" })),
    );
    expect(await a.getSession("c2")).toMatchObject(Object.fromEntries(fields.map((name) => [name, "set"])));
  });
});
