/**
 * The Worker's log, as people read it: one line of text for each event. It finds the JSON lines in what `wrangler dev`
 * prints and in what `wrangler tail --format json` says; whatever else stands there is not ours, and is left out.
 */
import { stripVTControlCharacters, styleText } from "node:util";
import type { LogLevel } from "../lib/log.ts";

export type LogLine = { level: LogLevel; event: string; time: string; [field: string]: unknown };

export type LogFilter = {
  conversationId?: string | undefined;
  /** Of the HTTP request, or of a callback. */
  requestId?: string | undefined;
  /** The least that is shown. */
  level?: LogLevel | undefined;
};

export const LOG_LEVELS = ["info", "warn", "error"] as const satisfies readonly LogLevel[];

/** A line of the Worker's in a line of text, whatever wrangler put around it; null where there is none. */
export function logLineIn(text: string): LogLine | null {
  const plain = stripVTControlCharacters(text);
  const start = plain.indexOf('{"level":');
  if (start === -1) return null;
  try {
    const line: unknown = JSON.parse(plain.slice(start));
    return isLogLine(line) ? line : null;
  } catch {
    return null;
  }
}

function isLogLine(value: unknown): value is LogLine {
  if (typeof value !== "object" || value === null) return false;
  const { level, event, time } = value as Partial<LogLine>;
  return LOG_LEVELS.some((known) => known === level) && typeof event === "string" && typeof time === "string";
}

/** What `wrangler tail` says of one invocation, as far as it is read. */
type Invocation = {
  outcome?: string;
  eventTimestamp?: number;
  logs?: { message?: unknown[] }[];
  exceptions?: { name?: string }[];
};

/** The lines of one invocation, and one of ours for how it ended where that is not well. */
function linesOf({ outcome = "ok", eventTimestamp, logs = [], exceptions = [] }: Invocation): LogLine[] {
  const lines = logs.flatMap(({ message: [text] = [] }) =>
    typeof text === "string" ? (logLineIn(text) ?? []) : [],
  );
  if (outcome === "ok" && exceptions.length === 0) return lines;
  const time = new Date(eventTimestamp ?? Date.now()).toISOString();
  const level = outcome === "canceled" ? "warn" : "error";
  return [
    ...lines,
    { level, event: `platform.${outcome}`, time, exceptions: exceptions.map(({ name = "" }) => name) },
  ];
}

/**
 * Reads text in pieces, as they come: JSON lines, or the invocations of `wrangler tail`, each over many lines. Returns
 * the lines of the Worker's log that are complete.
 */
export function createLogReader(): (piece: string) => LogLine[] {
  let rest = "";
  let invocation: string[] = [];
  return (piece) => {
    const lines = (rest + piece).split("\n");
    rest = lines.pop() ?? "";
    return lines.flatMap((text) => {
      const line = text.replace(/\r$/, "");
      if (line === "{") {
        invocation = [line];
        return [];
      }
      if (invocation.length === 0) return linesOfInvocation(line) ?? logLineIn(line) ?? [];
      invocation.push(line);
      if (line !== "}") return [];
      const whole = invocation.join("\n");
      invocation = [];
      return linesOfInvocation(whole) ?? [];
    });
  };
}

function linesOfInvocation(text: string): LogLine[] | null {
  if (!text.startsWith("{")) return null;
  try {
    const said = JSON.parse(text) as Invocation;
    return Array.isArray(said.logs) ? linesOf(said) : null;
  } catch {
    return null;
  }
}

export function isWanted(line: LogLine, { conversationId, requestId, level = "info" }: LogFilter): boolean {
  if (LOG_LEVELS.indexOf(line.level) < LOG_LEVELS.indexOf(level)) return false;
  if (conversationId !== undefined && line.conversationId !== conversationId) return false;
  if (requestId === undefined) return true;
  const { requestId: ofRequest, callbackRequestId, callbackRequestIds } = line;
  return [ofRequest, callbackRequestId, callbackRequestIds].flat().includes(requestId);
}

const COLOURS = { info: "green", warn: "yellow", error: "red" } as const;

/** One line for people: time, level, event, whose it is, and what else it says. */
export function pretty(line: LogLine, { colours }: { colours: boolean }): string {
  const { level, event, time, conversationId, callbackRequestId, callbackRequestIds, ...fields } = line;
  const style = (format: Parameters<typeof styleText>[0], text: string) =>
    colours ? styleText(format, text, { validateStream: false }) : text;
  const ids = [conversationId, callbackRequestId ?? callbackRequestIds]
    .flat()
    .filter((id) => id !== undefined);
  const rest = Object.entries(fields).map(([name, value]) => style("dim", `${name}=${shown(value)}`));
  const parts = [
    style("dim", shown(time.slice(11, 23))),
    style(COLOURS[level], level.padEnd(5)),
    style("bold", shown(event).padEnd(18)),
    ...ids.map(shown),
    ...rest,
  ];
  return parts.join(" ");
}

/** Senders choose ids, and a terminal obeys control characters: whatever is not plain is written as JSON. */
function shown(value: unknown): string {
  if (typeof value === "string" && /^[\w.:/+@-]+$/.test(value)) return value;
  return JSON.stringify(value).replace(
    /[^\x20-\x7e]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
