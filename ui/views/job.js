// One job: its narration as a timeline, its result or failure, and actions.

import { Problem, cancel, follow, get, hasToken } from "../lib/api.js";
import { code } from "../lib/code.js";
import { copy, h, icon } from "../lib/dom.js";
import { between, clock, count, duration, instant, progressText } from "../lib/format.js";
import { hive, isOurs } from "../lib/hive.js";
import { curl, isDownload, isPaused, stateWord, step, title } from "../lib/jobs.js";
import { recall, remember } from "../lib/storage.js";
import { View, link, route } from "../lib/view.js";
import { openDelete } from "../parts/delete-dialog.js";
import { engineAdvice } from "../parts/engines.js";
import { logControls, logList } from "../parts/log-controls.js";
import { button, chip, factList, failureBox, progressBar, retryBox, took, waiting } from "../parts/parts.js";
import { resultOf } from "../parts/result.js";
import { act, showNote, showProblem } from "../parts/toasts.js";
import "../parts/virtual-list.js";

/** @typedef {import("../lib/types.js").Job} Job */
/** @typedef {import("../lib/types.js").Narration} Narration */
/** A row of the timeline: one narration, or the last of several progress reports in a row. `after`:
 * seconds since the start of the job; `took`: seconds until the next row.
 * @typedef {{narration: Narration, after: number, took: number|null, repeats: number}} Row */
/** @typedef {{action: string, from: number, to: number, level: string}} Phase */

const LEVELS = ["debug", "info", "warn", "error"];
const MOST_PHASES = 12;

class JobPage extends View {
  // Whether a cancelled download left something to resume is seen in the models.
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["models"];
  static tick = 1000;
  id = route().id;
  /** @type {Job|null} */
  job = null;
  /** @type {Narration[]} */
  narrations = [];
  /** @type {Row[]} */
  rows = [];
  /** Identifies the data that `rows` was made from. */
  #rowsKey = "";
  level = recall("job.level", "info");
  search = "";
  following = true;
  lost = false;
  since = Date.now();
  cancelling = 0;
  /** Whether the page draws the narration. For a job that had ended before, it draws all of it at
   * once: a growing narration would move what is below it. */
  #isDrawn = false;
  /** Whether the job had ended when the page read it. */
  #isPast = false;
  /** Whether the page has decided to follow the end of the list (a running job) or to show its start. */
  #hasPosition = false;
  tab = "rendered";
  /** @type {Problem|null} */
  problem = null;

  start() {
    this.#read();
  }

