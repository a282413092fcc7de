/**
 * Two instances of the Worker over one Redis and the same objects. Each test is something that was once pushed
 * twice, lost or forgotten because two places could decide the same thing.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import {
  type FakeVoiceProviders,
  startFakeVoiceProviders,
  variablesOf,
} from "../../dev/fake-voice-providers.ts";
import { startAgent, type TestAgent } from "../support/agent.ts";
import { type Instance, type Instances, startInstances } from "../support/instances.ts";
import { openPage, type Page } from "../support/page.ts";
import { startRedis } from "../support/redis.ts";

const API = "/agent-conversations/api";
const REFUSED_KEY = expect.objectContaining({ variable: "VAPI_API_KEY" });
const DOWN = { kind: "status", status: 503 } as const;
const redis = await startRedis({ covers: "two instances over one Redis" });

describe.skipIf(redis === null)("two instances", { timeout: 60_000 }, () => {
  if (redis === null) return;
  let instances: Instances;
  let a: Instance;
  let b: Instance;
  let agent: TestAgent;
  let providers: FakeVoiceProviders;
  let ids = 0;

  beforeAll(async () => {
    providers = await startFakeVoiceProviders();
    instances = await startInstances(redis.url, variablesOf(providers));
    ({ a, b } = instances);
  });
  afterAll(async () => {
    await instances.close();
    await providers.close();
    await redis.stop();
  });
  beforeEach(async () => {
    ids += 1;
    agent = await startAgent();
  });
  afterEach(async () => {
    instances.heal();
    await agent.close();
  });

  const id = () => `two-${ids}`;
  const controlUrlOf = (call: string) => `${providers.url}/${call}/control`;
  const register = (at: Instance, url = agent.url) =>
    at.fetch(`${API}/${id()}/session`, { json: { sessionUrl: url } });
  const callBack = (at: Instance, requestId: string) =>
    at.fetch("/callback", { json: { requestId, conversationId: id(), output: `output of ${requestId}.` } });
  const answerOf = async (response: Promise<Response>) => (await response).json();
  const framesOf = (requestId: string) =>
    agent.frames.filter((frame) => frame.includes(`output of ${requestId}.`));
  const memory = `/memory/api`;
  const patch = (at: Instance, json: object) => at.fetch(`${memory}/${id()}`, { method: "PATCH", json });
  const stored = async (key: string) => JSON.parse((await redis.client.get(key)) ?? "null");

  /** Takes Redis from everybody. */
  function everythingDown(): void {
    for (const gateway of [instances.objects, a.gateway, b.gateway]) gateway.fail(DOWN);
  }
  /** Lets an instance's breaker open: three requests that fail. */
  async function lose(instance: Instance): Promise<void> {
    instance.gateway.fail(DOWN);
    for (let i = 0; i < 3; i++) await instance.fetch(`${API}/list`);
  }
  const soon = (read: () => Promise<unknown> | unknown) =>
    expect.poll(read, { timeout: 20_000, interval: 50 });

  test("what waits is handed over once though an instance in outage and a healthy one register within a second", async () => {
    for (const requestId of ["r1", "r2", "r3"]) await callBack(a, requestId);
    await lose(b);
    await Promise.all([register(b), register(a)]);
    await soon(() => answerOf(callBack(a, "r3"))).toMatchObject({ delivered: true });
    await register(b);
    for (const requestId of ["r1", "r2", "r3"]) expect(framesOf(requestId)).toHaveLength(1);
  });

  /** A page whose line is held by the objects, which both instances reach. */
  async function attach(fields: object = {}): Promise<Page> {
    const page = await openPage(instances.worker.url, id());
    onTestFinished(() => page.vanish());
    await page.hello(fields);
    return page;
  }

  test("a page that is attached is told by every instance, once, and one order holds for all", async () => {
    const page = await attach();
    const answers = Array.from({ length: 20 }, (_, i) => callBack(i % 2 === 0 ? a : b, `r${i % 10}`));
    page.socket.on("message", (data) => {
      const frame = JSON.parse(String(data)) as { type: string; requestIds: string[] };
      if (frame.type === "push") page.ack(frame.requestIds);
    });
    for (const push of page.pushes()) page.ack(push.requestIds);
    for (const answer of await Promise.all(answers.map(answerOf)))
      expect(answer).toMatchObject({ delivered: true, channel: "relay" });
    const told = page.pushes().flatMap(({ requestIds }) => requestIds);
    expect(told.toSorted()).toEqual(Array.from({ length: 10 }, (_, i) => `r${i}`));
  });

  test("a page attaches and is told while Redis is down for everybody, and Redis knows it afterwards", async () => {
    everythingDown();
    const page = await attach({ agentSessionId: "conv_out" });
    expect(await answerOf(b.fetch(`${API}/${id()}/session`))).toMatchObject({
      channel: "relay",
      agentSessionId: "conv_out",
    });
    const answer = callBack(b, "r1");
    page.ack((await page.push()).requestIds);
    expect(await answerOf(answer)).toMatchObject({ delivered: true, channel: "relay" });
    instances.heal();
    await soon(() => stored(`elevenlabs:session:${id()}`)).toMatchObject({ agentSessionId: "conv_out" });
    await soon(async () => {
      const { messages } = (await answerOf(a.fetch(`${API}/${id()}`))) as { messages: { id: string }[] };
      return messages.map((message) => message.id);
    }).toEqual(["callback:r1"]);
  });

  test("a registration with one instance does not take the push from the page that is attached", async () => {
    const page = await attach({ agentSessionId: "conv_line" });
    await register(a);
    const answer = callBack(b, "r1");
    page.ack((await page.push()).requestIds);
    expect(await answerOf(answer)).toMatchObject({ channel: "relay" });
    expect(agent.frames).toEqual([]);
    page.leave();
    await page.closed();
    await soon(() => answerOf(callBack(a, "r2"))).toMatchObject({ delivered: true, channel: "socket" });
  });

  test("a handler that dies leaves nothing that two instances could both take over", async () => {
    await register(a);
    const copies = Array.from({ length: 20 }, (_, i) => callBack(i % 2 === 0 ? a : b, "r1"));
    const answers = await Promise.all(copies.map(answerOf));
    expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1);
    expect(framesOf("r1")).toHaveLength(1);
  });

  describe.each([
    ["telnyx", "knows what it has had, so what it did not answer is sent again", 3, 0],
    ["retell", "does not, so what it did not answer is told in the next call", 1, 1],
  ] as const)("over %s, which %s", (provider, _what, asked, toldAgain) => {
    const call = (at: Instance, agentSessionId: string) =>
      at.fetch(`${API}/${id()}/session`, { json: { provider, agentSessionId } });
    const toldOf = (agentSessionId: string, requestId: string) =>
      providers.call(agentSessionId).told.filter(({ text }) => text.includes(`output of ${requestId}.`));

    test("each of twenty results that come to both, three times over, is told once", async () => {
      const own = `${provider}-many-${id()}`;
      await Promise.all([call(a, own), call(b, own)]);
      const copies = Array.from({ length: 60 }, (_, i) => callBack(i % 2 === 0 ? a : b, `r${i % 20}`));
      for (const answer of await Promise.all(copies.map(answerOf)))
        expect(answer).toMatchObject({ delivered: true, channel: provider, proof: "accepted" });
      for (let i = 0; i < 20; i++) expect(toldOf(own, `r${i}`)).toHaveLength(1);
    });

    test("one that was told and not answered is told once in its call, and no second time by anybody", async () => {
      const [own, next] = [`${provider}-lost-${id()}`, `${provider}-next-${id()}`];
      await call(a, own);
      providers.fail(own, "applies_then_fails", 2);
      const copies = await Promise.all([a, b, a, b].map((at) => answerOf(callBack(at, "r1"))));
      expect(new Set(copies.map((answer) => JSON.stringify(answer))).size).toBe(1);
      expect(copies[0]).toMatchObject(
        toldAgain === 0 ? { status: "delivered" } : { status: "queued", reason: "unconfirmed" },
      );
      // Registering the same call again is no reason to tell it again.
      await Promise.all([call(a, own), call(b, own)]);
      expect(await answerOf(callBack(b, "r1"))).toMatchObject({
        status: "duplicate",
        delivered: toldAgain === 0,
      });
      expect(toldOf(own, "r1")).toHaveLength(1);
      expect(providers.call(own).seen).toHaveLength(asked);

      await call(b, next);
      await soon(() => toldOf(next, "r1").length).toBe(toldAgain);
      await Promise.all([call(a, next), call(b, next)]);
      for (const { text } of toldOf(next, "r1")) expect(text).toContain("may have heard this already");
      expect(toldOf(next, "r1")).toHaveLength(toldAgain);
    });
  });

  test("a key that a provider refuses is named by every instance, though none of them has shown it", async () => {
    const health = async (at: Instance) => answerOf(at.fetch("/config/health"));
    expect(await health(a)).not.toMatchObject({ problems: expect.arrayContaining([REFUSED_KEY]) });
    const agentSessionId = `call-${id()}`;
    providers.fail(agentSessionId, "refuses_key", 1);
    await a.fetch(`${API}/${id()}/session`, {
      json: { provider: "vapi", agentSessionId, controlUrl: controlUrlOf(agentSessionId) },
    });
    expect(await answerOf(callBack(a, "r1"))).toMatchObject({ reason: "push_failed" });
    for (const at of [a, b])
      await soon(() => health(at)).toMatchObject({ problems: expect.arrayContaining([REFUSED_KEY]) });
    expect(await redis.client.ttl("elevenlabs:refused-key:VAPI_API_KEY")).toBeGreaterThan(590);
    everythingDown();
    expect(await health(a)).not.toMatchObject({ problems: expect.arrayContaining([REFUSED_KEY]) });
  });

  test("one 503 at B during a PATCH and a PATCH at A: both are kept", async () => {
    await a.fetch(`${memory}/${id()}`, { method: "PUT", json: { domain: "flights" } });
    b.gateway.fail(DOWN, 1);
    instances.objects.fail(DOWN, 1);
    expect((await patch(b, { city: "Rome" })).status).toBe(200);
    expect((await patch(a, { brand: "Condor" })).status).toBe(200);
    await soon(() => stored(`session:${id()}`)).toMatchObject({ city: "Rome", brand: "Condor" });
  });

  test("B's breaker stays open through the end of an outage; a PATCH at B, then one at A: both are kept", async () => {
    await a.fetch(`${memory}/${id()}`, { method: "PUT", json: { domain: "flights" } });
    await lose(b);
    expect((await patch(b, { city: "Rome" })).status).toBe(200);
    expect((await patch(a, { brand: "Condor" })).status).toBe(200);
    expect(await answerOf(a.fetch(`${memory}/${id()}`))).toMatchObject({ city: "Rome", brand: "Condor" });
    b.gateway.heal();
    await soon(() => answerOf(b.fetch(`${memory}/${id()}`))).toMatchObject({ city: "Rome", brand: "Condor" });
  });

  test("updates of one memory from both sides, in and out of an outage of every way: none is lost", async () => {
    await a.fetch(`${memory}/${id()}`, { method: "PUT", json: { domain: "flights" } });
    const done: string[] = [];
    const change = async (at: Instance, field: string) => {
      const response = await patch(at, { [field]: true });
      if (response.ok) done.push(field);
    };
    const many = (part: string) =>
      Promise.all(Array.from({ length: 20 }, (_, i) => change(i % 2 === 0 ? a : b, `${part}${i}`)));
    await many("before");
    everythingDown();
    await many("during");
    instances.heal();
    await many("after");
    expect(done.length).toBeGreaterThan(40);
    await soon(async () => {
      const memory = (await stored(`session:${id()}`)) as object;
      return done.filter((field) => !(field in memory));
    }).toEqual([]);
  });

  test("one 503 while B registers: a callback at A reaches the session", async () => {
    b.gateway.fail(DOWN, 1);
    expect((await register(b)).status).toBe(200);
    expect(await answerOf(callBack(a, "r1"))).toMatchObject({ status: "delivered" });
    await soon(() => redis.client.ttl(`elevenlabs:session:${id()}`)).toBeGreaterThan(590);
  });

  test("a registration that Redis could not take stands there afterwards, and only the current one does", async () => {
    everythingDown();
    await register(b);
    const { registrationId } = (await answerOf(register(b))) as { registrationId: string };
    expect(await answerOf(b.fetch(`${API}/${id()}/session`))).toMatchObject({ registrationId, active: true });
    instances.heal();
    await soon(async () => (await stored(`elevenlabs:session:${id()}`))?.registrationId).toBe(registrationId);
  });

  test("Redis holds a text of which there is no copy: what is PUT during the outage is newer", async () => {
    await redis.client.set(`conv:${id()}`, JSON.stringify({ from: "before" }), "EX", 3600);
    everythingDown();
    const put = await a.fetch(`/state/api/${id()}`, { method: "PUT", json: { from: "the outage" } });
    expect(put.status).toBe(200);
    expect(await answerOf(b.fetch(`/state/api/${id()}`))).toEqual({ from: "the outage" });
    instances.heal();
    await soon(() => stored(`conv:${id()}`)).toEqual({ from: "the outage" });
  });

  test("what can neither be found nor read is storage_unavailable, never not found", async () => {
    await redis.client.set(`conv:${id()}`, JSON.stringify({ from: "before" }), "EX", 3600);
    everythingDown();
    for (const path of [
      `/state/api/${id()}`,
      `${memory}/${id()}`,
      `${API}/${id()}/session`,
      `${API}/${id()}`,
    ]) {
      const response = await a.fetch(path);
      expect({ path, status: response.status }).toEqual({ path, status: 503 });
      expect(await response.json()).toMatchObject({ code: "storage_unavailable" });
    }
  });

  test("100 messages of 60 kB in one outage are all there afterwards", async () => {
    everythingDown();
    const say = async (i: number) => {
      const content = `${i} ${"x".repeat(60_000)}`;
      const response = await (i % 2 === 0 ? a : b).fetch(`${API}/${id()}/message`, {
        json: { role: "user", content, id: `m${i}` },
      });
      expect(response.status).toBe(201);
    };
    for (let i = 0; i < 100; i++) await say(i);
    instances.heal();
    await soon(() => redis.client.llen(`elevenlabs:conversation:${id()}:messages`)).toBe(100);
    expect(await redis.client.exists(`elevenlabs:conversation:${id()}`)).toBe(1);
  });

  test("a key of the wrong type is refused to who reads it, and is no outage for anybody", async () => {
    await redis.client.rpush(`conv:${id()}`, "not a text");
    for (let i = 0; i < 5; i++) {
      expect((await a.fetch(`/state/api/${id()}`)).status).toBe(503);
    }
    expect(await answerOf(a.fetch("/health"))).toMatchObject({ status: "ok" });
    expect((await register(a)).status).toBe(200);
    expect(await stored(`elevenlabs:session:${id()}`)).not.toBeNull();
  });

  test("a history of the wrong type does not keep a result from being said", async () => {
    await redis.client.set(`elevenlabs:conversation:${id()}:messages`, "not a list");
    await register(a);
    expect(await answerOf(callBack(b, "r1"))).toMatchObject({ status: "delivered" });
    await redis.client.del(`elevenlabs:conversation:${id()}:messages`);
    await soon(() => redis.client.llen(`elevenlabs:conversation:${id()}:messages`)).toBe(1);
  });

  test("a delete at one instance while the other hands over does not bring the conversation back", async () => {
    for (let i = 0; i < 20; i++) await callBack(a, `r${i}`);
    const [, deleted] = await Promise.all([register(a), b.fetch(`${API}/${id()}`, { method: "DELETE" })]);
    expect(await deleted.json()).toEqual({ success: true, deleted: true });
    for (const at of [a, b]) {
      expect((await at.fetch(`${API}/${id()}`)).status).toBe(404);
      const refused = await register(at);
      expect(refused.status).toBe(410);
      expect(await refused.json()).toMatchObject({ code: "conversation_deleted" });
      expect(
        (await at.fetch(`${API}/${id()}/message`, { json: { role: "user", content: "hi" } })).status,
      ).toBe(410);
      expect((await at.fetch(`${API}/${id()}/session`)).status).toBe(404);
      expect(await answerOf(callBack(at, `new-${Math.random()}`))).toMatchObject({ status: "discarded" });
      expect(await answerOf(callBack(at, "r1"))).toMatchObject({ status: "duplicate" });
    }
    const left = await redis.client.keys(`*${id()}*`);
    expect(left).toEqual([`elevenlabs:conversation:${id()}`]);
    expect(await redis.client.ttl(`elevenlabs:conversation:${id()}`)).toBeLessThanOrEqual(48 * 3600);
    expect(await redis.client.zscore("elevenlabs:conversations", id())).toBeNull();
  });

  test("a delete during an outage of every way holds, and reaches Redis afterwards", async () => {
    await register(a);
    await callBack(a, "r1");
    everythingDown();
    expect((await b.fetch(`${API}/${id()}`, { method: "DELETE" })).status).toBe(200);
    expect((await register(a)).status).toBe(410);
    instances.heal();
    await soon(() => redis.client.keys(`*${id()}*`)).toEqual([`elevenlabs:conversation:${id()}`]);
    expect((await a.fetch(`${API}/${id()}`)).status).toBe(404);
  });

  test("results arrive at one agent in the order in which they came in, whichever instance took them", async () => {
    await register(a);
    for (let i = 0; i < 30; i++) {
      expect(await answerOf(callBack(i % 2 === 0 ? a : b, `task-${i}`))).toMatchObject({ delivered: true });
    }
    expect(agent.frames.map((frame) => /output of (task-\d+)\./.exec(frame)?.[1])).toEqual(
      Array.from({ length: 30 }, (_, i) => `task-${i}`),
    );
  });

  test("the same requestId with another body is request_id_reused at either, and nothing is pushed", async () => {
    await register(a);
    await callBack(a, "r1");
    const reused = await b.fetch("/callback", {
      json: { requestId: "r1", conversationId: id(), output: "something else" },
    });
    expect(reused.status).toBe(422);
    expect(await reused.json()).toMatchObject({ code: "request_id_reused" });
    expect(agent.frames).toHaveLength(1);
  });

  test("120 waiting results at 210 ms a round trip are all handed over", async () => {
    await Promise.all(Array.from({ length: 120 }, (_, i) => callBack(i % 2 === 0 ? a : b, `task-${i}`)));
    for (const gateway of [instances.objects, a.gateway, b.gateway]) gateway.fail({ kind: "slow", ms: 210 });
    await register(b);
    await soon(async () => {
      const { results } = (await answerOf(a.fetch(`${API}/${id()}/results?status=delivered&limit=100`))) as {
        results: object[];
      };
      return results.length;
    }).toBe(100);
    await soon(() => answerOf(a.fetch(`${API}/${id()}/results?status=waiting`))).toEqual({ results: [] });
  });

  test("an agent that reads and never completes the close hears a result once, however often it registers", async () => {
    const stubborn = await startAgent("drops");
    onTestFinished(() => stubborn.close());
    await register(a, stubborn.url);
    expect(await answerOf(callBack(a, "r1"))).toMatchObject({ status: "queued", reason: "unconfirmed" });
    for (const at of [b, a, b]) await register(at, stubborn.url);
    expect(await answerOf(callBack(b, "r1"))).toMatchObject({ status: "duplicate", delivered: false });
    expect(stubborn.frames).toHaveLength(1);
    // The next agent conversation is told, as of something that may have been heard.
    await register(b);
    expect((await agent.received(1))[0]).toContain("may have heard this already");
  });
});

