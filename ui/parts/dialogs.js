// The dialogs in which something is started or taken away. Each submits jobs and closes; the jobs
// are followed elsewhere.

import { Problem, cancel, capabilities, run } from "../lib/api.js";
import { h, icon } from "../lib/dom.js";
import { bytes, count } from "../lib/format.js";
import { hive } from "../lib/hive.js";
import { View, recall, remember } from "../lib/view.js";
import { button, factList, failureBox, stack, waiting } from "./parts.js";
import { act } from "./toasts.js";

/** @typedef {import("../lib/types.js").Model} Model */
/** @typedef {import("../lib/dom.js").Child} Child */

/** A dialog with a view in it. @param {View} view @param {string} label */
function open(view, label) {
  const before = document.activeElement;
  const dialog = /** @type {HTMLDialogElement} */ (
    h("dialog", {
      class: "dialog",
      "aria-label": label,
      onclose: () => {
        dialog.remove();
        if (before instanceof HTMLElement && before.isConnected) before.focus();
      },
      // A press on the backdrop, and nothing that began inside, closes it.
      onpointerdown: (/** @type {PointerEvent} */ event) => event.target === dialog && dialog.close(),
    })
  );
  dialog.append(view);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** @param {View} view */
const close = (view) => view.closest("dialog")?.close();

/** @param {View} view @param {string} title */
function head(view, title) {
  return h("div", { class: "dialog-head" }, h("h2", null, title), h("button", { type: "button", class: "quiet icon", "aria-label": "Close", onclick: () => close(view) }, icon("close")));
}

/** @param {string} label @param {HTMLElement} control @param {Child} [help] */
function field(label, control, help) {
  const id = control.id;
  if (help) control.setAttribute("aria-describedby", `${id}-help`);
  return h("div", { class: "field" }, h("label", { for: id }, label), control, help ? h("p", { class: "help", id: `${id}-help` }, help) : null);
}

class DownloadDialog extends View {
  static tick = 1000;
  source = recall("download.source", "");
  revision = "";
  force = false;
  /** @type {import("../lib/types.js").Plan|null} */
  plan = null;
  /** @type {Problem|null} */
  problem = null;
  /** @type {{since: number, message: string, job: string, stop: AbortController}|null} */
  planning = null;

  request() {
    const revision = this.revision.trim();
    return { model: this.source.trim(), ...(revision ? { revision } : {}), ...(this.force ? { force: true } : {}) };
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this.#stopPlanning();
  }

  #stopPlanning() {
    const { planning } = this;
    this.planning = null;
    if (!planning) return;
    planning.stop.abort();
    if (planning.job) cancel(planning.job).catch(() => {});
  }

  async #look() {
    this.#stopPlanning();
    const mine = (this.planning = { since: Date.now(), message: "Asking the source", job: "", stop: new AbortController() });
    this.plan = this.problem = null;
    remember("download.source", this.source);
    this.update();
    try {
      const plan = await run(
        { ModelDownload: { ...this.request(), dry_run: true } },
        {
          signal: mine.stop.signal,
          onJob: (job) => (mine.job = job),
          onMessage: (message) => {
            mine.message = message;
            this.update();
          },
        },
      );
      if (this.planning === mine) this.plan = plan;
    } catch (error) {
      if (this.planning === mine) this.problem = Problem.of(error);
    }
    if (this.planning === mine) this.planning = null;
    this.update();
  }

  async #download() {
    close(this);
    await act({ ModelDownload: this.request() });
  }

  draw() {
    const { plan, planning, problem } = this;
    const changed = () => {
      this.plan = this.problem = null;
      this.#stopPlanning();
      this.update();
    };
    const source = h("input", {
      id: "dl-source",
      class: "mono",
      ".value": this.source,
      autocomplete: "off",
      spellcheck: "false",
      required: true,
      autofocus: true,
      placeholder: "https://…/model.gguf",
      oninput: (/** @type {any} */ event) => {
        this.source = event.target.value;
        changed();
      },
    });
    const ready = plan && !plan.already_present && (plan.fits || this.force);
    return h(
      "form",
      {
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          if (ready) this.#download();
          else this.#look();
        },
      },
      head(this, "Download a model"),
      field("Where from", source, ["An https URL of a .gguf file, or a file of the hive's own machine: ", h("code", null, "file:/path/model.gguf"), "."]),
      h(
        "details",
        null,
        h("summary", null, "Options"),
        field("Revision", h("input", { id: "dl-revision", ".value": this.revision, placeholder: "main", autocomplete: "off", spellcheck: "false", oninput: (/** @type {any} */ event) => ((this.revision = event.target.value), changed()) }), "For sources that have revisions."),
        h("label", { class: "check" }, h("input", { type: "checkbox", ".checked": this.force, onchange: (/** @type {any} */ event) => ((this.force = event.target.checked), changed()) }), "Replace a model of the same name that the hive put there"),
      ),
      planning ? waiting(planning.message, planning.since, button("Stop", () => (this.#stopPlanning(), this.update()), { class: "small" })) : null,
      problem ? failureBox(problem) : null,
      plan ? planned(plan) : null,
      h(
        "div",
        { class: "actions end" },
        button("Close", () => close(this)),
        plan && ready
          ? h("button", { type: "submit", class: "primary" }, icon("download"), h("span", null, plan.transfer_bytes === 0 ? "Add it" : `Download ${bytes(plan.transfer_bytes)}`))
          : h("button", { type: "submit", class: "primary", disabled: !this.source.trim() || planning !== null }, h("span", null, plan ? "Look again" : "Show the plan")),
      ),
    );
  }
}

/** @param {import("../lib/types.js").Plan} plan */
function planned(plan) {
  const disk = hive.telemetry?.system;
  const need = plan.transfer_bytes ?? 0;
  const total = disk?.disk_total_bytes ?? plan.free_bytes;
  const used = Math.max(0, total - plan.free_bytes);
  return h(
    "section",
    { class: "plan", "aria-label": "The plan" },
    h("h3", null, plan.already_present ? "It is here already" : plan.fits ? "This would be done" : "It does not fit"),
    factList([
      ["Model", plan.model],
      ["From", h("span", { class: "mono" }, plan.source)],
      ["Files", h("ul", { class: "plain" }, ...plan.files.map((file) => h("li", null, h("span", { class: "mono" }, file.name), h("span", { class: "muted num" }, ` ${bytes(file.size_bytes)}`))))],
      ["To transfer", plan.transfer_bytes === 0 ? "nothing: the file is linked or here" : bytes(plan.transfer_bytes)],
      ["Disk", `${bytes(plan.free_bytes)} free${need ? `, ${bytes(Math.max(0, plan.free_bytes - need))} after it` : ""}`],
    ]),
    need ? stack([{ size: used, kind: "used" }, { size: need, kind: plan.fits ? "new" : "over" }], total, `Of ${bytes(total)} disk, ${bytes(used)} are used and ${bytes(need)} would be added`) : null,
  );
}

class LoadDialog extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["telemetry"];
  /** @type {Model} */
  model = /** @type {any} */ (null);
  device = "auto";
  context = "";
  force = false;
  /** @type {Array<[string, string]>} */
  devices = [["auto", "Automatic"]];

  start() {
    deviceChoices().then((devices) => {
      this.devices = devices;
      this.update();
    }, () => {});
  }

  async #load() {
    close(this);
    const context = Number.parseInt(this.context, 10);
    await act({
      ModelLoad: {
        id: this.model.id,
        device: this.device,
        ...(this.force ? { force: true } : {}),
        ...(context > 0 ? { context_length: context } : {}),
      },
    });
  }

  draw() {
    const { model } = this;
    return h(
      "form",
      { onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), this.#load()) },
      head(this, `Load ${model.name}`),
      field("Device", h("select", { id: "load-device", ".value": this.device, onchange: (/** @type {any} */ event) => ((this.device = event.target.value), this.update()) }, ...this.devices.map(([value, label]) => h("option", { value, selected: value === this.device }, label)))),
      field(
        "Context in tokens",
        h("input", { id: "load-context", type: "number", min: 1, step: 1, inputmode: "numeric", ".value": this.context, placeholder: model.context_length ? String(model.context_length) : "the model's own", oninput: (/** @type {any} */ event) => (this.context = event.target.value) }),
        "Less context takes less memory.",
      ),
      memory(model),
      h("label", { class: "check" }, h("input", { type: "checkbox", ".checked": this.force, onchange: (/** @type {any} */ event) => ((this.force = event.target.checked), this.update()) }), "Load it even where it does not seem to fit"),
      h("div", { class: "actions end" }, button("Close", () => close(this)), h("button", { type: "submit", class: "primary" }, icon("play"), h("span", null, "Load"))),
    );
  }
}

