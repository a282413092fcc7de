/**
 * The console: asks for the token, shows one view at a time, and says whether it is up to date.
 *
 * Plain Web Components, without a framework: for five views there is nothing to install and to keep up to date, and the
 * policy of the page (no script but this file, no style but its own) needs no exception.
 */

import { isConversationId } from "../../lib/keys.ts";
import { type ApiError, apiToken, forgetCredentials, refusals } from "./api.ts";
import { ConversationView } from "./conversation-view.ts";
import { announce, h, setAttribute, setText } from "./dom.ts";
import { gate } from "./gate.ts";
import { HealthView } from "./health-view.ts";
import { routeOf } from "./place.ts";
import { type PollState, pollStates } from "./poll.ts";
import { ResultsView } from "./results-view.ts";
import { SessionsView } from "./sessions-view.ts";
import { keepTimes } from "./time.ts";
import { TryView } from "./try-view.ts";
import { nothing, type View } from "./view.ts";

const VIEWS: Record<string, new () => View> = {
  results: ResultsView,
  sessions: SessionsView,
  conversations: ConversationView,
  health: HealthView,
  try: TryView,
};
for (const [name, view] of Object.entries(VIEWS)) customElements.define(`console-${name}`, view);

const [main, nav, live, forget, skip] = ["main", "views", "live", "forget", "skip"].map(elementOf) as [
  HTMLElement,
  HTMLElement,
  HTMLElement,
  HTMLElement,
  HTMLElement,
];
let shown: { name: string; id: string; view: View } | null = null;
/** Whether the first view was shown: from then on, who goes elsewhere is taken to its heading. */
let hasStarted = false;

function show(): void {
  const route = routeOf(location.hash);
  const name = Object.hasOwn(VIEWS, route.view) ? route.view : "results";
  if (shown?.name === name && shown.id === route.id) {
    shown.view.routeChanged(route);
    return;
  }
  const isNobody = name === "conversations" && !isConversationId(route.id);
  const create = isNobody ? SessionsView : (VIEWS[name] ?? ResultsView);
  const view = new create();
  view.route = route;
  shown = { name, id: route.id, view };
  const heading = h("h1", { tabindex: -1 }, ...headingOf(view));
  main.replaceChildren(
    heading,
    ...(isNobody ? [nothing("There can be no conversation of this id.")] : []),
    view,
  );
  // What asks for nothing by itself is never out of date.
  live.hidden = name === "try";
  document.title = `${view.heading} · edge-agent-sessions`;
  markCurrent(name);
  if (hasStarted) {
    heading.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  hasStarted = true;
}

function headingOf(view: View): (Node | string)[] {
  if (!(view instanceof ConversationView)) return [view.heading];
  return [h("span", { class: "quiet" }, "Conversation "), h("bdi", { class: "id" }, view.heading)];
}

function markCurrent(name: string): void {
  for (const link of nav.querySelectorAll("a")) {
    const isCurrent = routeOf(new URL(link.href).hash).view === name;
    setAttribute(link, "aria-current", isCurrent ? "page" : null);
  }
}

function open(): void {
  for (const element of [nav, live, forget]) element.hidden = false;
  setAttribute(live, "data-state", "waiting");
  setText(live, "…");
  shown = null;
  show();
}

function close(why: ApiError | null): void {
  for (const element of [nav, live, forget]) element.hidden = true;
  shown = null;
  document.title = "Console · edge-agent-sessions";
  main.replaceChildren(gate({ why, onOpen: open }));
  main.querySelector("input")?.focus();
}

function showState({ detail }: CustomEvent<PollState>): void {
  const isLive = detail.kind === "live";
  if (isLive === (live.dataset.state === "live") && isLive) return;
  setAttribute(live, "data-state", detail.kind);
  setText(live, isLive ? "Live" : `${detail.reason} Next try in ${Math.round(detail.nextMs / 1_000)} s.`);
  if (live.dataset.said !== detail.kind) announce(isLive ? "Up to date." : (live.textContent ?? ""));
  live.dataset.said = detail.kind;
}

function elementOf(id: string): HTMLElement {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`the page has no #${id}`);
  return element;
}

pollStates.addEventListener("state", (event) => showState(event as CustomEvent<PollState>));
refusals.addEventListener("refused", (event) => {
  // The gate says itself why it does not open.
  if (shown === null) return;
  apiToken.forget();
  close((event as CustomEvent<ApiError>).detail);
});
addEventListener("hashchange", () => {
  if (shown !== null) show();
});
forget.addEventListener("click", () => {
  forgetCredentials();
  close(null);
});
// A fragment of its own would be taken for a view.
skip.addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
keepTimes();
if (apiToken.get() === null) close(null);
else open();
