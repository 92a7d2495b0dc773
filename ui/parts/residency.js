// What is in the memory of each device and why, and what waits for room in it.

import { cancel } from "../lib/api.js";
import { h, icon } from "../lib/dom.js";
import { ago, bytes, count, duration, elapsed, percent, progressText, sentence } from "../lib/format.js";
import { hive, isAlive } from "../lib/hive.js";
import { live } from "../lib/live.js";
import { link } from "../lib/view.js";
import { button, chip, progressBar, stack } from "./parts.js";
import { act, showProblem } from "./toasts.js";

/** @typedef {import("../lib/types.js").Residency} Residency */
/** @typedef {import("../lib/types.js").DeviceMemory} DeviceMemory */
/** @typedef {import("../lib/types.js").Resident} Resident */
/** @typedef {import("../lib/types.js").Worker} Worker */

const NAMES = { model: "Models", used: "Other programs", lease: "Leased", reserve: "Reserve", free: "Free" };

/** Who is in memory: the bars of the devices, the workers, and the leases. */
export function memoryCard() {
  const { residency } = hive;
  const workers = [...hive.workers.values()].sort((a, b) => (a.started_at < b.started_at ? -1 : 1));
  const alive = workers.filter(isAlive).length;
  const residents = new Map(residency?.residents.map((resident) => [resident.pid, resident]));
  return h(
    "section",
    { class: "card", "aria-labelledby": "memory-title" },
    h(
      "div",
      { class: "card-head" },
      h("h2", { id: "memory-title" }, `In memory${alive ? ` (${alive})` : ""}`),
      h("a", { href: "#/workers" }, "All workers"),
    ),
    residency?.memory.map((memory) => deviceBar(memory, residency.leases, workers, residents)),
    workers.length
      ? h(
          "ul",
          { class: "lines residents", "aria-label": "Models in memory" },
          ...workers.map((worker) => residentRow(worker, residents.get(worker.pid))),
        )
      : h("p", { class: "muted" }, "No model is in memory. A request for one loads it."),
    residency?.leases.length ? leaseList(residency.leases) : null,
  );
}

/** What a worker holds on its device. @param {Worker} worker @param {Resident|undefined} resident */
const heldBy = (worker, resident) =>
  resident?.held_bytes || (worker.device === "cpu" ? worker.rss_bytes : (worker.vram_bytes ?? 0));

/** What is free on a device now: as telemetry tells, which comes once a second.
 * @param {DeviceMemory} memory */
function freeOf({ device, free_bytes }) {
  const system = hive.telemetry?.system;
  if (system && device === "cpu") return system.ram_total_bytes - system.ram_used_bytes;
  const gpu = system?.gpus.find(({ id }) => id === device);
  return gpu ? gpu.memory_total_bytes - gpu.memory_used_bytes : free_bytes;
}

/** What of a device is leased: `memory` may be older than the leases.
 * @param {string} device @param {Residency["leases"]} leases */
const leasedOn = (device, leases) =>
  leases
    .filter((lease) => lease.device === device && lease.state === "held")
    .reduce((sum, lease) => sum + lease.bytes, 0);

/** @param {DeviceMemory} memory @param {Residency["leases"]} leases @param {Worker[]} workers
 * @param {Map<number, Resident>} residents */
