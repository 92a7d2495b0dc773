// Jobs on other hives that this page has started: the events of this hive do not tell of them, so the page
// follows their streams, and keeps them as it keeps its own.

import { follow, get } from "./api.js";
import { hive, isOurs } from "./hive.js";

/** @typedef {import("./types.js").Job} Job */

/** How many are followed at once: a browser has few connections for one server. */
const MOST = 2;

/** @type {string[]} */
const waiting = [];
let following = 0;

/** Whether an operation may make a job on another hive. @param {Record<string, any>} operation */
function goesElsewhere(operation) {
  const fields = typeof operation.operation === "string" ? operation : Object.values(operation)[0];
  return hive.fleet !== null && Boolean(fields?.hive_id) && fields.hive_id !== hive.fleet.hive;
}

/** Keeps a job that was submitted, if it runs elsewhere, and what becomes of it.
 * @param {string} id @param {Record<string, any>} operation */
export async function keepUp(id, operation) {
  if (!goesElsewhere(operation)) return;
  const job = await read(id);
  if (!job || isOurs(job)) return;
  waiting.push(id);
  next();
}

/** @param {string} id @returns {Promise<Job|null>} */
async function read(id) {
  try {
    const job = await get(`/v1/jobs/${encodeURIComponent(id)}`);
    hive.applyJob({ change: "progress", job });
    return job;
  } catch {
    // The list of jobs has it as soon as the hive is back.
    return null;
  }
}

async function next() {
  const id = following < MOST ? waiting.shift() : undefined;
  if (id === undefined) return;
  following += 1;
  await follow(id, (events) => apply(id, events), { rests: new AbortController().signal }).catch(() => {});
  await read(id);
  following -= 1;
  next();
}

/** @param {string} id @param {import("./types.js").JobEvent[]} events */
function apply(id, events) {
  const job = hive.jobs.get(id);
  const said = events
    .filter(({ event, data }) => event === "narration" && data.level !== "debug")
    .at(-1)?.data;
  if (!job || job.ended_at || !said) return;
  const running =
    job.state === "queued" ? { state: /** @type {const} */ ("running"), started_at: said.at } : {};
  hive.applyJob({
    change: "progress",
    job: { ...job, ...running },
    message: said.message,
    progress: said.progress,
  });
}
