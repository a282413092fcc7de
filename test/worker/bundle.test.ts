import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { expect, inject, test } from "vitest";

test("the Worker that is deployed is at most 150 KiB, compressed", () => {
  const bundle = readFileSync(join(inject("bundleDirectory"), "index.js"));
  expect(gzipSync(bundle).byteLength).toBeLessThanOrEqual(150 * 1024);
});
