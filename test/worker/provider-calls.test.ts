/** Whose calls of other providers may be told anything: what a registration must say, and who vouches for it. */
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { variablesOf } from "../../dev/fake-voice-providers.ts";
import { openPage } from "../support/page.ts";
import { API_TOKEN, CLOSED_DOORS, SHARED_SECRET } from "../support/secrets.ts";
import { startVoiceProviders, type VoiceProviders } from "../support/voice-providers.ts";
import { LOCAL_BINDINGS, startWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

let { fake, worker, register, callBack, close } = {} as VoiceProviders;
beforeAll(async () => {
  ({ fake, worker, register, callBack, close } = await startVoiceProviders());
});
afterAll(() => close());

/** A page's token, with or without the word of its server. */
async function pageToken(id: string, agentSessionId?: string): Promise<string> {
  const json = agentSessionId === undefined ? {} : { agentSessionId };
  const response = await worker.fetch(`${API}/${id}/token`, { json, headers: bearer(API_TOKEN) });
  return ((await response.json()) as { token: string }).token;
}

describe("a registration of a call", () => {
  test.each<[string, object, string]>([
    ["of a provider that there is not", { provider: "acme", agentSessionId: "call" }, "provider"],
    ["of a provider that is no text", { provider: 1, agentSessionId: "call" }, "provider"],
    ["without the call's id", { provider: "telnyx" }, "agentSessionId"],
    ["whose id is empty", { provider: "telnyx", agentSessionId: "" }, "agentSessionId"],
    ["whose id holds a blank", { provider: "telnyx", agentSessionId: "a b" }, "agentSessionId"],
    ["whose id would be a step up", { provider: "retell", agentSessionId: ".." }, "agentSessionId"],
    ["whose id is not ASCII", { provider: "retell", agentSessionId: "caf\u00e9" }, "agentSessionId"],
    ["of Vapi without a control URL", { provider: "vapi", agentSessionId: "call" }, "controlUrl"],
    [
      "with a control URL where calls have none",
      { provider: "telnyx", agentSessionId: "call", controlUrl: "https://phone.vapi.ai/call/control" },
      "controlUrl",
    ],
  ])("%s is invalid_request", async (_name, json, path) => {
    const response = await register("bad", json);
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: "invalid_request", errors: [{ path }] });
  });

  test.each<[string, string]>([
    ["of another call", "https://phone.vapi.ai/another/control"],
    ["of a call below it", "https://phone.vapi.ai/call-1/control/more"],
    ["of the call by a way round", "https://phone.vapi.ai/call-1/control?call=another"],
    ["at another host", "https://vapi.ai.example/call-1/control"],
    ["at a host that only ends like it", "https://evilvapi.ai/call-1/control"],
    ["in the clear", "http://phone.vapi.ai/call-1/control"],
    ["with userinfo", "https://a:b@phone.vapi.ai/call-1/control"],
    ["with userinfo that looks like the host", "https://phone.vapi.ai@evil.example/call-1/control"],
    ["at another port", "https://phone.vapi.ai:8443/call-1/control"],
    ["of a socket", "wss://phone.vapi.ai/call-1/control"],
    ["with a backslash", "https://phone.vapi.ai\\@evil.example/call-1/control"],
    ["that is none", "call-1/control"],
  ])("with a control URL %s is session_url_not_allowed", async (_name, controlUrl) => {
    const response = await register("bad", { provider: "vapi", agentSessionId: "call-1", controlUrl });
    expect(response.status).toBe(422);
    expect(await response.json()).toMatchObject({ code: "session_url_not_allowed" });
  });

  test("with a control URL at a host of Vapi is taken", async () => {
    for (const host of ["phone-call-websocket.aws-us-west-2-backend-production1.vapi.ai", "api.vapi.ai"]) {
      const controlUrl = `https://${host}/call-1/control`;
      const response = await register("vapi", { provider: "vapi", agentSessionId: "call-1", controlUrl });
      expect(response.status).toBe(200);
    }
    const session = await worker.fetch(`${API}/vapi/session`, { headers: bearer(API_TOKEN) });
    expect(await session.json()).toMatchObject({
      provider: "vapi",
      channel: "vapi",
      agentSessionId: "call-1",
    });
  });

  test("of a provider without a key is taken, and its results wait", async () => {
    const closed = await startWorker({ ...LOCAL_BINDINGS });
    onTestFinished(() => closed.close());
    const json = { provider: "telnyx", agentSessionId: "call" };
    expect((await closed.fetch(`${API}/c/session`, { json })).status).toBe(200);
    expect(await (await closed.fetch(`${API}/c/session`)).json()).toMatchObject({ channel: null });
    const callback = { requestId: "r1", conversationId: "c", output: "done" };
    const answer = await closed.fetch("/callback", { json: callback });
    expect(await answer.json()).toMatchObject({ reason: "no_push_channel" });
  });

  test("leaves a session of ElevenLabs as it was", async () => {
    const json = { provider: "elevenlabs", transport: "webrtc", controlUrl: "kept, never acted on" };
    expect((await register("eleven", json, await pageToken("eleven"))).status).toBe(200);
    const session = await worker.fetch(`${API}/eleven/session`, { headers: bearer(API_TOKEN) });
    expect(await session.json()).not.toHaveProperty("provider");
  });
});

