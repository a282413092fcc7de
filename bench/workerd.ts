/**
 * A Worker in a workerd process of its own: the production runtime without Miniflare's proxies, with SQLite
 * objects on disk and nothing but the loopback to talk to. Its CPU time is read from /proc, so this is for Linux.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { cpuMsOf, rssBytesOf } from "./processes.ts";

const WORKERD = join(import.meta.dirname, "../node_modules/workerd/bin/workerd");

/** A file system that waits for no disk. */
const MEMORY = "/dev/shm";

export type WorkerOptions = {
  /** Sources of modules by name; the first one is the Worker. */
  modules: Record<string, string>;
  bindings: Record<string, string>;
  /** Names of object namespaces, and the classes they hold. */
  objects: Record<string, string>;
  compatibilityDate: string;
  /** Where its objects keep their files. Default: the disk that temporary files are on. */
  filesIn?: "memory" | "disk";
  /** Arguments for workerd, such as `--inspector-addr=127.0.0.1:9229` for a profile. */
  args?: readonly string[];
};

export type Workerd = {
  url: string;
  pid: number;
  /** CPU time of the process since its start, all threads and the kernel's work for it included, in ms. */
  cpuMs(): Promise<number>;
  /** Memory of the process that is in RAM, in bytes. */
  rssBytes(): Promise<number>;
  /** How many files, sockets included, it has open, and how many it may. */
  files(): Promise<{ open: number; limit: number }>;
  /** Ends the process and removes what its objects stored. */
  stop(): Promise<void>;
};

export async function startWorkerd(options: WorkerOptions): Promise<Workerd> {
  const directory = await mkdtemp(join(options.filesIn === "memory" ? MEMORY : tmpdir(), "workerd-"));
  await mkdir(join(directory, "objects"));
  for (const [name, source] of Object.entries(options.modules))
    await writeFile(join(directory, name), source);
  const config = join(directory, "config.capnp");
  await writeFile(config, configOf(options, join(directory, "objects")));

  // The log goes nowhere, so that reading it is nobody's cost; with BENCH_VERBOSE what is wrong is shown. The port
  // comes by a descriptor of its own.
  const workerd = spawn(WORKERD, ["serve", config, "--control-fd=3", ...(options.args ?? [])], {
    stdio: ["ignore", "ignore", process.env.BENCH_VERBOSE === undefined ? "ignore" : "inherit", "pipe"],
  });
  const endWithUs = () => workerd.kill("SIGKILL");
  process.once("exit", endWithUs);
  workerd.once("exit", () => process.off("exit", endWithUs));
  const stop = async () => {
    await end(workerd);
    await rm(directory, { recursive: true, force: true });
  };
  try {
    const port = await portOf(workerd);
    const { pid } = workerd;
    if (pid === undefined) throw new Error("workerd has no process id");
    return {
      url: `http://127.0.0.1:${port}`,
      pid,
      cpuMs: () => cpuMsOf(pid),
      rssBytes: () => rssBytesOf(pid),
      files: () => filesOf(pid),
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function portOf(workerd: ChildProcess): Promise<number> {
  const control = workerd.stdio[3] as Readable;
  const listening = async () => {
    let text = "";
    for await (const chunk of control.iterator({ destroyOnReturn: false })) {
      text += chunk;
      const port = /"event":"listen","socket":"http","port":(\d+)/.exec(text)?.[1];
      if (port !== undefined) return Number(port);
    }
    throw new Error("workerd ended before it listened");
  };
  // Without the binary there is no end of the stream, but an error.
  const failed = once(workerd, "exit").then(() => Promise.reject(new Error("workerd did not start")));
  return Promise.race([listening(), failed]);
}

async function end(workerd: ChildProcess): Promise<void> {
  if (workerd.pid === undefined || workerd.exitCode !== null || workerd.signalCode !== null) return;
  const ended = once(workerd, "exit");
  // Asked to end it would wait for those who are connected.
  workerd.kill("SIGKILL");
  await ended;
}

async function filesOf(pid: number): Promise<{ open: number; limit: number }> {
  const [open, limits] = [await readdir(`/proc/${pid}/fd`), await readFile(`/proc/${pid}/limits`, "utf8")];
  return { open: open.length, limit: Number(/^Max open files\s+(\d+)/m.exec(limits)?.[1]) };
}

/** Cap'n Proto's text format takes strings and lists as JSON has them. */
function configOf({ modules, bindings, objects, compatibilityDate }: WorkerOptions, disk: string): string {
  const text = JSON.stringify;
  const list = (items: string[]) => `[${items.join(", ")}]`;
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "worker", worker = .worker),
    (name = "loopback", network = (allow = ["local"])),
    (name = "disk", disk = (path = ${text(disk)}, writable = true)),
  ],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "worker")],
);
const worker :Workerd.Worker = (
  modules = ${list(Object.keys(modules).map((name) => `(name = ${text(name)}, esModule = embed ${text(name)})`))},
  compatibilityDate = ${text(compatibilityDate)},
  bindings = ${list([
    ...Object.entries(bindings).map(([name, value]) => `(name = ${text(name)}, text = ${text(value)})`),
    ...Object.entries(objects).map(
      ([name, className]) => `(name = ${text(name)}, durableObjectNamespace = ${text(className)})`,
    ),
  ])},
  durableObjectNamespaces = ${list(
    Object.values(objects).map(
      (className) => `(className = ${text(className)}, uniqueKey = ${text(className)}, enableSql = true)`,
    ),
  )},
  durableObjectStorage = (localDisk = "disk"),
  globalOutbound = "loopback",
);
`;
}
