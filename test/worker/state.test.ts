/** The orchestrator's state and the assistant's memory, through the built Worker: embedded, and over a real Redis. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type FaultyGateway, startFaultyGateway } from "../support/faulty-gateway.ts";
import { startRedis } from "../support/redis.ts";
import { bindingsOver, LOCAL_BINDINGS, startWorker, type TestWorker } from "../support/worker.ts";

const STATE = "/state/api";
const MEMORY = "/memory/api";
const NEUTRAL = {
  brand: null,
  category: null,
  price: null,
  city: null,
  gender: null,
  intentSpecific: {},
  lastQuery: "",
  lastAnswer: "",
};

let worker: TestWorker;
let ids = 0;
/** A path that no other test uses. */
const fresh = (api: string) => `${api}/c${ids++}`;

const put = (path: string, json: unknown) => worker.fetch(path, { method: "PUT", json });
const patch = (path: string, json: unknown) => worker.fetch(path, { method: "PATCH", json });
const touch = (path: string) => worker.fetch(`${path}/touch`, { method: "POST" });
const remove = (path: string) => worker.fetch(path, { method: "DELETE" });
const putText = (path: string, body: string, method = "PUT") =>
  worker.fetch(path, { method, body, headers: { "content-type": "application/json" } });

async function codeOf(response: Response): Promise<string> {
  expect(response.headers.get("content-type")).toBe("application/problem+json");
  return ((await response.json()) as { code: string }).code;
}

/** What the routes do, whatever the storage. */
function itKeepsStates() {
  test("a state is put, answered, read, touched and deleted", async () => {
    const path = fresh(STATE);
    const state = { step: "payment", at: "2026-01-01T00:00:00.000Z", $date: "2026-01-01T00:00:00.000Z" };
    const written = await put(path, state);
    expect(written.status).toBe(200);
    expect(written.headers.get("content-type")).toBe("application/json");
    expect(await written.json()).toEqual(state);
    expect(await (await worker.fetch(path)).json()).toEqual(state);
    expect(await (await touch(path)).json()).toEqual({ success: true, ttl: 3600 });
    expect(await (await put(path, { step: 2 })).json()).toEqual({ step: 2 });
    expect(await (await worker.fetch(path)).json()).toEqual({ step: 2 });
    expect(await (await remove(path)).json()).toEqual({ success: true, deleted: true });
    expect(await (await remove(path)).json()).toEqual({ success: true, deleted: false });
  });

  test("an absent state is state_not_found, and touching it creates nothing", async () => {
    const path = fresh(STATE);
    for (const response of [await worker.fetch(path), await touch(path), await worker.fetch(path)]) {
      expect(response.status).toBe(404);
      expect(await codeOf(response)).toBe("state_not_found");
    }
  });

  test("a memory is put, completed, patched, read, touched and deleted", async () => {
    const path = fresh(MEMORY);
    const written = await put(path, { domain: "shopping", brand: "Acme", cart: { items: [1, 2] } });
    expect(written.status).toBe(200);
    const complete = { ...NEUTRAL, domain: "shopping", brand: "Acme", cart: { items: [1, 2] } };
    expect(await written.json()).toEqual(complete);
    expect(await (await worker.fetch(path)).json()).toEqual(complete);

    const patched = await patch(path, { price: 20, cart: { items: [3] } });
    expect(patched.status).toBe(200);
    const changed = { ...complete, price: 20, cart: { items: [3] } };
    expect(await patched.json()).toEqual(changed);
    expect(await (await worker.fetch(path)).json()).toEqual(changed);

    expect(await (await touch(path)).json()).toEqual({ success: true, ttl: 1800 });
    expect(await (await remove(path)).json()).toEqual({ success: true, deleted: true });
    expect(await (await remove(path)).json()).toEqual({ success: true, deleted: false });
  });

  test("an absent memory is memory_not_found, and neither PATCH nor touch creates one", async () => {
    const path = fresh(MEMORY);
    for (const ask of [
      () => worker.fetch(path),
      () => patch(path, { domain: "hotel" }),
      () => touch(path),
      () => worker.fetch(path),
    ]) {
      const response = await ask();
      expect(response.status).toBe(404);
      expect(await codeOf(response)).toBe("memory_not_found");
    }
  });

  test("state and memory of one conversation are two things", async () => {
    const id = fresh("");
    await put(`${STATE}${id}`, { a: 1 });
    await put(`${MEMORY}${id}`, { domain: "general" });
    await remove(`${STATE}${id}`);
    expect((await worker.fetch(`${MEMORY}${id}`)).status).toBe(200);
  });

  const ODD =
    '"id":12345678901234567890,"tiny":1e-400,"zero":-0,"__proto__":{"a":1},"constructor":{"prototype":null},"":"","ü":"\\u2028"';

  test("any JSON comes back to the last digit, and odd keys are data", async () => {
    const state = `{${ODD.replace("\\u2028", "\u2028")}}`;
    const path = fresh(STATE);
    expect(await (await putText(path, state)).text()).toBe(state);
    expect(await (await worker.fetch(path)).text()).toBe(state);

    const memory = fresh(MEMORY);
    await put(memory, { domain: "general" });
    const patched = await (await putText(memory, state, "PATCH")).text();
    expect(patched).toContain(state.slice(1, -1));
    expect(await (await worker.fetch(memory)).text()).toBe(patched);
  });

  test("200 PATCHes of one memory at once lose none", async () => {
    const path = fresh(MEMORY);
    await put(path, { domain: "general" });
    /** A client that is told to come again, because too many were at it, does. */
    const insist = async (fields: object): Promise<void> => {
      const response = await patch(path, fields);
      await response.arrayBuffer();
      if (response.status === 503) return insist(fields);
      expect(response.status).toBe(200);
    };
    await Promise.all(Array.from({ length: 200 }, (_, i) => insist({ [`field${i}`]: i })));
    expect(await (await worker.fetch(path)).json()).toEqual({
      ...NEUTRAL,
      domain: "general",
      ...Object.fromEntries(Array.from({ length: 200 }, (_, i) => [`field${i}`, i])),
    });
  });
}

