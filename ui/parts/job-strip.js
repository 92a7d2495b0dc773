// One job in a few lines: its last message, its progress, and a button to cancel it. It reads only the
// store, not the job's stream.

import { Problem, cancel } from "../lib/api.js";
import { h, icon } from "../lib/dom.js";
import { progressText, sentence } from "../lib/format.js";
import { hive } from "../lib/hive.js";
import { isDownload, outcome, stateWord, title } from "../lib/jobs.js";
import { View, link } from "../lib/view.js";
import { button, chip, progressBar, took } from "./parts.js";

export class JobStrip extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["jobs"];
  /** The job's id. */
  job = "";
  /** @type {string} */
  #problem = "";

  draw() {
    const job = hive.jobs.get(this.job);
    if (!job) return h("p", { class: "muted" }, "Waiting for the job");
    const running = !job.ended_at;
    const pause = isDownload(job);
    return h(
      "div",
      { class: "strip", "data-state": job.state },
      h(
        "div",
        { class: "strip-head" },
        chip(job.state, stateWord(job)),
        h("a", { href: link("jobs", job.job_id), class: "strip-title" }, title(job)),
        h("span", { class: "muted num" }, took(job)),
        running
          ? button(
              pause ? "Pause" : "Cancel",
              () => this.#cancel(),
              { class: "small", needs: job.operation },
              icon(pause ? "pause" : "close"),
            )
          : null,
      ),
      job.progress && running ? progressBar(job.progress, `Progress of: ${title(job)}`) : null,
      h(
        "p",
        { class: "strip-text" },
        job.failure
          ? `${job.failure.message}${job.failure.hint ? `. ${sentence(job.failure.hint)}` : ""}`
          : !running
            ? outcome(job)
            : job.progress
              ? progressText(job.progress)
              : (job.message ?? (job.state === "queued" ? "Queued behind other jobs of its kind" : "")),
      ),
      this.#problem ? h("p", { class: "field-error", role: "alert" }, this.#problem) : null,
    );
  }

  async #cancel() {
    try {
      await cancel(this.job);
    } catch (error) {
      this.#problem = Problem.of(error).message;
      this.update();
    }
  }
}

customElements.define("job-strip", JobStrip);

/** @param {string} id */
export const jobStrip = (id) => h("job-strip", { key: id, ".job": id });

/** Resolves with the job once the store shows that it has ended.
 * @param {string} id @param {AbortSignal} [signal] @returns {Promise<import("../lib/types.js").Job>} */
export function ended(id, signal) {
  return new Promise((resolve, reject) => {
    const done = new AbortController();
    const check = () => {
      const job = hive.jobs.get(id);
      if (!job?.ended_at) return;
      done.abort();
      resolve(job);
    };
    signal?.addEventListener("abort", () => (done.abort(), reject(signal.reason)), {
      once: true,
      signal: done.signal,
    });
    hive.on(["jobs"], check, done.signal);
    check();
  });
}
