/** One result in a list: a line, and when it is opened its attempts, what it says, and what can be done with it. */
import type { AgainAnswer, Attempt, ResultListAnswer, ShownResult } from "./answers.ts";
import { ApiError, conversationPath, get, post } from "./api.ts";
import { announce, fillFrom, h, type Row, setAttribute, setText } from "./dom.ts";
import { badge, conversationLink, id, plural, quoted, toneOf, visible } from "./shown.ts";
import { clockTime, duration, exactTime, setTime, timeNode } from "./time.ts";

export type AnyResult = Omit<ShownResult, "content" | "attempts"> & {
  conversationId: string;
  attempts: readonly Attempt[];
};

/** How far back one result is looked for, to show what it says. */
const PAGES_SEARCHED = 10;
const PAGE = 100;

let rows = 0;

/** `showsConversation`: where the list holds results of several. `onChange` is called when something was asked for. */
export function createResultRow(
  first: AnyResult,
  { showsConversation, onChange }: { showsConversation: boolean; onChange: () => void },
): Row<AnyResult> {
  let result = first;
  rows += 1;
  const detailsId = `result-${rows}`;
  const status = h("span", { class: "badge" });
  const channel = h("span", { class: "channel" });
  const tries = h("span", { class: "tries" });
  const time = timeNode(result.settledAt ?? result.receivedAt);
  const details = h("div", { class: "details", id: detailsId, hidden: true });
  const open = h(
    "button",
    { class: "open", type: "button", "aria-expanded": "false", "aria-controls": detailsId, onclick: toggle },
    status,
    id(result.requestId, { class: "id name" }),
  );
  const node = h(
    "li",
    { class: "row result" },
    h(
      "div",
      { class: "line" },
      open,
      showsConversation && conversationLink(result.conversationId),
      channel,
      tries,
      time,
    ),
    details,
  );

  // Parts of the details, made when it is opened for the first time.
  const facts = h("dl", { class: "facts" });
  const attempts = h("div", { class: "attempts" });
  const content = h("div", { class: "content" });
  const said = h("p", { class: "said", role: "status" });
  const again = h("button", { type: "button", onclick: sayAgain }, "Say again");
  const reveal = h("button", { type: "button", onclick: showContent }, "Show what it says");

  function toggle(): void {
    const isOpen = details.hidden !== false;
    details.hidden = !isOpen;
    setAttribute(open, "aria-expanded", isOpen ? "true" : "false");
    node.classList.toggle("is-open", isOpen);
    if (!isOpen) return;
    if (!details.hasChildNodes()) {
      details.append(facts, attempts, h("div", { class: "actions" }, reveal, again), said, content);
    }
    showDetails();
  }

  function showDetails(): void {
    fillFrom(facts, factsOf(result), (all) =>
      all.map(([name, value, title]) => h("div", {}, h("dt", {}, name), h("dd", { title }, visible(value)))),
    );
    fillFrom(attempts, result.attempts, (all) => [attemptTable(all)]);
    again.hidden = result.status === "waiting" || result.status === "saying";
  }

  async function sayAgain(): Promise<void> {
    again.disabled = true;
    try {
      const { again: asked } = await post<AgainAnswer>(
        conversationPath(result.conversationId, "/results/again"),
        { requestIds: [result.requestId] },
      );
      const isAsked = asked.includes(result.requestId);
      setText(
        said,
        isAsked
          ? "It waits again, and is said as soon as somebody is there."
          : "It was not said again: it waits already, or is no longer known.",
      );
      onChange();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setText(said, `It was not said again. ${error.message}`);
    } finally {
      again.disabled = false;
    }
  }

  async function showContent(): Promise<void> {
    if (content.hasChildNodes()) {
      content.replaceChildren();
      setText(reveal, "Show what it says");
      return;
    }
    reveal.disabled = true;
    try {
      const found = await findContent(result.conversationId, result.requestId);
      content.replaceChildren(...contentNodes(found));
      setText(reveal, "Hide what it says");
      announce("What the result says is shown.");
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      content.replaceChildren(h("p", { class: "problem" }, error.message));
    } finally {
      reveal.disabled = false;
    }
  }

  return {
    node,
    update(newer) {
      result = newer;
      setText(status, visible(result.status));
      setAttribute(status, "data-tone", toneOf(result.status));
      setText(channel, result.channel ?? result.attempts.at(-1)?.channel ?? "–");
      setText(
        tries,
        result.attempts.length === 0 ? "not tried" : plural(result.attempts.length, "try", "tries"),
      );
      setTime(time, result.settledAt ?? result.receivedAt);
      if (!details.hidden) showDetails();
    },
  };
}

