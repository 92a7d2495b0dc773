// The load dialog: device, context, and the memory that they need. The estimate is the dry run of the
// load that the button starts.

import { h, icon } from "../lib/dom.js";
import { others, to } from "../lib/fleet.js";
import { bytes, count } from "../lib/format.js";
import { doubtAbout, hive } from "../lib/hive.js";
import { rowOf } from "../lib/places.js";
import { PlanView } from "../lib/plan.js";
import { link } from "../lib/view.js";
import { choice, deviceChoices } from "./choices.js";
import { closeDialog, dialogHead, openDialog } from "./dialog.js";
import { field, onSubmit, onValue, select, tick } from "./fields.js";
import { engineAdvice } from "./engines.js";
import { ended } from "./job-strip.js";
import { estimate } from "./load-plan.js";
import { button, retryBox, waiting } from "./parts.js";
import { act } from "./toasts.js";
import { ANY, whereField } from "./where-field.js";

/** @typedef {import("../lib/types.js").Model} Model */
/** @typedef {import("../lib/types.js").LoadPlan} LoadPlan */

/** How long after the last keystroke the hive is asked for a new estimate, in milliseconds. */
const PAUSE_MS = 300;
/** Contexts with a button of their own, in tokens, besides the model's maximum. */
const CONTEXTS = [2048, 8192, 32_768];
const AUTOMATIC = choice("auto", "Automatic");

class LoadDialog extends PlanView {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["fleet", "others"];
  /** @type {Model} */
  model = /** @type {any} */ (null);
  /** The hive that is to load it, or `any`; empty where it stands alone. */
  where = "";
  /** Which hive would load it, and why, where the fleet chooses. */
  placed = "";
  device = "auto";
  context = "";
  force = false;
  /** @type {import("./fields.js").Choices} */
  devices = [AUTOMATIC];
  /** @type {LoadPlan|null} */
  plan = null;
  /** The worker that is being stopped to make room. */
  stopping = 0;

  start() {
    others.watch(this.life.signal);
    this.#findDevices();
    this.#estimate(0);
  }

