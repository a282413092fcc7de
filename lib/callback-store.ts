/**
 * The record of a callback: who is working on it, what it brought and what became of it. It outlives every
 * sender's retries, so that a result that was settled once is never processed again.
 */
import * as v from "valibot";
import { isoTimestamp, jsonObject, jsonValue } from "./json.ts";
import { keys } from "./keys.ts";
import type { Logger } from "./log.ts";
import type { ChannelName } from "./push/channel.ts";
import type { SetWrite, Storage } from "./storage/storage.ts";
import { createTtlStore } from "./ttl-store.ts";

/** Longer than any sender keeps retrying: Svix, the most patient, gives up after 27.6 h. */
export const CALLBACK_TTL_SECONDS = 48 * 3600;

/** How long a claim holds. Longer than the slowest push and its settlement, so that only a dead handler loses it. */
export const LEASE_SECONDS = 30;

const channelNames = ["relay", "proxy", "monitor", "socket"] as const satisfies ChannelName[];

const taskResultSchema = v.object({
  requestId: v.string(),
  success: v.boolean(),
  toolName: v.optional(v.string()),
  output: v.optional(jsonValue),
  error: v.optional(jsonValue),
  mode: v.picklist(["speak", "context"]),
  metadata: v.optional(jsonObject),
});
export type CallbackResult = v.InferOutput<typeof taskResultSchema>;

const callbackRecordSchema = v.object({
  version: v.optional(v.number(), 1),
  status: v.picklist(["processing", "delivered", "queued"]),
  /** Tells one claim from another, also when both were made in the same millisecond. */
  claimId: v.string(),
  leaseUntil: v.optional(isoTimestamp),
  result: taskResultSchema,
  channel: v.optional(v.picklist(channelNames)),
  attempts: v.optional(v.number(), 0),
  receivedAt: isoTimestamp,
  settledAt: v.optional(isoTimestamp),
});
export type CallbackRecord = v.InferOutput<typeof callbackRecordSchema>;

export type Claim =
  | { kind: "claimed"; record: CallbackRecord }
  | { kind: "in_progress"; retryAfterSeconds: number }
  | { kind: "settled"; record: CallbackRecord };

export type CallbackStore = ReturnType<typeof createCallbackStore>;

export function createCallbackStore(storage: Storage, log: Logger, now: () => number) {
  /** Callbacks of one conversation; ids are the requestIds. */
  function recordsOf(conversationId: string) {
    return createTtlStore({
      storage,
      log,
      keyOf: (requestId) => keys.callback(conversationId, requestId),
      schema: callbackRecordSchema,
      ttlSeconds: CALLBACK_TTL_SECONDS,
      policy: "fixed",
    });
  }

  return {
    /**
     * Claims a result for this handler: one round trip, two where an earlier handler died with the claim.
     * A record that cannot be read is claimed anew, because nobody can be working from it.
     */
    async claim(conversationId: string, result: CallbackResult): Promise<Claim> {
      const records = recordsOf(conversationId);
      const record: CallbackRecord = {
        version: 1,
        status: "processing",
        claimId: crypto.randomUUID(),
        leaseUntil: new Date(now() + LEASE_SECONDS * 1000).toISOString(),
        result,
        attempts: 0,
        receivedAt: new Date(now()).toISOString(),
      };
      const key = keys.callback(conversationId, result.requestId);
      const value = records.setWrite(result.requestId, record).value;
      const standing = await storage.claim(key, value, CALLBACK_TTL_SECONDS);
      if (standing === null) return { kind: "claimed", record };

      const earlier = records.parse(result.requestId, standing);
      if (earlier !== null && earlier.status !== "processing") return { kind: "settled", record: earlier };
      const leaseLeftMs = earlier === null ? 0 : Date.parse(earlier.leaseUntil ?? earlier.receivedAt) - now();
      if (leaseLeftMs > 0) return { kind: "in_progress", retryAfterSeconds: Math.ceil(leaseLeftMs / 1000) };
      const takenOver = await storage.compareAndSet(key, standing, value, CALLBACK_TTL_SECONDS);
      return takenOver
        ? { kind: "claimed", record }
        : { kind: "in_progress", retryAfterSeconds: LEASE_SECONDS };
    },

    /** The records of many callbacks, in the order of their ids; null for one that is gone or unreadable. */
    async getMany(conversationId: string, requestIds: readonly string[]): Promise<(CallbackRecord | null)[]> {
      const records = recordsOf(conversationId);
      const texts = await storage.getMany(requestIds.map((id) => keys.callback(conversationId, id)));
      return texts.map((text, i) => (text === null ? null : records.parse(requestIds[i] ?? "", text)));
    },

    /** Gives a claim back unused, so that the next to come may have it at once. */
    async release(conversationId: string, claimed: CallbackRecord): Promise<void> {
      const { key, value } = recordsOf(conversationId).setWrite(claimed.result.requestId, claimed);
      await storage.compareAndSet(key, value, null, null);
    },

    /** Replaces the record, as data. */
    setWrite: (conversationId: string, record: CallbackRecord): SetWrite =>
      recordsOf(conversationId).setWrite(record.result.requestId, record),
  };
}
