/** Secrets as long as they must be, for tests only. Each is used for one thing. */
export const API_TOKEN = "test-api-token-0123456789abcdef-new";
export const OLD_API_TOKEN = "test-api-token-0123456789abcdef-old";
export const TOKEN_SECRET = "test-token-secret-0123456789abcdef-new";
export const OLD_TOKEN_SECRET = "test-token-secret-0123456789abcdef-old";
/** A webhook's shared secret, and a key that signs Standard Webhooks. */
export const SHARED_SECRET = "test-webhook-secret-0123456789abcdef";
export const SIGNING_SECRET = `whsec_${Buffer.from("a signing key of thirty-two bytes").toString("base64")}`;
/** What our own messages are signed with. */
export const OUTBOUND_SECRET = `whsec_${Buffer.from("another key, of thirty-four bytes.").toString("base64")}`;

/** What closes every door of a Worker. */
export const CLOSED_DOORS = {
  REQUIRE_AUTH: "true",
  API_TOKEN: `${API_TOKEN}, ${OLD_API_TOKEN}`,
  SESSION_TOKEN_SECRET: `${TOKEN_SECRET},${OLD_TOKEN_SECRET}`,
  WEBHOOK_SECRET: `${SHARED_SECRET},${SIGNING_SECRET}`,
};
