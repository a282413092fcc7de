/** What became of results: what waits on top, then what is settled, the newest first. */

import { isConversationId, isRequestId } from "../../lib/keys.ts";
import type {
  ResultListAnswer,
  SettledListAnswer,
  SettledResult,
  WaitingConversation,
  WaitingListAnswer,
} from "./answers.ts";
import { conversationPath, get } from "./api.ts";
import { announce, fillFrom, h, KeyedList, setText, textField } from "./dom.ts";
import { openHandOver } from "./hand-over.ts";
import { type AnyResult, createResultRow } from "./result-row.ts";
import { plural } from "./shown.ts";
import { clockTime, now } from "./time.ts";
import { LISTS_MS, nothing, olderButton, type Route, View, WAITING_MS } from "./view.ts";

const PAGE = 50;
/** A filter looks through a bounded number each time, so a page may be empty though there is more behind it. */
const LOOKS_FOR_A_PAGE = 5;
const TYPING_PAUSE_MS = 300;
const MOST_SHOWN = 1_000;
/** As many as a page of a conversation's results may have. */
const MOST_OPEN = 100;

const OPEN = ["waiting", "saying"];
const STATUSES = [...OPEN, "delivered", "unconfirmed", "expired", "superseded", "dropped", "cancelled"];

type Filter = { status: string; conversationId: string; requestId: string; failed: boolean };
type OpenResult = AnyResult & { key: string };

export class ResultsView extends View {
  readonly heading = "Results";
  #filter: Filter = { status: "", conversationId: "", requestId: "", failed: false };
  /** What is shown of the settled ones, the newest first. */
  #settled: SettledResult[] = [];
  #nextBefore: string | undefined;
  #hasAsked = false;
  /** Found by looking further back than what is asked for again and again. */
  #waitingBefore: WaitingConversation[] = [];
  #lookedBackAt = "";
  #waiting: WaitingConversation[] = [];
  #waitingCursor: string | undefined;
  #hasAskedWaiting = false;
  /** How many conversations did not say what waits in them, and how many of older ones. */
  #unanswered = 0;
  #unansweredBefore = 0;
  #typing: ReturnType<typeof setTimeout> | undefined;

