// Engines: the list of those that are installed and could be, and how to get the one that a model needs.

import { h, icon } from "../lib/dom.js";
import { ORIGINS, engines, jobOf, knowEngines, refreshEngines } from "../lib/engines.js";
import { ago, bytes, sentence } from "../lib/format.js";
import { hive } from "../lib/hive.js";
import { View } from "../lib/view.js";
import { closeDialog, dialogHead, openDialog } from "./dialog.js";
import { onSubmit } from "./fields.js";
import { jobStrip } from "./job-strip.js";
import { button, chip, factList, retryBox, waiting } from "./parts.js";
import { act } from "./toasts.js";

/** @typedef {import("../lib/engines.js").Engine} Engine */
/** @typedef {import("../lib/types.js").EngineAdvice} Advice */

/** @param {string} id @param {string} [version] */
const install = (id, version) => act({ WorkerInstall: { worker_id: id, ...(version ? { version } : {}) } });

class EngineList extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["engines", "jobs"];

  start() {
    knowEngines();
  }

  draw() {
    if (!engines.isOffered) return null;
    const list = engines.list();
    return h(
      "section",
      { class: "card", "aria-labelledby": "engines-title", "aria-busy": engines.reading ? "true" : null },
      h(
        "div",
        { class: "card-head" },
        h("h2", { id: "engines-title" }, "Engines"),
        button(
          "Look again",
          () => refreshEngines(true),
          { class: "small", disabled: engines.reading > 0 },
          icon("again"),
        ),
      ),
      h(
        "p",
        { class: "muted small-text" },
        "Workers run them. The built-in one is always here; these run more models, some on GPUs.",
      ),
      list.length ? h("ul", { class: "lines engines" }, ...list.map(entry)) : null,
      engines.reading && !engines.isKnown
        ? waiting("Asking which engines there are", engines.reading)
        : null,
      engines.isKnown && !list.length && !engines.problem
        ? h("p", { class: "muted" }, "No engine can be installed on this machine.")
        : null,
      retryBox(engines.problem, () => refreshEngines()),
    );
  }
}

/** @param {Engine} engine */
function entry({ id, offer, installed, failed }) {
  const job = jobOf(id);
  const isBusy = Boolean(job && !job.ended_at);
  const newer = offer?.version && offer.version !== installed?.version ? offer.version : null;
  const named = (/** @type {string} */ verb, kind = "") => ({
    class: `small ${kind}`,
    "aria-label": `${verb} ${id}`,
    disabled: isBusy,
    needs: verb === "Remove" ? "WorkerRemove" : "WorkerInstall",
  });
  const before = installed?.previous?.version;
  return h(
    "li",
    { key: id },
    h(
      "div",
      { class: "engine-head" },
      h("h3", null, id),
      installed ? chip("ready", "Installed") : null,
      offer?.recommended ? h("span", { class: "tag" }, "recommended") : null,
      h(
        "div",
        { class: "actions" },
        !installed && offer && !offer.problem
          ? button("Install", () => install(id), named("Install", "primary"), icon("download"))
          : null,
        installed && newer && !offer?.problem
          ? button("Update", () => install(id), named("Update"), icon("up"))
          : null,
        before ? button("Go back", () => install(id, before), named("Go back with"), icon("again")) : null,
        installed ? button("Remove", () => openRemove(id), named("Remove"), icon("trash")) : null,
      ),
    ),
    h("p", { class: "muted num" }, about(installed, offer)),
    offer?.reason && !offer.problem ? h("p", null, `${sentence(offer.reason)}.`) : null,
    installed && newer ? h("p", null, `Version ${newer} is there (${bytes(offer?.size ?? null)}).`) : null,
    before ? h("p", { class: "muted" }, `The version before, ${before}, is still here.`) : null,
    offer?.problem ? cannotInstall(offer.problem) : null,
    job && (isBusy || job.state === "failed") ? jobStrip(job.job_id) : null,
    failed.map((build) =>
      h(
        "details",
        { key: build.version },
        h("summary", null, `Version ${build.version} did not prove itself, ${ago(build.failed_at)}`),
        h("p", null, build.reason),
        h("p", { class: "muted mono" }, build.log),
      ),
    ),
  );
}

/** @param {string} why */
const cannotInstall = (why) =>
  h("p", { class: "field-error" }, icon("alert"), h("span", null, `It cannot be installed now: ${why}`));

