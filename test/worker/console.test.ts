/** What an operator asks of all conversations at once, through the built Worker. */
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { startAgent, type TestAgent } from "../support/agent.ts";
import { startInstances } from "../support/instances.ts";
import { openPage } from "../support/page.ts";
import { startRedis } from "../support/redis.ts";
import { LOCAL_BINDINGS, startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
const redis = await startRedis({ covers: "the console over a real Redis" });

afterAll(() => redis?.stop());

type Settled = { id: string; conversationId: string; requestId: string; status: string; attempts: object[] };
type SettledPage = { results: Settled[]; nextBefore?: string };

const codeOf = async (response: Response) => ((await response.json()) as { code: string }).code;

/** What is asked in these tests, of any instance of the Worker. */
function operatorOf({ fetch }: Pick<TestWorker, "fetch">) {
  const read = async <T>(path: string) => {
    const response = await fetch(path);
    expect([path, response.status]).toEqual([path, 200]);
    return (await response.json()) as T;
  };
  return {
    read,
    settled: (query = "") => read<SettledPage>(`/console/api/results${query}`),
    /** Waits until so many results of a conversation stand in the log. */
    async logged(conversationId: string, count: number): Promise<Settled[]> {
      const ask = () => read<SettledPage>(`/console/api/results?conversationId=${conversationId}`);
      await expect.poll(async () => (await ask()).results.length, { timeout: 10_000 }).toBe(count);
      return (await ask()).results;
    },
    callBack: async (conversationId: string, requestId: string, fields: object = {}) =>
      (await (
        await fetch("/callback", { json: { conversationId, requestId, output: "done", ...fields } })
      ).json()) as { status: string; delivered: boolean },
    register: (conversationId: string, sessionUrl: string) =>
      fetch(`${API}/${conversationId}/session`, { json: { sessionUrl } }),
    again: async (conversationId: string, ...requestIds: string[]) =>
      (await (await fetch(`${API}/${conversationId}/results/again`, { json: { requestIds } })).json()) as {
        again: string[];
      },
  };
}

const PAST = new Date(Date.now() - 3_600_000).toISOString();
const late = { deliverBy: PAST };

describe.each([
  ["embedded", async () => ({ worker: await startWorker(), close: async () => {} })],
  ...(redis === null
    ? []
    : [
        [
          "Redis",
          async () => {
            const instances = await startInstances(redis.url);
            // What one instance did, the other shows.
            const fetch: TestWorker["fetch"] = (path, init) =>
              (init?.json === undefined ? instances.a : instances.b).fetch(path, init);
            return { worker: { ...instances.worker, fetch }, close: () => instances.close() };
          },
        ] as const,
      ]),
] as const)("over %s", (kind, start) => {
  let worker: TestWorker;
  let close: () => Promise<void>;
  let agent: TestAgent;
  let operator: ReturnType<typeof operatorOf>;
  let ids = 0;
  const fresh = () => `${kind}-${++ids}`;

  beforeAll(async () => {
    ({ worker, close } = await start());
    operator = operatorOf(worker);
    agent = await startAgent();
  });
  afterAll(async () => {
    await Promise.all([worker.close(), agent.close()]);
    await close();
  });

  test("shows what became of results with their attempts, the one settled last first, and never what they say", async () => {
    const id = fresh();
    await operator.register(id, agent.url);
    await operator.callBack(id, "r1", { output: "a secret output" });
    await operator.callBack(id, "r2", late);
    const results = await operator.logged(id, 2);
    expect(results).toEqual([
      {
        id: expect.any(String),
        conversationId: id,
        requestId: "r2",
        status: "expired",
        delivery: "when_idle",
        receivedAt: expect.any(String),
        settledAt: expect.any(String),
        attempts: [],
      },
      {
        id: expect.any(String),
        conversationId: id,
        requestId: "r1",
        status: "delivered",
        channel: "socket",
        proof: "accepted",
        delivery: "when_idle",
        receivedAt: expect.any(String),
        settledAt: expect.any(String),
        attempts: [{ at: expect.any(String), channel: "socket", outcome: "delivered", proof: "accepted" }],
      },
    ]);
    expect(JSON.stringify(results)).not.toContain("secret");
  });

  test("filters by status, failure, conversation and requestId, and goes on in pages", async () => {
    const [one, other] = [fresh(), fresh()];
    await operator.register(one, agent.url);
    await operator.callBack(one, `of-${one}`);
    for (const requestId of ["a", "b", "c"]) await operator.callBack(other, requestId, late);
    await operator.logged(one, 1);
    await operator.logged(other, 3);
    const idsOf = async (query: string) =>
      (await operator.settled(query)).results.map(({ requestId }) => requestId);
    expect(await idsOf(`?requestId=of-${one}`)).toEqual([`of-${one}`]);
    expect(await idsOf(`?failed=true&conversationId=${one}`)).toEqual([]);
    expect(await idsOf(`?failed=true&conversationId=${other}`)).toEqual(["c", "b", "a"]);
    expect(await idsOf(`?status=delivered&conversationId=${other}`)).toEqual([]);
    const first = await operator.settled(`?limit=2&conversationId=${other}`);
    expect(first.results.map(({ requestId }) => requestId)).toEqual(["c", "b"]);
    const rest = await operator.settled(`?limit=2&conversationId=${other}&before=${first.nextBefore}`);
    expect(rest).toMatchObject({ results: [{ requestId: "a" }] });
    expect(rest.nextBefore).toBeUndefined();
  });

  test.each([
    "limit=0",
    "limit=x",
    "before=x",
    "status=gone",
    "failed=yes",
    "conversationId=a%20b",
    "requestId=%2F",
  ])("refuses results with %s", async (query) => {
    const response = await worker.fetch(`/console/api/results?${query}`);
    expect([response.status, await codeOf(response)]).toEqual([400, "invalid_request"]);
  });

  test("shows what waits, and where", async () => {
    const id = fresh();
    await operator.callBack(id, "r1");
    await operator.callBack(id, "r2");
    const { conversations } = await operator.read<{ conversations: { conversationId: string }[] }>(
      "/console/api/waiting",
    );
    expect(conversations.find(({ conversationId }) => conversationId === id)).toMatchObject({
      conversationId: id,
      lastActivityAt: expect.any(String),
      waiting: 2,
      unconfirmed: 0,
      results: [
        { requestId: "r2", status: "waiting", attempts: [] },
        { requestId: "r1", status: "waiting", attempts: [] },
      ],
    });
  });

  test("shows who is live, how they are reached, and what waits for them", async () => {
    const [dialled, unreachable, gone] = [fresh(), fresh(), fresh()];
    await operator.register(dialled, agent.url);
    await operator.register(unreachable, "wss://api.elevenlabs.io/v1/convai/conversation?agent_id=a");
    await operator.callBack(unreachable, "r1");
    await operator.register(gone, agent.url);
    await worker.fetch(`${API}/${gone}/session`, { method: "DELETE" });
    const { sessions } = await operator.read<{ sessions: { conversationId: string }[] }>(
      "/console/api/sessions",
    );
    const of = (id: string) => sessions.find(({ conversationId }) => conversationId === id);
    expect(of(dialled)).toEqual({
      conversationId: dialled,
      registrationId: expect.any(String),
      channel: "socket",
      createdAt: expect.any(String),
      expiresAt: expect.any(String),
      ttl: expect.any(Number),
      lastActivityAt: expect.any(String),
      waiting: 0,
      unconfirmed: 0,
    });
    expect(of(unreachable)).toMatchObject({ channel: null, waiting: 1 });
    expect(of(gone)).toBeUndefined();
  });

  test("shows who hosts the agent of a session, where that is not ElevenLabs", async () => {
    const id = fresh();
    const json = { provider: "telnyx", agentSessionId: `call-${id}` };
    expect((await worker.fetch(`${API}/${id}/session`, { json })).status).toBe(200);
    const { sessions } = await operator.read<{ sessions: { conversationId: string }[] }>(
      "/console/api/sessions",
    );
    expect(sessions.find(({ conversationId }) => conversationId === id)).toMatchObject(json);
  });

  test("shows who was there, newest first", async () => {
    const id = fresh();
    await operator.register(id, agent.url);
    await operator.register(id, agent.url);
    await worker.fetch(`${API}/${id}/session`, { method: "DELETE" });
    const { connections } = await operator.read<{ connections: { event: string; registrationId: string }[] }>(
      `${API}/${id}/connections`,
    );
    expect(connections.map(({ event }) => event)).toEqual(["ended", "registered", "replaced", "registered"]);
    const registrations = connections.map(({ registrationId }) => registrationId);
    expect(registrations[0]).toBe(registrations[1]);
    expect(registrations[2]).toBe(registrations[3]);
    expect(registrations[0]).not.toBe(registrations[3]);
  });

  test("counts what was settled in each of the last sixty minutes", async () => {
    const id = fresh();
    type Minutes = { minutes: { at: string; delivered: number; failed: number; other: number }[] };
    const sums = async () => {
      const { minutes } = await operator.read<Minutes>("/console/api/rates");
      expect(minutes).toHaveLength(60);
      const of = (name: "delivered" | "failed" | "other") =>
        minutes.slice(-5).reduce((sum, minute) => sum + minute[name], 0);
      return [of("delivered"), of("failed"), of("other")];
    };
    const [delivered = 0, failed = 0, other = 0] = await sums();
    await operator.callBack(id, "older", { topic: "t" });
    await operator.callBack(id, "newer", { topic: "t" });
    await operator.register(id, agent.url);
    await operator.callBack(id, "late", late);
    await operator.logged(id, 3);
    expect(await sums()).toEqual([delivered + 1, failed + 1, other + 1]);
  });

  describe("says again", () => {
    test("what had expired, to whoever is there, and shows how that went", async () => {
      const id = fresh();
      await operator.callBack(id, "r1", late);
      await operator.register(id, agent.url);
      const before = agent.frames.length;
      expect(await operator.again(id, "r1", "never-was")).toEqual({ success: true, again: ["r1"] });
      await expect.poll(() => agent.frames.length).toBe(before + 1);
      expect(agent.frames.at(-1)).not.toContain("may have heard");
      await expect
        .poll(async () => (await operator.logged(id, 1))[0]?.status, { timeout: 10_000 })
        .toBe("delivered");
      // Its sender hears what it heard before.
      expect(await operator.callBack(id, "r1", late)).toMatchObject({ status: "duplicate", delivered: true });
    });

    test("what was delivered, once for each time it is asked", async () => {
      const id = fresh();
      await operator.register(id, agent.url);
      await operator.callBack(id, "r1");
      const before = agent.frames.length;
      await operator.again(id, "r1");
      await expect.poll(() => agent.frames.length).toBe(before + 1);
      expect(agent.frames.at(-1)).toContain("The user may have heard this already.");
    });

    test("to a page that has told it, which tells it once more and acknowledges that", async () => {
      const id = fresh();
      const page = await openPage(worker.url, id);
      await page.hello({ agentSessionId: `conv_${id}` });
      const told = operator.callBack(id, "r1");
      const first = await page.frame("push");
      expect(first.results).toEqual([{ requestId: "r1", success: true, output: "done" }]);
      page.send({ type: "ack", requestIds: ["r1"] });
      expect(await told).toMatchObject({ delivered: true });
      await operator.again(id, "r1");
      const second = await page.frame("push", 2);
      expect(second.results).toEqual([{ requestId: "r1", success: true, output: "done", again: 1 }]);
      // It comes back without having told it: what it told before is no proof.
      page.vanish();
      const back = await openPage(worker.url, id);
      await back.hello({ agentSessionId: `conv_${id}`, heard: ["r1"] });
      expect(await back.frame("push")).toMatchObject({ results: [{ requestId: "r1", again: 1 }] });
      back.vanish();
      const told2 = await openPage(worker.url, id);
      await told2.hello({ agentSessionId: `conv_${id}`, heard: ["r1", "r1#1"] });
      const statusOf = async () =>
        (await operator.read<{ results: { status: string }[] }>(`${API}/${id}/results`)).results[0]?.status;
      await expect.poll(statusOf).toBe("delivered");
      told2.vanish();
    });

    test("everything that failed since a time, over all conversations, and nothing twice", async () => {
      const [one, other, fine] = [fresh(), fresh(), fresh()];
      const since = new Date().toISOString();
      for (const id of [one, other])
        for (const requestId of ["a", "b"]) await operator.callBack(id, requestId, late);
      await operator.register(fine, agent.url);
      await operator.callBack(fine, "r1");
      await operator.logged(one, 2);
      await operator.logged(other, 2);
      await operator.logged(fine, 1);
      const everything = async () =>
        (await (await worker.fetch("/console/api/results/again", { json: { since } })).json()) as object;
      expect(await everything()).toEqual({ success: true, again: 4, unanswered: 0 });
      const before = agent.frames.length;
      await operator.register(one, agent.url);
      await operator.register(other, agent.url);
      await expect.poll(() => agent.frames.length).toBe(before + 2);
      for (const id of [one, other]) {
        await expect
          .poll(async () => (await operator.logged(id, 2)).map(({ status }) => status), { timeout: 10_000 })
          .toEqual(["delivered", "delivered"]);
      }
      expect(await everything()).toEqual({ success: true, again: 0, unanswered: 0 });
    });

    test("nothing in a conversation that was deleted", async () => {
      const id = fresh();
      await operator.callBack(id, "r1", late);
      await worker.fetch(`${API}/${id}`, { method: "DELETE" });
      const refused = await worker.fetch(`${API}/${id}/results/again`, { json: { requestIds: ["r1"] } });
      expect([refused.status, await codeOf(refused)]).toEqual([410, "conversation_deleted"]);
      expect(await operator.read(`${API}/${id}/connections`)).toEqual({ connections: [] });
    });
  });

  test("finds nothing before the first entry, and everything since before there was anything", async () => {
    expect(await operator.settled("?before=0-0")).toEqual({ results: [] });
    const json = { since: "1960-01-01T00:00:00Z", cursor: "0-0" };
    const response = await worker.fetch("/console/api/results/again", { json });
    expect(await response.json()).toEqual({ success: true, again: 0, unanswered: 0 });
    expect(
      (await worker.fetch("/console/api/results/again", { json: { since: "1960-01-01T00:00:00Z" } })).status,
    ).toBe(200);
  });

  test("refuses a time that is none", async () => {
    for (const json of [{}, { since: "yesterday" }, { since: PAST, cursor: "x" }]) {
      const response = await worker.fetch("/console/api/results/again", { json });
      expect([response.status, await codeOf(response)]).toEqual([400, "invalid_request"]);
    }
  });
});

test("lets servers in, and no page", async () => {
  const [apiToken, sessionSecret] = ["a".repeat(32), "s".repeat(32)];
  const worker = await startWorker({
    ...LOCAL_BINDINGS,
    REQUIRE_AUTH: "true",
    API_TOKEN: apiToken,
    SESSION_TOKEN_SECRET: sessionSecret,
    WEBHOOK_SECRET: "w".repeat(32),
  });
  onTestFinished(() => worker.close());
  const as = (token: string) => ({ headers: { authorization: `Bearer ${token}` } });
  const { token } = (await (
    await worker.fetch(`${API}/c1/token`, { method: "POST", ...as(apiToken) })
  ).json()) as { token: string };
  for (const path of ["results", "waiting", "sessions", "rates", "outages"].map(
    (name) => `/console/api/${name}`,
  )) {
    expect((await worker.fetch(path)).status).toBe(401);
    expect((await worker.fetch(path, as(token))).status).toBe(403);
    expect((await worker.fetch(path, as(apiToken))).status).toBe(200);
  }
  expect((await worker.fetch(`${API}/c1/connections`, as(token))).status).toBe(403);
  const again = { method: "POST", json: { requestIds: ["r1"] }, ...as(token) };
  expect((await worker.fetch(`${API}/c1/results/again`, again)).status).toBe(403);
});

describe.skipIf(redis === null)("an outage", () => {
  if (redis === null) return;

  test("is shown when it is over, once though two instances met it; what was settled in it is in the log", async () => {
    const instances = await startInstances(redis.url);
    onTestFinished(() => instances.close());
    const { a, b, objects } = instances;
    const operator = operatorOf(a);
    type Outages = { outages: { driver: string; startedAt: string; endedAt: string }[] };
    const outages = async () => (await operator.read<Outages>("/console/api/outages")).outages;
    const before = (await outages()).length;
    for (const { gateway } of [a, b, { gateway: objects }]) gateway.fail({ kind: "status", status: 500 });
    for (let i = 0; i < 5; i++) {
      for (const instance of [a, b]) await instance.fetch(`${API}/list`);
      await operator.callBack("in-the-outage", `r${i}`, late);
    }
    const refused = await a.fetch("/console/api/results");
    expect([refused.status, await codeOf(refused)]).toEqual([503, "storage_unavailable"]);
    instances.heal();
    await expect
      .poll(
        async () => {
          await Promise.all([a, b].map((instance) => instance.fetch(`${API}/list`)));
          return (await outages()).length;
        },
        { timeout: 15_000 },
      )
      .toBe(before + 1);
    const [newest] = await outages();
    expect(newest).toMatchObject({ driver: "upstash" });
    expect(Date.parse(newest?.endedAt ?? "")).toBeGreaterThan(Date.parse(newest?.startedAt ?? ""));
    await operator.logged("in-the-outage", 5);
  }, 30_000);

  test("is asked little of Redis, however many conversations there are", async () => {
    const { client } = redis;
    const now = Date.now();
    for (let i = 0; i < 100; i++) {
      const entries = Array.from({ length: 1_000 }, (_, j) => [now - i * 1_000 - j, `many-${i * 1_000 + j}`]);
      await client.zadd("elevenlabs:conversations", ...entries.flat());
    }
    const instances = await startInstances(redis.url);
    onTestFinished(() => instances.close());
    const { gateway, fetch } = instances.a;
    for (const [path, most] of [
      ["sessions", 2],
      ["waiting", 1],
      ["results", 1],
      ["rates", 1],
    ] as const) {
      gateway.clear();
      expect((await fetch(`/console/api/${path}`)).status).toBe(200);
      expect(gateway.commandCount()).toBeLessThanOrEqual(most);
    }
  });
});
