// The workers: a card for each, and the live log of one worker.

import { texts } from "../client.js";
import { Problem, request } from "../lib/api.js";
import { h, icon } from "../lib/dom.js";
import { others } from "../lib/fleet.js";
import { bytes, count, duration, roughly } from "../lib/format.js";
import { HISTORY, hive, isAlive, isLoadable, isServing } from "../lib/hive.js";
import { whileSeen } from "../lib/sight.js";
import { View, link, route } from "../lib/view.js";
import { openDiagnosis } from "../parts/diagnosis-dialog.js";
import { otherWorkers } from "../parts/other-workers.js";
import { openSpawn } from "../parts/spawn-dialog.js";
import { engineList } from "../parts/engines.js";
import { graph } from "../parts/graph.js";
import { logControls, logList } from "../parts/log-controls.js";
import { button, chip, empty, failureBox, retryBox, waiting } from "../parts/parts.js";
import { act } from "../parts/toasts.js";
import "../parts/virtual-list.js";

/** @typedef {import("../lib/types.js").Worker} Worker */
/** @typedef {{text: string, level: string}} Line */

class Workers extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["workers", "telemetry", "connection", "models", "others"];

  start() {
    addEventListener("hashchange", () => this.update(), { signal: this.life.signal });
    others.watch(this.life.signal);
  }

  draw() {
    const { id } = route();
    const workers = [...hive.workers.values()].sort((a, b) => (a.started_at < b.started_at ? 1 : -1));
    const models = [...hive.models.values()].some(isLoadable);
    const spawn = (/** @type {string} */ kind) =>
      button(
        "Start a worker",
        () => openSpawn(),
        { class: kind, disabled: !models, needs: "WorkerSpawn" },
        icon("plus"),
      );
    const chosen = workers.find((worker) => String(worker.pid) === id);
    return [
      h(
        "div",
        { class: "page-head" },
        h("h1", null, "Workers"),
        h("p", { class: "muted" }, "Each worker is a process that serves one model."),
        h("div", { class: "actions" }, spawn("primary")),
      ),
      !hive.hasSnapshot
        ? waiting("Waiting for the hive's list of workers", hive.connection.since)
        : workers.length === 0
          ? empty(
              "No workers",
              models
                ? "Loading a model starts a worker, which holds the model in memory and answers requests."
                : "A worker serves a model, and this hive has no models yet.",
              models ? spawn("") : h("a", { class: "button primary", href: "#/models" }, "Get a model"),
            )
          : h("div", { class: "cards" }, ...workers.map((worker) => this.#card(worker, worker === chosen))),
      id && hive.hasSnapshot && !chosen
        ? failureBox(
            new Problem({
              code: "worker_not_found",
              message: `No worker has the process id ${id}`,
              hint:
                "it was stopped; its log is kept with the hive's data, and the job that stopped it says " +
                "how it ended",
            }),
          )
        : null,
      chosen
        ? h("worker-log", { key: chosen.worker_id, ".pid": chosen.pid, ".alive": isAlive(chosen) })
        : null,
      ...(id ? [] : otherWorkers()),
      // Below all else, and not beside one worker's log: both get their heights late.
      hive.hasSnapshot && !id ? engineList() : null,
    ];
  }

  /** @param {Worker} worker @param {boolean} chosen */
  #card(worker, chosen) {
    const samples = hive.workerHistory.get(worker.worker_id) ?? [];
    const rate = hive.tokenRate(worker);
    const cpu = samples.map((sample) => sample.cpu);
    const most = Math.max(100, ...cpu);
    const speeds = hive.tokenRates(worker);
    const alive = isAlive(worker);
    /** @type {(name: string, value: string) => HTMLElement} */
    const fact = (name, value) => h("div", null, h("dt", null, name), h("dd", { class: "num" }, value));
    return h(
      "article",
      {
        class: `card worker${chosen ? " chosen" : ""}`,
        key: worker.worker_id,
        "aria-label": `Worker ${worker.pid}, ${worker.model}`,
      },
      h(
        "div",
        { class: "card-head" },
        h("h2", null, h("a", { href: link("models", hive.modelOf(worker.model)) }, worker.model)),
        chip(worker.status),
      ),
      h(
        "p",
        { class: "muted small-text num" },
        [`pid ${worker.pid}`, worker.device, worker.engine, worker.port ? `port ${worker.port}` : null]
          .filter(Boolean)
          .join(" · "),
      ),
      worker.status === "crashed"
        ? h(
            "div",
            { class: "failure" },
            h(
              "p",
              { class: "failure-text" },
              icon("alert"),
              h(
                "span",
                null,
                `It ended unexpectedly after ${duration(worker.uptime_seconds)}`,
                worker.last_exit ? `: ${worker.last_exit}.` : ".",
              ),
            ),
            h(
              "p",
              { class: "hint" },
              "The end of its log may show the cause. Fix the cause, then start the worker again.",
            ),
          )
        : h(
            "dl",
            { class: "numbers" },
            fact("CPU", `${Math.round(worker.cpu_percent)} %`),
            fact("Memory", worker.rss_bytes ? bytes(worker.rss_bytes) : "–"),
            worker.vram_bytes ? fact("VRAM", bytes(worker.vram_bytes)) : null,
            fact("Tokens/s", isServing(worker) && rate !== null ? perSecond(rate) : "–"),
            ...measured(worker).map(([name, value]) => fact(name, value)),
            fact("Uptime", roughly(worker.uptime_seconds)),
            fact("Tokens", count(worker.tokens_generated)),
            fact("Requests", count(worker.requests)),
            fact("Slots", worker.slots ? String(worker.slots) : "–"),
          ),
      alive
        ? h(
            "div",
            { class: "lines-over-time" },
            h(
              "figure",
              null,
              graph(cpu, {
                most,
                slots: HISTORY,
                label: `CPU of worker ${worker.pid}: ${Math.round(worker.cpu_percent)} %`,
              }),
              h("figcaption", null, "CPU"),
            ),
            h(
              "figure",
              null,
              graph(speeds, {
                most: Math.max(1, ...speeds),
                slots: HISTORY,
                label: `Tokens a second of worker ${worker.pid}: ${Math.round(rate ?? 0)}`,
              }),
              h("figcaption", null, "Tokens/s"),
            ),
          )
        : null,
      h(
        "div",
        { class: "actions" },
        h(
          "a",
          {
            class: "button small",
            href: chosen ? "#/workers" : link("workers", worker.pid),
            "aria-expanded": chosen ? "true" : "false",
          },
          icon("log"),
          h("span", null, chosen ? "Hide the log" : "Log"),
        ),
        isServing(worker)
          ? h(
              "a",
              { class: "button small", href: link("chat", worker.model) },
              icon("chat"),
              h("span", null, "Chat"),
            )
          : null,
        alive
          ? button(
              "Why is it slow?",
              () => openDiagnosis(worker.model),
              { class: "small" },
              icon("gauge"),
            )
          : null,
        worker.status === "crashed"
          ? button(
              "Start again",
              () => act({ WorkerSpawn: { model: worker.model, worker: worker.engine } }),
              { class: "small", needs: "WorkerSpawn" },
              icon("again"),
            )
          : null,
        button(
          alive ? "Stop" : "Remove from the list",
          () => act({ WorkerProcessDelete: { pid: worker.pid } }),
          { class: "small", disabled: worker.status === "stopping", needs: "WorkerProcessDelete" },
          icon(alive ? "stop" : "close"),
        ),
      ),
    );
  }
}

