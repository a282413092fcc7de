/**
 * Nothing leaks. Every route, every failure and every storage fault is driven with a secret of its own in
 * every place where a secret can stand; then every log line, every response body and every response header is
 * searched for all of them, in every form a careless program might give them. What a response hands back by
 * contract is said at the call.
 *
 * A new route goes into `contract`, a new way to fail into `mistakes`, a new event into `EVENTS`; the last
 * tests say what was forgotten.
 */
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { app } from "../../functions/app.ts";
import { type ProblemCode, STATUS_OF_CODE } from "../../functions/problem-codes.ts";
import { PROVIDER_NAMES } from "../../lib/push/providers.ts";
import { type AgentBehaviour, startAgent, type TestAgent } from "../support/agent.ts";
import { asDescribed } from "../support/contract.ts";
import { type Fault, type FaultyGateway, startFaultyGateway } from "../support/faulty-gateway.ts";
import { openPage } from "../support/page.ts";
import { startProvider } from "../support/provider.ts";
import { connectPage } from "../support/proxied-page.ts";
import { startReceiver } from "../support/receiver.ts";
import { startRedis } from "../support/redis.ts";
import { startRunner } from "../support/runner.ts";
import { elevenLabsHeaders, jwt, standardHeaders } from "../support/webhooks.ts";
import {
  LOCAL_BINDINGS,
  OUTBOUND,
  startWorker,
  type TestWorker,
  type TestWorkerOptions,
} from "../support/worker.ts";

const API = "/agent-conversations/api";

/* Coverage -------------------------------------------------------------------------------------------- */

/** Codes that no request can bring about, and why. */
const NOT_REACHABLE: Partial<Record<ProblemCode, string>> = {};

/** Events that must have been logged, so that the lines searched are all kinds of lines. */
const EVENTS = [
  ...["session.registered", "session.replaced", "session.ended"],
  ...["callback.received", "callback.duplicate", "callback.queued", "result.settled", "result.again"],
  ...["report.appended", "report.acknowledged"],
  ...["relay.nack", "relay.unknown_frame", "provider.failed", "provider.unauthorized"],
  ...["task.opened", "task.failed", "task.progress", "task.cancelled", "event.failed"],
  ...["push.failed", "auth.rejected", "feature.disabled", "request.failed"],
];
/** Events that need something put into Redis by hand. */
const REDIS_EVENTS = ["record.unreadable", "messages.dropped"];

/* Canaries -------------------------------------------------------------------------------------------- */

/** Every secret by the name of its place. */
const canaries = new Map<string, string>();

/** The secret of this place. It holds characters that JSON, URLs and base64url write in another way. */
function secret(place: string): string {
  const digest = createHash("sha256").update(`canary: ${place}`).digest("hex");
  const text = `${digest.slice(0, 14)}"+/=${digest.slice(14, 28)}`;
  canaries.set(place, text);
  return text;
}

/** The secret of a place that takes letters and digits only. */
function plainSecret(place: string): string {
  const text = createHash("sha256").update(`canary: ${place}`).digest("hex").slice(0, 28);
  canaries.set(place, text);
  return text;
}

/** Takes a text that was made elsewhere for a secret too. Returns the place under which it is known. */
function isSecret(place: string, text: string): string {
  for (const [known, other] of canaries) if (other === text) return known;
  canaries.set(place, text);
  return place;
}

/** Case and the two alphabets of base64 do not matter. */
const fold = (text: string): string => text.toLowerCase().replaceAll("-", "+").replaceAll("_", "/");

const needles = new Map<string, string[]>();

/** Half a secret is a leak, so both halves are looked for: as text, in hexadecimal, and in base64 at any offset. */
function needlesOf(text: string): string[] {
  const known = needles.get(text);
  if (known !== undefined) return known;
  const middle = Math.ceil(text.length / 2);
  const made = [text.slice(0, middle), text.slice(middle)].flatMap((half) => [
    half,
    Buffer.from(half).toString("hex"),
    ...[0, 1, 2].map((offset) => {
      const encoded = Buffer.from(" ".repeat(offset) + half).toString("base64url");
      // The outermost characters also depend on what stands beside the secret.
      return encoded.slice(offset === 0 ? 0 : offset + 1, -2);
    }),
  ]);
  needles.set(text, made.map(fold));
  return made.map(fold);
}

