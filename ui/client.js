// A client of the hive's API: jobs, their streams, and the stream of all changes. It runs in browsers and in
// Node (20.3 or later), has no dependencies and is this one file; the hive serves it at `/ui/client.js`. The
// page is made with it.
//
// Streams resume: where a connection breaks, the client connects again and asks for what came after the last
// event that it has, so that none is lost or comes twice.

/**
 * @typedef {object} Progress
 * @property {number} done
 * @property {number|null} [total]
 * @property {string} unit
 * @property {number|null} [rate_per_second]
 * @property {number|null} [eta_seconds]
 * @property {number|null} [connections] connections that are transferring
 * @property {number|null} [kept] how much the same request finds if the hive is killed now
 *
 * @typedef {object} Choice
 * @property {string} model the name that chooses it
 * @property {number|null} size_bytes
 * @property {boolean} recommended
 *
 * @typedef {object} Failure
 * @property {string} code
 * @property {string} message
 * @property {string} [hint]
 * @property {string} [stage]
 * @property {string[]} [causes]
 * @property {number} [exit_code]
 * @property {string} [signal]
 * @property {string[]} [log_tail]
 * @property {Choice[]} [choices] the models to choose from where a name matches none or several
 *
 * @typedef {object} Narration
 * @property {number} seq
 * @property {string} at
 * @property {"debug"|"info"|"warn"|"error"} level
 * @property {string} operation
 * @property {string} action
 * @property {string} message
 * @property {Progress} [progress]
 *
 * @typedef {object} StreamEvent
 * @property {string} id
 * @property {string} event of a job `narration`, `result`, `elision`, `done`, `failed` or `cancelled`; of the
 *   changes `snapshot`, `job`, `model`, `worker`, `residency`, `hive` or `telemetry`
 * @property {any} data
 */

/** @typedef {object} Options
 * @property {any} [body] what is sent as JSON
 * @property {AbortSignal} [signal]
 * @property {Record<string, string>} [headers]
 * @property {number} [patience] how long the head of a response may take, in milliseconds */

/** @typedef {object} Following
 * @property {AbortSignal} [signal] ends it: then it throws the signal's reason
 * @property {string} [after] the id of the last event that is known
 * @property {(lost: boolean) => void} [onLost] told when the connection is lost, and when it is back */

/** The message of a request that the hive did not answer. */
export const NO_ANSWER = "the hive does not answer";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 5_000;
/** The events that end the stream of a job. */
const TERMINAL = new Set(["done", "failed", "cancelled"]);
const NONE = new Set();

/** An error from the hive or from the network. */
export class Problem extends Error {
  /** @param {Partial<Failure> & {detail?: string, status?: number}} body */
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
    /** The status of HTTP; 0 where no answer had one. */
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

  /** The problem of an answer without success. @param {Response} response */
  static async ofAnswer(response) {
    return Problem.from(await response.json().catch(() => null), response.status);
  }

  /** Converts anything thrown to a problem. @param {unknown} error */
  static of(error) {
    if (error instanceof Problem) return error;
    return new Problem({ code: "client", message: error instanceof Error ? error.message : String(error) });
  }
}

/** A hive. */
export class Hive {
  /** @param {string} [url] where it is, such as `http://localhost:7835`; in a browser, where the page is from
   * @param {{token?: string|null, headers?: Record<string, string>}} [options] the token, if the hive asks
   *   for one, and headers for each request */
  constructor(url = "", { token = null, headers = {} } = {}) {
    this.url = url.replace(/\/+$/, "");
    this.token = token;
    this.headers = headers;
  }

  /** Sends a request. @param {string} method @param {string} path such as `/v1/jobs`
   * @param {Options} [options]
   * @returns {Promise<Response>} a response with a success status; others are thrown as `Problem` */
  async request(method, path, options = {}) {
    const response = await this.send(method, path, options);
    if (response.ok) return response;
    throw await Problem.ofAnswer(response);
  }

