import { createHmac, generateKeyPairSync, sign as signWithKey } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { issueConversationToken, verifyConversationToken } from "../../lib/auth/conversation-token.ts";

const SECRET = "a-session-token-secret-of-32-byte";
/** Half a second into a second, so that rounding shows. Long past, so that a look at the system clock shows too. */
const NOW = Date.UTC(2026, 0, 15, 12, 0, 0, 500);
const NOW_SECONDS = Math.floor(NOW / 1000);
const CLAIMS = {
  iss: "edge-agent-sessions",
  aud: "conversation",
  sub: "conv_1",
  iat: NOW_SECONDS,
  exp: NOW_SECONDS + 3600,
};

const accepted = { ok: true };
const refusedFor = (reason: string) => ({ ok: false, reason });

function issue(overrides: Partial<Parameters<typeof issueConversationToken>[0]> = {}) {
  return issueConversationToken({ conversationId: "conv_1", secret: SECRET, now: NOW, ...overrides });
}

function verify(token: string, overrides: Partial<Parameters<typeof verifyConversationToken>[0]> = {}) {
  return verifyConversationToken({
    token,
    conversationId: "conv_1",
    secrets: [SECRET],
    now: NOW,
    ...overrides,
  });
}

const encode = (part: unknown) =>
  Buffer.from(typeof part === "string" ? part : JSON.stringify(part)).toString("base64url");

/** A JWT made by hand, so that it may hold what `sign` would not write. */
function forge(
  claims: unknown,
  header: unknown = { alg: "HS256", typ: "JWT" },
  secret = SECRET,
  hash = "sha256",
) {
  const signed = `${encode(header)}.${encode(claims)}`;
  return `${signed}.${createHmac(hash, secret).update(signed).digest("base64url")}`;
}

