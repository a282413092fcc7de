/** The description of the API: that it is well formed, that nothing is missing in it, and that it is not laxer than the checks. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createConfig, lintFromString } from "@redocly/openapi-core";
import { Ajv2020 } from "ajv/dist/2020.js";
import fc from "fast-check";
import * as v from "valibot";
import { describe, expect, test } from "vitest";
import { ASSETS } from "../../console/assets.ts";
import { app } from "../../functions/app.ts";
import { STATUS_OF_CODE } from "../../functions/problem-codes.ts";
import { isNoResultId } from "../../lib/conversation-store.ts";
import { jsonNumber } from "../../lib/json.ts";
import { isAgentSessionId, isCallId, isConversationId, isRequestId } from "../../lib/keys.ts";
import { createDocument } from "../../openapi/document.ts";
import { ELSEWHERE } from "../../openapi/problems.ts";
import { schemaOf } from "../../openapi/schemas.ts";

const DOCUMENT = readFileSync(join(ASSETS, "openapi.json"), "utf8");
const document = createDocument();
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
);

test("what the Worker serves is the document", () => {
  expect(JSON.parse(DOCUMENT)).toEqual(JSON.parse(JSON.stringify(document)));
});

test("the linter has nothing to say", async () => {
  // What opens a WebSocket succeeds with 101, which the rule does not know; the next test does.
  const config = await createConfig({ extends: ["recommended"], rules: { "operation-2xx-response": "off" } });
  const problems = await lintFromString({ source: DOCUMENT, absoluteRef: "openapi.json", config });
  expect(problems.map(({ ruleId, message, location }) => [ruleId, message, location[0]?.pointer])).toEqual(
    [],
  );
});

test("every route can succeed", () => {
  const succeeds = ({ operation }: (typeof operations)[number]) =>
    Object.keys(operation.responses).some((status) => /^(?:2\d\d|101)$/.test(status));
  expect(operations.filter((one) => !succeeds(one))).toEqual([]);
});

test("every route of the app is described, and nothing else", () => {
  const routes = app.routes
    .filter(({ method }) => method !== "ALL")
    .map(({ method, path }) => `${method.toLowerCase()} ${path.replaceAll(/:(\w+)/g, "{$1}")}`);
  const described = operations.map(({ method, path }) => `${method} ${path}`);
  expect(described.sort()).toEqual([...new Set(routes)].sort());
});

test("every code of a problem is some route's, or is answered where there is none", () => {
  const codes = new Set<unknown>(ELSEWHERE);
  for (const found of JSON.stringify([document.paths, document.components.responses]).matchAll(
    /"code":\{"(?:const|enum)":(\[[^\]]*\]|"\w+")/g,
  )) {
    for (const code of [JSON.parse(found[1] ?? "[]")].flat()) codes.add(code);
  }
  expect([...codes].sort()).toEqual(Object.keys(STATUS_OF_CODE).sort());
});

describe("what has no counterpart in JSON Schema is an error", () => {
  test.each<[string, v.GenericSchema]>([
    [
      "a check",
      v.pipe(
        v.string(),
        v.check((text) => text !== "no"),
      ),
    ],
    [
      "a check deep inside",
      v.object({
        list: v.array(
          v.pipe(
            v.string(),
            v.check((text) => text !== "no"),
          ),
        ),
      }),
    ],
    ["a type of our own", v.custom<string>((value) => value === "yes")],
    ["a check behind a transformation", v.pipe(v.string(), v.transform(Number), v.integer())],
    ["a date", v.date()],
  ])("%s", (_what, schema) => {
    expect(() => schemaOf(schema)).toThrow(/cannot be converted|has no counterpart/);
  });

  test("but the bounds of a number that may be kept as its text are known", () => {
    expect(schemaOf(v.pipe(jsonNumber(""), v.minValue(1)))).toEqual({ type: "number", minimum: 1 });
  });
});

describe("a pattern says what its check says", () => {
  const text = fc.oneof(
    fc.string({ unit: fc.constantFrom(..."aZ9_.:-/ é"), maxLength: 160 }),
    fc.constantFrom(
      "new",
      "list",
      ".",
      "..",
      "callback:r1",
      "c".repeat(128),
      "c".repeat(129),
      `c1:${"x".repeat(22)}`,
    ),
  );
  test.each<[string, (text: string) => boolean]>([
    ["conversations", isConversationId],
    ["requests", isRequestId],
    ["agent conversations", isAgentSessionId],
    ["calls", isCallId],
    ["messages", isNoResultId],
  ])("of ids of %s", (_what, check) => {
    const described = new Ajv2020({ strict: false }).compile(schemaOf(v.pipe(v.string(), v.check(check))));
    fc.assert(fc.property(text, (id) => described(id) === check(id)));
  });
});
