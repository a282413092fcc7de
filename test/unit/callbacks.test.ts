import { describe, expect, test } from "vitest";
import { type CallbackOutcome, parseCallback, receiveCallback } from "../../lib/callbacks.ts";
import type { Core } from "../../lib/core.ts";
import { StorageError } from "../../lib/errors.ts";
import { parseJsonObject } from "../../lib/json.ts";
import { parseAllowedHosts } from "../../lib/push/push-target.ts";
import { registerSession } from "../../lib/registration.ts";
import { parseRegistration } from "../../lib/session-store.ts";
import type { Storage } from "../../lib/storage/storage.ts";
import { testCore } from "../support/core.ts";

const parsedHosts = parseAllowedHosts("agent.example");
const hosts = parsedHosts.ok ? parsedHosts.hosts : [];

function callback(
  requestId: string,
  fields: Record<string, string | boolean> = {},
): ReturnType<typeof parseCallback> {
  return parseCallback({ requestId, conversationId: "c1", output: `output of ${requestId}`, ...fields });
}

function register(core: Core, conversationId = "c1") {
  return registerSession(
    conversationId,
    parseRegistration({ sessionUrl: "wss://agent.example/live" }),
    hosts,
    core,
  );
}

const gone = (): Storage["commit"] => async () => {
  throw new StorageError("memory", "commit", "network");
};

describe("a live session", () => {
  test("is told once, and the history has the result", async () => {
    const core = testCore();
    await register(core);
    expect(await receiveCallback(callback("r1"), core)).toEqual({ kind: "delivered", channel: "socket" });
    expect(core.pushed.map(({ text }) => text)).toEqual([expect.stringContaining("output of r1")]);
    expect(await core.conversations.messages("c1")).toMatchObject([
      { id: "r1", role: "tool", content: "output of r1", source: "callback", status: "completed" },
    ]);
    expect(await core.conversations.backlog("c1")).toEqual([]);
  });

  test("is told once when a hundred copies of the callback come at the same time", async () => {
    const core = testCore();
    await register(core);
    const outcomes = await Promise.all(
      Array.from({ length: 100 }, () => receiveCallback(callback("r1"), core)),
    );
    const kinds = outcomes.map(({ kind }) => kind);
    expect(kinds.filter((kind) => kind === "delivered")).toHaveLength(1);
    expect(kinds.filter((kind) => kind === "in_progress" || kind === "duplicate")).toHaveLength(99);
    expect(core.pushed).toHaveLength(1);
  });

  test("a copy after the settlement is a duplicate that says what became of it", async () => {
    const core = testCore();
    await register(core);
    await receiveCallback(callback("r1"), core);
    expect(await receiveCallback(callback("r1"), core)).toEqual({
      kind: "duplicate",
      delivered: true,
      channel: "socket",
    });
  });

  test("a session that cannot be reached is tried three times, then the result waits", async () => {
    const core = testCore({ onPush: () => ({ ok: false, failure: "unreachable" }) });
    await register(core);
    expect(await receiveCallback(callback("r1"), core)).toEqual({ kind: "queued", reason: "push_failed" });
    expect(core.pushed).toHaveLength(3);
    expect(await core.conversations.backlog("c1")).toEqual(["r1"]);
  });

  test.each(["refused", "deadline", "disconnected"] as const)(
    "a push that ends in %s is not repeated, because the peer may have read it",
    async (failure) => {
      const core = testCore({ onPush: () => ({ ok: false, failure }) });
      await register(core);
      expect(await receiveCallback(callback("r1"), core)).toEqual({ kind: "queued", reason: "push_failed" });
      expect(core.pushed).toHaveLength(1);
    },
  );

  test("that expires between the attempts is not pushed to any more", async () => {
    const core = testCore({
      onPush: () => {
        core.advance(5_000);
        return { ok: false, failure: "unreachable" };
      },
    });
    await register(core);
    core.advance(595_000);
    expect(await receiveCallback(callback("r1"), core)).toEqual({
      kind: "queued",
      reason: "session_expired",
    });
    expect(core.pushed).toHaveLength(1);
  });

  test("without a way to push keeps the result", async () => {
    const core = testCore();
    await registerSession("c1", parseRegistration({ transport: "webrtc" }), hosts, core);
    expect(await receiveCallback(callback("r1"), core)).toEqual({
      kind: "queued",
      reason: "no_push_channel",
    });
  });
});