describe("a conversation token", () => {
  test("opens the conversation it was issued for", async () => {
    const { token } = await issue();

    expect(await verify(token)).toEqual(accepted);
  });

  test("lives an hour unless it is told otherwise, and says until when", async () => {
    expect((await issue()).expiresAt).toBe("2026-01-15T13:00:00.000Z");
    expect((await issue({ lifetimeSeconds: 60 })).expiresAt).toBe("2026-01-15T12:01:00.000Z");
  });

  test("holds the conversation, its times and our names, and nothing else", async () => {
    const [header = "", payload = ""] = (await issue()).token.split(".");

    expect(JSON.parse(Buffer.from(header, "base64url").toString())).toEqual({ alg: "HS256", typ: "JWT" });
    expect(JSON.parse(Buffer.from(payload, "base64url").toString())).toEqual(CLAIMS);
  });

  test("says which agent conversation its holder talks to, where its server said so", async () => {
    const { token } = await issue({ agentSessionId: "conv_abc" });

    expect(await verify(token)).toEqual({ ok: true, agentSessionId: "conv_abc" });
    expect(await verify(forge({ ...CLAIMS, agentSessionId: 7 }))).toEqual(refusedFor("wrong_claims"));
    expect(
      await verify(forge({ ...CLAIMS, agentSessionId: "conv_abc" }, undefined, "another-secret")),
    ).toEqual(refusedFor("wrong_signature"));
  });

  test("is an ordinary JWT: one made elsewhere from the same claims opens as well", async () => {
    expect(await verify(forge(CLAIMS))).toEqual(accepted);
  });

  test("is accepted to the last millisecond before it expires, and not at that moment", async () => {
    const { token, expiresAt } = await issue({ lifetimeSeconds: 60 });
    const expiry = Date.parse(expiresAt);

    expect(await verify(token, { now: expiry - 1 })).toEqual(accepted);
    expect(await verify(token, { now: expiry })).toEqual(refusedFor("expired"));
    expect(await verify(token, { now: expiry + 1 })).toEqual(refusedFor("expired"));
  });

  test("may come from a clock that is a minute ahead, and not from one further", async () => {
    const { token } = await issue();

    expect(await verify(token, { now: (NOW_SECONDS - 60) * 1000 })).toEqual(accepted);
    expect(await verify(token, { now: (NOW_SECONDS - 60) * 1000 - 1 })).toEqual(refusedFor("not_yet_valid"));
  });

  test("of another conversation is refused", async () => {
    const { token } = await issue({ conversationId: "conv_2" });

    expect(await verify(token)).toEqual(refusedFor("wrong_conversation"));
  });

  test("signed with the old secret is accepted while it is listed and refused once it is not", async () => {
    const { token } = await issue({ secret: "old" });

    expect(await verify(token, { secrets: [SECRET, "old"] })).toEqual(accepted);
    expect(await verify(token, { secrets: [SECRET] })).toEqual(refusedFor("wrong_signature"));
  });

  test("is refused when no secret is configured", async () => {
    const { token } = await issue();

    expect(await verify(token, { secrets: [] })).toEqual(refusedFor("no_secret"));
    expect(await verify(token, { secrets: [""] })).toEqual(refusedFor("no_secret"));
  });

  test.each(["MY-PUBLIC-SECRET", "MY-PRIVATE-SECRET", "-----BEGIN PUBLIC KEY-----", "{}", "пароль"])(
    "works with the secret %j, which is text and nothing more",
    async (secret) => {
      const { token } = await issue({ secret });

      expect(await verify(token, { secrets: [secret] })).toEqual(accepted);
    },
  );

  test("is not issued without a secret or with a lifetime that is none", async () => {
    await expect(issue({ secret: "" })).rejects.toThrow(RangeError);
    for (const lifetimeSeconds of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      await expect(issue({ lifetimeSeconds })).rejects.toThrow(RangeError);
    }
  });

  describe("is refused", () => {
    const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
    const rsaSigned = `${encode({ alg: "RS256", typ: "JWT" })}.${encode(CLAIMS)}`;
    const valid = forge(CLAIMS);
    const [header, payload, signature = ""] = valid.split(".");
    const without = (name: keyof typeof CLAIMS) => ({ ...CLAIMS, [name]: undefined });

    test.each([
      ["empty", "", "missing"],
      ["of 10 kB", "a".repeat(10_240), "too_long"],
      ["of 10 kB and well signed", forge({ ...CLAIMS, note: "a".repeat(10_240) }), "too_long"],
      ["one word", "token", "malformed"],
      ["two parts", `${header}.${payload}`, "malformed"],
      ["four parts", `${valid}.${signature}`, "malformed"],
      ["only dots", "..", "malformed"],
      ["with a blank", `${valid} `, "malformed"],
      ["with a line break", `${valid}\n`, "malformed"],
      ["behind a scheme", `Bearer ${valid}`, "malformed"],
      ["padded", `${valid}=`, "malformed"],
      ["no JSON", "aaaa.bbbb.cccc", "malformed"],
      ["claims no JSON", forge("{"), "malformed"],
      ["alg none, unsigned", `${encode({ alg: "none", typ: "JWT" })}.${payload}.`, "wrong_header"],
      ["alg none, signed", forge(CLAIMS, { alg: "none", typ: "JWT" }), "wrong_header"],
      ["alg nOnE", `${encode({ alg: "nOnE", typ: "JWT" })}.${payload}.`, "wrong_header"],
      ["alg missing", forge(CLAIMS, { typ: "JWT" }), "wrong_header"],
      ["alg in lower case", forge(CLAIMS, { alg: "hs256", typ: "JWT" }), "wrong_header"],
      ["alg a list", forge(CLAIMS, { alg: ["HS256"], typ: "JWT" }), "wrong_header"],
      ["HS512", forge(CLAIMS, { alg: "HS512", typ: "JWT" }, SECRET, "sha512"), "wrong_header"],
      [
        "RS256 with a key of its own",
        `${rsaSigned}.${signWithKey("sha256", Buffer.from(rsaSigned), rsa.privateKey).toString("base64url")}`,
        "wrong_header",
      ],
      ["RS256 over our HMAC", forge(CLAIMS, { alg: "RS256", typ: "JWT" }), "wrong_header"],
      ["of another typ", forge(CLAIMS, { alg: "HS256", typ: "at+jwt" }), "wrong_header"],
      [
        "with a critical extension",
        forge(CLAIMS, { alg: "HS256", crit: ["b64"], b64: false }),
        "wrong_header",
      ],
      ["header null", forge(CLAIMS, null), "wrong_header"],
      ["of another secret", forge(CLAIMS, undefined, "guess"), "wrong_signature"],
      ["of an empty secret", forge(CLAIMS, undefined, ""), "wrong_signature"],
      [
        "tampered claims",
        `${header}.${encode({ ...CLAIMS, exp: CLAIMS.exp + 1 })}.${signature}`,
        "wrong_signature",
      ],
      [
        "tampered header",
        `${encode({ typ: "JWT", alg: "HS256" })}.${payload}.${signature}`,
        "wrong_signature",
      ],
      ["signature missing", `${header}.${payload}.`, "wrong_signature"],
      ["signature truncated", valid.slice(0, -3), "wrong_signature"],
      ["signature cut within a byte", valid.slice(0, -2), "malformed"],
      ["signature prolonged", `${valid}AAAA`, "wrong_signature"],
      ["expired", forge({ ...CLAIMS, iat: NOW_SECONDS - 7200, exp: NOW_SECONDS }), "expired"],
      ["from the future", forge({ ...CLAIMS, iat: NOW_SECONDS + 600 }), "not_yet_valid"],
      ["not valid before later", forge({ ...CLAIMS, nbf: NOW_SECONDS + 600 }), "not_yet_valid"],
      ["for another conversation", forge({ ...CLAIMS, sub: "conv_2" }), "wrong_conversation"],
      [
        "for a conversation whose id begins alike",
        forge({ ...CLAIMS, sub: "conv_11" }),
        "wrong_conversation",
      ],
      ["for no conversation", forge({ ...CLAIMS, sub: "" }), "wrong_conversation"],
      ["for several conversations", forge({ ...CLAIMS, sub: ["conv_1"] }), "wrong_claims"],
      ["without sub", forge(without("sub")), "wrong_claims"],
      ["without exp", forge(without("exp")), "wrong_claims"],
      ["without iat", forge(without("iat")), "wrong_claims"],
      ["without iss", forge(without("iss")), "wrong_claims"],
      ["without aud", forge(without("aud")), "wrong_claims"],
      ["exp null", forge({ ...CLAIMS, exp: null }), "wrong_claims"],
      ["exp a string", forge({ ...CLAIMS, exp: String(CLAIMS.exp) }), "wrong_claims"],
      [
        "exp beyond any number",
        forge(JSON.stringify(CLAIMS).replace(String(CLAIMS.exp), "1e999")),
        "wrong_claims",
      ],
      ["nbf a string", forge({ ...CLAIMS, nbf: "0" }), "wrong_claims"],
      ["of another issuer", forge({ ...CLAIMS, iss: "another-product" }), "wrong_claims"],
      ["for another audience", forge({ ...CLAIMS, aud: "another-audience" }), "wrong_claims"],
      ["for a list of audiences", forge({ ...CLAIMS, aud: ["conversation", "another"] }), "wrong_claims"],
      ["claims null", forge(null), "wrong_claims"],
      ["claims a list", forge([CLAIMS]), "wrong_claims"],
      ["claims inherited", forge(`{"__proto__":${JSON.stringify(CLAIMS)}}`), "wrong_claims"],
    ])("%s", async (_, token, reason) => {
      expect(await verify(token)).toEqual(refusedFor(reason));
    });

    test("with any one character of the signature changed, the last one's unused bits included", async () => {
      const start = valid.lastIndexOf(".") + 1;
      for (let index = start; index < valid.length; index += 1) {
        for (const character of "AB_") {
          if (valid[index] === character) continue;
          const tampered = valid.slice(0, index) + character + valid.slice(index + 1);
          expect(await verify(tampered)).toMatchObject({ ok: false });
        }
      }
      const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
      const sameBytes = valid.slice(0, -1) + alphabet[alphabet.indexOf(valid.at(-1) ?? "") + 1];
      expect(await verify(sameBytes)).toEqual(refusedFor("malformed"));
    });

    test("whatever it is, without throwing", async () => {
      const part = fc.oneof(
        fc.base64String(),
        fc.string(),
        fc.json().map(encode),
        fc.constantFrom(header, payload),
      );
      const token = fc.oneof(
        fc.string({ unit: "binary" }),
        fc.array(part, { maxLength: 4 }).map((p) => p.join(".")),
      );
      await fc.assert(
        fc.asyncProperty(token, async (text) => {
          expect((await verify(text)).ok).toBe(false);
        }),
        { numRuns: 500 },
      );
    });
  });
});
