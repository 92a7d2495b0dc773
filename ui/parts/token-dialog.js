// The dialogs that make a token and revoke one. The secret of a token is made here, shown once and kept
// nowhere: the hive gets its hash.

import { randomHex } from "../client.js";
import { Problem, keepReady, run, take } from "../lib/api.js";
import { caller } from "../lib/caller.js";
import { copyButton, h, icon } from "../lib/dom.js";
import { ago } from "../lib/format.js";
import { live } from "../lib/live.js";
import { sha256 } from "../lib/sha256.js";
import { isFirst, tokenList } from "../lib/usage.js";
import { View } from "../lib/view.js";
import { choice } from "./choices.js";
import { closeDialog, dialogHead, openDialog } from "./dialog.js";
import { field, onSubmit, onValue, select } from "./fields.js";
import { button, factList, failureBox, waiting } from "./parts.js";
import { act } from "./toasts.js";

/** @typedef {import("../lib/types.js").Token} Token */

const ROLES = [
  choice("read", "read: look at everything"),
  choice("use", "use: also use models"),
  choice("manage", "manage: also change everything"),
];
const EXPIRIES = [
  choice("", "Never"),
  choice("24h", "In a day"),
  choice("168h", "In a week"),
  choice("720h", "In 30 days"),
  choice("2160h", "In 90 days"),
  choice("8760h", "In a year"),
];

class TokenDialog extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["callers"];
  name = "";
  role = "use";
  expires = "";
  perMinute = "";
  concurrent = "";
  models = "";
  /** Whether it is the first one, which has to manage the hive. */
  isFirst = false;
  /** When it was asked for; 0 while it is not. */
  since = 0;
  secret = "";
  #isShown = false;
  /** @type {Problem|null} */
  problem = null;

  /** A click beside the dialog must not lose what is shown once. */
  get holds() {
    return this.since > 0 || this.secret !== "";
  }

  async #create() {
    const secret = randomHex(32);
    const models = this.models.split(/[\s,]+/).filter(Boolean);
    const limit = (/** @type {string} */ text) => Number.parseInt(text, 10) || null;
    const request = {
      name: this.name.trim(),
      sha256: sha256(secret),
      role: this.role,
      expires_in: this.expires || null,
      requests_per_minute: limit(this.perMinute),
      concurrent: limit(this.concurrent),
      models: models.length ? models : null,
    };
    this.since = Date.now();
    this.problem = null;
    this.update();
    try {
      // The hive asks for it as soon as it is there, also those who follow the job that makes it.
      if (this.isFirst) keepReady(secret);
      await run({ TokenCreate: request });
      this.secret = secret;
      if (this.isFirst) await take(secret);
    } catch (error) {
      this.problem = Problem.of(error);
    }
    keepReady(null);
    this.since = 0;
    this.update();
  }

  drawn() {
    if (!this.secret || this.#isShown) return;
    this.#isShown = true;
    /** @type {HTMLElement|null} */ (this.querySelector("figure button"))?.focus();
  }

  draw() {
    return this.secret ? this.#made() : this.#form();
  }

  #made() {
    return h(
      "div",
      { class: "form", key: "made" },
      dialogHead(this, `The token ${this.name.trim()}`),
      h(
        "p",
        { role: "status" },
        h("strong", null, "This is the only time that it is shown: "),
        "the hive keeps its hash alone. Copy it now, and give it to nobody but its holder.",
      ),
      h(
        "figure",
        { class: "code" },
        h("figcaption", null, "Token", copyButton(this.secret)),
        h("pre", { tabindex: "0", "aria-label": "The token" }, h("code", { id: "secret" }, this.secret)),
      ),
      h(
        "p",
        { class: "muted" },
        "Programs send it as an API key, or in the header ",
        h("code", null, "Authorization: Bearer"),
        ". The command line reads it from the file that ",
        h("code", null, "--token-file"),
        " names, or from ",
        h("code", null, "RBEE_HIVE_TOKEN"),
        ".",
        this.isFirst
          ? " From now on the hive asks everybody for a token; this page uses this one."
          : "",
      ),
      this.problem ? failureBox(this.problem) : null,
      h(
        "div",
        { class: "actions end" },
        button("Done", () => closeDialog(this), { class: "primary" }, icon("check")),
      ),
    );
  }

  #form() {
    const isBusy = this.since > 0;
    return h(
      "form",
      { key: "form", onsubmit: onSubmit(() => !isBusy && this.#create()) },
      dialogHead(this, this.isFirst ? "Make the first token" : "Make a token"),
      this.isFirst
        ? h(
            "p",
            { class: "muted" },
            "From then on the hive asks everybody for a token, so the first one is for you: it manages the ",
            "hive and does not expire. Programs that use the hive now need a token too.",
          )
        : null,
      field(
        "Name",
        h("input", {
          id: "token-name",
          autofocus: true,
          required: true,
          maxlength: 64,
          pattern: "[A-Za-z][A-Za-z0-9._\\-]*",
          autocomplete: "off",
          spellcheck: "false",
          ".value": this.name,
          oninput: onValue((value) => (this.name = value)),
        }),
        "Whose it is, such as alice or ci: a letter, then letters, digits and . _ -",
      ),
      this.isFirst ? null : this.#limits(),
      isBusy ? waiting("Waiting for the hive to make it", this.since) : null,
      this.problem ? failureBox(this.problem) : null,
      h(
        "div",
        { class: "actions end" },
        button("Close", () => closeDialog(this)),
        h(
          "button",
          { type: "submit", class: "primary", disabled: isBusy },
          icon("plus"),
          h("span", null, "Make it"),
        ),
      ),
    );
  }

  #limits() {
    const number = (/** @type {string} */ id, /** @type {"perMinute"|"concurrent"} */ name) =>
      h("input", {
        id,
        type: "number",
        min: 1,
        max: 4_294_967_295,
        placeholder: "no limit",
        ".value": this[name],
        oninput: onValue((value) => (this[name] = value)),
      });
    return [
      h(
        "div",
        { class: "two" },
        field(
          "Role",
          select({ id: "token-role" }, ROLES, this.role, (role) => (this.role = role)),
        ),
        field(
          "Expires",
          select({ id: "token-expires" }, EXPIRIES, this.expires, (expires) => (this.expires = expires)),
        ),
      ),
      h(
        "div",
        { class: "two" },
        field("Requests a minute", number("token-per-minute", "perMinute")),
        field("Requests at once", number("token-concurrent", "concurrent")),
      ),
      field(
        "Models",
        h("input", {
          id: "token-models",
          autocomplete: "off",
          spellcheck: "false",
          placeholder: "every model",
          ".value": this.models,
          oninput: onValue((value) => (this.models = value)),
        }),
        "Ids or aliases with commas between them, or their beginnings with * at the end.",
      ),
    ];
  }
}

