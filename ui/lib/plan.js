// The dry run of an operation, which stops when the user changes the request.

import { Problem, run, sleep } from "./api.js";
import { View } from "./view.js";

/** One dry run. */
class DryRun {
  since = Date.now();
  #stop = new AbortController();

  /** @param {string} message what the page waits for, until the job sends a message */
  constructor(message) {
    this.message = message;
  }

  /** The plan; undefined where the dry run was stopped first.
   * @param {Record<string, any>} operation with `dry_run`
   * @param {{pause?: number, onMessage?: (message: string, level: string) => void}} [options] `pause`:
   *   milliseconds before the request, while the user may still be typing
   * @returns {Promise<any>} */
  async run(operation, { pause = 0, onMessage } = {}) {
    const { signal } = this.#stop;
    if (pause > 0) await sleep(pause, signal);
    if (signal.aborted) return undefined;
    try {
      return await run(operation, {
        signal,
        cancels: true,
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

  /** Stops the dry run and cancels its job. */
  stop() {
    this.#stop.abort();
  }
}

/** A view that shows a plan and asks for a new one when the request changes. */
export class PlanView extends View {
  /** @type {any} */
  plan = null;
  /** @type {Problem|null} */
  problem = null;
  /** The dry run in progress. @type {DryRun|null} */
  planning = null;

  disconnectedCallback() {
    super.disconnectedCallback();
    this.stopPlanning();
  }

  stopPlanning() {
    this.planning?.stop();
    this.planning = null;
  }

  /** Starts a dry run in place of the one before. The old plan stays visible until it ends.
   * @param {string} message @param {Record<string, any>} operation
   * @param {Parameters<DryRun["run"]>[1]} [options] */
  async requestPlan(message, operation, options) {
    this.stopPlanning();
    const mine = (this.planning = new DryRun(message));
    this.problem = null;
    this.update();
    let plan = null;
    let problem = null;
    try {
      plan = (await mine.run(operation, options)) ?? null;
    } catch (error) {
      problem = Problem.of(error);
    }
    // Otherwise a newer dry run has started.
    if (this.planning === mine) Object.assign(this, { plan, problem, planning: null });
    this.update();
  }
}

/** Who may download a model, where its source reports it. @param {import("./types.js").Plan} plan */
export function accessTo({ gated }) {
  if (gated === null) return null;
  return gated ? "gated; this hive has access" : "public";
}
