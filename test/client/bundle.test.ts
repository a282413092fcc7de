/** What ships: the built files, their size, and their types in the hands of a page that uses them. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";

const LIMIT_BYTES = 4 * 1024;
const ROOT = resolve(import.meta.dirname, "../..");
const BUILT = join(ROOT, "dist/client");

beforeAll(() => {
  const build = spawnSync("npm", ["run", "build:client"], { cwd: ROOT, encoding: "utf8" });
  expect(build.status, `${build.stdout}${build.stderr}`).toBe(0);
}, 60_000);

/** A file and those that it imports, comments about source maps included. */
function withImports(file: string): string[] {
  const code = readFileSync(join(BUILT, file), "utf8");
  const imports = [...code.matchAll(/from"\.\/([^"]+)"/g)].flatMap(([, name]) => withImports(name ?? ""));
  return [code, ...imports];
}

const gzipBytes = (file: string): number =>
  withImports(file).reduce((sum, code) => sum + gzipSync(code, { level: 9 }).length, 0);

test("the client is at most 4 KiB, and so is the hook with it", () => {
  console.info(`client ${gzipBytes("index.js")} bytes gzip, with the hook ${gzipBytes("react.js")}`);
  expect(gzipBytes("index.js")).toBeGreaterThan(1_000);
  expect(gzipBytes("index.js")).toBeLessThanOrEqual(LIMIT_BYTES);
  expect(gzipBytes("react.js")).toBeLessThanOrEqual(LIMIT_BYTES);
});

test("nothing is imported but React, by the hook", () => {
  const imported = (file: string) =>
    withImports(file).flatMap((code) => [...code.matchAll(/from"([^."][^"]*)"/g)].map(([, name]) => name));
  expect([imported("index.js"), imported("react.js")]).toEqual([[], ["react"]]);
});

test("it may be imported where there is no window, and does nothing until it is attached", async () => {
  const { createAgentSession } = await import(join(BUILT, "index.js"));
  const session = createAgentSession({ baseUrl: "https://edge.example", conversationId: "c1", token: "t" });
  expect(session.status).toBe("idle");
  expect(Object.keys(session).toSorted()).toEqual(["attach", "callbacks", "close", "proxyUrl", "status"]);
  session.close();
});

const directory = mkdtempSync(join(tmpdir(), "edge-agent-sessions-page-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

test("its types are found by the package's name, without leave to import .ts files", () => {
  mkdirSync(join(directory, "node_modules"));
  symlinkSync(ROOT, join(directory, "node_modules/edge-agent-sessions"));
  writeFileSync(
    join(directory, "page.ts"),
    `import { createAgentSession, type Push } from "edge-agent-sessions/client";
     import { useAgentSession } from "edge-agent-sessions/client/react";
     const told: Push[] = [];
     const session = createAgentSession({ baseUrl: "", conversationId: "c", token: "t", onPush: (push) => told.push(push) });
     export const ids: string[] = told.flatMap((push) => push.requestIds);
     export const status: "idle" | "connecting" | "live" | "reconnecting" | "replaced" | "closed" = session.status;
     export const hook: typeof useAgentSession = useAgentSession;
     // @ts-expect-error a token or getToken, not neither
     createAgentSession({ baseUrl: "", conversationId: "c" });
    `,
  );
  writeFileSync(
    join(directory, "tsconfig.json"),
    JSON.stringify({
      compilerOptions: {
        strict: true,
        noEmit: true,
        target: "ES2022",
        lib: ["ES2022", "DOM"],
        module: "ESNext",
        moduleResolution: "Bundler",
        types: [],
      },
      files: ["page.ts"],
    }),
  );
  const check = spawnSync(join(ROOT, "node_modules/.bin/tsc"), ["-p", directory], { encoding: "utf8" });
  expect(check.stdout).toBe("");
  expect(check.status).toBe(0);
});

test("the package's exports lead to files that are there", () => {
  const { exports } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
  for (const { types, default: code } of Object.values<{ types: string; default: string }>(exports)) {
    expect(readFileSync(join(ROOT, types), "utf8")).toContain("export");
    expect(readFileSync(join(ROOT, code), "utf8")).toContain("export");
  }
});
