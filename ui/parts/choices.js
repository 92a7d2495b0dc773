// The devices and the engines to choose from, by the names that operations and settings accept.

import { capabilities } from "../lib/api.js";
import { to } from "../lib/fleet.js";
import { hive } from "../lib/hive.js";

/** @typedef {import("./fields.js").Choices} Choices */

/** A choice of a list. @param {string} value @param {string} label */
export const choice = (value, label) => /** @type {const} */ ([value, label]);

/** The devices that another hive of the fleet tells of, none where it is not there; null for this hive.
 * @param {string} where a hive's name, `any`, or nothing */
function devicesElsewhere(where) {
  if (!to(where).hive_id) return null;
  return (hive.otherHives().find((each) => each.hive === where)?.devices ?? []).map(({ device }) => device);
}

/** The devices that an engine of a hive can use; GPUs of this one are counted. @param {string} where the hive
 * @returns {Promise<Choices>} */
export async function deviceChoices(where) {
  const there = devicesElsewhere(where);
  if (there) return there.map((device) => choice(device, device));
  const { devices, engines } = await capabilities();
  const usesGpus = engines.some((engine) => engine.devices.some((kind) => kind !== "cpu"));
  return devices.flatMap(({ id, name, device_type }) => {
    if (device_type === "cpu") return [choice("cpu", `CPU: ${name}`)];
    return usesGpus ? [choice(id.replace(/^\D+/, ""), `${id}: ${name}`)] : [];
  });
}

/** Every kind of device of a hive, and every engine as far as it is known. @param {string} where the hive
 * @returns {Promise<Choices>} */
export async function engineChoices(where) {
  const there = devicesElsewhere(where);
  const engines = there ? [] : (await capabilities()).engines;
  const kinds =
    there?.map((device) => device.replace(/:.*$/, "")) ?? engines.flatMap((engine) => engine.devices);
  return [
    ...[...new Set(kinds)].map((kind) => choice(kind, `Any engine on ${kind}`)),
    ...engines.map(({ name, about }) => choice(name, [name, about].filter(Boolean).join(": "))),
  ];
}
