/** The client of a server on a network that a test makes up: when it asks again, how often, and what it says in the end. */
import { Webhook } from "standardwebhooks";
import { beforeEach, describe, expect, test } from "vitest";
import { ServerClientError, type ServerErrorCode } from "../../server/exchange.ts";
import type { ServerClient } from "../../server/methods.ts";
import { openServerClient, type ServerClientOptions } from "../../server/server-client.ts";
import { API_TOKEN, SHARED_SECRET, SIGNING_SECRET } from "../support/secrets.ts";

const START = Date.parse("2026-01-01T00:00:00Z");
type Sent = { method: string; url: string; headers: Record<string, string>; body: string | undefined };
type Answer = Response | Error;

let sent: Sent[];
let waits: number[];
let clock: number;
let answers: (() => Answer)[];
beforeEach(() => {
  sent = [];
  waits = [];
  clock = START;
  answers = [];
});

function open(options: Partial<ServerClientOptions> = {}): ServerClient {
  return openServerClient(
    {
      fetch: async (url, init) => {
        const { method = "", headers, body } = init ?? {};
        expect(init?.redirect).toBe("manual");
        sent.push({
          method,
          url: String(url),
          headers: headers as Record<string, string>,
          body: body as string,
        });
        const answer = answers.shift()?.() ?? Response.json({});
        if (answer instanceof Error) throw answer;
        return answer;
      },
      now: () => clock,
      wait: async (ms) => {
        waits.push(ms);
        clock += ms;
      },
      random: () => 0.5,
    },
    { baseUrl: "https://edge.example", apiToken: API_TOKEN, webhookSecret: SIGNING_SECRET, ...options },
  );
}

function problem(status: number, code: string, headers: Record<string, string> = {}) {
  const body = {
    type: "about:blank",
    status,
    code,
    detail: "What went wrong.",
    requestId: "q1",
    success: false,
  };
  return () => Response.json(body, { status, headers });
}
const lost = () => new TypeError("fetch failed");
const elsewhere = (status: number) => () => new Response("<html>", { status });

async function errorOf(answer: Promise<unknown>): Promise<ServerClientError> {
  const error = await answer.then(
    () => null,
    (error: unknown) => error,
  );
  expect(error).toBeInstanceOf(ServerClientError);
  return error as ServerClientError;
}

describe("a request that the edge puts off", () => {
  test.each([
    ["storage_unavailable", 503],
    ["rate_limited", 429],
    ["provider_unavailable", 503],
  ])("with %s is sent again when it says, even where a second time is not harmless", async (code, status) => {
    answers = [problem(status, code, { "retry-after": "2" }), () => Response.json({ conversationId: "c1" })];
    expect(await open().createConversation()).toEqual({ conversationId: "c1" });
    expect(waits).toEqual([2_000]);
    expect(sent).toHaveLength(2);
    expect(sent[0]).toEqual(sent[1]);
  });

  test("to a time of the clock is sent again then", async () => {
    answers = [problem(503, "storage_unavailable", { "retry-after": new Date(START + 4_000).toUTCString() })];
    await open().readState("c1");
    expect(waits).toEqual([4_000]);
  });

  test("for longer than may be waited is given up at once, and the error says when to come again", async () => {
    answers = [problem(429, "rate_limited", { "retry-after": "60" })];
    const error = await errorOf(open().readState("c1"));
    expect(error).toMatchObject({
      code: "rate_limited",
      status: 429,
      retryAfterSeconds: 60,
      requestId: "q1",
    });
    expect([waits, sent.length]).toEqual([[], 1]);
  });

  test("again and again is given up after as many tries as are allowed", async () => {
    answers = Array.from({ length: 9 }, () => problem(503, "storage_unavailable", { "retry-after": "2" }));
    expect((await errorOf(open().readState("c1"))).code).toBe("storage_unavailable");
    expect([waits, sent.length]).toEqual([[2_000, 2_000], 3]);
    expect((await errorOf(open({ attempts: 9, maxWaitMs: 5_000 }).readState("c1"))).code).toBe(
      "storage_unavailable",
    );
    expect(sent).toHaveLength(6);
  });
});

