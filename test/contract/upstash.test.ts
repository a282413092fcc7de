import { createServer, type IncomingHttpHeaders, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { inspect } from "node:util";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { StorageError, type StorageFailure } from "../../lib/errors.ts";
import { keys } from "../../lib/keys.ts";
import type { Storage } from "../../lib/storage/storage.ts";
import { createUpstashStorage } from "../../lib/storage/upstash.ts";
import { type FaultyGateway, startFaultyGateway } from "../support/faulty-gateway.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { storageContract } from "./storage-contract.ts";

const TOKEN = "a-token-that-stays-secret";
const redis = await startRedis({ covers: "the Upstash storage against a real Redis" });
afterAll(() => redis?.stop());

describe.skipIf(redis === null)("with a real Redis", () => {
  const { port, client, freeze, thaw } = redis ?? ({} as RedisServer);
  let gateway: FaultyGateway;
  let storage: Storage;
  let serial = 0;

  beforeAll(async () => {
    gateway = await startFaultyGateway({ redisUrl: `redis://127.0.0.1:${port}`, token: TOKEN });
    storage = createUpstashStorage({ url: gateway.url, token: TOKEN, timeoutMs: 5000 });
  });
  afterAll(() => gateway?.close());

  storageContract("upstash", { rollsBack: false }, async () => ({
    storage,
    ttl: storage.ttl,
    close: async () => {},
  }));

  describe("upstash storage", () => {
    beforeEach(() => gateway.clear());
    afterEach(() => gateway.heal());

    const freshId = () => `own-${++serial}`;
    const appendWrite = (key: string, value: string, maxLength: number) =>
      ({ type: "append", key, value, maxLength, ttlSeconds: 600 }) as const;
    const redisMillis = async () => {
      const [seconds, micros] = (await client.time()).map(Number);
      return (seconds ?? 0) * 1000 + Math.floor((micros ?? 0) / 1000);
    };

    it("sends the time to live in the command that writes, and Redis counts exactly that", async () => {
      const key = keys.session(freshId());
      const before = await redisMillis();
      await storage.commit([{ type: "set", key, value: "v", ttlSeconds: 600 }]);
      const writtenAt = (await client.pexpiretime(key)) - 600_000;
      expect(writtenAt).toBeGreaterThanOrEqual(before);
      expect(writtenAt).toBeLessThanOrEqual(await redisMillis());
      expect(gateway.seen).toEqual([{ path: "/", commands: [["set", key, "v", "ex", 600]] }]);
    });

    it("sends every operation as one request of as few commands as it needs", async () => {
      const id = freshId();
      const [text, list, scores, log] = [keys.session(id), keys.messages(id), `index:${id}`, `log:${id}`];
      const costOf = async (operation: () => Promise<unknown>) => {
        gateway.clear();
        await operation();
        return gateway.seen.map(({ path, commands }) => `${path} ${commands.map(([name]) => name)}`);
      };
      const commit = (...writes: Parameters<Storage["commit"]>[0]) => costOf(() => storage.commit(writes));

      expect(await commit({ type: "create", key: text, value: "v", ttlSeconds: 600 })).toEqual(["/ set"]);
      expect(await commit({ type: "get", key: text })).toEqual(["/ get"]);
      expect(await commit({ type: "get", key: text, ttlSeconds: 600 })).toEqual(["/ getex"]);
      expect(await commit(appendWrite(list, "a", 2))).toEqual(["/multi-exec rpush,expire"]);
      expect(await commit({ ...appendWrite(list, "b", 2), ttlSeconds: null })).toEqual([
        "/multi-exec rpush,persist",
      ]);
      expect(await commit(appendWrite(list, "c", 2))).toEqual([
        "/multi-exec rpush,expire",
        "/pipeline ltrim",
      ]);
      const withSlack = { ...appendWrite(list, "d", 2), slack: 1 };
      expect(await commit(withSlack)).toEqual(["/multi-exec rpush,expire"]);
      expect(await commit(withSlack)).toEqual(["/multi-exec rpush,expire", "/pipeline ltrim"]);
      expect(await commit({ type: "remove", key: list, value: "a" })).toEqual(["/ lrem"]);
      expect(await commit({ type: "touch", key: text, ttlSeconds: 0.5 })).toEqual(["/ pexpire"]);
      expect(await commit({ type: "touch", key: text, ttlSeconds: null })).toEqual([
        "/multi-exec persist,exists",
      ]);
      expect(
        await commit(
          { type: "index", key: scores, member: "a", score: 1 },
          { type: "index", key: scores, member: "b", score: 2 },
          { type: "index", key: scores, member: "c", score: 3 },
        ),
      ).toEqual(["/multi-exec zadd,zadd,zadd"]);
      expect(await commit({ type: "unindex", key: scores, member: "c" })).toEqual(["/ zrem"]);
      expect(await commit({ type: "prune", key: scores, belowScore: 0 })).toEqual(["/ zremrangebyscore"]);
      expect(await commit({ type: "log", key: log, value: "v", maxLength: 10 })).toEqual(["/ XADD"]);
      expect(await costOf(() => storage.readLog(log, { limit: 10 }))).toEqual(["/ XREVRANGE"]);
      expect(await costOf(() => storage.get(text))).toEqual(["/ get"]);
      expect(await costOf(() => storage.getMany([text, list]))).toEqual(["/ mget"]);
      expect(await costOf(() => storage.getAndTouch(text, 600))).toEqual(["/ getex"]);
      expect(await costOf(() => storage.ttl(text))).toEqual(["/ pttl"]);
      expect(await costOf(() => storage.range(list, 0, -1))).toEqual(["/ lrange"]);
      const { nextCursor = "" } = await storage.listIndex(scores, { limit: 1 });
      expect(await costOf(() => storage.listIndex(scores, { limit: 1 }))).toEqual(["/ zrange"]);
      expect(await costOf(() => storage.listIndex(scores, { limit: 1, cursor: nextCursor }))).toEqual([
        "/ zrange",
      ]);
      expect(await costOf(() => storage.update(text, () => "w", 600))).toEqual(["/ get", "/ eval"]);
      expect(await costOf(() => storage.update(text, () => undefined, 600))).toEqual(["/ get"]);
      expect(await commit({ type: "delete", key: text })).toEqual(["/ del"]);
      expect(await costOf(() => storage.ping())).toEqual(["/ ping"]);
      expect(await commit()).toEqual([]);
      expect(await costOf(() => storage.getMany([]))).toEqual([]);
      expect(
        await costOf(() =>
          storage.commit([{ type: "set", key: text, value: "v", ttlSeconds: -1 }]).catch(() => {}),
        ),
      ).toEqual([]);
    });

    it("repeats a write whose answer was lost, which a list may show and a create does", async () => {
      const id = freshId();
      const [text, created, list] = [keys.session(id), keys.conversation(id), keys.messages(id)];
      const lost = { kind: "reset-after" } as const;

      gateway.fail(lost, 1);
      expect(await storage.commit([{ type: "set", key: text, value: "v", ttlSeconds: 600 }])).toEqual([null]);
      gateway.fail(lost, 1);
      expect(await storage.commit([{ type: "create", key: created, value: "v", ttlSeconds: 600 }])).toEqual([
        false,
      ]);
      gateway.fail(lost, 1);
      expect(await storage.commit([appendWrite(list, "entry", 10)])).toEqual([1]);

      expect(await storage.getMany([text, created])).toEqual(["v", "v"]);
      expect(await storage.range(list, 0, -1)).toEqual(["entry", "entry"]);
    });

    it("does not repeat an update whose answer was lost: the caller is told that nobody knows", async () => {
      const key = keys.session(freshId());
      await storage.commit([{ type: "set", key, value: "1", ttlSeconds: 600 }]);
      gateway.clear();
      const changed = storage.update(
        key,
        (standing) => {
          gateway.fail({ kind: "reset-after" }, 1);
          return String(Number(standing) + 1);
        },
        600,
      );
      await expect(changed).rejects.toMatchObject({ operation: "update", failure: "network" });
      expect(gateway.seen.map(({ commands }) => commands[0]?.[0])).toEqual(["get", "eval"]);
      expect(await storage.get(key)).toBe("2");
    });

    it("gives up a Redis that has stopped in its tracks, and goes on when it does", async () => {
      const hasty = createUpstashStorage({ url: gateway.url, token: TOKEN, timeoutMs: 200 });
      await hasty.ping();
      freeze();
      try {
        await expect(hasty.get("k")).rejects.toMatchObject({ failure: "timeout", operation: "get" });
      } finally {
        thaw();
      }
      await expect.poll(() => hasty.get("k").catch((error) => error), { timeout: 10_000 }).toBeNull();
    });

    it("goes on after Redis was restarted", async () => {
      await (redis as RedisServer).restart();
      await expect.poll(() => storage.ping().catch((error) => error), { timeout: 10_000 }).toBeUndefined();
    });
  });

  it("upstash storage is told by the gateway that Redis is down", async () => {
    const brief = (await startRedis({ covers: "" })) as RedisServer;
    const alone = await startFaultyGateway({ redisUrl: brief.url, token: TOKEN });
    const lonely = createUpstashStorage({ url: alone.url, token: TOKEN });
    try {
      await lonely.ping();
      await brief.stop();
      await expect(lonely.get("k")).rejects.toMatchObject({ failure: "server_error" });
    } finally {
      await alone.close();
    }
  });
});

describe("upstash storage and a server that fails", () => {
  const SECRET = "what-the-user-said";
  let seen: { path: string; headers: IncomingHttpHeaders; body: string }[] = [];
  let respond: (response: ServerResponse, request: { path: string; commands: number }) => void;
  let url: string;

  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
    const [path, body] = [request.url ?? "", Buffer.concat(chunks).toString()];
    seen.push({ path, headers: request.headers, body });
    respond(response, { path, commands: JSON.parse(body).length });
  });

  beforeAll(async () => {
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterAll(() => {
    server.closeAllConnections();
    server.close();
  });
  beforeEach(() => {
    seen = [];
  });

  const answer = (status: number, body: string, headers: Record<string, string> = {}) => {
    return (response: ServerResponse) => void response.writeHead(status, headers).end(body);
  };
  const storageWith = (timeoutMs: number) => createUpstashStorage({ url, token: TOKEN, timeoutMs });

  const operations: Record<string, (storage: Storage) => Promise<unknown>> = {
    get: (storage) => storage.get(`conv:${SECRET}`),
    getMany: (storage) => storage.getMany([`conv:${SECRET}`, "b"]),
    getAndTouch: (storage) => storage.getAndTouch(`conv:${SECRET}`, 600),
    ttl: (storage) => storage.ttl(`conv:${SECRET}`),
    range: (storage) => storage.range(SECRET, 0, -1),
    listIndex: (storage) => storage.listIndex(SECRET, { limit: 10 }),
    ping: (storage) => storage.ping(),
    set: (storage) => storage.commit([{ type: "set", key: "k", value: SECRET, ttlSeconds: 600 }]),
    create: (storage) => storage.commit([{ type: "create", key: "k", value: SECRET, ttlSeconds: 600 }]),
    "a read in a commit": (storage) => storage.commit([{ type: "get", key: SECRET, ttlSeconds: 600 }]),
    touch: (storage) => storage.commit([{ type: "touch", key: SECRET, ttlSeconds: 600 }]),
    "touch for ever": (storage) => storage.commit([{ type: "touch", key: SECRET, ttlSeconds: null }]),
    delete: (storage) => storage.commit([{ type: "delete", key: SECRET }]),
    append: (storage) =>
      storage.commit([{ type: "append", key: "k", value: SECRET, maxLength: 10, ttlSeconds: 600 }]),
    index: (storage) => storage.commit([{ type: "index", key: "k", member: SECRET, score: 1 }]),
    readLog: (storage) => storage.readLog(SECRET, { limit: 10 }),
    log: (storage) => storage.commit([{ type: "log", key: "k", value: SECRET, maxLength: 10 }]),
    prune: (storage) => storage.commit([{ type: "prune", key: "k", belowScore: 1 }]),
    "a commit of two": (storage) =>
      storage.commit([
        { type: "delete", key: SECRET },
        { type: "create", key: SECRET, value: SECRET, ttlSeconds: 600 },
      ]),
    update: (storage) => storage.update("k", () => SECRET, 600),
  };

  /** Runs every operation and expects each to fail so, after so many requests, without telling what it carried. */
  async function expectAll(failure: StorageFailure, requestsEach: number, timeoutMs = 5000): Promise<void> {
    const storage = storageWith(timeoutMs);
    const names = Object.keys(operations);
    const errors = await Promise.all(
      Object.values(operations).map((operation) =>
        operation(storage).then(
          (result): unknown => result,
          (error: unknown) => error,
        ),
      ),
    );
    for (const [i, error] of errors.entries()) {
      const name = names[i];
      expect(error, name).toBeInstanceOf(StorageError);
      expect(error, name).toMatchObject({ driver: "upstash", failure, cause: expect.any(Error) });
      expect(String(error), name).toMatch(/^StorageError: upstash storage: \w+ failed \(\w+\)$/);
      expect(inspect(error, { depth: 10 }), name).not.toMatch(new RegExp(`${SECRET}|${TOKEN}`));
    }
    expect(seen).toHaveLength(errors.length * requestsEach);
  }

  it.each<[string, number, string, StorageFailure]>([
    ["too many requests", 429, '{"error":"ERR too many requests"}', "rate_limited"],
    ["an error of the server's", 500, '{"error":"ERR internal"}', "server_error"],
    ["a proxy's error page", 502, "<html>Bad gateway</html>", "server_error"],
    ["a server that is away", 503, "", "server_error"],
    ["wrong credentials", 401, '{"error":"WRONGPASS invalid or missing auth token"}', "rejected"],
    ["a command it does not know", 400, '{"error":"ERR unknown command"}', "rejected"],
    ["a page that is not there", 404, "<html>Not found</html>", "rejected"],
  ])("names %s for what it is, after one request", async (_, status, body, failure) => {
    respond = answer(status, body);
    await expectAll(failure, 1);
  });

  it("takes an error under a good status for one, alone or in the place of a result", async () => {
    const error = { error: "ERR something" };
    respond = (response, { path, commands }) =>
      answer(200, JSON.stringify(path === "/" ? error : Array(commands).fill(error)))(response);
    await expectAll("rejected", 1);
  });

  it.each([
    ["nothing", ""],
    ["half an answer", '{"result":"what'],
    ["a page", "<html>Welcome</html>"],
    ["an empty object", "{}"],
    ["an empty list", "[]"],
    ["an empty object in a list", "[{}]"],
    ["three of them", "[{},{},{}]"],
    ["nothing in a list", "[null]"],
    ["null", "null"],
    ["a text", '"x"'],
    ["a number", "1"],
    ["another shape", '{"unexpected":["shape"]}'],
    ["an object as result", '{"result":{"a":1}}'],
    ["an object as results", '[{"result":{}},{"result":{}}]'],
    ["an object as only result", '[{"result":{}}]'],
    ["a truth as result", '{"result":true}'],
  ])("never takes %s for an absent key", async (_, body) => {
    respond = answer(200, body);
    await expectAll("invalid_response", 1);
  });

  it("does not follow a redirect", async () => {
    respond = answer(302, "", { location: "/elsewhere" });
    await expectAll("invalid_response", 1);
  });

  it("tries once more where the connection breaks, and no more", async () => {
    respond = (response) => void response.socket?.resetAndDestroy();
    await expectAll("network", 2);
  });

  it("tries once more where the connection breaks within the answer", async () => {
    respond = (response) => {
      response.writeHead(200, { "content-length": 100 });
      response.write('{"result":');
      setTimeout(() => response.socket?.resetAndDestroy(), 20);
    };
    await expectAll("network", 2);
  });

  it("gives up a server that does not answer", async () => {
    respond = () => {};
    await expectAll("timeout", 1, 200);
  });

  it("gives up a server that does not finish its answer", async () => {
    respond = (response) => {
      response.writeHead(200, { "content-length": 100 });
      response.write('{"result":');
    };
    await expectAll("timeout", 1, 200);
  });

  it("counts the second try in the same time", async () => {
    respond = (response) => {
      if (seen.length === 1) response.socket?.resetAndDestroy();
    };
    const started = performance.now();
    await expect(storageWith(300).get("k")).rejects.toMatchObject({ failure: "timeout" });
    expect(performance.now() - started).toBeLessThan(600);
    expect(seen).toHaveLength(2);
  });

  it("succeeds with the second try", async () => {
    respond = (response) => {
      if (seen.length === 1) response.socket?.resetAndDestroy();
      else answer(200, '{"result":"v"}')(response);
    };
    expect(await storageWith(5000).get("k")).toBe("v");
  });

  it("reports a server that is not there as a network failure", async () => {
    const storage = createUpstashStorage({ url: "http://127.0.0.1:1", token: TOKEN });
    await expect(storage.get("k")).rejects.toMatchObject({ failure: "network", operation: "get" });
  });

  it("asks for nothing until it is used, and refuses what is not a URL then", async () => {
    const storage = createUpstashStorage({ url: "not a URL", token: TOKEN });
    await expect(storage.get("k")).rejects.toMatchObject({ failure: "rejected", operation: "get" });
    expect(seen).toEqual([]);
  });

  it("keeps an append whose list could not be capped", async () => {
    respond = (response, { path }) =>
      path === "/multi-exec"
        ? answer(200, '[{"result":12},{"result":1}]')(response)
        : answer(500, "")(response);
    const append = { type: "append", key: "k", value: "v", maxLength: 10, ttlSeconds: 600 } as const;
    expect(await storageWith(5000).commit([append])).toEqual([11]);
    expect(seen.map(({ body }) => JSON.parse(body))).toEqual([
      [
        ["rpush", "k", "v"],
        ["expire", "k", 600],
      ],
      [["ltrim", "k", -10, -1]],
    ]);
  });

  it("shows its token, gives back the server's sync token, and says nothing of itself", async () => {
    respond = answer(200, '{"result":null}', { "upstash-sync-token": "seen:7" });
    const storage = storageWith(5000);
    expect(await storage.get("k")).toBeNull();
    expect(await storage.get("k")).toBeNull();
    const [first, second] = seen.map(({ headers }) => headers);
    expect(first?.authorization).toBe(`Bearer ${TOKEN}`);
    expect(first).not.toHaveProperty("upstash-sync-token");
    expect(second?.["upstash-sync-token"]).toBe("seen:7");
    expect(Object.keys(second ?? {}).filter((name) => /telemetry|encoding/.test(name))).toEqual([
      "accept-encoding",
    ]);
  });
});
