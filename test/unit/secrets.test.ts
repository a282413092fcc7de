import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { soundSecrets } from "../../lib/auth/secret-rules.ts";
import { isEqualDigest, matchesAnySecret, parseSecretList } from "../../lib/auth/secrets.ts";

describe("a list of secrets", () => {
  test.each([
    ["", []],
    [" , ,", []],
    ["one", ["one"]],
    [" new , old ", ["new", "old"]],
    ["a,a,b", ["a", "b"]],
    ["whsec_a+/b==,x y", ["whsec_a+/b==", "x y"]],
  ])("is read from %j", (text, secrets) => {
    expect(parseSecretList(text)).toEqual(secrets);
  });
});

describe("a candidate", () => {
  test("matches whichever entry it is, so that secrets can be rotated", async () => {
    expect(await matchesAnySecret("new", ["new", "old"])).toBe(true);
    expect(await matchesAnySecret("old", ["new", "old"])).toBe(true);
    expect(await matchesAnySecret("older", ["new", "old"])).toBe(false);
  });

  test.each([
    ["no secret is configured", "secret", []],
    ["it is empty", "", ["secret"]],
    ["both are empty", "", [""]],
    ["the only secret is empty", "secret", [""]],
    ["it is a prefix", "secre", ["secret"]],
    ["it is longer", "secrets", ["secret"]],
    ["its case differs", "Secret", ["secret"]],
    ["it is the whole list", "new,old", ["new", "old"]],
    ["it is the name of an inherited property", "constructor", ["secret"]],
  ])("is refused when %s", async (_, candidate, secrets) => {
    expect(await matchesAnySecret(candidate, secrets)).toBe(false);
  });

  test("of 4,096 characters is compared and a longer one is refused unread", async () => {
    const longest = "a".repeat(4096);

    expect(await matchesAnySecret(longest, [longest])).toBe(true);
    expect(await matchesAnySecret(`${longest}a`, [`${longest}a`])).toBe(false);
  });

  test("in another script matches itself", async () => {
    expect(await matchesAnySecret("пароль", ["пароль"])).toBe(true);
  });

  test("matches exactly when the list holds it", async () => {
    const secret = fc.string({ minLength: 1, maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(secret, fc.array(secret, { maxLength: 4 }), async (candidate, secrets) => {
        expect(await matchesAnySecret(candidate, secrets)).toBe(secrets.includes(candidate));
        expect(await matchesAnySecret(candidate, [...secrets, candidate])).toBe(true);
      }),
      { numRuns: 300 },
    );
  });
});

describe("two digests", () => {
  const digest = Uint8Array.from({ length: 32 }, (_, index) => index);

  test("are equal when every byte is", () => {
    expect(isEqualDigest(digest, digest.slice())).toBe(true);
  });

  test.each(Array.from(digest.keys()))("differ when byte %i does", (index) => {
    const other = digest.slice();
    other[index] = 255;

    expect(isEqualDigest(digest, other)).toBe(false);
  });

  test("differ when one is shorter or missing", () => {
    expect(isEqualDigest(digest, digest.subarray(0, 31))).toBe(false);
    expect(isEqualDigest(digest, undefined)).toBe(false);
    expect(isEqualDigest(undefined, undefined)).toBe(false);
  });

  test("are looked at to the last byte, wherever they differ", () => {
    const bytesRead = (differsAt: number) => {
      const other = digest.slice();
      other[differsAt] = 255;
      let reads = 0;
      const counting = new Proxy(other, {
        get(target, property) {
          if (typeof property === "string" && /^\d+$/.test(property)) reads += 1;
          return Reflect.get(target, property, target);
        },
      });
      isEqualDigest(digest, counting);
      return reads;
    };

    expect(bytesRead(0)).toBe(32);
    expect(bytesRead(31)).toBe(32);
  });
});

describe("a secret", () => {
  const NONE = { API_TOKEN: [], SESSION_TOKEN_SECRET: [], WEBHOOK_SECRET: [], SIGNING_SECRET: [] };
  const long = (letter: string) => letter.repeat(32);
  const key = (bytes: number) => `whsec_${Buffer.alloc(bytes, 7).toString("base64")}`;

  test.each<[string, Partial<typeof NONE> | Record<string, string[]>]>([
    [
      "of 32 characters",
      { API_TOKEN: [long("a")], SESSION_TOKEN_SECRET: [long("b")], WEBHOOK_SECRET: [long("c")] },
    ],
    ["that is a key of 24 bytes", { WEBHOOK_SECRET: [key(24)] }],
    ["that is a key of 64 bytes", { WEBHOOK_SECRET: [key(64)] }],
    ["that signs and is a key", { SIGNING_SECRET: [key(24), key(64)] }],
    ["beside others in its list", { API_TOKEN: [long("a"), long("b")] }],
  ])("%s is sound", (_name, own) => {
    const lists = { ...NONE, ...own };
    expect(soundSecrets(lists, [])).toEqual({ sound: lists, problems: [] });
  });

  test.each<[string, string, string[], RegExp]>([
    ["of one character", "API_TOKEN", ["a"], /^entry 1: must have at least 32 characters$/],
    ["of 31 characters", "SESSION_TOKEN_SECRET", ["x".repeat(31)], /at least 32 characters/],
    ["of 31 characters, behind a good one", "WEBHOOK_SECRET", [long("a"), "x".repeat(31)], /^entry 2: /],
    ["that is a key of 23 bytes", "WEBHOOK_SECRET", [key(23)], /24 to 64 bytes/],
    ["that is a key of 65 bytes", "WEBHOOK_SECRET", [key(65)], /24 to 64 bytes/],
    [
      "that signs and is no key",
      "SIGNING_SECRET",
      [long("a")],
      /^entry 1: must be whsec_ and the base64 of 24/,
    ],
    [
      "that signs and is a key of 23 bytes",
      "SIGNING_SECRET",
      [key(24), key(23)],
      /^entry 2: .*24 to 64 bytes/,
    ],
    ["that is no base64", "WEBHOOK_SECRET", [`whsec_${"!".repeat(32)}`], /24 to 64 bytes/],
    [
      "that stands in a specification",
      "WEBHOOK_SECRET",
      ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
      /published/,
    ],
  ])("%s opens nothing", (_name, variable, secrets, message) => {
    const { sound, problems } = soundSecrets({ ...NONE, [variable]: secrets }, []);
    expect(problems).toEqual([{ path: variable, message: expect.stringMatching(message) }]);
    expect(Object.values(sound).flat()).toEqual(secrets.slice(0, -1));
  });

  test("for two purposes serves neither, however its key is written", () => {
    const bare = key(32).slice("whsec_".length);
    for (const lists of [
      { ...NONE, API_TOKEN: [long("a")], WEBHOOK_SECRET: [long("a")] },
      { ...NONE, SESSION_TOKEN_SECRET: [bare], WEBHOOK_SECRET: [key(32)] },
      { ...NONE, WEBHOOK_SECRET: [key(32)], SIGNING_SECRET: [key(32)] },
    ]) {
      const { sound, problems } = soundSecrets(lists, []);
      expect(Object.values(sound).flat()).toEqual([]);
      expect(problems).toHaveLength(2);
    }
    expect(soundSecrets({ ...NONE, API_TOKEN: [long("a")] }, [long("a")]).sound.API_TOKEN).toEqual([]);
  });
});
