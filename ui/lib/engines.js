// The engines that are installed, and those that could be. Nothing announces their changes but the jobs that
// make them, so they are read when a part of the page shows them, and again after each such job.

import { Problem, capabilities, forgetCapabilities, run } from "./api.js";
import { refreshModels } from "./catalog.js";
import { hive, isOurs } from "./hive.js";
import { isInstall } from "./jobs.js";

/** @typedef {import("./types.js").EngineOffer} EngineOffer */
/** @typedef {import("./types.js").InstalledEngine} InstalledEngine */
/** @typedef {import("./types.js").FailedBuild} FailedBuild */
/** @typedef {import("./types.js").Job} Job */
/** An engine as the page lists it.
 * @typedef {{
 *   id: string, offer: EngineOffer|null, installed: InstalledEngine|null, failed: FailedBuild[]
 * }} Engine */

/** Where builds come from, in words. */
export const ORIGINS = /** @type {Record<string, string>} */ ({
  release: "from a release",
  source: "built from source",
  archive: "from the archive of the settings",
});

class Engines {
  /** @type {EngineOffer[]} */
  offers = [];
  /** @type {InstalledEngine[]} */
  installed = [];
  /** @type {FailedBuild[]} */
  failed = [];
  /** Whether they have been read. */
  isKnown = false;
  /** Whether the hive installs engines. */
  isOffered = false;
  /** When the page began to read them, in milliseconds since the Unix epoch; 0 while it does not. */
  reading = 0;
  /** Why the list of engines that could be installed is not there. @type {Problem|null} */
  problem = null;

  /** All of them, those that are installed first. @returns {Engine[]} */
  list() {
    const ids = [...this.installed, ...this.offers, ...this.failed].map(({ id }) => id);
    const byId = (/** @type {Array<{id: string}>} */ list, /** @type {string} */ id) =>
      /** @type {any} */ (list.find((one) => one.id === id) ?? null);
    return [...new Set(ids)].map((id) => ({
      id,
      offer: byId(this.offers, id),
      installed: byId(this.installed, id),
      failed: this.failed.filter((build) => build.id === id),
    }));
  }

  /** The engine to install where that one is advised: another one where that cannot be had here.
   * @param {string} advised */
  toInstall(advised) {
    const offer = this.offers.find(({ id }) => id === advised);
    const other = this.offers.find(({ recommended, problem }) => recommended && !problem);
    return (offer && !offer.problem ? offer : other) ?? offer;
  }
}

export const engines = new Engines();

let again = false;
/** Whether the next read has the hive ask the releases, even if it did a moment ago. */
let asksAnew = false;

/**
 * Reads what is installed, and what could be. A call during a read makes a second one.
 * @param {boolean} [anew] whether the hive asks the releases, even if it did a moment ago
 * @returns {Promise<void>}
 */
export async function refreshEngines(anew = false) {
  asksAnew ||= anew;
  if (engines.reading) {
    again = true;
    return;
  }
  engines.reading = Date.now();
  hive.changed("engines");
  do {
    again = false;
    engines.problem = await read().then(() => null, Problem.of);
  } while (again);
  engines.isKnown = true;
  engines.reading = 0;
  hive.changed("engines");
}

async function read() {
  const { operations } = await capabilities();
  engines.isOffered = operations.includes("WorkerCatalogList");
  // What is installed is shown, too, where the releases cannot be asked for.
  if (engines.isOffered) await Promise.all([readInstalled(), readOffers()]);
}

async function readInstalled() {
  const answer = await run({ WorkerListInstalled: {} });
  engines.installed = answer?.workers ?? [];
  engines.failed = answer?.failed ?? [];
  hive.changed("engines");
}

async function readOffers() {
  const refresh = asksAnew;
  asksAnew = false;
  const answer = await run({ WorkerCatalogList: { refresh } });
  engines.offers = answer?.workers ?? [];
  hive.changed("engines");
}

/** Reads them, unless that was done. */
export function knowEngines() {
  if (!engines.isKnown && !engines.reading) refreshEngines();
}

/** Whether a job installs or removes an engine. @param {Job} job */
const changesEngines = (job) => isInstall(job) || job.operation === "worker_remove";

/** The newest job that changes that engine. @param {string} id */
export const jobOf = (id) =>
  hive.jobList().find((job) => changesEngines(job) && job.request.worker_id === id);

hive.addEventListener("ended", (event) => {
  const job = /** @type {CustomEvent<Job>} */ (event).detail;
  if (!changesEngines(job) || !isOurs(job)) return;
  forgetCapabilities();
  refreshEngines();
  // Other models may have an engine now. If this fails, the snapshot of the next connection has them.
  refreshModels().catch(() => {});
});