describe("a page that names a call", () => {
  const call = "call_of_somebody";
  const json = { provider: "telnyx", agentSessionId: call };

  test.each<[string, string | undefined]>([
    ["of its own accord", undefined],
    ["against its token", "call_of_its_own"],
  ])("%s is forbidden", async (_name, vouched) => {
    const response = await register("page", json, await pageToken("page", vouched));
    expect(response.status).toBe(403);
    expect(await response.json()).toMatchObject({ code: "forbidden" });
  });

  test("as its token does is taken, whatever the id holds", async () => {
    const own = "v3:a/b%2F==";
    const token = await pageToken("own", own);
    expect((await register("own", { provider: "telnyx", agentSessionId: own }, token)).status).toBe(200);
    expect(await callBack("own", "r1")).toMatchObject({ delivered: true, channel: "telnyx" });
    expect(fake.call(own).told).toHaveLength(1);
  });

  test("when it renews its registration reaches nobody", async () => {
    const token = await pageToken("renew", "call_own");
    const registered = await register("renew", { provider: "telnyx", agentSessionId: "call_own" }, token);
    const { registrationId } = (await registered.json()) as { registrationId: string };
    expect((await register("renew", { registrationId, agentSessionId: call }, token)).status).toBe(200);
    expect(await callBack("renew", "r1")).toMatchObject({ reason: "no_push_channel" });
  });

  test("on its line is let go", async () => {
    const page = await openPage(worker.url, "line", { token: await pageToken("line") });
    onTestFinished(() => page.vanish());
    page.send({ type: "hello", session: json });
    expect((await page.closed()).code).toBe(1008);
  });

  test("never reaches it", () => {
    expect(fake.call(call).seen).toEqual([]);
  });
});

test("what waits is handed over whatever comes next: a page, a call, another provider's call", async () => {
  const id = "moving";
  await register(id, { provider: "telnyx", agentSessionId: "call_gone" });
  fake.fail("call_gone", "ended");
  expect(await callBack(id, "r1")).toMatchObject({ reason: "session_expired" });
  expect((await worker.fetch(`${API}/${id}/session`, { headers: bearer(API_TOKEN) })).status).toBe(404);
  expect(await callBack(id, "r2")).toMatchObject({ reason: "session_expired" });
  expect(fake.call("call_gone").seen).toHaveLength(1);

  await register(id, { provider: "openai-live", agentSessionId: "live_next" });
  await expect
    .poll(() => fake.call("live_next").told.map(({ text }) => /output of (r\d)/.exec(text)?.[1]))
    .toEqual(["r1", "r2"]);
  await register(id, { provider: "retell", agentSessionId: "call_lost" });
  fake.fail("call_lost", "limits");
  expect(await callBack(id, "r3")).toMatchObject({ reason: "push_failed" });

  const page = await openPage(worker.url, id, { token: await pageToken(id) });
  onTestFinished(() => page.vanish());
  await page.hello({});
  const push = await page.push();
  expect(push.requestIds).toEqual(["r3"]);
  page.ack(push.requestIds);
  await expect
    .poll(() => callBack(id, "r3"))
    .toMatchObject({ delivered: true, channel: "relay", proof: "heard" });
});