function deviceBar(memory, leases, workers, residents) {
  const { device, capacity_bytes: capacity } = memory;
  const now = freeOf(memory);
  if (capacity === null || now === null)
    return h("p", { class: "muted small-text", key: device }, `How much of ${device} is free is not known.`);
  const free = Math.min(now, capacity);
  const models = workers
    .filter((worker) => worker.device === device && isAlive(worker))
    .map((worker) => ({ name: worker.model, size: heldBy(worker, residents.get(worker.pid)) }));
  const parts = partsOf(memory.reserve_bytes, leasedOn(device, leases), capacity, free, models);
  const said = parts.filter(({ size }) => size > 0).map(({ name, size }) => `${name} ${bytes(size)}`);
  /** The sum of each kind. @type {Map<string, number>} */
  const sums = new Map();
  for (const { kind, size } of parts) sums.set(kind, (sums.get(kind) ?? 0) + size);
  return h(
    "div",
    { class: "device-bar", key: device },
    h(
      "p",
      null,
      h("strong", null, device),
      h("span", { class: "muted num" }, `${bytes(free)} of ${bytes(capacity)} free`),
    ),
    stack(parts, capacity, `${device}, ${bytes(capacity)}: ${said.join(", ")}`),
    h(
      "dl",
      { class: "legend" },
      ...Object.entries(NAMES).map(([kind, name]) => {
        const size = sums.get(kind) ?? 0;
        return size > 0
          ? h(
              "div",
              { key: kind },
              h("dt", null, h("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), name),
              h("dd", { class: "num" }, bytes(size)),
            )
          : null;
      }),
    ),
  );
}

/** What a device's memory is made of. What is leased may be used by the other program already, or free still;
 * the reserve is free.
 * @param {number} reserved @param {number} leased @param {number} capacity @param {number} free
 * @param {Array<{name: string, size: number}>} models */
function partsOf(reserved, leased, capacity, free, models) {
  const held = models.reduce((sum, { size }) => sum + size, 0);
  const others = Math.max(0, capacity - free - held);
  const taken = Math.min(leased, others);
  const unleased = Math.max(0, free - (leased - taken));
  const reserve = Math.min(reserved, unleased);
  return [
    ...models.map((model) => ({ kind: "model", ...model })),
    { kind: "used", name: "other programs", size: others - taken },
    { kind: "lease", name: "leased", size: leased },
    { kind: "reserve", name: "reserve", size: reserve },
    { kind: "free", name: "free", size: unleased - reserve },
  ];
}

/** @param {Worker} worker @param {Resident|undefined} resident */
function residentRow(worker, resident) {
  const label = resident?.draining ? chip("stopping", "draining") : chip(worker.status);
  const { model, device } = worker;
  const alive = isAlive(worker);
  return h(
    "li",
    { key: worker.worker_id },
    h("a", { href: link("workers", worker.pid), class: "grow", title: model }, model),
    label,
    resident ? h("p", null, sentence(resident.why)) : null,
    h(
      "p",
      { class: "muted num" },
      [device, worker.engine, ...(alive ? [bytes(heldBy(worker, resident))] : [])].join(" · "),
      resident ? useOf(resident) : null,
    ),
    resident?.outdated
      ? h("p", { class: "muted" }, "Its settings have changed: it is loaded again once it is idle.")
      : null,
  );
}

/** What it does, and when it goes. @param {Resident} resident */
function useOf({ in_flight, slots, last_used_at: used, unload_at: at }) {
  if (in_flight) return ` · ${in_flight}${slots ? ` of ${slots} slots` : " requests"}`;
  return [
    ...(used ? [" · used ", live(() => ago(used))] : []),
    ...(at ? [" · ", live(() => `unloads in ${until(at)}`)] : []),
  ];
}

/** How long until then. @param {string} at */
const until = (at) => duration(Math.max(0, Math.ceil((Date.parse(at) - Date.now()) / 1000)));

/** @param {import("../lib/types.js").Lease[]} leases */
function leaseList(leases) {
  return [
    h("h3", null, "Leased to other programs"),
    h(
      "ul",
      { class: "lines residents" },
      ...leases.map(({ lease_id, device, bytes: size, state, holder, expires_at: end, restores }) =>
        h(
          "li",
          { key: lease_id },
          h("strong", { class: "grow", title: holder }, holder ?? "Another program"),
          button(
            "Release",
            () => act({ MemoryRelease: { lease_id } }),
            {
              class: "small",
              "aria-label": `Release the memory of ${holder ?? lease_id}`,
              needs: "MemoryRelease",
            },
            icon("close"),
          ),
          h(
            "p",
            { class: "muted num" },
            `${bytes(size)} of ${device} · `,
            state === "waiting" ? "waits for room" : end ? live(() => `ends in ${until(end)}`) : "held",
            restores.length ? ` · then ${restores.join(", ")} comes back` : "",
          ),
        ),
      ),
    ),
  ];
}

/** The loads under way and the requests that wait; nothing where there are none. */
export function waitingCard() {
  const { residency } = hive;
  if (!residency || residency.loads.length + residency.queue.length === 0) return null;
  const { loads, queue, queue_limit: limit } = residency;
  const waiting = queue.reduce((sum, line) => sum + line.waiting, 0);
  return h(
    "section",
    { class: "card", "aria-labelledby": "waiting-title" },
    h(
      "div",
      { class: "card-head" },
      h("h2", { id: "waiting-title" }, "Loads and queue"),
      h("span", { class: "muted num small-text" }, `${count(waiting)} of ${count(limit)} places`),
    ),
    loads.length ? h("ul", { class: "lines residents", "aria-label": "Loads" }, ...loads.map(loadRow)) : null,
    queue.length
      ? [
          h("h3", null, "Requests that wait"),
          h("ul", { class: "lines residents" }, ...queue.map((line) => lineRow(line, waiting))),
        ]
      : null,
  );
}

/** @param {import("../lib/types.js").ResidentLoad} load */
function loadRow({
  job_id: job,
  model,
  state,
  since,
  because,
  waits_for: blocker,
  progress,
  eta_seconds: eta,
}) {
  const stop = () => cancel(job).catch(showProblem);
  const left = eta === null || progress?.eta_seconds !== undefined ? "" : ` · ${duration(eta)} left`;
  return h(
    "li",
    { key: job },
    h("a", { class: "grow", href: link("jobs", job), title: model }, `Load ${model}`),
    chip(state === "loading" ? "loading" : "queued", state),
    button(
      "Cancel",
      stop,
      { class: "small", "aria-label": `Cancel the load of ${model}`, needs: "ModelLoad" },
      icon("close"),
    ),
    h("p", null, sentence(because)),
    blocker ? h("p", null, `Waits for ${blocker}`) : null,
    progress ? progressBar(progress, `Progress of the load of ${model}`) : null,
    h(
      "p",
      { class: "muted num" },
      "for ",
      live(() => elapsed(Date.parse(since))),
      progress ? ` · ${progressText(progress)}` : "",
      left,
    ),
  );
}

/** @param {import("../lib/types.js").WaitingLine} line @param {number} all how many wait in all lines */
function lineRow({ model, waiting, oldest_since: since, callers }, all) {
  return h(
    "li",
    { key: model },
    h("a", { class: "grow", href: link("models", hive.modelOf(model)), title: model }, model),
    h("span", { class: "num" }, waiting === 1 ? "1 request waits" : `${count(waiting)} requests wait`),
    h(
      "div",
      { class: "share", "aria-hidden": "true" },
      h("div", { style: { "inline-size": `${percent(waiting, all)}%` } }),
    ),
    h(
      "p",
      { class: "muted num" },
      "the first for ",
      live(() => elapsed(Date.parse(since))),
      ` · ${callers.map(({ caller, waiting: own }) => `${caller} ${count(own)}`).join(", ")}`,
    ),
  );
}
