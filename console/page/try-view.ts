/** Sends a result to a conversation, as a task runner would, and shows the line that does the same in a shell. */
import { isSigningKey, signStandardWebhook } from "../../lib/auth/webhook-signature.ts";
import { type Answer, ApiError, conversationPath, send, webhookSecret } from "./api.ts";
import { curlLine } from "./curl.ts";
import { announce, h, setText, textField } from "./dom.ts";
import { quoted } from "./shown.ts";
import { now } from "./time.ts";
import { View } from "./view.ts";

const DELIVERIES = ["when_idle", "interrupt", "silent"];
const VARIABLE = "WEBHOOK_SECRET";

export class TryView extends View {
  readonly heading = "Try it";
  readonly #conversation = textField("conversationId", { required: true, maxlength: 128 });
  readonly #request = textField("requestId", { required: true, maxlength: 256 });
  readonly #tool = textField("toolName", { maxlength: 128 });
  readonly #output = h("textarea", { name: "output", rows: 4, required: true });
  readonly #failed = h("input", { type: "checkbox", name: "failed" });
  readonly #delivery = h(
    "select",
    { name: "delivery" },
    ...DELIVERIES.map((delivery) => h("option", { value: delivery }, delivery)),
  );
  readonly #secret = h("input", {
    type: "password",
    name: "webhook-secret",
    autocomplete: "off",
    spellcheck: "false",
  });
  readonly #send = h("button", { type: "submit", class: "primary" }, "Send");
  readonly #answer = h("div", { class: "answer", role: "status" });
  readonly #curl = h("pre", { class: "quoted", tabindex: 0 });

  protected build(): void {
    this.#conversation.value = this.route.query.get("conversation") ?? "";
    this.#request.value = newRequestId();
    this.#output.value = "The report is ready: three suppliers, the cheapest is Acme.";
    this.#secret.value = webhookSecret.get() ?? "";
    const form = h(
      "form",
      {
        class: "sheet",
        onsubmit: (event: SubmitEvent) => void this.#submit(event),
        oninput: () => this.#showCurl(),
      },
      field("Conversation", this.#conversation),
      h(
        "div",
        { class: "field" },
        h("label", { for: "try-request" }, "Request"),
        h(
          "span",
          { class: "joined" },
          this.#request,
          h("button", { type: "button", onclick: () => this.#renew() }, "New"),
        ),
        h("small", {}, "The same one again is a duplicate, and is not said twice."),
      ),
      field("Tool", this.#tool),
      field("What the agent is to say", this.#output),
      field("When", this.#delivery),
      h("label", { class: "check" }, this.#failed, "The task has failed"),
      h(
        "label",
        { class: "field" },
        h("span", {}, "Webhook secret"),
        this.#secret,
        h(
          "small",
          {},
          `One of ${VARIABLE}: the API token opens no callback. It is kept in this tab only. One that begins with whsec_ signs, and is not sent. Empty where authentication is off.`,
        ),
      ),
      h("div", { class: "actions" }, this.#send),
    );
    this.#request.id = "try-request";
    const copy = h("button", { type: "button", onclick: () => void this.#copy(copy) }, "Copy");
    this.append(
      h(
        "div",
        { class: "columns" },
        h("section", {}, h("h2", {}, "Send a result"), form),
        h(
          "section",
          {},
          h("h2", {}, "The answer"),
          this.#answer,
          h("h2", {}, "The same in a shell"),
          this.#curl,
          h("div", { class: "actions" }, copy),
          h("p", { class: "quiet" }, `Set ${VARIABLE} there; the line holds no secret.`),
        ),
      ),
    );
    this.#answer.append(h("p", { class: "nothing" }, "Nothing was sent yet."));
    this.#showCurl();
  }

  #body(): Record<string, unknown> {
    const said = this.#output.value;
    const tool = this.#tool.value.trim();
    return {
      requestId: this.#request.value.trim(),
      conversationId: this.#conversation.value.trim(),
      ...(this.#failed.checked ? { success: false, error: said } : { output: said }),
      ...(tool === "" ? {} : { toolName: tool }),
      ...(this.#delivery.value === DELIVERIES[0] ? {} : { delivery: this.#delivery.value }),
    };
  }

  #showCurl(): void {
    setText(
      this.#curl,
      curlLine({ url: `${location.origin}/callback`, body: this.#body(), variable: VARIABLE }),
    );
  }

  #renew(): void {
    this.#request.value = newRequestId();
    this.#showCurl();
  }

  async #copy(button: HTMLButtonElement): Promise<void> {
    try {
      await navigator.clipboard.writeText(this.#curl.textContent ?? "");
      setText(button, "Copied");
      announce("The line was copied.");
    } catch {
      setText(button, "Not copied: select it");
    }
  }

  async #submit(event: SubmitEvent): Promise<void> {
    event.preventDefault();
    const secret = this.#secret.value.trim();
    if (secret === "") webhookSecret.forget();
    else webhookSecret.set(secret);
    this.#send.disabled = true;
    this.#answer.replaceChildren(h("p", { class: "nothing" }, "Sent; the answer comes within 8 s …"));
    try {
      const body = JSON.stringify(this.#body());
      const headers = await credentials(secret, this.#request.value.trim(), body);
      const path = conversationPath(this.#conversation.value.trim(), "/callback");
      this.#showAnswer(await send(path, { method: "POST", body, headers }));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#answer.replaceChildren(h("p", { class: "problem" }, error.message));
    } finally {
      this.#send.disabled = false;
    }
  }

  #showAnswer({ status, body }: Answer): void {
    const { status: outcome, reason } = body as { status?: unknown; reason?: unknown };
    const means =
      status === 401
        ? "The webhook secret is not taken. Where callbacks must be signed, it takes one that begins with whsec_."
        : status >= 400
          ? "It was refused."
          : [outcome, reason]
              .filter((word) => typeof word === "string")
              .join(", ")
              .replaceAll("_", " ");
    const conversation = this.#conversation.value.trim();
    this.#answer.replaceChildren(
      h(
        "p",
        {},
        h(
          "span",
          { class: "badge", "data-tone": status >= 400 ? "bad" : status === 202 ? "pending" : "good" },
          String(status),
        ),
        ` ${means}`,
      ),
      quoted(JSON.stringify(body, null, 2)),
      h("p", {}, h("a", { href: `#/conversations/${encodeURIComponent(conversation)}` }, "Its conversation")),
    );
  }
}

/** A key signs, anything else is shown. */
async function credentials(secret: string, id: string, body: string): Promise<Record<string, string>> {
  if (secret === "") return {};
  if (!isSigningKey(secret)) return { authorization: `Bearer ${secret}` };
  const timestampSeconds = Math.floor(now() / 1_000);
  return { ...(await signStandardWebhook({ id, timestampSeconds, body, secret })) };
}

function newRequestId(): string {
  return `try-${crypto
    .getRandomValues(new Uint32Array(2))
    .reduce((text, n) => text + n.toString(36), "")
    .slice(0, 10)}`;
}

function field(title: string, control: HTMLElement): HTMLElement {
  return h("label", { class: "field" }, h("span", {}, title), control);
}
