/** What ships: the built files, their size, and their types in the hands of a program that uses them. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createProject, type Project } from "../support/package.ts";

let project: Project;
beforeAll(() => {
  project = createProject(["@types/node", "@upstash/redis", "lru-cache", "react", "undici-types", "valibot"]);
}, 60_000);
afterAll(() => project?.remove());

const read = (file: string) => readFileSync(join(project.directory, file), "utf8");

test("the package holds what is built, and says what it is; nothing of the service itself", () => {
  const files = readdirSync(project.directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ name, parentPath }) => join(parentPath, name).slice(project.directory.length + 1));
  const built = files.filter((file) => file.startsWith("dist/package/"));
  expect(files.filter((file) => !built.includes(file)).toSorted()).toEqual([
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "client/README.md",
    "package.json",
  ]);
  expect(built.filter((file) => !/\.(?:d\.ts|js|js\.map)$/.test(file))).toEqual([]);
});

test("its exports lead to files that are there", () => {
  const { exports } = JSON.parse(read("package.json"));
  const { "./package.json": _, ...entries } = exports;
  expect(Object.keys(entries)).toEqual([".", "./client", "./client/react"]);
  for (const { types, default: code } of Object.values<{ types: string; default: string }>(entries)) {
    expect(read(types)).toContain("export");
    expect(read(code)).toContain("export");
  }
});

test("it is of the version that the changelog begins with", () => {
  const { version } = JSON.parse(read("package.json"));
  expect(/^## \[([^\]]+)\]/m.exec(read("CHANGELOG.md"))?.[1]).toBe(version);
});

describe("a page's client", () => {
  const LIMIT_BYTES = 4 * 1024;

  /** A file and those that it imports, comments about source maps included. */
  function withImports(file: string): string[] {
    const code = read(join("dist/package/client", file));
    const imports = [...code.matchAll(/from"\.\/([^"]+)"/g)].flatMap(([, name]) => withImports(name ?? ""));
    return [code, ...imports];
  }

  const gzipBytes = (file: string): number =>
    withImports(file).reduce((sum, code) => sum + gzipSync(code, { level: 9 }).length, 0);

  test("is at most 4 KiB, and so is the hook with it", () => {
    console.info(`client ${gzipBytes("index.js")} bytes gzip, with the hook ${gzipBytes("react.js")}`);
    expect(gzipBytes("index.js")).toBeGreaterThan(1_000);
    expect(gzipBytes("index.js")).toBeLessThanOrEqual(LIMIT_BYTES);
    expect(gzipBytes("react.js")).toBeLessThanOrEqual(LIMIT_BYTES);
  });

  test("imports nothing but React, for the hook", () => {
    const imported = (file: string) =>
      withImports(file).flatMap((code) => [...code.matchAll(/from"([^."][^"]*)"/g)].map(([, name]) => name));
    expect([imported("index.js"), imported("react.js")]).toEqual([[], ["react"]]);
  });

  test("may be imported where there is no window, and does nothing until it is attached", async () => {
    const { createAgentSession } = await import(join(project.directory, "dist/package/client/index.js"));
    const session = createAgentSession({ baseUrl: "https://edge.example", conversationId: "c1", token: "t" });
    expect(session.status).toBe("idle");
    expect(Object.keys(session).toSorted()).toEqual(["attach", "callbacks", "close", "proxyUrl", "status"]);
    session.close();
  });
});

describe("its types", () => {
  const PROGRAMS = {
    "page.ts": `import { createAgentSession, type Push } from "edge-agent-sessions/client";
     import { useAgentSession } from "edge-agent-sessions/client/react";
     const told: Push[] = [];
     const session = createAgentSession({ baseUrl: "", conversationId: "c", token: "t", onPush: (push) => told.push(push) });
     export const ids: string[] = told.flatMap((push) => push.requestIds);
     export const status: "idle" | "connecting" | "live" | "reconnecting" | "replaced" | "closed" = session.status;
     export const hook: typeof useAgentSession = useAgentSession;
     // @ts-expect-error a token or getToken, not neither
     createAgentSession({ baseUrl: "", conversationId: "c" });
    `,
    "stores.ts": `import { createAssistantSessions, createMemoryStorage, createSessionStore, RedisConversationStore, type StateStore } from "edge-agent-sessions";
     const storage = createMemoryStorage();
     const states: StateStore = new RedisConversationStore({ storage, ttlSeconds: 60 });
     await states.set("c", { at: new Date() });
     const memory = await createAssistantSessions({ storage }).getSession("c");
     export const domain: "shopping" | "hotel" | "restaurants" | "flights" | "location" | "general" | undefined = memory?.domain;
     // @ts-expect-error a database or a storage, not neither
     createSessionStore({});
     // @ts-expect-error a memory is of a domain
     await createAssistantSessions({ storage }).saveSession("c", { city: undefined });
    `,
  };

  test.each([
    ["a bundler", { module: "ESNext", moduleResolution: "Bundler" }],
    ["Node", { module: "NodeNext" }],
  ])(
    "are found by the package's name as %s finds it, and hold what they say",
    (_, options) => {
      for (const [file, text] of Object.entries(PROGRAMS)) project.write(file, text);
      expect(project.compile(options)).toBe("");
    },
    60_000,
  );
});
