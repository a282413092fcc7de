/**
 * What crosses the boundary to a Durable Object and back: an exception would lose its class on the way, so an
 * error of ours travels as data and is thrown again on the other side. Anything else is a fault and travels as
 * one. Calls are bounded in time, because an object that hangs must not take its callers with it.
 */
import {
  AppError,
  ConversationDeletedError,
  InvalidRequestError,
  type Issue,
  RecordTooLargeError,
  StorageError,
  type StorageFailure,
} from "./errors.ts";
import { orElse } from "./patience.ts";

type WireError =
  | { code: "storage_unavailable"; driver: string; operation: string; failure: StorageFailure }
  | { code: "invalid_request"; message: string; issues: Issue[] }
  | { code: "payload_too_large"; maxBytes: number }
  | { code: "conversation_deleted" };

export type Answer<T> = { value: T } | { error: WireError };

/** Does the work and puts what it returns, or the error of ours that it throws, into an answer. */
export async function answer<T>(work: () => T | Promise<T>): Promise<Answer<T>> {
  try {
    return { value: await work() };
  } catch (error) {
    const wire = error instanceof AppError ? toWire(error) : null;
    if (wire === null) throw error;
    return { error: wire };
  }
}

/** What an answer holds. Throws the error where it holds one. */
export function unwrap<T>(answer: Answer<T>): T {
  if ("error" in answer) throw fromWire(answer.error);
  return answer.value;
}

/**
 * Calls an object and waits at most `timeoutMs`; null where the caller has a clock of its own. A call that fails is made
 * once more, on a new stub, if there is time left: a stub that has thrown may be broken for good. With `once` it is not,
 * because a second time would answer wrongly. Throws StorageError where no answer came, and what the answer holds.
 */
export async function callObject<T>(
  operation: string,
  timeoutMs: number | null,
  call: () => Promise<Answer<T>>,
  { once = false }: { once?: boolean } = {},
): Promise<T> {
  let isOver = false;
  const late = (): never => {
    isOver = true;
    throw new StorageError(OBJECT, operation, "timeout");
  };
  const attempts = async () => {
    try {
      return await call();
    } catch (error) {
      if (once || isOver) throw error;
      return call();
    }
  };
  try {
    return unwrap(await (timeoutMs === null ? attempts() : orElse(attempts(), timeoutMs, late)));
  } catch (cause) {
    throw cause instanceof AppError ? cause : new StorageError(OBJECT, operation, "server_error", { cause });
  }
}

const OBJECT = "durable-object";

function toWire(error: AppError): WireError | null {
  if (error instanceof StorageError) {
    const { code, driver, operation, failure } = error;
    return { code, driver, operation, failure };
  }
  if (error instanceof InvalidRequestError) {
    return { code: error.code, message: error.message, issues: [...error.issues] };
  }
  if (error instanceof RecordTooLargeError) return { code: error.code, maxBytes: error.maxBytes };
  if (error instanceof ConversationDeletedError) return { code: error.code };
  return null;
}

function fromWire(error: WireError): AppError {
  switch (error.code) {
    case "storage_unavailable":
      return new StorageError(error.driver, error.operation, error.failure);
    case "invalid_request":
      return new InvalidRequestError(error.message, error.issues);
    case "payload_too_large":
      return new RecordTooLargeError(error.maxBytes);
    case "conversation_deleted":
      return new ConversationDeletedError();
  }
}