describe("a registration that is renewed", () => {
  const renew = async (id: string, agentSessionId: string, token?: string) => {
    const session = await worker.fetch(`${API}/${id}/session`, { headers: bearer(API_TOKEN) });
    const { registrationId } = (await session.json()) as { registrationId: string };
    expect((await register(id, { registrationId, agentSessionId }, token)).status).toBe(200);
  };

  test("by a server, for another call, reaches that call", async () => {
    await register("renewed", { provider: "telnyx", agentSessionId: "call_first" });
    await renew("renewed", "call_second");
    expect(await callBack("renewed", "r1")).toMatchObject({ delivered: true, channel: "telnyx" });
    expect(fake.call("call_first").seen).toEqual([]);
    expect(fake.call("call_second").told).toHaveLength(1);
  });

  test("by a page, for the call that its token names, reaches that call", async () => {
    await register("renewed-by-page", { provider: "telnyx", agentSessionId: "call_third" });
    await renew("renewed-by-page", "call_fourth", await pageToken("renewed-by-page", "call_fourth"));
    expect(await callBack("renewed-by-page", "r1")).toMatchObject({ delivered: true, channel: "telnyx" });
    expect(fake.call("call_third").seen).toEqual([]);
  });

  test("is told what could not be told before", async () => {
    await register("back", { provider: "telnyx", agentSessionId: "call_fifth" });
    await renew("back", "call_of_nobody", await pageToken("back"));
    expect(await callBack("back", "r1")).toMatchObject({ reason: "no_push_channel" });
    await renew("back", "call_fifth");
    await expect.poll(() => fake.call("call_fifth").told.length).toBe(1);
    expect(fake.call("call_of_nobody").seen).toEqual([]);
  });
});

describe("a key that is refused", () => {
  test("is logged once, named by /config/health, and not shown again for a while", async () => {
    const alone = await startWorker({ ...LOCAL_BINDINGS, ...CLOSED_DOORS, ...variablesOf(fake) });
    onTestFinished(() => alone.close());
    const health = async () =>
      (await alone.fetch("/config/health", { headers: bearer(API_TOKEN) })).json() as Promise<object>;
    expect(await health()).toEqual({ status: "ok", problems: [] });

    const deliver = async (provider: string, n: number) => {
      const json = { provider, agentSessionId: `call_${provider}_${n}` };
      await alone.fetch(`${API}/${provider}-${n}/session`, { json, headers: bearer(API_TOKEN) });
      const callback = { requestId: "r1", conversationId: `${provider}-${n}`, output: "done" };
      const answer = await alone.fetch("/callback", { json: callback, headers: bearer(SHARED_SECRET) });
      return answer.json();
    };
    for (let n = 0; n < 5; n++) {
      fake.fail(`call_retell_${n}`, "refuses_key");
      expect(await deliver("retell", n)).toMatchObject({ status: "queued", reason: "push_failed" });
    }
    fake.fail("call_openai-live_0", "refuses_key");
    expect(await deliver("openai-live", 0)).toMatchObject({ reason: "push_failed" });
    expect(await deliver("ultravox", 0)).toMatchObject({ status: "delivered" });

    const asked = Array.from({ length: 5 }, (_, n) => fake.call(`call_retell_${n}`).seen.length);
    expect(asked).toEqual([1, 0, 0, 0, 0]);
    const lines = alone.logs().filter(({ event }) => event === "provider.unauthorized");
    expect(lines.map(({ level, variable }) => [level, variable])).toEqual([
      ["error", "RETELL_API_KEY"],
      ["error", "OPENAI_API_KEY"],
    ]);
    const message = "was refused by its provider a short time ago, so nothing is told there";
    expect(await health()).toEqual({
      status: "misconfigured",
      problems: [
        { variable: "OPENAI_API_KEY", message },
        { variable: "RETELL_API_KEY", message },
      ],
    });
  });
});

test("/config says which providers there are and what each can do", async () => {
  const response = await worker.fetch("/config", { headers: bearer(API_TOKEN) });
  const { channels, providers } = (await response.json()) as { channels: string[]; providers: object[] };
  expect(channels).toEqual([
    ...["relay", "openai-live", "openai-realtime", "retell", "telnyx", "ultravox", "vapi", "socket"],
  ]);
  expect(providers).toContainEqual({
    name: "telnyx",
    manners: { when_idle: "interrupt", interrupt: "interrupt", silent: "silent" },
    proof: "accepted",
    dedupes: true,
  });
});
