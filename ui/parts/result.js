// The result of a job, formatted according to its kind.

import { h } from "../lib/dom.js";
import { ORIGINS } from "../lib/engines.js";
import { bytes, count, instant } from "../lib/format.js";
import { hive } from "../lib/hive.js";
import { accessTo } from "../lib/plan.js";
import { link } from "../lib/view.js";
import { abilities, chip, factList } from "./parts.js";

/** @param {string} operation @param {any} result @param {boolean} [isOurs] whether it tells of this hive
 * @returns {HTMLElement} */
export function resultOf(operation, result, isOurs = true) {
  if (result?.hives && !Array.isArray(result.hives)) return byHive(operation, result.hives);
  if (operation === "hive_check" && Array.isArray(result?.checks)) return checks(result.checks);
  if (Array.isArray(result)) return list(result);
  if (result?.files && "free_bytes" in result) return plan(result);
  if (result?.worker_id) return workerFacts(result, isOurs);
  if (result?.format && result?.path) return modelFacts(result);
  if (result?.worker_type && result?.path) return engineFacts(result);
  return generic(result);
}

/** The results of several hives. @param {string} operation @param {Record<string, any>} hives */
const byHive = (operation, hives) =>
  h(
    "div",
    null,
    ...Object.entries(hives).map(([name, { result, failure }]) =>
      h(
        "section",
        { key: name },
        h("h3", null, name),
        failure
          ? h("p", { class: "field-error" }, failure.message)
          : resultOf(operation, result, name === hive.fleet?.hive),
      ),
    ),
  );

/** @param {Array<{name: string, ok: boolean, detail: string, hint: string|null}>} all */
export function checks(all) {
  return h(
    "ul",
    { class: "checks" },
    ...all.map((check) =>
      h(
        "li",
        { key: check.name },
        chip(check.ok ? "succeeded" : "failed", check.name),
        h("span", null, check.detail),
        check.hint && !check.ok ? h("span", { class: "hint" }, check.hint) : null,
      ),
    ),
  );
}

/** @param {import("../lib/types.js").Model} model
 * @param {string} [state] the state to show instead of the file's status */
export function modelFacts(model, state = model.status) {
  return factList([
    ["Model", h("a", { href: link("models", model.id) }, model.id)],
    ["State", h("span", null, chip(state), model.status_detail ? ` ${model.status_detail}` : "")],
    ["Size", bytes(model.size_bytes)],
    ["Architecture", model.architecture],
    ["Quantization", model.quantization],
    ["Parameters", model.parameter_count === null ? null : count(model.parameter_count)],
    ["Context", model.context_length === null ? null : `${count(model.context_length)} tokens`],
    ["Capabilities", abilities(model.capabilities, true)],
    [
      "Engines",
      model.engines?.length === 0
        ? `none that is installed runs it${model.engines_detail ? ` (${model.engines_detail})` : ""}`
        : model.engines?.join(", "),
    ],
    ["Format", model.format?.toUpperCase()],
    ["Source", h("span", { class: "mono" }, model.source)],
    ["Revision", model.revision ? h("span", { class: "mono" }, model.revision) : null],
    ["File", h("span", { class: "mono" }, model.path)],
    ["SHA-256", model.sha256 ? h("span", { class: "mono" }, model.sha256) : null],
    ["Added", instant(model.added_at)],
  ]);
}

/** @param {import("../lib/types.js").Worker} worker @param {boolean} isOurs whether this hive runs it */
export function workerFacts(worker, isOurs) {
  const name = `pid ${worker.pid}`;
  return factList([
    ["Worker", isOurs ? h("a", { href: link("workers", worker.pid) }, name) : name],
    ["Model", h("a", { href: link("models", hive.modelOf(worker.model)) }, worker.model)],
    ["State", chip(worker.status)],
    ["Device", worker.device],
    ["Engine", worker.engine],
    ["Port", worker.port],
    ["Memory", worker.rss_bytes ? bytes(worker.rss_bytes) : null],
    ["GPU memory", worker.vram_bytes ? bytes(worker.vram_bytes) : null],
    ["Slots", worker.slots],
    ["Started", instant(worker.started_at)],
    ["Last exit", worker.last_exit],
  ]);
}

/** @param {import("../lib/types.js").InstalledEngine} engine */
function engineFacts({ measured, ...engine }) {
  const speed = (/** @type {number} */ rate) => rate.toFixed(rate < 10 ? 1 : 0);
  return factList([
    ["Engine", h("a", { href: link("workers") }, engine.id)],
    ["Version", engine.version],
    ["Reported version", engine.reported_version],
    ["Origin", ORIGINS[engine.from] ?? engine.from],
    ["Size", bytes(engine.size)],
    [
      "Measured",
      measured
        ? `with ${measured.model} it reads ${speed(measured.prompt_per_second)} and writes ` +
          `${speed(measured.tokens_per_second)} tokens a second`
        : null,
    ],
    ["The one before", engine.previous?.version],
    ["Program", h("span", { class: "mono" }, engine.path)],
    ["SHA-256", engine.sha256 ? h("span", { class: "mono" }, engine.sha256) : null],
    ["Installed", instant(engine.added_at)],
  ]);
}

/** @param {import("../lib/types.js").Plan} plan */
function plan(plan) {
  return factList([
    ["Model", plan.model],
    ["Source", h("span", { class: "mono" }, plan.source)],
    ["Files", plan.files.map((file) => `${file.name} (${bytes(file.size_bytes)})`).join(", ")],
    ["To transfer", bytes(plan.transfer_bytes)],
    ["Free disk space", bytes(plan.free_bytes)],
    ["Fits", plan.fits ? "yes" : "no"],
    ["Already downloaded", plan.already_present ? "yes" : "no"],
    ["Access", accessTo(plan)],
    ["Architecture", plan.architecture],
    [
      "Engines",
      plan.engines_detail ? `none here runs it (${plan.engines_detail})` : plan.engines?.join(", "),
    ],
  ]);
}

/** @param {any[]} items */
function list(items) {
  if (items.length === 0) return h("p", { class: "muted" }, "An empty list.");
  if (typeof items[0] !== "object") return h("ul", null, ...items.map((item) => h("li", null, String(item))));
  const keys = ["id", "pid", "model", "name", "size_bytes", "device", "status", "loaded"].filter(
    (key) => key in items[0],
  );
  const shown = keys.length > 0 ? keys : Object.keys(items[0]).slice(0, 6);
  return h(
    "div",
    { class: "scroll-x", tabindex: "0", role: "group", "aria-label": "Result" },
    h(
      "table",
      { class: "grid-table" },
      h(
        "thead",
        null,
        h("tr", null, ...shown.map((key) => h("th", { scope: "col" }, key.replaceAll("_", " ")))),
      ),
      h(
        "tbody",
        null,
        ...items.map((item) => h("tr", null, ...shown.map((key) => h("td", null, cell(key, item[key]))))),
      ),
    ),
  );
}

/** @param {string} key @param {any} value */
function cell(key, value) {
  if (value === null || value === undefined) return "–";
  if (key.endsWith("_bytes") && typeof value === "number") return bytes(value);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** @param {any} result */
function generic(result) {
  if (result === null || typeof result !== "object") return h("p", null, String(result));
  return factList(Object.entries(result).map(([key, value]) => [key.replaceAll("_", " "), cell(key, value)]));
}
