// The hive's public API. All requests of the page go through this module and `events.js`.
//
// The token is kept in the tab's `sessionStorage`, so that a reload does not ask for it, and tabs of the same
// hive give it to each other. That is safe: both are closed to every other origin, and within this one the
// page's policy allows no script but the page's own, and no markup that could be one. It is gone when the tab
// is closed, is never in `localStorage`, a cookie or a URL, and is sent to this hive alone.

import { at, prefix } from "./place.js";
import { whileSeen } from "./sight.js";
import { batches } from "./sse.js";
import { nameOf, recall, remember } from "./storage.js";

/** @typedef {import("./types.js").JobEvent} JobEvent */

/** The message of a request that the hive did not answer. */
export const NO_ANSWER = "the hive does not answer";

/** An error from the hive or from the network. */
export class Problem extends Error {
  /** @param {Partial<import("./types.js").Failure> & {detail?: string, status?: number}} body */
  constructor(body) {
    super(body.detail ?? body.message ?? "the hive gave no reason");
    this.code = body.code ?? "unknown";
    this.hint = body.hint;
    this.stage = body.stage;
    this.causes = body.causes ?? [];
    this.exit_code = body.exit_code;
    this.signal = body.signal;
    this.log_tail = body.log_tail ?? [];
    this.choices = body.choices ?? [];
    this.status = body.status ?? 0;
  }

  /** The problem of an answer's body, which may also have the form of OpenAI's API or of an engine.
   * @param {any} body @param {number} status */
  static from(body, status) {
    const { error } = body ?? {};
    const inner = typeof error === "string" ? { message: error } : (error ?? {});
    const message = body?.detail ?? body?.message ?? inner.message;
    const code = body?.code ?? inner.code ?? undefined;
    return new Problem({
      ...inner,
      ...body,
      code: typeof code === "string" ? code : (inner.type ?? undefined),
      detail: message ?? `the hive answered with status ${status}, without a reason`,
      status,
    });
  }

  /** Converts anything thrown to a problem. @param {unknown} error */
  static of(error) {
    if (error instanceof Problem) return error;
    return new Problem({ code: "page", message: error instanceof Error ? error.message : String(error) });
  }
}

/** @type {string|null} */
let token = recall("token", null, "sessionStorage");
/** Asks the user for the token, until another tab has it; set by the page.
 * @typedef {(wrong: boolean, offered: Promise<string>) => Promise<string>} Ask
 * @type {Ask} */
let ask = () => Promise.reject(new Problem({ code: "unauthorized", message: "this hive asks for a token" }));
/** @type {Promise<void>|null} */
let asking = null;

/** @param {Ask} how */
export function onTokenNeeded(how) {
  ask = how;
}

/** How long other tabs may take to offer their token before the user is asked, in milliseconds. */
const OFFER_MS = 150;
const tabs = new BroadcastChannel(nameOf("token"));
tabs.addEventListener("message", ({ data }) => data.asks && token !== null && tabs.postMessage({ token }));

/** A token of another tab that this one has not tried; pending while there is none.
 * @param {AbortSignal} signal ends the wait */
function offer(signal) {
  const tried = token;
  return new Promise((/** @type {(token: string) => void} */ resolve) => {
    const take = (/** @type {MessageEvent} */ { data }) =>
      data.token && data.token !== tried && resolve(data.token);
    tabs.addEventListener("message", take, { signal });
    tabs.postMessage({ asks: true });
  });
}

/** Whether the hive asked for a token. */
export const hasToken = () => token !== null;

/** @typedef {object} Options
 * @property {any} [body]
 * @property {AbortSignal} [signal]
 * @property {Record<string, string>} [headers]
 * @property {number} [patience] how long the head of a response may take, in milliseconds */

/** Sends a request, again for each token that the user enters.
 * @param {string} method
 * @param {string} path
 * @param {Options} [options]
 * @returns {Promise<Response>} a response with a success status */
export async function request(method, path, options = {}) {
  for (;;) {
    const given = token;
    const response = await send(method, path, options);
    if (response.ok) return response;
    if (response.status !== 401) throw await problem(response);
    // Requests that fail in the meantime wait for the same token.
    if (given === token) await (asking ??= obtain(given !== null).finally(() => (asking = null)));
    options.signal?.throwIfAborted();
  }
}

/** Asks for the token until the hive accepts it, and opens a session for the event stream.
 * @param {boolean} wrong */
async function obtain(wrong) {
  for (let refused = wrong; ; refused = true) {
    const before = token;
    const answered = new AbortController();
    const offered = offer(answered.signal);
    const early = await Promise.race([offered, sleep(OFFER_MS)]);
    token = (early ?? (await ask(refused, offered))).trim();
    answered.abort();
    const response = await send("POST", "/v1/session", {}).catch((error) => {
      token = before;
      throw error;
    });
    if (response.ok) {
      remember("token", token, "sessionStorage");
      tabs.postMessage({ token });
      return;
    }
    if (response.status !== 401) throw await problem(response);
  }
}

/** Opens a new session: a restarted hive has forgotten the old one. */
export async function renewSession() {
  if (token !== null) await request("POST", "/v1/session");
}

