/** A small plot: one bar a minute. Who cannot see it has the sentence that it shows. */
import type { Minute } from "./answers.ts";
import { h, svg } from "./dom.ts";
import { plural } from "./shown.ts";
import { clockTime } from "./time.ts";

const [WIDTH, HEIGHT] = [300, 56];
const GAP = 1;

export type PlotOf = { title: string; tone: string; of: "delivered" | "failed" | "other" };

export function plot({ title, tone, of }: PlotOf, minutes: readonly Minute[]): HTMLElement {
  const values = minutes.map((minute) => minute[of]);
  const total = values.reduce((sum, value) => sum + value, 0);
  const most = Math.max(0, ...values);
  const width = WIDTH / Math.max(1, minutes.length);
  const bars = minutes.map((minute, i) => {
    const value = minute[of];
    const height = value === 0 ? 0 : Math.max(2, (value / most) * HEIGHT);
    return (
      value > 0 &&
      svg(
        "rect",
        { x: i * width, y: HEIGHT - height, width: Math.max(1, width - GAP), height, rx: 1 },
        svg("title", {}, `${clockTime(minute.at).slice(0, -3)}: ${value.toLocaleString()}`),
      )
    );
  });
  const says = `${title}: ${total.toLocaleString()} in the last hour, at most ${most.toLocaleString()} in a minute.`;
  return h(
    "figure",
    { class: "plot", "data-tone": tone },
    h(
      "figcaption",
      {},
      h("span", {}, title),
      h("b", {}, total.toLocaleString()),
      h("small", {}, most === 0 ? "none" : `at most ${plural(most, "a minute", "a minute")}`),
    ),
    svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": says },
      svg("line", { x1: 0, y1: HEIGHT, x2: WIDTH, y2: HEIGHT, class: "base" }),
      ...bars,
    ),
    h(
      "p",
      { class: "axis", "aria-hidden": "true" },
      h("span", {}, `${minutes.length} min ago`),
      h("span", {}, "now"),
    ),
  );
}
