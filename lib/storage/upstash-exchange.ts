/**
 * One exchange with Upstash's REST API: a request, a checked answer, or a failure of a known kind.
 *
 * It stands in for the exchange of Upstash's own client, which cannot be asked what went wrong: that one
 * drops the HTTP status (a 503 and a wrong command both become an UpstashError), writes the whole command
 * into the message, throws the same TypeError for a dead network and for an answer of a wrong shape, and
 * takes `[{}]` from a pipeline for an absent value. Protocol: https://upstash.com/docs/redis/features/restapi
 */
import type { StorageFailure } from "../errors.ts";
import { endedInTime, type InTime, pause } from "../patience.ts";
import type { UpstashCommand } from "./upstash-commands.ts";

export type UpstashExchangeOptions = {
  /** `https://…`, without a path. */
  url: string;
  token: string;
  /** Milliseconds for the whole exchange: both attempts, the pause between them and the answer's body. */
  timeoutMs: number;
  /** How it is given up; by a signal of its own otherwise. */
  inTime?: InTime;
};

/** An exchange that failed. The message says only how; `cause` may hold what the server said. */
export class UpstashExchangeError extends Error {
  override readonly name = "UpstashExchangeError";
  readonly failure: StorageFailure;
  constructor(failure: StorageFailure, options?: { cause?: unknown }) {
    super(`exchange with Upstash failed (${failure})`, options);
    this.failure = failure;
  }
}

const RETRY_AFTER_MS = 50;

/**
 * Sends one request and returns the results of its commands. Throws UpstashExchangeError: also where any of them failed,
 * and where the answer is not one `result` for each command, so that garbage never reads as an absent key.
 */
export type UpstashExchange = {
  send(command: UpstashCommand): Promise<unknown>;
  /** All or none. */
  transaction(commands: readonly UpstashCommand[]): Promise<unknown[]>;
  /** One after the other, each by itself. */
  pipeline(commands: readonly UpstashCommand[]): Promise<unknown[]>;
};

export function createUpstashExchange({
  url,
  token,
  timeoutMs,
  inTime = endedInTime(),
}: UpstashExchangeOptions): UpstashExchange {
  const baseUrl = url.replace(/\/$/, "");
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  // Sent back with every request, so that no replica answers that has not seen our own writes.
  let syncToken = "";

  async function post(
    path: string,
    body: string,
    attempts: number,
    deadline: { readonly aborted: boolean },
    signal: AbortSignal | undefined,
  ): Promise<{ response: Response; text: string }> {
    for (let attempt = 1; ; attempt++) {
      try {
        const response = await fetch(baseUrl + path, {
          method: "POST",
          headers: syncToken === "" ? headers : { ...headers, "upstash-sync-token": syncToken },
          body,
          // Following a redirect would turn the POST into a GET.
          redirect: "manual",
          ...(signal && { signal }),
        });
        return { response, text: await response.text() };
      } catch (cause) {
        if (deadline.aborted) throw cause;
        if (!URL.canParse(baseUrl)) throw new UpstashExchangeError("rejected", { cause });
        if (attempt >= attempts) throw new UpstashExchangeError("network", { cause });
        await pause(RETRY_AFTER_MS);
        if (deadline.aborted) throw cause;
      }
    }
  }

  async function ask<T>(
    path: string,
    body: UpstashCommand | readonly UpstashCommand[],
    read: (answer: unknown) => T,
  ): Promise<T> {
    const attempts = isRepeatable(body) ? 2 : 1;
    const asked = JSON.stringify(body);
    let answered: { response: Response; text: string };
    try {
      answered = await inTime(timeoutMs, (deadline, signal) => post(path, asked, attempts, deadline, signal));
    } catch (cause) {
      throw cause instanceof UpstashExchangeError ? cause : new UpstashExchangeError("timeout", { cause });
    }
    const { response, text } = answered;
    if (!response.ok) {
      throw new UpstashExchangeError(failureOf(response.status, text), { cause: new Error(text) });
    }
    syncToken = response.headers.get("upstash-sync-token") ?? "";
    return read(parse(text));
  }

  const askAll = (path: string, commands: readonly UpstashCommand[]) =>
    ask(path, commands, (answer) => {
      if (!Array.isArray(answer) || answer.length !== commands.length)
        throw new UpstashExchangeError("invalid_response");
      return answer.map(resultOf);
    });

  return {
    send: (command) => ask("", command, resultOf),
    transaction: (commands) => askAll("/multi-exec", commands),
    pipeline: (commands) => askAll("/pipeline", commands),
  };
}

/** A script may not be repeated after it has possibly run; every other command that is sent here may. */
function isRepeatable([name]: UpstashCommand): boolean {
  return name !== "eval";
}

function failureOf(status: number, text: string): StorageFailure {
  if (status === 429) return "rate_limited";
  if (status >= 500) return "server_error";
  return status >= 400 ? failureOfError(text) : "invalid_response";
}

/** Errors of a server that takes no commands for the moment; any other is about the command. */
const NOT_NOW = /\b(?:LOADING|MASTERDOWN|CLUSTERDOWN|READONLY|TRYAGAIN|BUSY) /;

function failureOfError(text: string): StorageFailure {
  if (/max (?:daily )?requests? limit|max requests per/i.test(text)) return "rate_limited";
  return NOT_NOW.test(text.slice(0, 200)) ? "server_error" : "rejected";
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new UpstashExchangeError("invalid_response", { cause });
  }
}

function resultOf(answer: unknown): unknown {
  if (typeof answer !== "object" || answer === null) throw new UpstashExchangeError("invalid_response");
  if ("error" in answer && typeof answer.error === "string")
    throw new UpstashExchangeError(failureOfError(answer.error), { cause: new Error(answer.error) });
  if (!("result" in answer)) throw new UpstashExchangeError("invalid_response");
  return answer.result;
}