/** The one thing that is known before loading: the weights. The hive may refuse or narrate more.
 * @param {Model} model */
function memory(model) {
  const system = hive.telemetry?.system;
  if (!system) return null;
  const free = Math.max(0, system.ram_total_bytes - system.ram_used_bytes);
  const fits = model.size_bytes < free;
  const text = `The weights take ${bytes(model.size_bytes)}; ${bytes(free)} of ${bytes(system.ram_total_bytes)} main memory are free.`;
  return h(
    "div",
    { class: "field" },
    h("p", { class: "label" }, "Memory"),
    stack([{ size: system.ram_used_bytes, kind: "used" }, { size: model.size_bytes, kind: fits ? "new" : "over" }], system.ram_total_bytes, text),
    h("p", { class: "help" }, text, " Context and buffers come on top."),
  );
}

/** Devices by the names that operations take. @returns {Promise<Array<[string, string]>>} */
async function deviceChoices() {
  const { devices, engines } = await capabilities();
  const kinds = new Set(engines.flatMap((engine) => engine.devices));
  /** @type {Array<[string, string]>} */
  const choices = [["auto", "Automatic"]];
  for (const device of devices) {
    if (device.device_type === "cpu") choices.push(["cpu", `CPU: ${device.name}`]);
    // A GPU that no engine can use is no choice.
    else if ([...kinds].some((kind) => kind !== "cpu")) choices.push([device.id.replace(/^\D+/, ""), `${device.id}: ${device.name}`]);
  }
  return choices;
}

