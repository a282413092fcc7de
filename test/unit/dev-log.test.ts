/** `npm run tail`: what it finds in a log, what it shows, and the log that `npm start` keeps for it. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { keepLog, readLog } from "../../dev/log-file.ts";
import { createLogReader, isWanted, type LogLine, logLineIn, pretty } from "../../dev/log-lines.ts";

const TIME = "2026-01-01T12:00:00.123Z";
const SETTLED: LogLine = {
  level: "info",
  event: "result.settled",
  time: TIME,
  conversationId: "demo",
  callbackRequestId: "r1",
  requestId: "http-1",
  status: "delivered",
  channel: "relay",
  ms: 1200,
};
const QUEUED: LogLine = { ...SETTLED, level: "warn", event: "callback.queued", conversationId: "other" };
const FAILED: LogLine = {
  level: "warn",
  event: "push.failed",
  time: TIME,
  conversationId: "demo",
  callbackRequestIds: ["r2", "r3"],
};

const asJson = (line: LogLine) => JSON.stringify(line);

function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), "log-test-"));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

describe("a line of the log", () => {
  test.each([
    ["as it was written", asJson(SETTLED)],
    ["as an error in colours", `\x1b[31m✘ \x1b[41;97mERROR\x1b[0m \x1b[1m${asJson(SETTLED)}\x1b[0m`],
  ])("is found %s", (_, text) => {
    expect(logLineIn(text)).toEqual(SETTLED);
  });

  test.each([
    "",
    "[wrangler:info] GET /health 200 OK",
    '{"level":"info"',
    '{"level":"loud","event":"x"}',
    "{}",
  ])("is not %j", (text) => {
    expect(logLineIn(text)).toBeNull();
  });

  test("is read in whatever pieces it comes", () => {
    const text = `Ready\n${asJson(SETTLED)}\n${asJson(QUEUED)}\nrest`;
    for (const size of [1, 7, 1000]) {
      const read = createLogReader();
      const pieces = text.match(new RegExp(`[^]{1,${size}}`, "g")) ?? [];
      expect(pieces.flatMap(read)).toEqual([SETTLED, QUEUED]);
    }
  });

  test("is read in what `wrangler tail` says, and how an invocation failed, without what it was asked", () => {
    const well = {
      outcome: "ok",
      logs: [{ message: [asJson(SETTLED)] }, { message: ["other"] }],
      exceptions: [],
    };
    const badly = {
      outcome: "exceededCpu",
      eventTimestamp: Date.parse(TIME),
      event: { request: { url: "https://edge.example/?token=secret" } },
      logs: [],
      exceptions: [{ name: "Error", message: "secret" }],
    };
    const said = [well, badly].map((invocation) => `${JSON.stringify(invocation, null, 4)}\n`).join("");
    const lines = createLogReader()(said);
    expect(lines).toEqual([
      SETTLED,
      { level: "error", event: "platform.exceededCpu", time: TIME, exceptions: ["Error"] },
    ]);
    expect(createLogReader()(`${JSON.stringify(well)}\n`)).toEqual([SETTLED]);
  });

  test.each([
    [{}, 3],
    [{ conversationId: "demo" }, 2],
    [{ requestId: "http-1" }, 2],
    [{ requestId: "r3" }, 1],
    [{ level: "warn" as const }, 2],
    [{ level: "warn" as const, conversationId: "demo" }, 1],
    [{ level: "error" as const }, 0],
  ])("is shown to who asks for it: %j", (filter, count) => {
    expect([SETTLED, QUEUED, FAILED].filter((line) => isWanted(line, filter))).toHaveLength(count);
  });

  test("is one line for people, in colours only where they are wanted", () => {
    expect(pretty(SETTLED, { colours: false })).toBe(
      "12:00:00.123 info  result.settled     demo r1 requestId=http-1 status=delivered channel=relay ms=1200",
    );
    expect(pretty(FAILED, { colours: false })).toBe("12:00:00.123 warn  push.failed        demo r2 r3");
    expect(pretty(FAILED, { colours: true })).toContain("\x1b[33mwarn \x1b[39m");
  });

  test("does not command the terminal, whatever a sender has chosen for an id", () => {
    const line = { ...SETTLED, callbackRequestId: "r\x1b[2J\u009b\nx", status: "a b" };
    expect(pretty(line, { colours: false })).toContain('demo "r\\u001b[2J\\u009b\\nx" requestId');
    expect(pretty(line, { colours: false })).toContain('status="a b"');
  });
});

describe("the log that npm start keeps", () => {
  test("holds the Worker's own lines alone, and is its user's", () => {
    const directory = temporaryDirectory();
    writeFileSync(join(directory, "log.ndjson"), "", { mode: 0o644 });
    const [out, err] = [keepLog(directory), null].flatMap((keep) => (keep === null ? [] : [keep(), keep()]));
    out?.(`demo agent heard: secret\n${asJson(SETTLED).slice(0, 9)}`);
    err?.(`▲ [WARNING] ${asJson(QUEUED)}\n`);
    out?.(`${asJson(SETTLED).slice(9)}\n`);
    const path = join(directory, "log.ndjson");
    expect(readFileSync(path, "utf8")).toBe(`${asJson(QUEUED)}\n${asJson(SETTLED)}\n`);
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test("does not grow beyond what it may be", () => {
    const directory = temporaryDirectory();
    const keep = keepLog(directory, 2_000)();
    for (let i = 0; i < 100; i++) keep(`${asJson({ ...SETTLED, n: i })}\n`);
    expect(readdirSync(directory).sort()).toEqual(["log.ndjson", "log.old.ndjson"]);
    for (const name of readdirSync(directory)) {
      const { size, mode } = statSync(join(directory, name));
      expect(size).toBeLessThanOrEqual(2_000);
      expect(mode & 0o777).toBe(0o600);
    }
  });

  test("is followed over the change of files, and nothing is left out or told twice", async () => {
    const directory = temporaryDirectory();
    const keep = keepLog(directory, 3_000)();
    const write = (from: number, to: number) => {
      for (let n = from; n < to; n++) keep(`${asJson({ ...SETTLED, n })}\n`);
    };
    write(0, 5);
    const stop = new AbortController();
    const [read, seen] = [createLogReader(), [] as unknown[]];
    const reading = (async () => {
      for await (const piece of readLog(directory, { follows: true, signal: stop.signal }))
        seen.push(...read(piece).map(({ n }) => n));
    })();
    for (const [from, to] of [
      [5, 15],
      [15, 25],
      [25, 35],
    ] as const) {
      await expect.poll(() => seen).toHaveLength(from);
      write(from, to);
    }
    await expect.poll(() => seen).toEqual(Array.from({ length: 35 }, (_, n) => n));
    stop.abort();
    await reading;
  });
});

describe("npm run tail", () => {
  async function tail(args: string[], input = "") {
    const child = spawn(process.execPath, ["dev/tail.ts", ...args]);
    child.stdin.end(input);
    let printed = "";
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding("utf8").on("data", (chunk: string) => {
        printed += chunk;
      });
    const [code] = await once(child, "close");
    return { code, printed };
  }

  test("shows one conversation of the log that was kept", async () => {
    const directory = temporaryDirectory();
    keepLog(directory)()([SETTLED, QUEUED, FAILED].map((line) => `${asJson(line)}\n`).join(""));
    const { code, printed } = await tail([
      ...["--persist-to", directory, "--no-follow"],
      ...["--conversation", "demo"],
    ]);
    expect(code).toBe(0);
    expect(printed).toBe([SETTLED, FAILED].map((line) => `${pretty(line, { colours: false })}\n`).join(""));
  });

  test("reads what is piped", async () => {
    const input = `noise\n${asJson(SETTLED)}\n${asJson(QUEUED)}\n`;
    const { printed } = await tail(["-", "--level", "warn"], input);
    expect(printed).toBe(`${pretty(QUEUED, { colours: false })}\n`);
  });

  test.each([
    [["--level", "loud"], /^--level must be one of info, warn, error\.\n$/],
    [["demo"], /^Unexpected argument: demo\. /],
    [["--color"], /^Unknown option '--color'/],
  ])("says in a sentence what it does not know: %j", async (args, sentence) => {
    const { code, printed } = await tail(args);
    expect(code).toBe(1);
    expect(printed).toMatch(sentence);
  });
});
