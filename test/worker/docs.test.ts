/** `/openapi.json` and `/docs`, as the Worker serves them. */
import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startWorker, type TestWorker } from "../support/worker.ts";

let worker: TestWorker;
beforeAll(async () => {
  worker = await startWorker();
});
afterAll(() => worker.close());

test("the document names every route and every code", async () => {
  const response = await worker.fetch("/openapi.json");
  expect(response.headers.get("content-type")).toBe("application/json");
  const document = (await response.json()) as { openapi: string; paths: object };
  expect(document.openapi).toBe("3.1.1");
  expect(Object.keys(document.paths)).toContain("/agent-conversations/api/{id}/session");
});

describe("the page", () => {
  let html: string;
  let policy: string;
  beforeAll(async () => {
    const response = await worker.fetch("/docs");
    expect(response.headers.get("content-type")).toMatch(/^text\/html/);
    policy = response.headers.get("content-security-policy") ?? "";
    html = await response.text();
  });

  test("may load nothing, run nothing, and be framed by nobody", () => {
    const style = /<style>([\s\S]*?)<\/style>/.exec(html)?.[1] ?? "";
    const digest = createHash("sha256").update(style).digest("base64");
    expect(policy).toBe(
      `default-src 'none'; style-src 'sha256-${digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
    );
  });

  test("asks for nothing from elsewhere, or at all", () => {
    expect(html).not.toMatch(/<(?:script|link|img|iframe|object|embed|form|base|video|audio|svg)\b/i);
    expect(html).not.toMatch(/\s(?:src|srcset|style|on\w+)=/i);
    expect(html).not.toMatch(/url\(|@import/i);
    const targets = [...html.matchAll(/href="([^"]*)"/g)].map(([, target]) => target ?? "");
    expect(targets.filter((target) => !target.startsWith("#"))).toEqual(["/openapi.json"]);
  });

  test("leads nowhere that is not there", () => {
    const ids = new Set([...html.matchAll(/\sid="([^"]*)"/g)].map(([, id]) => id));
    const targets = [...html.matchAll(/href="#([^"]*)"/g)].map(([, target]) => target);
    expect(targets.filter((target) => !ids.has(target))).toEqual([]);
    expect(ids.size).toBeGreaterThan(50);
  });

  test("shows every route and every code", async () => {
    const { paths, components } = (await (await worker.fetch("/openapi.json")).json()) as {
      paths: Record<string, object>;
      components: { schemas: { ProblemCode: { oneOf: { const: string }[] } } };
    };
    for (const [path, methods] of Object.entries(paths)) {
      for (const method of Object.keys(methods)) expect(html).toContain(`${method.toUpperCase()} ${path}`);
    }
    for (const { const: code } of components.schemas.ProblemCode.oneOf) expect(html).toContain(code);
  });
});

test("both are open where everything else is closed", async () => {
  const closed = await startWorker({ STORAGE: "upstash", REQUIRE_AUTH: "true" });
  try {
    expect((await closed.fetch("/openapi.json")).status).toBe(200);
    expect((await closed.fetch("/docs")).status).toBe(200);
    expect((await closed.fetch("/config")).status).toBe(503);
  } finally {
    await closed.close();
  }
});
