/** What ElevenLabs reports of a conversation that is over, signed with its own signature. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { API_TOKEN, CLOSED_DOORS, SHARED_SECRET } from "../support/secrets.ts";
import { elevenLabsHeaders, standardHeaders } from "../support/webhooks.ts";
import { LOCAL_BINDINGS, startWorker, type TestWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";
const SECRET_URL = "wss://api.elevenlabs.io/v1/convai/conversation?conversation_signature=s3cret";
let worker: TestWorker;
beforeAll(async () => {
  worker = await startWorker({ ...LOCAL_BINDINGS, ...CLOSED_DOORS });
});
afterAll(() => worker.close());

const bearer = { authorization: `Bearer ${API_TOKEN}` };

/** Sends a report as ElevenLabs does. */
function report(event: object, headersOf = (body: string) => elevenLabsHeaders(SHARED_SECRET, body)) {
  const body = JSON.stringify(event);
  const headers = { "content-type": "application/json", ...headersOf(body) };
  return worker.fetch("/callback", { method: "POST", body, headers });
}

const transcript = (agentSessionId: string, turns: object[]) => ({
  type: "post_call_transcription",
  event_timestamp: 1_795_000_600,
  data: {
    agent_id: "agent_1",
    conversation_id: agentSessionId,
    status: "done",
    transcript: turns,
    metadata: { start_time_unix_secs: 1_795_000_000, call_duration_secs: 40 },
    analysis: { transcript_summary: "A booking." },
  },
});
const TURNS = [
  { role: "agent", message: "How can I help?", time_in_call_secs: 0, tool_calls: [] },
  { role: "user", message: "A table for two.", time_in_call_secs: 3 },
  { role: "agent", message: null, tool_calls: [{ tool_name: "book" }], time_in_call_secs: 5 },
  { role: "agent", message: "Done.", time_in_call_secs: 7.5 },
];

async function messagesOf(conversationId: string): Promise<Record<string, unknown>[]> {
  const response = await worker.fetch(`${API}/${conversationId}`, { headers: bearer });
  return ((await response.json()) as { messages?: Record<string, unknown>[] }).messages ?? [];
}

/** A conversation whose agent conversation a server has named. */
async function vouchFor(conversationId: string, agentSessionId: string): Promise<void> {
  const response = await worker.fetch(`${API}/${conversationId}/token`, {
    json: { agentSessionId },
    headers: bearer,
  });
  expect(response.status).toBe(200);
}

