// In what the settings of a model differ between the hives that have it. They are read while somebody looks
// at that model.

import { run } from "./api.js";
import { hive } from "./hive.js";
import { differences } from "./model-settings.js";

/** @typedef {import("./types.js").ModelSettings} ModelSettings */

/** The model and the hives that were asked last. */
let asked = "";
/** What counts for that model, by hive. @type {Map<string, ModelSettings>} */
let known = new Map();

/** In what the settings of a model in a place differ from those in its first place, in words; empty where
 * that is not known yet. @param {import("./places.js").Row} row @param {import("./places.js").Place} place */
export function otherSettings({ id, places }, place) {
  if (places.length === 1) return "";
  read(id, [id, ...places.map((each) => each.hive)].join(" "));
  const [there, here] = [known.get(place.hive), known.get(places[0].hive)];
  return there && here ? differences(there, here, places[0].hive) : "";
}

/** @param {string} id @param {string} about */
async function read(id, about) {
  if (about === asked) return;
  asked = about;
  known = new Map();
  // Where a hive does not answer, nothing is said of it.
  const answer = await run({ ModelSettingsGet: { id, hive_id: "all" } }).catch(() => ({ hives: {} }));
  if (about !== asked) return;
  for (const [name, { result }] of Object.entries(/** @type {Record<string, any>} */ (answer.hives)))
    if (result) known.set(name, result);
  hive.changed("others");
}

/** What was read counts no more: settings have changed. */
export function forgetSettings() {
  asked = "";
  hive.changed("others");
}

hive.addEventListener("ended", (event) => {
  const { operation } = /** @type {CustomEvent<import("./types.js").Job>} */ (event).detail;
  if (operation === "model_settings_set") forgetSettings();
});
