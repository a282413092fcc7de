/**
 * The log of `npm start`, kept in its state folder for `npm run tail`: the Worker's own lines and nothing else, readable
 * by one user, and never longer than it may be.
 */
import {
  appendFileSync,
  chmodSync,
  closeSync,
  existsSync,
  fstatSync,
  openSync,
  readSync,
  renameSync,
  statSync,
} from "node:fs";
import { join } from "node:path";
import { StringDecoder } from "node:string_decoder";
import { setTimeout as sleep } from "node:timers/promises";
import { createLogReader, type LogLine } from "./log-lines.ts";

/** A file that is full becomes the old one; so at most twice this is kept. */
export const MAX_LOG_BYTES = 4 * 1024 * 1024;
const POLL_MS = 200;

const pathsIn = (directory: string) => ({
  current: join(directory, "log.ndjson"),
  old: join(directory, "log.old.ndjson"),
});

/**
 * Keeps the lines of the Worker's log. Each call of what it returns makes a reader of one stream: it takes the output
 * of `wrangler dev` in pieces.
 */
export function keepLog(directory: string, maxBytes = MAX_LOG_BYTES): () => (piece: string) => void {
  const { current, old } = pathsIn(directory);
  const append = (text: string) => appendFileSync(current, text, { mode: 0o600 });
  append("");
  chmodSync(current, 0o600);
  let bytes = statSync(current).size;
  const keep = (line: LogLine) => {
    const text = `${JSON.stringify(line)}\n`;
    const length = Buffer.byteLength(text);
    if (bytes + length > maxBytes) {
      renameSync(current, old);
      bytes = 0;
    }
    append(text);
    bytes += length;
  };
  return () => {
    const read = createLogReader();
    return (piece) => read(piece).forEach(keep);
  };
}

/** The text of a log that is kept, in pieces; with `follows` also what comes later, until the signal. */
export async function* readLog(
  directory: string,
  { follows, signal }: { follows: boolean; signal?: AbortSignal },
): AsyncGenerator<string> {
  const { current, old } = pathsIn(directory);
  if (existsSync(old)) yield* textOf(openSync(old, "r"), { closes: true });
  for (let file: number | null = null; ; ) {
    // Looked at first: what is written before a file is put aside is still read in it.
    const isAnother = existsSync(current) && (file === null || fstatSync(file).ino !== statSync(current).ino);
    if (file !== null) yield* textOf(file, { closes: isAnother });
    if (isAnother) {
      file = openSync(current, "r");
      continue;
    }
    if (!follows || signal?.aborted) return;
    await sleep(POLL_MS);
  }
}

/** What stands in an open file behind the place up to which it was read. */
function* textOf(file: number, { closes }: { closes: boolean }): Generator<string> {
  const buffer = Buffer.alloc(64 * 1024);
  const decoder = new StringDecoder();
  for (let count = readSync(file, buffer); count > 0; count = readSync(file, buffer))
    yield decoder.write(buffer.subarray(0, count));
  if (closes) closeSync(file);
}
