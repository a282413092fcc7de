import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { JsonObject } from "../../lib/json.ts";
import { parseJsonObject } from "../../lib/json.ts";
import { createLogger } from "../../lib/log.ts";
import {
  createSessionStore,
  isLive,
  parseRegistration,
  parseRenewal,
  type SessionRecord,
  sessionRecord,
} from "../../lib/session-store.ts";
import { createSqliteKeys, createSqliteStorage } from "../../lib/storage/sqlite.ts";
import { memorySql } from "../support/sql.ts";
import type { LogLine } from "../support/worker.ts";

const KEY = "elevenlabs:session:c1";
const START = Date.parse("2026-01-01T00:00:00Z");

function setUp() {
  let clock = START;
  const now = () => clock;
  const logs: LogLine[] = [];
  const storage = createSqliteStorage(createSqliteKeys(memorySql()), now);
  const log = createLogger({ now, write: (_level, line) => logs.push(JSON.parse(line)) });
  return {
    storage,
    sessions: createSessionStore(storage, log),
    logs,
    now,
    advance: (ms: number) => {
      clock += ms;
    },
    /** The record of a registration made now. */
    registered: (): SessionRecord =>
      sessionRecord(
        "c1",
        parseRegistration({ sessionUrl: "wss://agent.example/live" }),
        crypto.randomUUID(),
        clock,
      ),
  };
}

describe("time to live", () => {
  test("a session is there at 599.999 s and gone at 600 s", async () => {
    const { sessions, registered, advance } = setUp();
    await sessions.set(registered());
    advance(599_999);
    expect(await sessions.get("c1")).not.toBeNull();
    advance(1);
    expect(await sessions.get("c1")).toBeNull();
  });

  test("reading does not make a session live longer", async () => {
    const { sessions, registered, advance } = setUp();
    await sessions.set(registered());
    advance(300_000);
    await sessions.get("c1");
    advance(300_000);
    expect(await sessions.get("c1")).toBeNull();
  });

  test("a new registration starts the 600 s anew", async () => {
    const { sessions, registered, advance } = setUp();
    await sessions.set(registered());
    advance(599_999);
    await sessions.set(registered());
    advance(599_999);
    expect(await sessions.get("c1")).not.toBeNull();
  });

  test("what was read earlier is known to be live for 600 s from its registration, or from its renewal", () => {
    const { registered } = setUp();
    const session = registered();
    const renewed = { ...session, renewedAt: new Date(START + 240_000).toISOString() };
    expect([isLive(session, START + 599_999), isLive(session, START + 600_000)]).toEqual([true, false]);
    expect([isLive(renewed, START + 839_999), isLive(renewed, START + 840_000)]).toEqual([true, false]);
  });

  test("the seconds left are rounded up, and never below none", async () => {
    const { sessions, registered, now, advance } = setUp();
    const session = registered();
    expect(await sessions.secondsLeft(session, now())).toBe(600);
    advance(100_001);
    expect(await sessions.secondsLeft(session, now())).toBe(500);
    advance(600_000);
    expect(await sessions.secondsLeft(session, now())).toBe(0);
  });

  test("a record that does not know its age is as old as the storage says", async () => {
    const { sessions, storage, now, advance } = setUp();
    const value = '{"sessionUrl":"wss://a.example/"}';
    await storage.commit([{ type: "set", key: KEY, value, ttlSeconds: 600 }]);
    const session = (await sessions.get("c1")) as SessionRecord;
    advance(100_000);
    expect(isLive(session, now())).toBe(true);
    expect(await sessions.secondsLeft(session, now())).toBe(500);
  });
});

describe("the raw rule", () => {
  test("any JSON payload comes back deep-equal and in the same key order", async () => {
    await fc.assert(
      fc.asyncProperty(fc.jsonValue(), async (payload) => {
        const { sessions, now } = setUp();
        const registration = parseRegistration({
          sessionUrl: "wss://agent.example/live",
          sessionPayload: payload as never,
        });
        await sessions.set(sessionRecord("c1", registration, "r1", now()));
        const session = await sessions.get("c1");
        expect(session?.sessionPayload).toEqual(payload);
        expect(JSON.stringify(session?.sessionPayload)).toBe(JSON.stringify(payload));
      }),
    );
  });

  test.each([
    '{"sessionUrl":"wss://a.example/?token=t","__proto__":{"admin":true},"constructor":{"prototype":1}}',
    '{"sessionUrl":"wss://a.example/","id":123456789012345678901234567890,"tiny":1e-400,"zero":-0,"far":1e20}',
    '{"sessionUrl":"wss://a.example/","z":1,"a":[{"y":null,"b":""}],"\\u0000":"\\ud83d\\ude00"}',
  ])("a body without sessionPayload is the payload itself: %s", async (text) => {
    const { sessions, storage, now } = setUp();
    const registration = parseRegistration(parseJsonObject(text));
    await sessions.set(sessionRecord("c1", registration, "r1", now()));
    const stored = (await storage.get(KEY)) ?? "";
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
    // It would make one agent conversation of all that have no id.
    ["an empty agentSessionId", { sessionUrl: "wss://a.example/", agentSessionId: "" }],
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
    const { sessions, storage, logs } = setUp();
    const value = typeof record === "string" ? record : JSON.stringify(record);
    await storage.commit([{ type: "set", key: KEY, value, ttlSeconds: 600 }]);
    return { session: await sessions.get("c1"), logs };
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
    const record = setUp().registered();
    expect((await readBack(record)).session).toEqual(record);
  });

  test("future: fields we do not know are kept", async () => {
    const record = { ...setUp().registered(), version: 2, region: "eu", constructor: "kept" };
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
  test("a closing tab ends only its own registration, and once", async () => {
    const { sessions, registered } = setUp();
    const [old, current] = [registered(), registered()];
    await sessions.set(old);
    await sessions.set(current);
    expect(await sessions.delete("c1", old.registrationId)).toBe(false);
    expect(await sessions.get("c1")).toEqual(current);
    expect(await sessions.delete("c1", current.registrationId)).toBe(true);
    expect(await sessions.get("c1")).toBeNull();
    expect(await sessions.delete("c1", current.registrationId)).toBe(false);
  });
});

describe("a renewal", () => {
  test("is a body that names its registration", () => {
    expect(parseRenewal({ sessionUrl: "wss://a.example/" })).toBeNull();
    expect(parseRenewal({ registrationId: "r1" })).toEqual({ registrationId: "r1" });
    expect(parseRenewal({ registrationId: "r1", agentSessionId: "s1", more: 1 })).toEqual({
      registrationId: "r1",
      agentSessionId: "s1",
    });
  });

  test.each<JsonObject>([
    { registrationId: "" },
    { registrationId: null },
    { registrationId: "r".repeat(129) },
    { registrationId: "r1", agentSessionId: 7 },
    { registrationId: "r1", agentSessionId: "" },
  ])("is refused: %j", (body) => {
    expect(() => parseRenewal(body)).toThrowError(expect.objectContaining({ code: "invalid_request" }));
  });
});