/** @param {import("../lib/types.js").InstalledEngine|null} installed
 * @param {import("../lib/types.js").EngineOffer|null} offer */
function about(installed, offer) {
  const from = installed?.from ?? offer?.from ?? "";
  const size = installed?.size ?? offer?.size ?? null;
  return [
    installed ? installed.version : (offer?.version ?? "version unknown"),
    size === null ? null : bytes(size),
    offer?.devices?.join(", "),
    ORIGINS[from] ?? from,
    installed ? `installed ${ago(installed.added_at)}` : null,
  ]
    .filter(Boolean)
    .join(" · ");
}

class RemoveEngine extends View {
  engine = "";

  async #remove() {
    closeDialog(this);
    await act({ WorkerRemove: { worker_id: this.engine } });
  }

  draw() {
    const installed = engines.list().find(({ id }) => id === this.engine)?.installed;
    return h(
      "form",
      { onsubmit: onSubmit(() => this.#remove()) },
      dialogHead(this, `Remove ${this.engine}?`),
      factList([
        ["Version", installed?.version],
        ["The one before", installed?.previous?.version],
        ["Size", installed ? bytes(installed.size) : null],
        ["Program", installed ? h("span", { class: "mono" }, installed.path) : null],
      ]),
      h(
        "p",
        { class: "muted" },
        "Models that no other engine runs cannot be loaded then. It is refused while a worker runs it.",
      ),
      h(
        "div",
        { class: "actions end" },
        button("Keep it", () => closeDialog(this), { autofocus: true }),
        h("button", { type: "submit", class: "danger" }, icon("trash"), h("span", null, "Remove")),
      ),
    );
  }
}

/** @param {string} id */
function openRemove(id) {
  const view = new RemoveEngine();
  view.engine = id;
  openDialog(view, `Remove ${id}`);
}

class EngineAdvice extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["engines", "jobs"];
  /** @type {Advice|null} */
  advice = null;
  /** What needs it. */
  name = "";
  /** Called once it is installed. @type {(() => void)|null} */
  installed = null;
  /** The job that installs it. @type {string} */
  #job = "";

  start() {
    knowEngines();
  }

  /** The id of the engine to install. */
  #id() {
    const advised = this.advice?.worker_id ?? "";
    return engines.toInstall(advised)?.id ?? advised;
  }

  #running() {
    const job = jobOf(this.#id());
    return job && !job.ended_at ? job.job_id : undefined;
  }

  async #install() {
    this.#job = (await install(this.#id())) ?? "";
    this.update();
  }

  drawn() {
    if (!this.#job || hive.jobs.get(this.#job)?.state !== "succeeded") return;
    this.#job = "";
    this.installed?.();
  }

  draw() {
    const { advice } = this;
    if (!advice) return null;
    const offer = engines.toInstall(advice.worker_id);
    // Another part of the page, or another client, may have started it.
    this.#job ||= this.#running() ?? "";
    const job = hive.jobs.get(this.#job);
    const size = offer?.size ? ` (${bytes(offer.size)})` : "";
    return h(
      "div",
      { class: "advice", role: "group", "aria-label": "The engine that it needs" },
      h("p", null, `No engine here runs ${this.name}; ${advice.detail}.`),
      offer?.problem ? cannotInstall(offer.problem) : null,
      job ? jobStrip(job.job_id) : null,
      engines.isOffered && (!job || job.ended_at) && !offer?.problem
        ? button(
            `Install ${this.#id()}${size}`,
            () => this.#install(),
            { class: "primary", needs: "WorkerInstall" },
            icon("download"),
          )
        : null,
    );
  }
}

customElements.define("engine-list", EngineList);
customElements.define("remove-engine", RemoveEngine);
customElements.define("engine-advice", EngineAdvice);

export const engineList = () => h("engine-list", { key: "engines" });

/** How to get the engine that something needs; nothing where it needs none.
 * @param {Advice|null|undefined} advice @param {string} name what needs it
 * @param {() => void} [installed] called once it is installed */
export const engineAdvice = (advice, name, installed) =>
  advice
    ? h("engine-advice", {
        key: `advice ${advice.worker_id} ${name}`,
        ".advice": advice,
        ".name": name,
        ".installed": installed ?? null,
      })
    : null;
