/**
 * The providers besides ElevenLabs, each against a fake of it: what it is asked, what becomes of the result, what is known
 * of it, and how often it was asked.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { CallFault } from "../../dev/fake-voice-providers.ts";
import { PROVIDER_NAMES, type ProviderName } from "../../lib/push/providers.ts";
import type { Delivery } from "../../lib/result.ts";
import { API_TOKEN } from "../support/secrets.ts";
import { startVoiceProviders, type VoiceProviders } from "../support/voice-providers.ts";

const API = "/agent-conversations/api";
const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

let { fake, worker, register, callBack, close } = {} as VoiceProviders;
beforeAll(async () => {
  ({ fake, worker, register, callBack, close } = await startVoiceProviders());
});
afterAll(() => close());

let calls = 0;
/** A call, with characters that a path must not take for its own, where its provider's ids may have them. */
const newCall = () => `v3:call/${++calls}%2e=`;

const controlUrl = (call: string) => `${fake.url}/${encodeURIComponent(call)}/control`;

function registration(provider: ProviderName, call: string): object {
  return {
    provider,
    agentSessionId: call,
    ...(provider === "vapi" ? { controlUrl: controlUrl(call) } : {}),
  };
}

async function attemptsOf(id: string): Promise<unknown[]> {
  const response = await worker.fetch(`${API}/${id}/results`, { headers: bearer(API_TOKEN) });
  const { results } = (await response.json()) as { results: { attempts: object[] }[] };
  return results.flatMap(({ attempts }) => attempts);
}

/** Requests, or for a sideband its handshakes and frames, without texts and ids of our own. */
function askedOf(call: string): unknown[] {
  return fake
    .call(call)
    .seen.map(({ method, body }) => (method === "frame" ? (body as { type: string }).type : method));
}

const TEXT = expect.stringMatching(
  /^\[Background task result\] A task has completed\.[\s\S]*<result_[0-9a-f]{8}>[\s\S]*output of r1\./,
);
const ID = expect.stringMatching(/^[0-9a-f-]{32,36}$/);

type Told = { proof: string; manner?: Delivery; body: object };
/** By provider and delivery: the body that carries the text, what is proven by it, and how it was told in place of that. */
const DELIVERED: Record<ProviderName, Record<Delivery, Told>> = {
  "openai-live": {
    when_idle: {
      proof: "in_context",
      body: { type: "session.commentary.append", event_id: ID, delegation_id: null, content: TEXT },
    },
    interrupt: {
      proof: "in_context",
      manner: "when_idle",
      body: { type: "session.commentary.append", event_id: ID, delegation_id: null, content: TEXT },
    },
    silent: {
      proof: "in_context",
      body: { type: "session.thinking.append", event_id: ID, delegation_id: null, content: TEXT },
    },
  },
  "openai-realtime": {
    when_idle: { proof: "speaking", body: item() },
    interrupt: { proof: "speaking", body: item() },
    silent: { proof: "in_context", body: item() },
  },
  telnyx: {
    when_idle: { proof: "accepted", manner: "interrupt", body: telnyx(true) },
    interrupt: { proof: "accepted", body: telnyx(true) },
    silent: { proof: "accepted", body: telnyx(false) },
  },
  retell: {
    when_idle: {
      proof: "accepted",
      manner: "interrupt",
      body: { call_control: { additional_context: TEXT, trigger_response: true } },
    },
    interrupt: {
      proof: "accepted",
      body: { call_control: { additional_context: TEXT, trigger_response: true } },
    },
    silent: { proof: "accepted", body: { call_control: { additional_context: TEXT } } },
  },
  vapi: {
    when_idle: { proof: "accepted", body: vapi(true) },
    interrupt: { proof: "accepted", manner: "when_idle", body: vapi(true) },
    silent: { proof: "accepted", body: vapi(false) },
  },
  ultravox: {
    when_idle: { proof: "accepted", body: ultravox("soon") },
    interrupt: { proof: "accepted", body: ultravox("immediate") },
    silent: { proof: "accepted", body: ultravox("later") },
  },
};

