/** What is read in the frames of a proxied conversation: who speaks, and what was said. */
import type {
  AgentChatResponsePartClientEvent,
  AgentResponseClientEvent,
  AgentResponseCorrectionClientEvent,
  AudioClientEvent,
  ConversationMetadata,
  Interruption,
  MultimodalMessageClientToOrchestratorEvent,
  TentativeUserTranscriptionClientEvent,
  UserActivityClientToOrchestratorEvent,
  UserAudio,
  UserMessageClientToOrchestratorEvent,
  UserTranscriptionClientEvent,
  VadScoreClientEvent,
} from "@elevenlabs/types";
import { describe, expect, expectTypeOf, test } from "vitest";
import {
  createProviderEvents,
  MAX_PARSED_LENGTH,
  type PageEvent,
  type ProviderEvent,
} from "../../lib/live/provider-events.ts";
import { createTurn } from "../../lib/live/turn.ts";

const AT = 1_000_000;

type Sent =
  | AgentChatResponsePartClientEvent
  | AgentResponseClientEvent
  | AgentResponseCorrectionClientEvent
  | ConversationMetadata
  | Interruption
  | TentativeUserTranscriptionClientEvent
  | UserTranscriptionClientEvent
  | VadScoreClientEvent;
type SentByPage =
  | MultimodalMessageClientToOrchestratorEvent
  | UserActivityClientToOrchestratorEvent
  | UserMessageClientToOrchestratorEvent;

test("every event that is read is one of the provider's, as its types have it", () => {
  expectTypeOf<Sent>().toExtend<ProviderEvent>();
  expectTypeOf<ProviderEvent["type"]>().toEqualTypeOf<Sent["type"]>();
  expectTypeOf<SentByPage["type"]>().toEqualTypeOf<PageEvent["type"]>();
});

/** A conversation with a voice in a format, and a turn that is told what is read. */
function conversation(format = "pcm_16000") {
  const events = createProviderEvents();
  const turn = createTurn();
  const conversation = {
    said: (event: Sent | AudioClientEvent | string, at = AT) => {
      const reading = events.fromProvider(typeof event === "string" ? event : JSON.stringify(event), at);
      for (const noted of reading.turn ?? []) turn.note(noted);
      return reading;
    },
    page: (event: SentByPage | UserAudio | string, at = AT) => {
      const reading = events.fromPage(typeof event === "string" ? event : JSON.stringify(event), at);
      for (const noted of reading.turn ?? []) turn.note(noted);
      return reading;
    },
    /** For how long somebody speaks, in ms; 0 where nobody does. */
    busyFor: (at = AT) => (turn.busyUntil(at) ?? at) - at,
    events,
  };
  conversation.said({
    type: "conversation_initiation_metadata",
    conversation_initiation_metadata_event: {
      conversation_id: "conv_1",
      agent_output_audio_format: format as "pcm_16000",
      user_input_audio_format: "pcm_16000",
    },
  });
  return conversation;
}

/** So many bytes of sound. */
const audio = (bytes: number, event_id = 1): AudioClientEvent => ({
  type: "audio",
  audio_event: { audio_base_64: Buffer.alloc(bytes).toString("base64"), event_id },
});

/** What it takes a page to play what it is sent. */
const LATER = 500;

test("the metadata says which agent conversation has begun", () => {
  const { events } = conversation();
  const text = JSON.stringify({
    type: "conversation_initiation_metadata",
    conversation_initiation_metadata_event: { conversation_id: "conv_2" },
  });
  expect(events.fromProvider(text, AT)).toEqual({ began: "conv_2" });
});

describe("the agent speaks", () => {
  test.each([
    ["pcm_16000", 32_000],
    ["pcm_8000", 16_000],
    ["pcm_44100", 88_200],
    ["ulaw_8000", 8_000],
  ])("for as long as the audio lasts in %s", (format, bytesPerSecond) => {
    const c = conversation(format);
    c.said(audio(2 * bytesPerSecond));
    expect(c.busyFor()).toBeCloseTo(LATER + 2_000, -1);
    expect(c.busyFor(AT + 2_600)).toBe(0);
  });

  test("on, where more comes before what came has been played", () => {
    const c = conversation();
    for (let i = 0; i < 10; i++) c.said(audio(32_000), AT + i * 10);
    expect(c.busyFor()).toBeCloseTo(LATER + 10_000, -2);
    c.said(audio(32_000), AT + 20_000);
    expect(c.busyFor(AT + 20_000)).toBeCloseTo(LATER + 1_000, -1);
  });

  test("until the user interrupts, whatever of the same answer still comes", () => {
    const c = conversation();
    c.said(audio(320_000, 4));
    c.said({ type: "interruption", interruption_event: { event_id: 5 } }, AT + 1_000);
    c.said(audio(320_000, 4), AT + 1_000);
    expect(c.events.agentSpeaksUntil()).toBe(AT + 1_000);
    expect(c.busyFor(AT + 1_000)).toBe(1_500);
    c.said(audio(32_000, 5), AT + 1_100);
    expect(c.busyFor(AT + 1_100)).toBeCloseTo(LATER + 1_000, -1);
  });

  test("for a while where nobody knows the format", () => {
    const c = conversation("opus_48000");
    c.said(audio(100));
    expect(c.busyFor()).toBe(LATER + 1_000);
  });

  test("in text from the first part to the last, or until the parts stay away", () => {
    const part = (type: "start" | "delta" | "stop"): AgentChatResponsePartClientEvent => ({
      type: "agent_chat_response_part",
      text_response_part: { type, text: "", event_id: 1 },
    });
    const c = conversation();
    c.said(part("start"));
    expect(c.busyFor()).toBe(5_000);
    c.said(part("delta"), AT + 3_000);
    expect(c.busyFor(AT + 3_000)).toBe(5_000);
    c.said(part("stop"), AT + 3_100);
    expect(c.busyFor(AT + 3_100)).toBe(0);
  });

  test("on aloud, when its text has come to the end", () => {
    const c = conversation();
    c.said(audio(64_000));
    c.said({ type: "agent_chat_response_part", text_response_part: { type: "stop", text: "", event_id: 1 } });
    expect(c.busyFor()).toBeCloseTo(LATER + 2_000, -1);
  });
});

