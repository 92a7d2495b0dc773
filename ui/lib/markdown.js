// Markdown of models as elements. The hive renders it (`POST /v1/markdown`) and lets through only what is
// safe to show.
//
// No other code of the page parses markup: the Content-Security-Policy allows only the Trusted Types policy
// of this module, which is given nothing but what that route has answered.

import { request, sleep } from "./api.js";
import { code } from "./code.js";
import { h, render } from "./dom.js";

const trusted = /** @type {any} */ (window).trustedTypes?.createPolicy("rbee-markdown", {
  createHTML: (/** @type {string} */ html) => html,
});

/** The shortest time between two renderings of an answer that grows, in milliseconds. */
const PAUSE_MS = 250;
/** How long the hive may take to answer, in milliseconds: the others wait meanwhile. */
const PATIENCE_MS = 10_000;
/** Rendered texts that are kept. */
const MOST_KEPT = 200;

/** The hive's answers, the last one used last. @type {Map<string, string>} */
const known = new Map();
/** The request under way: there is one at a time, for all answers together. @type {Promise<unknown>} */
let turn = Promise.resolve();

/** The text as HTML from the hive. @param {string} text @returns {Promise<string>} */
async function rendered(text) {
  let html = known.get(text);
  if (html === undefined) {
    const options = { body: { text }, patience: PATIENCE_MS };
    const mine = turn.then(async () => (await request("POST", "/v1/markdown", options)).json());
    turn = mine.catch(() => {});
    html = /** @type {string} */ ((await mine).html);
  }
  known.delete(text);
  known.set(text, html);
  if (known.size > MOST_KEPT) known.delete(known.keys().next().value ?? "");
  return html;
}

/** The elements of HTML from the hive, with what only the page can add: buttons, and a place for the focus
 * where something may be wider than the page. @param {string} html @returns {Node[]} */
function elements(html) {
  const template = document.createElement("template");
  template.innerHTML = trusted ? trusted.createHTML(html) : html;
  const { content } = template;
  for (const pre of content.querySelectorAll("pre")) {
    const inner = pre.firstElementChild;
    const language = /** @type {string|undefined} */ (inner?.className.replace("language-", ""));
    const box = code(pre.textContent?.replace(/\n$/, "") ?? "", language ?? "");
    pre.replaceWith(box);
    if (inner) box.querySelector("code")?.replaceWith(inner);
  }
  for (const table of content.querySelectorAll("table")) {
    const box = h("div", { class: "scroll-x", tabindex: "0", role: "group", "aria-label": "Table" });
    table.replaceWith(box);
    box.append(table);
  }
  return [...content.childNodes];
}

/** Shows Markdown. While its text grows it is rendered again at most a few times a second. */
class MarkdownText extends HTMLElement {
  $own = true;
  #text = "";
  /** The text that is on screen. @type {string|null} */
  #shown = null;
  #busy = false;

  connectedCallback() {
    this.#catchUp();
  }

  get text() {
    return this.#text;
  }

  set text(text) {
    this.#text = text;
    this.#catchUp();
  }

  async #catchUp() {
    if (this.#busy) return;
    this.#busy = true;
    // An element that a view has made only to compare it with the one on screen renders nothing.
    while (this.isConnected && this.#shown !== this.#text) {
      const text = this.#text;
      const began = performance.now();
      try {
        render(this, ...elements(await rendered(text)));
        // A text that has grown is not needed again.
        if (this.#shown !== null && text.startsWith(this.#shown)) known.delete(this.#shown);
        this.#shown = text;
      } catch {
        // Without the hive the text is shown as the model wrote it, until it comes on screen again.
        render(this, h("p", { class: "as-written" }, text));
      }
      this.dispatchEvent(new Event("rendered", { bubbles: true }));
      // A text that takes long to render is rendered less often.
      await sleep(Math.max(PAUSE_MS, 2 * (performance.now() - began)));
      if (this.#text === text) break;
    }
    this.#busy = false;
  }
}

customElements.define("markdown-text", MarkdownText);
