/** The services that are compared, each in processes of its own. */
import { fork, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { SubjectName } from "./operations.ts";
import { cpuMsOf, rssBytesOf } from "./processes.ts";
import type { Workerd } from "./workerd.ts";

const PEERS = join(import.meta.dirname, "peers");

export type Subject = Pick<Workerd, "url" | "cpuMs" | "rssBytes" | "stop"> & { name: SubjectName };

/**
 * Installs what peers need, which the product does not: it stands in `bench/peers/package.json`, apart from the
 * repository's own. Returns whether it is there; says so in a line where it is not.
 */
export function hasPeers(): boolean {
  if (existsSync(join(PEERS, "node_modules/express"))) return true;
  console.log("Installing what is compared (Express, ioredis, unstorage, PartyServer …) into bench/peers …");
  const install = spawnSync("npm", ["ci", "--no-audit", "--no-fund"], { cwd: PEERS, encoding: "utf8" });
  if (install.status === 0) return true;
  const [reason = "npm failed"] = install.stderr.split("\n").filter((line) => line.startsWith("npm error"));
  console.log(`Peers are left out: they could not be installed (${reason}).`);
  return false;
}

export type ExpressOptions = { redisUrl: string; runnerUrl: string; signingSecret: string; workers: 1 | 2 };

export async function startExpress({
  redisUrl,
  runnerUrl,
  signingSecret,
  workers,
}: ExpressOptions): Promise<Subject> {
  const service = fork(join(PEERS, "express-service.mjs"), {
    // Its log goes nowhere, as that of workerd does.
    stdio: ["ignore", "ignore", "inherit", "ipc"],
    env: {
      ...process.env,
      NODE_ENV: "production",
      NODE_OPTIONS: "",
      REDIS_URL: redisUrl,
      RUNNER_URL: runnerUrl,
      SIGNING_SECRET: signingSecret,
      WORKERS: String(workers),
    },
  });
  const [{ port, pids }] = (await once(service, "message")) as [{ port: number; pids: number[] }];
  const sum = async (of: (pid: number) => Promise<number>) =>
    (await Promise.all(pids.map(of))).reduce((total, value) => total + value, 0);
  return {
    name: workers === 1 ? "express" : "express ×2",
    url: `http://127.0.0.1:${port}`,
    cpuMs: () => sum(cpuMsOf),
    rssBytes: () => sum(rssBytesOf),
    async stop() {
      const ended = once(service, "exit");
      service.disconnect();
      await ended;
    },
  };
}