describe("no live session", () => {
  test("an expired one is a normal outcome with one clear warning", async () => {
    const core = testCore();
    await register(core);
    core.advance(600_000);
    expect(await receiveCallback(callback("r1"), core)).toEqual({
      kind: "queued",
      reason: "session_expired",
    });
    expect(core.logs.filter(({ level }) => level === "warn")).toEqual([
      expect.objectContaining({
        event: "callback.queued",
        conversationId: "c1",
        callbackRequestId: "r1",
        reason: "session_expired",
        detail: expect.stringContaining("session ended before the result came"),
      }),
    ]);
  });

  test("one that never was is told apart", async () => {
    const core = testCore();
    expect(await receiveCallback(callback("r1"), core)).toEqual({
      kind: "queued",
      reason: "session_not_found",
    });
    expect(await core.conversations.get("c1")).toMatchObject({ conversationId: "c1" });
  });

  test("a conversation made beforehand has had a session from its first registration on", async () => {
    const core = testCore();
    await core.conversations.create(core.conversations.fresh("c1", { agentId: "a1" }));
    expect(await receiveCallback(callback("r1"), core)).toMatchObject({ reason: "session_not_found" });
    await register(core);
    await core.sessions.delete("c1");
    expect(await receiveCallback(callback("r2"), core)).toMatchObject({ reason: "session_expired" });
    expect(await core.conversations.get("c1")).toMatchObject({ agentId: "a1" });
  });
});

describe("a handler that dies", () => {
  test("while it holds the claim keeps others out until the lease has run out", async () => {
    const core = testCore();
    await register(core);
    await core.callbacks.claim("c1", callback("r1").result);
    core.advance(29_001);
    expect(await receiveCallback(callback("r1"), core)).toEqual({
      kind: "in_progress",
      retryAfterSeconds: 1,
    });
    core.advance(999);
    expect(await receiveCallback(callback("r1"), core)).toMatchObject({ kind: "delivered" });
    expect(core.pushed).toHaveLength(1);
  });

  test("leaves a claim that only one of many retries takes over", async () => {
    const core = testCore();
    await register(core);
    await core.callbacks.claim("c1", callback("r1").result);
    core.advance(30_000);
    const outcomes = await Promise.all(
      Array.from({ length: 20 }, () => receiveCallback(callback("r1"), core)),
    );
    expect(outcomes.filter(({ kind }) => kind === "delivered")).toHaveLength(1);
    expect(core.pushed).toHaveLength(1);
  });

  test("a storage that fails once after the push does not bring about a second push", async () => {
    let failures = 0;
    const core = testCore({
      wrap: (storage) => ({
        ...storage,
        async commit(writes) {
          if (writes.some(({ key }) => key.endsWith(":messages")) && failures < 2) {
            failures += 1;
            throw new StorageError("memory", "commit", "network");
          }
          return storage.commit(writes);
        },
      }),
    });
    await register(core);
    expect(await receiveCallback(callback("r1"), core)).toMatchObject({ kind: "delivered" });
    expect(failures).toBe(2);
    expect(core.pushed).toHaveLength(1);
  });

  test("a claim whose session could not be read is given back, so that the retry need not wait", async () => {
    let failing = true;
    const core = testCore({
      wrap: (storage) => ({
        ...storage,
        async get(key) {
          if (failing && key.startsWith("elevenlabs:session:"))
            throw new StorageError("memory", "get", "timeout");
          return storage.get(key);
        },
      }),
    });
    await register(core);
    await core.settled();
    await expect(receiveCallback(callback("r1"), core)).rejects.toMatchObject({ failure: "timeout" });
    failing = false;
    expect(await receiveCallback(callback("r1"), core)).toMatchObject({ kind: "delivered" });
  });

  test("that was stalled beyond its lease does not settle over whoever took the claim over", async () => {
    const core = testCore({
      onPush() {
        core.advance(31_000);
        return { ok: false, failure: "refused" };
      },
    });
    await register(core);
    expect(await receiveCallback(callback("r1"), core)).toMatchObject({ kind: "in_progress" });
    expect(await core.conversations.backlog("c1")).toEqual([]);
  });

  test("a result that could not be kept is not acknowledged", async () => {
    const core = testCore({
      wrap: (storage) => ({
        ...storage,
        commit: (writes) => (writes.length > 4 ? gone()(writes) : storage.commit(writes)),
      }),
    });
    await expect(receiveCallback(callback("r1"), core)).rejects.toMatchObject({
      code: "storage_unavailable",
    });
  });
});

