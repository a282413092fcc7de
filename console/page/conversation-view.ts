/** One conversation: who is there, what was said in it, its results and tasks, and who was connected when. */
import type {
  Connection,
  ConnectionListAnswer,
  HistoryAnswer,
  ResultListAnswer,
  SessionAnswer,
  ShownResult,
  Task,
  TaskListAnswer,
} from "./answers.ts";
import { ApiError, conversationPath, get, type Query } from "./api.ts";
import { fillFrom, h, KeyedList, setAttribute } from "./dom.ts";
import { type AnyResult, createResultRow } from "./result-row.ts";
import { badge, id, quoted, visible } from "./shown.ts";
import { timeNode } from "./time.ts";
import { LISTS_MS, nothing, olderButton, section, View } from "./view.ts";

type Message = HistoryAnswer["messages"][number];

const PAGE = 50;

const NONE = { items: [], nextBefore: undefined, hasAsked: false };

/** A list of the conversation with pages: the newest is asked for again and again, older ones stay as they were. */
type Pages<T> = { items: T[]; nextBefore: string | undefined; hasAsked: boolean };

function merged<T>(
  pages: Pages<T>,
  newest: T[],
  nextBefore: string | undefined,
  keyOf: (item: T) => string,
): Pages<T> {
  const keys = new Set(newest.map(keyOf));
  const older = pages.items.filter((item) => !keys.has(keyOf(item)));
  const isFirst = !pages.hasAsked;
  // Nothing stays in between that neither page holds.
  const touches = isFirst || older.length < pages.items.length || newest.length === 0;
  return {
    items: touches ? [...newest, ...older] : newest,
    nextBefore: isFirst || !touches ? nextBefore : pages.nextBefore,
    hasAsked: true,
  };
}

export class ConversationView extends View {
  get heading(): string {
    return visible(this.route.id);
  }
  #showsContents = false;
  #messages: Pages<Message> = { items: [], nextBefore: undefined, hasAsked: false };
  #results: Pages<ShownResult> = { items: [], nextBefore: undefined, hasAsked: false };

  readonly #session = h("div", {});
  readonly #messageState = h("div", {});
  readonly #messageList = h("ol", { class: "rows messages" });
  readonly #olderMessages = olderButton("Older", () => this.#loadOlderMessages());
  readonly #resultState = h("div", {});
  readonly #resultList = h("ul", { class: "rows" });
  readonly #olderResults = olderButton("Older", () => this.#loadOlderResults());
  readonly #tasks = h("div", {});
  readonly #connections = h("div", {});
  readonly #reveal = h("input", { type: "checkbox", onchange: () => this.#showMessages() });

