// The parameters of the chat.

import { h } from "../lib/dom.js";
import { field, onValue } from "./fields.js";

/** As they are typed.
 * @typedef {{system: string, temperature: string, top_p: string, max_tokens: string,
 *   seed: string}} Settings */

/** @type {Settings} */
export const DEFAULTS = { system: "", temperature: "", top_p: "", max_tokens: "", seed: "" };

/** @type {Array<["temperature"|"top_p"|"max_tokens"|"seed", string, string, Record<string, number>]>} */
const NUMBERS = [
  ["temperature", "Temperature", "the engine's default", { min: 0, max: 2, step: 0.1 }],
  ["top_p", "Top p", "the engine's default", { min: 0, max: 1, step: 0.05 }],
  ["max_tokens", "Maximum tokens", "no limit", { min: 1, step: 1 }],
  ["seed", "Seed", "random", { step: 1 }],
];

/** The numbers among the settings, as the request has them. @param {Settings} settings */
export function settingsOf(settings) {
  const numbers = NUMBERS.map(([name]) => /** @type {const} */ ([name, Number.parseFloat(settings[name])]));
  return Object.fromEntries(numbers.filter(([, value]) => Number.isFinite(value)));
}

/** Fields for the settings, which change in place. @param {Settings} settings @param {() => void} changed */
export function parameters(settings, changed) {
  const set = (/** @type {keyof Settings} */ name) =>
    onValue((value) => {
      settings[name] = value;
      changed();
    });
  const system = h("textarea", {
    id: "p-system",
    rows: 2,
    ".value": settings.system,
    placeholder: "None",
    oninput: set("system"),
  });
  const number = (/** @type {typeof NUMBERS[number]} */ [name, label, placeholder, limits]) => {
    const props = { id: `p-${name}`, type: "number", ".value": settings[name], placeholder, ...limits };
    return field(label, h("input", { ...props, oninput: set(name) }));
  };
  return h(
    "section",
    { class: "card parameters", "aria-label": "Parameters" },
    h("div", { class: "wide" }, field("System prompt", system)),
    ...NUMBERS.map(number),
  );
}
