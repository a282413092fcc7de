/**
 * Plots as SVG, small enough to read: bars for kinds, lines for growth. They show on light and on dark ground, because
 * their ground is their own.
 */
const COLOURS = ["#8a8f98", "#1f6feb", "#d97706", "#2da44e", "#a855f7"];
const FONT = 'font-family="ui-sans-serif, system-ui, sans-serif"';

const escaped = (text: string) =>
  text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c] ?? c);

function text(x: number, y: number, content: string, more = ""): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${more}>${escaped(content)}</text>`;
}

function frame(width: number, height: number, title: string, content: readonly string[]): string {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" aria-label="${escaped(title)}" ${FONT} font-size="12" fill="#24292f">
<rect width="${width}" height="${height}" rx="8" fill="#ffffff"/>
${text(16, 24, title, 'font-size="14" font-weight="600"')}
${content.join("\n")}
</svg>
`;
}

function legend(series: readonly string[], y: number): string[] {
  return series.flatMap((name, i) => [
    `<rect x="${16 + i * 170}" y="${y - 10}" width="12" height="12" rx="2" fill="${COLOURS[i]}"/>`,
    text(34 + i * 170, y, name),
  ]);
}

/** A number as briefly as it can be read. */
export function brief(value: number): string {
  if (value >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (value >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  return String(+value.toPrecision(3));
}

export type Bars = {
  title: string;
  series: readonly string[];
  /** One value a series; NaN where there is none. */
  bars: readonly { name: string; values: readonly number[] }[];
};

/** Horizontal bars on a logarithmic scale. */
export function barPlot({ title, series, bars }: Bars): string {
  const [left, width, bar, gap] = [170, 720, 11, 10];
  const values = bars.flatMap((one) => one.values).filter((value) => value > 0);
  const least = 10 ** Math.floor(Math.log10(Math.min(...values)));
  const most = Math.max(...values);
  const x = (value: number) => (Math.log(value / least) / Math.log(most / least)) * (width - left - 80);
  const step = series.length * bar + gap;
  const rows = bars.flatMap(({ name, values: of }, row) => {
    const top = 64 + row * step;
    return [
      text(left - 8, top + (series.length * bar) / 2 + 4, name, 'text-anchor="end"'),
      ...of.flatMap((value, i) =>
        Number.isNaN(value)
          ? []
          : [
              `<rect x="${left}" y="${top + i * bar}" width="${Math.max(1, x(value)).toFixed(1)}" height="${bar - 2}" rx="2" fill="${COLOURS[i]}"/>`,
              text(left + x(value) + 5, top + i * bar + bar - 2, brief(value), 'font-size="10"'),
            ],
      ),
    ];
  });
  return frame(width, 70 + bars.length * step, title, [...legend(series, 48), ...rows]);
}

export type Lines = {
  title: string;
  x: string;
  y: string;
  series: readonly { name: string; points: readonly (readonly [x: number, y: number])[] }[];
  /** Whether y is logarithmic too; x always is. */
  isLogarithmic?: boolean;
};

/** Lines over a logarithmic x. */
export function linePlot({ title, x, y, series, isLogarithmic = false }: Lines): string {
  const [width, height, left, top, bottom] = [720, 360, 64, 70, 48];
  const xs = series.flatMap(({ points }) => points.map(([at]) => at));
  const ys = series.flatMap(({ points }) => points.map(([, value]) => value)).filter((value) => value > 0);
  const [xLeast, xMost, yMost] = [Math.min(...xs), Math.max(...xs), Math.max(...ys)];
  const yLeast = isLogarithmic ? Math.min(...ys) : 0;
  const along = (value: number) =>
    left + (Math.log(value / xLeast) / Math.log(xMost / xLeast)) * (width - left - 32);
  const share = (value: number) =>
    isLogarithmic
      ? Math.log(Math.max(value, yLeast) / yLeast) / Math.log(yMost / yLeast)
      : (value - yLeast) / (yMost - yLeast);
  const up = (value: number) => height - bottom - share(value) * (height - bottom - top);
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) =>
    isLogarithmic ? yLeast * (yMost / yLeast) ** part : yLeast + part * (yMost - yLeast),
  );
  const grid = ticks.flatMap((value) => [
    `<line x1="${left}" x2="${width - 32}" y1="${up(value).toFixed(1)}" y2="${up(value).toFixed(1)}" stroke="#d0d7de"/>`,
    text(left - 8, up(value) + 4, brief(value), 'text-anchor="end" font-size="10"'),
  ]);
  // Where two would lie over each other, the greater one is shown.
  const shown = [...new Set(xs)]
    .toSorted((a, b) => a - b)
    .filter((value, i, all) => along(all[i + 1] ?? Number.POSITIVE_INFINITY) - along(value) > 28);
  const marksOfX = shown.map((value) =>
    text(along(value), height - bottom + 18, brief(value), 'text-anchor="middle" font-size="10"'),
  );
  const lines = series.map(({ points }, i) => {
    const path = points.map(([at, value]) => `${along(at).toFixed(1)},${up(value).toFixed(1)}`).join(" ");
    const dots = points.map(
      ([at, value]) =>
        `<circle cx="${along(at).toFixed(1)}" cy="${up(value).toFixed(1)}" r="3" fill="${COLOURS[i]}"/>`,
    );
    return `<polyline points="${path}" fill="none" stroke="${COLOURS[i]}" stroke-width="2"/>${dots.join("")}`;
  });
  return frame(width, height, title, [
    ...legend(
      series.map(({ name }) => name),
      48,
    ),
    ...grid,
    ...marksOfX,
    text(width / 2, height - 10, x, 'text-anchor="middle"'),
    text(16, 64, y, 'font-size="10"'),
    ...lines,
  ]);
}