class SpawnDialog extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["models"];
  model = "";
  worker = "cpu";
  context = "";
  slots = "";
  /** @type {Array<[string, string]>} */
  kinds = [["cpu", "cpu"]];

  start() {
    capabilities().then(({ engines }) => {
      const kinds = [...new Set(engines.flatMap((engine) => engine.devices))].map((kind) => /** @type {[string, string]} */ ([kind, `Any engine on ${kind}`]));
      this.kinds = [...kinds, ...engines.map((engine) => /** @type {[string, string]} */ ([engine.name, `${engine.name}: ${engine.about}`]))];
      this.worker = this.kinds[0]?.[0] ?? "cpu";
      this.update();
    }, () => {});
  }

  async #spawn(/** @type {string} */ model) {
    close(this);
    const [context, slots] = [Number.parseInt(this.context, 10), Number.parseInt(this.slots, 10)];
    await act({ WorkerSpawn: { model, worker: this.worker, ...(context > 0 ? { context_length: context } : {}), ...(slots > 0 ? { slots } : {}) } });
  }

  draw() {
    const models = [...hive.models.values()].filter((model) => model.status === "available");
    const chosen = this.model || models[0]?.id || "";
    return h(
      "form",
      { onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), chosen && this.#spawn(chosen)) },
      head(this, "Start a worker"),
      h("p", { class: "muted" }, "Loading a model finds or starts one worker. Starting a worker here always adds another, for more requests at once."),
      field("Model", h("select", { id: "spawn-model", ".value": chosen, onchange: (/** @type {any} */ event) => (this.model = event.target.value) }, ...models.map((model) => h("option", { value: model.id, selected: model.id === chosen }, `${model.id} (${bytes(model.size_bytes)})`)))),
      field("Engine", h("select", { id: "spawn-engine", ".value": this.worker, onchange: (/** @type {any} */ event) => (this.worker = event.target.value) }, ...this.kinds.map(([value, label]) => h("option", { value, selected: value === this.worker }, label)))),
      h(
        "div",
        { class: "two" },
        field("Context in tokens", h("input", { id: "spawn-context", type: "number", min: 1, ".value": this.context, placeholder: "the model's own", oninput: (/** @type {any} */ event) => (this.context = event.target.value) })),
        field("Slots", h("input", { id: "spawn-slots", type: "number", min: 1, ".value": this.slots, placeholder: "the engine's own", oninput: (/** @type {any} */ event) => (this.slots = event.target.value) }), "Requests answered at once."),
      ),
      h("div", { class: "actions end" }, button("Close", () => close(this)), h("button", { type: "submit", class: "primary", disabled: !chosen }, icon("play"), h("span", null, "Start"))),
    );
  }
}

class DeleteDialog extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["workers"];
  /** @type {Model} */
  model = /** @type {any} */ (null);
  force = false;

  async #delete() {
    close(this);
    await act({ ModelDelete: { id: this.model.id, ...(this.force ? { force: true } : {}) } });
  }

  draw() {
    const { model } = this;
    const workers = hive.workersOf(model.id);
    return h(
      "form",
      { onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), this.#delete()) },
      head(this, `Delete ${model.name}?`),
      factList([
        ["Files", h("span", { class: "mono" }, model.path)],
        ["They take", bytes(model.size_bytes)],
        ["Served by", workers.length ? `${count(workers.length)} worker(s): pid ${workers.map((worker) => worker.pid).join(", ")}` : "no worker"],
      ]),
      h("p", { class: "muted" }, "The job says how much came free: a file that was linked from elsewhere frees nothing until its other name is gone too."),
      h("label", { class: "check" }, h("input", { type: "checkbox", ".checked": this.force, onchange: (/** @type {any} */ event) => ((this.force = event.target.checked), this.update()) }), "Stop its workers first, and delete the file even where the hive did not put it there"),
      workers.length && !this.force ? h("p", { class: "field-error" }, icon("alert"), "While a worker serves it the hive will refuse; unload it, or tick the box.") : null,
      h("div", { class: "actions end" }, button("Keep it", () => close(this), { autofocus: true }), h("button", { type: "submit", class: "danger" }, icon("trash"), h("span", null, "Delete"))),
    );
  }
}

customElements.define("download-dialog", DownloadDialog);
customElements.define("load-dialog", LoadDialog);
customElements.define("spawn-dialog", SpawnDialog);
customElements.define("delete-dialog", DeleteDialog);

export function openDownload(source = "") {
  const view = new DownloadDialog();
  if (source) view.source = source;
  open(view, "Download a model");
}

/** @param {Model} model */
export function openLoad(model) {
  const view = new LoadDialog();
  view.model = model;
  open(view, `Load ${model.name}`);
}

/** @param {string} [model] */
export function openSpawn(model = "") {
  const view = new SpawnDialog();
  view.model = model;
  open(view, "Start a worker");
}

/** @param {Model} model */
export function openDelete(model) {
  const view = new DeleteDialog();
  view.model = model;
  open(view, `Delete ${model.name}`);
}
