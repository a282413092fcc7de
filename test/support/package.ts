/** The package as it would be published: packed by npm, and unpacked where a program would have it. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";

const ROOT = resolve(import.meta.dirname, "../..");

/** The settings of a careful beginner. Declarations of packages are checked too. */
const TSCONFIG = {
  compilerOptions: {
    strict: true,
    noUncheckedIndexedAccess: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: false,
    target: "ES2023",
    module: "NodeNext",
    types: ["node"],
    outDir: "built",
    rootDir: ".",
  },
  include: ["*.ts"],
};

export type Running = {
  /** Resolves with what it printed when it has ended by itself; rejects with what it complained of. */
  ended: Promise<string>;
  stop(): void;
};

export type Project = {
  /** Where the package is. */
  directory: string;
  /** Writes a file of the project. */
  write(file: string, text: string): void;
  /** What the compiler says; nothing where all is well. */
  compile(compilerOptions?: object): string;
  /** Starts a compiled file. */
  start(file: string, environment: Record<string, string>): Running;
  remove(): void;
};

/**
 * An empty project in which the package is installed, with its dependencies and `beside` as they are here: no registry
 * is asked.
 */
export function createProject(beside: readonly string[] = []): Project {
  const directory = mkdtempSync(join(tmpdir(), "edge-agent-sessions-project-"));
  const modules = join(directory, "node_modules");
  const installed = join(modules, "edge-agent-sessions");
  mkdirSync(installed, { recursive: true });
  must("npm", ["pack", "--pack-destination", directory], ROOT);
  const [tarball = ""] = readdirSync(directory).filter((file) => file.endsWith(".tgz"));
  must("tar", ["-xzf", join(directory, tarball), "--strip-components=1", "-C", installed], ROOT);
  for (const name of beside) {
    const link = join(modules, name);
    mkdirSync(dirname(link), { recursive: true });
    symlinkSync(join(ROOT, "node_modules", name), link);
  }
  const write = (file: string, text: string) => writeFileSync(join(directory, file), text);
  write("package.json", JSON.stringify({ name: "project", private: true, type: "module" }));

  return {
    directory: installed,
    write,
    compile(compilerOptions = {}) {
      const options = { ...TSCONFIG.compilerOptions, ...compilerOptions };
      write("tsconfig.json", JSON.stringify({ ...TSCONFIG, compilerOptions: options }));
      return spawnSync(join(ROOT, "node_modules/.bin/tsc"), ["-p", directory], { encoding: "utf8" }).stdout;
    },
    start(file, environment) {
      const child = spawn(process.execPath, [join(directory, "built", file)], {
        env: { ...process.env, ...environment },
        stdio: ["ignore", "pipe", "pipe"],
      });
      let [printed, complained] = ["", ""];
      child.stdout.on("data", (chunk) => {
        printed += chunk;
      });
      child.stderr.on("data", (chunk) => {
        complained += chunk;
      });
      const ended = once(child, "close").then(([code]) => {
        if (code !== 0) throw new Error(`${file} ended with ${code}:\n${printed}${complained}`);
        return printed;
      });
      // Whoever stops it does not ask how it ended.
      ended.catch(() => {});
      return { ended, stop: () => void child.kill() };
    },
    remove: () => rmSync(directory, { recursive: true, force: true }),
  };
}

/** Runs a program to its end. Throws where it fails. */
function must(program: string, args: string[], cwd: string): void {
  const { status, stdout, stderr } = spawnSync(program, args, { cwd, encoding: "utf8" });
  if (status !== 0) throw new Error(`${program} ${args[0]} ended with ${status}:\n${stdout}${stderr}`);
}
