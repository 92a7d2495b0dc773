// Controls of forms and filters.

import { h } from "../lib/dom.js";

/** @typedef {import("../lib/dom.js").Child} Child */
/** @typedef {ReadonlyArray<readonly [value: string, label: string]>} Choices */

/** A control with its label above and help below. @param {string} label @param {HTMLElement} control
 * @param {Child} [help] */
export function field(label, control, help) {
  const id = control.id;
  if (help) control.setAttribute("aria-describedby", `${id}-help`);
  return h(
    "div",
    { class: "field" },
    h("label", { for: id }, label),
    control,
    help ? h("p", { class: "help", id: `${id}-help` }, help) : null,
  );
}

/** A checkbox with its label. @param {string} label @param {boolean} checked
 * @param {(checked: boolean) => void} set */
export function tick(label, checked, set) {
  return h(
    "label",
    { class: "check" },
    h("input", {
      type: "checkbox",
      ".checked": checked,
      onchange: (/** @type {any} */ event) => set(event.target.checked),
    }),
    h("span", null, label),
  );
}

/** A submit handler that calls a function instead of sending the form. @param {() => void} then */
export const onSubmit = (then) => (/** @type {Event} */ event) => {
  event.preventDefault();
  then();
};

/** A handler of typed or selected values. @param {(value: string) => void} set */
export const onValue = (set) => (/** @type {any} */ event) => set(event.target.value);

/** A list to choose from. @param {Record<string, any>} props
 * @param {Choices} choices @param {string} chosen @param {(value: string) => void} set */
export const select = (props, choices, chosen, set) =>
  h(
    "select",
    { ...props, ".value": chosen, onchange: onValue(set) },
    ...choices.map(([value, label]) => h("option", { value, selected: value === chosen }, label)),
  );
