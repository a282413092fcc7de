/**
 * Tool calls that wait for the result of their own task: what comes while one waits is its answer, and nothing is
 * pushed. In memory only: a call that waits keeps the object there, and costs it no CPU.
 */
import { type After, orElse } from "../patience.ts";
import type { PushOutcome } from "../push/channel.ts";
import type { Result } from "../result.ts";

/** How many tool calls of one conversation may wait. */
export const MAX_REPLIES = 100;
/** How long a result may lie between the object and the tool call before nobody knows what became of it, in ms. */
const CONFIRM_MS = 5_000;

/** How long after its time a tool call that never came is remembered, in ms. */
const LATE_MS = 10_000;

/** What the agent is told of a task that nobody wants any more. */
const CANCELLED = "The task was cancelled.";

type Reply = {
  /** In ms. */
  until: number;
  /** The call that waits; null until it does. */
  take: ((result: Result | null) => void) | null;
  offered: { result: Result; end: (outcome: PushOutcome) => void } | null;
};

export type Replies = ReturnType<typeof createReplies>;

export function createReplies({ now, after }: { now: () => number; after: After }) {
  const replies = new Map<string, Reply>();

  const calls = {
    /** A tool call is going to wait so many ms for its task. Returns whether it may. */
    expect(taskId: string, ms: number): boolean {
      for (const [id, { until }] of replies) if (until < now()) replies.delete(id);
      if (replies.size >= MAX_REPLIES) return false;
      replies.set(taskId, { until: now() + ms + LATE_MS, take: null, offered: null });
      return true;
    },

    /** Waits for the result; null where it does not come within `ms`, or nobody is expected. */
    async take(taskId: string, ms: number): Promise<Result | null> {
      const reply = replies.get(taskId);
      if (reply === undefined) return null;
      const { promise, resolve } = Promise.withResolvers<Result | null>();
      reply.take = resolve;
      if (reply.offered !== null) return reply.offered.result;
      const result = await orElse(promise, ms, () => null, after);
      if (result === null) replies.delete(taskId);
      return result;
    },

    /** Nobody wants the result of a task any more: the call that waits for it is answered so. */
    cancel(taskId: string): void {
      const reply = replies.get(taskId);
      if (reply === undefined || reply.offered !== null) return;
      const result: Result = { requestId: taskId, success: false, error: CANCELLED, delivery: "silent" };
      reply.offered = { result, end: () => {} };
      reply.take?.(result);
    },

    /** The conversation is gone: every call that waits is answered so. */
    cancelAll(): void {
      for (const taskId of replies.keys()) calls.cancel(taskId);
    },

    /** The tool call has its answer, or has gone without one. */
    end(taskId: string, wasAnswered: boolean): void {
      const reply = replies.get(taskId);
      replies.delete(taskId);
      reply?.take?.(null);
      reply?.offered?.end(
        // What the caller makes of its answer nobody says.
        wasAnswered ? { outcome: "delivered", proof: "accepted" } : { outcome: "unreachable" },
      );
    },

    /** Gives a result to the call that waits for it. Resolves with what became of it; null where none waits. */
    offer(result: Result): Promise<PushOutcome> | null {
      const reply = replies.get(result.requestId);
      if (reply === undefined) return null;
      const { promise, resolve: end } = Promise.withResolvers<PushOutcome>();
      reply.offered = { result, end };
      reply.take?.(result);
      const late = (): PushOutcome => {
        replies.delete(result.requestId);
        // A call that never came for it was told nothing.
        return { outcome: reply.take === null ? "unreachable" : "unconfirmed" };
      };
      return orElse(promise, CONFIRM_MS, late, after);
    },
  };
  return calls;
}
