// Creates and updates elements. Nothing here parses markup, and the page's Content-Security-Policy forbids
// it (`require-trusted-types-for 'script'`; `markdown.js` has the one exception).
//
// A view creates its whole tree again with `h`; `morph` changes the tree on screen to match and keeps
// the elements that both have, with their focus, scroll position and selection.

/** @typedef {Node|string|number|null|undefined|false} Leaf */
/** @typedef {Leaf|Leaf[]|Leaf[][]} Child */
/** @typedef {HTMLElement & {$key?: string, $props?: Record<string, any>, $own?: boolean}} Made */

const SVG = new Set(["svg", "path", "circle", "rect", "line", "g", "polyline"]);

/** Creates an element. Properties: `on…` are handlers, `.name` sets a property, `style` is an object,
 * `key` identifies it among its siblings, the rest are attributes.
 * @param {string} tag
 * @param {Record<string, any>|null} [props]
 * @param {...Child} children
 * @returns {HTMLElement} */
export function h(tag, props, ...children) {
  const element = /** @type {any} */ (
    SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag)
  );
  /** @type {Record<string, any>} */
  const own = {};
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name === "key") element.$key = String(value);
    else if (name === "style") {
      for (const [property, setting] of Object.entries(value))
        element.style.setProperty(property, String(setting));
    } else if (name.startsWith("on")) own[name.toLowerCase()] = value;
    else if (name.startsWith(".")) own[name.slice(1)] = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined)
      element.setAttribute(name, String(value));
  }
  append(element, children);
  // After the children, because the value of a select needs its options.
  Object.assign(element, own);
  element.$props = own;
  return element;
}

/** @param {Element} parent @param {Child[]} children */
function append(parent, children) {
  for (const child of /** @type {Leaf[]} */ (children.flat(3))) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : String(child));
  }
}

/** A part of a view that is made only if what it shows has changed since it was drawn.
 * @param {string} key identifies it among its siblings @param {unknown[]} shows all that it shows
 * @param {() => HTMLElement} make */
export function kept(key, shows, make) {
  return Object.assign(document.createElement("template"), { $key: key, $shows: shows, $make: make });
}

/** @param {any} place what `kept` has returned */
function made(place) {
  const element = place.$make();
  return settle(Object.assign(element, { $key: place.$key, $shows: place.$shows }));
}

/** Makes the kept parts of an element that comes on screen. @template {Element} T @param {T} element */
function settle(element) {
  for (const place of element.querySelectorAll("template")) place.replaceWith(made(place));
  return element;
}

/** @param {unknown[]|undefined} one @param {unknown[]|undefined} other */
function showSame(one, other) {
  return one !== undefined && one.length === other?.length && one.every((each, at) => each === other[at]);
}

/** Changes the children of `parent` to `children`. If that takes the focused element away, the focus goes to
 * what is nearest to it and not to the start of the page.
 * @param {Element} parent
 * @param {...Child} children */
export function render(parent, ...children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const around = [];
  for (let each = focused; each && each !== parent.parentElement; each = each.parentElement)
    around.push(each);
  const wanted = document.createElement("div");
  append(wanted, children);
  morphChildren(parent, wanted);
  if (focused && (!focused.isConnected || focused.matches(":disabled"))) focusNear(around);
}

const FOCUSABLE = ":is(a[href], button:enabled, input:enabled, select:enabled, textarea:enabled)";

/** Focuses the first control of the smallest of the elements that is still there and has one.
 * @param {Element[]} around an element and its ancestors */
function focusNear(around) {
  for (const each of around) {
    const control = each.isConnected && each.querySelector(FOCUSABLE);
    if (control) return /** @type {HTMLElement} */ (control).focus({ preventScroll: true });
  }
  document.getElementById("main")?.focus({ preventScroll: true });
}

