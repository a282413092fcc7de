/** What holds every answer against the document would notice one that is not as it says. */
import { describe, expect, test } from "vitest";
import { type Exchange, requireContract } from "../support/contract.ts";

const HEADERS = { "x-request-id": "r", "cache-control": "no-store", "content-type": "application/json" };
const TOUCHED: Exchange = {
  method: "POST",
  path: "/state/api/c1/touch",
  status: 200,
  headers: new Headers(HEADERS),
  text: '{"success":true,"ttl":3600}',
};
const problem = (status: number, code: string, headers: Record<string, string> = {}): Partial<Exchange> => ({
  status,
  headers: new Headers({ ...HEADERS, "content-type": "application/problem+json", ...headers }),
  text: JSON.stringify({
    type: "about:blank",
    title: "T",
    status,
    detail: "D",
    code,
    requestId: "r",
    success: false,
  }),
});
const check = (changes: Partial<Exchange>) => () => requireContract({ ...TOUCHED, ...changes });

test("an answer as it is described passes", () => {
  expect(check({})).not.toThrow();
  expect(check({ method: "HEAD", path: "/health", text: null })).not.toThrow();
  expect(check(problem(404, "state_not_found"))).not.toThrow();
  expect(check({ path: "/nowhere", ...problem(404, "not_found") })).not.toThrow();
});

describe("noticed is", () => {
  test.each<[string, Partial<Exchange>, string]>([
    ["a route that is not described", { path: "/state/api/c1/grow" }, "are described"],
    ["a method that is not described", { method: "PUT" }, "are described"],
    ["a status that is not described", { status: 201 }, "the status"],
    ["a code that is not described", problem(404, "memory_not_found"), "body/code"],
    ["a code that nobody knows", problem(500, "oops"), "body/code"],
    ["a field that is not described", { text: '{"success":true,"ttl":1,"left":2}' }, "additional"],
    ["a field that is missing", { text: '{"success":true}' }, "'ttl'"],
    ["a field of another type", { text: '{"success":true,"ttl":"1"}' }, "body/ttl"],
    ["a body that is no JSON", { text: "<html>" }, "not JSON"],
    [
      "another content type",
      { headers: new Headers({ ...HEADERS, "content-type": "text/plain" }) },
      "text/plain",
    ],
    [
      "a header that is not described",
      { headers: new Headers({ ...HEADERS, "x-powered-by": "x" }) },
      "x-powered-by",
    ],
    ["no x-request-id", { headers: new Headers({ ...HEADERS, "x-request-id": "" }) }, "x-request-id"],
    ["no retry-after with 429", problem(429, "rate_limited"), "retry-after"],
    ["no retry-after with storage_unavailable", problem(503, "storage_unavailable"), "retry-after"],
    ["no allow with 405", { method: "PUT", ...problem(405, "method_not_allowed") }, "allow"],
    [
      "a request that was taken though it is described otherwise",
      { method: "PUT", path: "/state/api/c1", sent: 7, text: "{}" },
      "the request was taken",
    ],
  ])("%s", (_what, changes, said) => {
    expect(check(changes)).toThrow(said);
  });
});
