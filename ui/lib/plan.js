// The dry run of an operation, for a person who may change their mind before it is there.

import { Problem, cancel, run, sleep } from "./api.js";
import { View } from "./view.js";

/** One question; a new one stops the one before. */
class Planning {
  since = Date.now();
  #job = "";
  #stop = new AbortController();

  /** @param {string} message what is being waited for, until the job says something */
  constructor(message) {
    this.message = message;
  }

  /** The plan; undefined where it was stopped first.
   * @param {Record<string, any>} operation with `dry_run`
   * @param {{pause?: number, onMessage?: (message: string, level: string) => void}} [options] `pause`:
   *   milliseconds before it is asked, for who is still typing
   * @returns {Promise<any>} */
  async ask(operation, { pause = 0, onMessage } = {}) {
    const { signal } = this.#stop;
    if (pause > 0) await sleep(pause, signal);
    if (signal.aborted) return undefined;
    try {
      return await run(operation, {
        signal,
        onJob: (job) => {
          this.#job = job;
          if (signal.aborted) this.stop();
        },
        onMessage: (message, level) => {
          if (signal.aborted) return;
          this.message = message;
          onMessage?.(message, level);
        },
      });
    } catch (error) {
      if (signal.aborted) return undefined;
      throw error;
    }
  }

  /** Forgets it, and ends the job that works on it. */
  stop() {
    this.#stop.abort();
    if (this.#job) cancel(this.#job).catch(() => {});
  }
}

/** What shows a plan and makes it anew when what is planned changes. */
export class PlanView extends View {
  /** @type {any} */
  plan = null;
  /** @type {Problem|null} */
  problem = null;
  /** The question under way. @type {Planning|null} */
  planning = null;

  disconnectedCallback() {
    super.disconnectedCallback();
    this.stopPlanning();
  }

  stopPlanning() {
    this.planning?.stop();
    this.planning = null;
  }

  /** Asks for the plan in place of every question before. What is shown meanwhile stays.
   * @param {string} message @param {Record<string, any>} operation
   * @param {Parameters<Planning["ask"]>[1]} [options] */
  async look(message, operation, options) {
    this.stopPlanning();
    const mine = (this.planning = new Planning(message));
    this.problem = null;
    this.update();
    let plan = null;
    let problem = null;
    try {
      plan = (await mine.ask(operation, options)) ?? null;
    } catch (error) {
      problem = Problem.of(error);
    }
    // Else another question was asked meanwhile.
    if (this.planning === mine) Object.assign(this, { plan, problem, planning: null });
    this.update();
  }
}

/** Who is given a model, where its source tells. @param {import("./types.js").Plan} plan */
export function accessTo({ gated }) {
  if (gated === null) return null;
  return gated ? "gated, and this hive has been given access" : "open to all";
}