  readonly #status = h(
    "select",
    { name: "status" },
    h("option", { value: "" }, "any"),
    ...STATUSES.map((status) => h("option", { value: status }, status)),
  );
  readonly #conversation = textField("conversation", { maxlength: 256 });
  readonly #request = textField("request", { maxlength: 256 });
  readonly #failed = h("input", { type: "checkbox", name: "failed" });
  readonly #waitingSection = h("section", { class: "waiting" });
  readonly #waitingCount = h("span", { class: "count" });
  readonly #waitingState = h("div", {});
  readonly #waitingList = h("ul", { class: "rows" });
  readonly #waitingOlder = olderButton("Look in older conversations", () => this.#showOlderWaiting());
  readonly #settledState = h("div", {});
  readonly #settledList = h("ul", { class: "rows" });
  readonly #older = olderButton("Older", () => this.#showOlder());

  readonly #rowsOf = { showsConversation: true, onChange: () => this.#lookAgain() };
  readonly #waitingRows = new KeyedList<OpenResult>(
    this.#waitingList,
    ({ key }) => key,
    (result) => createResultRow(result, this.#rowsOf),
  );
  readonly #settledRows = new KeyedList<SettledResult>(this.#settledList, nameOf, (result) =>
    createResultRow(result, this.#rowsOf),
  );

  readonly #waitingPoll = this.poll(WAITING_MS, this.#waitingState, async (signal) => {
    if (!this.#showsWaiting()) return;
    const { conversations, unanswered, nextCursor } = await this.#askWaiting(signal);
    if (!this.#hasAskedWaiting) this.#waitingCursor = nextCursor;
    this.#hasAskedWaiting = true;
    this.#waiting = conversations;
    this.#unanswered = unanswered;
    this.#showWaiting();
  });
  readonly #settledPoll = this.poll(LISTS_MS, this.#settledState, async (signal) => {
    if (OPEN.includes(this.#filter.status)) return;
    await this.#refresh(signal);
  });

  protected build(): void {
    this.#readRoute();
    const form = h(
      "form",
      { class: "filters", onsubmit: (event: Event) => event.preventDefault() },
      field("Status", this.#status),
      field("Conversation", this.#conversation),
      field("Request", this.#request),
      h("label", { class: "check" }, this.#failed, "Failures only"),
      h(
        "button",
        { type: "button", class: "apart", onclick: () => openHandOver(() => this.#lookAgain()) },
        "Hand over what failed…",
      ),
    );
    form.addEventListener("input", (event) => {
      clearTimeout(this.#typing);
      const isTyped = event.target instanceof HTMLInputElement && event.target.type === "text";
      this.#typing = setTimeout(() => this.#filterChanged(), isTyped ? TYPING_PAUSE_MS : 0);
    });
    this.#waitingSection.append(
      h("h2", {}, "Waiting ", this.#waitingCount),
      this.#waitingState,
      this.#waitingList,
      this.#waitingOlder,
    );
    this.append(
      form,
      this.#waitingSection,
      h("section", {}, h("h2", {}, "Settled"), this.#settledState, this.#settledList, this.#older),
    );
    this.#showSections();
  }

  override routeChanged(route: Route): void {
    this.route = route;
    const before = JSON.stringify(this.#filter);
    this.#readRoute();
    if (JSON.stringify(this.#filter) !== before) this.#startAnew();
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    clearTimeout(this.#typing);
  }

  #readRoute(): void {
    const { query } = this.route;
    const status = query.get("status") ?? "";
    this.#filter = {
      status: STATUSES.includes(status) ? status : "",
      conversationId: query.get("conversation") ?? "",
      requestId: query.get("request") ?? "",
      failed: query.get("failed") === "true",
    };
    this.#status.value = this.#filter.status;
    if (this.#conversation.value.trim() !== this.#filter.conversationId) {
      this.#conversation.value = this.#filter.conversationId;
    }
    if (this.#request.value.trim() !== this.#filter.requestId) this.#request.value = this.#filter.requestId;
    this.#failed.checked = this.#filter.failed;
  }

  /** The filter stands in the address, so that a reload keeps it. */
  #filterChanged(): void {
    const query = new URLSearchParams();
    if (this.#status.value !== "") query.set("status", this.#status.value);
    if (this.#conversation.value.trim() !== "") query.set("conversation", this.#conversation.value.trim());
    if (this.#request.value.trim() !== "") query.set("request", this.#request.value.trim());
    if (this.#failed.checked) query.set("failed", "true");
    const text = query.toString();
    history.replaceState(null, "", `#/results${text === "" ? "" : `?${text}`}`);
    this.routeChanged({ ...this.route, query });
  }

  /** Whether there can be anything by these ids. */
  #canBe(): boolean {
    const { conversationId, requestId } = this.#filter;
    return (
      (conversationId === "" || isConversationId(conversationId)) &&
      (requestId === "" || isRequestId(requestId))
    );
  }

  #startAnew(): void {
    this.#settled = [];
    this.#nextBefore = undefined;
    this.#hasAsked = false;
    this.#waiting = [];
    this.#waitingBefore = [];
    [this.#unanswered, this.#unansweredBefore] = [0, 0];
    this.#waitingCursor = undefined;
    this.#hasAskedWaiting = false;
    this.#showSections();
    this.#lookAgain();
  }

  #lookAgain(): void {
    this.#waitingPoll.now();
    this.#settledPoll.now();
  }

  #showsWaiting(): boolean {
    const { status, failed } = this.#filter;
    // Some of what is unconfirmed is told once more.
    return !failed && (status === "" || status === "unconfirmed" || OPEN.includes(status));
  }

  #showSections(): void {
    const { status } = this.#filter;
    this.#waitingSection.hidden = !this.#showsWaiting();
    const settled = this.#settledList.parentElement;
    if (settled !== null) settled.hidden = OPEN.includes(status);
  }

  /** Of one conversation its own route knows all; of all of them, those that were active last are asked. */
  async #askWaiting(signal: AbortSignal): Promise<WaitingListAnswer> {
    const { conversationId } = this.#filter;
    if (conversationId === "") return get("/console/api/waiting", { limit: PAGE }, signal);
    if (!this.#canBe()) return { conversations: [], unanswered: 0 };
    const path = conversationPath(conversationId, "/results");
    const { results } = await get<ResultListAnswer>(path, { limit: MOST_OPEN }, signal);
    const open = results.filter((result) => result.settledAt === undefined);
    const waiting = open.filter(({ status }) => OPEN.includes(status)).length;
    const counts = { waiting, unconfirmed: open.length - waiting };
    const conversations = [{ conversationId, lastActivityAt: "", ...counts, results: open }];
    return { conversations, unanswered: 0 };
  }

  async #showOlderWaiting(): Promise<void> {
    for (let look = 0; look < LOOKS_FOR_A_PAGE && this.#waitingCursor !== undefined; look++) {
      const cursor = this.#waitingCursor;
      const { conversations, unanswered, nextCursor } = await get<WaitingListAnswer>("/console/api/waiting", {
        limit: PAGE,
        cursor,
      });
      // Another filter was set meanwhile.
      if (this.#waitingCursor !== cursor) return;
      this.#waitingBefore = [...this.#waitingBefore, ...conversations];
      this.#unansweredBefore += unanswered;
      this.#lookedBackAt = new Date(now()).toISOString();
      this.#waitingCursor = nextCursor;
      if (conversations.length > 0) break;
    }
    this.#showWaiting();
  }

  #showWaiting(): void {
    const { status, conversationId, requestId } = this.#filter;
    const newest = new Set(this.#waiting.map((one) => one.conversationId));
    const before = this.#waitingBefore.filter((one) => !newest.has(one.conversationId));
    const conversations = [...this.#waiting, ...before];
    const hasMore = this.#waitingCursor !== undefined;
    const open = conversations
      .filter((one) => conversationId === "" || one.conversationId === conversationId)
      .flatMap((one) =>
        one.results.map((result) => ({
          ...result,
          conversationId: one.conversationId,
          key: `${one.conversationId} ${result.requestId}`,
        })),
      )
      .filter((result) => requestId === "" || result.requestId === requestId)
      .filter((result) => status === "" || result.status === status)
      .sort((a, b) => b.receivedAt.localeCompare(a.receivedAt));
    const all = conversations.reduce((sum, { waiting, unconfirmed }) => sum + waiting + unconfirmed, 0);
    setText(this.#waitingCount, all === 0 ? "" : `${all.toLocaleString()}${hasMore ? "+" : ""}`);
    this.#waitingRows.show(open);
    this.#waitingList.hidden = open.length === 0;
    this.#waitingOlder.hidden = !hasMore;
    const hidden = status === "" && requestId === "" && conversationId === "" ? all - open.length : 0;
    const unanswered = this.#unanswered + this.#unansweredBefore;
    const facts = [open.length, hidden, hasMore, before.length, this.#lookedBackAt, unanswered];
    fillFrom(this.#waitingState, facts, () => [
      open.length === 0 &&
        unanswered === 0 &&
        nothing(hasMore ? "Nothing waits in the conversations active last." : "Nothing waits."),
      unanswered > 0 &&
        h("p", { class: "problem" }, `${plural(unanswered, "conversation")} did not say what waits there.`),
      hidden > 0 &&
        h("p", { class: "quiet" }, `${plural(hidden, "more waits", "more wait")} in these conversations.`),
      before.length > 0 &&
        h("p", { class: "quiet" }, `Older conversations are shown as of ${clockTime(this.#lookedBackAt)}.`),
    ]);
  }

  async #ask(before: string | undefined, signal?: AbortSignal): Promise<SettledListAnswer> {
    if (!this.#canBe()) return { results: [] };
    const { status, conversationId, requestId, failed } = this.#filter;
    return get<SettledListAnswer>(
      "/console/api/results",
      { limit: PAGE, before, status, conversationId, requestId, failed: failed || undefined },
      signal,
    );
  }

  async #refresh(signal: AbortSignal): Promise<void> {
    const isFirst = !this.#hasAsked;
    const { results, nextBefore } = await this.#ask(undefined, signal);
    const known = new Set(this.#settled.map((result) => result.id));
    const fresh = results.filter((result) => !known.has(result.id));
    // What these were looked for among is known anew: whatever is not in it any more has been settled otherwise since.
    const before = this.#settled.filter(({ id }) => nextBefore !== undefined && isBefore(id, nextBefore));
    // More came at once than a page holds: what lies between is fetched again by who wants to see it.
    const hasGap = !isFirst && results.length >= PAGE && fresh.length === results.length;
    if (isFirst || hasGap) {
      this.#settled = results;
      this.#nextBefore = nextBefore;
    } else {
      this.#settled = withOlder(results, before);
      if (nextBefore === undefined) this.#nextBefore = undefined;
      this.#keepWithin(MOST_SHOWN);
      if (fresh.length > 0) announce(`${plural(fresh.length, "result")} more settled.`);
    }
    this.#hasAsked = true;
    if (isFirst && results.length === 0) await this.#searchOn(signal);
    this.#showSettled();
  }

  /** A page that stands open for days does not grow for days. */
  #keepWithin(most: number): void {
    if (this.#settled.length <= most) return;
    this.#settled = this.#settled.slice(0, most);
    this.#nextBefore = this.#settled.at(-1)?.id;
  }

  /** Asks for older ones until there are some, or there was enough looking. */
  async #searchOn(signal?: AbortSignal): Promise<void> {
    for (let look = 0; look < LOOKS_FOR_A_PAGE && this.#nextBefore !== undefined; look++) {
      const before = this.#nextBefore;
      const { results, nextBefore } = await this.#ask(before, signal);
      // Another filter was set meanwhile, or more came than a page holds.
      if (this.#nextBefore !== before) return;
      this.#settled = withOlder(this.#settled, results);
      this.#nextBefore = nextBefore;
      if (results.length > 0) break;
    }
  }

  async #showOlder(): Promise<void> {
    const before = this.#settled.length;
    await this.#searchOn();
    announce(`${plural(this.#settled.length - before, "older result")} shown.`);
    this.#showSettled();
  }

  #showSettled(): void {
    // The log has them in the order in which they were written to it, which is some seconds off.
    this.#settledRows.show(this.#settled.toSorted((a, b) => b.settledAt.localeCompare(a.settledAt)));
    const isEmpty = this.#settled.length === 0;
    this.#settledList.hidden = isEmpty;
    const isFiltered = Object.values(this.#filter).some((value) => value !== "" && value !== false);
    fillFrom(this.#settledState, [isEmpty, isFiltered, this.#nextBefore === undefined], () => [
      isEmpty &&
        (this.#nextBefore !== undefined
          ? nothing("None so far; there are older ones to look through.")
          : isFiltered
            ? nothing("None that this filter lets through.")
            : nothing("None yet. ", h("a", { href: "#/try" }, "Try it"), ".")),
    ]);
    this.#older.hidden = this.#nextBefore === undefined;
  }
}

const nameOf = ({ conversationId, requestId }: SettledResult) => `${conversationId} ${requestId}`;

/** Newer and older entries of the log, each result once: the newest entry of it counts. */
function withOlder(newer: readonly SettledResult[], older: readonly SettledResult[]): SettledResult[] {
  const names = new Set(newer.map(nameOf));
  return [...newer, ...older.filter((result) => !names.has(nameOf(result)))];
}

/** Whether an entry of the log was written before another, by their ids: a time, and a number in that. */
function isBefore(id: string, other: string): boolean {
  const [[at = 0, place = 0], [otherAt = 0, otherPlace = 0]] = [
    id.split("-").map(Number),
    other.split("-").map(Number),
  ] as [number[], number[]];
  return at === otherAt ? place < otherPlace : at < otherAt;
}

function field(title: string, control: HTMLElement): HTMLElement {
  return h("label", { class: "field" }, h("span", {}, title), control);
}