/** Objects that stand in for ours and do not answer, or fail. */
const objectsThat = (behaviour: string) => `
import { DurableObject } from "cloudflare:workers";
const behave = async () => { ${behaviour} };
const methods = ["deliver","registered","renew","ended","session","append","create","ack","results","forget",
  "read","write","swap","updateMemory","ping"];
class Broken extends DurableObject {}
for (const name of methods) Broken.prototype[name] = behave;
export class LiveConversation extends Broken {}
export class StorageObject extends Broken {}
export default { fetch: () => new Response("") };`;

describe.skipIf(redis === null)("objects that do not answer while Redis is fine", { timeout: 60_000 }, () => {
  test.each([
    ["hang", "await new Promise(() => {});"],
    ["fail", 'throw new Error("broken");'],
  ])("that %s: sessions, reads and messages go on, callbacks are not acknowledged", async (_, behaviour) => {
    const own = await startRedis({ covers: "objects that do not answer" });
    if (own === null) throw new Error("redis-server was there a moment ago");
    const { a, close } = await startInstances(own.url, {}, { objects: objectsThat(behaviour) });
    onTestFinished(async () => {
      await close();
      await own.stop();
    });
    const session = `${API}/c1/session`;
    const registered = await a.fetch(session, { json: { transport: "webrtc" } });
    expect(registered.status).toBe(200);
    expect((await a.fetch(session)).status).toBe(200);
    expect((await a.fetch(`${API}/c1/message`, { json: { role: "user", content: "hi" } })).status).toBe(201);
    expect(await (await a.fetch(`${API}/c1`)).json()).toMatchObject({ messages: [{ content: "hi" }] });
    await own.client.set("conv:c1", '{"a":1}', "EX", 3600);
    expect(await (await a.fetch("/state/api/c1")).json()).toEqual({ a: 1 });
    const start = performance.now();
    const callback = await a.fetch("/callback", { json: { requestId: "r1", conversationId: "c1" } });
    expect(callback.status).toBe(503);
    expect(await callback.json()).toMatchObject({ code: "storage_unavailable" });
    expect(callback.headers.get("retry-after")).not.toBeNull();
    expect(performance.now() - start).toBeLessThan(10_000);
  });
});

