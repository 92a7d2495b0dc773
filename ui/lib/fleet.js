// The fleet of this hive, as its events tell of it, and the models and workers of the other hives, which are
// read while a view shows them. A hive that stands alone costs nothing of this.

import { Problem, get, run } from "./api.js";
import { hive, isOurs } from "./hive.js";

/** @typedef {import("./types.js").FleetHive} FleetHive */
/** @typedef {import("./types.js").Model} Model */
/** @typedef {import("./types.js").Worker} Worker */
/** What one hive has. @typedef {{models: Map<string, Model>, workers: Worker[]}} Lists */

/** How long after a read the next one begins, in milliseconds. */
const PAUSE_MS = 2_000;

/** The models and workers of the other hives. */
class Others {
  /** By hive; one that does not answer has none. @type {Map<string, Lists>} */
  lists = new Map();
  /** Why hives did not answer, by hive. @type {Map<string, string>} */
  failures = new Map();
  /** The hives that answer requests for a model, by its id, as this one's gateway tells.
   * @type {Map<string, string[]>} */
  served = new Map();
  /** @type {Problem|null} */
  problem = null;
  /** Whether the lists have been read. */
  isKnown = false;
  /** What the hives told of themselves when they were read. */
  #read = "";
  #readAt = 0;
  /** How many views show them. */
  #views = 0;
  /** Of the read that is due or under way. @type {number|undefined} */
  #timer;

  /** Reads them, and again when a hive has other models or workers, until the signal.
   * @param {AbortSignal} signal */
  watch(signal) {
    const look = () => {
      if (hive.otherHives().length === 0) this.#forget();
      else if (told() !== this.#read || this.#isOpen()) this.#readSoon();
    };
    this.#views += 1;
    signal.addEventListener("abort", () => (this.#views -= 1));
    hive.on(["fleet"], look, signal);
    const ended = (/** @type {any} */ { detail }) => isOurs(detail) || this.#readSoon();
    hive.addEventListener("ended", ended, { signal });
    // What was read for another view may be old.
    this.#read = "";
    look();
  }

  /** Whether the next read may differ although the hives tell the same: something starts or stops, or a hive
   * that can be reached did not answer. */
  #isOpen() {
    const all = [...this.lists.values()].flatMap(({ workers }) => workers);
    const silent = hive.otherHives().filter((each) => this.failures.has(each.hive));
    return (
      this.problem !== null ||
      silent.some(({ presence }) => presence === "reachable") ||
      isCopying() ||
      all.some(({ status }) => status === "starting" || status === "loading" || status === "stopping")
    );
  }

  #forget() {
    if (!this.isKnown && !this.problem) return;
    this.isKnown = false;
    this.problem = null;
    this.lists = new Map();
    this.failures = new Map();
    this.served = new Map();
    hive.changed("others");
  }

  #readSoon() {
    if (this.#timer !== undefined) return;
    const pause = Math.max(0, this.#readAt + PAUSE_MS - Date.now());
    this.#timer = window.setTimeout(async () => {
      if (this.#views > 0) await this.#readNow();
      this.#timer = undefined;
      // What has changed in the meantime.
      if (this.#views > 0 && told() !== this.#read && hive.otherHives().length) this.#readSoon();
    }, pause);
  }

  async #readNow() {
    this.#read = told();
    try {
      const [models, workers, served] = await Promise.all([
        run({ ModelList: { hive_id: "all" } }),
        run({ WorkerProcessList: { hive_id: "all" } }),
        get("/v1/models"),
      ]);
      this.#take(models.hives, workers.hives, served.data);
      this.problem = null;
    } catch (error) {
      this.problem = Problem.of(error);
    }
    this.#readAt = Date.now();
    // No event tells that a copy has come to its end.
    if (isCopying()) await refreshFleet();
    hive.changed("others");
  }

  /** @param {Record<string, any>} models @param {Record<string, any>} workers by hive
   * @param {Array<{id: string, hives?: string[]}>} served */
  #take(models, workers, served) {
    this.lists = new Map();
    this.failures = new Map();
    for (const { hive: name } of hive.otherHives()) {
      const failure = models[name]?.failure ?? workers[name]?.failure;
      if (failure) this.failures.set(name, failure.message);
      else {
        const own = new Map(
          (models[name]?.result ?? []).map((/** @type {Model} */ model) => [model.id, model]),
        );
        this.lists.set(name, { models: own, workers: workers[name]?.result ?? [] });
      }
    }
    this.served = new Map(served.map(({ id, hives }) => [id, hives ?? []]));
    this.isKnown = true;
  }
}

export const others = new Others();

/** Whether a model that is kept on several hives is being copied. */
const isCopying = () => hive.fleet?.places.some(({ copying }) => copying.length > 0) ?? false;

/** What the other hives tell of themselves, as far as their lists depend on it. */
const told = () =>
  hive
    .otherHives()
    .map(({ hive, run, presence, models, workers }) => [hive, run, presence, models, workers].join(" "))
    .join();

let isReading = false;
let isAskedAgain = false;

/** Reads how the hive stands in its fleet. What has changed during a read is read after it. */
export async function refreshFleet() {
  isAskedAgain = isReading;
  if (isReading) return;
  isReading = true;
  do {
    isAskedAgain = false;
    try {
      hive.applyFleet(await run({ FleetStatus: {} }));
    } catch {
      // It stays what it was, until the next event or connection.
    }
  } while (isAskedAgain);
  isReading = false;
}

/** @param {{change: string, hive: FleetHive}} news */
export function applyHive(news) {
  hive.applyHive(news);
  // This hive has just come into its fleet, or is back in it: only the others are announced.
  if (!hive.fleet?.is_in) refreshFleet();
}

hive.addEventListener("ended", (event) => {
  const { operation } = /** @type {CustomEvent<import("./types.js").Job>} */ (event).detail;
  const changes = operation.startsWith("fleet_") ? operation !== "fleet_status" : operation === "model_place";
  if (changes) refreshFleet();
});

/** Where an operation goes: nothing for this hive, which needs no fleet. @param {string} where a hive's name,
 * `any`, or nothing @returns {{hive_id?: string}} */
export const to = (where) => (where && where !== hive.fleet?.hive ? { hive_id: where } : {});

/** The hive that made the fleet, which alone lets machines in and out; none where the servers are others'. */
export const maker = () => hive.fleet?.hives.find((each) => each.lets_in && !each.end)?.hive ?? "";
