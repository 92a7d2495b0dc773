// The models: the list, downloads, and the details of one model.

import { Problem } from "../lib/api.js";
import { caller } from "../lib/caller.js";
import { refreshModels } from "../lib/catalog.js";
import { h, icon, kept } from "../lib/dom.js";
import { others, refreshFleet, to } from "../lib/fleet.js";
import { bytes, count } from "../lib/format.js";
import { canChat, hive, isLoadable, isServing } from "../lib/hive.js";
import { rowOf, rows, stateAt, stateOf } from "../lib/places.js";
import { recall, remember } from "../lib/storage.js";
import { ListView, link, route } from "../lib/view.js";
import { openDelete } from "../parts/delete-dialog.js";
import { openDiagnosis } from "../parts/diagnosis-dialog.js";
import { downloadButton } from "../parts/download-dialog.js";
import { openLoad } from "../parts/load-dialog.js";
import "../parts/downloads.js";
import { engineAdvice } from "../parts/engines.js";
import { onValue, select } from "../parts/fields.js";
import { abilities, button, chip, empty, failureBox, waiting } from "../parts/parts.js";
import { devices, isOfMany, placeChip, placeList, silence } from "../parts/places.js";
import { modelFacts } from "../parts/result.js";
import { openSettings } from "../parts/settings-dialog.js";
import { act, showProblem } from "../parts/toasts.js";

/** @typedef {import("../lib/types.js").Model} Model */
/** @typedef {import("../lib/places.js").Row} Row */

/** @type {Array<{key: string, label: string, value: (row: Row) => string|number}>} */
const COLUMNS = [
  { key: "name", label: "Name", value: ({ id }) => id.toLowerCase() },
  { key: "size", label: "Size", value: ({ model }) => model.size_bytes },
  { key: "quantization", label: "Quant.", value: ({ model }) => model.quantization ?? "" },
  { key: "parameters", label: "Params", value: ({ model }) => model.parameter_count ?? 0 },
  { key: "context", label: "Context", value: ({ model }) => model.context_length ?? 0 },
  { key: "state", label: "State", value: stateOf },
];
const NUMBERS = new Set(["size", "parameters", "context"]);

class Models extends ListView {
  static list = "models";
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["models", "workers", "others", "fleet", "connection"];
  sort = recall("models.sort", { key: "name", down: false });
  refreshing = 0;

  start() {
    addEventListener("hashchange", () => this.update(), { signal: this.life.signal });
    others.watch(this.life.signal);
    // No event tells what other hives are to keep.
    if (hive.fleet) refreshFleet();
    this.#refresh();
  }

