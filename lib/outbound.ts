/**
 * Signed messages to servers that the operator named: the runner of tools, and the receiver of receipts. A message is
 * one POST, signed as Standard Webhooks says. Who gets one twice knows it by its `webhook-id`, so whatever was not
 * certainly taken may be sent again.
 */
import { signStandardWebhook } from "./auth/webhook-signature.ts";
import { inTime } from "./patience.ts";

/** A URL that was checked, and the key that signs what goes there: `whsec_` and base64. */
export type Destination = { url: string; secret: string };

export type SignedMessage = Destination & {
  /** The same whenever this message is sent. */
  id: string;
  /** JSON. */
  body: string;
  /** The clock, in ms since the epoch. */
  now: () => number;
  /** How long the answer may take, the connection included, in ms. */
  deadlineMs: number;
};

/**
 * What became of a message. `accepted`: answered with 2xx. `refused`: answered with what sending it again will not
 * change by itself, 3xx (redirects are not followed: they could lead anywhere) or 4xx. `unreachable`: nobody was sent
 * anything. `unconfirmed`: it may have been taken: no answer in time, an answer that was none, 5xx, 408, 425 or 429.
 *
 * The runtime does not tell a connection that was refused from one that broke after the message was sent. So
 * `unreachable` is only what Cloudflare vouches for, with a status of its own.
 */
export type PostOutcome = "accepted" | "refused" | "unreachable" | "unconfirmed";

/** `status` is that of the answer, where there was one. */
export type Posted = { outcome: PostOutcome; status?: number };

/** Sends one message, once. Of the answer only the status is read. Never throws, and logs nothing. */
export async function postSigned({ url, secret, id, body, now, deadlineMs }: SignedMessage): Promise<Posted> {
  const timestampSeconds = Math.floor(now() / 1000);
  const signature = await signStandardWebhook({ id, timestampSeconds, body, secret }).catch(() => null);
  if (signature === null) return { outcome: "unreachable" };
  const post = (signal: AbortSignal) =>
    fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json", ...signature },
      body,
      redirect: "manual",
      signal,
    });
  try {
    const response = await inTime(deadlineMs, post);
    // Not waited for: who goes on answering without end has answered all the same.
    response.body?.cancel().catch(() => {});
    return { outcome: outcomeOf(response.status), status: response.status };
  } catch {
    return { outcome: "unconfirmed" };
  }
}

/**
 * Connection refused, no route, no TLS, no name: what Cloudflare answers with itself.
 * https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/
 */
const NOT_SENT: ReadonlySet<number> = new Set([521, 523, 525, 526, 530]);
/** Client errors that pass: https://www.rfc-editor.org/rfc/rfc9110#section-15.5.9, RFC 8470, RFC 6585 */
const PASSING: ReadonlySet<number> = new Set([408, 425, 429]);

function outcomeOf(status: number): PostOutcome {
  if (status >= 200 && status < 300) return "accepted";
  if (NOT_SENT.has(status)) return "unreachable";
  return status >= 500 || PASSING.has(status) ? "unconfirmed" : "refused";
}
