/** The frames of an agent conversation that are sent to and fro: short ones, and audio. */

const AUDIO_BYTES = 3 * 1024;
const audio = Buffer.alloc(AUDIO_BYTES, "a voice").toString("base64");

export const PONG = JSON.stringify({ type: "pong", event_id: 1_000 });
export const PING = JSON.stringify({ type: "ping", ping_event: { event_id: 1_000, ping_ms: 20 } });
export const USER_AUDIO = JSON.stringify({ user_audio_chunk: audio });
export const AGENT_AUDIO = JSON.stringify({
  type: "audio",
  audio_event: { audio_base_64: audio, event_id: 7 },
});
