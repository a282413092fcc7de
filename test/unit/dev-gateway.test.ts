/** The REST gateway over HTTP, against a real Redis: the protocol, what it refuses, and outages. */
import { createServer } from "node:http";
import { Redis as UpstashClient } from "@upstash/redis/cloudflare";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Gateway, startGateway } from "../../dev/gateway.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";

const TOKEN = "a-token";
const maybeRedis = await startRedis({ covers: "the Upstash-compatible gateway (dev/gateway.ts)" });

type Answer = { status: number; body: unknown; headers: Headers };

async function request(url: string, init: RequestInit = {}): Promise<Answer> {
  const response = await fetch(url, {
    ...init,
    headers: { authorization: `Bearer ${TOKEN}`, ...(init.headers as Record<string, string>) },
  });
  const text = await response.text();
  return {
    status: response.status,
    body: text === "" ? undefined : JSON.parse(text),
    headers: response.headers,
  };
}

describe.skipIf(maybeRedis === null)("gateway", () => {
  const redis = maybeRedis as RedisServer;
  let gateway: Gateway;

  beforeAll(async () => {
    gateway = await startGateway({ redisUrl: redis.url, token: TOKEN, silenceLimitMs: 400 });
  });
  beforeEach(() => redis.client.flushall());
  afterAll(async () => {
    await gateway?.close();
    await redis?.stop();
  });

  const get = (path: string) => request(`${gateway.url}${path}`);
  const post = (path: string, body: unknown, headers: Record<string, string> = {}) =>
    request(`${gateway.url}${path}`, {
      method: "POST",
      body:
        typeof body === "string" || body instanceof Uint8Array ? (body as BodyInit) : JSON.stringify(body),
      headers,
    });
  const run = (...command: unknown[]) => post("/", command);
  const runBase64 = (...command: unknown[]) => post("/", command, { "upstash-encoding": "base64" });

  describe("single commands", () => {
    test("run from a JSON array, options in either case, numbers as text", async () => {
      const answer = await run("set", "key", 12.5, "ex", 60);

      expect(answer).toMatchObject({ status: 200, body: { result: "OK" } });
      expect(await redis.client.get("key")).toBe("12.5");
      expect(await redis.client.ttl("key")).toBe(60);
    });

    test("keep the shapes of Redis: flat hashes, flat scores, doubles as text, nil as null", async () => {
      await redis.client.hset("hash", "field", "1");
      await redis.client.zadd("set", 1.5, "member");

      expect((await run("HGETALL", "hash")).body).toEqual({ result: ["field", "1"] });
      expect((await run("hgetall", "hash")).body).toEqual({ result: ["field", "1"] });
      expect((await run("zrange", "set", 0, -1, "WITHSCORES")).body).toEqual({ result: ["member", "1.5"] });
      expect((await run("GET", "absent")).body).toEqual({ result: null });
      expect((await run("EXISTS", "hash")).body).toEqual({ result: 1 });
    });

    test("run from a path, percent-encoded", async () => {
      expect((await get("/set/a%2Fkey/a%20value?EX=100&NX")).body).toEqual({ result: "OK" });

      expect(await redis.client.get("a/key")).toBe("a value");
      expect(await redis.client.ttl("a/key")).toBe(100);
      expect((await get("/get/a%2Fkey")).body).toEqual({ result: "a value" });
    });

    test("take the value from the body of a path, byte for byte", async () => {
      const bytes = new Uint8Array([0, 255, 10, 200]);

      await post("/set/binary?EX=100", bytes);

      expect((await redis.client.getBuffer("binary"))?.equals(bytes)).toBe(true);
    });

    test("answer 400 with the error of Redis", async () => {
      expect(await run("GET")).toMatchObject({
        status: 400,
        body: { error: "ERR wrong number of arguments for 'get' command" },
      });
      expect((await run("NOSUCH")).status).toBe(400);
    });
  });

  describe("base64", () => {
    test("encodes strings at any depth and leaves numbers, null and OK alone", async () => {
      const script = "return {'text', 7, {'deep', false}, 'OK'}";

      expect((await runBase64("EVAL", script, 0)).body).toEqual({
        result: ["dGV4dA==", 7, ["ZGVlcA==", null], "OK"],
      });
      expect((await runBase64("SET", "key", "v")).body).toEqual({ result: "OK" });
      expect((await runBase64("PING")).body).toEqual({ result: "UE9ORw==" });
    });

    test("carries bytes that are not UTF-8", async () => {
      await redis.client.set("binary", Buffer.from([255, 254]));

      expect((await runBase64("GET", "binary")).body).toEqual({ result: "//4=" });
    });

    test("encodes the results of pipelines and transactions, not their errors", async () => {
      const commands = [
        ["SET", "key", "v"],
        ["GET", "key"],
        ["INCR", "key"],
      ];
      const expected = [
        { result: "OK" },
        { result: "dg==" },
        { error: "ERR value is not an integer or out of range" },
      ];

      for (const path of ["/pipeline", "/multi-exec"])
        expect((await post(path, commands, { "upstash-encoding": "base64" })).body).toEqual(expected);
    });
  });

  describe("/pipeline", () => {
    test("answers every command by itself, in order, with 200", async () => {
      const answer = await post("/pipeline", [["SET", "a", "1"], ["GET"], ["BLPOP", "b", 0], ["INCR", "a"]]);

      expect(answer).toMatchObject({
        status: 200,
        body: [
          { result: "OK" },
          { error: "ERR wrong number of arguments for 'get' command" },
          { error: "ERR Command is not available: 'BLPOP'" },
          { result: 2 },
        ],
      });
    });
  });

  describe("/multi-exec", () => {
    test("applies nothing where one command is malformed", async () => {
      const answer = await post("/multi-exec", [["SET", "a", "1"], ["GET"]]);

      expect(answer.status).toBe(400);
      expect(answer.body).toEqual({
        error: "EXECABORT Transaction discarded because of: ERR wrong number of arguments for 'get' command",
      });
      expect(await redis.client.exists("a")).toBe(0);
      expect((await run("PING")).body).toEqual({ result: "PONG" });
    });

    test("keeps transactions of parallel requests apart", async () => {
      const answers = await Promise.all(
        Array.from({ length: 40 }, () =>
          post("/multi-exec", [
            ["INCR", "n"],
            ["INCR", "n"],
          ]),
        ),
      );

      for (const { body } of answers) {
        const [first, second] = body as [{ result: number }, { result: number }];
        expect(second.result).toBe(first.result + 1);
      }
      expect(await redis.client.get("n")).toBe("80");
    });
  });

  describe("the door", () => {
    test("lets nobody in without the token, not even to a pipeline", async () => {
      const refusal = { status: 401, body: { error: "WRONGPASS invalid or missing auth token" } };

      for (const path of ["/", "/pipeline", "/multi-exec", "/get/key"])
        expect(await post(path, [["PING"]], { authorization: "Bearer wrong" })).toMatchObject(refusal);
      expect(await post("/", ["PING"], { authorization: "" })).toMatchObject(refusal);
    });

    test("takes the token from the query, too, and does not make an argument of it", async () => {
      const answer = await request(`${gateway.url}/echo/hello?_token=${TOKEN}`, {
        headers: { authorization: "" },
      });

      expect(answer).toMatchObject({ status: 200, body: { result: "hello" } });
    });

    test("answers other methods with 405", async () => {
      expect((await request(`${gateway.url}/get/key`, { method: "DELETE" })).status).toBe(405);
    });

    test.each([
      ["no JSON", "/", "["],
      ["no array", "/", '{"command":"PING"}'],
      ["an empty command", "/", "[]"],
      ["an argument that is null", "/", '["GET",null]'],
      ["an argument that is an array", "/", '["MGET",["a","b"]]'],
      ["a pipeline that is one command", "/pipeline", '["PING"]'],
      ["an empty pipeline", "/pipeline", "[]"],
      ["an empty transaction", "/multi-exec", "[]"],
      ["a path that is not percent-encoding", "/get/%E0%A4%A", ""],
    ])("answers 400 to %s", async (_, path, body) => {
      const answer = await post(path, body);

      expect(answer.status).toBe(400);
      expect(answer.body).toEqual({ error: expect.stringMatching(/^ERR /) });
    });

    test("answers 413 to more than 10 MiB, and goes on", async () => {
      expect((await post("/set/big", "x".repeat(10 * 1024 * 1024 + 1))).status).toBe(413);
      expect((await run("PING")).status).toBe(200);
    });

    test.each([
      ["SUBSCRIBE", "channel"],
      ["MONITOR"],
      ["WATCH", "key"],
      ["MULTI"],
      ["SELECT", "1"],
      ["BLPOP", "list", "0"],
      ["XREAD", "BLOCK", "0", "STREAMS", "s", "$"],
      ["CLIENT", "REPLY", "OFF"],
      ["SHUTDOWN"],
    ])("refuses %s, which is not for a shared connection", async (...command) => {
      expect(await run(...command)).toMatchObject({
        status: 400,
        body: { error: `ERR Command is not available: '${command[0]}'` },
      });
      expect((await post("/multi-exec", [["PING"], command])).status).toBe(400);
    });

    test("gives every answer a new sync token", async () => {
      const tokens = [await run("PING"), await run("GET"), await get("/ping")].map(({ headers }) =>
        headers.get("upstash-sync-token"),
      );

      expect(tokens.every(Boolean)).toBe(true);
      expect(new Set(tokens).size).toBe(3);
    });
  });

  describe("outages", () => {
    test("answers 503 at once while Redis is down, keeps nothing for later, and recovers by itself", async () => {
      process.kill(redis.pid, "SIGKILL");
      await expect.poll(async () => (await run("PING")).status).toBe(503);
      const begin = performance.now();
      const answers = await Promise.all([
        run("INCR", "n"),
        post("/pipeline", [["INCR", "n"]]),
        get("/incr/n"),
      ]);
      const elapsedMs = performance.now() - begin;
      await redis.restart();

      expect(answers.map(({ status }) => status)).toEqual([503, 503, 503]);
      expect(answers[0].body).toEqual({
        error: expect.stringMatching(/^ERR Redis is not reachable: /),
      });
      expect(elapsedMs).toBeLessThan(500);
      await expect.poll(async () => (await run("PING")).status, { timeout: 5_000 }).toBe(200);
      expect(await redis.client.exists("n")).toBe(0);
    });

    test("answers 503 when Redis falls silent, never runs a command twice, and recovers by itself", async () => {
      redis.freeze();
      const begin = performance.now();
      const lost = await run("INCR", "n");
      const meanwhile = await post("/multi-exec", [["INCR", "n"]]);
      const elapsedMs = performance.now() - begin;
      redis.thaw();

      expect([lost.status, meanwhile.status]).toEqual([503, 503]);
      expect(lost.body).toEqual({ error: expect.stringMatching(/^ERR Redis is not reachable/) });
      expect(elapsedMs).toBeLessThan(3_000);
      await expect.poll(async () => (await run("PING")).status, { timeout: 5_000 }).toBe(200);
      // What had reached the frozen server is run when it goes on; its answer is what was lost.
      expect(await redis.client.get("n")).toBe("1");
    });
  });

  describe("the official client", () => {
    test("reads what it wrote, in commands, pipelines, transactions and scripts", async () => {
      const client = new UpstashClient({ url: gateway.url, token: TOKEN });

      expect(await client.set("key", { a: ["ü", 1] }, { ex: 60 })).toBe("OK");
      expect(await client.get("key")).toEqual({ a: ["ü", 1] });
      expect(await client.hset("hash", { one: 1, two: "2" })).toBe(2);
      expect(await client.hgetall("hash")).toEqual({ one: 1, two: 2 });
      expect(await client.pipeline().incr("n").incr("n").exec()).toEqual([1, 2]);
      expect(await client.multi().rpush("list", "a", "b").lrange("list", 0, -1).exec()).toEqual([
        2,
        ["a", "b"],
      ]);
      expect(await client.eval("return redis.call('GET', KEYS[1])", ["n"], [])).toBe(2);
      await expect(client.hget("key", "field")).rejects.toThrow("WRONGTYPE");
    });
  });

  describe("starting", () => {
    test("says in a sentence that Redis does not answer, without the password", async () => {
      const start = startGateway({ redisUrl: "redis://me:secret@127.0.0.1:1/3", token: TOKEN });

      await expect(start).rejects.toThrow(/^Redis at 127\.0\.0\.1:1 does not answer: .*ECONNREFUSED/);
      await expect(start).rejects.not.toThrow("secret");
    });

    test.each(["localhost:6379", "http://localhost", "redis://", ""])(
      "takes no %j for a Redis URL",
      async (redisUrl) => {
        await expect(startGateway({ redisUrl, token: TOKEN })).rejects.toThrow("Not a Redis URL");
      },
    );

    test("says that its port is taken", async () => {
      const other = createServer();
      await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
      const { port } = other.address() as { port: number };

      await expect(startGateway({ redisUrl: redis.url, token: TOKEN, port })).rejects.toThrow(
        `The gateway cannot listen on 127.0.0.1:${port}`,
      );
      other.close();
    });

    test("selects the database of the URL", async () => {
      const other = await startGateway({ redisUrl: `${redis.url}/5`, token: TOKEN });
      await request(`${other.url}/set/key/five`);
      await other.close();

      expect((await run("EXISTS", "key")).body).toEqual({ result: 0 });
    });
  });
});