function item(): object {
  const content = [{ type: "input_text", text: TEXT }];
  return {
    type: "conversation.item.create",
    event_id: ID,
    item: { id: expect.stringMatching(/^[0-9a-f]{32}$/), type: "message", role: "user", content },
  };
}
function telnyx(trigger_response: boolean): object {
  return { command_id: ID, messages: [{ role: "user", content: TEXT }], trigger_response };
}
function vapi(triggerResponseEnabled: boolean): object {
  return { type: "add-message", message: { role: "user", content: TEXT }, triggerResponseEnabled };
}

function ultravox(urgency: string): object {
  return { type: "user_text_message", text: TEXT, urgency };
}

/** Where the fake must have been asked, and by which key. */
const PLACES: Record<ProviderName, (call: string) => { path: string; authorization: string }> = {
  "openai-live": (call) => ({ path: `/v1/live/sessions/${call}/attach`, authorization: "Bearer openai-key" }),
  "openai-realtime": (call) => ({ path: `/v1/realtime?call_id=${call}`, authorization: "Bearer openai-key" }),
  telnyx: (call) => ({
    path: `/v2/calls/${call}/actions/ai_assistant_add_messages`,
    authorization: "Bearer telnyx-key",
  }),
  retell: (call) => ({ path: `/v2/update-live-call/${call}`, authorization: "Bearer retell-key" }),
  vapi: (call) => ({ path: `/${call}/control`, authorization: "Bearer vapi-key" }),
  ultravox: (call) => ({ path: `/api/calls/${call}/send_data_message`, authorization: "ultravox-key" }),
};

const FRAMES: Partial<Record<`${ProviderName} ${Delivery}`, string[]>> = {
  "openai-realtime when_idle": ["conversation.item.create", "response.create"],
  "openai-realtime interrupt": [
    "conversation.item.create",
    "response.cancel",
    "output_audio_buffer.clear",
    "response.create",
  ],
};

const DELIVERIES = ["when_idle", "interrupt", "silent"] as const;

describe.each(PROVIDER_NAMES)("%s", (provider) => {
  test.each(DELIVERIES)(
    "is told a result that is %s by one request, and it is known what that proves",
    async (delivery) => {
      const [call, id] = [newCall(), `c-${provider}-${delivery}`];
      expect((await register(id, registration(provider, call))).status).toBe(200);
      const { proof, manner, body } = DELIVERED[provider][delivery];
      const told = { channel: provider, proof, ...(manner === undefined ? {} : { manner }) };
      const answer = { received: true, delivered: true, status: "delivered", ...told };
      expect(await callBack(id, "r1", { delivery })).toEqual(answer);
      expect(await callBack(id, "r1", { delivery })).toEqual({ ...answer, status: "duplicate" });
      expect(await attemptsOf(id)).toEqual([{ at: expect.any(String), outcome: "delivered", ...told }]);

      const { seen, told: heard } = fake.call(call);
      expect(seen[0]).toMatchObject(PLACES[provider](encodeURIComponent(call)));
      expect(seen.map((entry) => entry.body)).toContainEqual(body);
      const frames = FRAMES[`${provider} ${delivery}`];
      if (frames !== undefined) expect(askedOf(call)).toEqual(["GET", ...frames]);
      expect(heard).toEqual([{ text: TEXT, speaks: delivery !== "silent" }]);
    },
  );
});

/* Faults ----------------------------------------------------------------------------------------------- */

type Outcome = {
  outcome: "delivered" | "refused" | "unreachable" | "ended" | "unconfirmed";
  reason?: string;
  /** How often the provider was asked. */
  asked: number;
  /** How often the agent was told. */
  told: number;
  status?: number;
};
const of = (outcome: Outcome["outcome"], asked: number, told: number, reason?: string): Outcome => ({
  outcome,
  asked,
  told,
  ...(reason === undefined ? {} : { reason }),
});
const WAITS = "push_failed";