function factsOf({
  delivery,
  receivedAt,
  settledAt,
}: AnyResult): [name: string, value: string, title: string][] {
  const took = settledAt === undefined ? null : Date.parse(settledAt) - Date.parse(receivedAt);
  return [
    ["Delivery", delivery.replaceAll("_", " "), delivery],
    ["Received", clockTime(receivedAt), exactTime(receivedAt)],
    ...(settledAt === undefined || took === null
      ? []
      : ([
          ["Settled", clockTime(settledAt), exactTime(settledAt)],
          ["Took", duration(took), `${took} ms`],
        ] as [string, string, string][])),
  ];
}

/** The columns that only some attempts have something for. */
const MAYBE: [title: string, label: string, of: (attempt: Attempt) => string | undefined][] = [
  ["Proof", "proof", ({ proof }) => proof?.replaceAll("_", " ")],
  ["Told as", "told as", ({ manner }) => manner?.replaceAll("_", " ")],
  ["Close code", "close code", ({ closeCode }) => closeCode?.toString()],
  ["HTTP", "HTTP", ({ httpStatus }) => httpStatus?.toString()],
];

function attemptTable(attempts: readonly Attempt[]): HTMLElement {
  if (attempts.length === 0) return h("p", { class: "quiet" }, "Nobody was there to be told yet.");
  const columns = MAYBE.filter(([, , of]) => attempts.some((attempt) => of(attempt) !== undefined));
  const titles = ["Tried at", "Channel", "Outcome", ...columns.map(([title]) => title)];
  return h(
    "table",
    { class: "attempt-table" },
    h("caption", { class: "unseen" }, "Attempts to say it"),
    h("thead", {}, h("tr", {}, ...titles.map((title) => h("th", { scope: "col" }, title)))),
    h(
      "tbody",
      {},
      ...attempts.map((attempt) =>
        h(
          "tr",
          {},
          h("td", {}, timeNode(attempt.at, "clock")),
          h("td", {}, visible(attempt.channel)),
          h("td", {}, badge(attempt.outcome)),
          ...columns.map(([, label, of]) => {
            const value = of(attempt);
            const isEmpty = value === undefined;
            return h("td", { class: isEmpty && "is-empty", "data-label": label }, visible(value ?? "–"));
          }),
        ),
      ),
    ),
  );
}

/** What a result says: the route has pages, so it is looked for. Throws ApiError where it is not found. */
async function findContent(conversationId: string, requestId: string): Promise<unknown> {
  let before: string | undefined;
  for (let page = 0; page < PAGES_SEARCHED; page++) {
    const { results, nextBefore } = await get<ResultListAnswer>(
      conversationPath(conversationId, "/results"),
      { content: true, limit: PAGE, before },
    );
    const found = results.find((result) => result.requestId === requestId);
    if (found !== undefined) return found.content;
    before = nextBefore;
    if (before === undefined) break;
  }
  throw new ApiError("It is no longer kept.", { status: 404, code: "forgotten" });
}

const LINE_CHARACTERS = 60;

/** Each field by itself: short ones side by side; a longer text as it is, anything else as JSON. */
function contentNodes(content: unknown): HTMLElement[] {
  if (typeof content !== "object" || content === null || Array.isArray(content)) return [valueNode(content)];
  const fields = Object.entries(content);
  const isShort = ([name, value]: [string, unknown]) =>
    !LONG_FIELDS.includes(name) &&
    (typeof value === "string"
      ? value.length <= LINE_CHARACTERS && !value.includes("\n")
      : typeof value !== "object" || value === null);
  const short = fields.filter(isShort);
  return [
    h(
      "dl",
      { class: "facts" },
      ...short.map(([name, value]) =>
        h("div", {}, h("dt", {}, visible(name)), h("dd", {}, h("bdi", {}, visible(String(value))))),
      ),
    ),
    ...fields
      .filter((field) => !isShort(field))
      .map(([name, value]) => h("div", { class: "field" }, h("h4", {}, visible(name)), valueNode(value))),
  ];
}

const LONG_FIELDS = ["output", "error"];

function valueNode(value: unknown): HTMLElement {
  return quoted(typeof value === "string" ? value : (JSON.stringify(value, null, 2) ?? "nothing"));
}
