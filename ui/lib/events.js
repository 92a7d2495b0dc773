// The page's one event connection: `/v1/events`, kept up for as long as the page lives.
//
// Reconnecting is done here and not left to the browser, so that the page can say when it tries
// next and let a person try now. It resumes after the last id; a hive that was restarted answers
// with a snapshot.
//
// A page that rests gives the connection back, resumes when it wakes, and has missed nothing.

import { Problem, hasToken, renewSession, request } from "./api.js";
import { hive } from "./hive.js";
import { sight } from "./sight.js";

/** Telemetry comes once a second: silence beyond this is a dead connection, whatever the socket
 * says (a laptop that slept). */
const SILENCE_MS = 10_000;
/** An answer that takes longer comes from a hive that hangs. */
const ANSWER_MS = 5_000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8_000;
/** Events after which the page has the hive's state. An open stream is not enough: a snapshot or the
 * events that the page missed come first, and telemetry only after all of them. */
const UP_TO_DATE = new Set(["snapshot", "telemetry"]);

/** @type {EventSource|null} */
let source = null;
let lastId = "";
let heard = 0;
let pause = FIRST_PAUSE_MS;
/** Whether a refused stream was asked for again without a pause. */
let hasRetried = false;
/** @type {number|undefined} */
let timer;

/** Connects, and watches over the connection. */
export function start() {
  connect();
  setInterval(() => {
    if (source?.readyState === EventSource.OPEN && Date.now() - heard > SILENCE_MS) {
      lose(`nothing was heard for ${SILENCE_MS / 1000} s`);
    }
  }, 1000);
  addEventListener("online", tryNow);
  // Into the browser's cache of pages, and out of it.
  addEventListener("pagehide", hangUp);
  addEventListener("pageshow", (event) => event.persisted && connect());
  sight.addEventListener("rest", hangUp);
  sight.addEventListener("wake", connect);
}

function hangUp() {
  clearTimeout(timer);
  source?.close();
  source = null;
}

/** Does not wait for the next attempt. */
export function tryNow() {
  if (hive.connection.state === "lost") connect();
}

function connect() {
  hangUp();
  // A page that was at rest has missed events until the new stream brings them.
  const state = hive.connection.state === "live" ? "connecting" : hive.connection.state;
  hive.setConnection({ state, retryAt: 0 });
  const own = (source = new EventSource(lastId ? `/v1/events?after=${encodeURIComponent(lastId)}` : "/v1/events"));
  let opened = false;
  heard = Date.now();
  const late = setTimeout(() => source === own && !opened && fail(own), ANSWER_MS);
  own.onopen = () => {
    opened = true;
    clearTimeout(late);
    heard = Date.now();
  };
  own.onerror = () => {
    clearTimeout(late);
    if (source !== own) return;
    if (opened) lose("the connection broke");
    else fail(own);
  };
  listen(own, "snapshot", (data, id) => {
    const restarted = lastId !== "" && epoch(id) !== epoch(lastId);
    hive.take(data);
    if (restarted) hive.setConnection({ restarted: true });
  });
  listen(own, "job", (data) => hive.tookJob(data));
  listen(own, "model", (data) => hive.tookModel(data));
  listen(own, "worker", (data) => hive.tookWorker(data));
  listen(own, "telemetry", (data) => hive.tookTelemetry(data));
}

/** A refusal is invisible to an EventSource: a request finds out why, and asks for the token where
 * one is needed. @param {EventSource} own */
async function fail(own) {
  own.close();
  try {
    await request("GET", "/v1/jobs?limit=1", { patience: ANSWER_MS });
    // A hive that was restarted has forgotten the session.
    if (hasToken()) await renewSession();
  } catch (error) {
    if (source === own) lose(Problem.of(error).message);
    return;
  }
  if (source !== own) return;
  // Once at once; after that with a pause, whatever keeps refusing.
  if (hasRetried) lose("the stream of events is refused");
  else {
    hasRetried = true;
    connect();
  }
}

/** @param {EventSource} own @param {string} name @param {(data: any, id: string) => void} take */
function listen(own, name, take) {
  own.addEventListener(name, (event) => {
    if (source !== own) return;
    heard = Date.now();
    take(JSON.parse(event.data), event.lastEventId);
    if (event.lastEventId) lastId = event.lastEventId;
    if (UP_TO_DATE.has(name)) live();
  });
}

/** @param {string} id */
const epoch = (id) => id.slice(0, id.lastIndexOf("-"));

function live() {
  hasRetried = false;
  pause = FIRST_PAUSE_MS;
  if (hive.connection.state !== "live") hive.setConnection({ state: "live", cause: "", retryAt: 0 });
}

/** @param {string} cause */
function lose(cause) {
  hangUp();
  hive.setConnection({ state: "lost", cause, retryAt: Date.now() + pause, restarted: false });
  timer = window.setTimeout(connect, pause);
  pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
}
