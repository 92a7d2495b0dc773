// Where a model is, and what can be done with it there.

import { h } from "../lib/dom.js";
import { others, to } from "../lib/fleet.js";
import { hive, isLoadable } from "../lib/hive.js";
import { otherSettings } from "../lib/other-settings.js";
import { stateAt } from "../lib/places.js";
import { link } from "../lib/view.js";
import { choice } from "./choices.js";
import { openDelete } from "./delete-dialog.js";
import { field, select } from "./fields.js";
import { openLoad } from "./load-dialog.js";
import { allowed, button, chip } from "./parts.js";
import { openSettings } from "./settings-dialog.js";
import { act } from "./toasts.js";

/** @typedef {import("../lib/places.js").Row} Row */
/** @typedef {import("../lib/places.js").Place} Place */

/** Whether the hive is one of several. */
export const isOfMany = () => hive.otherHives().length > 0;

/** Which hives did not tell what they have. @param {"models"|"workers"} what */
export function silence(what) {
  const { failures, problem } = others;
  if (!isOfMany() || (failures.size === 0 && !problem)) return null;
  const whose = problem ? "other hives" : [...failures.keys()].join(", ");
  const why = problem ? problem.message : [...failures.values()].join("; ");
  return h("p", { class: "muted" }, `The list lacks the ${what} of ${whose}: ${why}.`);
}

/** @param {Place} place */
export const devices = ({ workers }) =>
  workers.length
    ? workers.map((worker) =>
        h("a", { href: link("workers", worker.pid), key: worker.worker_id, class: "on" }, worker.device),
      )
    : "–";

/** A hive that has a model, on which devices it is loaded there, and whether it is another file.
 * @param {Place} place */
export function placeChip(place) {
  const { hive: name, workers, differs } = place;
  const words = [name, ...workers.map(({ device }) => device), ...(differs ? ["differs"] : [])];
  const state = stateAt(place);
  const title = [`${state} on ${name}`, differs].filter(Boolean).join("; ");
  return h("li", { key: name, title }, chip(state, words.join(" · ")));
}

/** Where a model is, with what can be done with it there. @param {Row} row */
export function placeList(row) {
  const { id, model, places } = row;
  return h(
    "section",
    { "aria-labelledby": "places-title" },
    h("h3", { id: "places-title" }, places.length === 1 ? "On 1 hive" : `On ${places.length} hives`),
    h(
      "ul",
      { class: "lines residents" },
      ...places.map((place) => {
        const { hive: name, isHere, model, workers, differs } = place;
        const named = (/** @type {string} */ verb) => ({
          class: "small",
          "aria-label": `${verb} ${model.name} on ${name}`,
          needs: `Model${verb}`,
        });
        const about = [
          isHere ? "this hive" : "",
          workers.map(({ device }) => device).join(", "),
          differs,
          otherSettings(row, place),
        ].filter(Boolean);
        return h(
          "li",
          { key: name },
          h("strong", { class: "grow", title: name }, name),
          chip(stateAt(place)),
          // What is done on this hive has its buttons above.
          isHere || workers.length || !isLoadable(model)
            ? null
            : button("Load", () => openLoad(model, name), named("Load")),
          isHere || !workers.length
            ? null
            : button("Unload", () => act({ ModelUnload: { id, ...to(name) } }), named("Unload")),
          isHere
            ? null
            : button("Settings", () => openSettings(model, name), { ...named("Settings"), needs: null }),
          isHere ? null : button("Delete", () => openDelete(model, place), named("Delete")),
          about.length ? h("p", { class: "muted" }, about.join(" · ")) : null,
        );
      }),
    ),
    keeping(id, model.name),
  );
}

/** On how many hives the fleet keeps a model. @param {string} id @param {string} name */
function keeping(id, name) {
  const { fleet } = hive;
  const kept = fleet?.places.find(({ model }) => model === id || model === name);
  const copies = kept?.copies ?? 0;
  const most = Math.max(copies, fleet?.hives.filter(({ end }) => !end).length ?? 0);
  const numbers = Array.from({ length: most }, (_, at) => at + 1).filter((n) => n > 1 || copies === 1);
  const label = (/** @type {number} */ n) => (n === 1 ? "On 1 hive" : `On ${n} hives`);
  const choices = [choice("0", "Wherever it is"), ...numbers.map((n) => choice(`${n}`, label(n)))];
  const props = allowed({ id: "keep-on", needs: "ModelPlace" });
  return field(
    "Keep it",
    select(props, choices, `${copies}`, (wanted) => {
      act({ ModelPlace: { model: kept?.model ?? id, copies: Number(wanted) } });
    }),
    kept ? standing(kept) : "The fleet copies it to hives with room for it, also where one of them is lost.",
  );
}

/** How a model stands that is kept on several hives.
 * @param {import("../lib/types.js").FleetPlacement} kept */
export function standing({ hives, copies, copying, lacking }) {
  const words = [`${hives.length} of ${copies} have it`];
  if (copying.length) words.push(`being copied to ${copying.map(({ hive: to }) => to).join(", ")}`);
  return [...words, lacking].filter(Boolean).join("; ");
}
