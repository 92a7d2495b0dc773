// The dialog that asks for the token. `lib/api.js` keeps it.

import { h, icon } from "../lib/dom.js";

/** Resolves with the typed text, which the hive then checks. The page needs the token, so the dialog
 * cannot be closed.
 * @param {boolean} wrong whether the last one was refused
 * @param {Promise<string>} offered the token of another tab, which closes the dialog
 * @returns {Promise<string>} */
export function askForToken(wrong, offered) {
  return new Promise((resolve) => {
    const field = /** @type {HTMLInputElement} */ (
      h("input", {
        id: "token",
        type: "password",
        autocomplete: "off",
        required: true,
        spellcheck: "false",
        "aria-describedby": "token-help",
        "aria-invalid": wrong ? "true" : null,
      })
    );
    const dialog = /** @type {HTMLDialogElement} */ (
      h(
        "dialog",
        {
          class: "dialog narrow",
          "aria-labelledby": "token-title",
          closedby: "none",
          // A browser without `closedby` closes the dialog at the second Escape.
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
          h(
            "p",
            { class: "muted", id: "token-help" },
            "The manager's token is in the file that the hive was started with (--token-file); others are ",
            "made with rbee-hive token create. This page keeps it until its tab is closed, and shares it ",
            "with the other tabs of this hive.",
          ),
          wrong
            ? h("p", { class: "field-error", role: "alert" }, icon("alert"), "The hive refused that token.")
            : null,
          h("label", { for: "token" }, "Token"),
          field,
          h("div", { class: "actions end" }, h("button", { type: "submit", class: "primary" }, "Continue")),
        ),
      )
    );
    document.body.append(dialog);
    offered.then((token) => {
      dialog.remove();
      resolve(token);
    });
    dialog.showModal();
    field.focus();
  });
}
