/** Building and changing the page. Whatever it shows is text of somebody else: it becomes text, never markup. */

export type Child = Node | string | false | null | undefined;
type Value = string | number | boolean | null | undefined | ((event: never) => void);
type Attributes = Record<string, Value>;

/** An element. `onclick` and the like are listeners; false, null and undefined leave an attribute out. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  return filled(document.createElement(tag), attributes, children);
}

export function svg<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): SVGElementTagNameMap[K] {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled<E extends Element>(element: E, attributes: Attributes, children: Child[]): E {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value as EventListener);
    else setAttribute(element, name, value);
  }
  element.append(...present(children));
  return element;
}

const present = (children: readonly Child[]) =>
  children.filter(
    (child): child is Node | string => child !== null && child !== undefined && child !== false,
  );

export function setAttribute(
  element: Element,
  name: string,
  value: string | number | boolean | null | undefined,
): void {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else {
    const text = value === true ? "" : String(value);
    if (element.getAttribute(name) !== text) element.setAttribute(name, text);
  }
}

/** Text that stays the same is left alone, so that what is selected in it stays selected. */
export function setText(node: Node, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

const shown = new WeakMap<Element, string>();

/** Fills an element anew, but only where what it is made from is not what it was made from last. */
export function fillFrom<T>(element: Element, value: T, build: (value: T) => readonly Child[]): void {
  const text = JSON.stringify(value) ?? "";
  if (shown.get(element) === text) return;
  element.replaceChildren(...present(build(value)));
  // Only now: what could not be built is not there, however often it is asked for.
  shown.set(element, text);
}

/** One item of a list, which can take newer facts. */
export type Row<T> = { readonly node: HTMLElement; update(item: T): void };

/**
 * A list whose rows stay the same elements while their facts change and others come and go: what is open stays open,
 * what has the focus keeps it.
 */
export class KeyedList<T> {
  readonly #parent: HTMLElement;
  readonly #keyOf: (item: T) => string;
  readonly #create: (item: T) => Row<T>;
  #rows = new Map<string, Row<T>>();

  constructor(parent: HTMLElement, keyOf: (item: T) => string, create: (item: T) => Row<T>) {
    this.#parent = parent;
    this.#keyOf = keyOf;
    this.#create = create;
  }

  show(items: readonly T[]): void {
    const rows = new Map<string, Row<T>>();
    for (const item of items) {
      const key = this.#keyOf(item);
      if (rows.has(key)) continue;
      const row = this.#rows.get(key) ?? this.#create(item);
      row.update(item);
      rows.set(key, row);
    }
    for (const [key, { node }] of this.#rows) if (!rows.has(key)) node.remove();
    this.#rows = rows;
    let next = this.#parent.firstElementChild;
    for (const { node } of rows.values()) {
      if (node === next) next = next.nextElementSibling;
      else place(this.#parent, node, next);
    }
  }
}

type Movable = { moveBefore?(node: Node, next: Node | null): void };

/** An element that is moved loses its focus where the browser cannot move it whole. */
function place(parent: HTMLElement & Movable, node: HTMLElement, next: Element | null): void {
  if (!node.isConnected) parent.insertBefore(node, next);
  else if (parent.moveBefore !== undefined) parent.moveBefore(node, next);
  else {
    const focused = node.contains(document.activeElement) ? document.activeElement : null;
    parent.insertBefore(node, next);
    if (focused instanceof HTMLElement) focused.focus({ preventScroll: true });
  }
}

/** Says something to who cannot see that it has changed. */
export function announce(text: string): void {
  const place = document.getElementById("announcements");
  if (place !== null) place.textContent = text;
}

/** A field for an id or a name, which nothing corrects or completes. */
export function textField(name: string, attributes: Attributes): HTMLInputElement {
  return h("input", {
    type: "text",
    name,
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    ...attributes,
  });
}
