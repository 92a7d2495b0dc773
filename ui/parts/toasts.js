// The jobs of the user's last actions, each shown until it has ended and for a moment after that.

import { Problem, submit } from "../lib/api.js";
import { h, icon, render } from "../lib/dom.js";
import { keepUp } from "../lib/elsewhere.js";
import { hive, isOurs } from "../lib/hive.js";
import { isDownload, isInstall } from "../lib/jobs.js";
import { route } from "../lib/view.js";
import { jobStrip } from "./job-strip.js";

/** @typedef {object} Toast
 * @property {string} key
 * @property {string} [job]
 * @property {Problem} [problem]
 * @property {string} [note]
 * @property {[string, () => void]} [action] a button: its label, and what it does
 * @property {number} [gone] */

/** @type {Toast[]} */
let toasts = [];
const STAY_MS = 5000;
/** A note with something to do stays longer. */
const STAY_TO_ACT_MS = 15_000;
const MOST = 4;

/** Submits an operation and shows the job. Returns its id, or null where the hive refused.
 * @param {Record<string, any>} operation
 * @returns {Promise<string|null>} */
export async function act(operation) {
  try {
    const job = await submit(operation);
    add({ key: job, job });
    keepUp(job, operation);
    return job;
  } catch (error) {
    add({ key: `problem-${performance.now()}`, problem: Problem.of(error) });
    return null;
  }
}

/** @param {string} note @param {[string, () => void]} [action] a button: its label, and what it does */
export function showNote(note, action) {
  const toast = { key: `note-${performance.now()}`, note, action };
  add(toast);
  setTimeout(() => remove(toast.key), action ? STAY_TO_ACT_MS : STAY_MS);
}

/** @param {unknown} error */
export function showProblem(error) {
  add({ key: `problem-${performance.now()}`, problem: Problem.of(error) });
}

/** @param {Toast} toast */
function add(toast) {
  toasts = [...toasts, toast].slice(-MOST);
  show();
}

/** @param {string} key */
function remove(key) {
  toasts = toasts.filter((toast) => toast.key !== key);
  show();
}

function show() {
  const { page, id } = route();
  for (const toast of toasts) {
    const state = toast.job && hive.jobs.get(toast.job)?.state;
    if ((state === "succeeded" || state === "cancelled") && !toast.gone) {
      toast.gone = window.setTimeout(() => remove(toast.key), STAY_MS);
    }
  }
  const visible = toasts.filter((toast) => {
    const job = toast.job && hive.jobs.get(toast.job);
    // The page of the job and the lists of downloads and of engines already show it.
    if (page === "jobs" && toast.job === id) return false;
    if (!job) return true;
    if (page === "workers" && !id && isOurs(job) && isInstall(job)) return job.state === "succeeded";
    return !(page === "models" && isDownload(job) && isOurs(job) && !job.ended_at);
  });
  render(
    /** @type {HTMLElement} */ (document.getElementById("toasts")),
    ...visible.map((toast) =>
      h(
        "div",
        { class: "toast", key: toast.key },
        toast.job ? jobStrip(toast.job) : null,
        toast.note
          ? h("p", null, toast.note, " ", toast.action ? actionOf(toast, toast.action) : null)
          : null,
        toast.problem
          ? h(
              "div",
              { class: "failure" },
              h("p", { class: "failure-text" }, icon("alert"), h("span", null, toast.problem.message)),
              toast.problem.hint ? h("p", { class: "hint" }, toast.problem.hint) : null,
            )
          : null,
        h(
          "button",
          {
            type: "button",
            class: "quiet icon close",
            "aria-label": "Dismiss",
            onclick: () => remove(toast.key),
          },
          icon("close"),
        ),
      ),
    ),
  );
}

/** @param {Toast} toast @param {[string, () => void]} action */
function actionOf({ key }, [label, run]) {
  const pressed = () => {
    remove(key);
    run();
  };
  return h("button", { type: "button", class: "small", onclick: pressed }, h("span", null, label));
}

hive.addEventListener("jobs", show);
addEventListener("hashchange", show);
hive.addEventListener("connection", () => {
  if (!hive.connection.restarted) return;
  hive.connection.restarted = false;
  showNote(
    "The hive was restarted. This page shows its state after the restart; jobs that were running were " +
      "interrupted.",
  );
});
