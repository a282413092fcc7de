/** Times, as they are read: how long ago, how long still; the exact time is in the title. One tick keeps them all true. */
import { h, setAttribute, setText } from "./dom.ts";

/** By how much the Worker's clock is ahead of this one; known from its answers, and left out where it is little. */
let aheadMs = 0;
const WORTH_MS = 2_000;

export function learnTime(date: string | null): void {
  const at = Date.parse(date ?? "");
  if (Number.isNaN(at)) return;
  // The header names the second that has begun.
  const ahead = at + 500 - Date.now();
  aheadMs = Math.abs(ahead) < WORTH_MS ? 0 : ahead;
}

export const now = (): number => Date.now() + aheadMs;

const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

/** The time of day, with its date where that is not today's. */
export function clockTime(iso: string): string {
  const date = new Date(iso);
  const isToday = date.toDateString() === new Date(now()).toDateString();
  return isToday ? clock.format(date) : `${day.format(date)}, ${clock.format(date)}`;
}

export function exactTime(iso: string): string {
  return exact.format(new Date(iso));
}

/** `1.2 s`, `3 min`, `2 h`, `5 d`. */
export function duration(ms: number): string {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  const seconds = ms / 1_000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = seconds / 60;
  if (minutes < 60) return `${Math.floor(minutes)} min`;
  const hours = minutes / 60;
  return hours < 48 ? `${Math.floor(hours)} h` : `${Math.floor(hours / 24)} d`;
}

function ago(ms: number): string {
  if (ms < 2_000) return "now";
  return `${duration(Math.floor(ms / 1_000) * 1_000).replace(/\.\d/, "")} ago`;
}

/** `9:41`, as a countdown. */
function left(ms: number): string {
  const seconds = Math.max(0, Math.ceil(ms / 1_000));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

type Manner = "ago" | "left" | "clock";

/** A time that stays true while it is shown. */
export function timeNode(iso: string, manner: Manner = "ago"): HTMLTimeElement {
  const node = h("time", { "data-manner": manner });
  setTime(node, iso);
  return node;
}

export function setTime(node: HTMLTimeElement, iso: string): void {
  if (node.dateTime !== iso) {
    node.dateTime = iso;
    setAttribute(node, "title", exactTime(iso));
  }
  refresh(node);
}

function refresh(node: HTMLTimeElement): void {
  const at = Date.parse(node.dateTime);
  const { manner } = node.dataset;
  const text =
    manner === "left" ? left(at - now()) : manner === "ago" ? ago(now() - at) : clockTime(node.dateTime);
  setText(node, text);
}

/** Keeps every time of the page true, a second at a time, while anybody can see it. */
export function keepTimes(): void {
  setInterval(() => {
    if (document.hidden) return;
    for (const node of document.querySelectorAll<HTMLTimeElement>("time[data-manner]")) refresh(node);
  }, 1_000);
}
