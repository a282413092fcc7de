/**
 * The providers besides ElevenLabs, by the name that registrations, answers and records call them by. A new one is one file
 * beside this one, and one line here.
 */
export { openaiLive as "openai-live" } from "./openai-live.ts";
export { openaiRealtime as "openai-realtime" } from "./openai-realtime.ts";
export { retell } from "./retell.ts";
export { telnyx } from "./telnyx.ts";
export { ultravox } from "./ultravox.ts";
export { vapi } from "./vapi.ts";