describe("a transcript", () => {
  test("is appended to the conversation it belongs to, once, however often it comes", async () => {
    await vouchFor("talk", "conv_talk");
    await worker.fetch(`${API}/talk/message`, { json: { role: "user", content: "before" }, headers: bearer });
    for (let i = 0; i < 3; i++) {
      const response = await report(transcript("conv_talk", TURNS));
      expect(response.status).toBe(200);
      expect(await response.json()).toEqual({ received: true, status: "appended" });
    }
    const messages = await messagesOf("talk");
    expect(messages.slice(1)).toEqual([
      expect.objectContaining({
        id: "elevenlabs:conv_talk:0",
        role: "agent",
        content: "How can I help?",
        source: "elevenlabs",
        timestamp: "2026-11-18T11:06:40.000Z",
      }),
      expect.objectContaining({ role: "user", content: "A table for two." }),
      expect.objectContaining({ role: "agent", content: "Done.", timestamp: "2026-11-18T11:06:47.500Z" }),
    ]);
    expect(messages[0]).toMatchObject({ content: "before" });
  });

  test("belongs to the conversation that /new made for it", async () => {
    const made = await worker.fetch(`${API}/new`, { json: { agentSessionId: "conv_new" }, headers: bearer });
    const { conversationId } = (await made.json()) as { conversationId: string };
    await report(transcript("conv_new", TURNS));
    expect(await messagesOf(conversationId)).toHaveLength(3);
  });

  test("of hundreds of turns is appended whole, and may be longer than other bodies", async () => {
    await vouchFor("long", "conv_long");
    const turns = Array.from({ length: 250 }, (_, i) => ({
      role: i % 2 === 0 ? "agent" : "user",
      message: `turn ${i} ${"x".repeat(1_000)}`,
      time_in_call_secs: i,
    }));
    expect((await report(transcript("conv_long", turns))).status).toBe(200);
    const newest = await messagesOf("long");
    expect(newest.at(-1)).toMatchObject({ id: "elevenlabs:conv_long:249" });
    expect(newest).toHaveLength(50);
  });

  test("of a conversation that nobody vouched for is acknowledged and kept nowhere", async () => {
    const json = { sessionUrl: SECRET_URL, agentSessionId: "conv_page" };
    const token = await worker.fetch(`${API}/page/token`, { method: "POST", headers: bearer });
    const page = { authorization: `Bearer ${((await token.json()) as { token: string }).token}` };
    await worker.fetch(`${API}/page/session`, { json, headers: page });
    expect(await (await report(transcript("conv_page", TURNS))).json()).toEqual({
      received: true,
      status: "acknowledged",
    });
    expect(await messagesOf("page")).toEqual([]);
  });

  test("of a conversation that was deleted brings nothing back", async () => {
    await vouchFor("gone", "conv_gone");
    await worker.fetch(`${API}/gone/message`, { json: { role: "user", content: "x" }, headers: bearer });
    await worker.fetch(`${API}/gone`, { method: "DELETE", headers: bearer });
    const response = await report(transcript("conv_gone", TURNS));
    expect(await response.json()).toEqual({ received: true, status: "discarded" });
    expect((await worker.fetch(`${API}/gone`, { headers: bearer })).status).toBe(404);
  });

  test("that is none is invalid_request", async () => {
    for (const data of [{}, { conversation_id: "a/b", transcript: [] }, { conversation_id: "conv_talk" }]) {
      expect((await report({ type: "post_call_transcription", data })).status).toBe(400);
    }
  });
});

describe("any other report", () => {
  test.each(["post_call_audio", "call_initiation_failure", "something_new"])(
    "such as %s is acknowledged with one log line",
    async (type) => {
      const before = worker.logs().length;
      const data = { conversation_id: "conv_talk", full_audio: "AAAA".repeat(100) };
      const response = await report({ type, event_timestamp: 1_795_000_600, data });
      expect(response.status).toBe(200);
      expect(await response.json()).toEqual({ received: true, status: "acknowledged" });
      const lines = worker.logs().slice(before);
      expect(lines).toEqual([expect.objectContaining({ event: "report.acknowledged", type })]);
    },
  );

  test("that is as long as audio is verified, acknowledged and not kept", async () => {
    const data = { conversation_id: "conv_talk", full_audio: "A".repeat(5 * 1024 * 1024) };
    const event = { type: "post_call_audio", event_timestamp: 1_795_000_600, data };
    expect(await (await report(event)).json()).toEqual({ received: true, status: "acknowledged" });
    const forged = await report(event, (body) =>
      elevenLabsHeaders("another-secret-of-32-characters!!", body),
    );
    expect(forged.status).toBe(401);
  });
});

test("a report is one only with ElevenLabs' own signature", async () => {
  await vouchFor("other", "conv_other");
  const event = transcript("conv_other", TURNS);
  const key = CLOSED_DOORS.WEBHOOK_SECRET.split(",")[1] ?? "";
  expect((await report(event, (body) => standardHeaders(key, body))).status).toBe(400);
  expect((await report(event, () => ({ "x-el-secret": SHARED_SECRET }))).status).toBe(400);
  expect((await report(event, () => ({}))).status).toBe(401);
  expect((await report(event, (body) => elevenLabsHeaders(SHARED_SECRET, `${body} `))).status).toBe(401);
  expect(await messagesOf("other")).toEqual([]);
});

test("a result with ElevenLabs' signature may be no longer than any other", async () => {
  const result = { requestId: "r1", conversationId: "c1", output: "x".repeat(70_000) };
  expect((await report(result)).status).toBe(413);
  expect((await report({ ...result, output: "x" })).status).toBe(202);
});
