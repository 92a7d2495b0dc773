// Keeping the list of models true: files come and go without an event (a download that was paused
// leaves a part, a file is copied into a folder), so the list is read again when that may have been.

import { run } from "./api.js";
import { hive } from "./hive.js";
import { isDownload } from "./jobs.js";

/** @type {Promise<void>|null} */
let reading = null;
let again = false;

/** Reads the list of models. Whoever comes meanwhile gets what a second reading gives.
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

/** Downloads that have ended, and of which the list does not tell yet what they left.
 * @type {Set<string>} */
export const unsettled = new Set();

hive.addEventListener("ended", (event) => {
  const job = /** @type {CustomEvent<import("./types.js").Job>} */ (event).detail;
  // Without it what is shown is as old as the connection; the snapshot of the next one mends that.
  if (!isDownload(job)) return;
  unsettled.add(job.job_id);
  refreshModels()
    .catch(() => {})
    .finally(() => {
      unsettled.delete(job.job_id);
      hive.changed("models");
    });
});
