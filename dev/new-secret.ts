/** Secrets of our own: 32 random bytes each, written as the Worker wants them. */
import { randomBytes } from "node:crypto";
import type { SecretVariable } from "../lib/auth/secret-rules.ts";

export function newSecret(name: SecretVariable): string {
  const bytes = randomBytes(32);
  // What signs Standard Webhooks is a key, and says so.
  const isKey = name === "WEBHOOK_SECRET" || name === "SIGNING_SECRET";
  return isKey ? `whsec_${bytes.toString("base64")}` : bytes.toString("base64url");
}
