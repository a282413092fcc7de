import { describe, expect, test } from "vitest";
import { messageOfResult } from "../../lib/conversation-store.ts";
import { parseCallback, type Result } from "../../lib/result.ts";

describe("what a callback must say", () => {
  test.each([
    ["no requestId", { conversationId: "c1" }, "requestId"],
    ["a requestId with a slash", { requestId: "a/b", conversationId: "c1" }, "requestId"],
    ["no conversation", { requestId: "r1" }, "conversationId"],
    ["a conversation with a colon", { requestId: "r1", conversationId: "a:b" }, "conversationId"],
    ["an unknown mode", { requestId: "r1", conversationId: "c1", mode: "shout" }, "mode"],
    ["an unknown delivery", { requestId: "r1", conversationId: "c1", delivery: "shout" }, "delivery"],
    ["success as text", { requestId: "r1", conversationId: "c1", success: "yes" }, "success"],
    [
      "a deliverBy that is no time",
      { requestId: "r1", conversationId: "c1", deliverBy: "soon" },
      "deliverBy",
    ],
    ["a topic of 129 characters", { requestId: "r1", conversationId: "c1", topic: "x".repeat(129) }, "topic"],
    ["an empty topic", { requestId: "r1", conversationId: "c1", topic: "" }, "topic"],
  ])("%s is refused and named", (_name, body, path) => {
    expect(() => parseCallback(body)).toThrowError(
      expect.objectContaining({
        code: "invalid_request",
        issues: expect.arrayContaining([expect.objectContaining({ path })]),
      }),
    );
  });

  test("the path and the body must agree", () => {
    expect(() => parseCallback({ requestId: "r1", conversationId: "c1" }, "c2")).toThrow(
      "another conversation",
    );
    expect(parseCallback({ requestId: "r1" }, "c2").conversationId).toBe("c2");
  });

  test("nothing else: it succeeded, and is said when nobody speaks", () => {
    const { result } = parseCallback({ requestId: "r1", conversationId: "c1" });
    expect(result).toMatchObject({ success: true, delivery: "when_idle" });
  });

  test.each([
    [{ mode: "speak" }, "when_idle"],
    [{ mode: "context" }, "silent"],
    [{ mode: "context", delivery: "interrupt" }, "interrupt"],
  ])("%j is delivery %s", (fields, delivery) => {
    expect(parseCallback({ requestId: "r1", conversationId: "c1", ...fields }).result.delivery).toBe(
      delivery,
    );
  });
});

describe("a result in the history", () => {
  const messageOf = (fields: Partial<Result>) =>
    messageOfResult({ requestId: "r1", success: true, delivery: "when_idle", ...fields }, 0);

  test.each<[string, Partial<Result>, { content?: string; toolOutput?: unknown }]>([
    ["a text is its content", { output: "done" }, { content: "done" }],
    ["anything else is stored as it came, once", { output: { a: 1 } }, { toolOutput: { a: 1 } }],
    ["nothing is said to be nothing", {}, { content: "(no output)" }],
    ["a failure tells its error", { success: false, error: "no" }, { content: "no" }],
    ["a failure without an error says so", { success: false }, { content: "(no error message)" }],
    [
      "a failure with both keeps both",
      { success: false, error: "no", output: { a: 1 } },
      { content: "no", toolOutput: { a: 1 } },
    ],
    [
      "an error that is no text is stored as it came",
      { success: false, error: { code: 7 } },
      { toolOutput: { code: 7 } },
    ],
  ])("%s", (_name, fields, expected) => {
    const { content, toolOutput } = messageOf(fields);
    expect({ content, toolOutput }).toEqual({ content: undefined, toolOutput: undefined, ...expected });
  });
});