  /** Sends a request, and returns its response whatever its status is.
   * @param {string} method @param {string} path @param {Options} [options] */
  async send(method, path, { body, signal, headers, patience } = {}) {
    /** @type {Record<string, string>} */
    const all = { ...(this.token === null ? {} : bearer(this.token)), ...this.headers, ...headers };
    if (body !== undefined) all["Content-Type"] = "application/json";
    const late = new AbortController();
    const timer = patience && setTimeout(() => late.abort(), patience);
    try {
      const json = body === undefined ? undefined : JSON.stringify(body);
      const either = AbortSignal.any(signal ? [signal, late.signal] : [late.signal]);
      return await fetch(this.url + path, {
        method,
        headers: all,
        body: json,
        signal: either,
        cache: "no-store",
      });
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
        hint: "check whether it is running: `rbee-hive` starts it",
      });
    } finally {
      clearTimeout(timer);
    }
  }

  /** The JSON that a path answers with.
   * @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
  async get(path, signal) {
    return (await this.request("GET", path, { signal })).json();
  }

  /** Submits an operation, such as `{ModelLoad: {id}}`, and returns the job's id. A submission with the key
   * of an earlier one answers with that one's job.
   * @param {Record<string, any>} operation @param {string} [key] @returns {Promise<string>} */
  async submit(operation, key = randomHex(16)) {
    const headers = { "Idempotency-Key": key };
    const response = await this.request("POST", "/v1/jobs", { body: operation, headers });
    return (await response.json()).job_id;
  }

  /** Cancels a job; resolves after its last event. @param {string} id */
  async cancel(id) {
    await this.request("DELETE", `/v1/jobs/${id}`);
  }

  /** The events of a job, from its first to its last one. @param {string} id @param {Following} [options]
   * @returns {AsyncGenerator<StreamEvent, void>} */
  async *follow(id, options) {
    for await (const batch of this.batches(id, options)) yield* batch;
  }

  /** The events of a job in batches: those that have arrived together.
   * @param {string} id @param {Following} [options] */
  batches(id, options = {}) {
    return this.#stream(`/v1/jobs/${id}/stream?format=json`, TERMINAL, options);
  }

  /** The changes of the hive, without an end; without `after`, or after a restart, first a `snapshot`.
   * @param {Following} [options] @returns {AsyncGenerator<StreamEvent, void>} */
  async *changes(options = {}) {
    for await (const batch of this.#stream("/v1/events", NONE, options)) yield* batch;
  }

  /** Submits an operation and returns its result. Where the signal ends the wait, it throws its reason.
   * @param {Record<string, any>} operation
   * @param {object} [options]
   * @param {AbortSignal} [options.signal]
   * @param {boolean} [options.cancels] whether the signal cancels the job too
   * @param {(message: string, level: string, progress?: Progress) => void} [options.onMessage]
   * @param {(id: string) => void} [options.onJob]
   * @returns {Promise<any>} */
  async run(operation, { signal, cancels = false, onMessage, onJob } = {}) {
    const id = await this.submit(operation);
    onJob?.(id);
    let result;
    try {
      signal?.throwIfAborted();
      for await (const { event, data } of this.follow(id, { signal })) {
        if (event === "narration" && data.level !== "debug")
          onMessage?.(data.message, data.level, data.progress);
        else if (event === "result") result = data.data;
        else if (event === "failed") throw new Problem(data);
        else if (event === "cancelled") throw new Problem({ code: "cancelled", message: "it was cancelled" });
      }
    } finally {
      if (cancels && signal?.aborted)
        await this.cancel(id).catch((error) => {
          if (error.code !== "job_ended") throw error;
        });
    }
    return result;
  }

  /** @param {string} path @param {Set<string>} last the events that end it @param {Following} options
   * @returns {AsyncGenerator<StreamEvent[], void>} */
  async *#stream(path, last, { signal, after = "", onLost }) {
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
      try {
        /** @type {Record<string, string>} */
        const headers = after ? { "Last-Event-ID": after } : {};
        const response = await this.request("GET", path, { signal, headers });
        if (response.status === 204 || !response.body) return;
        onLost?.(false);
        for await (const batch of batches(response.body)) {
          signal?.throwIfAborted();
          pause = FIRST_PAUSE_MS;
          // Some events have no id: they are not sent again.
          after = batch.findLast(({ id }) => id)?.id ?? after;
          yield batch.map(({ id, event, data }) => ({ id, event, data: JSON.parse(data) }));
          if (batch.some(({ event }) => last.has(event))) return;
        }
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof Problem && error.status >= 400 && error.status < 500) throw error;
      }
      onLost?.(true);
      await sleep(pause, signal);
      signal?.throwIfAborted();
    }
  }
}

/** The Server-Sent Events of a body, one batch for each piece that arrives.
 * @param {ReadableStream<Uint8Array>} body
 * @param {(comment: string) => void} [onComment]
 * @returns {AsyncGenerator<Array<{id: string, event: string, data: string}>>} */
export async function* batches(body, onComment) {
  const reader = texts(body);
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const blocks = rest.split("\n\n");
      rest = blocks.pop() ?? "";
      const events = blocks.map((block) => parse(block, onComment)).filter((event) => event.data !== "");
      if (events.length > 0) yield events;
    }
  } finally {
    // A reader that stops early must close the connection: a browser has only six for each server.
    reader.cancel().catch(() => {});
  }
}

/** Reads a body as text, piece by piece. @param {ReadableStream<Uint8Array>} body
 * @returns {ReadableStreamDefaultReader<string>} */
export function texts(body) {
  // TypeScript's types of the two platform classes do not match.
  return body.pipeThrough(/** @type {any} */ (new TextDecoderStream())).getReader();
}

/** @param {string} block @param {(comment: string) => void} [onComment] */
function parse(block, onComment) {
  const event = { id: "", event: "message", data: "" };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon === 0) onComment?.(line.slice(1).trim());
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "id") event.id = value;
    else if (name === "event") event.event = value;
    else if (name === "data") event.data += event.data ? `\n${value}` : value;
  }
  return event;
}

/** The header that has a token. @param {string} token */
export const bearer = (token) => ({ Authorization: `Bearer ${token}` });

/** Random bytes as hexadecimal digits. Pages over plain HTTP have no `crypto.randomUUID`.
 * @param {number} bytes */
export const randomHex = (bytes) => toHex(crypto.getRandomValues(new Uint8Array(bytes)));

/** @param {Uint8Array} bytes */
export const toHex = (bytes) =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** @param {number} ms @param {AbortSignal} [signal] @returns {Promise<void>} */
export function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