describe("the backlog", () => {
  async function queue(core: Core, ids: string[]): Promise<CallbackOutcome[]> {
    const outcomes: CallbackOutcome[] = [];
    for (const id of ids) outcomes.push(await receiveCallback(callback(id), core));
    return outcomes;
  }

  test("is handed over as one push, oldest first, and is empty afterwards", async () => {
    const core = testCore();
    await queue(core, ["r1", "r2", "r3"]);
    await register(core);
    await core.settled();
    expect(core.pushed).toHaveLength(1);
    expect(core.pushed[0]?.text).toMatch(/1\. .*r1[\s\S]*2\. .*r2[\s\S]*3\. .*r3/);
    expect(await core.conversations.backlog("c1")).toEqual([]);
    expect(await receiveCallback(callback("r2"), core)).toMatchObject({ kind: "duplicate", delivered: true });
  });

  test("loses nothing when the hand-over fails", async () => {
    let works = false;
    const core = testCore({ onPush: () => (works ? { ok: true } : { ok: false, failure: "refused" }) });
    await queue(core, ["r1", "r2"]);
    await register(core);
    await core.settled();
    expect(await core.conversations.backlog("c1")).toEqual(["r1", "r2"]);
    works = true;
    await register(core);
    await core.settled();
    expect(await core.conversations.backlog("c1")).toEqual([]);
    expect(core.pushed.at(-1)?.text).toMatch(/r1[\s\S]*r2/);
  });

  test("is handed over once however many tabs register at the same time", async () => {
    const core = testCore();
    await queue(core, ["r1", "r2"]);
    await Promise.all(Array.from({ length: 10 }, () => register(core)));
    await core.settled();
    expect(core.pushed).toHaveLength(1);
  });

  test("reaches a session that was registered while the first hand-over was failing", async () => {
    let pushes = 0;
    const core = testCore({
      async onPush() {
        pushes += 1;
        if (pushes > 1) return { ok: true };
        await register(core);
        return { ok: false, failure: "refused" };
      },
    });
    await queue(core, ["r1"]);
    await register(core);
    await core.settled();
    expect(pushes).toBe(2);
    expect(await core.conversations.backlog("c1")).toEqual([]);
  });

  test("tells a number to the last digit, as a live session would have heard it", async () => {
    const core = testCore();
    const body = '{"requestId":"r1","conversationId":"c1","output":{"order":12345678901234567890}}';
    await receiveCallback(parseCallback(parseJsonObject(body)), core);
    await register(core);
    await core.settled();
    expect(core.pushed[0]?.text).toContain('{"order":12345678901234567890}');
  });

  test("is told once though two tabs come when the records of its callbacks are gone", async () => {
    const core = testCore();
    await queue(core, ["r1", "r2"]);
    core.advance(49 * 3600 * 1000);
    await Promise.all([register(core), register(core)]);
    await core.settled();
    expect(core.pushed).toHaveLength(1);
  });

  test("is handed over though the storage fails in between", async () => {
    let failing = false;
    const core = testCore({
      wrap: (storage) => ({
        ...storage,
        async claim(key, value, ttlSeconds) {
          if (!key.endsWith(":handover") || !failing) return storage.claim(key, value, ttlSeconds);
          failing = false;
          throw new StorageError("memory", "claim", "timeout");
        },
      }),
    });
    await queue(core, ["r1"]);
    failing = true;
    await register(core);
    await core.settled();
    expect(core.pushed).toHaveLength(1);
  });

  test("reaches a session that was registered while the result was being queued", async () => {
    let registered = false;
    const core = testCore({
      wrap: (storage) => ({
        ...storage,
        async commit(writes) {
          const queues = writes.some(({ key }) => key.endsWith(":backlog") && !registered);
          if (queues) {
            registered = true;
            await register(core);
            await core.settled();
          }
          return storage.commit(writes);
        },
      }),
    });
    await core.sessions.delete("c1");
    expect(await receiveCallback(callback("r1"), core)).toMatchObject({ kind: "queued" });
    await core.settled();
    expect(core.pushed).toHaveLength(1);
    expect(await core.conversations.backlog("c1")).toEqual([]);
  });

  test("outlives the records of its callbacks: the history tells what they brought", async () => {
    const core = testCore();
    await queue(core, ["r1"]);
    core.advance(49 * 3600 * 1000);
    await register(core);
    await core.settled();
    expect(core.pushed[0]?.text).toContain("output of r1");
    expect(await core.conversations.backlog("c1")).toEqual([]);
  });

  test("of two hundred results goes out in as few texts as its titles need, each within the limit, each result once", async () => {
    const core = testCore();
    await queue(
      core,
      Array.from({ length: 205 }, (_, i) => `request-${i}`),
    );
    expect(core.logs.filter(({ event }) => event === "backlog.dropped")).toHaveLength(5);
    await register(core);
    await core.settled();
    expect(core.pushed.length).toBeGreaterThan(1);
    for (const { text } of core.pushed) expect(text.length).toBeLessThanOrEqual(4_000);
    const told = core.pushed.map(({ text }) => text).join("\n");
    for (let i = 5; i < 205; i++) expect(told.split(`request request-${i})`)).toHaveLength(2);
    expect(await core.conversations.backlog("c1")).toEqual([]);
  });
});