describe("embedded", () => {
  beforeAll(async () => {
    worker = await startWorker();
  });
  afterAll(() => worker.close());

  itKeepsStates();

  describe("what is refused", () => {
    // What a PUT may bring is in bad-input.test.ts, with the other routes that make something.
    describe("in a PATCH", () => {
      const path = `${MEMORY}/bad`;
      test.each([
        ["malformed JSON", '{"a":'],
        ["nothing", ""],
        ["a list", "[]"],
        ["a number", "7"],
        ["text", '"x"'],
        ["null", "null"],
        ["a thousand levels", `{"a":${"[".repeat(1_000)}${"]".repeat(1_000)}}`],
      ])("%s is invalid_request", async (_name, body) => {
        const response = await putText(path, body, "PATCH");
        expect(response.status).toBe(400);
        expect(await codeOf(response)).toBe("invalid_request");
      });

      test("more than 64 KiB is payload_too_large", async () => {
        const response = await patch(path, { a: "x".repeat(65_536) });
        expect(response.status).toBe(413);
        expect(await codeOf(response)).toBe("payload_too_large");
      });

      test("another media type is unsupported_media_type", async () => {
        const headers = { "content-type": "text/plain" };
        const response = await worker.fetch(path, { method: "PATCH", body: "{}", headers });
        expect(response.status).toBe(415);
      });
    });

    test.each([
      ["domain", { domain: "cars" }],
      ["price", { domain: "hotel", price: -1 }],
      ["gender", { domain: "hotel", gender: "x" }],
      ["intentSpecific", { domain: "hotel", intentSpecific: 1 }],
    ])("an impossible %s is invalid_request, names the field and changes nothing", async (path, fields) => {
      const url = fresh(MEMORY);
      const refused = await put(url, fields);
      expect(refused.status).toBe(400);
      expect(await refused.json()).toMatchObject({ code: "invalid_request", errors: [{ path }] });
      expect((await worker.fetch(url)).status).toBe(404);

      await put(url, { domain: "general" });
      expect((await patch(url, fields)).status).toBe(400);
      expect(await (await worker.fetch(url)).json()).toEqual({ ...NEUTRAL, domain: "general" });
    });

    test("a memory without a domain names the field", async () => {
      expect(await (await put(fresh(MEMORY), {})).json()).toMatchObject({ errors: [{ path: "domain" }] });
    });

    test("patches cannot make a memory grow beyond 64 KiB", async () => {
      const url = fresh(MEMORY);
      await put(url, { domain: "general", a: "x".repeat(40_000) });
      const response = await patch(url, { b: "x".repeat(40_000) });
      expect(response.status).toBe(413);
      expect(await codeOf(response)).toBe("payload_too_large");
      expect((await patch(url, { a: "", b: "x".repeat(40_000) })).status).toBe(200);
    });

    test("nothing of all this was stored", async () => {
      expect((await worker.fetch(`${MEMORY}/bad`)).status).toBe(404);
    });
  });
});

describe("switches", () => {
  test("USE_REDIS_SESSIONS=false keeps the memory in the isolate, and only the memory", async () => {
    // Nothing listens there: whatever needs the storage fails.
    const unreachable = {
      ...LOCAL_BINDINGS,
      STORAGE: "upstash",
      UPSTASH_REDIS_REST_URL: "http://127.0.0.1:9",
      UPSTASH_REDIS_REST_TOKEN: "t",
      USE_REDIS_SESSIONS: "false",
    };
    worker = await startWorker(unreachable);
    try {
      expect((await put(`${MEMORY}/c`, { domain: "general" })).status).toBe(200);
      expect(await (await patch(`${MEMORY}/c`, { city: "Oslo" })).json()).toMatchObject({ city: "Oslo" });
      expect(await (await worker.fetch(`${MEMORY}/c`)).json()).toMatchObject({ city: "Oslo" });
      expect((await worker.fetch(`${MEMORY}/absent`)).status).toBe(404);
      expect((await worker.fetch(`${STATE}/absent`)).status).toBe(503);
    } finally {
      await worker.close();
    }
  });

  test("REDIS_CONVERSATION_TTL is how long a state lives", async () => {
    worker = await startWorker({ ...LOCAL_BINDINGS, REDIS_CONVERSATION_TTL: "1" });
    try {
      await put(`${STATE}/c`, { a: 1 });
      expect(await (await touch(`${STATE}/c`)).json()).toEqual({ success: true, ttl: 1 });
      await expect.poll(async () => (await worker.fetch(`${STATE}/c`)).status, { timeout: 3_000 }).toBe(404);
    } finally {
      await worker.close();
    }
  });
});

