// One job in place: what it says now, how far it is, the way out. For wherever an action is waited
// for. It reads the store alone; the job's own page opens its stream.

import { Problem, cancel } from "../lib/api.js";
import { h, icon } from "../lib/dom.js";
import { between, duration, progressText } from "../lib/format.js";
import { hive } from "../lib/hive.js";
import { isDownload, stateWord, title } from "../lib/jobs.js";
import { View, link } from "../lib/view.js";
import { button, chip, progressBar } from "./parts.js";

export class JobStrip extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["jobs"];
  static tick = 1000;
  /** The job's id. */
  job = "";
  /** @type {string} */
  #trouble = "";

  draw() {
    const job = hive.jobs.get(this.job);
    if (!job) return h("p", { class: "muted" }, "Waiting for the job's first words");
    const running = !job.ended_at;
    const seconds = between(job.started_at ?? job.created_at, job.ended_at);
    const pause = isDownload(job);
    return h(
      "div",
      { class: "strip", "data-state": job.state },
      h(
        "div",
        { class: "strip-head" },
        chip(job.state, stateWord(job)),
        h("a", { href: link("jobs", job.job_id), class: "strip-title" }, title(job)),
        h("span", { class: "muted num" }, running ? duration(Math.floor(seconds) || 0).replace(/^0 ms$/, "0 s") : duration(seconds)),
        running ? button(pause ? "Pause" : "Cancel", () => this.#cancel(), { class: "small" }, icon(pause ? "pause" : "close")) : null,
      ),
      job.progress && running ? progressBar(job.progress, `Progress of: ${title(job)}`) : null,
      h(
        "p",
        { class: "strip-text" },
        job.failure ? `${job.failure.message}${job.failure.hint ? `. ${job.failure.hint}` : ""}` : running && job.progress ? progressText(job.progress) : (job.message ?? (job.state === "queued" ? "Waits for a free place behind other jobs of its kind" : "")),
      ),
      this.#trouble ? h("p", { class: "field-error", role: "alert" }, this.#trouble) : null,
    );
  }

  async #cancel() {
    try {
      await cancel(this.job);
    } catch (error) {
      this.#trouble = Problem.of(error).message;
      this.update();
    }
  }
}

customElements.define("job-strip", JobStrip);

/** @param {string} id */
export const jobStrip = (id) => h("job-strip", { key: id, ".job": id });

/** Resolves with the job once it has ended, as the store hears of it.
 * @param {string} id @param {AbortSignal} [signal] @returns {Promise<import("../lib/types.js").Job>} */
export function ended(id, signal) {
  return new Promise((resolve, reject) => {
    const done = new AbortController();
    const look = () => {
      const job = hive.jobs.get(id);
      if (!job?.ended_at) return;
      done.abort();
      resolve(job);
    };
    signal?.addEventListener("abort", () => (done.abort(), reject(signal.reason)), { once: true, signal: done.signal });
    hive.on(["jobs"], look, done.signal);
    look();
  });
}
