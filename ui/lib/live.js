// Text that changes with the time alone, such as how long something takes. It changes by itself, so that no
// view draws again only because a second has passed.

import { h } from "./dom.js";

/** @type {Set<LiveText>} */
const shown = new Set();

class LiveText extends HTMLElement {
  $own = true;
  /** @type {() => string} */
  #text = () => "";

  connectedCallback() {
    shown.add(this);
    this.refresh();
  }

  disconnectedCallback() {
    shown.delete(this);
  }

  get text() {
    return this.#text;
  }

  /** @param {() => string} text */
  set text(text) {
    this.#text = text;
    this.refresh();
  }

  refresh() {
    const text = this.#text();
    if (this.textContent !== text) this.textContent = text;
  }
}

customElements.define("live-text", LiveText);
setInterval(() => {
  for (const each of shown) each.refresh();
}, 1000);

/** @param {() => string} text */
export const live = (text) => h("live-text", { ".text": text });
