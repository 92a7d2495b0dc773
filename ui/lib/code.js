// A block of code with a button that copies it.

import { copyButton, h } from "./dom.js";

/** @param {string} text @param {string} language */
export function code(text, language) {
  return h(
    "figure",
    { class: "code" },
    h("figcaption", null, h("span", null, language || "text"), copyButton(text)),
    h("pre", { tabindex: "0", "aria-label": "Code" }, h("code", null, text)),
  );
}
