// The dry run of an operation, for a person who may change their mind before it is there.

import { cancel, run, sleep } from "./api.js";

/** One question; a new one stops the one before. */
export class Planning {
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
