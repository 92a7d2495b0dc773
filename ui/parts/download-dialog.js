// The download dialog: first the plan, then the transfer. A transfer continues when the dialog closes;
// the page of the models shows it too.

import { Problem, follow, submit } from "../lib/api.js";
import { h, icon } from "../lib/dom.js";
import { to } from "../lib/fleet.js";
import { bytes } from "../lib/format.js";
import { hive } from "../lib/hive.js";
import { PlanView, accessTo } from "../lib/plan.js";
import { SOURCES, kindOf } from "../lib/sources.js";
import { recall, remember } from "../lib/storage.js";
import { link } from "../lib/view.js";
import { closeDialog, dialogHead, openDialog } from "./dialog.js";
import { engineAdvice } from "./engines.js";
import { field, onSubmit, onValue, tick } from "./fields.js";
import { openLoad } from "./load-dialog.js";
import { button, factList, failureBox, retryBox, stack, waiting } from "./parts.js";
import { transfer } from "./transfer.js";
import { act } from "./toasts.js";
import { ANY, whereField } from "./where-field.js";

/** @typedef {import("../lib/types.js").Plan} Plan */
/** @typedef {import("../lib/types.js").Narration} Narration */
/** @typedef {{level: string, message: string}} Note */

/** The most messages that are shown below a transfer. */
const MOST_NOTES = 4;

class DownloadDialog extends PlanView {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["jobs", "fleet"];
  source = recall("download.source", "");
  revision = "";
  force = false;
  /** The hive that gets it, or `any`. */
  where = hive.fleet?.hive ?? "";
  /** Which hive would get it, and why, where the fleet chooses. */
  placed = "";
  /** @type {Plan|null} */
  plan = null;
  /** The messages of the dry run. @type {Note[]} */
  planNotes = [];
  /** The job that downloads. */
  job = "";
  /** Its last messages other than progress. @type {Narration[]} */
  notes = [];

  request() {
    const revision = this.revision.trim();
    return {
      model: this.source.trim(),
      ...(revision ? { revision } : {}),
      ...(this.force ? { force: true } : {}),
      ...to(this.where),
    };
  }

