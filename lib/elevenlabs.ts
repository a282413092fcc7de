/**
 * ElevenLabs as this service starts agent conversations there: a signed URL, fetched with the account's key, and the
 * WebSocket it opens. The key goes to the API alone; what comes back is dialled, or given to a page, only if it leads
 * to where the key itself may go. No failure says more than its kind: the URL is a key too.
 * https://elevenlabs.io/docs, "Get signed URL"
 */
import * as v from "valibot";
import { openSocket } from "./push/dial.ts";
import { LOOPBACK_HOSTS, mayHoldElevenLabsKey } from "./push/push-target.ts";

/** How long an agent conversation may take to open, the signed URL included, in ms. */
export const OPEN_DEADLINE_MS = 5_000;
/** A signed URL starts a conversation for this long, in ms. The conversation outlives it. */
export const SIGNED_URL_LIVES_MS = 15 * 60_000;

/** Selected by the agent, and by whoever stands for it. */
export const CONVERSATION_SUBPROTOCOL = "convai";

const MAX_ANSWER_BYTES = 64 * 1024;

/** `apiUrl` is an origin. */
export type ElevenLabsAccount = { apiKey: string; apiUrl: string };

/**
 * Why there is no agent conversation. `unreachable`: nobody answered in time, or with a failure of their own.
 * `refused`: the key or the agent is not taken, or the answer leads elsewhere. `status` is the API's, for the log.
 */
export type NoConversation = { failure: "unreachable" | "refused"; status?: number };

/** Which SDK asks, and for which environment of the agent, as the SDK itself says it in the URL. */
export type SdkParameters = Partial<Record<(typeof SDK_PARAMETERS)[number], string>>;
export const SDK_PARAMETERS = ["source", "version", "environment"] as const;

const answerSchema = v.object({ signed_url: v.string() });

/** A URL that opens one conversation with the agent, for 15 minutes. Never throws. */
export function fetchSignedUrl(
  account: ElevenLabsAccount,
  agentId: string,
): Promise<{ signedUrl: string } | NoConversation> {
  return inTime(undefined, (signal) => signedUrlOf(account, agentId, signal));
}

/**
 * Opens a conversation with the agent: a WebSocket, not yet accepted. `signal` gives up. Never throws.
 */
export function openConversation(
  account: ElevenLabsAccount,
  agentId: string,
  parameters: SdkParameters,
  signal: AbortSignal,
): Promise<{ socket: WebSocket } | NoConversation> {
  return inTime(signal, async (signal) => {
    const signed = await signedUrlOf(account, agentId, signal);
    if ("failure" in signed) return signed;
    // The text as it was signed, and what the SDK puts behind it.
    const ofSdk = Object.entries(parameters)
      .map(([name, value]) => `${name}=${encodeURIComponent(value)}`)
      .join("&");
    const separator = signed.signedUrl.includes("?") ? "&" : "?";
    const url = new URL(ofSdk === "" ? signed.signedUrl : signed.signedUrl + separator + ofSdk);
    const opened = await openSocket(url, { "sec-websocket-protocol": CONVERSATION_SUBPROTOCOL }, signal);
    return "socket" in opened ? opened : { failure: opened.outcome };
  });
}

async function signedUrlOf(
  { apiKey, apiUrl }: ElevenLabsAccount,
  agentId: string,
  signal: AbortSignal,
): Promise<{ signedUrl: string } | NoConversation> {
  const url = new URL("/v1/convai/conversation/get-signed-url", apiUrl);
  url.searchParams.set("agent_id", agentId);
  try {
    const response = await fetch(url, { headers: { "xi-api-key": apiKey }, redirect: "manual", signal });
    const text = await readText(response);
    const { status } = response;
    if (status >= 500 || status === 429) return { failure: "unreachable", status };
    const signedUrl = status === 200 && text !== null ? readSignedUrl(text) : null;
    if (signedUrl === null || !isOfElevenLabs(signedUrl, apiUrl)) return { failure: "refused", status };
    return { signedUrl };
  } catch {
    return { failure: "unreachable" };
  }
}

/**
 * The body, null where it is too long. It is read to its end before a socket is opened: workerd has cut sockets
 * beside which a body was still being read (https://github.com/cloudflare/workerd/issues/6774).
 */
async function readText(response: Response): Promise<string | null> {
  const reader = (response.body as ReadableStream<Uint8Array> | null)?.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let length = 0;
  for (let part = await reader?.read(); part?.value !== undefined; part = await reader?.read()) {
    length += part.value.byteLength;
    if (length > MAX_ANSWER_BYTES) {
      await reader?.cancel();
      return null;
    }
    text += decoder.decode(part.value, { stream: true });
  }
  return text + decoder.decode();
}

function readSignedUrl(text: string): string | null {
  try {
    const answer = v.safeParse(answerSchema, JSON.parse(text));
    return answer.success ? answer.output.signed_url : null;
  } catch {
    return null;
  }
}

/** Whether a URL is a WebSocket's, at a host that may hold the key; in the clear on this machine only. */
function isOfElevenLabs(text: string, apiUrl: string): boolean {
  if (!URL.canParse(text)) return false;
  const url = new URL(text);
  const isSafe = url.protocol === "wss:" || (url.protocol === "ws:" && LOOPBACK_HOSTS.has(url.hostname));
  const isPlain = url.username === "" && url.password === "" && url.hash === "";
  return isSafe && isPlain && mayHoldElevenLabsKey(url, apiUrl);
}

async function inTime<T>(
  signal: AbortSignal | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const deadline = new AbortController();
  const giveUp = () => deadline.abort();
  const timer = setTimeout(giveUp, OPEN_DEADLINE_MS);
  if (signal?.aborted) giveUp();
  signal?.addEventListener("abort", giveUp);
  try {
    return await work(deadline.signal);
  } finally {
    // A signal that is aborted later would cut the socket.
    clearTimeout(timer);
    signal?.removeEventListener("abort", giveUp);
  }
}
