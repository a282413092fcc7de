/**
 * The one hierarchy of errors. Each has a stable `code`; the HTTP answer for a code is made in one place,
 * `functions/problem.ts`. `message` may reach the wire; `cause` never does, and is never logged as text,
 * because a client's error can hold the whole failing command.
 */

/** What is wrong with one place of an input. `path` is dotted, "" for the whole. Never holds the value itself. */
export type Issue = { path: string; message: string };

export abstract class AppError extends Error {
  abstract readonly code: string;
}

/** The input does not have the shape the contract asks for. */
export class InvalidRequestError extends AppError {
  override readonly name = "InvalidRequestError";
  readonly code = "invalid_request";
  readonly issues: readonly Issue[];
  constructor(message: string, issues: readonly Issue[] = []) {
    super(message);
    this.issues = issues;
  }
}

/** A cursor that no page of ours gave out. */
export class InvalidCursorError extends InvalidRequestError {
  constructor() {
    super("The cursor is not one that this list gave out.", [{ path: "cursor", message: "unknown cursor" }]);
  }
}

/** An id that cannot be part of a key. */
export class InvalidIdError extends AppError {
  override readonly name = "InvalidIdError";
  readonly code = "invalid_id";
}

/** A record is larger than its kind may be. */
export class RecordTooLargeError extends AppError {
  override readonly name = "RecordTooLargeError";
  readonly code = "payload_too_large";
  readonly maxBytes: number;
  constructor(maxBytes: number) {
    super(`The record would be larger than ${maxBytes} bytes.`);
    this.maxBytes = maxBytes;
  }
}

/** The conversation was deleted a short while ago; nothing brings it back. */
export class ConversationDeletedError extends AppError {
  override readonly name = "ConversationDeletedError";
  readonly code = "conversation_deleted";
  constructor() {
    super("The conversation has been deleted.");
  }
}

/**
 * Why a storage could not answer. `rejected` means it answered and refused: our command or our credentials
 * are wrong. `contended` means that others changed the record again and again while it was to be changed.
 */
export type StorageFailure =
  | "timeout"
  | "network"
  | "rate_limited"
  | "server_error"
  | "rejected"
  | "invalid_response"
  | "contended";

/** The storage could not answer. Says which driver and operation failed and how, never with which key or value. */
export class StorageError extends AppError {
  override readonly name = "StorageError";
  readonly code = "storage_unavailable";
  readonly driver: string;
  readonly operation: string;
  readonly failure: StorageFailure;
  constructor(driver: string, operation: string, failure: StorageFailure, options?: { cause?: unknown }) {
    super(`${driver} storage: ${operation} failed (${failure})`, options);
    this.driver = driver;
    this.operation = operation;
    this.failure = failure;
  }
}

/**
 * Whether an error means that the storage is out of reach, for the moment and for everybody. A refusal is an
 * answer: it says that this command is wrong, or that others got in the way, and says nothing of the next one.
 */
export function isUnavailable(error: unknown): error is StorageError {
  return error instanceof StorageError && error.failure !== "rejected" && error.failure !== "contended";
}

/** A call that nobody vouches for: whose key opens every call of an account is not lent to whoever names one. */
export class CallNotVouchedForError extends AppError {
  override readonly name = "CallNotVouchedForError";
  readonly code = "forbidden";
  constructor() {
    super("A page names a call only where its token names it too.");
  }
}

/** A session URL that this service will not dial. The message says why and holds at most the host. */
export class SessionUrlNotAllowedError extends AppError {
  override readonly name = "SessionUrlNotAllowedError";
  readonly code = "session_url_not_allowed";
}