  #changed() {
    this.plan = this.problem = null;
    this.planNotes = [];
    this.placed = "";
    this.stopPlanning();
    this.update();
  }

  async #showPlan() {
    this.#changed();
    remember("download.source", this.source);
    const onMessage = (/** @type {string} */ message, /** @type {string} */ level) => {
      if (this.where === ANY && !this.placed) this.placed = message;
      // The first message repeats the request.
      else if (!message.startsWith("📥")) this.planNotes = [...this.planNotes, { level, message }];
      this.update();
    };
    await this.requestPlan(
      "Asking the source",
      { ModelDownload: { ...this.request(), dry_run: true } },
      { onMessage },
    );
  }

  async #download() {
    const operation = { ModelDownload: this.request() };
    // A link takes no time, so there is no progress to show; that of another hive is with its job.
    if (this.plan?.transfer_bytes === 0 || operation.ModelDownload.hive_id) {
      closeDialog(this);
      await act(operation);
      return;
    }
    this.problem = null;
    this.notes = [];
    try {
      this.job = await submit(operation);
      this.update();
      await follow(this.job, (events) => this.#apply(events), { rests: this.life.signal });
    } catch (error) {
      if (!this.life.signal.aborted) this.problem = Problem.of(error);
    }
    this.update();
  }

  /** @param {import("../lib/types.js").JobEvent[]} events */
  #apply(events) {
    for (const { event, data } of events) {
      if (
        event === "narration" &&
        data.level !== "debug" &&
        !data.progress &&
        data.action !== "model_download"
      )
        this.notes = [...this.notes, data].slice(-MOST_NOTES);
    }
    this.update();
  }

  draw() {
    return this.job ? this.#transfer() : this.#form();
  }

  #form() {
    const { plan, planning, problem } = this;
    const kind = kindOf(this.source);
    const source = h("input", {
      id: "dl-source",
      class: "mono",
      ".value": this.source,
      autocomplete: "off",
      autocapitalize: "off",
      spellcheck: "false",
      required: true,
      autofocus: true,
      placeholder: "org/repo:Q4_K_M",
      oninput: onValue((value) => ((this.source = value), this.#changed())),
    });
    const ready = plan !== null && !plan.already_present && (plan.fits || this.force);
    const choices = problem?.choices ?? [];
    const isHere = this.where === (hive.fleet?.hive ?? "");
    return h(
      "form",
      { onsubmit: onSubmit(() => (ready ? this.#download() : this.#showPlan())) },
      dialogHead(this, "Download a model"),
      field(
        "Source",
        source,
        kind ? `${kind.name}: ${kind.about}` : "A repository, an Ollama model, a URL or a path",
      ),
      whereField("dl-where", this.where, (where) => ((this.where = where), this.#changed())),
      plan || planning || problem ? null : sources(kind?.name),
      h(
        "details",
        null,
        h("summary", null, "Options"),
        h(
          "div",
          { class: "stacked-fields" },
          field(
            "Revision",
            h("input", {
              id: "dl-revision",
              class: "mono",
              ".value": this.revision,
              placeholder: "main",
              autocomplete: "off",
              spellcheck: "false",
              oninput: onValue((value) => ((this.revision = value), this.#changed())),
            }),
            "A branch, tag or commit of a Hugging Face repository.",
          ),
          tick(
            "Download again, and replace a model of the same name that the hive has downloaded",
            this.force,
            (checked) => ((this.force = checked), this.#changed()),
          ),
        ),
      ),
      planning
        ? waiting(
            planning.message,
            planning.since,
            button("Stop", () => (this.stopPlanning(), this.update()), { class: "small" }),
          )
        : null,
      choices.length ? this.#choices(choices) : problem ? failureBox(problem) : null,
      plan && this.placed ? h("p", { class: "help" }, this.placed) : null,
      plan ? planned(plan, this.source.trim(), this.planNotes, isHere) : null,
      isHere ? engineAdvice(plan?.engine_advice, plan?.model ?? "", () => this.#showPlan()) : null,
      h(
        "div",
        { class: "actions end" },
        button("Close", () => closeDialog(this)),
        plan && ready
          ? h(
              "button",
              { type: "submit", class: "primary" },
              icon("download"),
              h(
                "span",
                null,
                plan.transfer_bytes === 0
                  ? "Add it"
                  : plan.transfer_bytes === null
                    ? "Download"
                    : `Download ${bytes(plan.transfer_bytes)}`,
              ),
            )
          : h(
              "button",
              {
                type: "submit",
                class: "primary",
                disabled: !this.source.trim() || planning !== null,
              },
              h("span", null, plan ? "Update the plan" : "Show the plan"),
            ),
      ),
    );
  }

  /** The models that an ambiguous name matches, as buttons.
   * @param {import("../lib/types.js").Choice[]} choices */
  #choices(choices) {
    const bare = (/** @type {string} */ model) => model.replace(/^[^/]+\/[^/:]+[:/]/, "");
    return h(
      "section",
      { class: "choices", "aria-labelledby": "choices-title" },
      h("h3", { id: "choices-title" }, "Which one?"),
      h(
        "p",
        { class: "muted" },
        this.problem?.code === "model_ambiguous"
          ? "The name matches several models."
          : (this.problem?.message.split(": ")[0] ?? ""),
      ),
      h(
        "ul",
        null,
        ...choices.map(({ model, size_bytes: size, recommended }) =>
          h(
            "li",
            { key: model },
            h(
              "button",
              {
                type: "button",
                class: recommended ? "recommended" : "",
                title: model,
                onclick: () => ((this.source = model), this.#showPlan()),
              },
              h("span", { class: "mono" }, bare(model)),
              recommended ? h("span", { class: "tag" }, "recommended") : null,
              h("span", { class: "num muted" }, bytes(size)),
            ),
          ),
        ),
      ),
    );
  }

  #transfer() {
    const job = hive.jobs.get(this.job);
    const model = job?.state === "succeeded" ? (hive.models.get(job.result?.id) ?? job.result) : null;
    return h(
      "div",
      { class: "form" },
      dialogHead(this, model ? "Download complete" : "Download a model"),
      transfer({ job: this.job, source: this.source.trim(), again: () => this.#download() }),
      retryBox(this.problem, () => this.#download()),
      this.notes.length ? noteList("Messages of the transfer", this.notes) : null,
      h(
        "div",
        { class: "actions end" },
        job
          ? h(
              "a",
              {
                class: "button quiet",
                href: link("jobs", this.job),
                onclick: () => closeDialog(this),
              },
              "All messages",
            )
          : null,
        button(job && !job.ended_at ? "Continue in the background" : "Close", () => closeDialog(this)),
        model?.id
          ? button("Load it", () => (closeDialog(this), openLoad(model)), { class: "primary" }, icon("play"))
          : null,
      ),
    );
  }
}

/** Messages of a job with their levels. @param {string} label @param {Note[]} notes */
function noteList(label, notes) {
  return h(
    "ul",
    { class: "notes", "aria-label": label },
    ...notes.map(({ level, message }) =>
      h("li", { "data-level": level }, h("span", { class: "row-mark", "aria-hidden": "true" }), message),
    ),
  );
}

/** The forms of a source. @param {string|undefined} now the kind that the typed source looks like */
function sources(now) {
  return h(
    "dl",
    { class: "sources" },
    ...SOURCES.toReversed().map(({ name, example, about }) =>
      h(
        "div",
        { key: name, class: name === now ? "now" : "" },
        h("dt", null, name),
        h("dd", null, h("code", null, example), h("span", { class: "muted" }, about)),
      ),
    ),
  );
}

/** @param {Plan} plan @param {string} requested @param {Note[]} notes
 * @param {boolean} isHere whether it is about this hive's disk */
function planned(plan, requested, notes, isHere) {
  const disk = isHere ? hive.telemetry?.system : undefined;
  const need = plan.transfer_bytes ?? 0;
  const total = disk?.disk_total_bytes || plan.free_bytes;
  const used = Math.max(0, total - plan.free_bytes);
  const here =
    plan.total_bytes !== null && plan.transfer_bytes !== null && plan.transfer_bytes > 0
      ? plan.total_bytes - plan.transfer_bytes
      : 0;
  return h(
    "section",
    { class: "plan", "aria-label": "The plan" },
    h(
      "h3",
      null,
      plan.already_present ? "Already downloaded" : plan.fits ? "The plan" : "It does not fit on the disk",
    ),
    factList([
      ["Model", plan.model],
      ["Access", accessTo(plan)],
      ["From", plan.source === requested ? null : h("span", { class: "mono" }, plan.source)],
      [
        "To transfer",
        plan.transfer_bytes === null
          ? "unknown: the server does not report the size"
          : need > 0
            ? [
                h("strong", { class: "num" }, bytes(plan.transfer_bytes)),
                here > 0
                  ? h(
                      "span",
                      { class: "muted num" },
                      ` ${bytes(here)} of ${bytes(plan.total_bytes)} already downloaded`,
                    )
                  : null,
              ]
            : "nothing: the file is linked or already here",
      ],
    ]),
    h(
      "ul",
      { class: "files", "aria-label": "Files" },
      ...plan.files.map((file) =>
        h(
          "li",
          { key: file.name },
          h("span", { class: "mono" }, file.name),
          h("span", { class: "num muted" }, bytes(file.size_bytes)),
        ),
      ),
    ),
    need
      ? h(
          "div",
          { class: "measure" },
          h(
            "p",
            null,
            h("span", null, "Disk"),
            h(
              "span",
              { class: "num muted" },
              `${bytes(plan.free_bytes)} free`,
              plan.fits ? `, ${bytes(Math.max(0, plan.free_bytes - need))} after the download` : "",
            ),
          ),
          stack(
            [
              { size: used, kind: "used" },
              { size: need, kind: plan.fits ? "new" : "over" },
            ],
            total,
            `Of ${bytes(total)} disk, ${bytes(used)} are used and ${bytes(need)} would be added`,
          ),
        )
      : null,
    notes.length ? noteList("Messages of the source", notes) : null,
  );
}

customElements.define("download-dialog", DownloadDialog);

/** The button that opens it. */
export const downloadButton = () =>
  button(
    "Download a model",
    () => openDialog(new DownloadDialog(), "Download a model"),
    { class: "primary", needs: "ModelDownload" },
    icon("download"),
  );
