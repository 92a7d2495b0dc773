// Whether the page is visible. A hidden page closes its connections, because a browser has only six for
// each server, over all its tabs.

/** How long a page is hidden before it rests, in milliseconds. */
const REST_MS = 2_000;

let resting = new AbortController();
/** @type {number|undefined} */
let timer;

/** Fires "rest" when the page starts to rest and "wake" when it is visible again. */
export const sight = new EventTarget();

/** Runs work that holds a connection: stops it when the page rests, starts it again when it wakes.
 * @template T @param {AbortSignal} signal @param {(signal: AbortSignal) => Promise<T>} work
 * @returns {Promise<T>} */
export async function whileSeen(signal, work) {
  for (;;) {
    if (resting.signal.aborted) await wake(signal);
    const either = AbortSignal.any([signal, resting.signal]);
    try {
      return await work(either);
    } catch (error) {
      if (signal.aborted || !either.aborted) throw error;
    }
  }
}

/** @param {AbortSignal} signal */
function wake(signal) {
  return new Promise((resolve) => {
    sight.addEventListener("wake", resolve, { once: true, signal });
    signal.addEventListener("abort", resolve, { once: true });
  });
}

function check() {
  clearTimeout(timer);
  if (document.hidden) timer = window.setTimeout(rest, REST_MS);
  else if (resting.signal.aborted) {
    resting = new AbortController();
    sight.dispatchEvent(new Event("wake"));
  }
}

function rest() {
  resting.abort();
  sight.dispatchEvent(new Event("rest"));
}

document.addEventListener("visibilitychange", check);
check();
