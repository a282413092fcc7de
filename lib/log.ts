/**
 * Structured logs: one JSON object a line, `{level, event, time, requestId, conversationId?, …}`.
 *
 * A field holds an id, a code, a count or a name. Never a payload, a URL's query string, a token, a header
 * value or the text of a client's error: whoever reads the logs must not be able to join a conversation.
 */

export type LogLevel = "info" | "warn" | "error";

export type LogEvent =
  | "session.registered"
  | "session.replaced"
  | "session.ended"
  | "callback.received"
  | "callback.duplicate"
  | "callback.queued"
  | "result.settled"
  | "result.corrected"
  | "result.again"
  | "task.opened"
  | "task.failed"
  | "task.cancelled"
  | "task.progress"
  | "messages.dropped"
  | "report.appended"
  | "report.acknowledged"
  | "push.failed"
  | "relay.refused"
  | "relay.nack"
  | "relay.unknown_frame"
  | "proxy.refused"
  | "provider.failed"
  | "provider.unauthorized"
  | "event.failed"
  | "event.dropped"
  | "record.unreadable"
  | "storage.degraded"
  | "storage.recovered"
  | "auth.rejected"
  | "feature.disabled"
  | "request.failed";

export type LogFields = Record<string, string | number | boolean | null | undefined | readonly string[]>;

export interface Logger {
  info(event: LogEvent, fields?: LogFields): void;
  warn(event: LogEvent, fields?: LogFields): void;
  error(event: LogEvent, fields?: LogFields): void;
  /** A logger whose every line also carries `fields`. */
  with(fields: LogFields): Logger;
}

export type LogOptions = {
  /** The clock, in ms since the epoch. */
  now: () => number;
  /** Takes one finished line. Default: the console, by level, which Workers Logs index as JSON. */
  write?: (level: LogLevel, line: string) => void;
};

const toConsole = (level: LogLevel, line: string): void => console[level](line);

/** Says that work which nobody waits for has failed; of the error only its kind. */
export function logFailure(log: Logger, operation: string, error: unknown): void {
  log.error("request.failed", {
    operation,
    error: error instanceof Error ? error.name : typeof error,
  });
}

/** A logger that writes one line of JSON per event. Undefined fields are left out. */
export function createLogger(options: LogOptions, bound: LogFields = {}): Logger {
  return new JsonLogger(options, bound);
}

/** A class, because there is one for each request and each result, most of which write a line or none. */
class JsonLogger implements Logger {
  readonly #options: LogOptions;
  readonly #bound: LogFields;

  constructor(options: LogOptions, bound: LogFields) {
    this.#options = options;
    this.#bound = bound;
  }

  info(event: LogEvent, fields?: LogFields): void {
    this.#emit("info", event, fields);
  }

  warn(event: LogEvent, fields?: LogFields): void {
    this.#emit("warn", event, fields);
  }

  error(event: LogEvent, fields?: LogFields): void {
    this.#emit("error", event, fields);
  }

  with(fields: LogFields): Logger {
    return new JsonLogger(this.#options, { ...this.#bound, ...fields });
  }

  #emit(level: LogLevel, event: LogEvent, fields: LogFields | undefined): void {
    const { now, write = toConsole } = this.#options;
    const time = new Date(now()).toISOString();
    write(level, JSON.stringify({ level, event, time, ...this.#bound, ...fields }));
  }
}