const redis = await startRedis({ covers: "state and memory over a real Redis" });

describe.skipIf(redis === null)("over a real Redis", () => {
  if (redis === null) return;
  let gateway: FaultyGateway;

  beforeAll(async () => {
    gateway = await startFaultyGateway({ redisUrl: redis.url, token: "gateway-token" });
    worker = await startWorker(bindingsOver(gateway));
  });
  afterAll(async () => {
    await worker.close();
    await gateway.close();
    await redis.stop();
  });
  beforeEach(() => gateway.clear());

  const commands = () =>
    gateway.seen.flatMap((request) => request.commands.map((command) => command.map(String)));

  itKeepsStates();

  test("a state lives 3,600 s from its last write as Redis counts; a read does not renew it", async () => {
    await put(`${STATE}/ttl`, { a: 1 });
    expect(await redis.client.ttl("conv:ttl")).toBe(3600);
    expect(commands()).toEqual([["set", "conv:ttl", '{"a":1}', "ex", "3600"]]);
    await redis.client.expire("conv:ttl", 100);
    await worker.fetch(`${STATE}/ttl`);
    expect(await redis.client.ttl("conv:ttl")).toBeLessThanOrEqual(100);
    await touch(`${STATE}/ttl`);
    expect(await redis.client.ttl("conv:ttl")).toBe(3600);
  });

  test("a memory lives 1,800 s from its last read or write, and a read is one GETEX", async () => {
    await put(`${MEMORY}/ttl`, { domain: "general" });
    const ask = [
      () => worker.fetch(`${MEMORY}/ttl`),
      () => patch(`${MEMORY}/ttl`, { city: "Oslo" }),
      () => touch(`${MEMORY}/ttl`),
      () => put(`${MEMORY}/ttl`, { domain: "general" }),
    ];
    for (const renew of ask) {
      await redis.client.expire("session:ttl", 100);
      expect((await renew()).status).toBe(200);
      expect(await redis.client.ttl("session:ttl")).toBe(1800);
    }
    gateway.clear();
    await worker.fetch(`${MEMORY}/ttl`);
    expect(commands()).toEqual([["getex", "session:ttl", "ex", "1800"]]);
  });

  test("what stands in Redis is plain JSON", async () => {
    await put(`${MEMORY}/plain`, { domain: "hotel", city: "Oslo" });
    expect(JSON.parse((await redis.client.get("session:plain")) ?? "")).toEqual({
      ...NEUTRAL,
      domain: "hotel",
      city: "Oslo",
    });
  });

  test("writers elsewhere, who do not ask our objects, lose nothing either", async () => {
    await put(`${MEMORY}/shared`, { domain: "general" });
    const elsewhere = await startWorker(bindingsOver(gateway));
    try {
      const responses = await Promise.all(
        Array.from({ length: 60 }, (_, i) =>
          (i % 2 === 0 ? worker : elsewhere).fetch(`${MEMORY}/shared`, {
            method: "PATCH",
            json: { [`field${i}`]: i },
          }),
        ),
      );
      expect(new Set(responses.map(({ status }) => status))).toEqual(new Set([200]));
      const memory = (await (await worker.fetch(`${MEMORY}/shared`)).json()) as object;
      expect(Object.keys(memory).filter((key) => key.startsWith("field"))).toHaveLength(60);
    } finally {
      await elsewhere.close();
    }
  });

  test("a request that is cancelled does not hold up those behind it for longer than Redis may take", async () => {
    await put(`${MEMORY}/cancelled`, { domain: "general" });
    gateway.fail({ kind: "slow", ms: 3_000 }, 1);
    const cancelled = new AbortController();
    const first = worker
      .fetch(`${MEMORY}/cancelled`, { method: "PATCH", json: { a: 1 }, signal: cancelled.signal })
      .catch(() => "cancelled");
    await expect.poll(() => gateway.seen.length).toBeGreaterThan(1);
    const start = performance.now();
    const second = patch(`${MEMORY}/cancelled`, { b: 2 });
    cancelled.abort();
    expect(await first).toBe("cancelled");
    expect((await second).status).toBe(200);
    expect(performance.now() - start).toBeLessThan(2_500);
    await expect
      .poll(async () => (await worker.fetch(`${MEMORY}/cancelled`)).json(), { timeout: 10_000 })
      .toMatchObject({ b: 2 });
  });
});
