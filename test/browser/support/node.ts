/**
 * A visitor without a browser: the pages' own code (`dev/pages/visit.ts`) and the official SDK in Node. What a browser
 * does by itself (events, storage of a tab) is played.
 */
import { type AgentSessionOptions, openAgentSession } from "../../../client/agent-session.ts";
import type { Page, PageEvent } from "../../../client/page.ts";
import type { PageName } from "../../../dev/pages/backend.ts";
import {
  createBackend,
  type ShownMessage,
  type ShownTask,
  standOf,
  startVisit,
  type Visit,
} from "../../../dev/pages/visit.ts";
import { PATIENCE_MS, type Tab, type Visitor } from "./visitor.ts";
import type { World } from "./world.ts";

export async function startNodeVisitor({ site }: World): Promise<Visitor> {
  const tabs = new Set<Tab>();
  const browserEvents = new EventTarget();
  return {
    keepsPages: false,
    async open(channel, conversationId) {
      const tab = await openTab(site.pageUrl(channel), channel, conversationId, browserEvents);
      tabs.add(tab);
      return tab;
    },
    async networkIs(state) {
      browserEvents.dispatchEvent(new Event(state));
    },
    async closeTabs() {
      for (const tab of tabs) await tab.close();
      tabs.clear();
    },
    async close() {
      for (const tab of tabs) await tab.close();
    },
  };
}

/** One loading of a page. */
type Loaded = {
  visit: Visit;
  page: NodePage;
  shown: ShownMessage[];
  /** The newest first. */
  tasks: () => readonly ShownTask[];
  changed: Set<() => void>;
};

async function openTab(
  address: string,
  channel: PageName,
  conversationId: string | undefined,
  browserEvents: EventTarget,
): Promise<Tab> {
  const { origin, hash } = new URL(address);
  const backend = createBackend(origin, hash.slice(1));
  const stored = new Map<string, string>();

  async function load(id: string | undefined): Promise<Loaded> {
    const page = createNodePage(stored, browserEvents);
    const shown: ShownMessage[] = [];
    let tasks: readonly ShownTask[] = [];
    const changed = new Set<() => void>();
    const tell = () => {
      for (const look of changed) look();
    };
    const visit = await startVisit({
      channel,
      backend,
      conversationId: id,
      onMessage(message) {
        shown.push(message);
        tell();
      },
      onStatus: tell,
      onTasks(listed) {
        tasks = listed;
        tell();
      },
      createSession: (options: AgentSessionOptions) => openAgentSession(page, options).session,
    });
    page.on("online", visit.start);
    return { visit, page, shown, tasks: () => tasks, changed };
  }

  let loaded = await load(conversationId);
  const id = loaded.visit.conversationId;

  /** Resolves with what `find` finds, now or soon. */
  function until<T>(what: string, find: () => T | undefined): Promise<T> {
    const { changed, visit, shown } = loaded;
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const look = () => {
      const found = find();
      if (found !== undefined) resolve(found);
    };
    const late = setTimeout(
      () => reject(new Error(`${what} is not shown: ${JSON.stringify([visit.status, shown])}`)),
      PATIENCE_MS,
    );
    changed.add(look);
    look();
    return promise.finally(() => {
      clearTimeout(late);
      changed.delete(look);
    });
  }

  /** A page that is left for good closes its connections, as a browser closes them. */
  async function unload(): Promise<void> {
    loaded.page.fire("pagehide");
    loaded.page.forget();
    loaded.visit.leave();
  }

  const tab: Tab = {
    conversationId: id,
    connected: () => tab.becomes({ agent: "connected", ...(channel === "relay" && { line: "live" }) }),
    async becomes({ agent, line }) {
      await until(`${agent} ${line}`, () => {
        const { status } = loaded.visit;
        const isThere = (agent ?? status.agent) === status.agent && (line ?? status.line) === status.line;
        return isThere || undefined;
      });
    },
    async say(text) {
      if (!loaded.visit.say(text)) throw new Error("nobody is there to hear it");
    },
    transcript: async () => loaded.shown.map(({ from, text }) => ({ from, text })),
    shows: (from, text) =>
      until(
        `${from}: ${text}`,
        () => loaded.shown.find((m) => m.from === from && m.text.includes(text))?.text,
      ),
    async showsTask(text) {
      await until(`task: ${text}`, () => {
        const [newest] = loaded.tasks();
        return (newest !== undefined && standOf(newest) === text) || undefined;
      });
    },
    async cancelTask() {
      await loaded.visit.cancelTask(loaded.tasks()[0]?.taskId ?? "");
    },
    pass: async (ms) => loaded.page.pass(ms),
    async reload() {
      await unload();
      loaded = await load(id);
    },
    goAway: unload,
    async comeAgain() {
      loaded = await load(id);
    },
    async goBack() {
      loaded = await load(id);
      return false;
    },
    close: unload,
  };
  return tab;
}

type NodePage = Page & {
  fire(event: PageEvent): void;
  /** Lets time pass, and what is due happen in its order. */
  pass(ms: number): void;
  forget(): void;
};

/** What the client needs of a page. `stored` is the tab's; `browserEvents` come to every page. */
function createNodePage(stored: Map<string, string>, browserEvents: EventTarget): NodePage {
  const events = new EventTarget();
  const timers = new Set<{ at: number; ring: () => void }>();
  let ahead = 0;
  const forward = (event: Event) => void events.dispatchEvent(new Event(event.type));
  for (const type of ["offline", "online"]) browserEvents.addEventListener(type, forward);

  const page: NodePage = {
    now: () => performance.now() + ahead,
    random: Math.random,
    after(ms, work) {
      const timer = {
        at: page.now() + ms,
        ring() {
          cancel();
          work();
        },
      };
      const real = setTimeout(timer.ring, ms);
      const cancel = () => {
        clearTimeout(real);
        timers.delete(timer);
      };
      timers.add(timer);
      return cancel;
    },
    openSocket: (url, protocols) => new WebSocket(url, protocols),
    storage: () => ({
      getItem: (key) => stored.get(key) ?? null,
      setItem: (key, value) => void stored.set(key, value),
    }),
    on(event, listener) {
      events.addEventListener(event, listener);
      return () => events.removeEventListener(event, listener);
    },
    complain: (error) => console.error(error),
    fire: (event) => void events.dispatchEvent(new Event(event)),
    pass(ms) {
      ahead += ms;
      for (const timer of [...timers].sort((a, b) => a.at - b.at)) if (timer.at <= page.now()) timer.ring();
    },
    forget() {
      for (const type of ["offline", "online"]) browserEvents.removeEventListener(type, forward);
    },
  };
  return page;
}