  /** Reads the disk again, because files can change without the hive. @param {boolean} [showsProblem] */
  async #refresh(showsProblem = false) {
    if (this.refreshing) return;
    this.refreshing = Date.now();
    try {
      await refreshModels();
    } catch (error) {
      if (showsProblem && !this.life.signal.aborted) showProblem(error);
    }
    this.refreshing = 0;
    this.update();
  }

  draw() {
    const { id } = route();
    const all = rows();
    const words = this.filter.toLowerCase().split(/\s+/).filter(Boolean);
    const column = COLUMNS.find(({ key }) => key === this.sort.key) ?? COLUMNS[0];
    const shown = all
      .filter((row) => words.every((word) => textOf(row).includes(word)))
      .filter((row) => this.state === "all" || stateOf(row) === this.state)
      .sort((a, b) => compare(column.value(a), column.value(b)) * (this.sort.down ? -1 : 1));
    // The chosen state stays an option when no model has it any more.
    const others = [...new Set([...all.map(stateOf), this.state])].filter((state) => state !== "all").sort();
    /** @type {import("../parts/fields.js").Choices} */
    const states = [["all", "Any state"], ...others.map((state) => /** @type {const} */ ([state, state]))];
    return [
      h(
        "div",
        { class: "page-head" },
        h("h1", null, "Models"),
        h(
          "p",
          { class: "muted num" },
          hive.hasSnapshot
            ? `${all.length} · ${bytes(all.flatMap(sizes).reduce((sum, size) => sum + size, 0))}`
            : "\u00a0",
        ),
        h(
          "div",
          { class: "actions" },
          button("Refresh", () => this.#refresh(true), { disabled: this.refreshing > 0 }, icon("again")),
          downloadButton(),
        ),
      ),
      h("model-downloads", null),
      silence("models"),
      h(
        "div",
        { class: `split${id ? " with-panel" : ""}` },
        h(
          "div",
          { class: "list" },
          all.length
            ? h(
                "div",
                { class: "filters" },
                h("input", {
                  type: "search",
                  "aria-label": "Filter models",
                  placeholder: "Filter by name, quantization, source",
                  ".value": this.filter,
                  oninput: onValue((filter) => this.narrow({ filter })),
                }),
                select({ "aria-label": "State" }, states, this.state, (state) => this.narrow({ state })),
              )
            : null,
          this.#table(shown, all.length, id),
        ),
        id ? this.#panel(id) : null,
      ),
    ];
  }

  /** @param {Row[]} shown @param {number} all @param {string} chosen */
  #table(shown, all, chosen) {
    if (!hive.hasSnapshot) return waiting("Waiting for the hive's list of models", hive.connection.since);
    if (all === 0) {
      return empty(
        "No models yet",
        [
          "The hive lists the GGUF files that it has downloaded, those in its model folders (",
          h("code", null, "--models-dir"),
          ") and those in the Hugging Face cache.",
        ],
        downloadButton(),
      );
    }
    if (shown.length === 0)
      return empty(
        "Nothing matches",
        `None of ${all} models match the filter.`,
        button("Clear the filter", () => this.narrow({ filter: "", state: "all" })),
      );
    return h(
      "table",
      { class: "grid-table stacked", "aria-label": "Models" },
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          ...COLUMNS.map(({ key, label }) => {
            const sorted = this.sort.key === key;
            return h(
              "th",
              {
                scope: "col",
                class: NUMBERS.has(key) ? "num" : "",
                "aria-sort": sorted ? (this.sort.down ? "descending" : "ascending") : null,
              },
              h(
                "button",
                { type: "button", class: "sort", onclick: () => this.#sortBy(key) },
                label,
                sorted
                  ? h("span", { class: "sort-mark", "aria-hidden": "true" }, this.sort.down ? "↓" : "↑")
                  : null,
              ),
            );
          }),
          h("th", { scope: "col" }, isOfMany() ? "Where" : "Device"),
          h("th", { scope: "col" }, h("span", { class: "visually-hidden" }, "Actions")),
        ),
      ),
      h("tbody", null, ...shown.map((row) => keptRow(row, row.id === chosen))),
    );
  }

  /** @param {string} key */
  #sortBy(key) {
    this.sort = { key, down: this.sort.key === key && !this.sort.down };
    remember("models.sort", this.sort);
    this.update();
  }

  /** @param {string} id */
  #panel(id) {
    const row = rowOf(id);
    // One whose download is under way is in no list.
    const model = hive.models.get(id) ?? row?.model;
    const isHere = hive.models.has(id);
    const head = (/** @type {string} */ name) =>
      h(
        "div",
        { class: "card-head" },
        h("h2", null, name),
        h(
          "a",
          { class: "button quiet icon", href: "#/models", "aria-label": "Close the details" },
          icon("close"),
        ),
      );
    if (!hive.hasSnapshot)
      return h(
        "aside",
        { class: "card panel" },
        waiting("Waiting for the hive's list of models", hive.connection.since),
      );
    if (!model && isOfMany() && !others.isKnown)
      return h("aside", { class: "card panel" }, waiting("Asking the other hives", hive.connection.since));
    if (!model) {
      const missing = new Problem({
        code: "model_not_found",
        message: `No model has the id ${id}`,
        hint: `it was deleted, or its file is gone; the list shows the models of ${
          isOfMany() ? "the fleet" : "this machine"
        }`,
      });
      return h(
        "aside",
        { class: "card panel", "aria-label": "Details" },
        head("Not found"),
        failureBox(missing),
      );
    }
    const workers = hive.workersOf(id);
    return h(
      "aside",
      { class: "card panel", "aria-label": `Details of ${model.name}` },
      head(model.name),
      h(
        "div",
        { class: "actions" },
        isAnswered(id) && canChat(model) && (isLoadable(model) || workers.some(isServing))
          ? h("a", { class: "button primary", href: link("chat", id) }, icon("chat"), h("span", null, "Chat"))
          : null,
        workers.length === 0 && isLoadable(model)
          ? button("Load", () => openLoad(model), { needs: "ModelLoad" }, icon("play"))
          : null,
        workers.length
          ? button("Unload", () => act({ ModelUnload: { id } }), { needs: "ModelUnload" }, icon("stop"))
          : null,
        workers.some(isServing)
          ? button("Why is it slow?", () => openDiagnosis(id), {}, icon("gauge"))
          : null,
        isHere ? button("Settings", () => openSettings(model), {}, icon("gear")) : null,
        isHere ? button("Delete", () => openDelete(model), { needs: "ModelDelete" }, icon("trash")) : null,
      ),
      isHere && isLoadable(model) ? engineAdvice(model.engine_advice, model.name) : null,
      row && isOfMany() ? placeList(row) : null,
      modelFacts(model, row ? stateOf(row) : model.status),
      workers.length
        ? h(
            "section",
            null,
            h("h3", null, "Served by"),
            h(
              "ul",
              { class: "lines" },
              ...workers.map((worker) =>
                h(
                  "li",
                  { key: worker.worker_id },
                  h("a", { class: "grow", href: link("workers", worker.pid) }, `Worker ${worker.pid}`),
                  h(
                    "span",
                    { class: "muted num" },
                    [worker.device, worker.rss_bytes ? bytes(worker.rss_bytes) : ""]
                      .filter(Boolean)
                      .join(" · "),
                  ),
                  chip(worker.status),
                ),
              ),
            ),
          )
        : null,
    );
  }
}

