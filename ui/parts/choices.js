// The devices and the engines to choose from, by the names that operations and settings accept.

import { capabilities } from "../lib/api.js";

/** @typedef {import("./fields.js").Choices} Choices */

/** A choice of a list. @param {string} value @param {string} label */
export const choice = (value, label) => /** @type {const} */ ([value, label]);

/** The devices that an engine can use; GPUs are counted. @returns {Promise<Choices>} */
export async function deviceChoices() {
  const { devices, engines } = await capabilities();
  const usesGpus = engines.some((engine) => engine.devices.some((kind) => kind !== "cpu"));
  return devices.flatMap(({ id, name, device_type }) => {
    if (device_type === "cpu") return [choice("cpu", `CPU: ${name}`)];
    return usesGpus ? [choice(id.replace(/^\D+/, ""), `${id}: ${name}`)] : [];
  });
}

/** Every kind of device, and every engine. @returns {Promise<Choices>} */
export async function engineChoices() {
  const { engines } = await capabilities();
  const kinds = new Set(engines.flatMap((engine) => engine.devices));
  return [
    ...[...kinds].map((kind) => choice(kind, `Any engine on ${kind}`)),
    ...engines.map(({ name, about }) => choice(name, [name, about].filter(Boolean).join(": "))),
  ];
}