/** A request that goes out once. */
const BY_HTTP: Record<CallFault, Outcome> = {
  slow: of("delivered", 1, 1),
  applies_then_fails: of("unconfirmed", 1, 1, "unconfirmed"),
  applies_then_silent: of("unconfirmed", 1, 1, "unconfirmed"),
  silent: of("unconfirmed", 1, 0, "unconfirmed"),
  fails: of("unconfirmed", 1, 0, "unconfirmed"),
  limits: of("refused", 1, 0, WAITS),
  redirects: of("refused", 1, 0, WAITS),
  refuses: of("refused", 1, 0, WAITS),
  refuses_key: of("refused", 1, 0, WAITS),
  ended: of("ended", 1, 0, "session_expired"),
  errs_with_200: of("unconfirmed", 1, 0, "unconfirmed"),
  floods: of("unconfirmed", 1, 0, "unconfirmed"),
};
/** A socket that does not open has sent nothing, so it is tried again, unless that took too long. */
const BY_SIDEBAND: Record<CallFault, Outcome> = {
  ...BY_HTTP,
  silent: of("unreachable", 1, 0, WAITS),
  fails: of("unreachable", 3, 0, WAITS),
  errs_with_200: of("refused", 1, 0, WAITS),
  floods: of("delivered", 1, 1),
};
const OUTCOMES: Record<ProviderName, Record<CallFault, Outcome>> = {
  "openai-live": BY_SIDEBAND,
  "openai-realtime": BY_SIDEBAND,
  // It knows a command that comes again.
  telnyx: {
    ...BY_HTTP,
    applies_then_fails: of("unconfirmed", 3, 1, "unconfirmed"),
    applies_then_silent: of("unconfirmed", 3, 1, "unconfirmed"),
    silent: of("unconfirmed", 3, 0, "unconfirmed"),
    fails: of("unconfirmed", 3, 0, "unconfirmed"),
    errs_with_200: of("unconfirmed", 3, 0, "unconfirmed"),
    floods: of("unconfirmed", 3, 0, "unconfirmed"),
  },
  retell: BY_HTTP,
  vapi: BY_HTTP,
  // A call that is over and one that has not begun are answered alike.
  ultravox: { ...BY_HTTP, ended: of("refused", 1, 0, WAITS) },
};

const FAULTS = (Object.keys(BY_HTTP) as CallFault[]).filter((fault) => fault !== "refuses_key");

const asked = (call: string) => fake.call(call).seen.filter(({ method }) => method !== "frame").length;

/** What became of the first telling of a result, and in which call. */
type Telling = { call: string; id: string; answer: Record<string, unknown>; asked: number; told: number };

async function tell(
  provider: ProviderName,
  id: string,
  goWrong: (call: string) => void,
  fields: object = {},
): Promise<Telling> {
  const call = newCall();
  await register(id, registration(provider, call));
  goWrong(call);
  const answer = await callBack(id, "r1", fields);
  return { call, id, answer, asked: asked(call), told: fake.call(call).told.length };
}

const tellBroken = (provider: ProviderName, fault: CallFault) =>
  tell(provider, `f-${provider}-${fault}`, (call) => fake.fail(call, fault));
const tellMute = () =>
  tell("openai-realtime", "isMute-when_idle", (call) => {
    fake.call(call).isMute = true;
  });

/** Some tellings wait for deadlines. They are begun together, before the first test, and wait side by side. */
const LONG: readonly CallFault[] = ["slow", "applies_then_silent", "silent"];
let clinging: Promise<Telling>;
const begun = new Map<string, Promise<Telling>>();
beforeAll(() => {
  for (const provider of PROVIDER_NAMES)
    for (const fault of LONG) begun.set(`${provider} ${fault}`, tellBroken(provider, fault));
  begun.set("mute", tellMute());
  clinging = tell("openai-live", "clings", (call) => {
    fake.call(call).clings = true;
  });
  // Whichever fails, fails the test that asks for it.
  for (const telling of [...begun.values(), clinging]) telling.catch(() => {});
});

/** Those that take their time last: they have had it by then. */
const CASES = [FAULTS.filter((fault) => !LONG.includes(fault)), LONG].flatMap((faults) =>
  PROVIDER_NAMES.flatMap((provider) => faults.map((fault) => [provider, fault] as const)),
);

