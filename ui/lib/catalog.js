// Refreshes the list of models. Files can appear and disappear without an event (a paused download
// leaves a partial, a user copies a file into a folder), so the list is read again when that is likely.

import { run } from "./api.js";
import { hive, isOurs } from "./hive.js";
import { isDownload } from "./jobs.js";

/** @type {Promise<void>|null} */
let reading = null;
let again = false;

/** Reads the list of models. Calls during a read get the result of a second read.
 * @returns {Promise<void>} */
export function refreshModels() {
  if (reading) {
    again = true;
    return reading;
  }
  reading = (async () => {
    try {
      do {
        again = false;
        const models = await run({ ModelList: {} });
        if (models) hive.setModels(models);
      } while (again);
    } finally {
      reading = null;
    }
  })();
  return reading;
}

/** Downloads that have ended since the list of models was read.
 * @type {Set<string>} */
export const unsettled = new Set();

hive.addEventListener("ended", (event) => {
  const job = /** @type {CustomEvent<import("./types.js").Job>} */ (event).detail;
  // If this fails, the list stays as it is until the snapshot of the next connection.
  if (!isDownload(job) || !isOurs(job)) return;
  unsettled.add(job.job_id);
  refreshModels()
    .catch(() => {})
    .finally(() => {
      unsettled.delete(job.job_id);
      hive.changed("models");
    });
});
