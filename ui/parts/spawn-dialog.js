// The dialog that starts another worker.

import { capabilities } from "../lib/api.js";
import { h, icon } from "../lib/dom.js";
import { bytes } from "../lib/format.js";
import { doubtNote, hive } from "../lib/hive.js";
import { View } from "../lib/view.js";
import { choice, engineChoices } from "./choices.js";
import { closeDialog, dialogHead, openDialog } from "./dialog.js";
import { field, onSubmit, onValue, select } from "./fields.js";
import { button } from "./parts.js";
import { act } from "./toasts.js";

const AUTOMATIC = choice("auto", "Automatic: the GPU with the most free memory");

class SpawnDialog extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["models"];
  model = "";
  worker = "cpu";
  device = "auto";
  context = "";
  slots = "";
  /** @type {import("./fields.js").Choices} */
  kinds = [choice("cpu", "cpu")];
  /** The kinds of devices that each engine uses. @type {Map<string, string[]>} */
  engines = new Map();

  start() {
    Promise.all([capabilities(), engineChoices("")]).then(
      ([{ engines }, kinds]) => {
        this.kinds = kinds;
        this.engines = new Map(engines.map((engine) => [engine.name, engine.devices]));
        this.worker = kinds[0]?.[0] ?? "cpu";
        this.update();
      },
      () => {},
    );
  }

  async #spawn(/** @type {string} */ model) {
    closeDialog(this);
    const [context, slots] = [Number.parseInt(this.context, 10), Number.parseInt(this.slots, 10)];
    const device = this.#devices().some(([value]) => value === this.device) ? { device: this.device } : {};
    await act({
      WorkerSpawn: {
        model,
        worker: this.worker,
        ...device,
        ...(context > 0 ? { context_length: context } : {}),
        ...(slots > 0 ? { slots } : {}),
      },
    });
  }

  /** The GPUs that the chosen engine can use. */
  #devices() {
    const kinds = this.engines.get(this.worker) ?? [this.worker];
    return (hive.telemetry?.system.gpus ?? [])
      .filter(({ id }) => kinds.includes(id.split(":")[0]))
      .map(({ id, name }) => choice(id, `${id}: ${name}`));
  }

  draw() {
    const devices = this.#devices();
    const models = hive
      .loadableModels()
      .map((model) => choice(model.id, `${model.id} (${bytes(model.size_bytes)}${doubtNote(model)})`));
    const chosen = this.model || models[0]?.[0] || "";
    return h(
      "form",
      { onsubmit: onSubmit(() => chosen && this.#spawn(chosen)) },
      dialogHead(this, "Start a worker"),
      h(
        "p",
        { class: "muted" },
        "Loading a model uses a running worker or starts one. Here you always start another one, to serve ",
        "more requests at once.",
      ),
      field(
        "Model",
        select({ id: "spawn-model", autofocus: true }, models, chosen, (value) => (this.model = value)),
      ),
      field(
        "Engine",
        select({ id: "spawn-engine" }, this.kinds, this.worker, (worker) => {
          this.worker = worker;
          this.update();
        }),
      ),
      devices.length > 1
        ? field(
            "Device",
            select({ id: "spawn-device" }, [AUTOMATIC, ...devices], this.device, (device) => {
              this.device = device;
            }),
          )
        : null,
      h(
        "div",
        { class: "two" },
        field(
          "Context in tokens",
          h("input", {
            id: "spawn-context",
            type: "number",
            min: 1,
            ".value": this.context,
            placeholder: "the model's default",
            oninput: onValue((value) => (this.context = value)),
          }),
        ),
        field(
          "Slots",
          h("input", {
            id: "spawn-slots",
            type: "number",
            min: 1,
            ".value": this.slots,
            placeholder: "the engine's default",
            oninput: onValue((value) => (this.slots = value)),
          }),
          "Requests served at the same time.",
        ),
      ),
      h(
        "div",
        { class: "actions end" },
        button("Close", () => closeDialog(this)),
        h(
          "button",
          { type: "submit", class: "primary", disabled: !chosen },
          icon("play"),
          h("span", null, "Start"),
        ),
      ),
    );
  }
}

customElements.define("spawn-dialog", SpawnDialog);

/** @param {string} [model] */
export function openSpawn(model = "") {
  const view = new SpawnDialog();
  view.model = model;
  openDialog(view, "Start a worker");
}
