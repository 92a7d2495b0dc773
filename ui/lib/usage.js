// The tokens of callers, and how much they use the hive. Nothing announces changes of tokens but the jobs
// that make them, so they are read when the page shows them, and again after each such job.

import { Problem, run } from "./api.js";
import { caller, refreshCaller } from "./caller.js";
import { hive } from "./hive.js";

/** @typedef {import("./types.js").Token} Token */
/** @typedef {import("./types.js").UsageReport} Report */

/** What was read, and how that goes. @template T */
class Reading {
  /** @type {T|null} */
  value = null;
  /** When the page began to read it, in milliseconds since the Unix epoch; 0 while it does not. */
  since = 0;
  /** @type {Problem|null} */
  problem = null;
  #turn = 0;

  /** Reads it anew; of several reads at once the last counts. @param {Record<string, any>} operation */
  async read(operation) {
    const turn = ++this.#turn;
    this.since = Date.now();
    hive.changed("callers");
    /** @type {Problem|null} */
    let problem = null;
    const value = await run(operation).catch((error) => {
      problem = Problem.of(error);
      return null;
    });
    if (turn !== this.#turn) return;
    this.since = 0;
    this.problem = problem;
    if (!problem) this.value = value;
    hive.changed("callers");
  }

  /** Forgets what another caller was shown. */
  forget() {
    this.#turn += 1;
    this.value = this.problem = null;
    this.since = 0;
  }
}

/** @type {Reading<Token[]>} */
export const tokenList = new Reading();
/** @type {Reading<Report>} */
export const usage = new Reading();

/** Reads the tokens, if the caller may see them. */
export function refreshTokens() {
  if (caller.may("TokenList")) tokenList.read({ TokenList: {} });
}

/** Whether the token that is made next is the first: then the hive asks everybody for one. */
export const isFirst = () => !caller.isAsked && tokenList.value?.length === 0;

hive.addEventListener("ended", async (event) => {
  const { operation } = /** @type {CustomEvent<import("./types.js").Job>} */ (event).detail;
  if (operation !== "token_create" && operation !== "token_revoke") return;
  await refreshCaller();
  refreshTokens();
});
hive.addEventListener("caller", () => {
  tokenList.forget();
  usage.forget();
});
