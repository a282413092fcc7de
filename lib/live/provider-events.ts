/**
 * What the frames of a proxied agent conversation say to us: which agent conversation it is, who is speaking, and
 * what was said. Pure: the clock comes in. They are passed on whatever is read in them, and nothing in them is
 * believed to have its shape.
 *
 * A frame of more than 8 KiB is not parsed. Audio is as long as that and longer; only its length matters, and that is
 * measured where it stands. The user's own audio comes all the time, silence included, so it is no sign of anything.
 */
import * as v from "valibot";
import type { TurnEvent } from "./turn.ts";

/** Longer frames are not parsed, in UTF-16 code units. */
export const MAX_PARSED_LENGTH = 8 * 1024;

/** A page plays what it was sent a little later, and speech comes in pieces with gaps between them, in ms. */
const PLAYS_LATER_MS = 500;
/** A text answer that stops coming without having said that it ends, in ms. */
const TEXT_BREAKS_OFF_MS = 5_000;
/** How long a piece of audio lasts whose format nobody knows, in ms. */
const UNKNOWN_PIECE_MS = 1_000;
/** From here on the voice detector means a voice. */
const VOICE_SCORE = 0.5;

/** What somebody said, or, where it `corrects` what the agent said before, what of that was heard. */
export type Utterance = { role: "user" | "agent"; text: string; eventId: number; corrects?: string };

/** What one frame says to us. */
export type Reading = {
  /** The agent conversation has begun; by its id. */
  began?: string;
  turn?: TurnEvent[];
  said?: Utterance;
};

const eventId = v.optional(v.number(), 0);

/** The frames of the provider that say something to us, audio apart. */
const eventSchema = v.variant("type", [
  v.object({
    type: v.literal("conversation_initiation_metadata"),
    conversation_initiation_metadata_event: v.object({
      conversation_id: v.string(),
      agent_output_audio_format: v.optional(v.string(), ""),
    }),
  }),
  v.object({ type: v.literal("interruption"), interruption_event: v.object({ event_id: eventId }) }),
  v.object({
    type: v.literal("user_transcript"),
    user_transcription_event: v.object({ user_transcript: v.string(), event_id: eventId }),
  }),
  v.object({ type: v.literal("tentative_user_transcript") }),
  v.object({ type: v.literal("vad_score"), vad_score_event: v.object({ vad_score: v.number() }) }),
  v.object({
    type: v.literal("agent_response"),
    agent_response_event: v.object({ agent_response: v.string(), event_id: eventId }),
  }),
  v.object({
    type: v.literal("agent_response_correction"),
    agent_response_correction_event: v.object({
      original_agent_response: v.string(),
      corrected_agent_response: v.string(),
      event_id: eventId,
    }),
  }),
  v.object({
    type: v.literal("agent_chat_response_part"),
    text_response_part: v.object({ type: v.string() }),
  }),
]);
export type ProviderEvent = v.InferInput<typeof eventSchema>;

/** The frames of a page that are signs of its user. */
const pageEventSchema = v.object({
  type: v.picklist(["user_message", "multimodal_message", "user_activity"]),
});
export type PageEvent = v.InferInput<typeof pageEventSchema>;

/** Reads the frames of one agent conversation, in their order; `at` in ms since the epoch. */
export interface ProviderEvents {
  fromProvider(frame: string | ArrayBuffer, at: number): Reading;
  fromPage(frame: string | ArrayBuffer, at: number): Reading;
  /** Until when what the agent has said so far is heard, in ms since the epoch. */
  agentSpeaksUntil(): number;
}

