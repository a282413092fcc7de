/** How things are written: ids, texts of others, statuses, channels, numbers. */
import { h } from "./dom.ts";

/**
 * Characters that are not seen, or change the order or the direction of what stands around them: a text that holds one
 * could look like another text. Joiners are left alone, since languages and emoji need them.
 */
const UNSEEN =
  /[\p{Cc}\p{Cs}\p{Co}\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\u{e0000}-\u{e0fff}]/gu;

/** The text, with what would not be seen written out. Line breaks and tabs stay. */
export function visible(text: string): string {
  return text.replaceAll(UNSEEN, (character) =>
    character === "\n" || character === "\t"
      ? character
      : `\\u{${character.codePointAt(0)?.toString(16).toUpperCase().padStart(4, "0")}}`,
  );
}

/** An id, apart from the text around it, and all of it. */
export function id(text: string, attributes: Record<string, string> = {}): HTMLElement {
  return h("bdi", { class: "id", ...attributes }, visible(text));
}

export function conversationLink(conversationId: string): HTMLAnchorElement {
  return h(
    "a",
    { class: "id", href: `#/conversations/${encodeURIComponent(conversationId)}` },
    visible(conversationId),
  );
}

/** What somebody else wrote, as it is. */
export function quoted(text: string): HTMLElement {
  return h("pre", { class: "quoted", dir: "auto", tabindex: 0 }, visible(text));
}

/** What a status means for who operates the service; its colour. */
const TONES: Record<string, string> = {
  delivered: "good",
  waiting: "pending",
  saying: "busy",
  unconfirmed: "doubtful",
  expired: "bad",
  dropped: "bad",
  superseded: "quiet",
  cancelled: "quiet",
  processing: "busy",
  done: "good",
  failed: "bad",
  unreachable: "bad",
  refused: "bad",
  ended: "quiet",
  pending: "busy",
};

export function toneOf(status: string): string {
  return TONES[status] ?? "quiet";
}

export function badge(status: string): HTMLElement {
  return h("span", { class: "badge", "data-tone": toneOf(status) }, visible(status));
}

export function plural(n: number, one: string, many = `${one}s`): string {
  return `${n.toLocaleString()} ${n === 1 ? one : many}`;
}