test.each(["feature_disabled", "misconfigured"])(
  "%s is no matter of time, and not asked twice",
  async (code) => {
    answers = [problem(503, code)];
    expect((await errorOf(open().readState("c1"))).code).toBe(code);
    expect(sent).toHaveLength(1);
  },
);

describe("a request that nobody answers", () => {
  test("is sent again where that is harmless, after pauses that grow", async () => {
    answers = [lost, elsewhere(502), () => Response.json({ received: true, status: "duplicate" })];
    const answer = await open().callBack({ requestId: "r1", conversationId: "c1", output: 1 });
    expect(answer).toMatchObject({ status: "duplicate" });
    expect(waits).toEqual([250, 500]);
    expect(new Set(sent.map(({ body }) => body))).toEqual(
      new Set(['{"requestId":"r1","conversationId":"c1","output":1}']),
    );
  });

  test("is not sent again where that would make something twice", async () => {
    answers = [lost];
    expect((await errorOf(open().createConversation())).code).toBe("network_error");
    answers = [lost];
    expect((await errorOf(open().sayAgain("c1", ["r1"]))).code).toBe("network_error");
    answers = [elsewhere(502)];
    expect((await errorOf(open().createConversation())).code).toBe("unexpected_answer");
    expect(sent).toHaveLength(3);
  });

  test("is an error that tells the two kinds apart and says nothing of the request", async () => {
    const late = () => new DOMException("The operation timed out.", "TimeoutError");
    answers = [late, lost];
    const client = open({ attempts: 1, timeoutMs: 50 });
    const errors = [await errorOf(client.readState("c1")), await errorOf(client.readState("c1"))];
    expect(errors.map(({ code }) => code)).toEqual(["timeout", "network_error"]);
    for (const { message } of errors) expect(message).not.toMatch(/c1|edge\.example|test-/);
  });

  test("is given up when its time is over", async () => {
    const client = openServerClient(
      {
        fetch: (_, init) =>
          new Promise((_resolve, reject) =>
            init?.signal?.addEventListener("abort", () => reject(init.signal?.reason)),
          ),
        now: Date.now,
        wait: async () => {},
        random: Math.random,
      },
      { baseUrl: "https://edge.example", timeoutMs: 10, attempts: 2 },
    );
    expect((await errorOf(client.readState("c1"))).code).toBe("timeout");
  });

  test("a message is one message all the same: it has its id before it is sent", async () => {
    answers = [lost];
    await open().writeMessage("c1", { role: "system", content: "hi" });
    await open().writeMessage("c1", { id: "m1", role: "system", content: "hi" });
    const ids = sent.map(({ body }) => (JSON.parse(body ?? "") as { id: string }).id);
    expect(ids).toEqual([ids[0], ids[0], "m1"]);
    expect(ids[0]).toMatch(/^[0-9a-f-]{36}$/);
  });
});

