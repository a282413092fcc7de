/** The package as it would be published: packed by npm, and unpacked where a program would have it. */
import { spawnSync } from "node:child_process";
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

export type Project = {
  /** Where the package is. */
  directory: string;
  /** Writes a file of the project. */
  write(file: string, text: string): void;
  /** What the compiler says; nothing where all is well. */
  compile(compilerOptions?: object): string;
  /** Runs a compiled file, and returns what it printed. Throws what it complained of. */
  run(file: string, environment: Record<string, string>): string;
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
    run: (file, environment) =>
      must(process.execPath, [join(directory, "built", file)], directory, environment),
    remove: () => rmSync(directory, { recursive: true, force: true }),
  };
}

/** Runs a program to its end and returns what it printed. Throws where it fails. */
function must(
  program: string,
  args: string[],
  cwd: string,
  environment: Record<string, string> = {},
): string {
  const { status, stdout, stderr } = spawnSync(program, args, {
    cwd,
    encoding: "utf8",
    env: { ...process.env, ...environment },
  });
  if (status !== 0) throw new Error(`${program} ${args[0]} ended with ${status}:\n${stdout}${stderr}`);
  return stdout;
}
