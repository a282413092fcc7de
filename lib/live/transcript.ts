/**
 * What is said in a proxied agent conversation, on its way into the history: in batches, at most one in five seconds.
 *
 * What the agent says is final once it has been heard; until then an interruption may cut it, and the provider
 * corrects what it said. What stands behind it waits too, so that the history keeps the order. Of what was said in the
 * last seconds before the object died, nothing is known.
 */
import type { Message } from "../conversation-store.ts";
import { ConversationDeletedError } from "../errors.ts";
import { type Logger, logFailure } from "../log.ts";
import { REPORT_ID } from "../report.ts";
import type { Utterance } from "./provider-events.ts";

export const COMMIT_EVERY_MS = 5_000;
/** A correction comes right after the interruption; by then it has come, in ms. */
const CORRECTED_WITHIN_MS = 1_000;
/** While the storage is away the newest utterances are kept. */
const MAX_WAITING = 500;
/** How often the rest is tried once the conversation is over. */
const MAX_LAST_TRIES = 12;

export type TranscriptOptions = {
  agentSessionId: string;
  /** `mayStand`: an earlier try may have left them there. Throws ConversationDeletedError, StorageError. */
  append: (messages: readonly Message[], mayStand: boolean) => Promise<void>;
  /** Until when what the agent has said is heard, in ms since the epoch. */
  agentSpeaksUntil: () => number;
  log: Logger;
  /** The clock, in ms since the epoch. */
  now: () => number;
  wait: (ms: number) => Promise<void>;
};

export interface Transcript {
  hear(said: Utterance): void;
  /** The conversation is over: everything is final. */
  end(): void;
}

type Entry = Message & { eventId: number };

export function createTranscript(options: TranscriptOptions): Transcript {
  const { agentSessionId, append, agentSpeaksUntil, log, now, wait } = options;
  let waiting: Entry[] = [];
  let heard = 0;
  let isOver = false;
  let isCommitting = false;

  function correct({ text, eventId, corrects }: Utterance): void {
    const said = waiting.filter(({ role }) => role === "agent");
    const entry =
      said.findLast(({ content }) => content === corrects) ??
      said.findLast(({ eventId: other }) => other === eventId);
    if (entry !== undefined) entry.content = text;
  }

  /** What can be committed now, oldest first. */
  function final(): Entry[] {
    if (isOver || now() >= agentSpeaksUntil() + CORRECTED_WITHIN_MS) return [...waiting];
    const open = waiting.findIndex(({ role }) => role === "agent");
    return waiting.slice(0, open === -1 ? waiting.length : open);
  }

  async function commit(): Promise<void> {
    isCommitting = true;
    for (let tries = 0; waiting.length > 0; ) {
      await wait(COMMIT_EVERY_MS);
      const entries = final();
      const messages = entries
        .filter(({ content }) => content.trim() !== "")
        .map(({ eventId: _, ...message }) => message);
      try {
        if (messages.length > 0) await append(messages, tries > 0);
        tries = 0;
        waiting = waiting.filter((entry) => !entries.includes(entry));
      } catch (error) {
        tries += 1;
        if (error instanceof ConversationDeletedError) waiting = [];
        else if (isOver && tries >= MAX_LAST_TRIES) {
          logFailure(log, "transcript", error);
          waiting = [];
        }
      }
    }
    isCommitting = false;
  }

  return {
    hear(said) {
      if (said.corrects !== undefined) return correct(said);
      const { role, text: content, eventId } = said;
      waiting.push({
        // As the ids of reports, which no page may choose.
        id: `${REPORT_ID}${agentSessionId}:live:${heard++}`,
        role,
        content,
        source: "elevenlabs",
        timestamp: new Date(now()).toISOString(),
        eventId,
      });
      waiting = waiting.slice(-MAX_WAITING);
      if (!isCommitting) void commit();
    },
    end() {
      isOver = true;
    },
  };
}
