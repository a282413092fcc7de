import fc from "fast-check";
import * as v from "valibot";
import { describe, expect, test } from "vitest";
import { isJsonObject, jsonNumber, parseExactly, parseJsonObject, stringifyJson } from "../../lib/json.ts";

const rewritten = (text: string) => stringifyJson(parseExactly(text));

/** The number that a JSON number stands for, in one form. */
function decimalOf(source: string): string {
  const [, sign, whole = "", fraction = "", exponent = "0"] =
    /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(source) ?? [];
  let digits = BigInt(whole + fraction);
  let power = Number(exponent) - fraction.length;
  if (digits === 0n) return "0";
  for (; digits % 10n === 0n; power++) digits /= 10n;
  return `${sign}${digits}e${power}`;
}

describe("a number", () => {
  test.each([
    "1e20",
    "1E20",
    "-1e5",
    "1e400",
    "1e-400",
    "12345678901234567890",
    "12345678.1234567891",
    "0.10000000000000000001",
    "-0",
  ])("keeps the text that was sent: %s", (text) => {
    expect(rewritten(text)).toBe(text);
    expect(rewritten(`{"a":[${text},1]}`)).toBe(`{"a":[${text},1]}`);
    expect(rewritten(`{ "a": ${text}\n, "b" : [ ${text} ] }`)).toBe(`{"a":${text},"b":[${text}]}`);
  });

  test.each([
    ["1.0", "1"],
    ["1e0", "1"],
    ["100e-2", "1"],
    ["1.50e1", "15"],
  ])("may become shorter: %s", (text, shorter) => {
    expect(rewritten(text)).toBe(shorter);
  });

  test("of any form stays the same number and never grows", () => {
    const digits = fc.array(fc.constantFrom(..."0123456789"), { minLength: 1, maxLength: 25 });
    const number = fc
      .tuple(
        fc.constantFrom("", "-"),
        digits.map((all) => all.join("").replace(/^0+(?=\d)/, "")),
        fc.option(digits.map((all) => `.${all.join("")}`)),
        fc.option(fc.tuple(fc.constantFrom("e", "E", "e+", "e-", "E-"), fc.integer({ min: 0, max: 420 }))),
      )
      .map(
        ([sign, whole, fraction, exponent]) => sign + whole + (fraction ?? "") + (exponent ?? []).join(""),
      );
    fc.assert(
      fc.property(number, (text) => {
        const written = rewritten(text);
        expect(written.length).toBeLessThanOrEqual(text.length);
        expect(decimalOf(written)).toBe(decimalOf(text));
        expect(rewritten(written)).toBe(written);
      }),
      { numRuns: 5_000 },
    );
  });
});

test("any JSON value comes back as it was, and a text that is written again does not grow", () => {
  fc.assert(
    fc.property(fc.json(), (text) => {
      expect(JSON.parse(rewritten(text))).toStrictEqual(JSON.parse(text));
      expect(rewritten(text).length).toBeLessThanOrEqual(text.length);
    }),
    { numRuns: 1_000 },
  );
});

test.each(["{", "", "1e", "01", "[1,]", "'a'"])("what is not JSON is refused: %j", (text) => {
  expect(() => parseExactly(text)).toThrow(SyntaxError);
});

describe("a body", () => {
  test.each(["", " ", "[]", "7", "1e20", "12345678901234567890", "null", '"{}"', "{", '{"a":}'])(
    "that is no object is refused: %j",
    (text) => {
      expect(() => parseJsonObject(text)).toThrow(expect.objectContaining({ code: "invalid_request" }));
    },
  );

  // A number whose text is kept is an object to JavaScript, but none in the body.
  test.each(["1", "1e20", '""', "[]"])(
    "may be nested 100 levels deep, and no deeper, around %s",
    (innermost) => {
      const nested = (levels: number) => `${'{"a":'.repeat(levels)}${innermost}${"}".repeat(levels)}`;
      const own = innermost === "[]" ? 1 : 0;
      expect(stringifyJson(parseJsonObject(nested(100 - own)))).toBe(nested(100 - own));
      expect(() => parseJsonObject(nested(101 - own))).toThrow(/nested deeper/);
    },
  );

  test("has keys that are data", () => {
    const text = '{"__proto__":{"admin":true},"constructor":{"prototype":1}}';
    const body = parseJsonObject(text);
    expect(stringifyJson(body)).toBe(text);
    expect(Object.getPrototypeOf(body)).toBe(Object.prototype);
  });
});

test("a number that keeps its text is no object", () => {
  expect(isJsonObject(parseExactly("1e20"))).toBe(false);
});

describe("where a number is asked for", () => {
  const schema = jsonNumber("must be a number");
  test.each([
    ["1", 1],
    ["1e5", 100_000],
    ["1e20", 1e20],
    ["-0.5", -0.5],
    ["100000000000000000000", 1e20],
  ])("%s is one", (text, number) => {
    expect(v.parse(schema, parseExactly(text))).toBe(number);
  });

  test.each(["1e400", "1e-400", "12345678901234567890", '"1"', "null", "{}", '{"rawJSON":"1"}'])(
    "%s is none that a double carries",
    (text) => {
      expect(v.safeParse(schema, parseExactly(text)).issues).toMatchObject([{ message: "must be a number" }]);
    },
  );
});
