// The plan of a load: the memory that it needs, who would go to make room, and where its layers go.

import { h, icon } from "../lib/dom.js";
import { bytes, count, sentence } from "../lib/format.js";
import { stack } from "./parts.js";

/** @typedef {import("../lib/types.js").LoadPlan} LoadPlan */

const PARTS = /** @type {Record<string, string>} */ ({
  weights: "Weights",
  kv_cache: "Context",
  overhead: "Overhead",
});

/** @param {LoadPlan} plan @returns {import("../lib/dom.js").Leaf[]} */
export const estimate = (plan) => [
  verdict(plan),
  ...bar(plan),
  plan.evictions.length ? evictions(plan) : null,
  split(plan),
  h(
    "p",
    { class: "help" },
    `${plan.engine} on ${plan.device}: ${plan.reason}. `,
    `${count(plan.context_length)} tokens of context`,
    plan.slots > 1 ? ` for each of ${plan.slots} requests at once. ` : ". ",
    source(plan),
  ),
];

/** @param {LoadPlan} plan */
function verdict(plan) {
  const { required_bytes: required, free_bytes: free } = plan;
  const isGood = plan.fits && !plan.obstacle;
  const numbers = `it needs ${bytes(required)}, and ${bytes(free)} are free`;
  const said = plan.obstacle
    ? `Engine '${plan.engine}' cannot run it: ${plan.obstacle}`
    : !plan.fits
      ? `Does not fit: ${numbers} (${bytes(plan.missing_bytes)} missing)`
      : plan.evictions.length
        ? `Fits once room is made: ${numbers}`
        : required === null || free === null
          ? "The hive cannot tell whether it fits; it would try"
          : `Fits: ${numbers}`;
  return h(
    "p",
    { class: `verdict${isGood ? "" : " bad"}` },
    icon(isGood ? "check" : "alert"),
    h(
      "span",
      null,
      h("strong", null, said),
      plan.obstacle ? null : h("span", { class: "muted" }, `, ${whereOf(plan)}`),
    ),
  );
}

/** @param {LoadPlan} plan */
const whereOf = ({ device }) => (device === "cpu" ? "main memory" : device);

/** The memory after the load: what stays in use, what is added, what is left. @param {LoadPlan} plan */
function bar(plan) {
  const { required_bytes: required, free_bytes: free, capacity_bytes: capacity, parts } = plan;
  const total = capacity ?? free;
  if (total === null || required === null) return [];
  const gone = plan.evictions.reduce((sum, { held_bytes }) => sum + held_bytes, 0);
  const room = (free ?? 0) + gone;
  const used = free === null ? 0 : Math.max(0, total - room);
  const fit = plan.fits || plan.missing_bytes === 0 ? "" : " over";
  const added = parts.map((part) => ({
    name: PARTS[part.name] ?? part.name,
    kind: `${part.name}${fit}`,
    size: part.bytes,
  }));
  const said = added.map(({ name, size }) => `${name} ${bytes(size)}`).join(", ");
  return [
    stack(
      [{ size: used, kind: "used" }, ...added],
      Math.max(total, used + required),
      `${whereOf(plan)}: ${bytes(used)} of ${bytes(total)} stay in use, and ${said} would be added`,
    ),
    h(
      "dl",
      { class: "legend" },
      entry("used", gone ? "Stays in use" : "In use", used),
      ...added.map(({ kind, name, size }) => entry(kind, name, size)),
      plan.fits ? entry("free", "Left", Math.max(0, room - required)) : entry("free", "Free", free ?? 0),
    ),
  ];
}

/** @param {string} kind @param {string} name @param {number} size */
const entry = (kind, name, size) =>
  h(
    "div",
    null,
    h("dt", null, h("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), name),
    h("dd", { class: "num" }, bytes(size)),
  );

/** Who would go. @param {LoadPlan} plan */
function evictions({ evictions, waits_for: blocker }) {
  return h(
    "div",
    null,
    h("h3", null, "Goes to make room"),
    h(
      "ul",
      { class: "lines residents" },
      ...evictions.map(({ pid, model, held_bytes: held, reason }) =>
        h(
          "li",
          { key: String(pid) },
          h("span", { class: "grow", title: model }, model),
          h("span", { class: "muted num" }, `worker ${pid} · ${bytes(held)}`),
          h("p", null, sentence(reason)),
        ),
      ),
    ),
    blocker ? h("p", { class: "help" }, `The load would wait for ${blocker}.`) : null,
  );
}

/** Which layers go where, and what that costs. @param {LoadPlan} plan */
function split({ split, slowdown }) {
  if (split.length < 2) return null;
  const where = split.map(({ device, layers, bytes: size }) => `${layers} on ${device} (${bytes(size)})`);
  return h(
    "p",
    null,
    `Layers: ${where.join(", ")}. `,
    slowdown === null
      ? ""
      : h("strong", null, `A token takes about ${slowdown.toFixed(1)} times as long as on a GPU alone.`),
  );
}

/** Where the estimate comes from. @param {LoadPlan} plan */
function source({ source_of_estimate: source, formula_bytes: formula, formula_error_bytes: error }) {
  if (!source) return "";
  if (source === "formula") return "The memory is computed by a formula: this has not run here yet.";
  const off = error
    ? `; the formula says ${bytes(formula)}, ${bytes(Math.abs(error))} too ${error > 0 ? "little" : "much"}`
    : "";
  return `The memory is what it took when it last ran${off}.`;
}
