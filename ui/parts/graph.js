// A line over time, as SVG: the last minutes of one number.

import { h } from "../lib/dom.js";

const WIDTH = 300;
const HEIGHT = 60;

/** @param {Array<number|null>} values the newest last
 * @param {{most: number, slots?: number, label: string}} options `most` is the top of the scale,
 *   `slots` how many values the width has room for */
export function graph(values, { most, slots = values.length, label }) {
  const step = WIDTH / Math.max(1, slots - 1);
  const from = WIDTH - (values.length - 1) * step;
  const top = most > 0 ? most : 1;
  const y = (/** @type {number} */ value) => (HEIGHT - 1 - (Math.min(value, top) / top) * (HEIGHT - 4)).toFixed(1);
  let line = "";
  let open = false;
  values.forEach((value, index) => {
    if (value === null) {
      open = false;
      return;
    }
    line += `${open ? "L" : "M"}${(from + index * step).toFixed(1)} ${y(value)}`;
    open = true;
  });
  const area = line && !values.includes(null) ? `${line}L${WIDTH} ${HEIGHT}L${from.toFixed(1)} ${HEIGHT}Z` : "";
  return h(
    "svg",
    { class: "graph", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    h("path", { class: "grid", d: `M0 ${y(top / 2)}H${WIDTH}M0 ${HEIGHT - 0.5}H${WIDTH}` }),
    h("path", { class: "area", d: area }),
    h("path", { class: "line", d: line }),
  );
}
