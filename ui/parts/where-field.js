// On which hive of the fleet something is to be done.

import { hive } from "../lib/hive.js";
import { choice } from "./choices.js";
import { field, select } from "./fields.js";

/** What stands for the hive that is best for it. */
export const ANY = "any";

/** A field to choose the hive; nothing where there is no choice.
 * @param {string} id @param {string} where @param {(where: string) => void} set
 * @param {string[]} [among] the hives that can do it; without it all that can be reached */
export function whereField(id, where, set, among) {
  const { fleet } = hive;
  const reachable = hive.otherHives().filter(({ presence }) => presence === "reachable");
  const names = [fleet?.hive ?? "", ...reachable.map((each) => each.hive)];
  const meant = names.filter((name) => !among || among.includes(name));
  if (!fleet || (meant.length === 1 && meant[0] === fleet.hive)) return null;
  const label = (/** @type {string} */ name) => (name === fleet.hive ? `${name} (this hive)` : name);
  const choices = [...meant.map((name) => choice(name, label(name))), choice(ANY, "The best hive for it")];
  return field("Where", select({ id }, choices, where, set));
}
