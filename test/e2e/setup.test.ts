/** `npm run setup`: in parts with a wrangler of paper, and once as a whole with the real one, up to an API that stands for Cloudflare's. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { setUp, type World, type WranglerRun } from "../../dev/deployment.ts";
import { configProblems } from "../../lib/config.ts";
import { startCloudflare } from "../support/cloudflare.ts";

const HOST = "edge-agent-sessions.someone.workers.dev";
const URL_OF_WORKER = `https://${HOST}`;
const DATABASE = {
  UPSTASH_REDIS_REST_URL: "https://db.upstash.io",
  UPSTASH_REDIS_REST_TOKEN: "t0ken-of-the-database",
};
const HEALTHY: Record<string, object> = {
  "/health": { status: "ok" },
  "/config/health": { status: "ok", problems: [] },
};

type Situation = {
  environment?: Record<string, string>;
  /** The secrets that are there, or what `secret list` says. Null for no such Worker. */
  existing?: string[] | null;
  /** What goes wrong. */
  failing?: "login" | "list" | "secret" | "deploy";
  health?: Record<string, object>;
  /** Where wrangler says that it deployed to. */
  targets?: string[];
  /** Answers in turn. Without any, nobody is there. */
  answers?: string[];
};

/** Runs the setup against paper, and keeps everything that it does. */
async function run(args: string[], situation: Situation = {}) {
  const {
    environment = DATABASE,
    existing = null,
    failing,
    health = HEALTHY,
    targets = [HOST],
    answers,
  } = situation;
  const commands: string[] = [];
  const written: Record<string, string>[] = [];
  const asked: { url: string; authorization: string | undefined }[] = [];
  const questions: { question: string; isHidden: boolean }[] = [];
  let printed = "";
  const done = (output = "", targets: string[] = []): WranglerRun => ({ exitCode: 0, output, targets });
  const failed = (output: string): WranglerRun => ({ exitCode: 1, output, targets: [] });
  const now = { ms: 0 };
  const world: World = {
    environment,
    async wrangler(given, { input } = {}) {
      commands.push(given.join(" "));
      const [command = "", sub] = given;
      if (command === "whoami")
        return failing === "login" ? failed('{"loggedIn": false}') : done('{"loggedIn":true}');
      if (command === "deploy") return failing === "deploy" ? failed("boom\n") : done("", targets);
      if (sub === "list") {
        if (failing === "list") return failed("More than one account available\n");
        return existing === null
          ? failed('✘ [ERROR] Worker "edge-agent-sessions" not found.\n')
          : done(`${JSON.stringify(existing.map((name) => ({ name, type: "secret_text" })))}\n`);
      }
      if (failing === "secret") return failed("boom\n");
      written.push(JSON.parse(input ?? ""));
      return done();
    },
    async fetch(url, { headers }) {
      asked.push({ url, authorization: (headers as Record<string, string>).authorization });
      const said = health[new URL(url).pathname];
      return said === undefined
        ? new Response("not here", { status: 404 })
        : Response.json(said, { status: said === HEALTHY[new URL(url).pathname] ? 200 : 503 });
    },
    ask:
      answers === undefined
        ? null
        : async (question, { isHidden = false } = {}) => {
            questions.push({ question, isHidden });
            return answers.shift() ?? "";
          },
    print: (text) => {
      printed += `${text}\n`;
    },
    wait: async (ms) => {
      now.ms += ms;
    },
    now: () => now.ms,
  };
  const failure = await setUp(args, world).then(
    () => null,
    (error: Error) => `${error.constructor.name}: ${error.message}`,
  );
  return { commands, written: written[0] ?? {}, asked, questions, printed, failure };
}

