// The base of all dialogs: they open above the page, return the focus when they close, and close by
// Escape, by their button and by a click outside.

import { h, icon } from "../lib/dom.js";

/** @typedef {import("../lib/view.js").View} View */
/** @typedef {import("../lib/dom.js").Child} Child */

/** Opens a dialog with a view in it. While the view `holds` something that would be lost, a click outside and
 * Escape do not close it. @param {View & {holds?: boolean}} view @param {string} label */
export function openDialog(view, label) {
  const before = document.activeElement;
  const dialog = /** @type {HTMLDialogElement} */ (
    h("dialog", {
      class: "dialog",
      "aria-label": label,
      onclose: () => {
        dialog.remove();
        if (before instanceof HTMLElement && before.isConnected) before.focus();
      },
      // A click that starts on the backdrop closes it, not one that starts inside.
      onpointerdown: (/** @type {PointerEvent} */ event) =>
        event.target === dialog && !view.holds && dialog.close(),
      oncancel: (/** @type {Event} */ event) => view.holds && event.preventDefault(),
    })
  );
  dialog.append(view);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** @param {View} view */
export const closeDialog = (view) => view.closest("dialog")?.close();

/** @param {View} view @param {string} title @param {Child} [about] the line below the title */
export function dialogHead(view, title, about) {
  const close = h(
    "button",
    { type: "button", class: "quiet icon close", "aria-label": "Close", onclick: () => closeDialog(view) },
    icon("close"),
  );
  return h(
    "header",
    { class: "dialog-head" },
    h("div", null, h("h2", null, title), about ? h("p", { class: "muted" }, about) : null),
    close,
  );
}
