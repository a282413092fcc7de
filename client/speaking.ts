/**
 * Who is speaking, as the SDK's callbacks tell it, reported to the edge so that a result waits for its turn.
 */
import type { ActivityFrame, ModeFrame } from "../lib/live/relay-protocol.ts";
import type { Page } from "./page.ts";

/** In voice the mode flaps to `listening` in mid-speech, when audio underruns. */
const LISTENING_SETTLES_MS = 500;
/** A text answer that stops coming without having said that it ends. */
const TEXT_BREAKS_OFF_MS = 5_000;
/** From here on the voice detector means a voice. */
const VOICE_SCORE = 0.5;
/** Signs of the user come many times a second; the edge takes one for 1.5 s. */
const ACTIVITY_EVERY_MS = 1_000;

export interface Speaking {
  mode(mode: string): void;
  /** A piece of a text answer: text-only conversations never report a mode. */
  textPart(type: string): void;
  /** A whole message. */
  message(role: string | undefined): void;
  voice(score: number): void;
  /** Tells a new line what the earlier one was told. */
  repeat(): void;
  /** The agent conversation is over. */
  reset(): void;
}

export function createSpeaking(page: Page, send: (frame: ModeFrame | ActivityFrame) => void): Speaking {
  let isVoiceSpeaking = false;
  let reported: ModeFrame["mode"] = "listening";
  let cancelQuiet = () => {};
  let activityAt = Number.NEGATIVE_INFINITY;

  function report(mode: ModeFrame["mode"]): void {
    cancelQuiet();
    if (mode === reported) return;
    reported = mode;
    send({ type: "mode", mode });
  }

  function quietIn(ms: number): void {
    cancelQuiet();
    cancelQuiet = page.after(ms, () => {
      if (!isVoiceSpeaking) report("listening");
    });
  }

  function userIsActive(): void {
    if (page.now() - activityAt < ACTIVITY_EVERY_MS) return;
    activityAt = page.now();
    send({ type: "activity" });
  }

  return {
    mode(mode) {
      isVoiceSpeaking = mode === "speaking";
      if (isVoiceSpeaking) report("speaking");
      else quietIn(LISTENING_SETTLES_MS);
    },
    textPart(type) {
      if (type !== "stop") report("speaking");
      quietIn(type === "stop" ? LISTENING_SETTLES_MS : TEXT_BREAKS_OFF_MS);
    },
    message(role) {
      if (role === "user") userIsActive();
      else quietIn(LISTENING_SETTLES_MS);
    },
    voice(score) {
      if (score > VOICE_SCORE) userIsActive();
    },
    repeat() {
      if (reported === "speaking") send({ type: "mode", mode: reported });
    },
    reset() {
      cancelQuiet();
      isVoiceSpeaking = false;
      reported = "listening";
    },
  };
}
