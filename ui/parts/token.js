// The dialog that asks for the token. `lib/api.js` keeps it.

import { h, icon } from "../lib/dom.js";

/** Resolves with the typed text, which the hive then checks. Where the page needs the token, the dialog
 * cannot be closed; where it has one and the user only wants to change it, closing it is null.
 * @param {boolean} wrong whether the last one was refused
 * @param {Promise<string>} [offered] the token of another tab, which closes the dialog
 * @returns {Promise<string|null>} */
export function askForToken(wrong, offered) {
  const before = document.activeElement;
  return new Promise((resolve) => {
    const leave = () => {
      dialog.remove();
      resolve(null);
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
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
          closedby: offered ? "none" : "closerequest",
          // A browser without `closedby` closes the dialog at the second Escape.
          onclose: () => {
            if (!offered) leave();
            else if (dialog.isConnected) (dialog.showModal(), field.focus());
          },
          oncancel: (/** @type {Event} */ event) => offered && event.preventDefault(),
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
          h("h2", { id: "token-title" }, offered ? "This hive asks for a token" : "Use another token"),
          h(
            "p",
            { class: "muted", id: "token-help" },
            "The manager's token is in the file that the hive was started with (--token-file); others are ",
            "made on the page of the callers, or with rbee-hive token create. This page keeps it ",
            "until its tab is closed, and shares it with the other tabs of this hive.",
          ),
          wrong
            ? h("p", { class: "field-error", role: "alert" }, icon("alert"), "The hive refused that token.")
            : null,
          h("label", { for: "token" }, "Token"),
          field,
          h(
            "div",
            { class: "actions end" },
            offered ? null : h("button", { type: "button", onclick: leave }, "Cancel"),
            h("button", { type: "submit", class: "primary" }, "Continue"),
          ),
        ),
      )
    );
    document.body.append(dialog);
    offered?.then((token) => {
      dialog.remove();
      resolve(token);
    });
    dialog.showModal();
    field.focus();
  });
}
