// Reads Server-Sent Events from a fetch, for streams that need a request header or that end.

/** The events of a body, one batch for each piece that arrives.
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
