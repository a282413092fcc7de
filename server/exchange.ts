/**
 * One request of a server to the edge: sent again where that is harmless and promises something, and answered with what
 * the edge says or an error that carries its code.
 */
import type { ProblemAnswer } from "../functions/answers.ts";
import type { ProblemCode } from "../functions/problem-codes.ts";
import type { Issue } from "../lib/errors.ts";

/** What is around the client, so that it can be handed in. */
export type Surroundings = {
  fetch: typeof fetch;
  /** Milliseconds since the epoch. */
  now: () => number;
  wait: (ms: number) => Promise<void>;
  /** At least 0 and less than 1. */
  random: () => number;
};

/** What the edge refused a request with, or what became of one that it did not answer. A later edge may have codes of its own. */
export type ServerErrorCode = ProblemCode | "network_error" | "timeout" | "unexpected_answer";

/** Why a request came to nothing. `message` may be shown to people: it holds nothing of the request. */
export class ServerClientError extends Error {
  override readonly name = "ServerClientError";
  readonly code: ServerErrorCode;
  /** Of the answer, where there was one. */
  readonly status?: number;
  /** What is wrong with the request, with `invalid_request`. */
  readonly issues: readonly Issue[];
  /** Finds the request in the edge's log. */
  readonly requestId?: string;
  /** When the edge wants to be asked again, where it said so. */
  readonly retryAfterSeconds?: number;

  constructor(
    code: ServerErrorCode,
    message: string,
    { issues = [], cause, ...rest }: ServerErrorDetails = {},
  ) {
    super(message, cause === undefined ? {} : { cause });
    this.code = code;
    this.issues = issues;
    Object.assign(this, rest);
  }
}

type ServerErrorDetails = {
  status?: number;
  issues?: readonly Issue[];
  requestId?: string;
  retryAfterSeconds?: number;
  cause?: unknown;
};

export type ServerRequest = {
  method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** Begins with a slash. */
  path: string;
  query?: Record<string, string | number | boolean | undefined> | undefined;
  body?: object | undefined;
  /** The headers that let it in, made anew for every try; `body` is "" where there is none. */
  credential: (body: string) => Promise<Record<string, string>>;
  /** Whether a second time is harmless where the first may have been taken. */
  isRepeatable: boolean;
};

export type ExchangeOptions = {
  /** The origin of the deployment. */
  baseUrl: string;
  /** How long one try may take, in ms, the answer's body included. */
  timeoutMs: number;
  /** How often a request is tried at most. */
  attempts: number;
  /** How long may be waited between the tries of one request, in ms, all together. */
  maxWaitMs: number;
};

/** The longest pause behind a try that was not answered: doubled each time, and then any part of it ("full jitter"). */
const FIRST_PAUSE_MS = 500;

/** A try that came to nothing; `repeatAfterMs` is null where another would be wrong or of no use. */
type Failure = { error: ServerClientError; repeatAfterMs: number | null };

export type Exchange = <T>(request: ServerRequest) => Promise<T>;

/** Throws TypeError where `baseUrl` is no URL of HTTP. */
export function createExchange(surroundings: Surroundings, options: ExchangeOptions): Exchange {
  const { now, wait, random } = surroundings;
  const { timeoutMs, attempts, maxWaitMs } = options;
  const base = baseOf(options.baseUrl);

  async function send(request: ServerRequest, body: string | undefined): Promise<Response> {
    const url = new URL(base + request.path);
    for (const [name, value] of Object.entries(request.query ?? {})) {
      if (value !== undefined) url.searchParams.set(name, String(value));
    }
    const credential = await request.credential(body ?? "");
    return surroundings.fetch(url.href, {
      method: request.method,
      headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...credential },
      ...(body === undefined ? {} : { body }),
      // A redirect could lead the credential anywhere.
      redirect: "manual",
      signal: AbortSignal.timeout(timeoutMs),
    });
  }

  async function attempt<T>(
    request: ServerRequest,
    body: string | undefined,
    tries: number,
  ): Promise<{ answer: T } | Failure> {
    const pauseMs = random() * FIRST_PAUSE_MS * 2 ** (tries - 1);
    let response: Response;
    let text: string;
    try {
      response = await send(request, body);
      text = await response.text();
    } catch (cause) {
      const isLate = cause instanceof Error && cause.name === "TimeoutError";
      const error = isLate
        ? new ServerClientError("timeout", `The edge did not answer within ${timeoutMs} ms.`, { cause })
        : new ServerClientError("network_error", "The edge could not be reached.", { cause });
      return { error, repeatAfterMs: request.isRepeatable ? pauseMs : null };
    }
    const { status, ok } = response;
    const value = parse(text);
    if (ok && value !== undefined) return { answer: value as T };
    const askedMs = retryAfterOf(response.headers.get("retry-after"), now());
    const details = {
      status,
      ...(askedMs === null ? {} : { retryAfterSeconds: Math.ceil(askedMs / 1000) }),
    };
    if (isProblem(value)) {
      const { code, detail, requestId, errors: issues = [] } = value;
      const error = new ServerClientError(code as ProblemCode, detail, { ...details, requestId, issues });
      // Where it says when, nothing was acknowledged; where it does not, the next answer would be the same.
      return { error, repeatAfterMs: status === 429 || status === 503 ? askedMs : null };
    }
    const error = new ServerClientError(
      "unexpected_answer",
      `Not the edge answered, with ${status}.`,
      details,
    );
    return { error, repeatAfterMs: request.isRepeatable && isPassing(status) ? (askedMs ?? pauseMs) : null };
  }

  return async <T>(request: ServerRequest): Promise<T> => {
    const body = request.body === undefined ? undefined : JSON.stringify(request.body);
    let waitedMs = 0;
    for (let tries = 1; ; tries++) {
      const outcome = await attempt<T>(request, body, tries);
      if ("answer" in outcome) return outcome.answer;
      const { error, repeatAfterMs } = outcome;
      if (tries >= attempts || repeatAfterMs === null || waitedMs + repeatAfterMs > maxWaitMs) throw error;
      await wait(repeatAfterMs);
      waitedMs += repeatAfterMs;
    }
  };
}

function baseOf(baseUrl: string): string {
  const url = URL.canParse(baseUrl) ? new URL(baseUrl) : null;
  if (url === null || !/^https?:$/.test(url.protocol) || url.search !== "" || url.hash !== "") {
    throw new TypeError("baseUrl must be the origin of the deployment, as in https://agent.example.com");
  }
  return url.href.replace(/\/+$/, "");
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isProblem(value: unknown): value is ProblemAnswer {
  return (
    typeof value === "object" &&
    value !== null &&
    ["code", "detail", "requestId"].every(
      (name) => typeof (value as Record<string, unknown>)[name] === "string",
    )
  );
}

/** What stands between us and the edge: overload, a deployment, a network. */
function isPassing(status: number): boolean {
  return status === 408 || status === 425 || status === 429 || status >= 500;
}

/** In ms from `now`; null where the header is missing or no time. https://www.rfc-editor.org/rfc/rfc9110#field.retry-after */
function retryAfterOf(header: string | null, now: number): number | null {
  if (header === null) return null;
  if (/^\d{1,9}$/.test(header)) return Number(header) * 1000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? null : Math.max(0, at - now);
}
