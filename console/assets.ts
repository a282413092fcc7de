/** The files that the Worker serves as they are: the directory of `[assets]` in wrangler.toml. Each build writes its own. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

export const ASSETS = join(import.meta.dirname, "../dist/assets");

/** Writes one of them, by its path in the directory. */
export function writeAsset(path: string, content: string): void {
  writeIfChanged(join(ASSETS, path), content);
}

/** A file that is written anew would make `wrangler dev` build again, for ever. */
export function writeIfChanged(path: string, content: string): void {
  if (existsSync(path) && readFileSync(path, "utf8") === content) return;
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
}