describe("what the edge refuses", () => {
  test.each<[number, ServerErrorCode]>([
    [400, "invalid_request"],
    [401, "unauthorized"],
    [403, "forbidden"],
    [409, "session_replaced"],
    [410, "conversation_deleted"],
    [413, "payload_too_large"],
    [422, "request_id_reused"],
    [500, "internal_error"],
  ])("%i is an error of its code, %s, at once", async (status, code) => {
    answers = [problem(status, code)];
    const error = await errorOf(open().callBack({ requestId: "r1", conversationId: "c1" }));
    expect(error).toMatchObject({ name: "ServerClientError", code, status, message: "What went wrong." });
    expect(sent).toHaveLength(1);
  });

  test("because it has another shape is told with every place", async () => {
    const errors = [{ path: "requestId", message: "is required" }];
    const body = { code: "invalid_request", detail: "…", requestId: "q1", errors };
    answers = [() => Response.json(body, { status: 400 })];
    expect((await errorOf(open().callBack({ requestId: "" }))).issues).toEqual(errors);
  });

  test("because it is not there is null, and any other 404 is an error", async () => {
    const client = open();
    answers = [
      problem(404, "conversation_not_found"),
      problem(404, "session_not_found"),
      problem(404, "state_not_found"),
      problem(404, "memory_not_found"),
    ];
    expect(await client.readConversation("c1")).toBeNull();
    expect(await client.readSession("c1")).toBeNull();
    expect(await client.touchState("c1")).toBeNull();
    expect(await client.changeMemory("c1", { city: "Köln" })).toBeNull();
    answers = [problem(404, "not_found")];
    expect((await errorOf(client.readState("c1"))).code).toBe("not_found");
    answers = [elsewhere(404)];
    expect((await errorOf(client.readState("c1"))).code).toBe("unexpected_answer");
  });

  test.each(["", ".", "..", "new", "list", "a/b", "a?b", "x".repeat(129)])(
    "%j is no id, and asks for nothing",
    async (id) => {
      expect((await errorOf(open().deleteConversation(id))).code).toBe("invalid_id");
      expect(await open().cancelTask("c1", id)).toBeNull();
      expect(sent).toEqual([]);
    },
  );
});

test.each([() => new Response("ok"), () => new Response("", { status: 302, headers: { location: "/" } })])(
  "whoever else answers is not believed",
  async (answer) => {
    answers = [answer];
    expect((await errorOf(open().readState("c1"))).code).toBe("unexpected_answer");
    expect(sent).toHaveLength(1);
  },
);

describe("the credential", () => {
  const callback = { requestId: "r1", conversationId: "c1" };

  test("of a callback is a signature that the official library verifies, anew for every try, of one message", async () => {
    answers = [problem(503, "storage_unavailable", { "retry-after": "5" })];
    await open().callBack(callback);
    const [first, second] = sent;
    const webhook = new Webhook(SIGNING_SECRET);
    for (const { headers, body = "" } of sent) {
      // The library knows no clock but its own, and these are of 2026-01-01.
      const { "webhook-id": id = "", "webhook-timestamp": seconds, "webhook-signature": signature } = headers;
      expect(webhook.sign(id, new Date(Number(seconds) * 1000), body)).toBe(signature);
      expect(JSON.stringify(headers)).not.toContain(API_TOKEN);
      expect(JSON.stringify(headers)).not.toContain(SIGNING_SECRET.slice(6));
    }
    expect(first?.headers["webhook-id"]).toBe(second?.headers["webhook-id"]);
    expect(Number(second?.headers["webhook-timestamp"])).toBe(START / 1000 + 5);
  });

  test("of a callback is the shared secret itself, where it is no key", async () => {
    await open({ webhookSecret: SHARED_SECRET }).callBack(callback);
    expect(sent[0]?.headers.authorization).toBe(`Bearer ${SHARED_SECRET}`);
  });

  test("of everything else is the API token, if there is one", async () => {
    await open().readState("c1");
    await open({ apiToken: undefined }).readState("c1");
    expect(sent.map(({ headers }) => headers)).toEqual([{ authorization: `Bearer ${API_TOKEN}` }, {}]);
  });
});

test.each(["edge.example", "ftp://edge.example", "https://edge.example/?a", "/", ""])(
  "%j is not where a deployment is",
  (baseUrl) => {
    expect(() => open({ baseUrl })).toThrow(/^baseUrl must be/);
  },
);

test("a deployment may be behind a path", async () => {
  await open({ baseUrl: "https://edge.example/agents/" }).listConversations({ limit: 2, cursor: "a b" });
  expect(sent[0]?.url).toBe("https://edge.example/agents/agent-conversations/api/list?limit=2&cursor=a+b");
});

test("a secret that says that it is a key and is none is found at once", () => {
  expect(() => open({ webhookSecret: "whsec_short" })).toThrow(/^webhookSecret must be/);
});
