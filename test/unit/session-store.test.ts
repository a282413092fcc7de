import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { JsonObject } from "../../lib/json.ts";
import { parseJsonObject } from "../../lib/json.ts";
import { parseRegistration, sessionRecord } from "../../lib/session-store.ts";
import { sessionOf, testCore } from "../support/core.ts";

const KEY = "elevenlabs:session:c1";

describe("time to live", () => {
  test("a session is there at 599.999 s and gone at 600 s", async () => {
    const core = testCore();
    await core.sessions.set(sessionOf(core, "c1"));
    core.advance(599_999);
    expect(await core.sessions.get("c1")).not.toBeNull();
    core.advance(1);
    expect(await core.sessions.get("c1")).toBeNull();
  });

  test("reading does not make a session live longer", async () => {
    const core = testCore();
    await core.sessions.set(sessionOf(core, "c1"));
    core.advance(300_000);
    await core.sessions.get("c1");
    core.advance(300_000);
    expect(await core.sessions.get("c1")).toBeNull();
  });

  test("a new registration starts the 600 s anew", async () => {
    const core = testCore();
    await core.sessions.set(sessionOf(core, "c1"));
    core.advance(599_999);
    await core.sessions.set(sessionOf(core, "c1"));
    core.advance(599_999);
    expect(await core.sessions.get("c1")).not.toBeNull();
  });
});

describe("the raw rule", () => {
  test("any JSON payload comes back deep-equal and in the same key order", async () => {
    await fc.assert(
      fc.asyncProperty(fc.jsonValue(), async (payload) => {
        const core = testCore();
        const registration = parseRegistration({
          sessionUrl: "wss://agent.example/live",
          sessionPayload: payload as never,
        });
        await core.sessions.set(sessionRecord("c1", registration, "r1", core.now()));
        const session = await core.sessions.get("c1");
        expect(session?.sessionPayload).toEqual(payload);
        expect(JSON.stringify(session?.sessionPayload)).toBe(JSON.stringify(payload));
      }),
    );
  });

  test.each([
    '{"sessionUrl":"wss://a.example/?token=t","__proto__":{"admin":true},"constructor":{"prototype":1}}',
    '{"sessionUrl":"wss://a.example/","id":123456789012345678901234567890,"tiny":1e-400,"zero":-0}',
    '{"sessionUrl":"wss://a.example/","z":1,"a":[{"y":null,"b":""}],"\\u0000":"\\ud83d\\ude00"}',
  ])("a body without sessionPayload is the payload itself: %s", async (text) => {
    const core = testCore();
    const registration = parseRegistration(parseJsonObject(text));
    await core.sessions.set(sessionRecord("c1", registration, "r1", core.now()));
    const stored = (await core.storage.get(KEY)) ?? "";
    const unescaped = JSON.stringify(JSON.parse(text)).replace(/^\{|\}$/g, "");
    const exact = text.includes("123456789012345678901234567890") ? text.slice(1, -1) : unescaped;
    expect(stored).toContain(`"sessionPayload":{${exact}}`);
  });

  test("fields beside an explicit payload are kept too", () => {
    const record = sessionRecord(
      "c1",
      parseRegistration({
        sessionUrl: "wss://a.example/",
        sessionPayload: { a: 1 },
        tenant: "t",
        version: 9,
      }),
      "r1",
      0,
    );
    expect(record).toMatchObject({ tenant: "t", version: 1, sessionPayload: { a: 1 } });
  });

  test.each<[string, JsonObject]>([
    ["no URL", {}],
    ["no URL over WebSocket", { transport: "websocket" }],
    ["an empty URL", { sessionUrl: "" }],
    ["a URL that is no text", { sessionUrl: 7 }],
    ["a URL that is null", { sessionUrl: null }],
    ["an unknown transport", { sessionUrl: "wss://a.example/", transport: "pigeon" }],
    ["a date that does not exist", { sessionUrl: "wss://a.example/", expiresAt: "2026-02-30T00:00:00Z" }],
    ["a date that is none", { sessionUrl: "wss://a.example/", expiresAt: "tomorrow" }],
    ["metadata that is a list", { sessionUrl: "wss://a.example/", metadata: [] }],
  ])("a registration with %s is refused", (_name, body) => {
    expect(() => parseRegistration(body)).toThrowError(expect.objectContaining({ code: "invalid_request" }));
  });

  test("WebRTC needs no URL", () => {
    expect(parseRegistration({ transport: "webrtc" }).sessionUrl).toBeUndefined();
  });
});

describe("records of every version", () => {
  async function readBack(record: unknown) {
    const core = testCore();
    const value = typeof record === "string" ? record : JSON.stringify(record);
    await core.storage.commit([{ type: "set", key: KEY, value, ttlSeconds: 600 }]);
    return { session: await core.sessions.get("c1"), logs: core.logs };
  }

  test("minimal: defaults stand in for what is missing", async () => {
    const { session } = await readBack({
      conversationId: "c1",
      registrationId: "r1",
      sessionPayload: null,
      createdAt: "2026-01-01T00:00:00.000Z",
    });
    expect(session).toMatchObject({ version: 1, ttl: 600, sessionPayload: null });
  });

  test("legacy: {sessionUrl} alone becomes wsUrl, and the whole record is the payload", async () => {
    const legacy = { sessionUrl: "wss://a.example/?sig=1", expiresAt: "2026-01-01T00:10:00Z" };
    const { session } = await readBack(legacy);
    expect(session).toMatchObject({ wsUrl: legacy.sessionUrl, sessionPayload: legacy, conversationId: "c1" });
  });

  test("current: comes back as it was written", async () => {
    const core = testCore();
    const record = sessionOf(core, "c1");
    expect((await readBack(record)).session).toEqual(record);
  });

  test("future: fields we do not know are kept", async () => {
    const core = testCore();
    const record = { ...sessionOf(core, "c1"), version: 2, region: "eu", constructor: "kept" };
    expect((await readBack(record)).session).toEqual(record);
  });

  test.each([
    ["no JSON", "{"],
    ["a list", []],
    ["text", '"wss://a.example/"'],
    [
      "a record without payload",
      { conversationId: "c1", registrationId: "r1", createdAt: "2026-01-01T00:00:00Z" },
    ],
    ["a URL of another type", { sessionUrl: 5 }],
  ])(
    "unreadable (%s): absent, with a log line that names the key and the reasons only",
    async (_name, record) => {
      const { session, logs } = await readBack(record);
      expect(session).toBeNull();
      expect(logs).toMatchObject([{ level: "error", event: "record.unreadable", key: KEY }]);
      expect(JSON.stringify(logs)).not.toContain("a.example");
    },
  );
});

describe("ending a session", () => {
  test("a closing tab ends only its own registration", async () => {
    const core = testCore();
    const [old, current] = [sessionOf(core, "c1"), sessionOf(core, "c1")];
    await core.sessions.set(old);
    await core.sessions.set(current);
    expect(await core.sessions.delete("c1", old.registrationId)).toBe(false);
    expect(await core.sessions.delete("c1", current.registrationId)).toBe(true);
    expect(await core.sessions.get("c1")).toBeNull();
  });

  test("without a registrationId whatever is there ends", async () => {
    const core = testCore();
    await core.sessions.set(sessionOf(core, "c1"));
    expect(await core.sessions.delete("c1")).toBe(true);
    expect(await core.sessions.delete("c1")).toBe(false);
  });
});
