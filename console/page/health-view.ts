/** Whether all is well: the storage, the configuration, outages, and how results ended in the last hour. */
import type {
  ConfigAnswer,
  HealthAnswer,
  OutageListAnswer,
  RatesAnswer,
  WrongConfigAnswer,
} from "./answers.ts";
import { ApiError, get } from "./api.ts";
import { type Child, fillFrom, h } from "./dom.ts";
import { plot } from "./plot.ts";
import { plural, visible } from "./shown.ts";
import { clockTime, duration, timeNode } from "./time.ts";
import { FIGURES_MS, LISTS_MS, nothing, section, View } from "./view.ts";

export class HealthView extends View {
  readonly heading = "Health";
  readonly #rates = h("div", {});
  readonly #storage = h("div", {});
  readonly #config = h("div", {});
  readonly #outages = h("div", {});

  protected readonly ratesPoll = this.poll(FIGURES_MS, this.#rates, async (signal) => {
    const rates = await get<RatesAnswer>("/console/api/rates", {}, signal);
    fillFrom(this.#rates, rates, ratesNodes);
  });
  protected readonly healthPoll = this.poll(LISTS_MS, this.#storage, async (signal) => {
    const health = await evenIfBad<HealthAnswer>("/health", signal);
    fillFrom(this.#storage, health, (found) => [storageNode(found)]);
  });
  protected readonly configPoll = this.poll(FIGURES_MS, this.#config, async (signal) => {
    const config = await evenIfBad<ConfigAnswer | WrongConfigAnswer>("/config", signal);
    fillFrom(this.#config, config, configNodes);
  });
  protected readonly outagesPoll = this.poll(FIGURES_MS, this.#outages, async (signal) => {
    const { outages } = await get<OutageListAnswer>("/console/api/outages", {}, signal);
    fillFrom(this.#outages, outages, outageNodes);
  });

  protected build(): void {
    this.append(
      section("Results of the last hour", this.#rates),
      h(
        "div",
        { class: "columns" },
        section("Storage", this.#storage),
        section("Configuration", this.#config),
      ),
      section("Outages of the storage", this.#outages),
    );
  }
}

/** These say what is wrong with a status of 503 and a body of their own, which is no problem. */
async function evenIfBad<T>(path: string, signal: AbortSignal): Promise<T> {
  try {
    return await get<T>(path, {}, signal);
  } catch (error) {
    if (error instanceof ApiError && error.status === 503 && error.code === "unknown") return error.body as T;
    throw error;
  }
}

function ratesNodes({ minutes, isPartial }: RatesAnswer): Child[] {
  const total = minutes.reduce((sum, { delivered, failed, other }) => sum + delivered + failed + other, 0);
  return [
    h(
      "div",
      { class: "plots" },
      plot({ title: "Delivered", tone: "good", of: "delivered" }, minutes),
      plot({ title: "Failed", tone: "bad", of: "failed" }, minutes),
      plot({ title: "Other", tone: "quiet", of: "other" }, minutes),
    ),
    h(
      "p",
      { class: "quiet" },
      `${plural(total, "result")} settled${minutes[0] === undefined ? "" : ` since ${clockTime(minutes[0].at).slice(0, -3)}`}. `,
      "Failed: nobody is known to have heard it. Other: superseded or cancelled.",
      isPartial && " There were more than can be looked through, so the figures begin there.",
    ),
    h(
      "details",
      { class: "more" },
      h("summary", {}, "As a table"),
      total === 0
        ? nothing("No result was settled.")
        : h(
            "table",
            {},
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                ...["Minute", "Delivered", "Failed", "Other"].map((name) => h("th", { scope: "col" }, name)),
              ),
            ),
            h(
              "tbody",
              {},
              ...minutes
                .filter(({ delivered, failed, other }) => delivered + failed + other > 0)
                .reverse()
                .map(({ at, delivered, failed, other }) =>
                  h(
                    "tr",
                    {},
                    h("th", { scope: "row" }, clockTime(at).slice(0, -3)),
                    ...[delivered, failed, other].map((value) => h("td", {}, value.toLocaleString())),
                  ),
                ),
            ),
          ),
    ),
  ];
}

const STORAGE_STATES = {
  ok: ["good", "It answers"],
  degraded: ["doubtful", "It does not answer; the objects stand in for it"],
  unavailable: ["bad", "It does not answer"],
} as const;

function storageNode({ status, storage }: HealthAnswer): HTMLElement {
  const [tone, text] = STORAGE_STATES[status];
  return h(
    "dl",
    { class: "facts panel" },
    fact("State", h("span", { class: "badge", "data-tone": tone }, status), ` ${text}.`),
    fact("Latency", duration(storage.latencyMs)),
    fact("Kept by objects meanwhile", storage.usingFallback ? "yes" : "no"),
    ...(storage.lastError === undefined
      ? []
      : [fact("Last error", h("bdi", {}, visible(storage.lastError)))]),
  );
}

function configNodes(config: ConfigAnswer | WrongConfigAnswer): Child[] {
  const { version, problems } = config;
  return [
    problems.length === 0
      ? h(
          "p",
          { class: "well" },
          h("span", { class: "badge", "data-tone": "good" }, "complete"),
          ` Version ${version}.`,
        )
      : h(
          "div",
          { class: "panel problems" },
          h(
            "p",
            {},
            h("span", { class: "badge", "data-tone": "bad" }, plural(problems.length, "problem")),
            ` Version ${version}.`,
          ),
          h(
            "ul",
            {},
            ...problems.map(({ variable, message }) =>
              h("li", {}, h("code", {}, visible(variable)), ` ${visible(message)}`),
            ),
          ),
        ),
    "features" in config && configFacts(config),
  ];
}

function configFacts({ storage, channels, features, ttlSeconds }: ConfigAnswer): HTMLElement {
  const on = Object.entries(features).filter(([, isOn]) => isOn);
  const off = Object.entries(features).filter(([, isOn]) => !isOn);
  const names = (list: [string, boolean][]) =>
    list.length === 0 ? "nothing" : list.map(([name]) => inWords(name)).join(", ");
  return h(
    "dl",
    { class: "facts panel" },
    fact("Storage", storage),
    fact("Channels", channels.join(", ")),
    fact("On", names(on)),
    fact("Off", names(off)),
    fact(
      "Conversations live",
      ttlSeconds.conversation === null ? "until they are deleted" : duration(ttlSeconds.conversation * 1_000),
    ),
    fact("State lives", duration(ttlSeconds.state * 1_000)),
  );
}

function outageNodes(outages: OutageListAnswer["outages"]): Child[] {
  if (outages.length === 0) return [nothing("None that is remembered.")];
  return [
    h(
      "ol",
      { class: "rows" },
      ...outages.map(({ startedAt, endedAt, driver }) =>
        h(
          "li",
          { class: "row outage" },
          h(
            "div",
            { class: "line" },
            h("span", { class: "badge", "data-tone": "bad" }, visible(driver)),
            h("span", { class: "name" }, timeNode(startedAt, "clock"), " – ", timeNode(endedAt, "clock")),
            h("span", {}, duration(Date.parse(endedAt) - Date.parse(startedAt))),
            timeNode(endedAt),
          ),
        ),
      ),
    ),
  ];
}

function fact(name: string, ...value: (Node | string)[]): HTMLElement {
  return h("div", {}, h("dt", {}, name), h("dd", {}, ...value));
}

/** `rateLimits` as `rate limits`. */
function inWords(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}