/** @param {number} rate */
const perSecond = (rate) => (rate > 0 && rate < 10 ? rate.toFixed(1) : String(Math.round(rate)));

/** What its last answers took, as far as they tell. @param {Worker} worker
 * @returns {Array<[string, string]>} */
function measured(worker) {
  const { queue_ms: wait, time_to_first_token_ms: first, tokens_per_second: rate } = worker;
  const { prompt_tokens: prompt, cached_tokens: cached } = worker;
  /** @type {Array<[string, string]>} */
  const facts = [];
  if (wait !== null && wait >= 1) facts.push(["In the queue", duration(wait / 1000)]);
  if (first !== null) facts.push(["First token", duration(first / 1000)]);
  if (rate !== null) facts.push(["Per answer", `${perSecond(rate)}/s`]);
  if (prompt && cached !== null) facts.push(["From cache", `${Math.round((100 * cached) / prompt)} %`]);
  return facts;
}

/** The most lines of a log that the page keeps. */
const MOST_LINES = 50_000;

/** The log of one worker, with a search and a filter; it grows while the worker runs. */
class WorkerLog extends View {
  pid = 0;
  alive = false;
  /** @type {Line[]} */
  lines = [];
  search = "";
  level = "all";
  following = true;
  /** @type {"waiting"|"reading"|"ended"} */
  state = "waiting";
  since = Date.now();
  /** @type {Problem|null} */
  problem = null;