const unescapeJson = (text: string): string =>
  text
    .replace(/\\u([0-9a-f]{4})/gi, (_all, code) => String.fromCharCode(Number.parseInt(code, 16)))
    .replace(/\\(["\\/])/g, "$1");
const unescapeUrl = (text: string): string =>
  text.replace(/%([0-9a-f]{2})/gi, (_all, code) => String.fromCharCode(Number.parseInt(code, 16)));

/** The places whose secrets stand in a text, in whatever form. */
function placesFoundIn(text: string): string[] {
  const once = unescapeJson(text);
  const readings = [text, once, unescapeJson(once), unescapeUrl(text), unescapeUrl(once)].map(fold);
  const haystack = [...new Set(readings)].join("\n");
  return [...canaries]
    .filter(([, value]) => needlesOf(value).some((needle) => haystack.includes(needle)))
    .map(([place]) => place);
}

/* Evidence -------------------------------------------------------------------------------------------- */

/** Something that came out, and the places whose secrets it hands back by contract. */
type Evidence = { where: string; text: string; may: readonly string[] };

const evidence: Evidence[] = [];
/** Everything that went in: requests, configurations, and records put into Redis. */
const sent: string[] = [];
/** A Worker under Miniflare, or the app in this process. */
type Driven = Pick<TestWorker, "url" | "fetch" | "lines" | "logs">;
const workers: Driven[] = [];
const toClose = new Set<{ close(): Promise<unknown> }>();
/** What takes so long that the tests in between do not wait for it. */
const pending: Promise<Answer>[] = [];
/** Requests and their answers, for the coverage. */
const driven: { method: string; path: string; status: number; code: string | undefined }[] = [];

function leaksIn(found: readonly Evidence[]): string[] {
  return found.flatMap(({ where, text, may }) =>
    placesFoundIn(text)
      .filter((place) => !may.includes(place))
      .map((place) => `${place} in ${where}: ${text.slice(0, 400)}`),
  );
}

/** How many lines of each worker have been searched. */
const searched = new Map<Driven, number>();

function newLinesOf(worker: Driven): Evidence[] {
  const lines = worker.lines.slice(searched.get(worker) ?? 0);
  searched.set(worker, (searched.get(worker) ?? 0) + lines.length);
  return lines.map((line) => ({ where: "a log line", text: line, may: [] }));
}

/** Searches everything that has come out since the last search. */
function nothingLeaked(): void {
  expect(leaksIn([...evidence.splice(0), ...workers.flatMap(newLinesOf)])).toEqual([]);
}

/* Driving --------------------------------------------------------------------------------------------- */

type Call = {
  method: string;
  path: string;
  json?: object;
  /** Instead of `json`, as it is. */
  body?: string;
  headers?: Record<string, string>;
  may?: readonly string[];
};
type Answer = { status: number; code: string | undefined; body: Record<string, unknown>; evidence: Evidence };

/** What stands around any request and is nobody's business. */
const SURROUNDINGS = {
  cookie: `session=${secret("cookie")}`,
  origin: `https://${plainSecret("origin")}.example`,
  referer: `https://app.example/?code=${secret("referer")}`,
  "x-forwarded-for": secret("forwarded address"),
  "user-agent": secret("user agent"),
};
const QUERY = `access_token=${encodeURIComponent(secret("query string"))}`;

async function start(bindings: Record<string, string>, options: TestWorkerOptions = {}): Promise<TestWorker> {
  sent.push(...Object.values(bindings), options.outbound ?? "");
  const worker = await startWorker(bindings, options);
  workers.push(worker);
  toClose.add(worker);
  return worker;
}

async function end(started: { close(): Promise<unknown> }): Promise<void> {
  if (toClose.delete(started)) await started.close();
}

/** The app in this process, for what no platform can be brought to do: bindings that fail, and say too much. */
function startInProcess(environment: Record<string, unknown>): Driven {
  const lines: string[] = [];
  const url = new URL("http://worker.example/");
  const context = {
    waitUntil: (work: Promise<unknown>) => void work.catch((error) => lines.push(error.stack)),
  };
  const worker: Driven = {
    url,
    lines,
    logs: () => lines.map((line) => JSON.parse(line)),
    async fetch(path, init) {
      const target = new URL(path, url);
      const request = new Request(target, init as RequestInit);
      return asDescribed(
        target,
        init ?? {},
        await app.fetch(request, environment as never, context as never),
      );
    },
  };
  onTestFinished(() => void vi.restoreAllMocks());
  for (const level of ["info", "warn", "error"] as const) {
    vi.spyOn(console, level).mockImplementation((line) => void lines.push(String(line)));
  }
  sent.push(...Object.values(environment).filter((value) => typeof value === "string"));
  workers.push(worker);
  return worker;
}

async function send(worker: Driven, call: Call): Promise<Answer> {
  const { method, json, may = [] } = call;
  const path = `${call.path}${call.path.includes("?") ? "&" : "?"}${QUERY}`;
  const body = call.body ?? (json === undefined ? undefined : JSON.stringify(json));
  const headers = {
    ...SURROUNDINGS,
    ...(body === undefined ? {} : { "content-type": "application/json" }),
    ...call.headers,
  };
  sent.push(path, JSON.stringify(headers), body ?? "");
  const response = await worker.fetch(path, { method, headers, ...(body === undefined ? {} : { body }) });
  const text = await response.text();
  const where = `the answer ${response.status} to ${method} ${call.path}`;
  const said: Evidence = { where: `the body of ${where}`, text, may };
  evidence.push(said);
  for (const [name, value] of response.headers) {
    evidence.push({ where: `the header ${name} of ${where}`, text: `${name}: ${value}`, may: [] });
  }
  const answer = (text.startsWith("{") ? JSON.parse(text) : {}) as Record<string, unknown>;
  const code = typeof answer.code === "string" ? answer.code : undefined;
  driven.push({ method, path: new URL(path, worker.url).pathname, status: response.status, code });
  return { status: response.status, code, body: answer, evidence: said };
}

/* Credentials ----------------------------------------------------------------------------------------- */

const API_TOKEN = secret("API token");
const TOKEN_SECRET = secret("token secret");
const SHARED = secret("shared webhook secret");
const SIGNING = `whsec_${Buffer.from(secret("webhook signing key")).toString("base64")}`;

const CLOSED = {
  ...LOCAL_BINDINGS,
  REQUIRE_AUTH: "true",
  API_TOKEN: `${API_TOKEN},${secret("old API token")}`,
  SESSION_TOKEN_SECRET: `${TOKEN_SECRET},${secret("old token secret")}`,
  WEBHOOK_SECRET: `${SHARED},${SIGNING}`,
  ALLOWED_ORIGINS: "https://app.example",
  PUSH_ALLOWED_HOSTS: "127.0.0.1,api.elevenlabs.io,agent.example",
  ELEVENLABS_API_KEY: secret("ElevenLabs key"),
};

/** Headers that go with a body. */
type Credential = (body: string) => Record<string, string>;

const bearer =
  (token: string): Credential =>
  () => ({ authorization: `Bearer ${token}` });

/** Signatures are secrets too: with one, a body can be sent again. */
function signed(sign: (body: string) => Record<string, string>): Credential {
  return (body) => {
    const headers = sign(body);
    const value = headers["webhook-signature"] ?? headers["elevenlabs-signature"] ?? "";
    isSecret(`signature ${value}`, value.replace(/^v1,|^t=\d+,v0=/, ""));
    return headers;
  };
}

const forgedToken = (claims: object, key: string): string => {
  const token = jwt({ alg: "HS256", typ: "JWT" }, claims, key);
  isSecret(`forged token ${token}`, token.split(".")[2] ?? "");
  return token;
};

const CREDENTIALS: Record<string, Credential> = {
  none: () => ({}),
  "the API token": bearer(API_TOKEN),
  "the old API token": bearer(secret("old API token")),
  "a wrong API token": bearer(secret("wrong API token")),
  "another scheme": () => ({ authorization: `Basic ${secret("basic credential")}` }),
  "an expired token": bearer(forgedToken({ sub: "c1", exp: 1 }, TOKEN_SECRET)),
  "a forged token": bearer(forgedToken({ sub: "c1", exp: 9_999_999_999 }, "guessed")),
  "a token of another kind": bearer(`${secret("a.b.c")}.x.y`),
  "the shared secret as bearer": bearer(SHARED),
  "the shared secret as X-EL-Secret": () => ({ "x-el-secret": SHARED }),
  "the shared secret as X-Webhook-Secret": () => ({ "x-webhook-secret": SIGNING }),
  "a wrong shared secret": () => ({ "x-webhook-secret": secret("wrong webhook secret") }),
  "a Standard Webhooks signature": signed((body) => standardHeaders(SIGNING, body)),
  "a forged Standard Webhooks signature": signed((body) =>
    standardHeaders(`whsec_${btoa("a key that nobody has listed")}`, body),
  ),
  "a malformed Standard Webhooks signature": () => ({
    "webhook-id": secret("webhook id"),
    "webhook-timestamp": secret("webhook timestamp"),
    "webhook-signature": secret("malformed signature"),
  }),
  "an ElevenLabs signature": signed((body) => elevenLabsHeaders(SHARED, body)),
  "a forged ElevenLabs signature": signed((body) => elevenLabsHeaders("guessed", body)),
  "a malformed ElevenLabs signature": () => ({
    "elevenlabs-signature": secret("malformed ElevenLabs signature"),
  }),
};

const isWebhook = ({ path }: Call): boolean =>
  /\/(?:callback|agent-tools)$/.test(path.split("?", 1)[0] ?? "");

/** A call with a credential that opens what it asks for. */
const opened = (call: Call): Call =>
  withCredential(call, isWebhook(call) ? bearer(SHARED) : bearer(API_TOKEN));

function withCredential(call: Call, credential: Credential): Call {
  const body = call.body ?? (call.json === undefined ? "" : JSON.stringify(call.json));
  return { ...call, headers: { ...call.headers, ...credential(body) } };
}

/** Sends a call that may be answered with a token: from then on that is a secret too, and only this answer may hold it. */
async function sendForToken(worker: Driven, call: Call): Promise<Answer> {
  const answer = await send(worker, call);
  if (typeof answer.body.token === "string") {
    const place = isSecret(`conversation token ${canaries.size}`, answer.body.token.split(".").at(-1) ?? "");
    answer.evidence.may = [...answer.evidence.may, place];
  }
  return answer;
}

async function tokenOf(worker: Driven, id: string): Promise<string> {
  const { body } = await sendForToken(worker, opened(post(`${API}/${id}/token`, {})));
  return String(body.token);
}

/* The contract ---------------------------------------------------------------------------------------- */

/** What stands in a conversation's history, and is handed to whoever may read it. */
const HISTORY = [
  ...["message content", "tool arguments", "tool output", "message source"],
  ...["callback output", "callback error", "tool name", "transcript"],
];
const METADATA = ["conversation metadata"];
/** What the orchestrator and the assistant keep, and are given back. */
const STATE = ["state", "memory"];
/** What a page is told of its own session. */
const SESSION = ["agent session id"];
/** Which agent conversation a server names for a token. */
const vouched = () => `conv_${plainSecret("vouched agent session id")}`;

const report = (type: string) => ({
  type,
  event_timestamp: 1_795_000_000,
  data: {
    conversation_id: vouched(),
    transcript: [{ role: "user", message: secret("transcript"), time_in_call_secs: 1 }],
    full_audio: secret("audio"),
    [secret("unknown field's name")]: secret("unknown field"),
  },
});

const message = () => ({
  role: "tool",
  content: secret("message content"),
  source: secret("message source"),
  toolName: secret("tool name"),
  toolArgs: { query: secret("tool arguments") },
  toolOutput: [secret("tool output")],
  [secret("unknown field's name")]: secret("unknown field"),
});

const state = () => ({ step: secret("state"), [secret("state")]: [secret("state")] });
const memory = () => ({
  domain: "general",
  brand: null,
  category: null,
  price: null,
  city: null,
  gender: null,
  intentSpecific: {},
  lastQuery: secret("memory"),
  lastAnswer: secret("memory"),
});

const registration = (agentUrl: string) => ({
  sessionUrl: `${agentUrl}&token=${secret("session URL")}`,
  sessionPayload: { clientSecret: secret("session payload"), nested: [{ jwt: secret("nested payload") }] },
  agentSessionId: secret("agent session id"),
  transport: "websocket",
  metadata: { user: secret("session metadata") },
  extra: secret("field beside the payload"),
});

let callbacks = 0;
const callback = (fields: object = {}) => ({
  requestId: `r${++callbacks}`,
  output: { text: secret("callback output") },
  toolName: secret("tool name"),
  metadata: { trace: secret("callback metadata") },
  ...fields,
});
const failedCallback = (fields: object = {}) =>
  callback({ success: false, error: secret("callback error"), ...fields });

const get = (path: string, may: readonly string[] = []): Call => ({ method: "GET", path, may });
const post = (path: string, json: object, may: readonly string[] = []): Call => ({
  method: "POST",
  path,
  json,
  may,
});
const put = (path: string, json: object, may: readonly string[] = []): Call => ({
  ...post(path, json, may),
  method: "PUT",
});
const remove = (path: string): Call => ({ method: "DELETE", path });

/** Every route of the HTTP contract, in an order in which each finds what it asks for. */
function contract(id: string, agentUrl: string): Call[] {
  const conversation = `${API}/${id}`;
  const repeated = callback({ conversationId: id });
  return [
    get("/health"),
    get("/config"),
    get("/config/health"),
    get("/openapi.json"),
    get("/docs"),
    get("/console"),
    get("/console/console.js"),
    post(`${API}/new`, { agentId: "agent", metadata: { note: secret("conversation metadata") } }, METADATA),
    { method: "POST", path: `${conversation}/token` },
    // The token holds what it was asked for.
    post(`${conversation}/token`, { agentSessionId: vouched() }, ["vouched agent session id"]),
    post(`${conversation}/callback`, failedCallback()),
    post(`${conversation}/session`, registration(agentUrl)),
    post(`${conversation}/session`, registration(agentUrl)),
    get(`${conversation}/session`, SESSION),
    post(`${conversation}/message`, message(), HISTORY),
    get(`${conversation}/results`),
    get(`${conversation}/results?content=true`, [...HISTORY, "callback metadata"]),
    post(`${conversation}/results/ack`, { requestIds: ["r1"] }),
    post("/callback", repeated),
    post("/callback", repeated),
    post(`${conversation}/results/again`, { requestIds: [repeated.requestId] }),
    post(`${conversation}/callback`, callback({ mode: "context" })),
    get(`${conversation}/connections`, SESSION),
    get(`/console/api/results?conversationId=${id}`),
    get("/console/api/waiting"),
    get("/console/api/sessions", SESSION),
    get("/console/api/rates"),
    get("/console/api/outages"),
    post("/console/api/results/again", { since: new Date(Date.now() - 60_000).toISOString() }),
    get(conversation, HISTORY),
    { method: "HEAD", path: conversation },
    get(`${API}/list?limit=3`, METADATA),
    remove(`${conversation}/session?registrationId=${encodeURIComponent(secret("registration id"))}`),
    remove(`${conversation}/session`),
    remove(conversation),
    put(`/state/api/${id}`, state(), STATE),
    get(`/state/api/${id}`, STATE),
    post(`/state/api/${id}/touch`, {}),
    remove(`/state/api/${id}`),
    put(`/memory/api/${id}`, memory(), STATE),
    get(`/memory/api/${id}`, STATE),
    { ...put(`/memory/api/${id}`, { lastQuery: secret("memory") }, STATE), method: "PATCH" },
    post(`/memory/api/${id}/touch`, {}),
    remove(`/memory/api/${id}`),
    {
      method: "OPTIONS",
      path: `${conversation}/session`,
      headers: {
        "access-control-request-method": "POST",
        "access-control-request-headers": plainSecret("requested header"),
      },
    },
  ];
}

/** Whatever a sender can get wrong, with something secret in the wrong place. */
function mistakes(id: string): Call[] {
  const wrong = secret("wrong value");
  const inUrl = encodeURIComponent(wrong);
  const conversation = `${API}/${id}`;
  const form = { "content-type": `text/${plainSecret("media type")}` };
  const deep = `${'{"a":'.repeat(200)}${JSON.stringify(wrong)}${"}".repeat(200)}`;
  const urls = [
    `wss://evil.example/?token=${wrong}`,
    `wss://user:${wrong}@api.elevenlabs.io/`,
    `wss://api.elevenlabs.io/#${wrong}`,
    `wss://169.254.169.254/${wrong}`,
    `https://api.elevenlabs.io/?token=${wrong}`,
    `wss://api.elevenlabs.io/${"x".repeat(9_000)}${wrong}`,
    wrong,
  ];
  return [
    ...[`${conversation}/session`, `${conversation}/message`, `${API}/new`, "/callback"].flatMap((path) => [
      { method: "POST", path, body: `{"sessionUrl": "${wrong}` },
      { method: "POST", path, body: JSON.stringify([wrong]) },
      { method: "POST", path, body: `{"a":"${"x".repeat(70_000)}${wrong}"}` },
      { method: "POST", path, body: deep },
      { method: "POST", path, body: `token=${inUrl}`, headers: form },
    ]),
    post(`${conversation}/session`, { sessionUrl: [wrong], expiresAt: wrong, transport: wrong }),
    post(`${conversation}/session`, { agentSessionId: wrong.repeat(20), sessionUrl: wrong, metadata: wrong }),
    post(`${conversation}/session`, { [wrong]: wrong }),
    ...urls.map((sessionUrl) => post(`${conversation}/session`, { sessionUrl })),
    post(`${conversation}/message`, { role: wrong, content: [wrong], timestamp: wrong, source: [wrong] }),
    post(`${API}/new`, { agentId: [wrong], metadata: wrong }),
    post("/callback", { requestId: wrong, conversationId: wrong, success: wrong, mode: wrong }),
    post("/callback", { requestId: "r", output: wrong }),
    post(`${conversation}/callback`, { requestId: "r", conversationId: "another", output: wrong }),
    get(`${API}/list?limit=${inUrl}`),
    get(`${API}/list?cursor=${inUrl}`),
    ...["", "/session", "/message", "/token", "/callback"].flatMap((rest) => [
      get(`${API}/${inUrl}${rest}`),
      post(`${API}/${inUrl}${rest}`, { ...callback(), ...message() }),
      remove(`${API}/${inUrl}${rest}`),
    ]),
    put(`${conversation}/session`, { wrong }),
    // What was deleted, replaced or used before.
    post(`${conversation}/message`, message()),
    post(`${API}/other/session`, { registrationId: wrong, agentSessionId: wrong }),
    get(`${API}/other/results?status=${inUrl}`),
    post(`${API}/other/results/ack`, { requestIds: [wrong] }),
    post(`${API}/other/results/again`, { requestIds: [wrong] }),
    ...["before", "status", "failed", "conversationId", "requestId", "limit"].map((name) =>
      get(`/console/api/results?${name}=${inUrl}`),
    ),
    get(`/console/api/waiting?cursor=${inUrl}`),
    get(`/console/api/sessions?cursor=${inUrl}`),
    post("/console/api/results/again", { since: wrong }),
    post("/console/api/results/again", { since: "2026-01-01T00:00:00Z", cursor: wrong }),
    post(`${API}/other/token`, { agentSessionId: `${wrong} ${wrong}` }),
    remove(`${API}/other?everything=${inUrl}`),
    ...["state", "memory"].flatMap((kind) => [
      get(`/${kind}/api/absent`),
      get(`/${kind}/api/${inUrl}`),
      put(`/${kind}/api/${inUrl}`, { ...memory(), wrong }),
      post(`/${kind}/api/${inUrl}/touch`, { wrong }),
      { method: "PUT", path: `/${kind}/api/${id}`, body: `["${inUrl}` },
    ]),
    put(`/memory/api/${id}`, { ...memory(), domain: wrong, price: wrong, gender: wrong, city: [wrong] }),
    { ...put(`/memory/api/${id}`, { domain: wrong, lastImageUrl: [wrong] }), method: "PATCH" },
    get("/callback"),
    get(`/${inUrl}`),
    get(`${API}/absent`),
    get(`${API}/absent/session`),
  ];
}

/** Every route with every credential. */
async function driveCredentials(worker: Driven, agent: TestAgent): Promise<void> {
  const tokens = [await tokenOf(worker, "own"), await tokenOf(worker, "another")];
  for (const [i, credential] of [...Object.values(CREDENTIALS), ...tokens.map(bearer)].entries()) {
    // What one deletes, no other brings back.
    const id = i < Object.keys(CREDENTIALS).length ? `credential-${i}` : "own";
    for (const call of contract(id, agent.url)) {
      await sendForToken(worker, withCredential(call, credential));
    }
  }
}

/** A request id that is used for two results. */
async function driveReuse(worker: Driven): Promise<void> {
  const first = callback({ conversationId: "reused" });
  await send(worker, opened(post("/callback", first)));
  const { code } = await send(worker, opened(post("/callback", { ...first, output: secret("reused") })));
  expect(code).toBe("request_id_reused");
}

/** What ElevenLabs reports, of a conversation that is known. */
async function driveReports(worker: Driven): Promise<void> {
  const sign = CREDENTIALS["an ElevenLabs signature"] as Credential;
  const vouch = post(`${API}/reported/token`, { agentSessionId: vouched() }, ["vouched agent session id"]);
  await sendForToken(worker, opened(vouch));
  for (const type of ["post_call_transcription", "post_call_audio", secret("type of a report")]) {
    const { status } = await send(worker, withCredential(post("/callback", report(type)), sign));
    expect(status).toBe(200);
  }
  await send(worker, opened(get(`${API}/reported`, [...HISTORY, "vouched agent session id"])));
}

/** Every route to its end, and every mistake. */
async function driveContract(worker: Driven, agent: TestAgent): Promise<void> {
  for (const call of contract("c1", agent.url)) {
    const { status } = await sendForToken(worker, opened(call));
    expect([call.path, status < 300]).toEqual([call.path, true]);
  }
  for (const call of mistakes("c1")) {
    const { code } = await send(worker, opened(call));
    expect([call.path, code]).toEqual([call.path, expect.any(String)]);
  }
  await driveReuse(worker);
  await driveReports(worker);
  expect(agent.frames.length).toBeGreaterThan(0);
  evidence.push({
    where: "what the agent was told",
    text: agent.frames.join("\n"),
    may: ["callback output", "callback error", "tool name"],
  });
}

/** Every route at the same time, for where each request waits long or fails fast. */
async function driveAtOnce(worker: Driven, agentUrl: string): Promise<void> {
  await Promise.all(contract("c1", agentUrl).map((call) => sendForToken(worker, opened(call))));
}

type TellingDoor = { url: string; refuse(picks: (body: string) => boolean): void; close(): Promise<void> };

/** Stands before the gateway and answers the requests it refuses with all that was in them. */
async function startTellingDoor(gatewayUrl: string): Promise<TellingDoor> {
  let refuses = (_body: string) => false;
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks).toString("utf8");
    const { authorization = "" } = request.headers;
    if (refuses(body)) {
      response.writeHead(400).end(JSON.stringify({ error: `ERR wrong: ${body} from ${authorization}` }));
      return;
    }
    try {
      const answer = await fetch(new URL(request.url ?? "/", gatewayUrl), {
        method: "POST",
        headers: { authorization },
        body,
      });
      response.writeHead(answer.status).end(await answer.text());
    } catch {
      request.socket.resetAndDestroy();
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    refuse(picks) {
      refuses = picks;
    },
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/* The tests ------------------------------------------------------------------------------------------- */

async function agent(behaviour?: AgentBehaviour, redirectTo?: string): Promise<TestAgent> {
  const started = await startAgent(behaviour, redirectTo);
  toClose.add(started);
  return started;
}
afterAll(() => Promise.all([...toClose].map(end)));

describe("the search", () => {
  const text = secret("wrong value");
  const near = (form: string) => `{"level":"warn","detail":"Failed: ${form}, and more"}`;

  test.each<[string, string]>([
    ["as it is", text],
    ["percent-encoded", encodeURIComponent(text)],
    ["as the URL parser writes it", new URL(`https://x.example/?a=${text}&b`).search],
    ["JSON-escaped", JSON.stringify(text)],
    ["JSON-escaped twice", JSON.stringify(JSON.stringify({ text }))],
    ["percent-encoded in JSON in JSON", JSON.stringify(JSON.stringify(`?t=${encodeURIComponent(text)}`))],
    ["escaped by code points", text.replaceAll('"', "\\u0022")],
    ["in hexadecimal", Buffer.from(text).toString("hex")],
    ["in capitals", text.toUpperCase()],
    ["without its end", text.slice(0, 18)],
    ["without its beginning", text.slice(14)],
    ...["", "a", "ab"].flatMap((before): [string, string][] => [
      [`in base64 behind '${before}'`, Buffer.from(`${before}${text}: more`).toString("base64")],
      [`in base64url behind '${before}'`, Buffer.from(`${before}${text}`).toString("base64url")],
    ]),
  ])("finds a secret %s", (_form, form) => {
    expect(placesFoundIn(near(form))).toEqual(["wrong value"]);
    expect(leaksIn([{ where: "a log line", text: near(form), may: [] }])).toHaveLength(1);
  });

  test("finds nothing in what holds no secret, and nothing amiss where it is handed back by contract", () => {
    expect(placesFoundIn(near(crypto.randomUUID() + btoa(crypto.randomUUID())))).toEqual([]);
    expect(leaksIn([{ where: "an answer", text, may: ["wrong value"] }])).toEqual([]);
  });
});

test("no route, no credential and no mistake gives a secret away, over embedded storage", async () => {
  const worker = await start(CLOSED);
  const live = await agent();
  await driveCredentials(worker, live);
  await driveContract(worker, live);
  nothingLeaked();
}, 60_000);

test("no agent that fails makes a push give a secret away", async () => {
  const worker = await start(CLOSED);
  const elsewhere = await agent();
  const gone = await startAgent();
  await gone.close();
  const urls: Record<Exclude<AgentBehaviour, "silent"> | "gone" | "not-dialled", string> = {
    reads: (await agent("reads")).url,
    "refuses-frames": (await agent("refuses-frames")).url,
    breaks: (await agent("breaks")).url,
    drops: (await agent("drops")).url,
    "never-closes": (await agent("never-closes")).url,
    forbids: (await agent("forbids")).url,
    redirects: (await agent("redirects", `${elsewhere.url}&to=${plainSecret("redirect")}`)).url,
    gone: gone.url,
    "not-dialled": "wss://api.elevenlabs.io/v1/convai/conversation?agent_id=a",
  };
  sent.push(urls.redirects, plainSecret("redirect"));
  const register = (id: string, url: string) =>
    send(worker, opened(post(`${API}/${id}/session`, registration(url))));

  // Holds its first callback for five seconds.
  await register("silent", (await agent("silent")).url);
  const held = opened(post(`${API}/silent/callback`, failedCallback()));
  // A twin is told the same, and no sooner.
  pending.push(send(worker, held), send(worker, held));

  const outcomes: Record<string, unknown> = {};
  for (const [id, url] of Object.entries(urls)) {
    await register(id, url);
    const { body } = await send(worker, opened(post(`${API}/${id}/callback`, failedCallback())));
    outcomes[id] = body.reason ?? body.status;
    // Hands over what waits now, and fails at it likewise.
    await register(id, url);
  }
  expect(outcomes).toEqual({
    reads: "delivered",
    "refuses-frames": "push_failed",
    breaks: "unconfirmed",
    drops: "unconfirmed",
    "never-closes": "unconfirmed",
    forbids: "push_failed",
    redirects: "push_failed",
    gone: "push_failed",
    "not-dialled": "no_push_channel",
  });
  expect(elsewhere.connections()).toBe(0);
  const failures = () => worker.logs().filter(({ event }) => event === "push.failed").length;
  await expect.poll(failures, { timeout: 5_000 }).toBeGreaterThanOrEqual(10);
  nothingLeaked();
}, 60_000);

/** A Worker outside that answers by `script` with what it was told, `told`, and remembers it. */
const tattletale = (script: string) => `
const seen = [];
export default {
  async fetch(request) {
    const url = new URL(request.url);
    if (url.pathname === "/seen") return new Response(seen.join("\\n"));
    const told = request.url + JSON.stringify([...request.headers]) + (await request.text());
    seen.push(url.host + " " + told);
${script}
  },
};`;

/** What came to a tattletale, each line with its host before it. */
async function seenOutside(worker: TestWorker): Promise<string[]> {
  const outside = await worker.miniflare.getWorker(OUTBOUND);
  return (await (await outside.fetch("http://outside/seen")).text()).split("\n");
}

/** Whatever is dialled gets its own words and credentials back, as loudly as the protocol allows. */
const TATTLETALE = tattletale(`
    const headers = { "x-told": encodeURIComponent(told).slice(0, 4000), "set-cookie": "a=${plainSecret("peer's cookie")}" };
    const id = url.pathname.split("/").at(-2);
    if (!["conv_reads", "conv_closes"].includes(id)) return new Response(JSON.stringify({ error: told }), { status: 400, headers });
    const { 0: client, 1: server } = new WebSocketPair();
    server.accept();
    server.addEventListener("message", ({ data }) => seen.push("frame " + data));
    server.addEventListener("close", ({ code }) => server.close(code));
    server.send(told);
    if (id === "conv_closes") server.close(4001, request.headers.get("xi-api-key") ?? "");
    else server.send(JSON.stringify({ type: "connected", told }));
    return new Response(null, { status: 101, webSocket: client });`);

test("no peer that repeats what it is told makes a secret come out, and each is told only what is for it", async () => {
  const environment = {
    ...CLOSED,
    ELEVENLABS_MONITOR: "all",
    EVENTS_URL: `https://events.example/?token=${secret("token of the receiver")}`,
    SIGNING_SECRET: `whsec_${Buffer.from(secret("signing key of receipts")).toString("base64")}`,
  };
  const worker = await start(environment, { outbound: TATTLETALE });
  const urls = {
    conv_reads: "wss://api.elevenlabs.io/v1/convai/conversation?agent_id=a",
    conv_closes: "wss://api.elevenlabs.io/v1/convai/conversation?agent_id=a",
    conv_refuses: "wss://api.elevenlabs.io/v1/convai/conversation?agent_id=a",
    elsewhere: "wss://agent.example/live?agent_id=a",
  };
  const outcomes: unknown[] = [];
  for (const [id, url] of Object.entries(urls)) {
    const json = { ...registration(url), agentSessionId: id };
    await send(worker, opened(post(`${API}/${id}/session`, json)));
    const { body } = await send(worker, opened(post(`${API}/${id}/callback`, callback())));
    outcomes.push(body.status === "delivered" ? body.channel : body.reason);
  }
  expect(outcomes).toEqual(["monitor", "push_failed", "push_failed", "push_failed"]);

  const seen = await seenOutside(worker);
  expect(seen).toContainEqual(expect.stringMatching(/^events\.example .*session\.started/));
  for (const text of seen) {
    const [host = ""] = text.split(" ", 1);
    const may: Record<string, string[]> = {
      "api.elevenlabs.io": ["ElevenLabs key"],
      "agent.example": ["session URL"],
      "events.example": ["token of the receiver"],
      frame: ["callback output", "tool name"],
    };
    expect(placesFoundIn(text)).toEqual(expect.arrayContaining(may[host] ?? ["a known host"]));
    evidence.push({ where: `what ${host} was told`, text, may: may[host] ?? [] });
  }
  nothingLeaked();
});

/** Providers that answer with all they were told, each in another way. */
const TATTLETALES = tattletale(`
    const headers = { "x-told": encodeURIComponent(told).slice(0, 4000) };
    const status = { "api.telnyx.com": 401, "api.retellai.com": 422, "phone.vapi.ai": 503 }[url.host] ?? 200;
    const error = { code: told, message: told };
    if (url.host !== "api.openai.com")
      return new Response(JSON.stringify({ errors: [error], error: told }), { status, headers });
    const { 0: client, 1: server } = new WebSocketPair();
    server.accept();
    server.addEventListener("message", ({ data }) => {
      seen.push("api.openai.com " + data);
      const { event_id, content } = JSON.parse(data);
      server.send(JSON.stringify({ type: "error", client_event_id: event_id, error: { ...error, event_id } }));
      if (content !== undefined) server.close(4001, content.slice(0, 40));
    });
    return new Response(null, { status: 101, webSocket: client });`);

test("no provider of calls that repeats what it is told makes a secret come out, and each is told only what is for it", async () => {
  const keys = Object.fromEntries(
    ["OPENAI", "TELNYX", "RETELL", "VAPI", "ULTRAVOX"].map((account) => [
      `${account}_API_KEY`,
      secret(`key of ${account}`),
    ]),
  );
  const worker = await start({ ...CLOSED, ...keys }, { outbound: TATTLETALES });
  const outcomes: Record<string, unknown> = {};
  for (const provider of PROVIDER_NAMES) {
    const call = plainSecret(`call at ${provider}`);
    const json = {
      provider,
      agentSessionId: call,
      ...(provider === "vapi" ? { controlUrl: `https://phone.vapi.ai/${call}/control` } : {}),
      [plainSecret("field")]: secret("payload of a call"),
    };
    await send(worker, opened(post(`${API}/${provider}/session`, json)));
    const { body } = await send(worker, opened(post(`${API}/${provider}/callback`, callback())));
    outcomes[provider] = body.reason;
  }
  expect(outcomes).toEqual({
    "openai-live": "push_failed",
    "openai-realtime": "push_failed",
    telnyx: "push_failed",
    retell: "push_failed",
    vapi: "unconfirmed",
    ultravox: "unconfirmed",
  });

  const seen = await seenOutside(worker);
  const told = ["callback output", "tool name"];
  const may: Record<string, string[]> = {
    "api.openai.com": ["key of OPENAI", "call at openai-live", "call at openai-realtime", ...told],
    "api.telnyx.com": ["key of TELNYX", "call at telnyx", ...told],
    "api.retellai.com": ["key of RETELL", "call at retell", ...told],
    "phone.vapi.ai": ["key of VAPI", "call at vapi", ...told],
    "api.ultravox.ai": ["key of ULTRAVOX", "call at ultravox", ...told],
  };
  const hosts = seen.map((text) => text.split(" ", 1)[0] ?? "");
  expect(new Set(hosts)).toEqual(new Set(Object.keys(may)));
  for (const [i, text] of seen.entries()) {
    const host = hosts[i] ?? "";
    evidence.push({ where: `what ${host} was told`, text, may: may[host] ?? [] });
  }
  nothingLeaked();
}, 60_000);

/** A WebSocket was opened. */
const noteOpened = (path: string) => driven.push({ method: "GET", path, status: 101, code: undefined });

test("no line of a page, and no agent that a page talks to, makes a secret come out, and each is told only what is for it", async () => {
  const provider = await startProvider();
  toClose.add(provider);
  const worker = await start({
    ...CLOSED,
    ELEVENLABS_API_URL: provider.url,
    ELEVENLABS_AGENT_IDS: "agent_1",
    ELEVENLABS_TRANSCRIPTS: "true",
  });
  const signed = encodeURIComponent(secret("signature of a signed URL"));
  provider.options.answer = (response, signedUrl) =>
    response.end(JSON.stringify({ signed_url: `${signedUrl}&signature=${signed}` }));
  const closing = plainSecret("closing reason of a provider");
  const said = {
    type: "user_transcript",
    user_transcription_event: { user_transcript: secret("transcript"), event_id: 1 },
  };
  sent.push(signed, closing, JSON.stringify(said));
  const token = await tokenOf(worker, "live");

  const page = await connectPage(worker.url, "live", { token });
  noteOpened(`${API}/live/connect`);
  const agent = await provider.opened(1);
  await page.received(1);
  const answered = send(worker, opened(post(`${API}/live/callback`, callback())));
  await agent.received(1);
  agent.say(said);
  expect((await answered).body).toMatchObject({ status: "delivered", channel: "proxy" });
  await worker.fetch(`${API}/live/session`, { headers: { authorization: `Bearer ${API_TOKEN}` } });
  const history = opened(get(`${API}/live`, HISTORY));
  await expect
    .poll(async () => JSON.stringify((await send(worker, history)).body), { timeout: 8_000 })
    .toContain("elevenlabs:conv_1:live:0");
  agent.socket.close(4002, closing);
  const { reason } = await page.closed();
  expect(reason).toBe(closing);
  evidence.push(
    {
      where: "what the page was told",
      text: page.frames.map(({ data }) => String(data)).join(),
      may: ["transcript"],
    },
    {
      where: "what the provider was asked",
      text: JSON.stringify(provider.asked),
      may: ["ElevenLabs key"],
    },
    {
      where: "what opened the conversation",
      text: JSON.stringify([agent.path, agent.headers]),
      may: ["signature of a signed URL"],
    },
    {
      where: "what the agent was told",
      text: agent.frames.map(({ data }) => String(data)).join(),
      may: ["callback output", "tool name"],
    },
  );

  const line = await openPage(worker.url, "line", { token: await tokenOf(worker, "line") });
  noteOpened(`${API}/line/stream`);
  await line.hello({ session: registration("wss://agent.example/live?a=b") });
  void send(worker, opened(post(`${API}/line/callback`, callback())));
  const push = await line.push();
  line.send({ type: "nack", requestIds: push.requestIds, reason: secret("reason of a page") });
  line.send({ type: secret("type of a frame") });
  sent.push(secret("reason of a page"), secret("type of a frame"));
  await worker.logged("relay.unknown_frame");
  line.leave();
  evidence.push({
    where: "what the line was told",
    text: JSON.stringify(line.frames),
    may: ["callback output", "tool name"],
  });

  const signedUrl = `${API}/live/signed-url?agentId=agent_1`;
  await send(worker, opened(get(signedUrl, ["signature of a signed URL"])));
  const codes: unknown[] = [];
  for (const status of [401, 500]) {
    provider.options.answer = (response) =>
      response.writeHead(status).end(JSON.stringify(provider.asked.at(-1)));
    codes.push((await send(worker, opened(get(signedUrl)))).code);
    const refused = await connectPage(worker.url, "live", { token });
    evidence.push({ where: "a close", text: JSON.stringify(await refused.closed()), may: [] });
  }
  for (const path of [`${API}/live/connect?agentId=agent_1`, `${API}/line/stream`])
    codes.push((await send(worker, opened(get(path)))).code);
  codes.push((await send(worker, opened(get(`${API}/live/signed-url?agentId=${signed}`)))).code);
  expect(codes).toEqual([
    "provider_refused",
    "provider_unavailable",
    "upgrade_required",
    "upgrade_required",
    "forbidden",
  ]);
  nothingLeaked();
});

test("no tool call, no task, no runner and no receipt makes a secret come out, and each is told only what is for it", async () => {
  const key = `whsec_${Buffer.from(secret("signing key of our messages")).toString("base64")}`;
  const [runner, receiver] = [await startRunner(key), await startReceiver()];
  toClose.add(runner);
  onTestFinished(() => receiver.close());
  const worker = await start({
    ...CLOSED,
    TOOL_RUNNER_URL: `${runner.url}?token=${plainSecret("token in the runner's URL")}`,
    EVENTS_URL: `${receiver.url}?token=${plainSecret("token in the receiver's URL")}`,
    SIGNING_SECRET: key,
  });
  receiver.behaviours.set("tasks", [500]);
  const call = (fields: object = {}) =>
    post("/agent-tools", {
      tool_name: secret("tool name"),
      tool_args: { query: secret("tool arguments") },
      conversationId: "tasks",
      ...fields,
    });
  const page = await openPage(worker.url, "tasks", { token: await tokenOf(worker, "tasks") });
  await page.hello();
  const begin = async (): Promise<string> => {
    const { body } = await send(worker, opened(call()));
    return (body.result as { requestId: string }).requestId;
  };
  const [told, cancelled] = [await begin(), await begin()];
  const taskUrl = (id: string) => `${API}/tasks/tasks/${encodeURIComponent(id)}`;
  const progress = { seq: 1, text: secret("progress") };
  await send(worker, opened(post("/callback", { requestId: told, progress })));
  await page.frame("progress");
  const answer = send(worker, opened(post("/callback", callback({ requestId: told }))));
  page.ack((await page.push()).requestIds);
  expect((await answer).body).toMatchObject({ channel: "relay" });
  await send(worker, opened(get(`${API}/tasks/tasks`, ["tool name", "progress"])));
  await send(worker, opened(remove(taskUrl(cancelled))));
  const late = await send(worker, opened(post("/callback", callback({ requestId: cancelled }))));
  expect(late.body).toMatchObject({ status: "cancelled" });

  runner.behaviour = "fails";
  expect((await send(worker, opened(call()))).body).toMatchObject({ code: "runner_unavailable" });
  const wrong = secret("wrong value");
  for (const fields of [{ tool_args: wrong }, { deliverBy: wrong }, { conversationId: wrong }])
    expect((await send(worker, opened(call(fields)))).body).toMatchObject({ ok: false });
  expect(
    (await send(worker, opened(call({ conversationId: undefined, conversation_id: wrong })))).body,
  ).toMatchObject({
    code: "conversation_not_found",
  });
  const codes = [
    await send(worker, call()),
    await send(worker, opened(remove(taskUrl(wrong)))),
    await send(worker, opened(get(`${API}/tasks/tasks?before=${encodeURIComponent(wrong)}`))),
    await send(
      worker,
      opened(post("/callback", { requestId: told, progress: { seq: wrong, text: [wrong] } })),
    ),
  ].map(({ code }) => code);
  expect(codes).toEqual(["unauthorized", "task_not_found", "invalid_request", "invalid_request"]);
  await worker.logged("event.failed");
  await expect.poll(() => receiver.of("tasks").map(({ type }) => type)).toContain("task.cancelled");
  page.leave();
  evidence.push(
    {
      where: "what the runner was told",
      text: JSON.stringify(runner.received),
      may: ["tool name", "tool arguments"],
    },
    {
      where: "what the receiver was told",
      text: JSON.stringify(receiver.of("tasks").map(({ body }) => body)),
      may: [],
    },
    {
      where: "what the line was told",
      text: JSON.stringify(page.frames),
      may: ["callback output", "tool name", "progress"],
    },
  );
  nothingLeaked();
});

test("no database that refuses makes its own credentials come out", async () => {
  const databases: Record<string, string>[] = [
    { REDIS_URL: `rediss://default:${plainSecret("Redis password")}@db.upstash.io:6379` },
    { KV_REST_API_URL: "https://db.upstash.io", KV_REST_API_TOKEN: secret("KV token") },
    {
      UPSTASH_REDIS_REST_URL: `https://user:${plainSecret("password in the URL")}@db.upstash.io`,
      UPSTASH_REDIS_REST_TOKEN: secret("refused Upstash token"),
    },
  ];
  for (const database of databases) {
    const worker = await start({ ...CLOSED, STORAGE: "upstash", ...database }, { outbound: TATTLETALE });
    await driveAtOnce(worker, "wss://agent.example/live?a=b");
  }
  nothingLeaked();
});

const redis = await startRedis({ covers: "that nothing leaks over a real Redis, whatever Upstash does" });

describe.skipIf(redis === null)("over the Upstash driver", () => {
  if (redis === null) return;
  const key = (name: string, id: string) => `elevenlabs:${name}:${id}`;
  let live: TestAgent;
  let door: TellingDoor;
  let worker: TestWorker;

  /** A gateway of its own for each worker, and a worker of its own for each fault: it remembers an outage. */
  async function overRedis(): Promise<{ worker: TestWorker; gateway: FaultyGateway; door: TellingDoor }> {
    const gateway = await startFaultyGateway({ redisUrl: redis?.url ?? "", token: secret("Upstash token") });
    const door = await startTellingDoor(gateway.url);
    const worker = await start({
      ...CLOSED,
      STORAGE: "upstash",
      UPSTASH_REDIS_REST_URL: door.url,
      UPSTASH_REDIS_REST_TOKEN: gateway.token,
    });
    toClose.add(door).add(gateway);
    return { worker, gateway, door };
  }

  beforeAll(async () => {
    live = await agent();
    ({ worker, door } = await overRedis());
  });
  afterAll(async () => {
    await Promise.all([...toClose].map(end));
    await redis.stop();
  });

  test("no route and no mistake gives a secret away", async () => {
    await driveContract(worker, live);
    nothingLeaked();
  });

  test("what is kept holds the whole session, and no credential of any request", async () => {
    await send(worker, opened(post(`${API}/kept/session`, registration(live.url))));
    await send(worker, opened(post(`${API}/kept/callback`, callback())));
    const kept = await redis.client.mget(key("session", "kept"), key("conversation", "kept"));
    expect(kept.map((text) => typeof text)).toEqual(["string", "string"]);
    const messages = await redis.client.lrange(key("conversation", "kept:messages"), 0, -1);
    expect(placesFoundIn([...kept, ...messages].join("\n")).toSorted()).toEqual(
      [
        ...["session URL", "session payload", "nested payload", "session metadata", "agent session id"],
        ...["field beside the payload", "callback output", "tool name"],
      ].toSorted(),
    );
  });

  test("no record that cannot be read is repeated by whoever says so", async () => {
    const unreadable = secret("unreadable record");
    const wrong = [unreadable];
    const shapes = [
      unreadable,
      `{"${unreadable}": `,
      JSON.stringify(unreadable),
      JSON.stringify({
        [unreadable]: wrong,
        conversationId: wrong,
        status: unreadable,
        createdAt: unreadable,
      }),
      JSON.stringify({
        version: unreadable,
        conversationId: "c1",
        registrationId: wrong,
        result: unreadable,
      }),
    ];
    sent.push(...shapes);
    for (const [i, shape] of shapes.entries()) {
      await redis.client.flushall();
      for (const name of ["session", "conversation"]) await redis.client.set(key(name, "c1"), shape);
      for (const name of ["conv:c1", "session:c1"]) await redis.client.set(name, shape);
      await redis.client.rpush(key("conversation", "c1:messages"), shape);
      await redis.client.zadd("elevenlabs:conversations", Date.now(), "c1");
      await send(
        worker,
        opened(post("/callback", callback({ requestId: `waiting${i}`, conversationId: "c1" }))),
      );
      // Reads first: what is written takes the place of what cannot be read. Any object is a state.
      await send(worker, opened(get("/state/api/c1", ["unreadable record"])));
      await send(worker, opened(get("/memory/api/c1")));
      for (const call of contract("c1", live.url)) await sendForToken(worker, opened(call));
    }
    nothingLeaked();
  });

  test("no entry that a full list drops is named", async () => {
    const entry = JSON.stringify({ id: "old", timestamp: "2026-01-01T00:00:00Z", ...message() });
    sent.push(entry);
    await redis.client.rpush(
      key("conversation", "full:messages"),
      ...Array.from({ length: 1_100 }, () => entry),
    );
    await send(worker, opened(post(`${API}/full/callback`, callback())));
    const logged = new Set(worker.logs().map(({ event }) => event));
    expect(REDIS_EVENTS.filter((event) => !logged.has(event))).toEqual([]);
    nothingLeaked();
  });

  test("no database that repeats command and credential in its errors gives a secret away", async () => {
    // What the objects do first: looking for a session, appending to the history.
    let refused = 0;
    door.refuse((body) => body.includes("elevenlabs:session:late") && /"get"/i.test(body) && ++refused > 0);
    const { body } = await send(worker, opened(post(`${API}/late/callback`, callback())));
    expect(body).toMatchObject({ status: "queued" });
    expect(refused).toBeGreaterThan(0);
    door.refuse(() => true);
    await driveAtOnce(worker, live.url);
    nothingLeaked();
  });

  test("no key of another kind makes the database's error come out", async () => {
    const { worker } = await overRedis();
    await redis.client.flushall();
    for (const name of ["session", "conversation"]) {
      await redis.client.rpush(key(name, "c1"), secret("unreadable record"));
    }
    await driveAtOnce(worker, live.url);
    nothingLeaked();
  });

  const FAULTS: Record<Fault["kind"], Fault[]> = {
    ok: [],
    slow: [{ kind: "slow", ms: 1_700 }],
    status: [
      { kind: "status", status: 429 },
      { kind: "status", status: 500 },
    ],
    truncated: [{ kind: "truncated" }],
    "wrong-json": [{ kind: "wrong-json" }],
    "reset-before": [{ kind: "reset-before" }],
    "reset-after": [{ kind: "reset-after" }],
    silent: [{ kind: "silent" }],
  };

  test("no fault of the storage gives a secret away", async () => {
    const drive = async (fault: Fault) => {
      const { worker, gateway } = await overRedis();
      gateway.fail(fault);
      await driveAtOnce(worker, live.url);
      expect(gateway.requestCount()).toBeGreaterThan(0);
      gateway.heal();
      await driveAtOnce(worker, live.url);
      await end(worker);
    };
    await Promise.all(Object.values(FAULTS).flat().map(drive));
    nothingLeaked();
  }, 60_000);
});

test("no configuration that is wrong is repeated", async () => {
  const wrong = secret("wrong variable");
  const names = [
    ...["STORAGE", "ELEVENLABS_AGENT_ENABLED", "REQUIRE_AUTH", "ELEVENLABS_MONITOR"],
    ...["CONVERSATION_TTL_SECONDS", "REDIS_CONVERSATION_TTL", "ALLOWED_ORIGINS", "PUSH_ALLOWED_HOSTS"],
  ];
  const upstash = { ...CLOSED, STORAGE: "upstash" };
  const environments: Record<string, string>[] = [
    { ...CLOSED, ...Object.fromEntries(names.map((name) => [name, wrong])) },
    { ...upstash, UPSTASH_REDIS_REST_URL: wrong, UPSTASH_REDIS_REST_TOKEN: "" },
    { ...upstash, REDIS_URL: `redis://user:${wrong}@cache.example:6379` },
    { ...CLOSED, WEBHOOK_SECRET: `whsec_!${wrong}` },
    {
      ...CLOSED,
      EVENTS_URL: `https://10.0.0.5/?t=${wrong}`,
      TOOL_RUNNER_URL: `https://${wrong}@runner.example/`,
      SIGNING_SECRET: `whsec_!${wrong}`,
    },
    { ...CLOSED, API_TOKEN: "", SESSION_TOKEN_SECRET: "", WEBHOOK_SECRET: "" },
    { ...CLOSED, API_TOKEN: plainSecret("weak secret"), WEBHOOK_SECRET: plainSecret("weak secret") },
    { ...CLOSED, REQUIRE_AUTH: "false" },
    { ...CLOSED, ELEVENLABS_AGENT_ENABLED: "false" },
  ];
  for (const environment of environments) {
    await driveAtOnce(await start(environment), "wss://agent.example/live?a=b");
  }
  nothingLeaked();
});

test("no limit gives a secret away", async () => {
  const limit = { namespace_id: "1", simple: { limit: 1, period: 60 } } as const;
  const limited = await start(CLOSED, { rateLimits: { CONVERSATION_RATE_LIMIT: limit } });
  await driveAtOnce(limited, "wss://agent.example/live?a=b");
  nothingLeaked();
});

test("no error of the platform, however much it says, comes out", async () => {
  const text = secret("error of the platform");
  sent.push(text);
  const fails = (): never => {
    throw new TypeError(text, { cause: new Error(JSON.stringify({ ...CLOSED, text })) });
  };
  /** Whatever is asked of this binding fails. */
  const failing = new Proxy({}, { get: () => fails });
  const nowhere = {
    STORAGE: "upstash",
    UPSTASH_REDIS_REST_URL: "http://127.0.0.1:9",
    UPSTASH_REDIS_REST_TOKEN: text,
  };
  for (const environment of [
    { ...CLOSED, STORAGE_OBJECTS: failing },
    { ...CLOSED, ...nowhere, STORAGE_OBJECTS: failing },
    { ...CLOSED, CLIENT_RATE_LIMIT: failing, STORAGE_OBJECTS: failing },
  ]) {
    await driveAtOnce(startInProcess(environment), "wss://agent.example/live?a=b");
  }
  nothingLeaked();
});

describe("the drive", () => {
  beforeAll(async () => {
    for (const { body } of await Promise.all(pending)) expect(body.reason).toBe("push_failed");
    nothingLeaked();
  });
  const routes = app.routes.filter(({ method }) => method !== "ALL");

  test("took every route, to its end and to a failure", () => {
    const matching = (method: string, path: string) =>
      routes.find(
        (route) =>
          route.method === method && new RegExp(`^${route.path.replace(/:\w+/g, "[^/]+")}$`).test(path),
      );
    const taken = new Map<string, { done: boolean; failed: boolean }>();
    for (const { method, path } of routes) taken.set(`${method} ${path}`, { done: false, failed: false });
    for (const { method, path, status } of driven) {
      const route = matching(method, path);
      const entry = route && taken.get(`${route.method} ${route.path}`);
      if (entry === undefined) continue;
      entry.done ||= status < 300;
      entry.failed ||= status >= 400;
    }
    expect(taken.size).toBeGreaterThanOrEqual(14);
    expect([...taken].filter(([, { done, failed }]) => !done || !failed)).toEqual([]);
  });

  test("met every code of a problem that can be met", () => {
    const met = new Set(driven.map(({ code }) => code));
    const missed = Object.keys(STATUS_OF_CODE).filter((code) => !met.has(code));
    expect(missed).toEqual(Object.keys(NOT_REACHABLE));
  });

  test("made every event be logged", () => {
    const logged = new Set(workers.flatMap((worker) => worker.logs().map(({ event }) => String(event))));
    expect(EVENTS.filter((event) => !logged.has(event))).toEqual([]);
  });

  test("really sent every secret", () => {
    const found = new Set(placesFoundIn([...new Set(sent)].join("\n")));
    // Tokens are made by the Worker; some of them nobody has used.
    const places = [...canaries.keys()].filter((place) => !place.startsWith("conversation token"));
    expect(places.filter((place) => !found.has(place))).toEqual([]);
  });

  test("would have found a secret in any line and any answer", () => {
    const lines = workers.flatMap((worker) => worker.lines);
    expect(lines.length).toBeGreaterThan(100);
    for (const value of canaries.values()) {
      const line = `${lines[0]?.slice(0, -1)},"detail":${JSON.stringify(encodeURIComponent(value))}}`;
      expect(leaksIn([{ where: "a log line", text: line, may: [] }])).not.toEqual([]);
    }
  });
});