  readonly #messageRows = new KeyedList<Message>(
    this.#messageList,
    (message) => message.id,
    (message) => {
      const content = h("div", { class: "content" });
      const role = badge(message.role);
      const node = h(
        "li",
        { class: "row message" },
        h(
          "div",
          { class: "line" },
          role,
          h(
            "span",
            { class: "source" },
            visible([message.source, message.toolName].filter(Boolean).join(" · ")),
          ),
          id(message.id, { class: "id name" }),
          timeNode(message.timestamp),
        ),
        content,
      );
      return {
        node,
        update: (newer) =>
          fillFrom(content, this.#showsContents ? newer.content : null, (text) => [
            text !== null && quoted(text === "" ? JSON.stringify(newer.toolOutput ?? "", null, 2) : text),
          ]),
      };
    },
  );
  readonly #resultRows = new KeyedList<AnyResult>(
    this.#resultList,
    (result) => result.requestId,
    (result) => createResultRow(result, { showsConversation: false, onChange: () => this.#resultPoll.now() }),
  );

  protected readonly sessionPoll = this.poll(LISTS_MS, this.#session, async (signal) => {
    const session = await this.#maybe<SessionAnswer>("/session", {}, signal);
    fillFrom(this.#session, session === null ? null : { ...session, ttl: 0 }, (found) =>
      found === null ? [nothing("Nobody is live.")] : [sessionFacts(found)],
    );
  });
  protected readonly messagePoll = this.poll(LISTS_MS, this.#messageState, async (signal) => {
    const history = await this.#maybe<HistoryAnswer>("", { limit: PAGE }, signal);
    const newest = [...(history?.messages ?? [])].reverse();
    this.#messages =
      history === null ? NONE : merged(this.#messages, newest, history.nextBefore, (message) => message.id);
    this.#showMessages(history === null);
  });
  readonly #resultPoll = this.poll(LISTS_MS, this.#resultState, async (signal) => {
    const { results, nextBefore } = await this.#get<ResultListAnswer>("/results", { limit: PAGE }, signal);
    this.#results = merged(this.#results, results, nextBefore, (result) => result.requestId);
    this.#showResults();
  });
  protected readonly taskPoll = this.poll(LISTS_MS, this.#tasks, async (signal) => {
    const { tasks } = await this.#get<TaskListAnswer>("/tasks", { limit: PAGE }, signal);
    fillFrom(this.#tasks, tasks, (all) =>
      all.length === 0 ? [nothing("None.")] : [h("ul", { class: "rows" }, ...all.map(taskRow))],
    );
  });
  protected readonly connectionPoll = this.poll(LISTS_MS, this.#connections, async (signal) => {
    const { connections } = await this.#get<ConnectionListAnswer>("/connections", {}, signal);
    fillFrom(this.#connections, connections, (all) =>
      all.length === 0
        ? [nothing("None that is remembered.")]
        : [h("ol", { class: "rows" }, ...all.map(connectionRow))],
    );
  });

  protected build(): void {
    this.append(
      h(
        "p",
        { class: "bar" },
        h("a", { href: `#/try?conversation=${encodeURIComponent(this.route.id)}` }, "Send it a result"),
        h(
          "a",
          { href: `#/results?conversation=${encodeURIComponent(this.route.id)}` },
          "Its settled results",
        ),
      ),
      section("Session", this.#session),
      section("Results", this.#resultState, this.#resultList, this.#olderResults),
      section(
        "Messages",
        h("label", { class: "check" }, this.#reveal, "Show what they say"),
        this.#messageState,
        this.#messageList,
        this.#olderMessages,
      ),
      section("Tasks", this.#tasks),
      section("Connections", this.#connections),
    );
  }

  #get<T>(rest: string, query: Query, signal?: AbortSignal): Promise<T> {
    return get<T>(conversationPath(this.route.id, rest), query, signal);
  }

  /** Null where there is no such thing. */
  async #maybe<T>(rest: string, query: Query, signal?: AbortSignal): Promise<T | null> {
    try {
      return await this.#get<T>(rest, query, signal);
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) return null;
      throw error;
    }
  }

  #showMessages(isUnknown = false): void {
    if (this.#showsContents !== this.#reveal.checked) this.#showsContents = this.#reveal.checked;
    this.#messageRows.show(this.#messages.items);
    this.#messageList.hidden = this.#messages.items.length === 0;
    this.#olderMessages.hidden = this.#messages.nextBefore === undefined;
    fillFrom(this.#messageState, [isUnknown, this.#messages.items.length === 0], ([unknown, empty]) => [
      unknown ? nothing("There is no such conversation, or no longer.") : empty && nothing("None."),
    ]);
  }

  async #loadOlderMessages(): Promise<void> {
    const before = this.#messages.nextBefore;
    const history = await this.#maybe<HistoryAnswer>("", { limit: PAGE, before });
    const older = [...(history?.messages ?? [])].reverse();
    this.#messages = {
      ...this.#messages,
      items: [...this.#messages.items, ...older],
      nextBefore: history?.nextBefore,
    };
    this.#showMessages();
  }

  #showResults(): void {
    const { items, nextBefore } = this.#results;
    this.#resultRows.show(items.map((result) => ({ ...result, conversationId: this.route.id })));
    this.#resultList.hidden = items.length === 0;
    this.#olderResults.hidden = nextBefore === undefined;
    fillFrom(this.#resultState, items.length === 0, (isEmpty) => [
      isEmpty && nothing("None, or none that is still remembered."),
    ]);
  }

  async #loadOlderResults(): Promise<void> {
    const { results, nextBefore } = await this.#get<ResultListAnswer>("/results", {
      limit: PAGE,
      before: this.#results.nextBefore,
    });
    this.#results = { ...this.#results, items: [...this.#results.items, ...results], nextBefore };
    this.#showResults();
  }
}

function sessionFacts(session: SessionAnswer): HTMLElement {
  const facts: [string, Node | string | undefined][] = [
    ["Channel", badgeOf(session.channel)],
    ["Ends in", timeNode(session.expiresAt, "left")],
    ["Registered", timeNode(session.createdAt)],
    ["Transport", session.transport],
    ["Registration", id(session.registrationId)],
    ["Agent conversation", session.agentSessionId === undefined ? undefined : id(session.agentSessionId)],
  ];
  return h(
    "dl",
    { class: "facts panel" },
    ...facts.flatMap(([name, value]) =>
      value === undefined ? [] : [h("div", {}, h("dt", {}, name), h("dd", {}, value))],
    ),
  );
}

function badgeOf(channel: string | null): HTMLElement {
  const node = badge(channel ?? "no channel");
  setAttribute(node, "data-tone", channel === null ? "quiet" : "good");
  return node;
}

function taskRow(task: Task): HTMLElement {
  const { taskId, tool, status, createdAt, deadline, overAt, progress } = task;
  return h(
    "li",
    { class: "row task" },
    h(
      "div",
      { class: "line" },
      badge(status),
      h("b", {}, visible(tool)),
      id(taskId, { class: "id name" }),
      overAt === undefined
        ? h("span", { class: "quiet" }, "by ", timeNode(deadline, "clock"))
        : h("span", { class: "quiet" }, "over ", timeNode(overAt)),
      timeNode(createdAt),
    ),
    progress !== undefined &&
      h(
        "p",
        { class: "progress quiet" },
        `${progress.seq}: `,
        h("bdi", {}, visible(progress.text)),
        " ",
        timeNode(progress.at),
      ),
  );
}

const EVENT_TONES: Record<string, string> = { registered: "good", replaced: "quiet", ended: "quiet" };

function connectionRow({ at, event, registrationId, channel, agentSessionId }: Connection): HTMLElement {
  const node = badge(event);
  setAttribute(node, "data-tone", EVENT_TONES[event] ?? "doubtful");
  return h(
    "li",
    { class: "row connection" },
    h(
      "div",
      { class: "line" },
      node,
      h("span", { class: "channel" }, visible(channel ?? "–")),
      id(registrationId, { class: "id name" }),
      agentSessionId !== undefined && h("span", { class: "quiet" }, "agent ", id(agentSessionId)),
      timeNode(at),
    ),
  );
}
