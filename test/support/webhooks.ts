/** Signing as senders do, with Node's own crypto, so that nothing of the product vouches for itself. */
import { createHmac } from "node:crypto";

/** Headers of a Standard Webhook. `secret` is `whsec_` and base64. */
export function standardHeaders(
  secret: string,
  body: string,
  {
    id = "msg_1",
    timestamp = Math.floor(Date.now() / 1000),
  }: { id?: string; timestamp?: number | string } = {},
): Record<string, string> {
  const key = Buffer.from(secret.slice("whsec_".length), "base64");
  const mac = createHmac("sha256", key).update(`${id}.${timestamp}.${body}`).digest("base64");
  return { "webhook-id": id, "webhook-timestamp": String(timestamp), "webhook-signature": `v1,${mac}` };
}

/** The header of an ElevenLabs post-call webhook. */
export function elevenLabsHeaders(
  secret: string,
  body: string,
  timestamp = Math.floor(Date.now() / 1000),
): Record<string, string> {
  const mac = createHmac("sha256", secret).update(`${timestamp}.${body}`).digest("hex");
  return { "elevenlabs-signature": `t=${timestamp},v0=${mac}` };
}

/** A JWT with any header and claims, signed with HS256 whatever the header says. */
export function jwt(header: object, claims: object, secret: string): string {
  const encode = (part: object) => Buffer.from(JSON.stringify(part)).toString("base64url");
  const signed = `${encode(header)}.${encode(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}
