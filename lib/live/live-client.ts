/**
 * A conversation's object as an instance of the Worker sees it: typed, bounded in time, errors with their class.
 * Every method throws StorageError where the object does not answer.
 */
import type { ConversationRecord, Message } from "../conversation-store.ts";
import type { SdkParameters } from "../elevenlabs.ts";
import { parseExactly, stringifyJson } from "../json.ts";
import type { Caller } from "../registration.ts";
import type { Callback, ProgressCallback, Result } from "../result.ts";
import { callObject } from "../rpc.ts";
import type { SessionRecord } from "../session-store.ts";
import type { Ticket } from "../task.ts";
import type { ConnectionEvent } from "./connections.ts";
import { type CallbackAnswer, SENDER_WAITS_MS } from "./delivery.ts";
import type { LiveConversation } from "./live-conversation.ts";
import { proxyRequest } from "./proxy.ts";
import { relayRequest } from "./relay.ts";
import type { OpenResults, ResultQuery, ResultRow } from "./results.ts";
import type { TaskQuery, TaskRow } from "./tasks.ts";

export type LiveConversations = DurableObjectNamespace<LiveConversation<unknown>>;

/** A little more than the object itself lets a sender wait. */
const DELIVER_MS = SENDER_WAITS_MS + 1_000;
/** The object's own try of Redis included. */
const ASK_MS = 2_000;

export type LiveClient = ReturnType<typeof createLiveClient>;

