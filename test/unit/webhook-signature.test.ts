import { createHmac } from "node:crypto";
import fc from "fast-check";
import { Webhook } from "standardwebhooks";
import { describe, expect, test } from "vitest";
import {
  isMalformedWebhookSecret,
  type StandardWebhookHeaders,
  signStandardWebhook,
  verifyElevenLabsSignature,
  verifyStandardWebhook,
} from "../../lib/auth/webhook-signature.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
/** Ill-formed as UTF-8: a lone continuation byte, 0xff, a NUL and a truncated sequence. */
const NOT_UTF8 = Uint8Array.of(0x7b, 0x80, 0xff, 0x00, 0xe2, 0x82, 0x7d);

describe("a Standard Webhook", () => {
  // The known answer of the official libraries' own tests (libraries/go/webhook_test.go, TestWebhookSign).
  const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
  const ID = "msg_p5jXN8AQM9LWM0D4loKWxJek";
  const TIMESTAMP = 1614265330;
  const BODY = '{"test": 2432232314}';
  const SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
  const KEY = Buffer.from("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "base64");

  type Overrides = {
    body?: Uint8Array;
    headers?: Partial<StandardWebhookHeaders>;
    secrets?: string[];
    now?: number;
  };

  function verify({
    body = bytes(BODY),
    headers,
    secrets = [SECRET],
    now = TIMESTAMP * 1000,
  }: Overrides = {}) {
    const known = { id: ID, timestamp: String(TIMESTAMP), signature: SIGNATURE };
    return verifyStandardWebhook({ body, headers: { ...known, ...headers }, secrets, now });
  }

  function sign(key: Buffer | string, body: Uint8Array | string = BODY, id = ID): string {
    const code = createHmac("sha256", key).update(`${id}.${TIMESTAMP}.`).update(body).digest("base64");
    return `v1,${code}`;
  }

  const accepted = { ok: true };
  const refusedFor = (reason: string) => ({ ok: false, reason });

  test("is accepted by the specification's vector", async () => {
    expect(await verify()).toEqual(accepted);
  });

  test.each([
    ["id", "missing_id"],
    ["timestamp", "missing_timestamp"],
    ["signature", "missing_signature"],
  ])("without its %s is refused", async (name, reason) => {
    for (const absent of [null, undefined, ""]) {
      expect(await verify({ headers: { [name]: absent } })).toEqual(refusedFor(reason));
    }
  });

  test("with another body is refused", async () => {
    expect(await verify({ body: bytes(`${BODY} `) })).toEqual(refusedFor("wrong_signature"));
    expect(await verify({ body: bytes("") })).toEqual(refusedFor("wrong_signature"));
  });

  test("with another id is refused", async () => {
    expect(await verify({ headers: { id: "msg_other" } })).toEqual(refusedFor("wrong_signature"));
  });

  test("with another timestamp is refused", async () => {
    expect(await verify({ headers: { timestamp: String(TIMESTAMP + 1) } })).toEqual(
      refusedFor("wrong_signature"),
    );
  });

  test("is accepted to the last second of five minutes either way, and not one later", async () => {
    expect(await verify({ now: (TIMESTAMP + 300) * 1000 })).toEqual(accepted);
    expect(await verify({ now: (TIMESTAMP + 300) * 1000 + 999 })).toEqual(accepted);
    expect(await verify({ now: (TIMESTAMP + 301) * 1000 })).toEqual(refusedFor("too_old"));
    expect(await verify({ now: (TIMESTAMP - 300) * 1000 })).toEqual(accepted);
    expect(await verify({ now: (TIMESTAMP - 301) * 1000 })).toEqual(refusedFor("too_new"));
  });

  test.each([
    `${TIMESTAMP}junk`,
    `${TIMESTAMP}.5`,
    `${TIMESTAMP} `,
    ` ${TIMESTAMP}`,
    `${TIMESTAMP}, ${TIMESTAMP}`,
    `0${TIMESTAMP}`,
    `+${TIMESTAMP}`,
    `-${TIMESTAMP}`,
    "1.614265330e9",
    "0x6037BA72",
    "NaN",
    "Infinity",
    "١٦١٤٢٦٥٣٣٠",
    "1".repeat(10_000),
  ])("with the timestamp %j is refused", async (timestamp) => {
    expect(await verify({ headers: { timestamp } })).toEqual(refusedFor("malformed_timestamp"));
  });

  test.each([
    ["truncated", SIGNATURE.slice(0, -2)],
    ["without padding", SIGNATURE.slice(0, -1)],
    ["with junk behind it", `${SIGNATURE}A`],
    ["with unused bits set", SIGNATURE.replace("OE=", "OF=")],
    ["empty", "v1,"],
    ["without a version", SIGNATURE.slice(3)],
    ["in hexadecimal", `v1,${"ab".repeat(32)}`],
    ["with a third part", `${SIGNATURE},x`],
    ["joined from two headers", `${SIGNATURE}, ${SIGNATURE}`],
    ["with a line break", `${SIGNATURE}\n`],
  ])("with a signature %s is refused", async (_, signature) => {
    expect(await verify({ headers: { signature } })).toEqual(refusedFor("malformed_signature"));
  });

  test("whose signature differs in one bit is refused", async () => {
    const signature = SIGNATURE.replace("g0h", "h0h");

    expect(await verify({ headers: { signature } })).toEqual(refusedFor("wrong_signature"));
  });

  test("with a signature header of 10 kB is refused", async () => {
    const signature = Array.from({ length: 220 }, () => SIGNATURE).join(" ");

    expect(signature.length).toBeGreaterThan(10_000);
    expect(await verify({ headers: { signature } })).toEqual(refusedFor("header_too_long"));
  });

  test("is accepted when something that is no signature stands beside a right one", async () => {
    expect(await verify({ headers: { signature: `v1,garbage x  ${SIGNATURE}` } })).toEqual({ ok: true });
  });

  test("is accepted when one of several signatures is right, and other versions are passed over", async () => {
    const wrong = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=";
    const asymmetric =
      "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

    expect(await verify({ headers: { signature: `${wrong} ${asymmetric} ${SIGNATURE}` } })).toEqual(accepted);
    expect(await verify({ headers: { signature: `${SIGNATURE} ${wrong}` } })).toEqual(accepted);
    expect(await verify({ headers: { signature: `${wrong} ${asymmetric}` } })).toEqual(
      refusedFor("wrong_signature"),
    );
  });

  test("signed with a known version's code under an unknown version is refused", async () => {
    for (const version of ["v2", "V1", "v1a", "v0"]) {
      const signature = SIGNATURE.replace("v1", version);
      expect(await verify({ headers: { signature } })).toEqual(refusedFor("wrong_signature"));
    }
  });

  test.each(["a b", "a,b", "msg_1, msg_1", "é", "a\n", "a".repeat(257)])(
    "with the id %j is refused",
    async (id) => {
      expect(await verify({ headers: { id, signature: sign(KEY, BODY, id) } })).toEqual(
        refusedFor("malformed_id"),
      );
    },
  );

  test.each(["task.42", "evt.1764000000", `msg.${TIMESTAMP}`, "a..b."])(
    "may have dots in its id: %s",
    async (id) => {
      expect(await verify({ headers: { id, signature: sign(KEY, BODY, id) } })).toEqual(accepted);
    },
  );

  test("reads in one way only: however its dots are moved, no other object comes out", async () => {
    const body = `{"output":"x.${TIMESTAMP + 60}.{}"}`;
    const signed = `${ID}.${TIMESTAMP}.${body}`;
    const signature = sign(KEY, body);
    const dots = [...signed.matchAll(/\./g)].map(({ index }) => index);
    const accepted: string[] = [];
    for (const first of dots) {
      for (const second of dots.filter((dot) => dot > first)) {
        const [id, timestamp] = [signed.slice(0, first), signed.slice(first + 1, second)];
        const rest = signed.slice(second + 1);
        const { ok } = await verify({ headers: { id, timestamp, signature }, body: bytes(rest) });
        if (ok) accepted.push(rest);
      }
    }
    expect(accepted).toEqual([body]);
  });

  test("is verified on its bytes, UTF-8 or not", async () => {
    const signature = sign(KEY, NOT_UTF8);
    const replaced = bytes(new TextDecoder().decode(NOT_UTF8));

    expect(await verify({ headers: { signature }, body: NOT_UTF8 })).toEqual(accepted);
    expect(await verify({ headers: { signature }, body: replaced })).toEqual(refusedFor("wrong_signature"));
  });

  test("is verified on the part of a buffer that it was given", async () => {
    const padded = bytes(`###${BODY}###`);

    expect(await verify({ body: padded.subarray(3, -3) })).toEqual(accepted);
  });

  test("may have an empty body", async () => {
    expect(await verify({ headers: { signature: sign(KEY, "") }, body: new Uint8Array() })).toEqual(accepted);
  });

  test("signed with the old secret is accepted while it is listed and refused once it is not", async () => {
    const renewed = `whsec_${Buffer.alloc(32, 7).toString("base64")}`;

    expect(await verify({ secrets: [renewed, SECRET] })).toEqual(accepted);
    expect(await verify({ secrets: [renewed] })).toEqual(refusedFor("wrong_signature"));
  });

  test("is refused when there is no secret that could open it", async () => {
    for (const secrets of [[], [""], ["whsec_"], ["whsec_not base64!"], ["whsec_A"]]) {
      expect(await verify({ secrets })).toEqual(refusedFor("no_secret"));
    }
  });

  describe("and its secret", () => {
    const longKey = Buffer.alloc(32, 0xfb);
    const base64 = longKey.toString("base64");

    test("behind whsec_ is base64, with or without padding", async () => {
      const headers = { signature: sign(longKey) };

      expect(await verify({ headers, secrets: [`whsec_${base64}`] })).toEqual(accepted);
      expect(await verify({ headers, secrets: [`whsec_${base64.replace("=", "")}`] })).toEqual(accepted);
    });

    test("behind whsec_ is never its own text", async () => {
      const secret = `whsec_${base64}`;

      for (const key of [secret, base64]) {
        expect(await verify({ headers: { signature: sign(key) }, secrets: [secret] })).toEqual(
          refusedFor("wrong_signature"),
        );
      }
    });

    test("without whsec_ is tried as base64, as the official libraries do", async () => {
      expect(await verify({ headers: { signature: sign(longKey) }, secrets: [base64] })).toEqual(accepted);
    });

    test("without whsec_ is tried as it is written, as senders with raw secrets do", async () => {
      for (const secret of ["correct horse battery staple", base64]) {
        expect(await verify({ headers: { signature: sign(secret) }, secrets: [secret] })).toEqual(accepted);
      }
    });

    test("without whsec_ is no base64 when that gives a key shorter than the specification allows", async () => {
      const signature = sign(Buffer.from("password", "base64"));

      expect(await verify({ headers: { signature }, secrets: ["password"] })).toEqual(
        refusedFor("wrong_signature"),
      );
    });

    test.each([
      ["whsec_", true],
      ["whsec_###", true],
      ["whsec_MfKQ 9r8G", true],
      ["whsec_MfKQ9r8GK", true],
      ["whsec_MfKQ9r8G=", true],
      ["whsec_MfK-9r8G", true],
      [`whsec_${Buffer.alloc(23).toString("base64")}`, true],
      [`whsec_${Buffer.alloc(24).toString("base64")}`, false],
      [`whsec_${Buffer.alloc(64).toString("base64")}`, false],
      [`whsec_${Buffer.alloc(65).toString("base64")}`, true],
      [SECRET, false],
      ["any other text", false],
    ])("%j is called malformed: %s", (secret, malformed) => {
      expect(isMalformedWebhookSecret(secret)).toBe(malformed);
    });
  });

  describe("of our own", () => {
    const key = fc
      .uint8Array({ minLength: 24, maxLength: 64 })
      .map((b) => `whsec_${Buffer.from(b).toString("base64")}`);
    const id = fc.stringMatching(/^[A-Za-z0-9_.:-]{1,64}$/);

    test("is signed as the specification's vector is", async () => {
      const message = { id: ID, timestampSeconds: TIMESTAMP, body: BODY, secret: SECRET };
      expect(await signStandardWebhook(message)).toEqual({
        "webhook-id": ID,
        "webhook-timestamp": String(TIMESTAMP),
        "webhook-signature": SIGNATURE,
      });
    });

    test("is accepted by our verification, and by the official library, whatever it says", async () => {
      await fc.assert(
        fc.asyncProperty(id, key, fc.json({ maxDepth: 2 }), async (id, secret, body) => {
          const now = Date.now();
          const timestampSeconds = Math.floor(now / 1000);
          const headers = await signStandardWebhook({ id, timestampSeconds, body, secret });
          const { "webhook-timestamp": timestamp, "webhook-signature": signature } = headers;
          const check = { body: bytes(body), headers: { id, timestamp, signature }, secrets: [secret], now };
          expect(await verifyStandardWebhook(check)).toEqual(accepted);
          expect(new Webhook(secret).verify(body, headers)).toEqual(JSON.parse(body));
        }),
        { numRuns: 200 },
      );
    });

    test.each([
      ["a secret without its prefix", { secret: SECRET.slice("whsec_".length) }],
      ["a secret that is no base64", { secret: "whsec_###" }],
      ["a key that is too short", { secret: `whsec_${Buffer.alloc(23).toString("base64")}` }],
      ["an id with a comma", { id: "msg,1" }],
      ["an id with a line break", { id: "msg\n1" }],
      ["no id", { id: "" }],
    ])("is not signed with %s", async (_what, change) => {
      const message = { id: ID, timestampSeconds: TIMESTAMP, body: BODY, secret: SECRET, ...change };
      await expect(signStandardWebhook(message)).rejects.toThrow(TypeError);
    });
  });

  test("of any headers is answered without throwing, and never accepted by chance", async () => {
    const text = fc.oneof(
      fc.string(),
      fc.string({ unit: "binary" }),
      fc.constantFrom(SIGNATURE, ID, "1614265330"),
    );
    await fc.assert(
      fc.asyncProperty(text, text, text, async (id, timestamp, signature) => {
        const check = await verify({ headers: { id, timestamp, signature } });
        const isTheVector = id === ID && timestamp === String(TIMESTAMP) && signature === SIGNATURE;
        expect(check.ok).toBe(isTheVector);
      }),
      { numRuns: 500 },
    );
  });
});

describe("an ElevenLabs signature", () => {
  // HMAC-SHA256 over "1600000000." and the body, worked out with openssl as well.
  const SECRET = "test_secret";
  const TIMESTAMP = 1600000000;
  const BODY = '{"event_type": "speech.completed", "id": "123456"}';
  const CODE = "f8a0d1dc33ee963cb54d2f31514555995e93313c9d2042c030adbb82b87fae13";
  const HEADER = `t=${TIMESTAMP},v0=${CODE}`;

  type Overrides = { body?: Uint8Array; header?: string | null; secrets?: string[]; now?: number };

  function verify({
    body = bytes(BODY),
    header = HEADER,
    secrets = [SECRET],
    now = TIMESTAMP * 1000,
  }: Overrides = {}) {
    return verifyElevenLabsSignature({ body, header, secrets, now });
  }

  const accepted = { ok: true };
  const refusedFor = (reason: string) => ({ ok: false, reason });

  test("is accepted by the known vector", async () => {
    expect(await verify()).toEqual(accepted);
  });

  test("is refused when it is missing", async () => {
    expect(await verify({ header: null })).toEqual(refusedFor("missing_signature"));
    expect(await verify({ header: "" })).toEqual(refusedFor("missing_signature"));
    expect(await verify({ header: `t=${TIMESTAMP}` })).toEqual(refusedFor("missing_signature"));
    expect(await verify({ header: `v0=${CODE}` })).toEqual(refusedFor("missing_timestamp"));
  });

  test("is refused over another body or another timestamp", async () => {
    expect(await verify({ body: bytes(`${BODY}\n`) })).toEqual(refusedFor("wrong_signature"));
    expect(await verify({ header: `t=${TIMESTAMP + 1},v0=${CODE}` })).toEqual(refusedFor("wrong_signature"));
  });

  test("is accepted from 30 minutes behind to five minutes ahead, and not a second beyond", async () => {
    expect(await verify({ now: (TIMESTAMP + 1800) * 1000 })).toEqual(accepted);
    expect(await verify({ now: (TIMESTAMP + 1801) * 1000 })).toEqual(refusedFor("too_old"));
    expect(await verify({ now: (TIMESTAMP - 300) * 1000 })).toEqual(accepted);
    expect(await verify({ now: (TIMESTAMP - 301) * 1000 })).toEqual(refusedFor("too_new"));
  });

  test.each([
    [`t=${TIMESTAMP}junk,v0=${CODE}`, "malformed_timestamp"],
    [`t=0${TIMESTAMP},v0=${CODE}`, "malformed_timestamp"],
    [`t=${TIMESTAMP},t=${TIMESTAMP},v0=${CODE}`, "malformed_timestamp"],
    [`t=-${TIMESTAMP},v0=${CODE}`, "malformed_timestamp"],
    [`t=${TIMESTAMP},v0=${CODE.slice(0, -1)}`, "malformed_signature"],
    [`t=${TIMESTAMP},v0=${CODE.slice(0, -2)}`, "malformed_signature"],
    [`t=${TIMESTAMP},v0=${CODE}00`, "malformed_signature"],
    [`t=${TIMESTAMP},v0=${CODE.toUpperCase()}`, "malformed_signature"],
    [`t=${TIMESTAMP},v0=`, "malformed_signature"],
    [`t=${TIMESTAMP},v0=${CODE},`, "malformed_signature"],
    [`t=${TIMESTAMP}, v0=${CODE}`, "malformed_signature"],
    [`${HEADER}, ${HEADER}`, "malformed_signature"],
    [`t=${TIMESTAMP};v0=${CODE}`, "malformed_signature"],
    [`t = ${TIMESTAMP},v0=${CODE}`, "malformed_signature"],
    [`T=${TIMESTAMP},V0=${CODE}`, "malformed_signature"],
    [CODE, "malformed_signature"],
    [`t=${TIMESTAMP},v1=${CODE}`, "missing_signature"],
    [`${HEADER}${`,v0=${CODE}`.repeat(150)}`, "header_too_long"],
  ])("is refused as %s", async (header, reason) => {
    expect(await verify({ header })).toEqual(refusedFor(reason));
  });

  test("is accepted when one of several is right, in any order and among other fields", async () => {
    const wrong = "0".repeat(64);

    expect(await verify({ header: `t=${TIMESTAMP},v0=${wrong},v0=${CODE}` })).toEqual(accepted);
    expect(await verify({ header: `v0=${CODE},v1=abc,t=${TIMESTAMP}` })).toEqual(accepted);
    expect(await verify({ header: `t=${TIMESTAMP},v0=${wrong},v0=${wrong}` })).toEqual(
      refusedFor("wrong_signature"),
    );
  });

  test("with the old secret is accepted while it is listed and refused once it is not", async () => {
    expect(await verify({ secrets: ["renewed", SECRET] })).toEqual(accepted);
    expect(await verify({ secrets: ["renewed"] })).toEqual(refusedFor("wrong_signature"));
    expect(await verify({ secrets: [] })).toEqual(refusedFor("no_secret"));
    expect(await verify({ secrets: [""] })).toEqual(refusedFor("no_secret"));
  });

  test("takes a secret as it is written, whsec_ included", async () => {
    const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const code = createHmac("sha256", secret).update(`${TIMESTAMP}.${BODY}`).digest("hex");

    expect(await verify({ header: `t=${TIMESTAMP},v0=${code}`, secrets: [secret] })).toEqual(accepted);
  });

  test("is verified on the bytes of the body, UTF-8 or not", async () => {
    const code = createHmac("sha256", SECRET).update(`${TIMESTAMP}.`).update(NOT_UTF8).digest("hex");

    expect(await verify({ header: `t=${TIMESTAMP},v0=${code}`, body: NOT_UTF8 })).toEqual(accepted);
  });

  test("of any text is answered without throwing", async () => {
    const field = fc.constantFrom("t=", "v0=", ",", CODE, String(TIMESTAMP), " ", "=", "v1=x");
    const header = fc.oneof(
      fc.string(),
      fc.array(field).map((fields) => fields.join("")),
    );
    await fc.assert(
      fc.asyncProperty(header, async (text) => {
        await verify({ header: text });
      }),
    );
  });
});