describe("the history", () => {
  test("outlives the session and is complete", async () => {
    const core = testCore();
    await register(core);
    await receiveCallback(callback("r1"), core);
    core.advance(3 * 600_000);
    await receiveCallback(callback("r2", { success: false, error: "no table free" }), core);
    expect(await core.conversations.messages("c1")).toMatchObject([
      { id: "r1", content: "output of r1" },
      { id: "r2", content: "no table free", status: "failed" },
    ]);
  });

  test("keeps the newest thousand messages and says what it dropped", async () => {
    const core = testCore();
    for (let i = 0; i < 1_003; i++) {
      await core.conversations.append("c1", {
        id: `m${i}`,
        role: "user",
        content: "",
        source: "api",
        timestamp: "2026-01-01T00:00:00Z",
      });
    }
    const messages = await core.conversations.messages("c1");
    expect(messages).toHaveLength(1_000);
    expect(messages[0]?.id).toBe("m3");
    expect(core.logs.filter(({ event }) => event === "messages.dropped")).toHaveLength(3);
  });

  test("shows a message once that a repeated write left twice", async () => {
    const core = testCore();
    const write = core.conversations.messageWrite("c1", {
      id: "m1",
      role: "user",
      content: "hi",
      source: "api",
      timestamp: "2026-01-01T00:00:00Z",
    });
    await core.storage.commit([write, write]);
    expect(await core.conversations.messages("c1")).toHaveLength(1);
  });
});

describe("registration", () => {
  test("is one round trip of at most five commands' worth of writes", async () => {
    const commits: number[] = [];
    const core = testCore({
      wrap: (storage) => ({
        ...storage,
        commit(writes) {
          commits.push(writes.length);
          return storage.commit(writes);
        },
      }),
    });
    await register(core);
    expect(commits[0]).toBe(4);
  });

  test("says in the log whether it replaced another", async () => {
    const core = testCore();
    await register(core);
    await register(core);
    expect(core.logs.map(({ event }) => event)).toEqual(["session.registered", "session.replaced"]);
  });
});

describe("what a callback must say", () => {
  test.each([
    ["no requestId", { conversationId: "c1" }, "requestId"],
    ["a requestId with a slash", { requestId: "a/b", conversationId: "c1" }, "requestId"],
    ["no conversation", { requestId: "r1" }, "conversationId"],
    ["a conversation with a colon", { requestId: "r1", conversationId: "a:b" }, "conversationId"],
    ["an unknown mode", { requestId: "r1", conversationId: "c1", mode: "shout" }, "mode"],
    ["success as text", { requestId: "r1", conversationId: "c1", success: "yes" }, "success"],
  ])("%s is refused and named", (_name, body, path) => {
    expect(() => parseCallback(body)).toThrowError(
      expect.objectContaining({ code: "invalid_request", issues: [expect.objectContaining({ path })] }),
    );
  });

  test("the path and the body must agree", () => {
    expect(() => parseCallback({ requestId: "r1", conversationId: "c1" }, "c2")).toThrow(
      "another conversation",
    );
    expect(parseCallback({ requestId: "r1" }, "c2").conversationId).toBe("c2");
  });
});
