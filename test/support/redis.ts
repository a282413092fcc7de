/**
 * A real redis-server of the test's own: on a free port of the loopback, in a temporary directory, and able
 * to stop, restart and freeze, which no shared server is. Nothing of it outlives the test.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { freePort } from "../../dev/free-port.ts";

export type RedisServer = {
  /** `redis://127.0.0.1:<port>`; the same after a restart. */
  url: string;
  port: number;
  /** Of the process that runs now. */
  readonly pid: number;
  /** A connection of the test's own; it reconnects by itself after a restart. */
  client: Redis;
  /** Ends the server and removes its directory. */
  stop(): Promise<void>;
  /** Ends the server in the middle of whatever it does; `restart` brings it back. */
  kill(): Promise<void>;
  /** Ends the server and starts it anew on the same port, empty unless `keepData`. */
  restart(): Promise<void>;
  /** Stops the process in its tracks: connections stay open and nothing answers. */
  freeze(): void;
  /** Lets a frozen server go on. */
  thaw(): void;
};

export type RedisServerOptions = {
  /** What is not covered where there is no redis-server, for the one line that says so. */
  covers: string;
  /** Write every change to disk, so that it is there after a restart. */
  keepData?: boolean;
};

/** Starts a server and waits until it answers. Null, after one line on the console, where there is no binary. */
export async function startRedis({
  covers,
  keepData = false,
}: RedisServerOptions): Promise<RedisServer | null> {
  const directory = await mkdtemp(join(tmpdir(), "redis-"));
  const port = await freePort();
  const run = () => runServer(port, directory, keepData);

  let server: ChildProcess;
  try {
    server = await run();
  } catch (error) {
    await rm(directory, { recursive: true, force: true });
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    console.warn(`redis-server is not installed; not covered by this run: ${covers}`);
    return null;
  }

  const url = `redis://127.0.0.1:${port}`;
  const client = new Redis(url, { retryStrategy: () => 50, maxRetriesPerRequest: null, protocol: 2 });
  // Broken connections are what these servers are for; the command that meets one still fails.
  client.on("error", () => {});

  return {
    url,
    port,
    get pid() {
      return server.pid ?? 0;
    },
    client,
    async stop() {
      client.disconnect();
      await end(server);
      await rm(directory, { recursive: true, force: true });
    },
    kill: () => end(server, "SIGKILL"),
    async restart() {
      await end(server);
      server = await run();
    },
    freeze: () => void server.kill("SIGSTOP"),
    thaw: () => void server.kill("SIGCONT"),
  };
}

/** Resolves when the server answers. Rejects with ENOENT where there is no binary. */
async function runServer(port: number, directory: string, keepData: boolean): Promise<ChildProcess> {
  const options = { port, bind: "127.0.0.1", dir: directory, save: "", appendonly: keepData ? "yes" : "no" };
  const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const server = spawn("redis-server", [...args, "--appendfsync", "always"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  // The test runner may be stopped before the test can clean up.
  const endWithUs = () => server.kill("SIGKILL");
  process.once("exit", endWithUs);
  server.once("exit", () => process.off("exit", endWithUs));

  await new Promise<void>((resolve, reject) => {
    let log = "";
    server.once("error", reject);
    server.once("exit", (code) => reject(new Error(`redis-server ended with ${code}: ${log}`)));
    server.stdout?.on("data", (chunk) => {
      log += chunk;
      if (log.includes("eady to accept connections")) resolve();
    });
  });
  return server;
}

async function end(server: ChildProcess, signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) return;
  const ended = once(server, "exit");
  server.kill("SIGCONT");
  server.kill(signal);
  await ended;
}
