/** The production driver: the built Worker over HTTP to a real Redis, and what Redis says of it. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { startAgent, type TestAgent } from "../support/agent.ts";
import { type FaultyGateway, startFaultyGateway } from "../support/faulty-gateway.ts";
import { openPage } from "../support/page.ts";
import { startRedis } from "../support/redis.ts";
import { startRunner } from "../support/runner.ts";
import { OUTBOUND_SECRET } from "../support/secrets.ts";
import { bindingsOver, startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
const redis = await startRedis({ covers: "the Worker over a real Redis" });

describe.skipIf(redis === null)("over a real Redis", () => {
  if (redis === null) return;
  let gateway: FaultyGateway;
  let worker: TestWorker;
  let agent: TestAgent;
  let ids = 0;

  beforeAll(async () => {
    gateway = await startFaultyGateway({ redisUrl: redis.url, token: "gateway-token" });
    worker = await startWorker(bindingsOver(gateway));
    agent = await startAgent();
  });
  afterAll(async () => {
    await Promise.all([worker.close(), agent.close()]);
    await gateway.close();
    await redis.stop();
  });
  beforeEach(() => {
    ids += 1;
    gateway.clear();
  });
  afterEach(() => gateway.heal());

  const id = () => `c${ids}`;
  const sessionKey = () => `elevenlabs:session:${id()}`;
  const conversationKey = () => `elevenlabs:conversation:${id()}`;
  const register = async (body: object = { sessionUrl: agent.url }) =>
    worker.fetch(`${API}/${id()}/session`, { json: body });
  const callBack = (requestId: string, fields: object = {}) =>
    worker.fetch("/callback", { json: { requestId, conversationId: id(), output: "done", ...fields } });
  const status = () => worker.fetch(`${API}/${id()}/session`);
  const say = (content: string, fields: object = {}) =>
    worker.fetch(`${API}/${id()}/message`, { json: { role: "user", content, ...fields } });
  /** Without those that give the log what was settled, a little later: of this test or of one before it. */
  const requests = () => gateway.seen.filter((request) => !request.commands.every(isOfLog));
  const isOfLog = ([, key]: readonly unknown[]) => key === "elevenlabs:results";
  const commands = () => requests().flatMap((request) => request.commands);
  /** Once nothing has come for a while, all that follows an answer has come too. */
  async function settled(): Promise<void> {
    let before = -1;
    await expect
      .poll(
        () => {
          const isQuiet = before === requests().length;
          before = requests().length;
          return isQuiet;
        },
        { interval: 100 },
      )
      .toBe(true);
  }

  /** Waits until so many results of this conversation stand in the log of settled ones. */
  const logged = (count: number) =>
    expect
      .poll(
        async () =>
          (await redis.client.xrange("elevenlabs:results", "-", "+")).filter((entry) =>
            String(entry).includes(`"${id()}"`),
          ).length,
        { timeout: 10_000 },
      )
      .toBe(count);

  test("a registration lives exactly 600 s as Redis counts, in the same command as its value", async () => {
    await register();
    expect(await redis.client.ttl(sessionKey())).toBe(600);
    const ofSession = commands().filter(([, key]) => key === sessionKey());
    expect(ofSession).toHaveLength(1);
    expect(ofSession[0]?.map(String)).toEqual(
      expect.arrayContaining([expect.stringMatching(/^ex$/i), "600"]),
    );
  });

  test("what stands in Redis is the record of the contract, the payload as it was sent", async () => {
    const payload = { sessionUrl: agent.url, zeta: [1, { b: null, a: "ü" }], "0": "first" };
    await register(payload);
    const record = JSON.parse((await redis.client.get(sessionKey())) ?? "");
    expect(record).toEqual({
      version: 1,
      conversationId: id(),
      registrationId: expect.any(String),
      sessionPayload: payload,
      wsUrl: agent.url,
      createdAt: expect.any(String),
      ttl: 600,
    });
    expect(Object.keys(record.sessionPayload)).toEqual(Object.keys(JSON.parse(JSON.stringify(payload))));
    expect(JSON.parse((await redis.client.get(conversationKey())) ?? "")).toEqual({
      version: 1,
      conversationId: id(),
      createdAt: expect.any(String),
    });
    expect(await redis.client.zscore("elevenlabs:conversations", id())).not.toBeNull();
    expect(await redis.client.ttl(conversationKey())).toBe(30 * 24 * 3600);
  });

  test("reading does not renew a session, registering does", async () => {
    await register();
    await redis.client.expire(sessionKey(), 100);
    await status();
    expect(await redis.client.ttl(sessionKey())).toBeLessThanOrEqual(100);
    await register();
    expect(await redis.client.ttl(sessionKey())).toBe(600);
  });

  test("a session whose time Redis has run out is not shown", async () => {
    await register();
    await redis.client.pexpire(sessionKey(), 1);
    await expect.poll(() => redis.client.exists(sessionKey())).toBe(0);
    expect((await status()).status).toBe(404);
  });

  test("a session that Redis alone knows of is pushed to", async () => {
    const record = {
      version: 1,
      conversationId: id(),
      registrationId: "elsewhere",
      sessionPayload: null,
      wsUrl: agent.url,
      createdAt: new Date().toISOString(),
      ttl: 600,
    };
    await redis.client.set(sessionKey(), JSON.stringify(record), "EX", 600);
    expect(await (await callBack("r1")).json()).toMatchObject({ status: "delivered" });
  });

  describe("a renewal", () => {
    test("of the current registration lets it live another 600 s, and keeps the record", async () => {
      const { registrationId } = (await (await register()).json()) as { registrationId: string };
      const before = JSON.parse((await redis.client.get(sessionKey())) ?? "");
      await redis.client.expire(sessionKey(), 100);
      const renewed = await register({ registrationId, agentSessionId: "conv_1" });
      expect(await renewed.json()).toMatchObject({ success: true, registrationId, ttl: 600 });
      expect(await redis.client.ttl(sessionKey())).toBe(600);
      expect(JSON.parse((await redis.client.get(sessionKey())) ?? "")).toEqual({
        ...before,
        agentSessionId: "conv_1",
        // A server says so.
        provenAgentSessionId: "conv_1",
        renewedAt: expect.any(String),
      });
    });

    test("of one that was replaced, or that never was, is session_replaced", async () => {
      const { registrationId } = (await (await register()).json()) as { registrationId: string };
      await register();
      for (const named of [registrationId, "never-was"]) {
        const refused = await register({ registrationId: named });
        expect(refused.status).toBe(409);
        expect(await refused.json()).toMatchObject({ code: "session_replaced" });
      }
    });
  });

  test("every key that a conversation leaves behind has a time to live", async () => {
    await redis.client.flushall();
    await callBack("r1");
    await callBack("r2");
    await register();
    await say("hi");
    await worker.fetch(`/state/api/${id()}`, { method: "PUT", json: { a: 1 } });
    await worker.fetch(`/memory/api/${id()}`, { method: "PUT", json: { domain: "general" } });
    await settled();
    await logged(2);
    const withoutTtl: string[] = [];
    const keys = await redis.client.keys("*");
    for (const key of keys) if ((await redis.client.ttl(key)) < 0) withoutTtl.push(key);
    // The log is capped.
    expect(withoutTtl.toSorted()).toEqual(["elevenlabs:conversations", "elevenlabs:results"]);
    expect(keys).toHaveLength(7);
  });

  test("the index forgets conversations that have outlived their time", async () => {
    await redis.client.zadd("elevenlabs:conversations", Date.now() - 31 * 24 * 3600 * 1000, "old");
    await worker.fetch(`${API}/new`, { json: {} });
    expect(await redis.client.zscore("elevenlabs:conversations", "old")).toBeNull();
  });

  describe("the history", () => {
    const stored = async () =>
      (await redis.client.lrange(`${conversationKey()}:messages`, 0, -1)).map(String);

    test("has a result once, under an id that no person can use, its content not twice", async () => {
      await callBack("r1", { output: { code: 7, text: "seven" } });
      await callBack("r2", { output: "a text" });
      expect((await stored()).map((text) => JSON.parse(text))).toEqual([
        {
          id: "callback:r1",
          role: "tool",
          source: "callback",
          timestamp: expect.any(String),
          toolOutput: { code: 7, text: "seven" },
          status: "completed",
        },
        {
          id: "callback:r2",
          role: "tool",
          content: "a text",
          source: "callback",
          timestamp: expect.any(String),
          status: "completed",
        },
      ]);
      const { messages } = (await (await worker.fetch(`${API}/${id()}`)).json()) as { messages: object[] };
      expect(messages).toMatchObject([{ content: '{"code":7,"text":"seven"}' }, { content: "a text" }]);
      const refused = await say("hi", { id: "callback:r1" });
      expect(refused.status).toBe(400);
    });

    test("keeps numbers as they were sent, so that a message cannot grow", async () => {
      const numbers = `[${Array.from({ length: 3_000 }, () => "1e20").join(",")}]`;
      const response = await worker.fetch("/callback", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: `{"requestId":"r1","conversationId":"${id()}","output":${numbers}}`,
      });
      expect(response.status).toBe(202);
      expect((await stored())[0]).toContain(`"toolOutput":${numbers}`);
    });

    test("takes no message of more than 64 KiB as it is stored", async () => {
      const refused = await say("x".repeat(65_480));
      expect(refused.status).toBe(413);
      expect(await refused.json()).toMatchObject({ code: "payload_too_large" });
      expect(await stored()).toEqual([]);
    });

    test("that could not take a result whole refuses it, and holds up no other", async () => {
      await register();
      const refused = await callBack("large", { output: "x".repeat(65_450) });
      expect(refused.status).toBe(413);
      expect(await refused.json()).toMatchObject({ code: "payload_too_large" });
      expect(await (await callBack("r1")).json()).toMatchObject({ status: "delivered" });
      expect(await stored()).toHaveLength(1);
    });

    test("takes the same message twice as once, by the id that its sender gave it", async () => {
      for (let i = 0; i < 2; i++) expect((await say("hi", { id: "m1" })).status).toBe(201);
      const { messages } = (await (await worker.fetch(`${API}/${id()}`)).json()) as { messages: object[] };
      expect(messages).toMatchObject([{ id: "m1", content: "hi" }]);
    });

    test("that Redis has lost begins again with the next result, and its conversation with it", async () => {
      await register();
      // Before its first message, and after it.
      for (const requestId of ["r1", "r2"]) {
        await settled();
        await redis.client.del(conversationKey(), `${conversationKey()}:messages`);
        await redis.client.zrem("elevenlabs:conversations", id());
        expect((await callBack(requestId)).status).toBe(200);
        await expect.poll(async () => (await worker.fetch(`${API}/${id()}`)).status).toBe(200);
        expect(await (await worker.fetch(`${API}/${id()}`)).json()).toMatchObject({
          messages: [{ id: `callback:${requestId}` }],
        });
        expect(await redis.client.zscore("elevenlabs:conversations", id())).not.toBeNull();
      }
    });

    test("comes in pages, newest first, that stay right while messages are added", async () => {
      for (let i = 0; i < 25; i++) await say(`message ${i}`);
      const page = async (query: string) =>
        (await (await worker.fetch(`${API}/${id()}?limit=10${query}`)).json()) as {
          messages: { content: string }[];
          nextBefore?: string;
        };
      const seen: string[][] = [];
      let before = "";
      for (let i = 0; i < 3; i++) {
        const { messages, nextBefore } = await page(before);
        seen.unshift(messages.map(({ content }) => content));
        before = `&before=${nextBefore}`;
        await say(`in between ${i}`);
        expect(nextBefore === undefined).toBe(i === 2);
      }
      expect(seen.flat()).toEqual(Array.from({ length: 25 }, (_, i) => `message ${i}`));
      expect(seen.map(({ length }) => length)).toEqual([5, 10, 10]);
    });

    test("answers at most 1 MiB in a page, and says where it goes on", async () => {
      for (let i = 0; i < 20; i++) await say(`${i} ${"x".repeat(60_000)}`);
      const first = await worker.fetch(`${API}/${id()}`);
      const text = await first.text();
      expect(text.length).toBeLessThan(1.05 * 1024 * 1024);
      const { messages, nextBefore } = JSON.parse(text) as { messages: object[]; nextBefore: string };
      const rest = await worker.fetch(`${API}/${id()}?before=${nextBefore}`);
      expect(messages.length + ((await rest.json()) as { messages: object[] }).messages.length).toBe(20);
    });
  });

  describe("budgets, with what follows the answer", () => {
    test("a registration of a new conversation: one round trip before the answer, at most 4 commands", async () => {
      await register();
      await settled();
      expect(commands().length).toBeLessThanOrEqual(4);
      expect(requests()).toHaveLength(2);
    });

    test("a registration again: at most 4 commands, 1 within the same minute", async () => {
      await register();
      await settled();
      gateway.clear();
      await register();
      await settled();
      expect(commands().map(([name]) => String(name).toUpperCase())).toEqual(["SET"]);
    });

    test("a page that attaches: one round trip of at most 4 commands; what it is told, one of at most 5", async () => {
      const page = await openPage(worker.url, id());
      await page.hello();
      await settled();
      expect(requests()).toHaveLength(1);
      expect(commands().length).toBeLessThanOrEqual(4);
      gateway.clear();
      const answer = callBack("r1");
      page.ack((await page.push()).requestIds);
      expect(await (await answer).json()).toMatchObject({ channel: "relay" });
      await settled();
      expect(requests()).toHaveLength(1);
      expect(commands().length).toBeLessThanOrEqual(5);
      gateway.clear();
      page.leave();
      await page.closed();
      await settled();
      expect(commands().length).toBeLessThanOrEqual(4);
    });

    test("a tool call: at most 3 commands before its answer, and none after it", async () => {
      const runner = await startRunner(OUTBOUND_SECRET);
      const own = await startWorker({
        ...bindingsOver(gateway),
        TOOL_RUNNER_URL: runner.url,
        SIGNING_SECRET: OUTBOUND_SECRET,
      });
      try {
        const page = await openPage(own.url, id());
        await page.hello({ agentSessionId: `conv_${id()}` });
        await settled();
        gateway.clear();
        const json = { tool: "search", conversation_id: `conv_${id()}` };
        expect(await (await own.fetch("/agent-tools", { json })).json()).toMatchObject({ ok: true });
        await settled();
        expect(commands().map(([name]) => String(name).toUpperCase())).toEqual(["GET", "SET"]);
        const taskId = String((await runner.message(() => true)).taskId);
        expect(await redis.client.ttl(`elevenlabs:task:${taskId}`)).toBeGreaterThan(86_300);
        page.vanish();
      } finally {
        await own.close();
        await runner.close();
      }
    });

    test("a delivered callback: one round trip of at most 5 commands", async () => {
      await register();
      await settled();
      gateway.clear();
      expect(await (await callBack("r1")).json()).toMatchObject({ status: "delivered" });
      await settled();
      expect(requests()).toHaveLength(1);
      expect(commands().length).toBeLessThanOrEqual(5);
    });

    test("a callback where the history is full: the same, but for one in a hundred", async () => {
      await register();
      await settled();
      const message = JSON.stringify({ role: "user", content: "x", timestamp: new Date().toISOString() });
      const full = Array.from({ length: 1_000 }, (_, i) => `{"id":"m${i}",${message.slice(1)}`);
      await redis?.client.rpush(`${conversationKey()}:messages`, ...full);
      gateway.clear();
      for (let i = 0; i < 101; i++)
        expect(await (await callBack(`r${i}`)).json()).toMatchObject({ status: "delivered" });
      await settled();
      const ofHistory = requests().filter(({ commands }) =>
        commands.some(([, key]) => key === `${conversationKey()}:messages`),
      );
      expect(ofHistory).toHaveLength(101 + 1);
      expect(await redis?.client.llen(`${conversationKey()}:messages`)).toBe(1_000);
    });

    test("the log of settled results: one command a result, and one round trip for what was settled together", async () => {
      await register();
      gateway.clear();
      for (let i = 0; i < 10; i++) await callBack(`r${i}`);
      await logged(10);
      const ofThis = gateway.seen.filter(({ commands }) =>
        commands.some((command) => isOfLog(command) && String(command).includes(`"${id()}"`)),
      );
      expect(ofThis.flatMap(({ commands }) => commands.filter(isOfLog))).toHaveLength(10);
      expect(ofThis.filter(({ commands }) => commands.every(isOfLog)).length).toBeLessThanOrEqual(2);
    });

    test("a queued callback: one round trip of at most 5 commands, also where it is the first sign of its conversation", async () => {
      expect(await (await callBack("r1")).json()).toMatchObject({ status: "queued" });
      await settled();
      expect(requests()).toHaveLength(1);
      expect(commands().length).toBeLessThanOrEqual(5);
    });

    test("a hand-over of n results: at most 4 + n commands", async () => {
      for (let i = 0; i < 10; i++) await callBack(`r${i}`);
      await settled();
      gateway.clear();
      await register();
      await expect.poll(async () => (await callBack("r9")).json()).toMatchObject({ delivered: true });
      await settled();
      expect(commands().length).toBeLessThanOrEqual(14);
    });

    test("reading a session, a state or a memory: 1 command", async () => {
      await register();
      await worker.fetch(`/state/api/${id()}`, { method: "PUT", json: { a: 1 } });
      await worker.fetch(`/memory/api/${id()}`, { method: "PUT", json: { domain: "general" } });
      await settled();
      for (const path of [`${API}/${id()}/session`, `/state/api/${id()}`, `/memory/api/${id()}`]) {
        gateway.clear();
        expect((await worker.fetch(path)).status).toBe(200);
        await settled();
        expect(commands()).toHaveLength(1);
      }
    });

    test("a message: one round trip of at most 5 commands", async () => {
      await say("hi");
      await settled();
      expect(requests()).toHaveLength(1);
      expect(commands().length).toBeLessThanOrEqual(5);
    });

    test("a page of the history: 2 commands, however long it is", async () => {
      for (let i = 0; i < 60; i++) await say(`message ${i}`);
      await settled();
      gateway.clear();
      expect((await worker.fetch(`${API}/${id()}?limit=50`)).status).toBe(200);
      await settled();
      expect(commands().map(([name]) => String(name).toUpperCase())).toEqual(["GET", "LRANGE"]);
    });

    test("a callback that comes again: no command", async () => {
      await callBack("r1");
      await settled();
      gateway.clear();
      expect(await (await callBack("r1")).json()).toMatchObject({ status: "duplicate" });
      await settled();
      expect(commands()).toEqual([]);
    });

    test("a state or memory written: 1 command; patched: at most 4, those of the script included", async () => {
      await worker.fetch(`/state/api/${id()}`, { method: "PUT", json: { a: 1 } });
      await settled();
      expect(commands()).toHaveLength(1);
      await worker.fetch(`/memory/api/${id()}`, { method: "PUT", json: { domain: "general" } });
      gateway.clear();
      const ran = await callsOfRedis();
      await worker.fetch(`/memory/api/${id()}`, { method: "PATCH", json: { city: "Rome" } });
      await settled();
      expect((await callsOfRedis()) - ran).toBeLessThanOrEqual(4);
    });
  });

  /** What Redis itself has counted, commands of scripts included. */
  async function callsOfRedis(): Promise<number> {
    const lines = String(await redis?.client.info("commandstats")).matchAll(/^cmdstat_(\w+):calls=(\d+)/gm);
    return [...lines]
      .filter(([, name]) => !["info", "hello", "ping", "multi", "exec", "client"].includes(name ?? ""))
      .reduce((sum, [, , calls]) => sum + Number(calls), 0);
  }

  test("nothing of a failed command is logged", async () => {
    gateway.fail({ kind: "status", status: 500 });
    await register({ sessionUrl: `${agent.url}&more=canary`, note: "canary" });
    await worker.fetch(`${API}/list`);
    expect(worker.lines.some((line) => line.includes("request.failed"))).toBe(true);
    expect(worker.lines.filter((line) => /canary|agent-secret|gateway-token/.test(line))).toEqual([]);
  });
});
