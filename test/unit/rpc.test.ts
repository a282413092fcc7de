import { afterEach, describe, expect, test, vi } from "vitest";
import {
  type AppError,
  ConversationDeletedError,
  InvalidIdError,
  InvalidRequestError,
  RecordTooLargeError,
  StorageError,
} from "../../lib/errors.ts";
import { type Answer, answer, callObject, unwrap } from "../../lib/rpc.ts";

afterEach(() => vi.useRealTimers());

/** What the other side of an RPC gets: plain data. */
const overTheWire = async <T>(work: () => T): Promise<T> =>
  unwrap(JSON.parse(JSON.stringify(await answer(work))) as Answer<T>);
const failing = (error: unknown) => () => {
  throw error;
};

describe("an answer", () => {
  test("brings a value", async () => {
    expect(await overTheWire(() => ({ a: [1, null] }))).toEqual({ a: [1, null] });
  });

  test.each<[string, AppError]>([
    ["a storage out of reach", new StorageError("upstash", "get", "timeout")],
    ["a request that is wrong", new InvalidRequestError("wrong", [{ path: "a", message: "must be b" }])],
    ["a record that is too large", new RecordTooLargeError(7)],
    ["a conversation that was deleted", new ConversationDeletedError()],
  ])("brings %s as the error it was", async (_, error) => {
    await expect(overTheWire(failing(error))).rejects.toStrictEqual(error);
  });

  test("leaves the cause behind, which may hold a command", async () => {
    const error = new StorageError("upstash", "get", "timeout", { cause: new Error("SET s3cret") });
    expect(JSON.stringify(await answer(failing(error)))).not.toContain("s3cret");
  });

  test.each([new TypeError("a fault"), new InvalidIdError("checked before")])(
    "does not bring what has no form on the wire: %s",
    async (error) => {
      await expect(answer(failing(error))).rejects.toBe(error);
    },
  );
});

describe("a call of an object", () => {
  test("is made once more, and only once, where it fails", async () => {
    let calls = 0;
    const after = (failures: number) => async () => {
      calls += 1;
      if (calls <= failures) throw new Error("Network connection lost.");
      return { value: calls };
    };
    expect(await callObject("get", 1_000, after(1))).toBe(2);
    calls = 0;
    await expect(callObject("get", 1_000, after(2))).rejects.toMatchObject({
      driver: "durable-object",
      operation: "get",
      failure: "server_error",
      cause: expect.any(Error),
    });
    expect(calls).toBe(2);
  });

  test("is not repeated where the object has answered, be it with an error", async () => {
    const error = new StorageError("upstash", "commit", "rejected");
    const call = vi.fn(() => answer(failing(error)));
    await expect(callObject("commit", 1_000, call)).rejects.toStrictEqual(error);
    expect(call).toHaveBeenCalledTimes(1);
  });

  test("is waited for no longer than it may take, its repetition included", async () => {
    vi.useFakeTimers();
    let calls = 0;
    const outcome = callObject("get", 1_000, () => {
      calls += 1;
      return calls === 1
        ? new Promise((_, reject) => setTimeout(() => reject(new Error("broken")), 600))
        : new Promise(() => {});
    }).catch((error: unknown) => error);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(await outcome).toMatchObject({ operation: "get", failure: "timeout" });
    expect([calls, vi.getTimerCount()]).toEqual([2, 0]);
  });
});
