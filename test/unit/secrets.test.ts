import fc from "fast-check";
import { describe, expect, test } from "vitest";
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
