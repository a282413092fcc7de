/**
 * What a secret must be like before it opens anything. A weak one is treated as if it were not there: a token
 * that can be forged in a millisecond protects nothing, and a closed door is noticed.
 */
import type { Issue } from "../errors.ts";
import { isMalformedWebhookSecret, isSigningKey } from "./webhook-signature.ts";

/** The secrets that open a door, which is closed without one. */
export const DOOR_SECRETS = ["API_TOKEN", "SESSION_TOKEN_SECRET", "WEBHOOK_SECRET"] as const;
export const SECRET_VARIABLES = [...DOOR_SECRETS, "SIGNING_SECRET"] as const;
export type SecretVariable = (typeof SECRET_VARIABLES)[number];
export type SecretLists = Readonly<Record<SecretVariable, readonly string[]>>;

/** The output of `openssl rand -hex 16`. */
const MIN_CHARACTERS = 32;

/** Secrets that everybody can read: the examples of the Standard Webhooks specification and its libraries. */
const PUBLISHED = new Set([
  "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
  "whsec_C2FVsBQIhrscChlQIMV+b5sSYob7oAU8",
]);

/** The secrets of every variable. */
export function secretLists(secretsOf: (variable: SecretVariable) => readonly string[]): SecretLists {
  return {
    API_TOKEN: secretsOf("API_TOKEN"),
    SESSION_TOKEN_SECRET: secretsOf("SESSION_TOKEN_SECRET"),
    WEBHOOK_SECRET: secretsOf("WEBHOOK_SECRET"),
    SIGNING_SECRET: secretsOf("SIGNING_SECRET"),
  };
}

/**
 * The entries that may open something, and what is wrong with the others, by variable and place in its list.
 * `others` are credentials for other systems, which must not be given to ours.
 */
export function soundSecrets(
  lists: SecretLists,
  others: readonly string[],
): { sound: SecretLists; problems: Issue[] } {
  const problems: Issue[] = [];
  const soundOf = (variable: SecretVariable) => {
    const elsewhere = SECRET_VARIABLES.filter((other) => other !== variable).flatMap((other) => lists[other]);
    const used = new Set([...elsewhere, ...others].map(withoutPrefix));
    return lists[variable].filter((secret, i) => {
      const weakness = weaknessOf(variable, secret, used);
      if (weakness !== null) problems.push({ path: variable, message: `entry ${i + 1}: ${weakness}` });
      return weakness === null;
    });
  };
  return { sound: secretLists(soundOf), problems };
}

function weaknessOf(variable: SecretVariable, secret: string, used: ReadonlySet<string>): string | null {
  if (PUBLISHED.has(secret)) return "is a published example";
  if (variable === "WEBHOOK_SECRET" && isMalformedWebhookSecret(secret)) {
    return "begins with whsec_ but is not the base64 of 24 to 64 bytes after it";
  }
  if (variable === "SIGNING_SECRET" && !isSigningKey(secret)) {
    return "must be whsec_ and the base64 of 24 to 64 bytes after it";
  }
  if (secret.length < MIN_CHARACTERS) return `must have at least ${MIN_CHARACTERS} characters`;
  return used.has(withoutPrefix(secret)) ? "is used for something else too" : null;
}

/** A key is the same secret with and without the prefix that says how it is written. */
function withoutPrefix(secret: string): string {
  return secret.replace(/^whsec_/, "");
}
