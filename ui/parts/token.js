// Asking for the token. It goes to `lib/api.js`, which keeps it in memory.

import { h, icon } from "../lib/dom.js";

/** Resolves with what the person typed; the hive judges it. There is no way round, so the dialog
 * does not close.
 * @param {boolean} wrong whether the last one was refused
 * @returns {Promise<string>} */
export function askForToken(wrong) {
  return new Promise((resolve) => {
    const field = /** @type {HTMLInputElement} */ (
      h("input", { id: "token", type: "password", autocomplete: "off", required: true, spellcheck: "false", "aria-describedby": "token-help", "aria-invalid": wrong ? "true" : null })
    );
    const dialog = /** @type {HTMLDialogElement} */ (
      h(
        "dialog",
        {
          class: "dialog narrow",
          "aria-labelledby": "token-title",
          closedby: "none",
          // A browser that does not know `closedby` lets Escape through the second time.
          onclose: () => dialog.isConnected && (dialog.showModal(), field.focus()),
          oncancel: (/** @type {Event} */ event) => event.preventDefault(),
        },
        h(
          "form",
          {
            onsubmit: (/** @type {Event} */ event) => {
              event.preventDefault();
              dialog.remove();
              resolve(field.value);
            },
          },
          h("h2", { id: "token-title" }, "This hive asks for a token"),
          h("p", { class: "muted", id: "token-help" }, "It is what stands in the file that the hive was started with (--token-file). This page keeps it in memory alone: a reload asks again."),
          wrong ? h("p", { class: "field-error", role: "alert" }, icon("alert"), "The hive refused that token.") : null,
          h("label", { for: "token" }, "Token"),
          field,
          h("div", { class: "actions end" }, h("button", { type: "submit", class: "primary" }, "Continue")),
        ),
      )
    );
    document.body.append(dialog);
    dialog.showModal();
    field.focus();
  });
}
