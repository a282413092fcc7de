/** Somebody with a browser, real or not, who visits the example pages. */
import type { PageName } from "../../../dev/pages/backend.ts";
import type { ShownMessage } from "../../../dev/pages/visit.ts";
import type { World } from "./world.ts";

export type StartVisitor = (world: World) => Promise<Visitor>;

export interface Visitor {
  /** Whether a page that is left is kept alive for whoever goes back to it. */
  readonly keepsPages: boolean;
  /** Opens a page in a tab of its own; it comes back to a conversation where one is named. */
  open(channel: PageName, conversationId?: string): Promise<Tab>;
  /** As the browser reports it: the network itself is the world's. */
  networkIs(state: "offline" | "online"): Promise<void>;
  /** Closes every tab. */
  closeTabs(): Promise<void>;
  close(): Promise<void>;
}

export interface Tab {
  readonly conversationId: string;
  /** Resolves when the agent is connected, and, by relay, the line is live. */
  connected(): Promise<void>;
  /** Resolves when the page says so of the agent, and of the line, where they are named. */
  becomes(state: { agent?: string; line?: string }): Promise<void>;
  say(text: string): Promise<void>;
  /** Everything that is shown, oldest first. */
  transcript(): Promise<Pick<ShownMessage, "from" | "text">[]>;
  /** Resolves with the first message that is shown, now or soon, of this speaker and with this text in it. */
  shows(from: ShownMessage["from"], text: string): Promise<string>;
  /** Resolves when the newest task of the agent is shown like this: how far it is, or what has become of it. */
  showsTask(text: string): Promise<void>;
  /** Cancels the newest task. */
  cancelTask(): Promise<void>;
  /** Time passes for the page. */
  pass(ms: number): Promise<void>;
  reload(): Promise<void>;
  /** Leaves the page for another one, as by a link. */
  goAway(): Promise<void>;
  /** Comes to the page again, anew. */
  comeAgain(): Promise<void>;
  /** Goes back to it, as by the browser's button. Resolves with whether it was kept alive meanwhile. */
  goBack(): Promise<boolean>;
  close(): Promise<void>;
}

/** How long anything may take that a visitor waits for. */
export const PATIENCE_MS = 10_000;
