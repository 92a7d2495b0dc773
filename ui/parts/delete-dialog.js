// The dialogs that delete a model and discard a partial.

import { h, icon } from "../lib/dom.js";
import { to } from "../lib/fleet.js";
import { bytes, count } from "../lib/format.js";
import { hive } from "../lib/hive.js";
import { View } from "../lib/view.js";
import { closeDialog, dialogHead, openDialog } from "./dialog.js";
import { onSubmit, tick } from "./fields.js";
import { button, factList } from "./parts.js";
import { act } from "./toasts.js";

/** @typedef {import("../lib/types.js").Model} Model */

class DeleteDialog extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["workers"];
  /** @type {Model} */
  model = /** @type {any} */ (null);
  /** Where it is, if that is another hive. @type {import("../lib/places.js").Place|null} */
  place = null;
  force = false;

  async #delete() {
    const { model, place, force } = this;
    closeDialog(this);
    await act({ ModelDelete: { id: model.id, ...(force ? { force } : {}), ...to(place?.hive ?? "") } });
  }

  draw() {
    const { model, place } = this;
    const workers = place?.workers ?? hive.workersOf(model.id);
    return h(
      "form",
      { onsubmit: onSubmit(() => this.#delete()) },
      dialogHead(this, `Delete ${model.name}?`),
      factList([
        ["Hive", place?.hive],
        ["Files", h("span", { class: "mono" }, model.path)],
        ["Size", bytes(model.size_bytes)],
        [
          "Served by",
          workers.length
            ? `${count(workers.length)} worker(s): pid ${workers.map((worker) => worker.pid).join(", ")}`
            : "no worker",
        ],
      ]),
      h(
        "p",
        { class: "muted" },
        "The job reports how much space was freed. A file that is linked from elsewhere frees none until ",
        "the other link is gone too.",
      ),
      tick(
        "Stop its workers first, and delete the file even if the hive did not download it",
        this.force,
        (checked) => ((this.force = checked), this.update()),
      ),
      workers.length && !this.force
        ? h(
            "p",
            { class: "field-error" },
            icon("alert"),
            "The hive refuses while a worker serves the model: unload it, or tick the box.",
          )
        : null,
      h(
        "div",
        { class: "actions end" },
        button("Keep it", () => closeDialog(this), { autofocus: true }),
        h("button", { type: "submit", class: "danger" }, icon("trash"), h("span", null, "Delete")),
      ),
    );
  }
}

class DiscardDialog extends View {
  /** The partials of one download: a split model has several. @type {Model[]} */
  partials = [];

  async #discard() {
    closeDialog(this);
    await Promise.all(this.partials.map(({ id }) => act({ ModelDelete: { id } })));
  }

  draw() {
    const freed = this.partials.reduce((sum, { size_bytes: size }) => sum + size, 0);
    return h(
      "form",
      { onsubmit: onSubmit(() => this.#discard()) },
      dialogHead(this, "Discard the partial download?"),
      factList([
        [
          "Partial",
          h("ul", { class: "plain" }, ...this.partials.map(({ name }) => h("li", { class: "mono" }, name))),
        ],
        ["Frees", h("span", { class: "num" }, bytes(freed))],
      ]),
      h("p", { class: "muted" }, "A new download starts from the beginning."),
      h(
        "div",
        { class: "actions end" },
        button("Keep it", () => closeDialog(this), { autofocus: true }),
        h("button", { type: "submit", class: "danger" }, icon("trash"), h("span", null, "Discard")),
      ),
    );
  }
}

customElements.define("delete-dialog", DeleteDialog);
customElements.define("discard-dialog", DiscardDialog);

/** @param {Model[]} partials */
export function openDiscard(partials) {
  const view = new DiscardDialog();
  view.partials = partials;
  openDialog(view, "Discard a partial download");
}

/** @param {Model} model @param {import("../lib/places.js").Place} [place] where it is, if not on this hive */
export function openDelete(model, place) {
  const view = new DeleteDialog();
  view.model = model;
  view.place = place ?? null;
  openDialog(view, `Delete ${model.name}`);
}