describe("audio of more than 8 KiB is measured, not parsed", () => {
  const base64 = Buffer.alloc(64_000).toString("base64");
  test.each([
    `{"type":"audio","audio_event":{"audio_base_64":"${base64}","event_id":3}}`,
    `{"audio_event":{"audio_base_64":"${base64}","event_id":3},"type":"audio"}`,
    `{ "type" : "audio", "audio_event": {"event_id": 3, "audio_base_64": "${base64}"}}`,
    `{"type":"audio","audio_event":{"alignment":{"chars":["a"],"char_start_times_ms":[0]},"audio_base_64":"${base64}","event_id":3}}`,
    // Its end is nobody's business.
    `{"type":"audio","audio_event":{"audio_base_64":"${base64}","event_id":3`,
  ])("however it is written: %.60s", (frame) => {
    expect(frame.length).toBeGreaterThan(MAX_PARSED_LENGTH);
    const c = conversation();
    c.said({ type: "interruption", interruption_event: { event_id: 4 } }, AT - 10_000);
    c.said(frame);
    expect(c.busyFor()).toBe(0);
    const other = conversation();
    other.said(frame);
    expect(other.busyFor()).toBeCloseTo(LATER + 2_000, -1);
  });
});

describe("the user is heard", () => {
  test.each<[string, Sent]>([
    [
      "by what was understood",
      { type: "user_transcript", user_transcription_event: { user_transcript: "hello", event_id: 1 } },
    ],
    [
      "while it is being understood",
      {
        type: "tentative_user_transcript",
        tentative_user_transcription_event: { user_transcript: "hel", event_id: 1 },
      },
    ],
    ["by a voice", { type: "vad_score", vad_score_event: { vad_score: 0.9 } }],
  ])("%s", (_how, event) => {
    const c = conversation();
    c.said(event);
    expect(c.busyFor()).toBe(1_500);
  });

  test.each<SentByPage>([
    { type: "user_message", text: "hello" },
    { type: "multimodal_message", files: [] },
    { type: "user_activity" },
  ])("by the page's own $type", (event) => {
    const c = conversation();
    c.page(event);
    expect(c.busyFor()).toBe(1_500);
  });

  test("not by noise, nor by the audio that a page sends all the time", () => {
    const c = conversation();
    c.said({ type: "vad_score", vad_score_event: { vad_score: 0.2 } });
    c.page({ user_audio_chunk: Buffer.alloc(1_000).toString("base64") });
    c.page('{"type":"pong","event_id":1}');
    expect(c.busyFor()).toBe(0);
  });
});

describe("what was said", () => {
  test("is the user's transcript, the agent's response, and its correction", () => {
    const { said } = conversation();
    expect(
      said({
        type: "user_transcript",
        user_transcription_event: { user_transcript: "And then?", event_id: 1 },
      }),
    ).toMatchObject({ said: { role: "user", text: "And then?", eventId: 1 } });
    expect(
      said({ type: "agent_response", agent_response_event: { agent_response: "Well, then", event_id: 2 } }),
    ).toEqual({ said: { role: "agent", text: "Well, then", eventId: 2 } });
    expect(
      said({
        type: "agent_response_correction",
        agent_response_correction_event: {
          original_agent_response: "Well, then",
          corrected_agent_response: "Well",
          event_id: 3,
        },
      }),
    ).toEqual({ said: { role: "agent", text: "Well", eventId: 3, corrects: "Well, then" } });
  });

  test("in more than 8 KiB is not read", () => {
    const { said } = conversation();
    const event = (text: string): Sent => ({
      type: "agent_response",
      agent_response_event: { agent_response: text, event_id: 2 },
    });
    expect(said(event("x".repeat(MAX_PARSED_LENGTH)))).toEqual({});
    expect(said(event("x".repeat(MAX_PARSED_LENGTH / 2)))).toMatchObject({ said: {} });
  });
});

test.each([
  "",
  "null",
  "[]",
  "{",
  '{"type":"audio"}',
  '{"type":"audio","audio_event":null}',
  '{"type":"audio","audio_event":{"audio_base_64":"AAAA',
  '{"type":"user_transcript"}',
  '{"type":"vad_score","vad_score_event":{"vad_score":"high"}}',
  '{"type":"conversation_initiation_metadata","conversation_initiation_metadata_event":{}}',
  '{"type":"ping","ping_event":{"event_id":1}}',
  '{"type":"__proto__"}',
])("a frame that says nothing to us is nothing: %s", (frame) => {
  const { events } = conversation();
  expect(events.fromProvider(frame, AT)).toEqual({});
  expect(events.fromPage(frame, AT)).toEqual({});
  expect(events.fromProvider(new TextEncoder().encode(frame).buffer as ArrayBuffer, AT)).toEqual({});
});
