// Small elements that all views use.

import { caller } from "../lib/caller.js";
import { h, icon } from "../lib/dom.js";
import { live } from "../lib/live.js";
import { between, duration, elapsed, percent, progressText } from "../lib/format.js";

/** @typedef {import("../lib/dom.js").Child} Child */

/** A state as a word with a mark, so that it does not depend on its colour alone.
 * @param {string} state determines the colour @param {string} [label] */
export function chip(state, label = state) {
  return h(
    "span",
    { class: "chip", "data-state": state },
    h("span", { class: "mark", "aria-hidden": "true" }),
    label,
  );
}

/** What is shown for each capability. */
const ABILITIES = /** @type {Record<string, string>} */ ({
  chat: "Chat",
  completions: "Completions",
  embeddings: "Embeddings",
  rerank: "Reranking",
  images: "Images",
  tools: "Tools",
  json_output: "JSON",
  reasoning: "Reasoning",
});
/** What every model for text can. */
const USUAL = ["chat", "completions", "json_output"];

/** What a model can do, as small labels. @param {string[]} [capabilities]
 * @param {boolean} [all] whether to show also what every model for text can */
export function abilities(capabilities = [], all = false) {
  const shown = capabilities.filter((name) => all || !USUAL.includes(name));
  if (shown.length === 0) return null;
  return h(
    "ul",
    { class: "abilities", "aria-label": "Capabilities" },
    ...shown.map((name) => h("li", { key: name }, ABILITIES[name] ?? name)),
  );
}

/** What the page waits for, for how long, and what the user can do.
 * @param {string} what @param {number} since milliseconds since the epoch
 * @param {...Child} out actions, such as a button to stop */
export function waiting(what, since, ...out) {
  return h(
    "div",
    { class: "waiting", role: "status" },
    h("span", { class: "spinner", "aria-hidden": "true" }),
    h(
      "span",
      null,
      what,
      " ",
      h(
        "span",
        { class: "muted", "aria-hidden": "true" },
        live(() => `· ${elapsed(since)}`),
      ),
    ),
    ...out,
  );
}

/** A progress bar.
 * @param {import("../lib/types.js").Progress} progress @param {string} label */
export function progressBar(progress, label) {
  const total = progress.total ?? 0;
  const share = percent(progress.done, total);
  const value = total ? { "aria-valuenow": Math.round(share), "aria-valuetext": progressText(progress) } : {};
  return h(
    "div",
    {
      class: `bar${total ? "" : " unknown"}`,
      role: "progressbar",
      "aria-label": label,
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      ...value,
    },
    h("div", { class: "fill", style: { "inline-size": total ? `${share}%` : "30%" } }),
  );
}

/** A bar of parts of a total: what is used, what would be added, what stays free.
 * @param {Array<{size: number, kind: string}>} parts @param {number} total @param {string} label */
export function stack(parts, total, label) {
  return h(
    "div",
    { class: "stack", role: "img", "aria-label": label },
    ...parts.map(({ size, kind }) =>
      h("div", { class: kind, style: { "inline-size": `${percent(size, total)}%` } }),
    ),
  );
}

/** An empty list: what it would show, and the next step.
 * @param {string} title @param {Child} text @param {...Child} actions */
export function empty(title, text, ...actions) {
  return h(
    "section",
    { class: "empty" },
    h(
      "svg",
      { class: "comb", viewBox: "0 0 84 50", "aria-hidden": "true" },
      ...["M21 2 38.300 12v20L21 42 3.700 32V12Z", "M59 2l17.300 10v20L59 42 41.700 32V12Z"].map((d) =>
        h("path", { d }),
      ),
    ),
    h("h2", null, title),
    h("p", null, text),
    h("div", { class: "actions" }, ...actions),
  );
}

/** A failure with its details and what to do next.
 * @param {import("../lib/types.js").Failure} failure @param {...Child} actions */
export function failureBox(failure, ...actions) {
  const facts = [
    failure.stage && `while: ${failure.stage.replaceAll("_", " ")}`,
    failure.signal && `killed by ${failure.signal}`,
    failure.exit_code !== undefined && failure.exit_code !== null && `exit code ${failure.exit_code}`,
    failure.code,
  ].filter(Boolean);
  return h(
    "div",
    { class: "failure", role: "alert" },
    h("p", { class: "failure-text" }, icon("alert"), h("span", null, failure.message)),
    failure.hint ? h("p", { class: "hint" }, h("strong", null, "What to do: "), failure.hint) : null,
    failure.causes?.length
      ? h("ul", { class: "causes" }, ...failure.causes.map((cause) => h("li", null, cause)))
      : null,
    h("p", { class: "muted small-text" }, facts.join(" · ")),
    failure.log_tail?.length
      ? h(
          "details",
          { open: true },
          h("summary", null, "The last lines of its log"),
          h(
            "pre",
            { class: "log-tail", tabindex: "0", "aria-label": "The last lines of its log" },
            failure.log_tail.join("\n"),
          ),
        )
      : null,
    actions.length ? h("div", { class: "actions" }, ...actions) : null,
  );
}

/** A failure after which the user can try again; nothing where there is none.
 * @param {import("../lib/types.js").Failure|null} problem @param {() => void} again */
export const retryBox = (problem, again) =>
  problem ? failureBox(problem, button("Try again", again)) : null;

/** How long a job took, or how long it has been running. @param {import("../lib/types.js").Job} job */
export function took({ started_at, created_at, ended_at }) {
  const began = started_at ?? created_at;
  return ended_at ? duration(between(began, ended_at)) : live(() => elapsed(Date.parse(began)));
}

/** Names and values, without the values that are unknown.
 * @param {Array<[string, Child]>} facts */
export function factList(facts) {
  const known = facts.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h(
    "dl",
    { class: "facts" },
    ...known.map(([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, value))),
  );
}

/** A button. With `needs`, an operation or a role, it is off for callers who may not do that.
 * @param {string} label @param {(event: Event) => void} onclick
 * @param {Record<string, any>} [props] @param {...Child} before */
export function button(label, onclick, props = {}, ...before) {
  return h("button", { type: "button", onclick, ...allowed(props) }, ...before, h("span", null, label));
}

/** The properties of a control, which is off where the caller may not do what it `needs`; the note at the top
 * of the page says why. @param {Record<string, any>} props */
export function allowed({ needs, ...props }) {
  const refusal = needs ? caller.refusal(needs) : "";
  return refusal ? { ...props, disabled: true, title: refusal, "aria-describedby": "caller-note" } : props;
}