describe("a first deployment", () => {
  test("writes secrets before it deploys, and then looks whether it is well", async () => {
    const { commands, written, asked, printed, failure } = await run(["--origins", "https://app.example"]);
    expect(failure).toBeNull();
    expect(commands).toEqual([
      "whoami --json",
      "secret list --format json",
      "secret bulk",
      "deploy --var ALLOWED_ORIGINS:https://app.example --var ELEVENLABS_AGENT_ENABLED:true",
    ]);
    expect(Object.keys(written).sort()).toEqual([
      "API_TOKEN",
      "SESSION_TOKEN_SECRET",
      "UPSTASH_REDIS_REST_TOKEN",
      "UPSTASH_REDIS_REST_URL",
      "WEBHOOK_SECRET",
    ]);
    expect(configProblems(written)).toEqual([]);
    expect(asked).toEqual([
      { url: `${URL_OF_WORKER}/health`, authorization: undefined },
      { url: `${URL_OF_WORKER}/config/health`, authorization: `Bearer ${written.API_TOKEN}` },
    ]);
    expect(printed).toContain(`${URL_OF_WORKER} runs, and is configured completely.`);
    expect(printed.match(/^curl .*$/gm)).toHaveLength(3);
  });

  test("shows each secret that somebody else needs once, and no other", async () => {
    const { written, printed } = await run(["--var", "EVENTS_URL=https://receiver.example.com/"]);
    for (const name of ["API_TOKEN", "WEBHOOK_SECRET", "SIGNING_SECRET"]) {
      expect(Buffer.from(written[name]?.replace("whsec_", "") ?? "", "base64")).toHaveLength(32);
      expect(printed.split(written[name] ?? "")).toHaveLength(2);
    }
    expect(printed).not.toContain(written.SESSION_TOKEN_SECRET);
    expect(printed).not.toContain(DATABASE.UPSTASH_REDIS_REST_TOKEN);
  });

  test("takes what the environment gives, and shows nothing of it", async () => {
    const given = {
      ...{ REDIS_URL: "rediss://default:t0ken@db.upstash.io:6379", ELEVENLABS_API_KEY: "sk-0123456789" },
      ...{
        API_TOKEN: "a-token-of-my-own-0123456789abcdef",
        WEBHOOK_SECRET: "a-secret-of-my-own-0123456789abcdef",
      },
    };
    const { written, printed, failure } = await run(["--agents", "agent_1"], { environment: given });
    expect(failure).toBeNull();
    const { REDIS_URL: _, ...others } = given;
    expect(written).toEqual({
      ...others,
      UPSTASH_REDIS_REST_URL: "https://db.upstash.io",
      UPSTASH_REDIS_REST_TOKEN: "t0ken",
      SESSION_TOKEN_SECRET: expect.any(String),
    });
    for (const value of Object.values(written)) expect(printed).not.toContain(value);
  });

  test("asks whoever is there for what is not said, and hides what is secret", async () => {
    const answers = [
      "https://db.upstash.io",
      "t0ken",
      "https://app.example",
      "agent_1",
      "sk-0123456789",
      "y",
    ];
    const { commands, written, questions } = await run([], { environment: {}, answers });
    expect(questions.map(({ isHidden }) => isHidden)).toEqual([false, true, false, false, true, false]);
    expect(written).toMatchObject({ UPSTASH_REDIS_REST_TOKEN: "t0ken", ELEVENLABS_API_KEY: "sk-0123456789" });
    expect(commands.at(-1)).toContain(
      "--var ALLOWED_ORIGINS:https://app.example --var ELEVENLABS_AGENT_IDS:agent_1",
    );
  });

  test("does nothing where its plan is not wanted", async () => {
    const { commands, written, printed } = await run([], { answers: ["", "", "n"] });
    expect(commands).toEqual(["whoami --json", "secret list --format json"]);
    expect(written).toEqual({});
    expect(printed).toContain("secrets that are made: API_TOKEN, SESSION_TOKEN_SECRET, WEBHOOK_SECRET");
  });

  test.each([
    [
      ["api.example.com/* (zone name: example.com)", "api.example.com (custom domain)"],
      [],
      "https://api.example.com",
    ],
    [[`https://${HOST}`], [], URL_OF_WORKER],
    [["schedule: * * * * *"], ["--url", "https://edge.example/"], "https://edge.example"],
  ])("is looked at where wrangler put it, or where --url says: %j %j", async (targets, args, address) => {
    const { asked } = await run(args, { targets });
    expect(asked[0]?.url).toBe(`${address}/health`);
  });

  test("needs no Redis", async () => {
    const { written, commands } = await run(["--storage", "embedded"], { environment: {} });
    expect(Object.keys(written)).toEqual(["API_TOKEN", "SESSION_TOKEN_SECRET", "WEBHOOK_SECRET"]);
    expect(commands.at(-1)).toContain("--var STORAGE:embedded");
  });
});

describe("a dry run", () => {
  test("shows each command and the names of what would be written, and runs nothing", async () => {
    const { commands, asked, printed, failure } = await run([
      "--dry-run",
      "--var",
      "CONVERSATION_TTL_SECONDS=3600",
    ]);
    expect(failure).toBeNull();
    expect([commands, asked]).toEqual([[], []]);
    expect(printed).toBe(`A new Worker:
  secrets that are made: API_TOKEN, SESSION_TOKEN_SECRET, WEBHOOK_SECRET
  secrets that were given: UPSTASH_REDIS_REST_URL, UPSTASH_REDIS_REST_TOKEN
  variables: CONVERSATION_TTL_SECONDS, ELEVENLABS_AGENT_ENABLED
Would run:
  wrangler secret bulk   # reads the secrets from a pipe
  wrangler deploy --var CONVERSATION_TTL_SECONDS:… --var ELEVENLABS_AGENT_ENABLED:…
`);
  });
});

