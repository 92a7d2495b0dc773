// The settings of a model that the page offers, and how what is typed becomes a change of them.

import { count } from "./format.js";

/** @typedef {import("./types.js").ModelSettings} ModelSettings */

/** `name`: dotted, as the hive names it. `kind`: what is typed.
 * @typedef {object} Setting
 * @property {string} name
 * @property {string} label
 * @property {"text"|"long"|"words"|"number"|"integer"|"engine"|"device"|"yes"} kind
 * @property {string} [help] */

/** @type {Array<{title: string, about: string, settings: Setting[]}>} */
export const GROUPS = [
  {
    title: "In memory",
    about: "",
    settings: [
      {
        name: "idle",
        label: "Unload after",
        kind: "text",
        help: "10m, 0 (at once) or -1 (once its room is needed)",
      },
      {
        name: "pinned",
        label: "Pinned",
        kind: "yes",
        help: "It stays, whatever else needs room",
      },
      { name: "preload", label: "Preload", kind: "yes", help: "Loaded when the hive starts" },
    ],
  },
  {
    title: "Its worker",
    about: "A worker that runs with other values is loaded again once it is idle.",
    settings: [
      { name: "engine", label: "Engine", kind: "engine" },
      { name: "device", label: "Device", kind: "device" },
      { name: "context_length", label: "Context in tokens", kind: "integer" },
      { name: "slots", label: "Slots", kind: "integer", help: "Requests that are answered at once" },
    ],
  },
  {
    title: "Names",
    about: "",
    settings: [
      { name: "aliases", label: "Aliases", kind: "words", help: "Further names for requests, with commas" },
    ],
  },
  {
    title: "Answers",
    about: "What counts where a request does not say.",
    settings: [
      { name: "system_prompt", label: "System prompt", kind: "long" },
      { name: "sampling.temperature", label: "Temperature", kind: "number" },
      { name: "sampling.top_p", label: "Top p", kind: "number" },
      { name: "sampling.top_k", label: "Top k", kind: "integer" },
      { name: "sampling.min_p", label: "Min p", kind: "number" },
      { name: "sampling.repeat_penalty", label: "Repeat penalty", kind: "number" },
      { name: "sampling.presence_penalty", label: "Presence penalty", kind: "number" },
      { name: "sampling.frequency_penalty", label: "Frequency penalty", kind: "number" },
      { name: "sampling.seed", label: "Seed", kind: "integer" },
      { name: "sampling.max_tokens", label: "Maximum tokens", kind: "integer" },
    ],
  },
];

const ALL = GROUPS.flatMap(({ settings }) => settings);

/** The value of a dotted name. @param {Record<string, any>} table @param {string} name */
const valueAt = (table, name) => name.split(".").reduce((at, part) => at?.[part], /** @type {any} */ (table));

/** A value as it is typed; empty where there is none. @param {any} value */
const typed = (value) => (Array.isArray(value) ? value.join(", ") : value === undefined ? "" : String(value));

/** In what the settings that count for a model on one hive differ from those on another, in words.
 * @param {ModelSettings} there @param {ModelSettings} here @param {string} hive the name of the latter */
export function differences(there, here, hive) {
  const shown = (/** @type {any} */ value) => (value === undefined ? "not set" : typed(value) || "none");
  const all = ALL.map(({ name, label }) => ({
    label,
    values: [there, here].map(({ settings }) => shown(valueAt(settings, name))),
  }));
  all.push({ label: "Variants", values: [there, here].map(({ variants }) => shown(variants)) });
  return all
    .filter(({ values: [one, other] }) => one !== other)
    .map(({ label, values: [one, other] }) => `${label}: ${one} (on ${hive}: ${other})`)
    .join("; ");
}

/** What operations have set, as it is typed, by name. @param {ModelSettings} view
 * @returns {Record<string, string>} */
export const typedOf = ({ set }) =>
  Object.fromEntries(ALL.map(({ name }) => [name, typed(valueAt(set, name))]));

/** What counts while nothing is typed, as far as it is known. @param {ModelSettings} view
 * @param {Setting} setting */
export function otherwise({ settings, set }, { name, kind }) {
  if (valueAt(set, name) !== undefined) return "";
  const value = valueAt(settings, name);
  if (kind === "yes" && value !== undefined) return value ? "yes" : "no";
  return kind === "integer" && typeof value === "number" && value >= 1000 ? count(value) : typed(value);
}

/** Who says what counts. @param {ModelSettings} view @param {string} name */
export function sourceOf({ sources, set, variant, model }, name) {
  switch (sources[name]) {
    case "operation":
      return valueAt(set, name) === undefined && variant ? `set for ${model}` : "set here";
    case "file":
      return "from the configuration file";
    case "model":
      return "from the model's own file";
    case "default":
      return "the default";
    default:
      return "not set";
  }
}

/** The change from what was typed before to what is typed now.
 * @param {Record<string, string>} before @param {Record<string, string>} now
 * @returns {{settings: Record<string, any>, unset: string[]}} */
export function changeOf(before, now) {
  /** @type {Record<string, any>} */
  const settings = {};
  /** @type {string[]} */
  const unset = [];
  for (const { name, kind } of ALL) {
    const text = now[name].trim();
    if (text === before[name]) continue;
    if (text === "") unset.push(name);
    else {
      const [table, field] = name.includes(".") ? name.split(".") : ["", name];
      const place = table ? (settings[table] ??= {}) : settings;
      place[field] = meant(text, kind);
    }
  }
  return { settings, unset };
}

/** @param {string} text @param {Setting["kind"]} kind */
function meant(text, kind) {
  if (kind === "words")
    return text
      .split(",")
      .map((word) => word.trim())
      .filter(Boolean);
  if (kind === "yes") return text === "true";
  return kind === "number" || kind === "integer" ? Number(text) : text;
}
