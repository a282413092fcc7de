/**
 * A push that is one HTTP request. It goes out once: the runtime does not tell a connection that was refused from one
 * that broke behind the request, so whatever is no answer leaves open whether it was applied. Redirects are not
 * followed, because they could lead anywhere, and of an answer little is read.
 */
import { stringifyJson } from "../json.ts";
import { inTime } from "../patience.ts";
import type { Proof } from "./channel.ts";
import type { ProviderOutcome } from "./provider.ts";

/** How long an answer may take, the connection included, in ms. */
export const HTTP_PUSH_DEADLINE_MS = 5_000;
/** Longer than any answer that says yes or no. */
const MAX_ANSWER_BYTES = 16 * 1024;

/** What was answered; `body` is null where it was too long, or broke off. */
export type HttpAnswer = { status: number; body: string | null };

export type HttpPush = {
  method?: "POST" | "PATCH";
  url: URL;
  headers: Record<string, string>;
  /** Becomes JSON. */
  body: object;
  /** What an answer that says yes proves. */
  proof: Proof;
  /** Whether an answer of 2xx is the one that says yes. Any other 2xx leaves it open. */
  isYes: (answer: HttpAnswer) => boolean;
  /** Whether an answer of 4xx says that the call is over. */
  isOver: (answer: HttpAnswer) => boolean;
  deadlineMs?: number;
};

/**
 * Sends one request and judges its answer: 4xx (429 too) and 3xx were not applied, 5xx and silence may have been. Bounded
 * in time; never throws.
 */
export async function pushByHttp(push: HttpPush): Promise<ProviderOutcome> {
  const { method = "POST", url, headers, body, deadlineMs = HTTP_PUSH_DEADLINE_MS } = push;
  try {
    const answer = await inTime(deadlineMs, async (signal): Promise<HttpAnswer> => {
      const response = await fetch(url, {
        method,
        headers: { ...headers, "content-type": "application/json" },
        body: stringifyJson(body),
        redirect: "manual",
        signal,
      });
      return { status: response.status, body: await textOf(response) };
    });
    return judge(answer, push);
  } catch {
    return { outcome: "unconfirmed" };
  }
}

function judge(answer: HttpAnswer, { proof, isYes, isOver }: HttpPush): ProviderOutcome {
  const { status: httpStatus } = answer;
  if (httpStatus >= 200 && httpStatus < 300 && isYes(answer)) return { outcome: "delivered", proof };
  if (httpStatus === 401) return { outcome: "unauthorized", httpStatus };
  if (httpStatus < 300 || httpStatus >= 500) return { outcome: "unconfirmed", httpStatus };
  return { outcome: isOver(answer) ? "ended" : "refused", httpStatus };
}

/** An answer's body as JSON; undefined where it is none. */
export function jsonOf({ body }: HttpAnswer): unknown {
  try {
    return body === null ? undefined : JSON.parse(body);
  } catch {
    return undefined;
  }
}

/** Null where it is too long or breaks off: the status was there before. */
async function textOf(response: Response): Promise<string | null> {
  const reader = (response.body as ReadableStream<Uint8Array> | null)?.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let length = 0;
  try {
    for (let part = await reader?.read(); part?.value !== undefined; part = await reader?.read()) {
      length += part.value.byteLength;
      if (length > MAX_ANSWER_BYTES) {
        reader?.cancel().catch(() => {});
        return null;
      }
      text += decoder.decode(part.value, { stream: true });
    }
    return text + decoder.decode();
  } catch {
    return null;
  }
}