/** @param {Element} from @param {Element} to */
function morphChildren(from, to) {
  /** @type {Map<string, Element>} */
  const keyed = new Map();
  for (const child of from.children) {
    const key = /** @type {any} */ (child).$key;
    if (key !== undefined) keyed.set(key, child);
  }
  let at = from.firstChild;
  for (const place of [...to.childNodes]) {
    const { $key: key, $shows: shows, $make: make } = /** @type {any} */ (place);
    const match = key === undefined ? at : (keyed.get(key) ?? null);
    const isCurrent = showSame(/** @type {any} */ (match)?.$shows, shows);
    const want = make && !isCurrent ? made(place) : place;
    if (match && (isCurrent || same(match, want))) {
      if (match === at) at = at.nextSibling;
      else from.insertBefore(match, at);
      if (!isCurrent) morph(match, want);
    } else {
      from.insertBefore(want instanceof Element ? settle(want) : want, at);
    }
    if (key !== undefined) keyed.delete(key);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** @param {Node} a @param {Node} b */
function same(a, b) {
  return (
    a.nodeType === b.nodeType &&
    a.nodeName === b.nodeName &&
    /** @type {any} */ (a).$key === /** @type {any} */ (b).$key
  );
}

/** @param {Node} from @param {Node} to */
function morph(from, to) {
  if (from instanceof Text && to instanceof Text) {
    if (from.data !== to.data) from.data = to.data;
    return;
  }
  if (!(from instanceof Element && to instanceof Element)) return;
  /** @type {string[]} */
  const kept = /** @type {any} */ (from).$keepAttributes ?? [];
  // The policy forbids a style attribute set as text, and allows changes to the style object. Whether a
  // section is open is for the user to say.
  const changes = (/** @type {string} */ name) =>
    name !== "style" && !(name === "open" && from.nodeName === "DETAILS");
  for (const { name, value } of to.attributes) {
    if (changes(name) && from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  for (const { name } of [...from.attributes]) {
    if (changes(name) && !to.hasAttribute(name) && !kept.includes(name)) from.removeAttribute(name);
  }
  const [styled, style] = [/** @type {HTMLElement} */ (from).style, /** @type {HTMLElement} */ (to).style];
  if (styled && !(/** @type {Made} */ (from).$own) && styled.cssText !== style.cssText)
    styled.cssText = style.cssText;
  // An element with `$own` manages its children and its style itself.
  if (!(/** @type {Made} */ (from).$own)) morphChildren(from, to);
  const [had, has] = [/** @type {any} */ (from).$props ?? {}, /** @type {any} */ (to).$props ?? {}];
  for (const name of Object.keys(had))
    if (!(name in has) && name.startsWith("on")) /** @type {any} */ (from)[name] = null;
  for (const [name, value] of Object.entries(has)) {
    if (/** @type {any} */ (from)[name] !== value) /** @type {any} */ (from)[name] = value;
  }
  /** @type {any} */ (from).$props = has;
  /** @type {any} */ (from).$shows = /** @type {any} */ (to).$shows;
}

const ICONS = /** @type {const} */ ({
  download: "M10 3v9m-4-4 4 4 4-4M4 16h12",
  play: "M6 4v12l10-6Z",
  stop: "M5.5 5.5h9v9h-9z",
  pause: "M7 4v12m6-12v12",
  again: "M15.5 8A6 6 0 1 0 16 11M16 4v4h-4",
  trash: "M4 6h12M8 6V4h4v2m-6.500 0 .7 10h7.600l.7-10",
  copy: "M7 7h9v9H7zM4 13V4h9",
  close: "m5 5 10 10M15 5 5 15",
  check: "m4 10.500 4 4 8-9",
  alert: "M10 3 18 17H2ZM10 8v4m0 2.400v.1",
  chat: "M3 4h14v10H9l-4 3v-3H3Z",
  plus: "M10 4v12M4 10h12",
  arrow: "M4 10h12m-5-5 5 5-5 5",
  down: "m5 8 5 5 5-5",
  log: "M4 5h12M4 9h12M4 13h8",
  send: "M3 10 17 4l-4 13-3-5Z",
  gear: "M3 6h8m4 0h2M3 14h2m4 0h8M13 4v4M7 12v4",
  gauge: "M4 15a7.500 7.500 0 1 1 12 0M10 11l3.500-4",
  up: "M10 16V5m-5 5 5-5 5 5",
});

/** @param {keyof typeof ICONS} name */
export function icon(name) {
  return h("svg", { class: "i", viewBox: "0 0 20 20", "aria-hidden": "true" }, h("path", { d: ICONS[name] }));
}

/** Copies text, also on a page over plain HTTP, which has no clipboard API.
 * @param {string} text */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "off-screen", ".value": text, "aria-hidden": "true" });
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    /** @type {HTMLTextAreaElement} */ (area).select();
    document.execCommand("copy");
    area.remove();
  }
}

/** A button that copies text and shows "Copied" for a moment. @param {string} text */
export function copyButton(text) {
  // The clicked button: a redraw may have moved this handler to another button.
  const pressed = async (/** @type {Event} */ { currentTarget }) => {
    const label = /** @type {Element} */ (currentTarget).querySelector("span");
    await copy(text);
    if (!label) return;
    label.textContent = "Copied";
    setTimeout(() => (label.textContent = "Copy"), 1500);
  };
  return h(
    "button",
    { type: "button", class: "quiet small", onclick: pressed },
    icon("copy"),
    h("span", null, "Copy"),
  );
}
