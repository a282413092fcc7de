/** What the views have in common. */
import { ApiError } from "./api.ts";
import { fillFrom, h, setText } from "./dom.ts";
import { Poll } from "./poll.ts";

/** Where the page is, as its address says behind `#`. */
export type Route = { view: string; id: string; query: URLSearchParams };

export const LISTS_MS = 5_000;
/** What waits is asked of forty conversations' objects, which wake up for it. */
export const WAITING_MS = 15_000;
export const FIGURES_MS = 30_000;

/** An element that fills the page, and asks as long as it is there. */
export abstract class View extends HTMLElement {
  abstract readonly heading: string;
  #polls: Poll[] = [];
  route: Route = { view: "", id: "", query: new URLSearchParams() };

  /** Builds what stands still; called once. */
  protected abstract build(): void;

  /** The address has changed, but not the view. */
  routeChanged(_route: Route): void {}

  connectedCallback(): void {
    if (!this.hasChildNodes()) this.build();
    for (const poll of this.#polls) poll.start();
  }

  disconnectedCallback(): void {
    for (const poll of this.#polls) poll.stop();
  }

  /** Asks again and again. What goes wrong the first time is shown in `place`; later the head of the page says it. */
  protected poll(everyMs: number, place: HTMLElement, look: (signal: AbortSignal) => Promise<void>): Poll {
    let wasShown = false;
    const poll = new Poll(everyMs, async (signal) => {
      try {
        await look(signal);
        wasShown = true;
      } catch (error) {
        if (error instanceof ApiError && !wasShown) showProblem(place, error);
        throw error;
      }
    });
    this.#polls.push(poll);
    return poll;
  }
}

export function showProblem(place: HTMLElement, { message, code }: ApiError): void {
  fillFrom(place, [message, code], () => [h("p", { class: "problem" }, `Could not be loaded: ${message}`)]);
}

/** A button that loads more of a list; where that fails it says why, and can be pressed again. */
export function olderButton(label: string, load: () => Promise<void>): HTMLButtonElement {
  const button = h("button", { type: "button", class: "older", hidden: true, onclick: press }, label);
  async function press(): Promise<void> {
    button.disabled = true;
    try {
      setText(button, label);
      await load();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setText(button, `${label} (${error.message})`);
    } finally {
      button.disabled = false;
    }
  }
  return button;
}

/** What a list says where it has no rows. */
export function nothing(text: string, ...more: (Node | string)[]): HTMLElement {
  return h("p", { class: "nothing" }, text, ...more);
}

export function section(title: string, ...children: (Node | string | false)[]): HTMLElement {
  const heading = h("h2", {}, title);
  return h("section", {}, heading, ...children);
}
