/**
 * What every provider of voice agents has in common: a call of its own id that a server vouches for, a key of the
 * account, and commands to the call. A provider is one file, which says how it is told something and what its answers
 * mean; here that becomes a channel.
 *
 * The key opens every call of the account. So which call it is must be proven (`provenAgentSessionId`): what a page
 * says by itself reaches none.
 */
import { isCallId } from "../keys.ts";
import type { Delivery } from "../result.ts";
import type { Channel, Proof, PushableSession, PushOutcome } from "./channel.ts";
import type { PushMessage } from "./message.ts";

export type ProviderAccount = {
  apiKey: string;
  /** An origin. */
  apiUrl: string;
};

/** One message to one call. */
export type ProviderPush = ProviderAccount & {
  /** The call's id as it may stand in a path or a query. */
  call: string;
  /** Where the call takes commands; null with a provider whose calls have no address of their own. */
  controlUrl: URL | null;
  /** How it is to be told: what the provider has for the delivery that was asked for. */
  manner: Delivery;
  message: PushMessage;
};

/** `unauthorized`: the key is not taken. Nothing was heard then. */
export type ProviderOutcome = PushOutcome | { outcome: "unauthorized"; httpStatus: number };

export type Provider<Account extends string = string> = {
  /** What its variables begin with: `{account}_API_KEY` and `{account}_API_URL`. */
  account: Account;
  /** The origin of its API, where no variable says another. */
  apiUrl: string;
  /** How each delivery is told, where that is possible; else the nearest that is. */
  manners: Readonly<Record<Delivery, Delivery>>;
  /** The most that a push which is delivered proves. */
  proof: Proof;
  dedupes?: boolean;
  maxBytes?: number;
  /** Reads the registered control URL of a call; null where no command may go there. Without it calls have none. */
  controlUrlOf?: (controlUrl: string, callId: string, apiUrl: string) => URL | null;
  /** Never throws. */
  push: (push: ProviderPush) => Promise<ProviderOutcome>;
};

/** What one isolate knows of the keys it has. */
export interface KeyWatch {
  /**
   * Whether the key of a variable was refused so short a time ago that it is not shown again. When that is over it is so
   * for all but the first who asks, until somebody knows more.
   */
  isRefused(variable: string): boolean;
  /** A provider has answered: whether it took the key. */
  note(variable: string, isTaken: boolean): void;
}

/** The channel to the calls of one provider. */
export function createProviderChannel(
  name: string,
  provider: Provider,
  account: ProviderAccount,
  keys: KeyWatch,
): Channel {
  const { manners, controlUrlOf } = provider;
  const variable = `${provider.account}_API_KEY`;

  function targetOf(session: PushableSession): { call: string; controlUrl: URL | null } | null {
    const { provenAgentSessionId: id = "", agentSessionId = id } = session;
    if (session.provider !== name || agentSessionId !== id || !isCallId(id)) return null;
    const call = encodeURIComponent(id);
    if (controlUrlOf === undefined) return { call, controlUrl: null };
    const controlUrl = controlUrlOf(session.controlUrl ?? "", id, account.apiUrl);
    return controlUrl === null ? null : { call, controlUrl };
  }

  return {
    name,
    maxBytes: provider.maxBytes,
    dedupes: provider.dedupes === true,
    accepts: (session) => targetOf(session) !== null,
    async push(session, message) {
      const target = targetOf(session);
      if (target === null || keys.isRefused(variable)) return { outcome: "refused" };
      const manner = manners[message.delivery];
      const told = await provider.push({ ...account, ...target, manner, message });
      const { outcome } = told;
      if (outcome === "unauthorized") {
        keys.note(variable, false);
        return { outcome: "refused", httpStatus: told.httpStatus };
      }
      if (outcome === "delivered" || outcome === "ended" || wasLookedAt(told)) keys.note(variable, true);
      return outcome === "delivered" && manner !== message.delivery ? { manner, ...told } : told;
    },
  };
}

/** Whether a refusal is of what was said. A redirect, 403 and 429 may come before anybody has looked at the key. */
function wasLookedAt({
  outcome,
  httpStatus = 400,
}: Exclude<ProviderOutcome, { outcome: "delivered" }>): boolean {
  return outcome === "refused" && httpStatus >= 400 && httpStatus !== 403 && httpStatus !== 429;
}
