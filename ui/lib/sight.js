// Whether the page is seen. One that is not gives its connections back: a browser has six for all
// its tabs together.

/** How long a page may be out of sight before it rests. */
const REST_MS = 2_000;

let resting = new AbortController();
/** @type {number|undefined} */
let timer;

/** Tells when the page begins to rest ("rest") and when it is seen again ("wake"). */
export const sight = new EventTarget();

/** Does work that holds a connection: stopped when the page rests, begun again when it wakes.
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

function look() {
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

document.addEventListener("visibilitychange", look);
look();