  async #read() {
    const { signal } = this.life;
    this.problem = null;
    this.since = Date.now();
    try {
      this.job = await get(`/v1/jobs/${encodeURIComponent(this.id)}`, signal);
      this.#isPast = Boolean(this.job?.ended_at);
      if (!this.#hasPosition) {
        this.following = !this.#isPast;
        this.#hasPosition = true;
      }
      this.update();
      this.narrations = [];
      await follow(this.id, (events) => this.#apply(events), {
        rests: signal,
        onLost: (lost) => {
          this.lost = lost;
          this.update();
        },
      });
      this.#isDrawn = true;
      this.job = await get(`/v1/jobs/${encodeURIComponent(this.id)}`, signal);
      this.cancelling = 0;
    } catch (error) {
      if (!signal.aborted) this.problem = Problem.of(error);
    }
    this.update();
  }

  /** The bars of a job that has ended do not move any more. */
  isMoving() {
    return !this.job?.ended_at;
  }

  /** @param {import("../lib/types.js").JobEvent[]} events */
  #apply(events) {
    this.#isDrawn ||= !this.#isPast;
    for (const { event, data } of events) {
      if (event === "narration") this.narrations.push(data);
      else if (!this.job) continue;
      else if (event === "result") this.job = { ...this.job, result: data.data };
      else if (event === "failed")
        this.job = { ...this.job, state: "failed", ended_at: data.at, failure: data };
      else if (event === "done") this.job = { ...this.job, state: "succeeded", ended_at: data.at };
      else if (event === "cancelled") this.job = { ...this.job, state: "cancelled", ended_at: data.at };
      // An event for entries that the log has dropped has their count, and no time.
      else
        this.narrations.push({
          ...data,
          at: this.narrations.at(-1)?.at ?? this.job.started_at ?? this.job.created_at,
          level: "info",
          action: "elided",
          message: `${count(data.count)} earlier progress reports are no longer kept`,
        });
    }
    if (this.job?.state === "queued" && this.narrations.length > 1)
      this.job = {
        ...this.job,
        state: "running",
        started_at: this.job.started_at ?? this.narrations[0].at,
      };
    this.update();
  }

  draw() {
    const { job, problem } = this;
    const back = h("a", { class: "back", href: "#/jobs" }, "Jobs");
    if (problem && !job) return [back, h("h1", null, "Job"), retryBox(problem, () => this.#read())];
    if (!job)
      return [
        back,
        h("h1", null, "Job"),
        waiting(
          "Waiting for the job",
          this.since,
          h("a", { href: "#/jobs", class: "button small" }, "Back to the list"),
        ),
      ];
    const running = !job.ended_at;
    return [
      back,
      h(
        "div",
        { class: "page-head" },
        h("h1", null, title(job)),
        chip(job.state, stateWord(job)),
        isOurs(job) ? null : h("p", { class: "muted" }, `on ${job.hive}`),
        h("p", { class: "muted num" }, running ? "for " : "took ", took(job)),
        h(
          "div",
          { class: "actions" },
          running
            ? button(
                isDownload(job) ? "Pause" : "Cancel",
                () => this.#cancel(),
                { disabled: this.cancelling > 0, needs: job.operation },
                icon(isDownload(job) ? "pause" : "close"),
              )
            : button(
                isPaused(job) ? "Resume" : "Run again",
                () => this.#again(job),
                { needs: job.operation },
                icon("again"),
              ),
          button("Copy as curl", () => this.#curl(job), {}, icon("copy")),
        ),
      ),
      this.cancelling ? waiting("Waiting for the job to stop", this.cancelling) : null,
      this.lost ? waiting("The connection broke; reconnecting. No message is lost", this.since) : null,
      retryBox(problem, () => this.#read()),
      job.failure ? failureBox(job.failure) : null,
      job.failure?.code === "model_unsupported" && isOurs(job) ? adviceFor(job) : null,
      this.#isDrawn || problem
        ? h(
            "div",
            { class: "job-columns" },
            h("div", null, this.#progress(job), this.#timeline(job)),
            h("div", null, this.#request(job), this.#result(job), this.#phases(job)),
          )
        : waiting(
            job.state === "queued"
              ? "Queued: it starts when another job of its kind ends"
              : "Waiting for its narration",
            this.since,
          ),
    ];
  }

  /** @param {Job} job */
  #request(job) {
    return h(
      "details",
      { class: "card" },
      h("summary", null, "Request and times"),
      factList([
        ["Job", h("span", { class: "mono" }, job.job_id)],
        ["Operation", h("span", { class: "mono" }, job.operation)],
        ["Hive", isOurs(job) ? null : job.hive],
        ["Submitted", instant(job.created_at)],
        [
          "Started",
          job.started_at
            ? `${instant(job.started_at)} (waited ${duration(between(job.created_at, job.started_at))})`
            : null,
        ],
        ["Ended", job.ended_at ? instant(job.ended_at) : null],
      ]),
      code(JSON.stringify(job.request, null, 2), "json"),
      code(curl(job.request, hasToken()), "sh"),
    );
  }

  async #cancel() {
    this.cancelling = Date.now();
    this.update();
    try {
      await cancel(this.id);
    } catch (error) {
      this.cancelling = 0;
      showProblem(error);
      this.update();
    }
  }

  /** @param {Job} job */
  async #again(job) {
    // Deleting again asks again: a new model may have the id by now.
    const model =
      job.operation === "model_delete" && isOurs(job) ? hive.models.get(job.request.id) : undefined;
    if (model) return openDelete(model);
    const id = await act(job.request);
    if (id) location.hash = link("jobs", id);
  }

  /** @param {Job} job */
  async #curl(job) {
    await copy(curl(job.request, hasToken()));
    showNote(hasToken() ? "Copied. The command reads the token from $RBEE_HIVE_TOKEN." : "Copied.");
  }

  /** @param {Job} job */
  #result(job) {
    if (job.result === null || job.result === undefined) return null;
    /** @type {(name: string, label: string) => HTMLElement} */
    const tab = (name, label) =>
      h(
        "button",
        {
          type: "button",
          class: "small",
          "aria-pressed": String(this.tab === name),
          onclick: () => ((this.tab = name), this.update()),
        },
        label,
      );
    return h(
      "section",
      { class: "card", "aria-labelledby": "result-title" },
      h(
        "div",
        { class: "card-head" },
        h("h2", { id: "result-title" }, "Result"),
        h(
          "div",
          { class: "tabs", role: "group", "aria-label": "Format of the result" },
          tab("rendered", "Formatted"),
          tab("json", "JSON"),
        ),
      ),
      this.tab === "json"
        ? code(JSON.stringify(job.result, null, 2), "json")
        : resultOf(job.operation, job.result, isOurs(job)),
    );
  }

  /** @param {Job} job */
  #progress(job) {
    if (job.ended_at) return null;
    const last = this.narrations.findLast((narration) => narration.progress);
    if (!last?.progress) return null;
    return h(
      "section",
      { class: "card", "aria-label": "Progress" },
      progressBar(last.progress, `Progress of: ${title(job)}`),
      h("p", { class: "num muted" }, progressText(last.progress)),
    );
  }

  /** The time that each run of narrations of one action took, as bars. @param {Job} job */
  #phases(job) {
    const { narrations } = this;
    if (narrations.length < 2) return null;
    const begin = Date.parse(narrations[0].at);
    const end = job.ended_at
      ? Date.parse(job.ended_at)
      : Math.max(Date.now(), Date.parse(narrations[narrations.length - 1].at));
    /** @type {Phase[]} */
    let phases = [];
    for (const { action, at, level } of narrations) {
      if (level === "debug") continue;
      const last = phases[phases.length - 1];
      const time = Date.parse(at);
      if (last) last.to = time;
      if (last?.action === action) {
        if (LEVELS.indexOf(level) > LEVELS.indexOf(last.level)) last.level = level;
      } else phases.push({ action, from: time, to: end, level });
    }
    if (phases.length) phases[phases.length - 1].to = end;
    const length = Math.max(1, end - begin);
    if (phases.length > MOST_PHASES) {
      // Keeps the longest ones, in their order.
      const least = phases.map(({ from, to }) => to - from).sort((a, b) => b - a)[MOST_PHASES - 1];
      phases = phases.filter(({ from, to }) => to - from >= least).slice(0, MOST_PHASES);
    }
    if (phases.length < 2) return null;
    return h(
      "section",
      { class: "card", "aria-labelledby": "phases-title" },
      h("h2", { id: "phases-title" }, "Where the time went"),
      h(
        "ul",
        { class: "phases" },
        ...phases.map(({ action, from, to, level }) =>
          h(
            "li",
            { "data-level": level },
            h("span", { class: "phase-name", title: action }, step(action, job.operation)),
            h(
              "span",
              { class: "phase-track", "aria-hidden": "true" },
              h("span", {
                class: "phase-bar",
                style: {
                  "margin-inline-start": `${((100 * (from - begin)) / length).toFixed(2)}%`,
                  "inline-size": `${Math.max(0.4, (100 * (to - from)) / length).toFixed(2)}%`,
                },
              }),
            ),
            h("span", { class: "num muted" }, to > from ? duration((to - from) / 1000) : "< 1 ms"),
          ),
        ),
      ),
    );
  }

  /** @param {Job} job */
  #makeRows(job) {
    const key = `${this.narrations.length} ${this.level} ${this.search} ${job.ended_at}`;
    if (key === this.#rowsKey) return;
    this.#rowsKey = key;
    const least = LEVELS.indexOf(this.level);
    const search = this.search.toLowerCase();
    const begin = this.narrations.length ? Date.parse(this.narrations[0].at) : 0;
    /** @type {Row[]} */
    const rows = [];
    let repeats = 0;
    this.narrations.forEach((narration, index) => {
      if (LEVELS.indexOf(narration.level) < least) return;
      if (search && !`${narration.message} ${narration.action}`.toLowerCase().includes(search)) return;
      const next = this.narrations[index + 1];
      // Several progress reports in a row become one row: the last of them.
      if (narration.progress && next?.progress && next.action === narration.action) {
        repeats += 1;
        return;
      }
      const time = Date.parse(narration.at);
      const until = next ? Date.parse(next.at) : job.ended_at ? Date.parse(job.ended_at) : null;
      rows.push({
        narration,
        after: (time - begin) / 1000,
        took: until === null ? null : (until - time) / 1000,
        repeats,
      });
      repeats = 0;
    });
    // Unchanged rows keep their identity, and with it their measured height.
    this.rows = rows.map((row, index) => {
      const before = this.rows[index];
      return before && before.narration === row.narration && before.took === row.took ? before : row;
    });
  }

  /** @param {Job} job */
  #timeline(job) {
    this.#makeRows(job);
    return h(
      "section",
      { class: "card", "aria-labelledby": "timeline-title" },
      h(
        "div",
        { class: "card-head wrap" },
        h("h2", { id: "timeline-title" }, "Narration"),
        h(
          "span",
          { class: "muted num" },
          count(this.rows.length),
          this.rows.length === this.narrations.length ? "" : ` of ${count(this.narrations.length)}`,
        ),
        ...logControls(this, "the narration", "debug", (level) => remember("job.level", level)),
      ),
      logList(this, {
        class: "timeline",
        "aria-label": "Narration",
        ".row": timelineRow,
        ".items": this.rows,
      }),
      this.rows.length === 0
        ? job.ended_at
          ? h("p", { class: "muted" }, "Nothing to show at this level.")
          : waiting(
              job.state === "queued"
                ? "Queued: it starts when another job of its kind ends"
                : "Waiting for the first message",
              this.since,
            )
        : null,
    );
  }
}

/** How to get the engine that the model of a job needs. @param {Job} job */
function adviceFor({ request }) {
  const model = hive.models.get(hive.modelOf(request.id ?? request.model ?? ""));
  return engineAdvice(model?.engine_advice, model?.name ?? "");
}

/** @param {Row} row */
function timelineRow({ narration, after, took, repeats }) {
  const { level, action, message, progress } = narration;
  return h(
    "div",
    { class: "row", "data-level": level },
    h(
      "time",
      { class: "num muted", datetime: narration.at, title: clock(narration.at) },
      `+${after < 10 ? after.toFixed(3) : after.toFixed(1)}`,
    ),
    h("span", { class: "row-mark", title: level }, h("span", { class: "visually-hidden" }, level)),
    h("span", { class: "row-text" }, message, progress ? progressBar(progress, action) : null),
    h(
      "span",
      { class: "row-action muted", title: action },
      step(action, narration.operation),
      repeats ? ` ×${repeats + 1}` : "",
    ),
    h("span", { class: "num muted row-took" }, took !== null && took >= 0.05 ? duration(took) : ""),
  );
}

customElements.define("hive-job", JobPage);