export function createProviderEvents(): ProviderEvents {
  let bytesPerMs: number | null = null;
  let audioEndsAt = Number.NEGATIVE_INFINITY;
  let textEndsAt = Number.NEGATIVE_INFINITY;
  /** Audio of earlier events is not played any more. */
  let interruptedId = Number.NEGATIVE_INFINITY;

  const agentSpeaksUntil = () => Math.max(audioEndsAt, textEndsAt);
  const agent = (): TurnEvent => ({ type: "agent_speaks_until", until: agentSpeaksUntil() });

  function hear({ bytes, eventId }: Audio, at: number): Reading {
    if (eventId !== null && eventId < interruptedId) return {};
    const lastsMs = bytesPerMs === null ? UNKNOWN_PIECE_MS : bytes / bytesPerMs;
    // It comes faster than it is played, so it queues up behind what is still to be heard.
    audioEndsAt = Math.max(audioEndsAt, at + PLAYS_LATER_MS) + lastsMs;
    return { turn: [agent()] };
  }

  function read(event: v.InferOutput<typeof eventSchema>, at: number): Reading {
    const user: TurnEvent = { type: "user_activity", at };
    switch (event.type) {
      case "conversation_initiation_metadata": {
        const { conversation_id: began, agent_output_audio_format: format } =
          event.conversation_initiation_metadata_event;
        bytesPerMs = bytesPerMsOf(format);
        return { began };
      }
      case "interruption":
        interruptedId = event.interruption_event.event_id;
        audioEndsAt = textEndsAt = at;
        return { turn: [agent(), user] };
      case "user_transcript": {
        const { user_transcript: text, event_id: eventId } = event.user_transcription_event;
        return { turn: [user], said: { role: "user", text, eventId } };
      }
      case "tentative_user_transcript":
        return { turn: [user] };
      case "vad_score":
        return event.vad_score_event.vad_score > VOICE_SCORE ? { turn: [user] } : {};
      case "agent_response": {
        const { agent_response: text, event_id: eventId } = event.agent_response_event;
        return { said: { role: "agent", text, eventId } };
      }
      case "agent_response_correction": {
        const {
          corrected_agent_response: text,
          original_agent_response: corrects,
          event_id: eventId,
        } = event.agent_response_correction_event;
        return { said: { role: "agent", text, eventId, corrects } };
      }
      case "agent_chat_response_part":
        textEndsAt = event.text_response_part.type === "stop" ? at : at + TEXT_BREAKS_OFF_MS;
        return { turn: [agent()] };
    }
  }

  return {
    agentSpeaksUntil,
    fromProvider(frame, at) {
      if (typeof frame !== "string") return {};
      const audio = audioIn(frame);
      if (audio !== null) return hear(audio, at);
      const event = v.safeParse(eventSchema, parse(frame));
      return event.success ? read(event.output, at) : {};
    },
    fromPage(frame, at) {
      if (typeof frame !== "string" || frame.startsWith(USER_AUDIO)) return {};
      return v.is(pageEventSchema, parse(frame)) ? { turn: [{ type: "user_activity", at }] } : {};
    },
  };
}

/** As the SDK writes it, many times a second. */
const USER_AUDIO = '{"user_audio_chunk"';

function parse(frame: string): unknown {
  if (frame.length > MAX_PARSED_LENGTH) return null;
  try {
    return JSON.parse(frame);
  } catch {
    return null;
  }
}

type Audio = { bytes: number; eventId: number | null };

/** The beginning of an `audio` frame, whichever of its fields stands first; an alignment may stand before the audio. */
const AUDIO = /^\s*\{\s*"(?:type"\s*:\s*"audio"|audio_event"\s*:)/;
const AUDIO_VALUE = /"audio_base_64"\s*:\s*"/;
const EVENT_ID = /"event_id"\s*:\s*(\d{1,15})/;

/** How much audio a frame holds; null where it is none. */
function audioIn(frame: string): Audio | null {
  const value = AUDIO.test(frame) ? AUDIO_VALUE.exec(frame) : null;
  if (value === null) return null;
  const start = value.index + value[0].length;
  const end = frame.indexOf('"', start);
  if (end === -1) return null;
  const id = EVENT_ID.exec(frame.slice(end)) ?? EVENT_ID.exec(frame.slice(0, start));
  return { bytes: Math.floor(((end - start) * 3) / 4), eventId: id === null ? null : Number(id[1]) };
}

/** The rate of an audio format such as `pcm_16000` (two bytes a sample) or `ulaw_8000` (one), in bytes a ms. */
function bytesPerMsOf(format: string): number | null {
  const [, encoding, samplesPerSecond] = /^(pcm|ulaw)_([1-9]\d{3,5})$/.exec(format) ?? [];
  if (encoding === undefined) return null;
  return (Number(samplesPerSecond) * (encoding === "pcm" ? 2 : 1)) / 1000;
}
