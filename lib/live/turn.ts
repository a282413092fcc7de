/**
 * Whether anybody is speaking, as far as a connection tells. Pure: the clock comes in. Results that wait for
 * their turn gather while somebody speaks, and go out together when the turn ends, or when the first of them
 * has waited long enough.
 */

/** The longest that a result waits for its turn, in ms. */
export const LONGEST_HOLD_MS = 8_000;
/** How long a sign of the user speaking holds, when no further one comes. */
const USER_SPEAKS_MS = 1_500;

/** What a connection reports; `at` in ms since the epoch. */
export type TurnEvent =
  | { type: "agent_speaking" | "agent_listening" }
  /** As far as is known what the agent says is heard until then; a time that is past ends it. */
  | { type: "agent_speaks_until"; until: number }
  | { type: "user_activity"; at: number }
  /** The connection went: nothing is known any more. */
  | { type: "unknown" };

export interface Turn {
  note(event: TurnEvent): void;
  /** When it is worth looking again, in ms since the epoch; null where nobody is known to speak. */
  busyUntil(now: number): number | null;
}

export function createTurn(): Turn {
  let isAgentSpeaking = false;
  let agentQuietAt = Number.NEGATIVE_INFINITY;
  let userQuietAt = Number.NEGATIVE_INFINITY;
  return {
    note(event) {
      switch (event.type) {
        case "agent_speaking":
          isAgentSpeaking = true;
          return;
        case "agent_listening":
          isAgentSpeaking = false;
          return;
        case "agent_speaks_until":
          agentQuietAt = event.until;
          return;
        case "user_activity":
          userQuietAt = event.at + USER_SPEAKS_MS;
          return;
        case "unknown":
          isAgentSpeaking = false;
          agentQuietAt = userQuietAt = Number.NEGATIVE_INFINITY;
      }
    },

    busyUntil(now) {
      if (isAgentSpeaking) return now + LONGEST_HOLD_MS;
      const quietAt = Math.max(agentQuietAt, userQuietAt);
      return now < quietAt ? quietAt : null;
    },
  };
}