  start() {
    this.#read();
  }

  async #read() {
    const { signal } = this.life;
    this.problem = null;
    this.since = Date.now();
    this.state = "waiting";
    try {
      await whileSeen(signal, (signal) => this.#readOnce(signal));
    } catch (error) {
      if (signal.aborted) return;
      this.problem = Problem.of(error);
    }
    this.state = "ended";
    this.update();
  }

  /** Reads the log from its start: it has no ids to resume after. @param {AbortSignal} signal */
  async #readOnce(signal) {
    const response = await request("GET", `/v1/workers/${this.pid}/log${this.alive ? "?follow=true" : ""}`, {
      signal,
    });
    const reader = texts(/** @type {ReadableStream<Uint8Array>} */ (response.body));
    this.lines = [];
    this.state = "reading";
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      const parts = `${rest}${value ?? ""}`.split("\n");
      rest = done ? "" : (parts.pop() ?? "");
      for (const text of parts) if (text) this.lines.push({ text: plain(text), level: levelOf(text) });
      if (this.lines.length > MOST_LINES) this.lines = this.lines.slice(-MOST_LINES);
      this.update();
      if (done) return;
    }
  }

  draw() {
    const search = this.search.toLowerCase();
    const shown = this.lines.filter(
      (line) =>
        (this.level === "all" || LEVELS.indexOf(line.level) >= LEVELS.indexOf(this.level)) &&
        (!search || line.text.toLowerCase().includes(search)),
    );
    const list = logList(this, {
      class: "log",
      "aria-label": `Log of worker ${this.pid}`,
      ".row": (/** @type {Line} */ line) =>
        h("div", { class: "log-line", "data-level": line.level }, line.text),
      ".items": shown,
    });
    return h(
      "section",
      { class: "card", "aria-label": `Log of worker ${this.pid}` },
      h(
        "div",
        { class: "card-head wrap" },
        h("h2", null, `Log of worker ${this.pid}`),
        h(
          "span",
          { class: "muted num" },
          count(shown.length),
          shown.length === this.lines.length ? "" : ` of ${count(this.lines.length)}`,
          " lines",
          this.state === "reading" && this.alive ? ", live" : this.state === "ended" ? ", ended" : "",
        ),
        ...logControls(this, "the log", "all"),
      ),
      retryBox(this.problem, () => this.#read()),
      this.state === "waiting" ? waiting("Waiting for the log", this.since) : null,
      list,
      this.state !== "waiting" && this.lines.length === 0 && !this.problem
        ? h("p", { class: "muted" }, "The log is empty.")
        : null,
    );
  }
}

const LEVELS = ["trace", "debug", "info", "warn", "error"];

/** The level that a line names: the built-in engine and most others write one.
 * @param {string} text */
function levelOf(text) {
  const found = /\b(TRACE|DEBUG|INFO|WARN(?:ING)?|ERROR|FATAL|panicked)\b/i.exec(text.slice(0, 120));
  const word = found?.[1].toLowerCase() ?? "info";
  return word.startsWith("warn") ? "warn" : word === "fatal" || word === "panicked" ? "error" : word;
}

/** A line without the terminal's colour codes. @param {string} text */
const plain = (text) => text.replaceAll(/\u001b\[[0-9;]*[A-Za-z]/g, "").replace(/\r$/, "");

customElements.define("hive-workers", Workers);
customElements.define("worker-log", WorkerLog);
