/** The routes of the Worker that serves this page. Credentials live in the tab's sessionStorage and in headers. */
import { learnTime } from "./time.ts";

const TOKEN_KEY = "edge-agent-sessions:console:api-token";
const SECRET_KEY = "edge-agent-sessions:console:webhook-secret";

/** A secret of this tab. An empty one says that there is none, and that this is meant. */
function kept(key: string) {
  return {
    get: (): string | null => sessionStorage.getItem(key),
    set: (value: string) => sessionStorage.setItem(key, value),
    forget: () => sessionStorage.removeItem(key),
  };
}

export const apiToken = kept(TOKEN_KEY);
export const webhookSecret = kept(SECRET_KEY);

export function forgetCredentials(): void {
  apiToken.forget();
  webhookSecret.forget();
}

/** An answer that is a problem, or none at all; its message can be shown. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  /** 0 where nobody answered. */
  readonly status: number;
  readonly code: string;
  /** When to ask again at the earliest. */
  readonly retryAfterMs: number;
  readonly body: unknown;
  constructor(
    message: string,
    facts: { status: number; code: string; retryAfterMs?: number; body?: unknown },
  ) {
    super(message);
    this.status = facts.status;
    this.code = facts.code;
    this.retryAfterMs = facts.retryAfterMs ?? 0;
    this.body = facts.body;
  }
}

/** Told when the token is not, or no longer, taken. */
export const refusals = new EventTarget();

export type Query = Record<string, string | number | boolean | undefined>;

const ANSWER_MS = 20_000;

/** Asks for JSON. Throws ApiError; a request that `signal` ended throws its reason. */
export function get<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== "") parameters.set(name, String(value));
  }
  const text = parameters.toString();
  return exchange<T>(text === "" ? path : `${path}?${text}`, {}, signal);
}

export function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  return exchange<T>(path, { method: "POST", body: JSON.stringify(body) }, signal);
}

async function exchange<T>(path: string, init: RequestInit, signal?: AbortSignal): Promise<T> {
  const token = apiToken.get();
  const answer = await send(
    path,
    { ...init, headers: token ? { authorization: `Bearer ${token}` } : {} },
    signal,
  );
  if (answer.status === 401 || answer.status === 403) {
    const error = problemOf(answer);
    // Another token may have been given meanwhile.
    if (apiToken.get() === token) refusals.dispatchEvent(new CustomEvent("refused", { detail: error }));
    throw error;
  }
  if (answer.status >= 400) throw problemOf(answer);
  return answer.body as T;
}

export type Answer = { status: number; body: unknown; headers: Headers };

/** Sends a request with the headers given, and reads the answer whatever it is. Throws ApiError where there is none. */
export async function send(path: string, init: RequestInit, signal?: AbortSignal): Promise<Answer> {
  const headers = new Headers(init.headers);
  if (init.body !== undefined) headers.set("content-type", "application/json");
  const patience = AbortSignal.timeout(ANSWER_MS);
  try {
    const response = await fetch(path, {
      ...init,
      headers,
      credentials: "omit",
      cache: "no-store",
      redirect: "error",
      referrerPolicy: "no-referrer",
      signal: signal === undefined ? patience : AbortSignal.any([signal, patience]),
    });
    learnTime(response.headers.get("date"));
    return { status: response.status, body: await response.json(), headers: response.headers };
  } catch (cause) {
    signal?.throwIfAborted();
    const isMute = cause instanceof SyntaxError;
    const message = isMute ? "What answered was not the Worker." : "The Worker cannot be reached.";
    throw new ApiError(message, { status: 0, code: "unreachable" });
  }
}

function problemOf({ status, body, headers }: Answer): ApiError {
  const { detail, code } = (body ?? {}) as { detail?: unknown; code?: unknown };
  return new ApiError(typeof detail === "string" ? detail : `The Worker answered ${status}.`, {
    status,
    code: typeof code === "string" ? code : "unknown",
    retryAfterMs: (Number(headers.get("retry-after")) || 0) * 1_000,
    body,
  });
}

/** The path of a conversation's route. */
export function conversationPath(conversationId: string, rest = ""): string {
  return `/agent-conversations/api/${encodeURIComponent(conversationId)}${rest}`;
}
