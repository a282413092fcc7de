/** Builds the console into the Worker's assets. wrangler runs it before it builds the Worker. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { buildSync } from "esbuild";
import { writeAsset } from "./assets.ts";

const here = (name: string) => join(import.meta.dirname, name);

const { outputFiles } = buildSync({
  entryPoints: [here("page/console.ts"), here("page/console.css")],
  outdir: here("page"),
  bundle: true,
  minify: true,
  format: "esm",
  // What a browser of the last two years runs.
  target: ["chrome123", "firefox120", "safari17.5"],
  write: false,
  logLevel: "warning",
});
for (const { path, text } of outputFiles) writeAsset(`console/${path.slice(here("page/").length)}`, text);
for (const name of ["index.html", "icon.svg"]) {
  writeAsset(`console/${name}`, readFileSync(here(`page/${name}`), "utf8"));
}