/** @param {string} method @param {string} path @param {Options} options */
async function send(method, path, { body, signal, headers, patience }) {
  /** @type {Record<string, string>} */
  const all = { ...headers };
  if (body !== undefined) all["Content-Type"] = "application/json";
  if (token !== null) all["Authorization"] = `Bearer ${token}`;
  // The hive needs it for the path of its cookie.
  if (prefix) all["X-Forwarded-Prefix"] = prefix;
  const late = new AbortController();
  const timer = patience && setTimeout(() => late.abort(), patience);
  try {
    const json = body === undefined ? undefined : JSON.stringify(body);
    const either = AbortSignal.any(signal ? [signal, late.signal] : [late.signal]);
    return await fetch(at(path), { method, headers: all, body: json, signal: either, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    if (late.signal.aborted)
      throw new Problem({
        code: "unreachable",
        message: `it accepted the connection and sent nothing for ${(patience ?? 0) / 1000} s`,
      });
    throw new Problem({
      code: "unreachable",
      message: NO_ANSWER,
      hint: "check whether it is running: `rbee-hive` starts it; this page reconnects by itself",
    });
  } finally {
    clearTimeout(timer);
  }
}

/** @param {Response} response */
async function problem(response) {
  return Problem.from(await response.json().catch(() => null), response.status);
}

/** @param {string} path @param {AbortSignal} [signal] */
export async function get(path, signal) {
  return (await request("GET", path, { signal })).json();
}

/** @returns {Promise<import("./types.js").Capabilities>} */
export const capabilities = () =>
  (known ??= get("/v1/capabilities").catch((error) => {
    known = null;
    throw error;
  }));
/** @type {Promise<import("./types.js").Capabilities>|null} */
let known = null;

/** Asks for them anew the next time: engines have changed. */
export const forgetCapabilities = () => void (known = null);

/** Submits an operation, such as `{ModelLoad: {id}}`, and returns the job's id. Retries are safe: they
 * carry the same key.
 * @param {Record<string, any>} operation
 * @returns {Promise<string>} */
export async function submit(operation) {
  const headers = { "Idempotency-Key": key() };
  const response = await request("POST", "/v1/jobs", { body: operation, headers });
  return (await response.json()).job_id;
}

/** 128 random bits. Pages over plain HTTP have no `crypto.randomUUID`. */
function key() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
}

/** Cancels a job; resolves after its terminal event. @param {string} id */
export async function cancel(id) {
  await request("DELETE", `/v1/jobs/${id}`);
}

const TERMINAL = new Set(["done", "failed", "cancelled"]);

/** Follows a job's typed stream to its end, and resumes it when a connection breaks.
 * @param {string} id
 * @param {(events: JobEvent[]) => void} onEvents
 * @param {{signal?: AbortSignal, onLost?: (lost: boolean) => void, rests?: AbortSignal}} [options]
 *   `rests`: instead of `signal`, for a stream that may be closed while the page is hidden */
export async function follow(id, onEvents, { rests, signal = rests, onLost } = {}) {
  let last = "";
  let pause = 500;
  /** Reads until the stream ends; returns whether the job has ended. @param {AbortSignal} [signal] */
  const read = async (signal) => {
    /** @type {Record<string, string>} */
    const headers = last ? { "Last-Event-ID": last } : {};
    const response = await request("GET", `/v1/jobs/${id}/stream?format=json`, { signal, headers });
    if (response.status === 204 || !response.body) return true;
    onLost?.(false);
    for await (const batch of batches(response.body)) {
      signal?.throwIfAborted();
      pause = 500;
      last = batch[batch.length - 1].id || last;
      onEvents(batch.map(({ event, data }) => /** @type {JobEvent} */ ({ event, data: JSON.parse(data) })));
      if (batch.some(({ event }) => TERMINAL.has(event))) return true;
    }
    return false;
  };
  for (; ; pause = Math.min(pause * 2, 5000)) {
    try {
      if (await (rests ? whileSeen(rests, read) : read(signal))) return;
    } catch (error) {
      if (signal?.aborted) return;
      if (error instanceof Problem && error.status >= 400 && error.status < 500) throw error;
    }
    onLost?.(true);
    await sleep(pause, signal);
    if (signal?.aborted) return;
  }
}

/** Submits an operation and returns its result; undefined where the signal ended the wait.
 * @param {Record<string, any>} operation
 * @param {object} [options]
 * @param {AbortSignal} [options.signal]
 * @param {boolean} [options.cancels] whether the signal cancels the job too
 * @param {(message: string, level: string) => void} [options.onMessage]
 * @param {(id: string) => void} [options.onJob]
 * @returns {Promise<any>} */
export async function run(operation, { signal, cancels = false, onMessage, onJob } = {}) {
  const id = await submit(operation);
  onJob?.(id);
  let result;
  /** @type {Problem|null} */
  let failed = null;
  await follow(
    id,
    (events) => {
      for (const { event, data } of events) {
        if (event === "narration" && data.level !== "debug") onMessage?.(data.message, data.level);
        else if (event === "result") result = data.data;
        else if (event === "failed") failed = new Problem(data);
        else if (event === "cancelled")
          failed = new Problem({ code: "cancelled", message: "it was cancelled" });
      }
    },
    { signal },
  );
  // The signal may have come before the job's id.
  if (cancels && signal?.aborted)
    await cancel(id).catch((error) => {
      if (error.code !== "job_ended") throw error;
    });
  if (failed) throw failed;
  return result;
}

/** @param {number} ms @param {AbortSignal} [signal] @returns {Promise<void>} */
export function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
