// What all views have in common: they draw once a frame at most, and leave nothing behind.

import { render } from "./dom.js";
import { hive } from "./hive.js";

/** @typedef {import("./hive.js").Topic} Topic */

/** An element that draws its tree from the store. Implementors override `draw`. */
export class View extends HTMLElement {
  /** News that make it draw again. @type {Topic[]} */
  static topics = [];
  /** How often it draws without news, in milliseconds, because it shows time; 0 for never. */
  static tick = 0;
  /** A morph of the parent leaves the children to this element. */
  $own = true;
  /** Aborted when the element leaves the page. */
  life = new AbortController();
  #due = 0;

  connectedCallback() {
    this.life = new AbortController();
    const { topics, tick } = /** @type {typeof View} */ (this.constructor);
    hive.on(topics, () => this.update(), this.life.signal);
    if (tick > 0) {
      const timer = setInterval(() => this.update(), tick);
      this.life.signal.addEventListener("abort", () => clearInterval(timer));
    }
    this.start();
    this.#drawNow();
  }

  disconnectedCallback() {
    this.life.abort();
  }

  /** Called when the element enters the page, before it is drawn. */
  start() {}

  /** The children, as they should be. @returns {import("./dom.js").Child} */
  draw() {
    return [];
  }

  /** Called after each drawing. */
  drawn() {}

  /** Draws again, with the next frame. */
  update() {
    if (this.#due || this.life.signal.aborted) return;
    const later = () => {
      this.#due = 0;
      if (!this.life.signal.aborted) this.#drawNow();
    };
    // A hidden page gets no frames.
    this.#due = document.hidden ? window.setTimeout(later, 500) : requestAnimationFrame(later);
  }

  #drawNow() {
    render(this, this.draw());
    this.drawn();
  }
}

/** A list that is narrowed by words and by a state, and stays so for as long as its tab is there. */
export class ListView extends View {
  /** What it lists; what it is narrowed to is kept under that name. */
  static list = "";
  filter = recall(this.#key("filter"), "", "sessionStorage");
  state = recall(this.#key("state"), "all", "sessionStorage");

  /** @param {string} name */
  #key(name) {
    return `${/** @type {typeof ListView} */ (this.constructor).list}.${name}`;
  }

  /** @param {{filter?: string, state?: string}} change */
  narrow(change) {
    Object.assign(this, change);
    for (const [name, value] of Object.entries(change)) remember(this.#key(name), value, "sessionStorage");
    this.update();
  }
}

/** Where the page is: `#/models/a%2Fb?tab=x` is page `models`, id `a/b`.
 * @returns {{page: string, id: string, query: URLSearchParams}} */
export function place() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, ...rest] = path.split("/");
  let id = rest.join("/");
  try {
    id = decodeURIComponent(id);
  } catch {
    // What is not an encoding is taken as it stands.
  }
  return { page: page || "overview", id, query: new URLSearchParams(query ?? "") };
}

/** The address of a place. @param {string} page @param {string|number} [id] */
export function link(page, id) {
  return id === undefined ? `#/${page === "overview" ? "" : page}` : `#/${page}/${encodeURIComponent(id)}`;
}

/** What the page keeps in the browser, or in its tab alone. Storage may be full, forbidden or hold
 * nonsense: then the page merely forgets.
 * @template T @param {string} name @param {T} fallback @param {"localStorage"|"sessionStorage"} [where]
 * @returns {T} */
export function recall(name, fallback, where = "localStorage") {
  try {
    return JSON.parse(window[where].getItem(`rbee.${name}`) ?? "null") ?? fallback;
  } catch {
    return fallback;
  }
}

/** @param {string} name @param {unknown} value @param {"localStorage"|"sessionStorage"} [where] */
export function remember(name, value, where = "localStorage") {
  try {
    window[where].setItem(`rbee.${name}`, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
