// The page's access to the hive: the client of `client.js`, with a token that the user types. All requests of
// the page go through this module and `events.js`.
//
// The token is kept in the tab's `sessionStorage`, so that a reload does not ask for it, and tabs of the same
// hive give it to each other. That is safe: both are closed to every other origin, and within this one the
// page's policy allows no script but the page's own, and no markup that could be one. It is gone when the tab
// is closed, is never in `localStorage`, a cookie or a URL, and is sent to this hive alone.

import { Hive, NO_ANSWER, Problem, bearer, sleep } from "../client.js";
import { prefix } from "./place.js";
import { whileSeen } from "./sight.js";
import { nameOf, recall, remember } from "./storage.js";

export { NO_ANSWER, Problem, sleep };

/** @typedef {import("./types.js").JobEvent} JobEvent */

/** Asks the user for a token; set by the page. Another tab may have it first; where nothing is offered, the
 * user may keep the one that the page has: then it is null.
 * @typedef {(wrong: boolean, offered?: Promise<string>) => Promise<string|null>} Ask
 * @type {Ask} */
let ask = () => Promise.reject(new Problem({ code: "unauthorized", message: "this hive asks for a token" }));
/** @type {Promise<void>|null} */
let asking = null;

/** @param {Ask} how */
export function onTokenNeeded(how) {
  ask = how;
}

/** A token that the hive may accept soon. @type {string|null} */
let ready = null;
/** Has the page try this token before it asks the user for one. @param {string|null} token */
export const keepReady = (token) => void (ready = token);

/** Fires "changed" when the page has another token. */
export const tokens = new EventTarget();

/** The hive of this page, which asks the user for the token where it needs one. */
class Ours extends Hive {
  constructor() {
    // The hive needs the prefix for the path of its cookie.
    /** @type {Record<string, string>} */
    const headers = prefix ? { "X-Forwarded-Prefix": prefix } : {};
    super(prefix, { token: recall("token", null, "sessionStorage"), headers });
  }

  /** Sends a request, again for each token that the user enters.
   * @param {string} method @param {string} path @param {import("../client.js").Options} [options] */
  async request(method, path, options = {}) {
    for (;;) {
      const given = this.token;
      try {
        return await super.request(method, path, options);
      } catch (error) {
        if (!(error instanceof Problem) || error.status !== 401) throw error;
      }
      // Requests that fail in the meantime wait for the same token.
      if (given === this.token) await (asking ??= obtain(given !== null).finally(() => (asking = null)));
      options.signal?.throwIfAborted();
    }
  }
}

const ours = new Ours();

/** How long other tabs may take to offer their token before the user is asked, in milliseconds. */
const OFFER_MS = 150;
const tabs = new BroadcastChannel(nameOf("token"));
tabs.addEventListener(
  "message",
  ({ data }) => data.asks && ours.token !== null && tabs.postMessage({ token: ours.token }),
);

/** A token of another tab that this one has not tried; pending while there is none.
 * @param {AbortSignal} signal ends the wait */
function offer(signal) {
  const tried = ours.token;
  return new Promise((/** @type {(token: string) => void} */ resolve) => {
    const take = (/** @type {MessageEvent} */ { data }) =>
      data.token && data.token !== tried && resolve(data.token);
    tabs.addEventListener("message", take, { signal });
    tabs.postMessage({ asks: true });
  });
}

/** Whether the hive asked for a token. */
export const hasToken = () => ours.token !== null;

/** Sends a request, again for each token that the user enters.
 * @param {string} method @param {string} path @param {import("../client.js").Options} [options]
 * @returns {Promise<Response>} a response with a success status */
export const request = (method, path, options) => ours.request(method, path, options);

/** Asks for the token until the hive accepts it, and opens a session for the event stream.
 * @param {boolean} wrong */
async function obtain(wrong) {
  if (ready !== null && (await take(ready))) return;
  for (let refused = wrong; ; refused = true) {
    const answered = new AbortController();
    const offered = offer(answered.signal);
    const early = await Promise.race([offered, sleep(OFFER_MS)]);
    const given = (early ?? (await ask(refused, offered)) ?? "").trim();
    answered.abort();
    if (await take(given)) return;
    ours.token = given;
  }
}

/** Has the user enter another token, if they want. */
export async function changeToken() {
  for (let refused = false; ; refused = true) {
    const given = await ask(refused);
    if (given === null || (await take(given.trim()))) return;
  }
}

/** Uses a token from now on, if the hive accepts it. @param {string} token */
export async function take(token) {
  const response = await ours.send("POST", "/v1/session", { headers: bearer(token) });
  if (response.ok) {
    ours.token = token;
    remember("token", token, "sessionStorage");
    tabs.postMessage({ token });
    tokens.dispatchEvent(new Event("changed"));
    return true;
  }
  if (response.status !== 401) throw await Problem.ofAnswer(response);
  return false;
}

/** Opens a new session: a restarted hive has forgotten the old one. */
export async function renewSession() {
  if (ours.token !== null) await request("POST", "/v1/session");
}

/** @param {string} path @param {AbortSignal} [signal] */
export const get = (path, signal) => ours.get(path, signal);

/** @returns {Promise<import("./types.js").Capabilities>} */
export const capabilities = () =>
  (known ??= get("/v1/capabilities").catch((error) => {
    known = null;
    throw error;
  }));
/** @type {Promise<import("./types.js").Capabilities>|null} */
let known = null;

/** Asks for them anew the next time: engines have changed, or the caller. */
export const forgetCapabilities = () => void (known = null);

/** Submits an operation, such as `{ModelLoad: {id}}`, and returns the job's id.
 * @param {Record<string, any>} operation */
export const submit = (operation) => ours.submit(operation);

/** Cancels a job; resolves after its terminal event. @param {string} id */
export const cancel = (id) => ours.cancel(id);

/** Follows a job's typed stream to its end, or until the signal, and resumes it when a connection breaks.
 * @param {string} id
 * @param {(events: JobEvent[]) => void} onEvents
 * @param {{signal?: AbortSignal, onLost?: (lost: boolean) => void, rests?: AbortSignal}} [options]
 *   `rests`: instead of `signal`, for a stream that may be closed while the page is hidden */
export async function follow(id, onEvents, { rests, signal = rests, onLost } = {}) {
  let after = "";
  const read = async (/** @type {AbortSignal|undefined} */ signal) => {
    for await (const batch of ours.batches(id, { signal, after, onLost })) {
      after = batch[batch.length - 1].id || after;
      onEvents(/** @type {JobEvent[]} */ (batch));
    }
  };
  try {
    await (rests ? whileSeen(rests, read) : read(signal));
  } catch (error) {
    if (!signal?.aborted) throw error;
  }
}

/** Submits an operation and returns its result; undefined where the signal ended the wait.
 * @param {Record<string, any>} operation @param {Parameters<Hive["run"]>[1]} [options]
 * @returns {Promise<any>} */
export async function run(operation, options) {
  try {
    return await ours.run(operation, options);
  } catch (error) {
    if (error instanceof Problem || !options?.signal?.aborted) throw error;
    return undefined;
  }
}
