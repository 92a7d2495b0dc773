// The list of all jobs, running and ended.

import { Problem, get } from "../lib/api.js";
import { h, kept } from "../lib/dom.js";
import { ago, count, instant } from "../lib/format.js";
import { hive } from "../lib/hive.js";
import { isReadOnly, outcome, stateWord, title } from "../lib/jobs.js";
import { live } from "../lib/live.js";
import { recall, remember } from "../lib/storage.js";
import { ListView, link } from "../lib/view.js";
import { onValue, select, tick } from "../parts/fields.js";
import { button, chip, empty, progressBar, retryBox, took, waiting } from "../parts/parts.js";

/** @typedef {import("../lib/types.js").Job} Job */

const PAGE = 100;
const MOST_ROWS = 500;

/** @type {import("../parts/fields.js").Choices} */
const STATES = [
  ["all", "Any state"],
  ["running", "Running"],
  ["queued", "Queued"],
  ["succeeded", "Done"],
  ["failed", "Failed"],
  ["cancelled", "Cancelled"],
];

class Jobs extends ListView {
  static list = "jobs";
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["jobs", "connection"];
  reads = recall("jobs.reads", false);
  /** The cursor of older jobs of the chosen state; null where there are none. @type {string|null} */
  cursor = null;
  /** When the request in progress was sent; 0 where there is none. */
  asking = 0;
  hasAnswer = false;
  /** @type {Problem|null} */
  problem = null;
  #stop = new AbortController();

  start() {
    this.#request("");
  }

  /** Reads a page of the jobs of the chosen state, which the hive filters: it has more of them than the page.
   * @param {string} cursor */
  async #request(cursor) {
    this.#stop.abort();
    const stop = (this.#stop = new AbortController());
    this.asking = Date.now();
    this.problem = null;
    this.update();
    const query = new URLSearchParams({ limit: String(PAGE) });
    if (this.state !== "all") query.set("state", this.state);
    if (cursor) query.set("cursor", cursor);
    try {
      const page = await get(`/v1/jobs?${query}`, AbortSignal.any([this.life.signal, stop.signal]));
      hive.addJobs(page.jobs);
      this.cursor = page.next_cursor;
      this.hasAnswer = true;
    } catch (error) {
      if (stop.signal.aborted || this.life.signal.aborted) return;
      this.problem = Problem.of(error);
    }
    this.asking = 0;
    this.update();
  }

  /** @param {string} state */
  #chooseState(state) {
    this.narrow({ state });
    this.cursor = null;
    this.#request("");
  }

  draw() {
    const search = this.filter.toLowerCase();
    const all = hive.jobList().filter((job) => this.reads || !isReadOnly(job));
    const matches = (/** @type {Job} */ job) =>
      !search || `${title(job)} ${job.operation} ${job.job_id}`.toLowerCase().includes(search);
    const shown = all.filter((job) => (this.state === "all" || job.state === this.state) && matches(job));
    const running = all.filter((job) => !job.ended_at).length;
    const summary = this.hasAnswer ? `${running} running · ${count(shown.length)} shown` : "\u00a0";
    return [
      h("div", { class: "page-head" }, h("h1", null, "Jobs"), h("p", { class: "muted num" }, summary)),
      this.#filters(),
      retryBox(this.problem, () => this.#request("")),
      this.#list(shown, all.length),
      this.#older(shown.length),
    ];
  }

  #filters() {
    return h(
      "div",
      { class: "filters" },
      h("input", {
        type: "search",
        "aria-label": "Filter jobs",
        placeholder: "Filter by title, operation or id",
        ".value": this.filter,
        oninput: onValue((filter) => this.narrow({ filter })),
      }),
      select({ "aria-label": "State" }, STATES, this.state, (state) => this.#chooseState(state)),
      tick("Include read-only jobs", this.reads, (reads) => {
        this.reads = reads;
        remember("jobs.reads", reads);
        this.update();
      }),
    );
  }

  /** @param {Job[]} shown @param {number} all */
  #list(shown, all) {
    if (shown.length > 0) {
      const rows = shown
        .slice(0, MOST_ROWS)
        .map((job) => kept(job.job_id, [job, stateWord(job)], () => row(job)));
      return h("ul", { class: "job-list", "aria-label": "Jobs" }, ...rows);
    }
    if (this.problem) return null;
    if (!this.hasAnswer || this.asking)
      return waiting("Waiting for the hive's list of jobs", this.asking || Date.now());
    if (all === 0 && this.state === "all") {
      return empty(
        "No jobs yet",
        [
          "Every action, here, on the command line or through the API, becomes a job with a message ",
          "for each step.",
        ],
        h("a", { class: "button primary", href: "#/models" }, "Get a model"),
      );
    }
    return empty(
      "Nothing matches",
      this.cursor
        ? `None of the ${count(all)} newest jobs match the filter; older ones may.`
        : `None of ${count(all)} jobs match the filter.`,
      button("Clear the filter", () => {
        this.narrow({ filter: "" });
        this.#chooseState("all");
      }),
    );
  }

  /** @param {number} shown */
  #older(shown) {
    if (shown > MOST_ROWS) {
      return h("p", { class: "muted" }, `The newest ${MOST_ROWS} are shown. A filter finds the others.`);
    }
    const { cursor } = this;
    if (!cursor) return null;
    return h(
      "div",
      { class: "actions center" },
      this.asking
        ? waiting("Waiting for older jobs", this.asking)
        : button("Older jobs", () => this.#request(cursor)),
    );
  }
}

/** @param {Job} job */
function row(job) {
  return h(
    "li",
    { "data-state": job.state },
    chip(job.state, stateWord(job)),
    h("a", { class: "grow", href: link("jobs", job.job_id) }, title(job)),
    h("span", { class: "muted outcome" }, outcome(job)),
    job.progress && !job.ended_at ? progressBar(job.progress, `Progress of: ${title(job)}`) : null,
    h("span", { class: "num took" }, took(job)),
    h(
      "time",
      { class: "muted num", datetime: job.created_at, title: instant(job.created_at) },
      live(() => ago(job.created_at)),
    ),
  );
}

customElements.define("hive-jobs", Jobs);
