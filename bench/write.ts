/** Puts the figures of a run where they are read: the tables into README.md, the plots into docs. */
import { readFile, writeFile } from "node:fs/promises";
import { cpus, loadavg } from "node:os";
import { join } from "node:path";
import type { Costs } from "./cost.ts";
import { markdownOf, median, type Table } from "./figures.ts";
import { barPlot } from "./plot.ts";
import { commandsOf, type Doings } from "./recording.ts";

const README = join(import.meta.dirname, "README.md");
/** What `scale.ts` reckons with. */
const COUNTS = join(import.meta.dirname, "counts.json");
const DOCS = join(import.meta.dirname, "../docs");

/** Between these lines of a document stands what the last run has written. */
const marks = (name: string) =>
  [`<!-- ${name}: written by the bench -->`, `<!-- end of ${name} -->`] as const;

/** Replaces what stands between the marks of `name` in a document. Throws where they are not there. */
export async function replaceBetween(file: string, name: string, text: string): Promise<void> {
  const document = await readFile(file, "utf8");
  const [begin, end] = marks(name);
  const [from, to] = [document.indexOf(begin), document.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`${file} has no marks for ${name}`);
  await writeFile(file, `${document.slice(0, from + begin.length)}\n\n${text}\n\n${document.slice(to)}`);
}

export function machine(): string {
  const [first] = cpus();
  const date = new Date().toISOString().slice(0, 10);
  const [, load = 0] = loadavg();
  const cores = `${cpus().length} cores (${first?.model.trim()})`;
  return `${date}, ${cores}, Node ${process.versions.node}, loopback; load average over five minutes, its own included, ${load.toFixed(1)}.`;
}

export async function writeFigures({
  tables,
  costs,
  doings,
}: {
  tables: readonly Table[];
  costs: ReadonlyMap<string, Costs>;
  doings: ReadonlyMap<string, Doings>;
}): Promise<void> {
  const counts = [...doings].map(([name, done]) => {
    const { objectCalls, rowsBilled } = done;
    const cpuMs = Number((median(costs.get(name)?.get("ours") ?? []) / 1_000).toFixed(2));
    return [name, { commands: commandsOf(done), objectCalls, rowsBilled, cpuMs }];
  });
  await writeFile(COUNTS, `${JSON.stringify(Object.fromEntries(counts), null, 2)}\n`);
  const sections = tables.map((table) => `**${table.title}**\n\n${markdownOf(table)}`);
  await replaceBetween(README, "cost", [machine(), ...sections].join("\n\n"));
  const bars = [...costs].map(([name, of]) => ({
    name,
    values: (["floor", "ours", "express"] as const).map((subject) => median(of.get(subject) ?? [])),
  }));
  const plot = barPlot({
    title: "CPU time a request, µs (log scale)",
    series: ["floor", "ours", "Express"],
    bars,
  });
  await writeFile(join(DOCS, "figure-cost.svg"), plot);
}
