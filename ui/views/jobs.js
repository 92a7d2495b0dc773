// The list of all jobs, running and ended.

import { Problem, get, sleep } from "../lib/api.js";
import { h, kept } from "../lib/dom.js";
import { ago, count, instant } from "../lib/format.js";
import { hive, isOurs } from "../lib/hive.js";
import { isReadOnly, outcome, stateWord, title } from "../lib/jobs.js";
import { live } from "../lib/live.js";
import { recall, remember } from "../lib/storage.js";
import { ListView, link } from "../lib/view.js";
import { choice } from "../parts/choices.js";
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

/** How soon after a page the jobs of other hives are read again, in milliseconds. */
const PAUSE_MS = 2000;
const ALL = "all";

class Jobs extends ListView {
  static list = "jobs";
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["jobs", "fleet", "connection"];
  /** The hive whose jobs are shown, or `all`; empty for this one. */
  of = recall("jobs.hive", "", "sessionStorage");
  reads = recall("jobs.reads", false);
  /** The cursor of older jobs of the chosen state; null where there are none. @type {string|null} */
  cursor = null;
  /** When the request in progress was sent; 0 where there is none. */
  asking = 0;
  hasAnswer = false;
  /** @type {Problem|null} */
  problem = null;
  #stop = new AbortController();
  /** What the other hives told of their jobs when those were read. */
  #told = "";

  start() {
    this.#request("");
    hive.on(["fleet"], () => this.#look(), this.life.signal);
  }

  /** Reads the jobs of other hives again when those have others, which no event tells. */
  async #look() {
    if (!hive.fleet && this.of) this.#chooseHive("");
    if (!this.of || told() === this.#told || this.asking) return;
    this.#told = told();
    await sleep(PAUSE_MS, this.life.signal);
    if (this.of && !this.asking && !this.life.signal.aborted) this.#request("", true);
  }

  /** Reads a page of the jobs of the chosen state, which the hive filters: it has more of them than the page.
   * @param {string} cursor @param {boolean} [isAgain] whether older pages are there already */
  async #request(cursor, isAgain = false) {
    this.#stop.abort();
    const stop = (this.#stop = new AbortController());
    this.asking = Date.now();
    this.problem = null;
    this.#told = told();
    this.update();
    const query = new URLSearchParams({ limit: String(PAGE) });
    if (this.state !== "all") query.set("state", this.state);
    if (this.of) query.set("hive", this.of);
    if (cursor) query.set("cursor", cursor);
    try {
      const page = await get(`/v1/jobs?${query}`, AbortSignal.any([this.life.signal, stop.signal]));
      hive.addJobs(page.jobs);
      if (!isAgain) this.cursor = page.next_cursor;
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

  /** @param {string} of */
  #chooseHive(of) {
    this.of = of;
    remember("jobs.hive", of, "sessionStorage");
    this.cursor = null;
    this.#request("");
  }

  /** Whether a job is one of the chosen hive. @param {Job} job */
  #isMeant(job) {
    if (this.of === ALL) return true;
    return this.of === "" ? isOurs(job) : job.hive === this.of;
  }

  draw() {
    const search = this.filter.toLowerCase();
    const jobs = hive.jobList((job) => this.#isMeant(job));
    const all = jobs.filter((job) => this.reads || !isReadOnly(job));
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
      this.#hives(),
      tick("Include read-only jobs", this.reads, (reads) => {
        this.reads = reads;
        remember("jobs.reads", reads);
        this.update();
      }),
    );
  }

  /** The hives to choose from. One that is gone stays while its jobs are shown. */
  #hives() {
    const others = hive.otherHives().map((each) => each.hive);
    if (others.length === 0 && !this.of) return null;
    const names = others.includes(this.of) || ["", ALL].includes(this.of) ? others : [...others, this.of];
    const choices = [
      choice("", "This hive"),
      choice(ALL, "All hives"),
      ...names.map((name) => choice(name, name)),
    ];
    return select({ "aria-label": "Hive" }, choices, this.of, (of) => this.#chooseHive(of));
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
    h(
      "span",
      { class: "muted outcome" },
      [isOurs(job) ? "" : job.hive, outcome(job)].filter(Boolean).join(" · "),
    ),
    job.progress && !job.ended_at ? progressBar(job.progress, `Progress of: ${title(job)}`) : null,
    h("span", { class: "num took" }, took(job)),
    h(
      "time",
      { class: "muted num", datetime: job.created_at, title: instant(job.created_at) },
      live(() => ago(job.created_at)),
    ),
  );
}

/** What the other hives tell of themselves, as far as jobs change it. */
const told = () =>
  hive
    .otherHives()
    .map(({ hive, run, presence, models, workers, jobs }) =>
      [hive, run, presence, models, workers, jobs].join(" "),
    )
    .join();

customElements.define("hive-jobs", Jobs);
