// The settings of a model and of its variants: what counts, who says it, and what operations set.

import { Problem, run } from "../lib/api.js";
import { h, icon } from "../lib/dom.js";
import { to } from "../lib/fleet.js";
import { sentence } from "../lib/format.js";
import { GROUPS, changeOf, otherwise, sourceOf, typedOf } from "../lib/model-settings.js";
import { forgetSettings } from "../lib/other-settings.js";
import { View, link } from "../lib/view.js";
import { choice, deviceChoices, engineChoices } from "./choices.js";
import { closeDialog, dialogHead, openDialog } from "./dialog.js";
import { field, onSubmit, onValue, select } from "./fields.js";
import { allowed, button, failureBox, retryBox, waiting } from "./parts.js";

/** @typedef {import("../lib/types.js").Model} Model */
/** @typedef {import("../lib/types.js").ModelSettings} ModelSettings */
/** @typedef {import("../lib/model-settings.js").Setting} Setting */
/** @typedef {import("./fields.js").Choices} Choices */

/** The value of the choice that makes a variant. No id has a space. */
const NEW = " ";

class SettingsDialog extends View {
  /** @type {Model} */
  model = /** @type {any} */ (null);
  /** The hive whose settings they are; empty where it stands alone. */
  where = "";
  /** The id of the model or of its variant; `NEW` for one that is about to be made. */
  id = "";
  /** The name of the new variant. */
  name = "";
  /** What the hive says of it. @type {ModelSettings|null} */
  view = null;
  /** What is typed, by the names of the settings. @type {Record<string, string>} */
  typed = {};
  /** Since when the hive is asked or told; 0 while it is not. */
  since = 0;
  saved = "";
  /** How often the hive was asked. */
  asked = 0;
  /** @type {Problem|null} */
  problem = null;
  /** @type {Choices} */
  devices = [];
  /** @type {Choices} */
  engines = [];

  start() {
    Promise.all([deviceChoices(this.where), engineChoices(this.where)]).then(
      ([devices, engines]) => {
        Object.assign(this, { devices, engines });
        this.update();
      },
      () => {},
    );
    this.#look(this.model.id);
  }

