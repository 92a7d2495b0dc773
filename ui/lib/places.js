// The models of the fleet as one list: where each of them is, and where it is loaded.

import { bytes } from "./format.js";
import { others } from "./fleet.js";
import { hive, isAlive, isServing } from "./hive.js";
import { isPartial } from "./sources.js";

/** @typedef {import("./types.js").Model} Model */
/** @typedef {import("./types.js").Worker} Worker */
/** A model on one hive. `hive` is empty where it stands alone; `differs` says what is not as in the list.
 * @typedef {{hive: string, isHere: boolean, model: Model, workers: Worker[], differs: string}} Place */
/** A model, with the places where it is: this hive first.
 * @typedef {{id: string, model: Model, places: Place[]}} Row */

/** Every model of this hive and of the others, without partials. @returns {Row[]} */
export function rows() {
  /** @type {Map<string, Row>} */
  const byId = new Map();
  for (const model of hive.models.values()) if (!isPartial(model)) byId.set(model.id, rowHere(model));
  for (const [name, { models, workers }] of others.lists) {
    for (const model of models.values()) {
      if (isPartial(model)) continue;
      const row = byId.get(model.id) ?? { id: model.id, model, places: [] };
      byId.set(model.id, row);
      row.places.push({
        hive: name,
        isHere: false,
        model,
        workers: workers.filter(
          (worker) => isAlive(worker) && hive.modelOf(worker.model, models) === model.id,
        ),
        differs: difference(model, row.model),
      });
    }
  }
  return [...byId.values()];
}

/** A model of that id, wherever it is; undefined where no hive that answers has it. @param {string} id */
export const rowOf = (id) => rows().find((row) => row.id === id);

/** @param {Model} model @returns {Row} */
function rowHere(model) {
  const workers = hive.workersOf(model.id);
  const here = { hive: hive.fleet?.hive ?? "", isHere: true, model, workers, differs: "" };
  return { id: model.id, model, places: [here] };
}

/** How a model differs from one of the same id. @param {Model} model @param {Model} from */
function difference(model, from) {
  if (model.size_bytes !== from.size_bytes) return `another file: ${bytes(model.size_bytes)}`;
  return model.sha256 && from.sha256 && model.sha256 !== from.sha256 ? "another file of the same size" : "";
}

/** The state of a model in one place. @param {Place} place */
export function stateAt({ model, workers }) {
  if (workers.some(isServing)) return "loaded";
  return workers.length ? workers[0].status : model.status;
}

/** The state of a model: loaded where it is loaded anywhere, else as in its first place. @param {Row} row */
export function stateOf({ places }) {
  const states = places.map(stateAt);
  return states.includes("loaded") ? "loaded" : states[0];
}
