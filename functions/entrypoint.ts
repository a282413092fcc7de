/**
 * What another Worker of the account may call by a service binding: the HTTP API as methods. Each call is a request to
 * the same app, so it meets the same rules: what is refused there is refused here, by an error with its code. The
 * binding itself is the credential, of a server and of a sender of callbacks.
 */
import { WorkerEntrypoint } from "cloudflare:workers";
import { pause } from "../lib/patience.ts";
import { createExchange } from "../server/exchange.ts";
import { createMethods, type ServerClient } from "../server/methods.ts";
import { app } from "./app.ts";
import type { Bindings } from "./context.ts";
import { vouchFor } from "./vouched.ts";

type Args<M extends keyof ServerClient> = Parameters<ServerClient[M]>;

/** Nobody is there who could not be reached; whoever called may try again. */
const ONCE = { baseUrl: "http://service-binding", timeoutMs: 30_000, attempts: 1, maxWaitMs: 0 };

export class AgentSessions extends WorkerEntrypoint<Bindings> implements ServerClient {
  readonly #methods = createMethods(
    createExchange(
      {
        fetch: async (url, init) => app.fetch(vouchFor(new Request(url, init)), this.env, this.ctx),
        now: () => Date.now(),
        wait: pause,
        random: Math.random,
      },
      ONCE,
    ),
    { server: async () => ({}), webhook: () => async () => ({}) },
  );

  createConversation(...args: Args<"createConversation">) {
    return this.#methods.createConversation(...args);
  }
  listConversations(...args: Args<"listConversations">) {
    return this.#methods.listConversations(...args);
  }
  issueToken(...args: Args<"issueToken">) {
    return this.#methods.issueToken(...args);
  }
  readConversation(...args: Args<"readConversation">) {
    return this.#methods.readConversation(...args);
  }
  deleteConversation(...args: Args<"deleteConversation">) {
    return this.#methods.deleteConversation(...args);
  }
  writeMessage(...args: Args<"writeMessage">) {
    return this.#methods.writeMessage(...args);
  }

  registerSession(...args: Args<"registerSession">) {
    return this.#methods.registerSession(...args);
  }
  readSession(...args: Args<"readSession">) {
    return this.#methods.readSession(...args);
  }
  endSession(...args: Args<"endSession">) {
    return this.#methods.endSession(...args);
  }
  signUrl(...args: Args<"signUrl">) {
    return this.#methods.signUrl(...args);
  }

  listResults(...args: Args<"listResults">) {
    return this.#methods.listResults(...args);
  }
  acknowledgeResults(...args: Args<"acknowledgeResults">) {
    return this.#methods.acknowledgeResults(...args);
  }
  sayAgain(...args: Args<"sayAgain">) {
    return this.#methods.sayAgain(...args);
  }
  listConnections(...args: Args<"listConnections">) {
    return this.#methods.listConnections(...args);
  }
  listTasks(...args: Args<"listTasks">) {
    return this.#methods.listTasks(...args);
  }
  cancelTask(...args: Args<"cancelTask">) {
    return this.#methods.cancelTask(...args);
  }

  listSettledResults(...args: Args<"listSettledResults">) {
    return this.#methods.listSettledResults(...args);
  }
  sayFailedAgain(...args: Args<"sayFailedAgain">) {
    return this.#methods.sayFailedAgain(...args);
  }
  listWaiting(...args: Args<"listWaiting">) {
    return this.#methods.listWaiting(...args);
  }
  listLiveSessions(...args: Args<"listLiveSessions">) {
    return this.#methods.listLiveSessions(...args);
  }
  readRates(...args: Args<"readRates">) {
    return this.#methods.readRates(...args);
  }
  listOutages(...args: Args<"listOutages">) {
    return this.#methods.listOutages(...args);
  }

  callBack(...args: Args<"callBack">) {
    return this.#methods.callBack(...args);
  }
  reportProgress(...args: Args<"reportProgress">) {
    return this.#methods.reportProgress(...args);
  }

  readState(...args: Args<"readState">) {
    return this.#methods.readState(...args);
  }
  writeState(...args: Args<"writeState">) {
    return this.#methods.writeState(...args);
  }
  deleteState(...args: Args<"deleteState">) {
    return this.#methods.deleteState(...args);
  }
  touchState(...args: Args<"touchState">) {
    return this.#methods.touchState(...args);
  }

  readMemory(...args: Args<"readMemory">) {
    return this.#methods.readMemory(...args);
  }
  writeMemory(...args: Args<"writeMemory">) {
    return this.#methods.writeMemory(...args);
  }
  changeMemory(...args: Args<"changeMemory">) {
    return this.#methods.changeMemory(...args);
  }
  deleteMemory(...args: Args<"deleteMemory">) {
    return this.#methods.deleteMemory(...args);
  }
  touchMemory(...args: Args<"touchMemory">) {
    return this.#methods.touchMemory(...args);
  }
}