describe("one that goes wrong", () => {
  test.each(CASES)("%s as it %s", async (provider, fault) => {
    const expected = OUTCOMES[provider][fault];
    const { call, id, answer, ...met } = await (begun.get(`${provider} ${fault}`) ??
      tellBroken(provider, fault));
    expect(answer).toMatchObject(
      expected.reason === undefined ? { delivered: true } : { status: "queued", reason: expected.reason },
    );
    expect(met).toEqual({ asked: expected.asked, told: expected.told });
    expect(await attemptsOf(id)).toMatchObject([{ channel: provider, outcome: expected.outcome }]);

    // What certainly was not heard is told in the next call; what may have been, once more there, and no more here.
    const next = newCall();
    await register(id, registration(provider, next));
    const isTold = expected.reason !== undefined;
    await expect.poll(() => fake.call(next).told.length).toBe(isTold ? 1 : 0);
    if (isTold) {
      const mayHaveBeen = expected.outcome === "unconfirmed";
      expect(fake.call(next).told[0]?.text.includes("may have heard this already")).toBe(mayHaveBeen);
    }
    expect(asked(call)).toBe(expected.asked);
  });
});

test("a sideband goes, even where the provider does not let it", async () => {
  const { call, answer } = await clinging;
  expect(answer).toMatchObject({ status: "delivered", proof: "in_context" });
  await expect.poll(() => fake.call(call).sidebands, { timeout: 8_000 }).toBe(0);
});

test("Telnyx is asked again under the same id, and tells its agent once", async () => {
  const call = newCall();
  await register("again", registration("telnyx", call));
  fake.fail(call, "applies_then_fails", 2);
  expect(await callBack("again", "r1")).toMatchObject({ status: "delivered", channel: "telnyx" });
  const { seen, told } = fake.call(call);
  expect(seen).toHaveLength(3);
  expect(new Set(seen.map(({ body }) => JSON.stringify(body))).size).toBe(1);
  expect(told).toHaveLength(1);
});

test("what an earlier try may have done is not undone by the answer to a later one", async () => {
  const call = newCall();
  await register("limited", registration("telnyx", call));
  fake.fail(call, "applies_then_fails", 1);
  const answer = callBack("limited", "r1");
  await expect.poll(() => fake.call(call).seen.length).toBe(1);
  fake.fail(call, "limits");
  expect(await answer).toMatchObject({ reason: "unconfirmed" });
});

test("while OpenAI Realtime makes a response, the item stays and is spoken of behind it", async () => {
  const [busy, interrupted] = [newCall(), newCall()];
  await register("busy", registration("openai-realtime", busy));
  await register("interrupted", registration("openai-realtime", interrupted));
  for (const call of [busy, interrupted]) fake.call(call).isBusy = true;
  expect(await callBack("busy", "r1")).toMatchObject({ status: "delivered", proof: "speaking" });
  expect(askedOf(busy)).toEqual(["GET", "conversation.item.create", "response.create", "response.create"]);
  expect(await callBack("interrupted", "r1", { delivery: "interrupt" })).toMatchObject({ proof: "speaking" });
  for (const call of [busy, interrupted]) expect(fake.call(call).told).toHaveLength(1);
});

test.each<[string, () => Promise<Telling>]>([
  ["that is not answered", async () => (await begun.get("mute")) ?? tellMute()],
  ["at which it hangs up", () => tellHangingUp("when_idle")],
  ["that is to be interrupted, and it hangs up", () => tellHangingUp("interrupt")],
])(
  "what OpenAI Realtime has taken is in its context, and a response %s takes nothing back",
  async (_, tellIt) => {
    const channel = { channel: "openai-realtime", proof: "in_context", manner: "silent" };
    const { answer, told } = await tellIt();
    expect(answer).toEqual({ received: true, delivered: true, status: "delivered", ...channel });
    expect(told).toBe(1);
  },
);

const tellHangingUp = (delivery: Delivery) =>
  tell(
    "openai-realtime",
    `hangsUp-${delivery}`,
    (call) => {
      fake.call(call).hangsUp = true;
    },
    { delivery },
  );
