// The controls above a log: a search, the least level, and whether the list follows its end.

import { h } from "../lib/dom.js";
import { onValue, select, tick } from "./fields.js";

/** A view of a log. @typedef {import("../lib/view.js").View & {search: string, level: string,
 *   following: boolean}} LogView */

/** @param {LogView} view @param {string} what its name, such as `the log`
 * @param {string} all the value of the choice of all levels
 * @param {(level: string) => void} [onLevel] */
export function logControls(view, what, all, onLevel) {
  const set = (/** @type {Partial<LogView>} */ change) => {
    Object.assign(view, change);
    view.update();
  };
  /** @type {Array<[string, string]>} */
  const levels = [
    [all, "All levels"],
    ["info", "Info and above"],
    ["warn", "Warnings and errors"],
    ["error", "Errors"],
  ];
  return [
    h("input", {
      type: "search",
      "aria-label": `Search ${what}`,
      placeholder: "Search",
      ".value": view.search,
      oninput: onValue((search) => set({ search })),
    }),
    select({ "aria-label": "Level" }, levels, view.level, (level) => {
      onLevel?.(level);
      set({ level });
    }),
    tick("Follow", view.following, (following) => set({ following })),
  ];
}

/** The list of a log, whose user may scroll away from its end. @param {LogView} view
 * @param {Record<string, any>} props */
export const logList = (view, props) =>
  h("virtual-list", {
    ...props,
    ".follow": view.following,
    onunfollow: () => {
      view.following = false;
      view.update();
    },
  });