  /** Whether this hive is to load it. */
  #isHere() {
    return this.where === (hive.fleet?.hive ?? "");
  }

  async #findDevices() {
    const { where } = this;
    const devices = await deviceChoices(where).catch(() => []);
    if (where !== this.where) return;
    this.devices = [AUTOMATIC, ...devices];
    this.update();
  }

  /** @param {string} where */
  #chooseWhere(where) {
    this.where = where;
    this.devices = [AUTOMATIC];
    this.#findDevices();
    // A plan of another hive says nothing of this one.
    this.#change({ device: "auto", plan: null, force: false });
  }

  #request() {
    const context = Number.parseInt(this.context, 10);
    return {
      id: this.model.id,
      device: this.device,
      ...(context > 0 ? { context_length: context } : {}),
      ...to(this.where),
    };
  }

  /** Asks the hive for an estimate. Until it arrives the last one stays visible.
   * @param {number} pause in milliseconds */
  #estimate(pause) {
    this.placed = "";
    return this.requestPlan(
      "Estimating the memory",
      { ModelLoad: { ...this.#request(), dry_run: true } },
      { pause, onMessage: (message) => this.where === ANY && (this.placed ||= message) },
    );
  }

  /** @param {Partial<LoadDialog>} change */
  #change(change) {
    Object.assign(this, change);
    this.#estimate(PAUSE_MS);
  }

  async #load() {
    closeDialog(this);
    await act({ ModelLoad: { ...this.#request(), ...(this.force ? { force: true } : {}) } });
  }

  /** Stops a worker to free memory, then estimates again. @param {number} pid */
  async #stop(pid) {
    this.stopping = pid;
    this.update();
    const job = await act({ WorkerProcessDelete: { pid, ...to(this.where) } });
    if (job) await ended(job, this.life.signal).catch(() => {});
    this.stopping = 0;
    if (this.isConnected) await this.#estimate(0);
  }

  draw() {
    const { model, plan, planning, problem } = this;
    const most = model.context_length ?? Infinity;
    const contexts = CONTEXTS.filter((tokens) => tokens < most);
    const preset = (/** @type {string} */ value, /** @type {string} */ label) =>
      h(
        "button",
        {
          type: "button",
          class: "small",
          "aria-pressed": String(this.context === value),
          onclick: () => this.#change({ context: value }),
        },
        label,
      );
    const isDoubtful = plan !== null && (!plan.fits || Boolean(plan.obstacle));
    const blocked = isDoubtful && !this.force;
    const doubt = doubtAbout(model);
    const among = rowOf(model.id)?.places.map((place) => place.hive) ?? [this.where];
    return h(
      "form",
      { onsubmit: onSubmit(() => !blocked && this.#load()) },
      dialogHead(
        this,
        `Load ${model.name}`,
        [
          bytes(model.size_bytes),
          model.quantization,
          model.parameter_count === null ? "" : `${count(model.parameter_count)} parameters`,
        ]
          .filter(Boolean)
          .join(" · "),
      ),
      doubt ? h("p", { class: "verdict bad" }, icon("alert"), h("span", null, doubt)) : null,
      whereField("load-where", this.where, (where) => this.#chooseWhere(where), among),
      h(
        "div",
        { class: "two" },
        field(
          "Device",
          select({ id: "load-device", autofocus: true }, this.devices, this.device, (device) =>
            this.#change({ device }),
          ),
        ),
        h(
          "div",
          { class: "field" },
          h("label", { for: "load-context" }, "Context in tokens"),
          h("input", {
            id: "load-context",
            type: "number",
            min: 1,
            step: 1,
            inputmode: "numeric",
            ".value": this.context,
            placeholder: plan ? `${plan.context_length}, by default` : "the default",
            oninput: onValue((context) => this.#change({ context })),
          }),
          h(
            "div",
            { class: "tabs", role: "group", "aria-label": "Contexts" },
            preset("", "Default"),
            ...contexts.map((tokens) => preset(String(tokens), `${tokens / 1024} k`)),
            model.context_length && model.context_length > CONTEXTS[0]
              ? preset(String(model.context_length), "Maximum")
              : null,
          ),
        ),
      ),
      h(
        "section",
        { class: "estimate", "aria-label": "Estimate", "aria-busy": planning ? "true" : null },
        plan && this.placed ? h("p", { class: "help" }, this.placed) : null,
        plan?.worker ? this.#served(plan.worker) : plan ? this.#memory(plan) : null,
        planning && !plan
          ? waiting(
              planning.message,
              planning.since,
              button("Load without an estimate", () => this.#load(), { class: "small" }),
            )
          : null,
        retryBox(problem, () => this.#estimate(0)),
      ),
      isDoubtful
        ? tick(
            "Load it anyway: it may fail, or take memory from other programs",
            this.force,
            (checked) => ((this.force = checked), this.update()),
          )
        : null,
      h(
        "div",
        { class: "actions end" },
        button("Close", () => closeDialog(this)),
        h(
          "button",
          { type: "submit", class: "primary", disabled: blocked || Boolean(plan?.worker) },
          icon("play"),
          h("span", null, "Load"),
        ),
      ),
    );
  }

  /** @param {import("../lib/types.js").Worker} worker */
  #served(worker) {
    const name = `Worker ${worker.pid}`;
    return h(
      "p",
      null,
      this.#isHere()
        ? h("a", { href: link("workers", worker.pid), onclick: () => closeDialog(this) }, name)
        : name,
      ` already serves it on ${worker.device}: no worker would be started. `,
      h("a", { href: link("chat", worker.model), onclick: () => closeDialog(this) }, "Chat with it"),
    );
  }

  /** @param {LoadPlan} plan */
  #memory(plan) {
    // An engine would be installed on this hive.
    if (plan.obstacle && this.#isHere())
      return [...estimate(plan), engineAdvice(plan.engine_advice, this.model.name, () => this.#estimate(0))];
    return [...estimate(plan), plan.fits ? null : this.#room(plan)];
  }

  /** The processes that use the memory. @param {LoadPlan} plan */
  #room({ stoppable_workers: workers, foreign_processes: others }) {
    if (workers.length + others.length === 0)
      return h(
        "p",
        { class: "help" },
        "No worker of this hive uses that memory. A smaller context or another quantization needs less.",
      );
    return h(
      "ul",
      { class: "lines", "aria-label": "Processes that use the memory" },
      ...workers.map(({ pid, model, held_bytes: held }) =>
        h(
          "li",
          { key: String(pid) },
          h("span", { class: "grow" }, model),
          h("span", { class: "muted num" }, `worker ${pid} · ${bytes(held)}`),
          button(
            this.stopping === pid ? "Stopping" : "Stop it",
            () => this.#stop(pid),
            { class: "small", disabled: this.stopping > 0, needs: "WorkerProcessDelete" },
            icon("stop"),
          ),
        ),
      ),
      ...others.map(({ pid, name, held_bytes: held }) =>
        h(
          "li",
          { key: String(pid) },
          h("span", { class: "grow" }, name ?? "Another process"),
          h("span", { class: "muted num" }, `pid ${pid} · ${bytes(held)}`),
        ),
      ),
    );
  }
}

customElements.define("load-dialog", LoadDialog);

/** @param {Model} model @param {string} [where] the hive; without it this one if it has the model, else the
 * best */
export function openLoad(model, where) {
  const view = new LoadDialog();
  view.model = model;
  const here = hive.models.has(model.id) || !hive.fleet;
  view.where = where ?? (here ? (hive.fleet?.hive ?? "") : ANY);
  openDialog(view, `Load ${model.name}`);
}