  /** Shows the settings of the model or of a variant. @param {string} id */
  #look(id) {
    // A new variant has what its model has until something is set.
    return this.#ask(id, { ModelSettingsGet: { id: id === NEW ? this.model.id : id } }, () => "");
  }

  async #save() {
    const { view, id, name } = this;
    if (!view) return;
    const isNew = id === NEW;
    const change = changeOf(typedOf(view), this.typed);
    const target = isNew ? `${this.model.id}@${name.trim()}` : id;
    await this.#ask(target, { ModelSettingsSet: { id: target, ...change } }, savedText);
  }

  /** Removes what operations have set for the variant. */
  #remove() {
    const variant = this.view?.variant;
    const { id } = this.model;
    return this.#ask(id, { ModelSettingsSet: { id, unset: [`variants.${variant}`] } }, savedText);
  }

  /** Asks about the model, a variant or a new one. What was asked before counts no more.
   * @param {string} id @param {Record<string, Record<string, any>>} operation
   * @param {(answer: any) => string} say */
  async #ask(id, operation, say) {
    const mine = ++this.asked;
    this.since = Date.now();
    this.problem = null;
    this.saved = "";
    this.update();
    try {
      const [[name, fields]] = Object.entries(operation);
      const answer = await run({ [name]: { ...fields, ...to(this.where) } }, { signal: this.life.signal });
      if (mine !== this.asked) return;
      if (answer) {
        const isNew = id === NEW;
        this.view = isNew ? { ...answer, set: {}, variant: NEW } : answer;
        this.id = isNew ? NEW : answer.id;
        this.name = "";
        this.typed = typedOf(/** @type {ModelSettings} */ (this.view));
        this.saved = say(answer);
        // No event tells what has changed on another hive.
        if (this.saved && to(this.where).hive_id) forgetSettings();
      }
    } catch (error) {
      if (mine !== this.asked) return;
      this.problem = Problem.of(error);
    }
    this.since = 0;
    this.update();
  }

  draw() {
    const { view, problem, since } = this;
    const title = titleOf(this);
    if (!view)
      return [
        dialogHead(this, title),
        retryBox(problem, () => this.#look(this.model.id)) ?? waiting("Waiting for the settings", since),
      ];
    const isNew = this.id === NEW;
    const hasName = !isNew || /^[\w.-]{1,64}$/.test(this.name.trim());
    const { settings, unset } = changeOf(typedOf(view), this.typed);
    const hasChanged = Object.keys(settings).length + unset.length > 0;
    return h(
      "form",
      { onsubmit: onSubmit(() => hasChanged && hasName && this.#save()) },
      dialogHead(
        this,
        title,
        "What is set here is kept by the hive and counts more than its configuration file.",
      ),
      this.#variants(view),
      view.shadowed_aliases.length
        ? h(
            "p",
            { class: "field-error" },
            icon("alert"),
            `${view.shadowed_aliases.join(", ")}: a model has that name, so requests for it go there.`,
          )
        : null,
      ...GROUPS.map((group) => this.#group(view, group)),
      problem ? failureBox(problem) : null,
      h("p", { class: "verdict", role: "status" }, this.saved ? [icon("check"), this.saved] : null),
      h(
        "div",
        { class: "actions end" },
        view.variant && Object.keys(view.set).length
          ? button(
              "Remove the variant",
              () => this.#remove(),
              { disabled: since > 0, needs: "ModelSettingsSet" },
              icon("trash"),
            )
          : null,
        button("Close", () => closeDialog(this)),
        h(
          "button",
          {
            type: "submit",
            class: "primary",
            ...allowed({ disabled: !hasChanged || !hasName || since > 0, needs: "ModelSettingsSet" }),
          },
          icon("check"),
          h("span", null, since ? "Saving" : "Save"),
        ),
      ),
    );
  }

  /** Which variant is shown, and a way to make another. @param {ModelSettings} view */
  #variants({ variants, model }) {
    const known = variants.map((id) => choice(id, `Variant ${id.slice(model.length + 1)}`));
    const list = [choice(model, "The model itself"), ...known, choice(NEW, "A new variant")];
    return h(
      "div",
      { class: "two" },
      field(
        "Of",
        select({ id: "set-of" }, list, this.id, (id) => this.#look(id)),
        "A variant is the model with other settings, served by workers of its own",
      ),
      this.id === NEW
        ? field(
            "Name of the variant",
            h("input", {
              id: "set-name",
              maxlength: 64,
              pattern: "[\\w.\\-]+",
              ".value": this.name,
              placeholder: "long",
              oninput: onValue((name) => this.#type(() => (this.name = name))),
            }),
            `Requests call it ${model.length > 40 ? "the model's id" : model}@${this.name.trim() || "NAME"}`,
          )
        : this.id === model
          ? null
          : h(
              "p",
              { class: "aside" },
              h(
                "a",
                { class: "button", href: link("chat", this.id), onclick: () => closeDialog(this) },
                "Chat with it",
              ),
            ),
    );
  }

  /** @param {ModelSettings} view @param {typeof GROUPS[number]} group */
  #group(view, { title, about, settings }) {
    return h(
      "fieldset",
      { key: title },
      h("legend", null, title),
      about ? h("p", { class: "help" }, about) : null,
      h("div", { class: "settings" }, ...settings.map((setting) => this.#field(view, setting))),
    );
  }

  /** @param {ModelSettings} view @param {Setting} setting */
  #field(view, setting) {
    const { name, label, help, kind } = setting;
    const said = [help ? `${help}. ` : "", h("span", { class: "source" }, sentence(sourceOf(view, name)))];
    const line = field(label, this.#control(setting, otherwise(view, setting)), said);
    if (kind === "long" || kind === "words") line.classList.add("wide");
    return line;
  }

  /** @param {Setting} setting @param {string} other what counts while nothing is typed */
  #control({ name, kind }, other) {
    const props = { id: `set-${name.replace(".", "-")}` };
    const set = (/** @type {string} */ text) => this.#type(() => (this.typed[name] = text));
    const value = this.typed[name];
    const lists = {
      engine: this.engines,
      device: [choice("auto", "Automatic"), ...this.devices],
      yes: [choice("true", "Yes"), choice("false", "No")],
    };
    if (kind === "engine" || kind === "device" || kind === "yes") {
      const known = lists[kind];
      const more = value && !known.some(([each]) => each === value) ? [choice(value, value)] : [];
      return select(
        props,
        [choice("", other ? `As it is: ${other}` : "Not set"), ...known, ...more],
        value,
        set,
      );
    }
    const shared = { ...props, ".value": value, placeholder: other, oninput: onValue(set) };
    if (kind === "long") return h("textarea", { ...shared, rows: 2 });
    if (kind === "number") return h("input", { ...shared, type: "number", step: "any" });
    if (kind === "integer") return h("input", { ...shared, type: "number", step: 1 });
    return h("input", shared);
  }

  /** @param {() => void} change */
  #type(change) {
    change();
    this.saved = "";
    this.update();
  }
}

/** Which workers are loaded again. @param {{reloads: Array<{pid: number, model: string}>}} answer */
function savedText({ reloads }) {
  if (reloads.length === 0) return "Saved. No worker has to be loaded again.";
  const named = reloads.map(({ pid, model }) => `${pid} (${model})`).join(", ");
  return reloads.length === 1
    ? `Saved. Worker ${named} is loaded again once it is idle.`
    : `Saved. Workers ${named} are loaded again once they are idle.`;
}

customElements.define("settings-dialog", SettingsDialog);

/** @param {SettingsDialog} dialog */
const titleOf = ({ model, where }) => `Settings of ${model.name}${to(where).hive_id ? ` on ${where}` : ""}`;

/** @param {Model} model @param {string} [where] the hive; without it this one */
export function openSettings(model, where = "") {
  const view = new SettingsDialog();
  Object.assign(view, { model, where });
  openDialog(view, titleOf(view));
}