export function createLiveClient(namespace: LiveConversations) {
  /** A new stub each time: one that has thrown may be broken for good. */
  const objectOf = (conversationId: string) => namespace.get(namespace.idFromName(conversationId));

  const openSocket = (operation: string, conversationId: string, request: () => Request) =>
    callObject(operation, ASK_MS, async () => {
      const { webSocket } = await objectOf(conversationId).fetch(request());
      if (webSocket === null) throw new TypeError("the object opened no socket");
      return { value: webSocket };
    });

  return {
    /** What became of a result; `requestId` is of the HTTP request, for the log. */
    deliver: (callback: Callback, requestId: string): Promise<CallbackAnswer> =>
      callObject("deliver", DELIVER_MS, () =>
        objectOf(callback.conversationId).deliver(
          stringifyJson(callback.result),
          callback.namedByTask,
          requestId,
        ),
      ),

    /** Whether the progress of a task is news. */
    progress: ({ conversationId, namedByTask, progress }: ProgressCallback) =>
      callObject("progress", ASK_MS, () =>
        objectOf(conversationId).progress(stringifyJson(progress), namedByTask),
      ),

    /**
     * Notes a task before anybody works on it; with `replyMs` the tool call waits so long for its result, if it may,
     * which is what is returned. Throws ConversationDeletedError.
     */
    openTask: (ticket: Ticket, replyMs: number): Promise<boolean> =>
      callObject("openTask", ASK_MS, () =>
        objectOf(ticket.conversationId).openTask(stringifyJson(ticket), replyMs),
      ),

    /** Nobody took a task. */
    failTask: async ({ conversationId, taskId }: Ticket): Promise<void> =>
      void (await callObject("failTask", ASK_MS, () => objectOf(conversationId).failTask(taskId))),

    /** The result of a task, if it comes within `ms`; null where it does not. */
    async awaitReply({ conversationId, taskId }: Ticket, ms: number): Promise<Result | null> {
      const text = await callObject(
        "awaitReply",
        ms + ASK_MS,
        () => objectOf(conversationId).awaitReply(taskId, ms),
        { once: true },
      );
      return text === null ? null : (parseExactly(text) as Result);
    },

    /** The tool call that waited was given its answer, or has gone. */
    endReply: async ({ conversationId, taskId }: Ticket, wasAnswered: boolean): Promise<void> =>
      void (await callObject("endReply", ASK_MS, () =>
        objectOf(conversationId).endReply(taskId, wasAnswered),
      )),

    tasks: (conversationId: string, query: TaskQuery): Promise<TaskRow[]> =>
      callObject("tasks", ASK_MS, () => objectOf(conversationId).tasks(query)),

    /** Cancels a task. Returns whether it was still to come; null where there is none. */
    cancelTask: (conversationId: string, taskId: string): Promise<boolean | null> =>
      callObject("cancelTask", ASK_MS, () => objectOf(conversationId).cancelTask(taskId)),

    /**
     * Tells of a registration; `isUnsaved` where Redis could not be told. Returns whether it replaced another. With null
     * in place of `timeoutMs` the caller has a clock of its own. Throws ConversationDeletedError.
     */
    registered: (
      session: SessionRecord,
      isUnsaved: boolean,
      timeoutMs: number | null = ASK_MS,
    ): Promise<boolean> =>
      callObject("registered", timeoutMs, () =>
        objectOf(session.conversationId).registered(stringifyJson(session), isUnsaved),
      ),

    /** Opens a line for a page. Returns the page's end of it. */
    openLine: (conversationId: string, caller: Caller): Promise<WebSocket> =>
      openSocket("openLine", conversationId, () => relayRequest(caller)),

    /** Connects a page to an agent. Returns the page's end of it. */
    connect: (conversationId: string, agentId: string, parameters: SdkParameters): Promise<WebSocket> =>
      openSocket("connect", conversationId, () => proxyRequest(agentId, parameters)),

    /**
     * The renewed registration; null where another is current, or none. `isProven`: whether a server vouches for the
     * `agentSessionId`. Throws ConversationDeletedError.
     */
    async renew(
      conversationId: string,
      registrationId: string,
      agentSessionId: string | undefined,
      isProven: boolean,
    ): Promise<SessionRecord | null> {
      const text = await callObject("renew", ASK_MS, () =>
        objectOf(conversationId).renew(registrationId, agentSessionId, isProven),
      );
      return text === null ? null : (parseExactly(text) as SessionRecord);
    },

    /** Ends a registration, or whichever is current. Returns whether it was current. */
    ended: (conversationId: string, registrationId: string | undefined): Promise<boolean> =>
      callObject("ended", ASK_MS, () => objectOf(conversationId).ended(registrationId)),

    /** The live session, for who could not reach Redis. */
    async session(conversationId: string): Promise<SessionRecord | null> {
      const text = await callObject("session", ASK_MS, () => objectOf(conversationId).session());
      return text === null ? null : (parseExactly(text) as SessionRecord);
    },

    /** Appends a message, for who could not reach Redis. Throws ConversationDeletedError, RecordTooLargeError. */
    append: async (conversationId: string, message: Message): Promise<void> =>
      void (await callObject("append", ASK_MS, () =>
        objectOf(conversationId).append(stringifyJson(message)),
      )),

    /** Creates a conversation, for who could not reach Redis. */
    create: async (record: ConversationRecord): Promise<void> =>
      void (await callObject("create", ASK_MS, () =>
        objectOf(record.conversationId).create(stringifyJson(record)),
      )),

    /** Settles results that a page has told by itself. Returns their ids. */
    ack: (conversationId: string, requestIds: string[]): Promise<string[]> =>
      callObject("ack", ASK_MS, () => objectOf(conversationId).ack(requestIds)),

    /**
     * Has results said again. `onlyFailed`: those that nobody is known to have heard. `settledAt`: those that are settled
     * since then (ms), one for each. Returns the ids of those that wait for it. Throws ConversationDeletedError.
     */
    again: (
      conversationId: string,
      requestIds: string[],
      onlyFailed: boolean,
      settledAt?: number[],
    ): Promise<string[]> =>
      callObject("again", ASK_MS, () => objectOf(conversationId).again(requestIds, onlyFailed, settledAt), {
        // A second time would have it said a second time, unless it can tell that it is one.
        once: settledAt === undefined,
      }),

    /** What is not settled: the newest `limit`, and how many there are of each status. */
    open: (conversationId: string, limit: number): Promise<OpenResults> =>
      callObject("open", ASK_MS, () => objectOf(conversationId).open(limit)),

    /** Who was there, newest first. */
    connections: (conversationId: string): Promise<ConnectionEvent[]> =>
      callObject("connections", ASK_MS, () => objectOf(conversationId).connections()),

    results: (conversationId: string, query: ResultQuery): Promise<ResultRow[]> =>
      callObject("results", ASK_MS, () => objectOf(conversationId).results(query)),

    /** Resolves when the objects answer. */
    ping: async (): Promise<void> => void (await callObject("ping", ASK_MS, () => objectOf(NOBODY).ping())),

    /** Deletes a conversation. Returns whether there was one. */
    forget: (conversationId: string): Promise<boolean> =>
      callObject("forget", ASK_MS, () => objectOf(conversationId).forget()),
  };
}

/** No conversation has this id; the object behind it stays empty. */
const NOBODY = ":ping";