describe("done again", () => {
  const existing = ["API_TOKEN", "SESSION_TOKEN_SECRET", "WEBHOOK_SECRET", ...Object.keys(DATABASE)];

  test("it keeps the secrets and whatever was switched off, and asks for nothing", async () => {
    const { commands, asked, printed, questions, failure } = await run(["--yes"], {
      environment: {},
      existing,
      answers: [],
    });
    expect(failure).toBeNull();
    expect(commands).toEqual(["whoami --json", "secret list --format json", "deploy"]);
    expect(questions).toEqual([]);
    expect(asked.map(({ url }) => url)).toEqual([`${URL_OF_WORKER}/health`]);
    expect(printed).toContain("put it into the environment");
  });

  test("it looks at the configuration where the environment has the token, which it does not write", async () => {
    const API_TOKEN = "a-token-of-my-own-0123456789abcdef";
    const { asked, written } = await run([], { environment: { API_TOKEN }, existing });
    expect(asked.at(-1)).toEqual({
      url: `${URL_OF_WORKER}/config/health`,
      authorization: `Bearer ${API_TOKEN}`,
    });
    expect(written).toEqual({});
  });

  test("it sets anew what --rotate names, to what the environment gives or to something new", async () => {
    const one = await run(["--rotate", "WEBHOOK_SECRET"], { environment: {}, existing });
    expect(Object.keys(one.written)).toEqual(["WEBHOOK_SECRET"]);
    expect(one.printed).toContain(`WEBHOOK_SECRET=${one.written.WEBHOOK_SECRET}`);
    const all = await run(["--rotate", "all"], { environment: {}, existing });
    expect(Object.keys(all.written)).toEqual(["API_TOKEN", "SESSION_TOKEN_SECRET", "WEBHOOK_SECRET"]);
    const API_TOKEN = "a-new-token-0123456789abcdef-01234,an-old-token-0123456789abcdef-0123";
    const given = await run(["--rotate", "API_TOKEN"], { environment: { API_TOKEN }, existing });
    expect(given.written).toEqual({ API_TOKEN });
    expect(given.asked.at(-1)?.authorization).toBe("Bearer a-new-token-0123456789abcdef-01234");
  });

  test("a Worker without Redis stays one", async () => {
    const { failure, commands } = await run([], { environment: {}, existing: existing.slice(0, 3) });
    expect(failure).toBeNull();
    expect(commands.at(-1)).toBe("deploy");
  });
});

describe("a setup that fails", () => {
  test.each<[string, string[], Situation, RegExp]>([
    ["nobody is logged in", [], { failing: "login" }, /run npx wrangler login, or set CLOUDFLARE_API_TOKEN/],
    [
      "wrangler cannot look",
      [],
      { failing: "list" },
      /More than one account available\nwrangler could not say/,
    ],
    ["no database is named", [], { environment: {} }, /UPSTASH_REDIS_REST_URL is required unless STORAGE/],
    ["a secret is weak", [], { environment: { ...DATABASE, API_TOKEN: "s3cr3t" } }, /API_TOKEN entry 1: /],
    ["it would be open", ["--var", "REQUIRE_AUTH=false"], {}, /REQUIRE_AUTH is false/],
    ["an agent has no key", ["--agents", "agent_1"], {}, /ELEVENLABS_API_KEY is required for/],
    [
      "a receiver is in a private network",
      ["--var", "EVENTS_URL=https://10.0.0.1/"],
      {},
      /EVENTS_URL must be/,
    ],
    ["a secret is an option", ["--var", "API_TOKEN=s3cr3t"], {}, /^SetupFailure: API_TOKEN is a secret/],
    [
      "a provider's key is an option",
      ["--var", "OPENAI_API_KEY=s3cr3t"],
      {},
      /wrangler secret put OPENAI_API_KEY/,
    ],
    ["a variable is unknown", ["--var", "NO_SUCH=s3cr3t"], {}, /--var takes NAME=VALUE/],
    ["a secret to rotate is unknown", ["--rotate", "NO_SUCH"], {}, /--rotate takes/],
    ["an option is unknown", ["--force"], {}, /Unknown option '--force'/],
  ])("because %s has written nothing", async (_, args, situation, sentence) => {
    const { commands, written, printed, failure } = await run(args, situation);
    expect(failure).toMatch(/^SetupFailure: /);
    expect(failure).toMatch(sentence);
    expect(failure).not.toContain("s3cr3t");
    expect(written).toEqual({});
    expect(commands.filter((command) => /^(?:secret bulk|deploy)/.test(command))).toEqual([]);
    expect(printed).not.toContain("API_TOKEN=");
  });

  test("while secrets are written deploys nothing and shows none", async () => {
    const { commands, printed, failure } = await run([], { failing: "secret" });
    expect(failure).toContain("boom\nThe secrets were not written; nothing was deployed.");
    expect(commands.at(-1)).toBe("secret bulk");
    expect(printed).not.toContain("API_TOKEN=");
  });

  test("while it deploys has shown the secrets, which are in effect", async () => {
    const { written, printed, failure } = await run([], { failing: "deploy" });
    expect(failure).toContain("boom\nThe deployment failed. The secrets are written");
    expect(printed).toContain(`API_TOKEN=${written.API_TOKEN}`);
  });

  test("because the deployment is misconfigured names the variables", async () => {
    const problems = [{ variable: "WEBHOOK_SECRET", message: "is missing, so what it protects is closed" }];
    const { failure, printed } = await run([], {
      health: { ...HEALTHY, "/config/health": { status: "misconfigured", problems } },
    });
    expect(failure).toMatch(/not configured completely:\n {2}WEBHOOK_SECRET is missing/);
    expect(printed).not.toContain("curl");
  });

  test("because the storage does not answer says so", async () => {
    const { failure } = await run([], {
      health: { ...HEALTHY, "/health": { status: "degraded", storage: { lastError: "unauthorized" } } },
    });
    expect(failure).toContain("its storage does not answer as it should: unauthorized.");
  });

  test("because nobody answers as the Worker does gives up after a while", async () => {
    const { failure, asked } = await run([], { health: {} });
    expect(failure).toContain(`${URL_OF_WORKER}/health is not as it should be: it answers 404.`);
    expect(asked.length).toBeGreaterThan(10);
  });
});

