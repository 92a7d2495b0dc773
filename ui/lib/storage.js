// What the page keeps in the browser.

import { prefix } from "./place.js";

/** The name under which the page of this hive keeps something. What a browser keeps belongs to an origin, and
 * a proxy may show several hives below the paths of one. @param {string} name */
export const nameOf = (name) => `rbee.${name}${prefix}`;

/** A value that the page keeps in the browser, or only in its tab. Where storage is full, forbidden or
 * damaged, the value is lost.
 * @template T @param {string} name @param {T} fallback @param {"localStorage"|"sessionStorage"} [where]
 * @returns {T} */
export function recall(name, fallback, where = "localStorage") {
  try {
    return JSON.parse(window[where].getItem(nameOf(name)) ?? "null") ?? fallback;
  } catch {
    return fallback;
  }
}

/** @param {string} name @param {unknown} value @param {"localStorage"|"sessionStorage"} [where] */
export function remember(name, value, where = "localStorage") {
  try {
    window[where].setItem(nameOf(name), JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
