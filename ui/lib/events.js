// The page's one connection for events, `/v1/events`, kept open while the page is visible.
//
// This module reconnects instead of the browser, so that the page can show when it tries next and let
// the user try at once. It resumes after the last event id; a restarted hive answers with a snapshot.
//
// A page that rests closes the connection, and resumes without a gap when it wakes.

import { Problem, hasToken, renewSession, request } from "./api.js";
import { applyHive, refreshFleet } from "./fleet.js";
import { hive } from "./hive.js";
import { at } from "./place.js";
import { sight } from "./sight.js";

/** Telemetry comes once a second: a connection that is silent for longer than this is dead, although
 * the socket may look open (a laptop that slept). */
const SILENCE_MS = 10_000;
/** A hive that takes longer to answer hangs. */
const ANSWER_MS = 5_000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8_000;
/** Events after which the page has the hive's state. An open stream is not enough: a snapshot or the
 * events that the page missed come first, and telemetry only after all of them. */
const UP_TO_DATE = new Set(["snapshot", "telemetry"]);

/** @type {EventSource|null} */
let source = null;
let lastId = "";
/** When the last event arrived. */
let heardAt = 0;
let pause = FIRST_PAUSE_MS;
/** Whether a refused stream was requested again without a pause. */
let hasRetried = false;
/** @type {number|undefined} */
let timer;

/** Connects, and reconnects when the connection breaks or falls silent. */
export function start() {
  connect();
  setInterval(() => {
    if (source?.readyState === EventSource.OPEN && Date.now() - heardAt > SILENCE_MS) {
      lose(`no event arrived for ${SILENCE_MS / 1000} s`);
    }
  }, 1000);
  addEventListener("online", tryNow);
  // The browser puts the page into its back-forward cache, or takes it out.
  addEventListener("pagehide", closeStream);
  addEventListener("pageshow", (event) => event.persisted && connect());
  sight.addEventListener("rest", closeStream);
  sight.addEventListener("wake", connect);
}

function closeStream() {
  clearTimeout(timer);
  source?.close();
  source = null;
}

/** Reconnects at once, without waiting for the next attempt. */
export function tryNow() {
  if (hive.connection.state === "lost") connect();
}

function connect() {
  closeStream();
  // A page that was at rest has missed events until the new stream brings them.
  const state = hive.connection.state === "live" ? "connecting" : hive.connection.state;
  hive.setConnection({ state, retryAt: 0 });
  const own = (source = new EventSource(
    at(lastId ? `/v1/events?after=${encodeURIComponent(lastId)}` : "/v1/events"),
  ));
  let opened = false;
  heardAt = Date.now();
  const late = setTimeout(() => source === own && !opened && fail(own), ANSWER_MS);
  own.onopen = () => {
    opened = true;
    clearTimeout(late);
    heardAt = Date.now();
  };
  own.onerror = () => {
    clearTimeout(late);
    if (source !== own) return;
    if (opened) lose("the connection broke");
    else fail(own);
  };
  listen(own, "snapshot", (data, id) => {
    const restarted = lastId !== "" && epoch(id) !== epoch(lastId);
    hive.applySnapshot(data);
    // A snapshot does not wait for what only other hives know.
    if (hive.fleet) refreshFleet();
    if (restarted) hive.setConnection({ restarted: true });
  });
  listen(own, "job", (data) => hive.applyJob(data));
  listen(own, "model", (data) => hive.applyModel(data));
  listen(own, "worker", (data) => hive.applyWorker(data));
  listen(own, "hive", applyHive);
  listen(own, "residency", (data) => hive.applyResidency(data));
  listen(own, "telemetry", (data) => hive.applyTelemetry(data));
}

/** Handles a refused stream. An EventSource does not report the reason: a request finds it, and asks
 * for the token where one is needed. @param {EventSource} own */
async function fail(own) {
  own.close();
  try {
    await request("GET", "/v1/jobs?limit=1", { patience: ANSWER_MS });
    // A restarted hive has forgotten the session.
    if (hasToken()) await renewSession();
  } catch (error) {
    if (source === own) lose(Problem.of(error).message);
    return;
  }
  if (source !== own) return;
  // The first time reconnects at once, later times after a pause.
  if (hasRetried) lose("it refuses the event stream");
  else {
    hasRetried = true;
    connect();
  }
}

/** @param {EventSource} own @param {string} name @param {(data: any, id: string) => void} apply */
function listen(own, name, apply) {
  own.addEventListener(name, (event) => {
    if (source !== own) return;
    heardAt = Date.now();
    apply(JSON.parse(event.data), event.lastEventId);
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
  closeStream();
  hive.setConnection({ state: "lost", cause, retryAt: Date.now() + pause, restarted: false });
  timer = window.setTimeout(connect, pause);
  pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
}
