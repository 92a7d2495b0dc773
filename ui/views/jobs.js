// The list of all jobs, running and ended.

import { Problem, get } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { ago, between, duration, instant } from "../lib/format.js";
import { hive } from "../lib/hive.js";
import { isReadOnly, outcome, stateWord, title } from "../lib/jobs.js";
import { ListView, link, recall, remember } from "../lib/view.js";
import { button, chip, empty, failureBox, progressBar, waiting } from "../parts/parts.js";

const PAGE = 100;
const MOST_ROWS = 500;

class Jobs extends ListView {
  static list = "jobs";
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["jobs", "connection"];
  static tick = 1000;
  reads = recall("jobs.reads", false);
  /** The cursor of older jobs; null where there are none. @type {string|null} */
  cursor = null;
  /** When the request in progress was sent; 0 where there is none. */
  asking = 0;
  hasAnswer = false;
  /** @type {Problem|null} */
  problem = null;

  start() {
    this.#request("");
  }

  /** @param {string} cursor */
  async #request(cursor) {
    if (this.asking) return;
    this.asking = Date.now();
    this.problem = null;
    this.update();
    try {
      const page = await get(`/v1/jobs?limit=${PAGE}${cursor ? `&cursor=${cursor}` : ""}`, this.life.signal);
      hive.addJobs(page.jobs);
      this.cursor = page.next_cursor;
      this.hasAnswer = true;
    } catch (error) {
      if (!this.life.signal.aborted) this.problem = Problem.of(error);
    }
    this.asking = 0;
    this.update();
  }

  draw() {
    const search = this.filter.toLowerCase();
    const all = hive.jobList().filter((job) => this.reads || !isReadOnly(job));
    const shown = all.filter(
      (job) =>
        (this.state === "all" || job.state === this.state) &&
        (!search || `${title(job)} ${job.operation} ${job.job_id}`.toLowerCase().includes(search)),
    );
    const running = all.filter((job) => !job.ended_at).length;
    return [
      h(
        "div",
        { class: "page-head" },
        h("h1", null, "Jobs"),
        h(
          "p",
          { class: "muted num" },
          this.hasAnswer ? `${running} running · ${all.length} shown` : "\u00a0",
        ),
      ),
      h(
        "div",
        { class: "filters" },
        h("input", {
          type: "search",
          "aria-label": "Filter jobs",
          placeholder: "Filter by title, operation or id",
          ".value": this.filter,
          oninput: (/** @type {any} */ event) => this.narrow({ filter: event.target.value }),
        }),
        h(
          "select",
          {
            "aria-label": "State",
            ".value": this.state,
            onchange: (/** @type {any} */ event) => this.narrow({ state: event.target.value }),
          },
          ...[
            ["all", "Any state"],
            ["running", "Running"],
            ["queued", "Queued"],
            ["succeeded", "Done"],
            ["failed", "Failed"],
            ["cancelled", "Cancelled"],
          ].map(([value, label]) => h("option", { value }, label)),
        ),
        h(
          "label",
          { class: "check" },
          h("input", {
            type: "checkbox",
            ".checked": this.reads,
            onchange: (/** @type {any} */ event) => (
              (this.reads = event.target.checked),
              remember("jobs.reads", this.reads),
              this.update()
            ),
          }),
          "Include read-only jobs",
        ),
      ),
      this.problem
        ? failureBox(
            this.problem,
            button("Try again", () => this.#request("")),
          )
        : null,
      !this.hasAnswer && shown.length === 0 && !this.problem
        ? waiting("Waiting for the hive's list of jobs", this.asking || Date.now())
        : all.length === 0
          ? empty(
              "No jobs yet",
              [
                "Every action, here, on the command line or through the API, becomes a job with a message ",
                "for each step.",
              ],
              h("a", { class: "button primary", href: "#/models" }, "Get a model"),
            )
          : shown.length === 0
            ? empty(
                "Nothing matches",
                `None of ${all.length} jobs match the filter.`,
                button("Clear the filter", () => this.narrow({ filter: "", state: "all" })),
              )
            : h(
                "ul",
                { class: "job-list", "aria-label": "Jobs" },
                ...shown.slice(0, MOST_ROWS).map((job) => {
                  const seconds = between(job.started_at ?? job.created_at, job.ended_at);
                  return h(
                    "li",
                    { key: job.job_id, "data-state": job.state },
                    chip(job.state, stateWord(job)),
                    h("a", { class: "grow", href: link("jobs", job.job_id) }, title(job)),
                    h("span", { class: "muted outcome" }, outcome(job)),
                    job.progress && !job.ended_at
                      ? progressBar(job.progress, `Progress of: ${title(job)}`)
                      : null,
                    h(
                      "span",
                      { class: "num took" },
                      duration(job.ended_at ? seconds : Math.max(1, Math.floor(seconds))),
                    ),
                    h(
                      "time",
                      { class: "muted num", datetime: job.created_at, title: instant(job.created_at) },
                      ago(job.created_at),
                    ),
                  );
                }),
              ),
      this.cursor && shown.length
        ? h(
            "div",
            { class: "actions center" },
            this.asking
              ? waiting("Waiting for older jobs", this.asking)
              : button("Older jobs", () => this.#request(/** @type {string} */ (this.cursor))),
          )
        : null,
    ];
  }
}

customElements.define("hive-jobs", Jobs);
