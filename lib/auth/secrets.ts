/**
 * Secrets come in lists, so that a new one can be added before the old one is taken away. Comparing a
 * candidate with them must not tell, by the time it takes, how much of it was right.
 */

/** Longer candidates are refused before they are hashed. No header that a secret fits in is longer. */
const MAX_CANDIDATE_CHARACTERS = 4096;

const encoder = new TextEncoder();

/**
 * Reads a comma-separated list of secrets. Blanks around an entry are not part of it; empty entries and
 * repetitions are left out, so the result is empty exactly when nothing is configured.
 */
export function parseSecretList(text: string): string[] {
  const entries = text.split(",").map((entry) => entry.trim());
  return [...new Set(entries.filter((entry) => entry !== ""))];
}

/**
 * Whether `candidate` is one of `secrets`. Both sides are hashed and every digest is compared to its last
 * byte, so the time depends on the lengths and the number of secrets, not on where a byte differs or which
 * entry matched. No list and no candidate ever match by being empty. Never throws.
 */
export async function matchesAnySecret(candidate: string, secrets: readonly string[]): Promise<boolean> {
  if (candidate === "" || candidate.length > MAX_CANDIDATE_CHARACTERS) return false;
  const usable = secrets.filter((secret) => secret !== "");
  const [digest, ...digests] = await Promise.all([candidate, ...usable].map(sha256));
  let matches = false;
  for (const expected of digests) {
    // The comparison stands first, so that an earlier match does not skip it.
    matches = isEqualDigest(expected, digest) || matches;
  }
  return matches;
}

/**
 * Compares two digests or message authentication codes without leaving early: every byte is looked at,
 * whatever the others were. Lengths are public; different ones, or a missing side, are not equal.
 */
export function isEqualDigest(left: Uint8Array | undefined, right: Uint8Array | undefined): boolean {
  if (!left || !right || left.length !== right.length) return false;
  let difference = 0;
  for (const [index, byte] of left.entries()) difference |= byte ^ (right[index] ?? 0);
  return difference === 0;
}

async function sha256(text: string): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", encoder.encode(text)));
}
