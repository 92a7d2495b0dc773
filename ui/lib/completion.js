// One answer of a model, streamed from the OpenAI-compatible gateway that other clients use too.

import { batches } from "../client.js";
import { Problem, request } from "./api.js";

/** @typedef {import("./conversations.js").Message} Message */

/** What a request waits for, in words, and the job of the load.
 * @typedef {{text: string, job: string}} Wait */

/** Asks for a completion and adds its pieces to the message as they arrive.
 * @param {Record<string, any>} body the request, without what concerns streaming
 * @param {Message} message the answer, which grows
 * @param {{signal: AbortSignal, onPiece: () => void, onWait: (wait: Wait) => void}} options */
export async function complete(body, message, { signal, onPiece, onWait }) {
  const streamed = { ...body, stream: true, stream_options: { include_usage: true } };
  const headers = { "x-rbee-narrate": "1" };
  const response = await request("POST", "/v1/chat/completions", { body: streamed, signal, headers });
  const wait = { text: "", job: response.headers.get("x-rbee-job-id") ?? "" };
  const onComment = (/** @type {string} */ comment) => onWait(Object.assign(wait, waitIn(comment)));
  const stream = /** @type {ReadableStream<Uint8Array>} */ (response.body);
  const meter = new Meter();
  let hasEnd = false;
  for await (const batch of batches(stream, onComment)) {
    for (const { data } of batch) {
      if (data === "[DONE]") hasEnd = true;
      else take(read(data), message, meter);
    }
    onPiece();
  }
  if (!hasEnd && !message.finish) {
    throw new Problem({
      code: "answer_cut_off",
      message: "the answer broke off: the connection ended before the model did",
      hint: "try again; the log of the worker may say why",
    });
  }
}

/**
 * What a comment of the stream says: `waiting: 3 of 8; loading 'x': 41 %, about 12 s; x-rbee-job-id: job-…`.
 * @param {string} comment @returns {Partial<Wait>} */
function waitIn(comment) {
  const [, text = "", job] = /^waiting(?:: (.*?))?(?:; x-rbee-job-id: (\S+))?$/.exec(comment) ?? [];
  return job ? { text, job } : { text };
}

/** @param {string} data */
function read(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new Problem({ code: "worker_error", message: "the engine sent something other than JSON" });
  }
  if (chunk?.error) throw Problem.from(chunk, 0);
  return chunk ?? {};
}

/** @param {any} chunk @param {Message} message @param {Meter} meter */
function take({ choices, timings, usage }, message, meter) {
  const choice = choices?.[0];
  const delta = choice?.delta ?? {};
  const reasoning = delta.reasoning_content ?? delta.reasoning ?? "";
  if (delta.content) message.text += delta.content;
  if (reasoning) message.reasoning = (message.reasoning ?? "") + reasoning;
  for (const call of delta.tool_calls ?? []) addCall(message, call);
  if (choice?.finish_reason) message.finish = choice.finish_reason;
  if (delta.content || reasoning || delta.tool_calls) meter.count();
  message.stats = meter.text(timings, usage) ?? message.stats;
}

/** A call comes in pieces too: the name first, then its arguments bit by bit.
 * @param {Message} message @param {any} piece */
function addCall(message, piece) {
  const calls = (message.calls ??= []);
  const call = (calls[piece.index ?? calls.length] ??= { name: "", arguments: "" });
  call.name += piece.function?.name ?? "";
  call.arguments += piece.function?.arguments ?? "";
}

/** Measures the speed of an answer. */
class Meter {
  #first = 0;
  #pieces = 0;
  #rate = "";

  count() {
    this.#first ||= performance.now();
    this.#pieces += 1;
  }

  /** The speed and the number of tokens, as far as they are known.
   * @param {any} timings @param {any} usage */
  text(timings, usage) {
    const seconds = this.#first ? (performance.now() - this.#first) / 1000 : 0;
    // The clock starts with the first piece, so that the rate excludes it.
    if (this.#pieces > 1 && seconds > 0.2) this.#rate = rate((this.#pieces - 1) / seconds);
    if (timings?.predicted_per_second) this.#rate = rate(timings.predicted_per_second);
    const tokens = usage?.completion_tokens ? `${usage.completion_tokens} tokens` : "";
    return [tokens, this.#rate].filter(Boolean).join(" · ") || undefined;
  }
}

/** @param {number} perSecond */
const rate = (perSecond) => `${perSecond < 10 ? perSecond.toFixed(1) : Math.round(perSecond)} tokens/s`;
