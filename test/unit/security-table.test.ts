/** SECURITY.md promises that a test shows each defence. This keeps the promise from going stale. */
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

const text = readFileSync("SECURITY.md", "utf8");

type Threat = { who: string; cells: string[]; shownBy: { file: string; title: string }[] };

/** The rows below "Threats". Their last cell names files in backquotes, each followed by titles in quotation marks. */
function threatsIn(markdown: string): Threat[] {
  const section = /^## Threats\n([\s\S]*?)^## /m.exec(markdown)?.[1] ?? "";
  const rows = section.split("\n").filter((line) => line.startsWith("| "));
  return rows.slice(1).map((row) => {
    const cells = row.split("|").map((cell) => cell.trim());
    const [who = "", tries = "", stops = "", tests = ""] = cells.slice(1, -1);
    let file = "";
    const shownBy: Threat["shownBy"] = [];
    for (const [, path, title] of tests.matchAll(/`([^`]+)`|"([^"]+)"/g)) {
      if (path !== undefined) file = path;
      if (title !== undefined) shownBy.push({ file, title });
    }
    return { who: `${who}: ${tries}`, cells: [who, tries, stops, tests], shownBy };
  });
}

/** The titles of tests and of their cases in a file, with `…` for what a case fills in. */
function titlesIn(source: string): Set<string> {
  const titles = source.matchAll(/"((?:[^"\\\n]|\\.)+)",\s*(?:async\s*)?(?:\(|\w+ =>)/g);
  return new Set([...titles].map(([, title = ""]) => title.replace(/%[sdifjo]/g, "…")));
}

function isShown({ file, title }: { file: string; title: string }): boolean {
  return existsSync(file) && titlesIn(readFileSync(file, "utf8")).has(title);
}

describe("the table of threats", () => {
  const threats = threatsIn(text);

  test("has a row for everything that can be attacked", () => {
    expect(threats.length).toBeGreaterThanOrEqual(20);
  });

  test.each(threats)("names tests that exist: $who", ({ cells, shownBy }) => {
    expect(cells).not.toContain("");
    expect(shownBy).not.toEqual([]);
    expect(shownBy.filter((shown) => !isShown(shown))).toEqual([]);
  });

  test("would not pass with a test that does not exist", () => {
    const [file, title] = ["test/worker/doors.test.ts", "sent twice is no credential"];
    expect(isShown({ file, title })).toBe(true);
    expect(isShown({ file, title: `${title}s` })).toBe(false);
    expect(isShown({ file: "test/worker/windows.test.ts", title })).toBe(false);
    expect(threatsIn("## Threats\n| a | b | c | d |\n|---|---|---|---|\n| x | y | z | |\n\n## More")).toEqual(
      [{ who: "x: y", cells: ["x", "y", "z", ""], shownBy: [] }],
    );
  });
});

type Locked = {
  version: string;
  integrity?: string;
  hasInstallScript?: boolean;
  link?: boolean;
  os?: string | string[];
};

describe("what is installed", () => {
  const manifest = (path: string) =>
    JSON.parse(readFileSync(path, "utf8")) as Record<string, Record<string, string>>;
  const { dependencies, devDependencies, allowScripts, ...others } = manifest("package.json");
  const { optionalDependencies } = manifest("dev/node/package.json");
  const { packages } = JSON.parse(readFileSync("package-lock.json", "utf8")) as {
    packages: Record<string, Locked>;
  };
  // All but what is in this repository.
  const locked = Object.entries(packages).filter(
    ([path, { link }]) => path.startsWith("node_modules/") && link !== true,
  );

  test("are four packages of the product's own, and every version is exact", () => {
    expect(Object.keys(dependencies ?? {})).toEqual(["@upstash/redis", "hono", "lru-cache", "valibot"]);
    for (const version of Object.values({ ...dependencies, ...devDependencies, ...optionalDependencies }))
      expect(version).toMatch(/^\d+\.\d+\.\d+(?:-[\w.]+)?$/);
  });

  test("is pinned by its checksum, but for the parts of two tools on other platforms, which SECURITY.md names", () => {
    const unpinned = locked.filter(([, { integrity }]) => !integrity?.startsWith("sha512-"));
    for (const [path, { os }] of unpinned) {
      expect(path).toMatch(/^node_modules\/@(?:biomejs\/cli|cloudflare\/workerd)-/);
      expect(os).toHaveLength(1);
    }
    // On what the tests run on nothing is left out.
    expect(unpinned.map(([path]) => path)).not.toContain("node_modules/@cloudflare/workerd-linux-64");
    expect(unpinned).toHaveLength(11);
  });

  test("runs two scripts of its own at installation, and nothing fetches what the lockfile does not name", () => {
    const scripted = locked.filter(([, { hasInstallScript }]) => hasInstallScript).map(([path]) => path);
    expect(scripted).toEqual(["node_modules/esbuild", "node_modules/workerd"]);
    expect(Object.keys(allowScripts ?? {}).toSorted()).toEqual(["esbuild", "workerd"]);
  });

  test("brings a Node for each platform, by its checksum, and none to who installs the package", () => {
    expect(others.optionalDependencies).toBeUndefined();
    const nodes = Object.entries(optionalDependencies ?? {});
    expect(nodes.length).toBeGreaterThanOrEqual(5);
    for (const [name, version] of nodes) {
      expect(packages[`node_modules/${name}`]).toMatchObject({
        version,
        integrity: expect.stringMatching(/^sha512-/),
        os: expect.anything(),
      });
    }
  });
});
