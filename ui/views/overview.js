// The overview: the load of the machine, the running jobs, and the next step.

import { Problem, run } from "../lib/api.js";
import { h, icon } from "../lib/dom.js";
import { ago, bytes, duration, elapsed } from "../lib/format.js";
import { HISTORY, canChat, doubtAbout, hive, isServing } from "../lib/hive.js";
import { isReadOnly, stateWord, title } from "../lib/jobs.js";
import { at } from "../lib/place.js";
import { recall, remember } from "../lib/storage.js";
import { View, link } from "../lib/view.js";
import { downloadButton } from "../parts/download-dialog.js";
import { openLoad } from "../parts/load-dialog.js";
import { graph } from "../parts/graph.js";
import { jobStrip } from "../parts/job-strip.js";
import { button, chip, retryBox, waiting } from "../parts/parts.js";
import { memoryCard, waitingCard } from "../parts/residency.js";
import { checks } from "../parts/result.js";

/** A report older than this, in milliseconds, is replaced when the page opens. */
const STALE_MS = 5 * 60_000;

/** The tiles of every machine. */
const TILES = ["CPU", "Memory", "Disk of the models"];

/** The last report, kept when the view is closed. @type {{at: number, report: any}|null} */
let checked = null;

class Overview extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["models", "workers", "jobs", "residency", "telemetry", "connection"];
  static tick = 1000;
  /** @type {number} */
  checking = 0;
  message = "";
  #stop = new AbortController();
  /** @type {Problem|null} */
  problem = null;
  /** The names of the GPUs as last stored. */
  #gpus = "";

  start() {
    if (!checked || Date.now() - checked.at > STALE_MS) this.#check();
  }

  /** Later the measurements come once a second. */
  isMoving() {
    return !hive.telemetry;
  }

  async #check() {
    if (this.checking) return;
    this.checking = Date.now();
    this.problem = null;
    this.#stop = new AbortController();
    try {
      const report = await run(
        { HiveCheck: {} },
        {
          signal: AbortSignal.any([this.life.signal, this.#stop.signal]),
          onMessage: (message) => (this.message = message),
        },
      );
      if (report) checked = { at: Date.now(), report };
    } catch (error) {
      if (!this.life.signal.aborted) this.problem = Problem.of(error);
    }
    this.checking = 0;
    this.update();
  }

  draw() {
    const { telemetry } = hive;
    const info = telemetry?.hive_info;
    const health = info?.health_status;
    return [
      h(
        "div",
        { class: "page-head" },
        h("h1", null, "Overview"),
        health
          ? chip(
              health.status === "healthy" ? "ready" : health.status === "degraded" ? "loading" : "crashed",
              health.reason ?? health.status,
            )
          : null,
        h(
          "p",
          { class: "muted about", key: info ? "about" : "none" },
          info ? `${info.hostname} · rbee-hive ${info.version} · port ${info.port}` : "\u00a0",
        ),
      ),
      this.#machine(),
      hive.hasSnapshot
        ? h(
            "div",
            { class: "columns" },
            h("div", null, this.#next(), waitingCard(), this.#running()),
            h("div", null, memoryCard(), this.#problems()),
          )
        : waiting("Waiting for the hive", hive.asked),
    ];
  }

  #machine() {
    const { telemetry, history } = hive;
    const span =
      history.length > 1 ? duration(Math.round((history[history.length - 1].at - history[0].at) / 1000)) : "";
    /** @param {string} name @param {string} value @param {string} sub
     * @param {Array<number|null>} values @param {Array<number|null>} [beside] */
    const tile = (name, value, sub, values, beside) =>
      h(
        "div",
        // A tile with values is another element than its placeholder, so that it does not count as moved.
        { class: "tile", key: telemetry ? name : `${name}?` },
        h("h2", { title: name }, name),
        h("p", { class: "value num" }, value),
        // The text is aligned at its end: a longer text in the same element would count as moved.
        h("p", { class: `sub num${beside ? " keyed" : ""}`, key: telemetry ? "sub" : sub }, sub),
        graph(values, {
          most: 100,
          slots: HISTORY,
          beside,
          label: `${name}: ${value}, over the last ${span || "moment"}`,
        }),
      );
    // Before the first measurement it draws as many tiles as this machine had before, so that nothing
    // moves when the values arrive.
    if (!telemetry) {
      const since = `waiting for ${elapsed(hive.asked)}`;
      return h(
        "section",
        { class: "tiles", "aria-label": "The machine", "aria-busy": "true" },
        ...[...TILES, ...recall("gpus", [])].map((name) => tile(name, "–", since, [])),
      );
    }
    const { system } = telemetry;
    // GPUs may have the same name: the id tells them apart and names the maker.
    const names = system.gpus.map((gpu) => `${gpu.id} ${gpu.name.replace(/^(NVIDIA|AMD) /, "")}`);
    if (String(names) !== this.#gpus) {
      this.#gpus = String(names);
      remember("gpus", names);
    }
    return h(
      "section",
      { class: "tiles", "aria-label": "The machine, over the last five minutes" },
      tile(
        TILES[0],
        `${Math.round(system.cpu_percent)} %`,
        `of ${system.cpu_count} threads`,
        history.map(({ cpu }) => cpu),
      ),
      tile(
        TILES[1],
        bytes(system.ram_used_bytes),
        `of ${bytes(system.ram_total_bytes)}`,
        history.map(({ ram }) => ram),
      ),
      system.disk_total_bytes
        ? tile(
            TILES[2],
            bytes(system.disk_used_bytes),
            `of ${bytes(system.disk_total_bytes)}`,
            history.map(({ disk }) => disk),
          )
        : null,
      ...system.gpus.map((gpu, index) => {
        const memory = history.map(({ gpus }) => gpus[index]?.memory ?? null);
        const [used, total] = [bytes(gpu.memory_used_bytes), bytes(gpu.memory_total_bytes)];
        // Not every driver reports how busy its GPU is.
        return gpu.utilization_percent === null
          ? tile(names[index], used, `of ${total}`, memory)
          : tile(
              names[index],
              `${gpu.utilization_percent} %`,
              `${used} of ${total}`,
              history.map(({ gpus }) => gpus[index]?.busy ?? null),
              memory,
            );
      }),
    );
  }

  /** The next step of a new user; nothing once a model is loaded. */
  #next() {
    const models = hive.loadableModels().filter(canChat);
    const loaded = [...hive.workers.values()].some(isServing);
    if (loaded) return null;
    const step = models.length === 0 ? 0 : 1;
    const sure = models.filter((model) => !doubtAbout(model));
    const [small] = (sure.length ? sure : models).sort((a, b) => a.size_bytes - b.size_bytes);
    const steps = [
      [
        "Get a model",
        "A GGUF file, from a registry, a URL or this machine's disk.",
        downloadButton(),
      ],
      [
        "Chat with it",
        small
          ? `The first message loads ${small.name} (${bytes(small.size_bytes)}) into memory.` +
            ` ${doubtAbout(small)}`
          : "The first message loads it into memory.",
        small
          ? h(
              "div",
              { class: "actions" },
              h(
                "a",
                { class: "button primary", href: link("chat", small.id) },
                icon("chat"),
                h("span", null, `Chat with ${small.name}`),
              ),
              button(`Load ${small.name}`, () => openLoad(small), { needs: "ModelLoad" }, icon("play")),
            )
          : null,
      ],
      [
        "Use it elsewhere",
        `Any client of the OpenAI API can ask for it, at ${location.origin}${at("/v1")}.`,
        null,
      ],
    ];
    return h(
      "section",
      { class: "card", "aria-labelledby": "next-title" },
      h(
        "div",
        { class: "card-head" },
        h("h2", { id: "next-title" }, step === 0 ? "This hive has no models yet" : "No model is loaded"),
      ),
      h(
        "ol",
        { class: "steps" },
        ...steps.map(([name, text, action], index) =>
          h(
            "li",
            {
              class: index < step ? "done" : index === step ? "now" : "",
              "aria-current": index === step ? "step" : null,
            },
            h(
              "span",
              { class: "hex", "aria-hidden": "true" },
              index < step ? icon("check") : String(index + 1),
            ),
            h(
              "div",
              null,
              h("h3", null, name, index < step ? h("span", { class: "visually-hidden" }, " (done)") : null),
              h("p", { class: "muted" }, text),
              index === step ? action : null,
            ),
          ),
        ),
      ),
    );
  }

  #running() {
    // Loads have a place of their own.
    const loads = new Set(hive.residency?.loads.map(({ job_id }) => job_id));
    const running = hive.runningJobs().filter(({ job_id }) => !loads.has(job_id));
    const recent = hive
      .jobList()
      .filter((job) => job.ended_at && !isReadOnly(job))
      .slice(0, 8 - Math.min(4, running.length));
    return h(
      "section",
      { class: "card", "aria-labelledby": "running-title" },
      h(
        "div",
        { class: "card-head" },
        h("h2", { id: "running-title" }, running.length ? `Running (${running.length})` : "Jobs"),
        h("a", { href: "#/jobs" }, "All jobs"),
      ),
      running.map((job) => jobStrip(job.job_id)),
      recent.length
        ? h(
            "ul",
            { class: "lines" },
            ...recent.map((job) =>
              h(
                "li",
                { key: job.job_id },
                h("a", { href: link("jobs", job.job_id), class: "grow" }, title(job)),
                chip(job.state, stateWord(job)),
                h("span", { class: "muted num" }, ago(job.ended_at ?? job.created_at)),
              ),
            ),
          )
        : running.length
          ? null
          : h(
              "p",
              { class: "muted" },
              "No job has run yet. Every action becomes a job with a message for each step.",
            ),
    );
  }

  #problems() {
    const passed = checked?.report.checks.filter((/** @type {any} */ check) => check.ok) ?? [];
    const failing = checked?.report.checks.filter((/** @type {any} */ check) => !check.ok) ?? [];
    return h(
      "section",
      { class: "card", "aria-labelledby": "check-title" },
      h(
        "div",
        { class: "card-head" },
        h(
          "h2",
          { id: "check-title" },
          checked
            ? failing.length
              ? `${failing.length} of ${checked.report.checks.length} checks found a problem`
              : "All checks passed"
            : "Checks",
        ),
        button(
          "Check again",
          () => this.#check(),
          { class: "small", disabled: this.checking > 0 },
          icon("again"),
        ),
      ),
      this.checking && !checked
        ? waiting(
            "Waiting for the hive to check itself",
            this.checking,
            button("Stop", () => this.#stop.abort(), { class: "small" }),
          )
        : null,
      // On one line of its own: a message of another length moves nothing.
      this.checking && !checked
        ? h("p", { class: "muted small-text one-line" }, this.message || "\u00a0")
        : null,
      retryBox(this.problem, () => this.#check()),
      failing.length ? checks(failing) : null,
      passed.length
        ? h(
            "details",
            { class: "passed" },
            h("summary", null, failing.length ? `${passed.length} others passed` : "Details"),
            checks(passed),
          )
        : null,
      checked
        ? h(
            "p",
            { class: "muted small-text" },
            this.checking ? "Checking again" : `Checked ${ago(new Date(checked.at).toISOString())}`,
          )
        : null,
    );
  }
}

customElements.define("hive-overview", Overview);
