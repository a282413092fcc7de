/**
 * The one place where an error becomes an HTTP answer: RFC 9457 problem details with a stable `code`.
 * https://www.rfc-editor.org/rfc/rfc9457
 */
import { AppError, type Issue, StorageError } from "../lib/errors.ts";
import type { ProblemAnswer } from "./answers.ts";
import type { AppContext } from "./context.ts";
import { type ProblemCode, STATUS_OF_CODE } from "./problem-codes.ts";

const TITLE_OF_STATUS: Record<(typeof STATUS_OF_CODE)[ProblemCode], string> = {
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  409: "Conflict",
  410: "Gone",
  413: "Content Too Large",
  415: "Unsupported Media Type",
  421: "Misdirected Request",
  422: "Unprocessable Content",
  426: "Upgrade Required",
  429: "Too Many Requests",
  500: "Internal Server Error",
  502: "Bad Gateway",
  503: "Service Unavailable",
};

/** An error of the HTTP layer itself, or a domain outcome that HTTP calls an error. */
export class ProblemError extends AppError {
  override readonly name = "ProblemError";
  readonly code: ProblemCode;
  readonly headers: Record<string, string>;
  constructor(code: ProblemCode, detail: string, headers: Record<string, string> = {}) {
    super(detail);
    this.code = code;
    this.headers = headers;
  }
}

/** When a client may try again after the storage failed, in seconds. */
const STORAGE_RETRY_AFTER_SECONDS = 2;

/** Answers any error. What is not ours is an `internal_error` that says nothing but the request id. */
export function answerError(error: unknown, c: AppContext): Response {
  const log = c.get("log");
  const fields = { method: c.req.method, route: c.req.routePath };
  if (error instanceof StorageError) {
    const { driver, operation, failure } = error;
    log.error("request.failed", { ...fields, code: error.code, driver, operation, failure });
    return problem(
      c,
      "storage_unavailable",
      "The storage did not answer. Nothing was acknowledged; try again.",
      {
        headers: { "retry-after": String(STORAGE_RETRY_AFTER_SECONDS) },
      },
    );
  }
  if (error instanceof AppError && isProblemCode(error.code)) {
    const issues = "issues" in error ? (error.issues as readonly Issue[]) : [];
    const headers = error instanceof ProblemError ? error.headers : {};
    return problem(c, error.code, error.message, { issues, headers });
  }
  log.error("request.failed", {
    ...fields,
    code: "internal_error",
    error: error instanceof Error ? error.name : typeof error,
  });
  return problem(
    c,
    "internal_error",
    "Something went wrong on our side; the request id finds it in the logs.",
  );
}

function isProblemCode(code: string): code is ProblemCode {
  return Object.hasOwn(STATUS_OF_CODE, code);
}

function problem(
  c: AppContext,
  code: ProblemCode,
  detail: string,
  { issues = [], headers = {} }: { issues?: readonly Issue[]; headers?: Record<string, string> } = {},
): Response {
  const status = STATUS_OF_CODE[code];
  const body: ProblemAnswer = {
    type: "about:blank",
    title: TITLE_OF_STATUS[status],
    status,
    detail,
    code,
    requestId: c.get("requestId"),
    ...(issues.length > 0 ? { errors: [...issues] } : {}),
    success: false,
  };
  return c.body(JSON.stringify(body), status, { ...headers, "content-type": "application/problem+json" });
}
