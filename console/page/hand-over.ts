/** "Hand over everything that failed since …": asks from when on, asks whether it is meant, and says how many it were. */
import type { AllAgainAnswer, OutageListAnswer } from "./answers.ts";
import { ApiError, get, post } from "./api.ts";
import { h, setText } from "./dom.ts";
import { plural } from "./shown.ts";
import { now } from "./time.ts";

const HOUR_MS = 3_600_000;

/** Opens the dialog. `onDone` is called when something was handed over. */
export function openHandOver(onDone: () => void): void {
  const since = h("input", { type: "datetime-local", name: "since", required: true, step: 1 });
  since.value = localText(new Date(now() - HOUR_MS));
  since.max = localText(new Date(now()));
  const hint = h("p", { class: "quiet" });
  const said = h("p", { class: "said", role: "status" });
  const first = h("button", { type: "submit", class: "primary" }, "Continue");
  const sure = h("button", { type: "button", class: "primary", hidden: true, onclick: handOver });
  const cancel = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const form = h(
    "form",
    { onsubmit: ask },
    h("h2", { id: "hand-over-title" }, "Hand over what failed"),
    h(
      "p",
      {},
      "Every result that nobody is known to have heard waits again, and is said as soon as somebody is there. What is unconfirmed may have been heard, and is then heard twice.",
    ),
    h("label", { class: "field" }, h("span", {}, "Since"), since),
    hint,
    said,
    h("div", { class: "actions" }, cancel, first, sure),
  );
  const dialog = h("dialog", { "aria-labelledby": "hand-over-title" }, form);
  dialog.addEventListener("close", () => dialog.remove());
  since.addEventListener("input", () => {
    sure.hidden = true;
    first.hidden = false;
    setText(said, "");
  });
  document.body.append(dialog);
  dialog.showModal();
  void suggest();

  /** What broke last is the likeliest reason. */
  async function suggest(): Promise<void> {
    const { outages } = await get<OutageListAnswer>("/console/api/outages").catch(() => ({ outages: [] }));
    const [last] = outages;
    if (last === undefined) return;
    const started = new Date(last.startedAt);
    hint.append(
      "The last outage of the storage began ",
      h(
        "button",
        {
          type: "button",
          class: "plain",
          onclick: () => {
            since.value = localText(started);
            since.dispatchEvent(new Event("input"));
          },
        },
        started.toLocaleString(),
      ),
      ".",
    );
  }

  function ask(event: SubmitEvent): void {
    event.preventDefault();
    first.hidden = true;
    sure.hidden = false;
    setText(sure, "Hand over");
    setText(
      said,
      `Everything that failed since ${new Date(since.value).toLocaleString()} is handed over. Is that meant?`,
    );
    sure.focus();
  }

  async function handOver(): Promise<void> {
    sure.disabled = true;
    since.disabled = true;
    let count = 0;
    let unanswered = 0;
    let cursor: string | undefined;
    try {
      do {
        const answer: AllAgainAnswer = await post("/console/api/results/again", {
          since: new Date(since.value).toISOString(),
          ...(cursor === undefined ? {} : { cursor }),
        });
        count += answer.again;
        unanswered += answer.unanswered;
        cursor = answer.nextCursor;
        setText(said, `${plural(count, "result")} so far …`);
      } while (cursor !== undefined && dialog.open);
      const missing =
        unanswered === 0 ? "" : ` ${plural(unanswered, "conversation")} did not answer; do it once more.`;
      setText(said, `${plural(count, "result")} handed over.${missing}`);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setText(said, `${plural(count, "result")} handed over, then it ended: ${error.message}`);
    }
    sure.hidden = true;
    setText(cancel, "Close");
    cancel.focus();
    if (count > 0) onDone();
  }
}

/** As the field takes it: the time of this place, to the second. */
function localText(date: Date): string {
  const here = new Date(date.getTime() - date.getTimezoneOffset() * 60_000);
  return here.toISOString().slice(0, 19);
}
