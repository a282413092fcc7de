/** Asks for the API token, and says why where it asks again. */
import { type ApiError, apiToken, get } from "./api.ts";
import { h } from "./dom.ts";
import { LOOPBACK } from "./place.ts";

const REASONS: Record<string, string> = {
  unauthorized: "This token is not taken.",
  forbidden: "This is the token of one conversation. The console takes the API token.",
};

/** `why`: what the Worker answered to the token that was there. `onOpen` is called when one is taken. */
export function gate({ why, onOpen }: { why: ApiError | null; onOpen: () => void }): HTMLElement {
  const token = h("input", {
    type: "password",
    name: "api-token",
    id: "api-token",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": "token-why",
  });
  const said = h("p", { class: "problem", role: "alert", id: "token-why" });
  const open = h("button", { type: "submit", class: "primary" }, "Open");
  if (why !== null) said.textContent = REASONS[why.code] ?? why.message;

  async function enter(given: string): Promise<void> {
    open.disabled = true;
    said.textContent = "";
    apiToken.set(given);
    try {
      await get("/config");
      onOpen();
    } catch (error) {
      const { code, status, message } = error as ApiError;
      // A configuration that is wrong is what the console shows; where it says so, the token was taken.
      if (status === 503 && code !== "misconfigured") return onOpen();
      apiToken.forget();
      said.textContent = REASONS[code] ?? message;
      token.focus();
    } finally {
      open.disabled = false;
    }
  }

  return h(
    "form",
    {
      class: "gate sheet",
      onsubmit: (event: SubmitEvent) => {
        event.preventDefault();
        void enter(token.value.trim());
      },
    },
    h("h1", { tabindex: -1 }, "Console"),
    h("p", {}, "What becomes of results, who is live, and whether all is well."),
    h("label", { class: "field", for: "api-token" }, h("span", {}, "API token"), token),
    said,
    h("div", { class: "actions" }, open),
    h(
      "p",
      { class: "quiet" },
      "One of ",
      h("code", {}, "API_TOKEN"),
      ". It is kept in this tab until it is closed, and sent to this Worker only, as a header.",
    ),
    LOOPBACK.has(location.hostname) &&
      h(
        "p",
        { class: "quiet" },
        "With ",
        h("code", {}, "REQUIRE_AUTH=false"),
        " there is none: ",
        h("button", { type: "button", class: "plain", onclick: () => void enter("") }, "open without"),
        ".",
      ),
  );
}
