// Why a model is slow: where the time of its last requests went, what disturbs it, and what to do about each.

import { Problem, run } from "../lib/api.js";
import { h, icon } from "../lib/dom.js";
import { count, duration } from "../lib/format.js";
import { View } from "../lib/view.js";
import { closeDialog, dialogHead, openDialog } from "./dialog.js";
import { button, factList, retryBox, stack, waiting } from "./parts.js";

/** @typedef {import("../lib/types.js").Diagnosis} Diagnosis */

/** @typedef {import("../lib/types.js").Times} Times */

/** The parts of the time of a request. @type {Array<[keyof Times, string, string]>} */
const PARTS = [
  ["queue_ms", "Waiting", "used"],
  ["load_ms", "Loading", "lease"],
  ["prompt_ms", "Prompt", "kv_cache"],
  ["generation_ms", "Answer", "weights"],
  ["other_ms", "Other", "overhead"],
];

class DiagnosisDialog extends View {
  /** The model's id. */
  id = "";
  since = 0;
  /** @type {Diagnosis|null} */
  found = null;
  /** @type {Problem|null} */
  problem = null;

  start() {
    this.#ask();
  }

  async #ask() {
    this.since = Date.now();
    this.problem = null;
    this.update();
    try {
      this.found =
        (await run({ ModelDiagnose: { id: this.id } }, { signal: this.life.signal })) ?? this.found;
    } catch (error) {
      this.problem = Problem.of(error);
    }
    this.since = 0;
    this.update();
  }

  draw() {
    const { found, problem, since } = this;
    return h(
      "div",
      { class: "form" },
      dialogHead(this, "Why is it slow?", this.id),
      retryBox(problem, () => this.#ask()),
      since && !found ? waiting("Waiting for what the hive finds", since) : null,
      found ? [times(found), findings(found), unknown(found)] : null,
      h(
        "div",
        { class: "actions end" },
        button("Look again", () => this.#ask(), { disabled: since > 0 }, icon("again")),
        button("Close", () => closeDialog(this)),
      ),
    );
  }
}

/** Where the time of a request goes, on average. @param {Diagnosis} found */
function times({ requests, times }) {
  if (!times) return h("p", { class: "muted" }, "No request to it has ended since the hive started.");
  const parts = PARTS.map(([key, name, kind]) => ({ name, kind, size: times[key] ?? 0 }));
  const said = parts.map(({ name, size }) => `${name} ${duration(size / 1000)}`).join(", ");
  const { total_ms: total, time_to_first_token_ms: first, tokens_per_second: rate } = times;
  const { prompt_tokens: prompt, cached_tokens: cached, completion_tokens: completion } = times;
  return h(
    "section",
    { class: "estimate", "aria-label": "Where the time goes" },
    h(
      "p",
      null,
      h("strong", null, `${duration(total / 1000)} for a request`),
      h(
        "span",
        { class: "muted" },
        requests === 1 ? ", by the last one" : `, on average of the last ${requests}`,
      ),
    ),
    stack(parts, total, said),
    h(
      "dl",
      { class: "legend" },
      ...parts.map(({ name, kind, size }) =>
        h(
          "div",
          { key: name },
          h("dt", null, h("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), name),
          h("dd", { class: "num" }, duration(size / 1000)),
        ),
      ),
    ),
    factList([
      ["First token", first === null ? null : `after ${duration(first / 1000)}`],
      ["Speed", rate === null ? null : `${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s`],
      ["Prompt", prompt === null ? null : tokens(prompt, cached)],
      ["Answer", completion === null ? null : `${count(Math.round(completion))} tokens`],
    ]),
  );
}

/** @param {number} prompt @param {number|null} cached */
function tokens(prompt, cached) {
  const all = `${count(Math.round(prompt))} tokens`;
  return cached === null ? all : `${all}, ${count(Math.round(cached))} of them from the cache`;
}

/** @param {Diagnosis} found */
function findings({ findings }) {
  if (findings.length === 0)
    return h("p", { class: "verdict" }, icon("check"), "Nothing is found that slows it down.");
  return h(
    "ul",
    { class: "lines residents", "aria-label": "Findings" },
    ...findings.map(({ kind, share, message, advice }) =>
      h(
        "li",
        { key: kind + message },
        h("strong", { class: "said" }, message),
        share === null ? null : h("span", { class: "muted num" }, `${Math.round(100 * share)} % of the time`),
        h("p", null, h("strong", null, "What to do: "), advice),
      ),
    ),
  );
}

/** @param {Diagnosis} found */
const unknown = ({ unknown }) =>
  unknown.length ? h("p", { class: "help" }, `Not known: ${unknown.join("; ")}.`) : null;

customElements.define("diagnosis-dialog", DiagnosisDialog);

/** @param {string} id the model's id */
export function openDiagnosis(id) {
  const view = new DiagnosisDialog();
  view.id = id;
  openDialog(view, `Why is ${id} slow?`);
}
