/** The files of the console, as the Worker serves them. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startWorker, type TestWorker } from "../support/worker.ts";

const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const FILES = [
  ["/console", "text/html"],
  ["/console/console.js", "text/javascript"],
  ["/console/console.css", "text/css"],
  ["/console/icon.svg", "image/svg+xml"],
] as const;

let worker: TestWorker;
beforeAll(async () => {
  worker = await startWorker({ STORAGE: "upstash", REQUIRE_AUTH: "true" });
});
afterAll(() => worker.close());

describe.each(FILES)("%s", (path, mediaType) => {
  test("is open where everything else is closed, and may load and run nothing but its own", async () => {
    const response = await worker.fetch(path);
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toMatch(new RegExp(`^${mediaType.replace("+", "\\+")}`));
    expect(Object.fromEntries(response.headers)).toMatchObject({
      "content-security-policy": POLICY,
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      "x-frame-options": "SAMEORIGIN",
      "cache-control": "no-cache",
    });
    expect((await response.text()).length).toBeGreaterThan(100);
  });

  test("is asked for again by its etag", async () => {
    const etag = (await worker.fetch(path)).headers.get("etag") ?? "";
    const again = await worker.fetch(path, { headers: { "if-none-match": etag } });
    expect([again.status, await again.text()]).toEqual([304, ""]);
    expect(again.headers.get("content-security-policy")).toBe(POLICY);
    const other = await worker.fetch(path, { headers: { "if-none-match": '"another"' } });
    expect(other.status).toBe(200);
  });
});

test("the page has no script, style or handler of its own", async () => {
  const html = await (await worker.fetch("/console")).text();
  expect(html).not.toMatch(/<style|\s(?:style|on\w+)=|javascript:/i);
  expect(html.match(/<script\b[^>]*>[^<]*<\/script>/g)).toEqual([
    '<script type="module" src="/console/console.js"></script>',
  ]);
});

test("there is nothing else to be had, and no file under a name of its own", async () => {
  const open = await startWorker();
  try {
    const elsewhere = ["nothing.js", "..%2fopenapi.json", "..%2f..%2fwrangler.toml", "api/nothing"];
    for (const path of ["/docs.html", "/console.html", ...elsewhere.map((name) => `/console/${name}`)]) {
      const response = await open.fetch(path);
      expect([path, response.status]).toEqual([path, 404]);
      expect(await response.json()).toMatchObject({ code: "not_found" });
    }
  } finally {
    await open.close();
  }
});

test("a Worker without files has no console and no document, and answers as at any other path", async () => {
  const bare = await startWorker(undefined, { hasAssets: false });
  try {
    for (const path of ["/console", "/console/console.js", "/openapi.json", "/docs"]) {
      const response = await bare.fetch(path);
      expect(response.status).toBe(404);
      expect(await response.json()).toMatchObject({ code: "not_found" });
    }
    expect((await bare.fetch("/health")).status).toBe(200);
  } finally {
    await bare.close();
  }
});

test("with authentication off it answers this machine under its own name only", async () => {
  const open = await startWorker();
  try {
    const response = await open.miniflare.dispatchFetch("http://console.example/console");
    expect(response.status).toBe(421);
    expect((await open.fetch("/console")).status).toBe(200);
  } finally {
    await open.close();
  }
});
