// The running downloads, and the partials of ended ones.

import { unsettled } from "../lib/catalog.js";
import { h } from "../lib/dom.js";
import { hive } from "../lib/hive.js";
import { isDownload } from "../lib/jobs.js";
import { isPartial, partialsOf } from "../lib/sources.js";
import { recall, remember } from "../lib/storage.js";
import { View } from "../lib/view.js";
import { button } from "./parts.js";
import { transfer } from "./transfer.js";
import { act } from "./toasts.js";

/** Failed downloads that the user has dismissed. @type {string[]} */
let dismissed = recall("models.dismissed", []);

class Downloads extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["models", "jobs"];

  draw() {
    const models = [...hive.models.values()];
    /** @type {Set<string>} */
    const sources = new Set();
    /** @type {Set<string>} */
    const shown = new Set();
    // Of several jobs for one source a running one comes first, then the newest.
    const byState = hive.jobList().sort((a, b) => Number(Boolean(a.ended_at)) - Number(Boolean(b.ended_at)));
    const jobs = byState.filter((job) => {
      const source = job.request.model;
      if (!isDownload(job) || sources.has(source)) return false;
      sources.add(source);
      if (!job.ended_at || unsettled.has(job.job_id)) return true;
      const partials = partialsOf(source, models).filter(({ id }) => !shown.has(id));
      for (const { id } of partials) shown.add(id);
      return (
        job.state !== "succeeded" &&
        (partials.length > 0 || (job.state === "failed" && !dismissed.includes(job.job_id)))
      );
    });
    for (const job of jobs) for (const { id } of partialsOf(job.request.model, models)) shown.add(id);
    const left = models.filter((model) => isPartial(model) && !shown.has(model.id));
    if (jobs.length + left.length === 0) return null;
    return h(
      "section",
      { class: "card downloads", "aria-labelledby": "downloads-title" },
      h("h2", { id: "downloads-title" }, "Downloads"),
      ...jobs.map((job) =>
        transfer({
          job: job.job_id,
          source: job.request.model,
          again: () => act(job.request),
          more:
            job.state === "failed" && partialsOf(job.request.model, models).length === 0
              ? this.#dismiss(job.job_id)
              : null,
        }),
      ),
      ...left.map((model) =>
        transfer({
          job: "",
          source: model.source,
          again: () => act({ ModelDownload: { model: model.source } }),
        }),
      ),
    );
  }

  /** @param {string} job */
  #dismiss(job) {
    return button(
      "Dismiss",
      () => {
        dismissed = [...dismissed, job].slice(-200);
        remember("models.dismissed", dismissed);
        this.update();
      },
      { class: "small quiet" },
    );
  }
}

customElements.define("model-downloads", Downloads);
