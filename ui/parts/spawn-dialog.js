// Starting another worker.

import { capabilities } from "../lib/api.js";
import { h, icon } from "../lib/dom.js";
import { bytes } from "../lib/format.js";
import { hive } from "../lib/hive.js";
import { View } from "../lib/view.js";
import { closeDialog, dialogHead, field, onSubmit, onValue, openDialog } from "./dialog.js";
import { button } from "./parts.js";
import { act } from "./toasts.js";

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
    closeDialog(this);
    const [context, slots] = [Number.parseInt(this.context, 10), Number.parseInt(this.slots, 10)];
    await act({ WorkerSpawn: { model, worker: this.worker, ...(context > 0 ? { context_length: context } : {}), ...(slots > 0 ? { slots } : {}) } });
  }

  draw() {
    const models = [...hive.models.values()].filter((model) => model.status === "available");
    const chosen = this.model || models[0]?.id || "";
    return h(
      "form",
      { onsubmit: onSubmit(() => chosen && this.#spawn(chosen)) },
      dialogHead(this, "Start a worker"),
      h("p", { class: "muted" }, "Loading a model finds or starts one worker. Starting a worker here always adds another, for more requests at once."),
      field("Model", h("select", { id: "spawn-model", autofocus: true, ".value": chosen, onchange: onValue((value) => (this.model = value)) }, ...models.map((model) => h("option", { value: model.id, selected: model.id === chosen }, `${model.id} (${bytes(model.size_bytes)})`)))),
      field("Engine", h("select", { id: "spawn-engine", ".value": this.worker, onchange: onValue((value) => (this.worker = value)) }, ...this.kinds.map(([value, label]) => h("option", { value, selected: value === this.worker }, label)))),
      h(
        "div",
        { class: "two" },
        field("Context in tokens", h("input", { id: "spawn-context", type: "number", min: 1, ".value": this.context, placeholder: "the model's own", oninput: onValue((value) => (this.context = value)) })),
        field("Slots", h("input", { id: "spawn-slots", type: "number", min: 1, ".value": this.slots, placeholder: "the engine's own", oninput: onValue((value) => (this.slots = value)) }), "Requests answered at once."),
      ),
      h("div", { class: "actions end" }, button("Close", () => closeDialog(this)), h("button", { type: "submit", class: "primary", disabled: !chosen }, icon("play"), h("span", null, "Start"))),
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
