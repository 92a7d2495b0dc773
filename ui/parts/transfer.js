// One download: its progress, rate and connections, and buttons to pause, resume or discard it. It reads
// only the store.

import { Problem, cancel } from "../lib/api.js";
import { h, icon } from "../lib/dom.js";
import { bytes, count, duration, percent } from "../lib/format.js";
import { RATES, hive } from "../lib/hive.js";
import { shortSource, stateWord } from "../lib/jobs.js";
import { partialsOf } from "../lib/sources.js";
import { View, link } from "../lib/view.js";
import { openDiscard } from "./delete-dialog.js";
import { graph } from "./graph.js";
import { button, chip, progressBar } from "./parts.js";

class Transfer extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["jobs", "models", "connection"];
  /** The job; empty for a partial whose job the hive no longer lists. */
  job = "";
  source = "";
  /** Starts the download again, or resumes it. @type {() => void} */
  again = () => {};
  /** A further action. @type {HTMLElement|null} */
  more = null;
  #stopping = 0;
  #problem = "";

  draw() {
    const job = hive.jobs.get(this.job);
    const partials = partialsOf(this.source, hive.models.values());
    const running = this.job !== "" && !job?.ended_at;
    if (!running) this.#stopping = 0;
    const state = running
      ? (job?.state ?? "queued")
      : partials.length
        ? "incomplete"
        : (job?.state ?? "incomplete");
    const name = shortSource(this.source);
    return h(
      "article",
      { class: "transfer", "data-state": state, "aria-label": `Download of ${name}` },
      h(
        "div",
        { class: "transfer-head" },
        this.job
          ? h("a", { class: "transfer-name", href: link("jobs", this.job), title: this.source }, name)
          : h("span", { class: "transfer-name", title: this.source }, name),
        chip(this.#stopping ? "stopping" : state, this.#word(job, running, partials.length > 0)),
        h("div", { class: "actions" }, ...this.#actions(running, partials, job)),
      ),
      ...(running ? this.#live(job) : this.#still(job, partials)),
      this.#problem ? h("p", { class: "field-error", role: "alert" }, icon("alert"), this.#problem) : null,
    );
  }

  /** @param {import("../lib/types.js").Job|undefined} job @param {boolean} running @param {boolean} kept */
  #word(job, running, kept) {
    if (this.#stopping) return "Pausing";
    if (running)
      return hive.connection.state === "lost"
        ? "Unknown"
        : job?.state === "queued"
          ? "Queued"
          : "Downloading";
    if (job?.failure?.code === "interrupted") return "Interrupted";
    return job ? stateWord(job) : kept ? "Paused" : "Removed";
  }

  /** @param {boolean} running @param {import("../lib/types.js").Model[]} partials
   * @param {import("../lib/types.js").Job|undefined} job */
  #actions(running, partials, job) {
    if (running)
      return [
        button(
          "Pause",
          () => this.#pause(),
          {
            class: "small",
            disabled: this.#stopping > 0 || hive.connection.state === "lost",
            needs: "ModelDownload",
          },
          icon("pause"),
        ),
      ];
    if (job?.state === "succeeded") return [];
    return [
      button(
        partials.length ? "Resume" : "Try again",
        () => this.again(),
        { class: "small", needs: "ModelDownload" },
        icon(partials.length ? "play" : "again"),
      ),
      partials.length
        ? button(
            "Discard",
            () => openDiscard(partials),
            { class: "small quiet", needs: "ModelDelete" },
            icon("trash"),
          )
        : null,
      this.more,
    ];
  }

  /** @param {import("../lib/types.js").Job|undefined} job */
  #live(job) {
    const progress = job?.progress;
    if (!progress)
      return [
        progressBar({ done: 0, unit: "bytes" }, "Progress of the download"),
        h(
          "p",
          { class: "transfer-text muted" },
          job?.state === "queued"
            ? "Queued: the hive runs only a few downloads at a time"
            : (job?.message ?? "Waiting for the server"),
        ),
      ];
    const { done, total, rate_per_second: rate, eta_seconds: eta, connections } = progress;
    const rates = hive.rates.get(this.job) ?? [];
    /** @type {(name: string, value: string) => HTMLElement} */
    const number = (name, value) => h("div", null, h("dt", null, name), h("dd", { class: "num" }, value));
    return [
      progressBar(progress, "Progress of the download"),
      h(
        "div",
        { class: "transfer-numbers" },
        h(
          "dl",
          { class: "numbers" },
          number("Done", total ? `${Math.floor(percent(done, total))} %` : "–"),
          number("Bytes", total ? `${bytes(done)} of ${bytes(total)}` : bytes(done)),
          number("Rate", rate ? `${bytes(rate)}/s` : "stalled"),
          number("Time left", eta !== null && eta !== undefined && rate ? duration(eta) : "–"),
          number("Connections", connections ? count(connections) : "none"),
        ),
        graph(rates, {
          most: Math.max(1, ...rates),
          slots: RATES,
          label: `Rate of the last minute, now ${bytes(rate ?? 0)} a second`,
        }),
      ),
    ];
  }

  /** @param {import("../lib/types.js").Job|undefined} job
   * @param {import("../lib/types.js").Model[]} partials */
  #still(job, partials) {
    if (job?.state === "succeeded")
      return [
        h(
          "p",
          { class: "transfer-text muted num" },
          `${job.result?.id ?? "The model"}: ${bytes(job.result?.size_bytes)}, checked and in the catalog.`,
        ),
      ];
    const kept = partials.reduce((sum, model) => sum + model.size_bytes, 0);
    const total = job?.progress?.total ?? 0;
    return [
      total && kept ? progressBar({ done: kept, total, unit: "bytes" }, "Downloaded so far") : null,
      job?.failure && job.failure.code !== "interrupted"
        ? h(
            "p",
            { class: "transfer-text" },
            job.failure.message,
            job.failure.hint ? h("span", { class: "muted" }, ` ${job.failure.hint}`) : null,
          )
        : null,
      job?.failure?.code === "interrupted"
        ? h("p", { class: "transfer-text muted" }, "The hive stopped during the download.")
        : null,
      kept
        ? h(
            "p",
            { class: "transfer-text muted num" },
            `${bytes(kept)}${total ? ` of ${bytes(total)}` : ""} are kept; resuming continues from there.`,
          )
        : null,
    ];
  }

  async #pause() {
    this.#stopping = Date.now();
    this.#problem = "";
    this.update();
    try {
      await cancel(this.job);
    } catch (error) {
      this.#stopping = 0;
      this.#problem = Problem.of(error).message;
    }
    this.update();
  }
}

customElements.define("download-transfer", Transfer);

/** @param {{job: string, source: string, again: () => void, more?: HTMLElement|null}} what */
export const transfer = ({ job, source, again, more = null }) =>
  h("download-transfer", {
    key: `${job} ${source}`,
    ".job": job,
    ".source": source,
    ".again": again,
    ".more": more,
  });
