// The base of all dialogs: they open above the page, return the focus when they close, and close by
// Escape, by their button and by a click outside.

import { h, icon } from "../lib/dom.js";

/** @typedef {import("../lib/view.js").View} View */
/** @typedef {import("../lib/dom.js").Child} Child */

/** Opens a dialog with a view in it. @param {View} view @param {string} label */
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
      onpointerdown: (/** @type {PointerEvent} */ event) => event.target === dialog && dialog.close(),
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

/** A control with its label above and help below. @param {string} label @param {HTMLElement} control
 * @param {Child} [help] */
export function field(label, control, help) {
  const id = control.id;
  if (help) control.setAttribute("aria-describedby", `${id}-help`);
  return h(
    "div",
    { class: "field" },
    h("label", { for: id }, label),
    control,
    help ? h("p", { class: "help", id: `${id}-help` }, help) : null,
  );
}

/** A checkbox with its label. @param {string} label @param {boolean} checked
 * @param {(checked: boolean) => void} set */
export function tick(label, checked, set) {
  return h(
    "label",
    { class: "check" },
    h("input", {
      type: "checkbox",
      ".checked": checked,
      onchange: (/** @type {any} */ event) => set(event.target.checked),
    }),
    h("span", null, label),
  );
}

/** A submit handler that calls a function instead of sending the form. @param {() => void} then */
export const onSubmit = (then) => (/** @type {Event} */ event) => {
  event.preventDefault();
  then();
};

/** A handler of typed or selected values. @param {(value: string) => void} set */
export const onValue = (set) => (/** @type {any} */ event) => set(event.target.value);