describe("with the real wrangler", () => {
  test("secrets reach Cloudflare before the code does, by no command line and no file", async () => {
    const cloudflare = await startCloudflare();
    onTestFinished(() => cloudflare.close());
    const worker = createServer((request, response) => {
      const said = HEALTHY[request.url ?? ""];
      response.setHeader("content-type", "application/json").end(JSON.stringify(said));
    });
    await new Promise<void>((resolve) => worker.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => void worker.close());
    const home = mkdtempSync(join(tmpdir(), "setup-test-"));
    onTestFinished(() => rmSync(home, { recursive: true, force: true }));

    const url = `http://127.0.0.1:${(worker.address() as AddressInfo).port}`;
    const child = spawn(
      process.execPath,
      ["dev/setup.ts", "--url", url, "--origins", "https://app.example"],
      {
        env: {
          PATH: process.env.PATH ?? "",
          HOME: home,
          TMPDIR: home,
          ...cloudflare.environment,
          ...DATABASE,
        },
      },
    );
    const ended = once(child, "close");
    let printed = "";
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding("utf8").on("data", (piece: string) => {
        printed += piece;
      });
    const lines = new Set<string>();
    const watching = setInterval(() => {
      for (const line of commandLines()) lines.add(line);
    }, 50);
    const [code] = await ended;
    clearInterval(watching);
    expect([code, printed]).toEqual([0, expect.stringContaining("is configured completely")]);

    const secrets = cloudflare.secrets();
    expect(Object.keys(secrets).sort()).toEqual([
      ...[
        "API_TOKEN",
        "SESSION_TOKEN_SECRET",
        "UPSTASH_REDIS_REST_TOKEN",
        "UPSTASH_REDIS_REST_URL",
        "WEBHOOK_SECRET",
      ],
    ]);
    expect(cloudflare.uploads.at(-1)).toMatchObject({
      keep_bindings: expect.arrayContaining(["secret_text"]),
      bindings: expect.arrayContaining([
        { type: "plain_text", name: "ALLOWED_ORIGINS", text: "https://app.example" },
      ]),
    });
    expect(cloudflare.order).toEqual(["draft", "secrets", "deployment"]);
    for (const [name, value] of Object.entries(secrets)) {
      if (name === "UPSTASH_REDIS_REST_URL") continue;
      expect([...lines].filter((line) => line.includes(value))).toEqual([]);
      expect(filesWith(home, value)).toEqual([]);
    }
    if (process.platform === "linux") expect([...lines].join()).toContain("secret bulk");
  }, 120_000);
});

/** What every process of the machine shows of its command line. Linux tells; elsewhere the list is empty. */
function commandLines(): string[] {
  if (!existsSync("/proc/self/cmdline")) return [];
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
      } catch {
        return "";
      }
    });
}

function filesWith(directory: string, text: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => readFileSync(path).includes(text));
}
