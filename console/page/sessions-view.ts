/** Who is live: the conversations that were active last, as far as their session stands. */
import type { LiveSession, LiveSessionListAnswer } from "./answers.ts";
import { get } from "./api.ts";
import { announce, fillFrom, h, KeyedList, type Row, setAttribute, setText } from "./dom.ts";
import { conversationLink, plural } from "./shown.ts";
import { now, setTime, timeNode } from "./time.ts";
import { LISTS_MS, nothing, olderButton, View } from "./view.ts";

const PAGE = 50;
const LOOKS_FOR_A_PAGE = 5;

export class SessionsView extends View {
  readonly heading = "Live sessions";
  #newest: LiveSession[] = [];
  /** Found by looking further back than what is asked for again and again. */
  #further: LiveSession[] = [];
  #nextCursor: string | undefined;
  #hasAsked = false;

  readonly #state = h("div", {});
  readonly #list = h("ul", { class: "rows" });
  readonly #older = olderButton("Look further back", () => this.#showOlder());
  readonly #rows = new KeyedList<LiveSession>(
    this.#list,
    (session) => session.conversationId,
    (session) => createSessionRow(session),
  );

  protected readonly sessionPoll = this.poll(LISTS_MS, this.#state, async (signal) => {
    const { sessions, nextCursor } = await get<LiveSessionListAnswer>(
      "/console/api/sessions",
      { limit: PAGE },
      signal,
    );
    if (!this.#hasAsked) this.#nextCursor = nextCursor;
    this.#newest = sessions;
    const isFirst = !this.#hasAsked;
    this.#hasAsked = true;
    if (isFirst && sessions.length === 0) await this.#searchOn(signal);
    this.#show();
  });

  protected build(): void {
    const input = h("input", {
      type: "text",
      name: "conversation",
      autocomplete: "off",
      autocapitalize: "off",
      spellcheck: "false",
      required: true,
      maxlength: 128,
    });
    const form = h(
      "form",
      {
        class: "filters",
        onsubmit: (event: Event) => {
          event.preventDefault();
          location.hash = `#/conversations/${encodeURIComponent(input.value.trim())}`;
        },
      },
      h("label", { class: "field" }, h("span", {}, "Conversation"), input),
      h("button", { type: "submit" }, "Open"),
    );
    this.append(form, h("section", {}, this.#state, this.#list, this.#older));
  }

  async #searchOn(signal?: AbortSignal): Promise<void> {
    for (let look = 0; look < LOOKS_FOR_A_PAGE && this.#nextCursor !== undefined; look++) {
      const answer = await get<LiveSessionListAnswer>(
        "/console/api/sessions",
        { limit: PAGE, cursor: this.#nextCursor },
        signal,
      );
      this.#further = [...this.#further, ...answer.sessions];
      this.#nextCursor = answer.nextCursor;
      if (answer.sessions.length > 0) break;
    }
  }

  async #showOlder(): Promise<void> {
    const before = this.#further.length;
    await this.#searchOn();
    announce(`${plural(this.#further.length - before, "session")} more shown.`);
    this.#show();
  }

  #show(): void {
    const newest = new Set(this.#newest.map((session) => session.conversationId));
    const further = this.#further.filter((session) => !newest.has(session.conversationId));
    const live = [...this.#newest, ...further].filter((session) => Date.parse(session.expiresAt) > now());
    this.#rows.show(live);
    this.#list.hidden = live.length === 0;
    this.#older.hidden = this.#nextCursor === undefined;
    fillFrom(this.#state, [live.length, this.#nextCursor === undefined], ([count]) => [
      count === 0
        ? nothing("Nobody is live.")
        : h("p", { class: "quiet" }, plural(Number(count), "live session")),
    ]);
  }
}

/** What the session record lives from its registration, or its renewal, on. */
const SESSION_MS = 600_000;

function createSessionRow(first: LiveSession): Row<LiveSession> {
  const channel = h("span", { class: "badge" });
  const waiting = h("span", { class: "tries" });
  const active = timeNode(first.lastActivityAt);
  const left = timeNode(first.expiresAt, "left");
  const meter = h("meter", { min: 0, max: SESSION_MS / 1_000, "aria-hidden": "true" });
  const node = h(
    "li",
    { class: "row session" },
    h(
      "div",
      { class: "line" },
      channel,
      conversationLink(first.conversationId),
      waiting,
      h("span", { class: "activity" }, h("span", { class: "what" }, "active "), active),
      h("span", { class: "countdown" }, h("span", { class: "unseen" }, "ends in "), left, meter),
    ),
  );
  return {
    node,
    update(session) {
      setText(channel, session.channel ?? "no channel");
      setAttribute(channel, "data-tone", session.channel === null ? "quiet" : "good");
      setText(waiting, waitingText(session));
      waiting.classList.toggle("is-some", (session.waiting ?? 0) + (session.unconfirmed ?? 0) > 0);
      setTime(active, session.lastActivityAt);
      setTime(left, session.expiresAt);
      meter.value = Math.max(0, (Date.parse(session.expiresAt) - now()) / 1_000);
    },
  };
}

export function waitingText({ waiting, unconfirmed }: Pick<LiveSession, "waiting" | "unconfirmed">): string {
  if (waiting === undefined || unconfirmed === undefined) return "did not say what waits";
  if (waiting + unconfirmed === 0) return "nothing waits";
  const parts = [
    ...(waiting > 0 ? [`${waiting.toLocaleString()} waiting`] : []),
    ...(unconfirmed > 0 ? [`${unconfirmed.toLocaleString()} unconfirmed`] : []),
  ];
  return parts.join(", ");
}
