// The base of all views: a view draws at most once a frame and cleans up when it leaves the page.

import { render } from "./dom.js";
import { hive } from "./hive.js";
import { recall, remember } from "./storage.js";

/** @typedef {import("./hive.js").Topic} Topic */

/** An element that draws its tree from the store. Implementors override `draw`. */
export class View extends HTMLElement {
  /** The topics whose changes make it draw again. @type {Topic[]} */
  static topics = [];
  /** How often it draws without a change, because what it shows depends on the time, in milliseconds; 0 for
   * never. A text alone is `live` instead. */
  static tick = 0;
  /** A morph of the parent leaves the children of this element alone. */
  $own = true;
  /** Aborted when the element leaves the page. */
  life = new AbortController();
  #due = 0;

  connectedCallback() {
    this.life = new AbortController();
    const { topics, tick } = /** @type {typeof View} */ (this.constructor);
    // What the caller may not do cannot be pressed.
    hive.on([...topics, "caller"], () => this.update(), this.life.signal);
    if (tick > 0) {
      const timer = setInterval(() => this.isMoving() && this.update(), tick);
      this.life.signal.addEventListener("abort", () => clearInterval(timer));
    }
    this.start();
    this.#drawNow();
  }

  disconnectedCallback() {
    this.life.abort();
  }

  /** Whether time alone changes what it shows, for a view with a `tick`. */
  isMoving() {
    return true;
  }

  /** Called when the element enters the page, before it is drawn. */
  start() {}

  /** The children that it should have. @returns {import("./dom.js").Child} */
  draw() {
    return [];
  }

  /** Called after each drawing. */
  drawn() {}

  /** Draws again in the next frame. */
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

/** A list with a text filter and a state filter, which are kept as long as the tab is open. */
export class ListView extends View {
  /** The name under which the filters are kept. */
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

/** The parts of the URL: `#/models/a%2Fb?tab=x` is page `models`, id `a/b`.
 * @returns {{page: string, id: string, query: URLSearchParams}} */
export function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, ...rest] = path.split("/");
  let id = rest.join("/");
  try {
    id = decodeURIComponent(id);
  } catch {
    // An invalid encoding is used as it is.
  }
  return { page: page || "overview", id, query: new URLSearchParams(query ?? "") };
}

/** The URL of a page. @param {string} page @param {string|number} [id] */
export function link(page, id) {
  return id === undefined ? `#/${page === "overview" ? "" : page}` : `#/${page}/${encodeURIComponent(id)}`;
}
