// A graph of one number over the last minutes, as SVG.

import { h } from "../lib/dom.js";

const WIDTH = 300;
const HEIGHT = 60;

/** @param {Array<number|null>} values the newest last
 * @param {{most: number, slots?: number, label: string, beside?: Array<number|null>}} options `most`
 *   is the top of the scale, `slots` the number of values that fit in the width, `beside` a second
 *   number over the same time and on the same scale */
export function graph(values, { most, slots = values.length, label, beside = [] }) {
  const step = WIDTH / Math.max(1, slots - 1);
  const top = most > 0 ? most : 1;
  const x = (/** @type {number} */ index, /** @type {number} */ length) =>
    (WIDTH - (length - 1 - index) * step).toFixed(1);
  const y = (/** @type {number} */ value) =>
    (HEIGHT - 1 - (Math.min(value, top) / top) * (HEIGHT - 4)).toFixed(1);
  const trace = (/** @type {Array<number|null>} */ series) => {
    let line = "";
    let open = false;
    series.forEach((value, index) => {
      if (value !== null) line += `${open ? "L" : "M"}${x(index, series.length)} ${y(value)}`;
      open = value !== null;
    });
    return line;
  };
  const line = trace(values);
  const area =
    line && !values.includes(null) ? `${line}L${WIDTH} ${HEIGHT}L${x(0, values.length)} ${HEIGHT}Z` : "";
  return h(
    "svg",
    {
      class: "graph",
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": label,
    },
    h("path", { class: "grid", d: `M0 ${y(top / 2)}H${WIDTH}M0 ${HEIGHT - 0.5}H${WIDTH}` }),
    h("path", { class: "area", d: area }),
    h("path", { class: "beside", d: trace(beside) }),
    h("path", { class: "line", d: line }),
  );
}