/** All that a filter finds a model by. @param {Row} row */
function textOf({ model, places }) {
  const { id, quantization, architecture, source, capabilities } = model;
  const words = [id, quantization, architecture, source, ...(capabilities ?? [])];
  return [...words, ...places.map((place) => place.hive)].join(" ").toLowerCase();
}

/** @param {Row} row */
const sizes = ({ places }) => places.map(({ model }) => model.size_bytes);

/** Whether requests for a model are answered by this hive: it has it, or passes them on.
 * @param {string} id */
const isAnswered = (id) => hive.models.has(id) || (others.served.get(id)?.length ?? 0) > 0;

/** @param {Row} row @param {boolean} chosen */
function tableRow(row, chosen) {
  const { model } = row;
  const state = stateOf(row);
  return h(
    "tr",
    { class: chosen ? "chosen" : "" },
    h(
      "th",
      { scope: "row" },
      h("a", { href: link("models", model.id) }, model.id),
      abilities(model.capabilities),
      model.engines?.length === 0
        ? h("p", { class: "muted small-text", title: model.engines_detail ?? null }, needs(model))
        : null,
    ),
    h("td", { class: "num", "data-label": "Size" }, bytes(model.size_bytes)),
    h("td", { "data-label": "Quant." }, model.quantization ?? "–"),
    h("td", { class: "num", "data-label": "Params" }, count(model.parameter_count)),
    h("td", { class: "num", "data-label": "Context" }, count(model.context_length)),
    h("td", { "data-label": "State" }, h("span", { title: model.status_detail ?? null }, chip(state))),
    isOfMany()
      ? h("td", { "data-label": "Where" }, h("ul", { class: "places" }, ...row.places.map(placeChip)))
      : h("td", { "data-label": "Device" }, devices(row.places[0])),
    h("td", { class: "row-actions" }, rowActions(row)),
  );
}

/** The row, made only when something in it has changed: lists may be long.
 * @param {Row} row @param {boolean} chosen */
function keptRow(row, chosen) {
  const told = row.places.map((place) => {
    const { hive, workers, differs } = place;
    return [hive, stateAt(place), differs, ...workers.map(({ pid, device }) => `${pid} ${device}`)].join();
  });
  const shows = [row.model, chosen, told.join("; "), isOfMany(), isAnswered(row.id), caller.card];
  return kept(row.id, shows, () => tableRow(row, chosen));
}

/** What a model needs that no engine here runs. @param {Model} model */
const needs = ({ engine_advice: advice }) =>
  advice ? "Needs llama-server, which can be installed" : "No engine here runs it";

/** @param {Row} row */
function rowActions(row) {
  const { id, model, places } = row;
  const named = (/** @type {string} */ verb) => ({
    class: "small",
    "aria-label": `${verb} ${model.name}`,
    needs: `Model${verb}`,
  });
  const chat = { class: "button small", href: link("chat", id), "aria-label": `Chat with ${model.name}` };
  const asks = isAnswered(id) && canChat(model) ? h("a", chat, "Chat") : null;
  // What is here is meant first; of others only what is loaded on one of them alone.
  const loaded = places.filter((place) => stateAt(place) === "loaded");
  const meant = places[0].isHere ? places[0] : loaded.length === 1 ? loaded[0] : null;
  if (meant && stateAt(meant) === "loaded") {
    const unload = () => act({ ModelUnload: { id, ...to(meant.hive) } });
    return [asks, button("Unload", unload, named("Unload"))];
  }
  if (isLoadable(model)) {
    const starts = Boolean(meant?.workers.length);
    const label = starts ? "Starting" : "Load";
    return [asks, button(label, () => openLoad(model), { ...named("Load"), disabled: starts })];
  }
  // What cannot be read, or is still being copied, may be as good as ever.
  if (model.status !== "corrupt" || !places[0].isHere) return null;
  return button("Delete", () => openDelete(model), named("Delete"));
}

/** @param {string|number} a @param {string|number} b */
const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

customElements.define("hive-models", Models);