describe.skipIf(redis === null)("an object that is restarted", { timeout: 60_000 }, () => {
  test("in every state of a result tells nothing twice in one agent conversation, and loses nothing", async () => {
    const own = await startRedis({ covers: "restarted objects" });
    if (own === null) throw new Error("redis-server was there a moment ago");
    const directory = await mkdtemp(join(tmpdir(), "objects-"));
    const [agent, silent] = await Promise.all([startAgent(), startAgent("never-closes")]);
    let instances = await startInstances(own.url, {}, { directory });
    const restart = async () => {
      await instances.close();
      instances = await startInstances(own.url, {}, { directory });
    };
    onTestFinished(async () => {
      await instances.close();
      await Promise.all([agent.close(), silent.close(), own.stop()]);
      await rm(directory, { recursive: true, force: true });
    });
    const register = (id: string, url: string) =>
      instances.a.fetch(`${API}/${id}/session`, { json: { sessionUrl: url } });
    const callBack = async (id: string, output: string) =>
      (
        await instances.b.fetch("/callback", { json: { requestId: "r1", conversationId: id, output } })
      ).json();

    await callBack("waiting", "waits");
    await register("delivered", agent.url);
    expect(await callBack("delivered", "was told")).toMatchObject({ status: "delivered" });
    await register("saying", silent.url);
    const saying = callBack("saying", "is being told").catch(() => null);
    await silent.received(1);
    await restart();
    await saying;

    expect(await callBack("waiting", "waits")).toMatchObject({ status: "duplicate", delivered: false });
    expect(await callBack("delivered", "was told")).toMatchObject({ status: "duplicate", delivered: true });
    expect(await callBack("saying", "is being told")).toMatchObject({
      status: "duplicate",
      delivered: false,
    });
    await register("saying", silent.url);
    await register("delivered", agent.url);
    await register("waiting", agent.url);
    await agent.received(2);
    expect(silent.frames).toHaveLength(1);
    await register("saying", agent.url);
    await agent.received(3);
    expect(agent.frames.map((frame) => /told|waits/.exec(frame)?.[0])).toEqual(["told", "waits", "told"]);
    expect(agent.frames.at(-1)).toContain("may have heard this already");
  });
});
