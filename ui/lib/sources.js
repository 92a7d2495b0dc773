// Where models come from, and which partial file belongs to which download.

/** @typedef {import("./types.js").Model} Model */
/** @typedef {import("./types.js").Job} Job */

/** Every kind of source and the form of its names. `is` is tried in this order.
 * @type {Array<{name: string, example: string, about: string, is: RegExp}>} */
export const SOURCES = [
  {
    name: "Web address",
    example: "https://host/model.gguf",
    about: "append #sha256=… to verify it",
    is: /^https?:/i,
  },
  { name: "This machine", example: "file:/path/model.gguf", about: "linked, not copied", is: /^file:/i },
  { name: "Ollama", example: "ollama:name:tag", about: "from Ollama's library", is: /^ollama:/i },
  {
    name: "Hugging Face",
    example: "org/repo:Q4_K_M",
    about: "the quantization is optional",
    is: /^(hf:)?[\w.-]+\/[\w.-]+/i,
  },
];

/** The kind of source that a name looks like; undefined where it looks like none.
 * @param {string} source */
export const kindOf = (source) => SOURCES.find(({ is }) => is.test(source.trim()));

/** The parts of a name such as `hf:org/repo:Q4_K_M@main`; null where it names no repository of the Hub.
 * @param {string} source */
function hubParts(source) {
  const match = /^(?:hf:)?([\w.-]+\/[\w.-]+)(?::([\w-]+)|\/([^@]+))?(?:@.*)?$/i.exec(source.trim());
  return match && { repo: match[1], quantization: match[2]?.toLowerCase(), file: match[3] };
}

/** The complete form of a name in Ollama's library. @param {string} source */
function ollamaName(source) {
  const name = source.replace(/^ollama:/i, "").replace(/^library\//, "");
  return /:[^/]+$/.test(name) ? name : `${name}:latest`;
}

/** The partials of downloads of this source: several for a split model.
 * @param {string} source @param {Iterable<Model>} models @returns {Model[]} */
export function partialsOf(source, models) {
  const partial = [...models].filter(isPartial);
  const kind = kindOf(source)?.name;
  if (kind === "Ollama")
    return partial.filter(
      (model) => kindOf(model.source)?.name === kind && ollamaName(model.source) === ollamaName(source),
    );
  const wanted = kind === "Hugging Face" ? hubParts(source) : null;
  if (!wanted) {
    const bare = source.replace(/[?#].*$/, "");
    return partial.filter((model) => model.source === bare || model.source === source);
  }
  return partial.filter((model) => {
    const own = hubParts(model.source);
    return (
      own?.repo === wanted.repo &&
      (wanted.file
        ? own.file === wanted.file
        : !wanted.quantization || model.name.toLowerCase().includes(wanted.quantization))
    );
  });
}

/** Whether a model is a partial: the download is running or ended early. A model that was complete and
 * lost a file still has the facts of its header; a file that the user copies there is no download.
 * @param {Model} model */
export const isPartial = ({ status, architecture, source }) =>
  (status === "incomplete" || status === "downloading") &&
  architecture === null &&
  !source.startsWith("file:");
