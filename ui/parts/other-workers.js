// The workers of the other hives of the fleet.

import { h, icon } from "../lib/dom.js";
import { others, to } from "../lib/fleet.js";
import { bytes, count } from "../lib/format.js";
import { hive, isAlive } from "../lib/hive.js";
import { link } from "../lib/view.js";
import { button, chip } from "./parts.js";
import { silence } from "./places.js";
import { act } from "./toasts.js";

/** @typedef {import("../lib/types.js").Worker} Worker */

/** A section for each other hive that has some, and who has none. */
export function otherWorkers() {
  const known = hive.otherHives().filter(({ hive: name }) => others.lists.has(name));
  const count = (/** @type {string} */ name) => others.lists.get(name)?.workers.length ?? 0;
  const idle = known.filter(({ hive: name }) => count(name) === 0).map(({ hive: name }) => name);
  return [
    ...known.filter(({ hive: name }) => count(name) > 0).map(section),
    silence("workers"),
    idle.length ? h("p", { class: "muted", key: "idle" }, `No worker on ${idle.join(", ")}.`) : null,
  ];
}

/** @param {import("../lib/types.js").FleetHive} of */
function section({ hive: name, url }) {
  const { workers, models } = others.lists.get(name) ?? { workers: [], models: new Map() };
  return h(
    "section",
    { class: "card", key: `of ${name}`, "aria-label": `Workers on ${name}` },
    h(
      "div",
      { class: "card-head" },
      h("h2", null, `On ${name} (${workers.length})`),
      h(
        "a",
        { href: `${url}/#/workers`, rel: "noreferrer", "aria-label": `Its page at ${name}` },
        "Its page",
      ),
    ),
    h(
      "ul",
      { class: "lines residents" },
      ...workers.map((worker) => row(worker, hive.modelOf(worker.model, models), name)),
    ),
    h("p", { class: "muted small-text" }, `Their logs are on ${name} alone: its page shows them.`),
  );
}

/** @param {Worker} worker @param {string} id its model @param {string} name its hive */
function row(worker, id, name) {
  const { pid, model, device, engine, status, rss_bytes: rss, vram_bytes: vram, requests } = worker;
  const verb = isAlive(worker) ? "Stop" : "Remove from the list";
  const held = (rss ?? 0) + (vram ?? 0);
  const about = [
    `pid ${pid}`,
    device,
    engine,
    held ? bytes(held) : "",
    requests === 1 ? "1 request" : `${count(requests)} requests`,
    worker.last_exit ?? "",
  ];
  return h(
    "li",
    { key: worker.worker_id },
    h("a", { class: "grow", href: link("models", id), title: model }, model),
    chip(status),
    button(
      verb,
      () => act({ WorkerProcessDelete: { pid, ...to(name) } }),
      {
        class: "small",
        disabled: status === "stopping",
        "aria-label": `${verb}: worker ${pid} on ${name}`,
        needs: "WorkerProcessDelete",
      },
      icon(isAlive(worker) ? "stop" : "close"),
    ),
    h("p", { class: "muted num" }, about.filter(Boolean).join(" · ")),
  );
}
