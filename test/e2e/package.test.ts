/** What ships: the built files, their size, and their types in the hands of a program that uses them. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type FakeProvider, startFakeProvider } from "../../dev/fake-provider.ts";
import { type Gateway, startGateway } from "../../dev/gateway.ts";
import { createServerClient, type ServerClient } from "../../server/index.ts";
import { createProject, type Project, type Running } from "../support/package.ts";
import { startRedis } from "../support/redis.ts";
import { API_TOKEN, CLOSED_DOORS, SIGNING_SECRET } from "../support/secrets.ts";
import { LOCAL_BINDINGS, startWorker, type TestWorker } from "../support/worker.ts";

let project: Project;
beforeAll(() => {
  project = createProject([
    ...["@upstash/redis", "lru-cache", "valibot"],
    ...["@elevenlabs/client", "@types/node", "react"],
  ]);
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
  expect(Object.keys(entries)).toEqual([".", "./client", "./client/react", "./server"]);
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
    "server.ts": `import { createServerClient, ServerClientError, type ServerClient, type ServerErrorCode } from "edge-agent-sessions/server";
     const edge: ServerClient = createServerClient({ baseUrl: "https://edge.example" });
     const answer = await edge.callBack({ requestId: "r", conversationId: "c", output: { any: ["thing"] }, delivery: "silent" });
     export const reason: string | undefined = answer.status === "queued" ? answer.reason : undefined;
     export const text: string | undefined = (await edge.readConversation("c"))?.messages.at(-1)?.content;
     export const city: string | null | undefined = (await edge.readMemory("c"))?.city;
     export const code = (error: unknown): ServerErrorCode | null => error instanceof ServerClientError ? error.code : null;
     // @ts-expect-error no such delivery
     await edge.callBack({ requestId: "r", delivery: "loud" });
     // @ts-expect-error progress has a text
     await edge.reportProgress({ requestId: "r", progress: { seq: 1 } });
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

const redis = await startRedis({ covers: "the README's example of the stores" });
afterAll(() => redis?.stop());

describe("the examples of the README", () => {
  const examples = () => {
    const section =
      /^## Use it from code\n([\s\S]*?)^## /m.exec(readFileSync("README.md", "utf8"))?.[1] ?? "";
    return [...section.matchAll(/^```ts\n([\s\S]*?)^```/gm)].map(([, text = ""]) => text);
  };
  /** What a page does by itself: it is opened, and stays. */
  const PAGE_IS_OPENED = `import { join } from "./page.js";
    const { BASE_URL = "", CONVERSATION_ID = "", TOKEN = "", SIGNED_URL = "" } = process.env;
    await join(BASE_URL, CONVERSATION_ID, TOKEN, SIGNED_URL);
  `;

  let worker: TestWorker;
  let provider: FakeProvider;
  let gateway: Gateway | undefined;
  let edge: ServerClient;
  let running: Running | undefined;

  beforeAll(async () => {
    worker = await startWorker({ ...LOCAL_BINDINGS, ...CLOSED_DOORS });
    provider = await startFakeProvider({ log: () => {} });
    if (redis !== null) gateway = await startGateway({ redisUrl: redis.url, token: "gateway-token" });
    edge = createServerClient({
      baseUrl: worker.url.href,
      apiToken: API_TOKEN,
      webhookSecret: SIGNING_SECRET,
    });
  }, 60_000);
  afterAll(async () => {
    running?.stop();
    await worker.close();
    await provider.close();
    await gateway?.close();
  });

  test("compile in an empty project with strict settings", () => {
    const [page = "", server = "", binding = "", stores = "", ...others] = examples();
    expect(others).toEqual([]);
    const files = { page, server, binding, stores, opened: PAGE_IS_OPENED };
    for (const [name, text] of Object.entries(files)) project.write(`${name}.ts`, text);
    // Declarations of packages were checked above; those that the SDK brings with it do not stand that.
    expect(project.compile({ skipLibCheck: true })).toBe("");
  }, 60_000);

  test("run: a server begins a conversation and brings a result", async () => {
    const environment = { EDGE_URL: worker.url.href, API_TOKEN, WEBHOOK_SECRET: SIGNING_SECRET };
    expect(await project.start("server.js", environment).ended).toBe("true queued\n");
  });

  test("run: a page joins its agent, which is told the result", async () => {
    const { conversationId, token = "" } = await edge.createConversation();
    const signedUrl = new URL("/v1/convai/conversation?agent_id=demo", provider.url);
    running = project.start("opened.js", {
      BASE_URL: worker.url.href,
      CONVERSATION_ID: conversationId,
      TOKEN: token,
      SIGNED_URL: signedUrl.href.replace("http", "ws"),
    });
    await expect
      .poll(() => edge.readSession(conversationId), { timeout: 10_000 })
      .toMatchObject({ channel: "relay" });
    const answer = await edge.callBack({ requestId: "r1", conversationId, output: "A table for two." });
    expect(answer).toMatchObject({ delivered: true });
    expect(provider.conversations.at(-1)?.told.join()).toContain("A table for two.");
  });

  test.skipIf(redis === null)("run: the stores have what the service has", async () => {
    const environment = {
      UPSTASH_REDIS_REST_URL: gateway?.url ?? "",
      UPSTASH_REDIS_REST_TOKEN: gateway?.token ?? "",
    };
    const printed = await project.start("stores.js", environment).ended;
    for (const part of ["asked for a city", "3600", "connected: true", "Köln", "nobody is there"]) {
      expect(printed).toContain(part);
    }
  });
});
