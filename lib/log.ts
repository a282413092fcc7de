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
export function createLogger({ now, write = toConsole }: LogOptions, bound: LogFields = {}): Logger {
  const emit = (level: LogLevel) => (event: LogEvent, fields?: LogFields) =>
    write(level, JSON.stringify({ level, event, time: new Date(now()).toISOString(), ...bound, ...fields }));
  return {
    info: emit("info"),
    warn: emit("warn"),
    error: emit("error"),
    with: (fields) => createLogger({ now, write }, { ...bound, ...fields }),
  };
}