class RevokeDialog extends View {
  /** @type {Token} */
  token = /** @type {any} */ (null);

  async #revoke() {
    closeDialog(this);
    await act({ TokenRevoke: { name: this.token.name } });
  }

  draw() {
    const { name, role, last_used_at: last } = this.token;
    const isLast = tokenList.value?.length === 1 && caller.card?.name !== "manager";
    return h(
      "form",
      { onsubmit: onSubmit(() => this.#revoke()) },
      dialogHead(this, `Revoke the token ${name}?`),
      factList([
        ["Role", role],
        ["Last used", last ? live(() => ago(last)) : "not yet"],
      ]),
      h(
        "p",
        { class: "muted" },
        "It lets nobody in any more, and streams that are followed with it end. It cannot be brought back.",
      ),
      isLast
        ? warning("It is the last one: then the hive asks nobody for a token.")
        : caller.card?.name === name
          ? warning("This page uses it, and will ask for another one.")
          : null,
      h(
        "div",
        { class: "actions end" },
        button("Keep it", () => closeDialog(this), { autofocus: true }),
        h("button", { type: "submit", class: "danger" }, icon("trash"), h("span", null, "Revoke")),
      ),
    );
  }
}

/** @param {string} text */
const warning = (text) => h("p", { class: "field-error" }, icon("alert"), h("span", null, text));

customElements.define("token-dialog", TokenDialog);
customElements.define("revoke-dialog", RevokeDialog);

export function openToken() {
  const view = new TokenDialog();
  view.isFirst = isFirst();
  if (view.isFirst) view.role = "manage";
  openDialog(view, "Make a token");
}

/** @param {Token} token */
export function openRevoke(token) {
  const view = new RevokeDialog();
  view.token = token;
  openDialog(view, `Revoke the token ${token.name}`);
}
