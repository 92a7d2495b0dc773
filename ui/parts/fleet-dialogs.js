// The dialogs that invite a machine into the fleet and expel a hive from it. The secret of an invitation is
// made here and shown once: the hive gets its hash.

import { randomHex } from "../client.js";
import { Problem, run } from "../lib/api.js";
import { code } from "../lib/code.js";
import { h, icon } from "../lib/dom.js";
import { maker, to } from "../lib/fleet.js";
import { instant } from "../lib/format.js";
import { sha256 } from "../lib/sha256.js";
import { View } from "../lib/view.js";
import { choice } from "./choices.js";
import { closeDialog, dialogHead, openDialog } from "./dialog.js";
import { field, onSubmit, select } from "./fields.js";
import { button, factList, failureBox, waiting } from "./parts.js";
import { act } from "./toasts.js";

/** @typedef {import("../lib/types.js").FleetHive} FleetHive */
/** @typedef {import("../lib/types.js").FleetInvitation} Invitation */

const EXPIRIES = [choice("10m", "In 10 minutes"), choice("1h", "In an hour"), choice("24h", "In a day")];

class InviteDialog extends View {
  expires = "1h";
  /** When it was asked for; 0 while it is not. */
  since = 0;
  secret = "";
  /** @type {Invitation|null} */
  invitation = null;
  /** @type {Problem|null} */
  problem = null;
  #isShown = false;

  /** A click beside the dialog must not lose what is shown once. */
  get holds() {
    return this.since > 0 || this.invitation !== null;
  }

  async #invite() {
    this.secret = randomHex(16);
    this.since = Date.now();
    this.problem = null;
    this.update();
    try {
      const request = { sha256: sha256(this.secret), expires_in: this.expires, ...to(maker()) };
      this.invitation = await run({ FleetInvite: request });
    } catch (error) {
      this.problem = Problem.of(error);
    }
    this.since = 0;
    this.update();
  }

  drawn() {
    if (!this.invitation || this.#isShown) return;
    this.#isShown = true;
    /** @type {HTMLElement|null} */ (this.querySelector("figure button"))?.focus();
  }

  draw() {
    return this.invitation ? this.#made(this.invitation) : this.#form();
  }

  /** @param {Invitation} invitation */
  #made({ join, other_addresses: others, expires_at: end }) {
    return h(
      "div",
      { class: "form", key: "made" },
      dialogHead(this, "Invite a machine"),
      h(
        "p",
        { role: "status" },
        h("strong", null, "Run this on the machine that is to join"),
        `, which needs a hive that runs. It is for one machine, until ${instant(end)}, and shown only now.`,
      ),
      code(join + this.secret, "sh"),
      others.length
        ? h(
            "p",
            { class: "muted" },
            "If that machine does not know the host in it, put one of these in its place: ",
            others.join(", "),
            ".",
          )
        : null,
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
      { key: "form", onsubmit: onSubmit(() => !isBusy && this.#invite()) },
      dialogHead(this, "Invite a machine"),
      h(
        "p",
        { class: "muted" },
        "It joins by one line. Each hive of a fleet may ask every other one for everything: invite machines ",
        "that you trust.",
      ),
      field(
        "Expires",
        select({ id: "invite-expires", autofocus: true }, EXPIRIES, this.expires, (expires) => {
          this.expires = expires;
        }),
      ),
      isBusy ? waiting("Waiting for the invitation", this.since) : null,
      this.problem ? failureBox(this.problem) : null,
      h(
        "div",
        { class: "actions end" },
        button("Close", () => closeDialog(this)),
        h(
          "button",
          { type: "submit", class: "primary", disabled: isBusy },
          icon("plus"),
          h("span", null, "Make the line"),
        ),
      ),
    );
  }
}

class ExpelDialog extends View {
  /** @type {FleetHive} */
  expelled = /** @type {any} */ (null);

  async #expel() {
    closeDialog(this);
    await act({ FleetExpel: { name: this.expelled.hive, ...to(maker()) } });
  }

  draw() {
    const { hive: name, hostname, url, jobs } = this.expelled;
    return h(
      "form",
      { onsubmit: onSubmit(() => this.#expel()) },
      dialogHead(this, `Expel ${name} from the fleet?`),
      factList([
        ["Machine", hostname],
        ["Address", url],
        ["Jobs that run", jobs || null],
      ]),
      h(
        "p",
        { class: "muted" },
        "The fleet's server ends its connections at once, and takes none from it any more. That hive goes ",
        "on alone, with its models, workers and jobs; the others cannot reach them. Only another invitation ",
        "lets it in again.",
      ),
      h(
        "div",
        { class: "actions end" },
        button("Keep it", () => closeDialog(this), { autofocus: true }),
        h("button", { type: "submit", class: "danger" }, icon("close"), h("span", null, "Expel")),
      ),
    );
  }
}

customElements.define("invite-dialog", InviteDialog);
customElements.define("expel-dialog", ExpelDialog);

export const openInvite = () => void openDialog(new InviteDialog(), "Invite a machine");

/** @param {FleetHive} one */
export function openExpel(one) {
  const view = new ExpelDialog();
  view.expelled = one;
  openDialog(view, `Expel ${one.hive}`);
}
