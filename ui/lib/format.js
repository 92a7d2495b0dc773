// Formats numbers and times for people.

const KIBI = 1024;

/** Bytes in binary units, three digits: `1.5 GiB`.
 * @param {number|null|undefined} bytes */
export function bytes(bytes) {
  if (bytes === null || bytes === undefined) return "unknown size";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let value = bytes;
  while (value >= KIBI && at < units.length - 1) {
    value /= KIBI;
    at += 1;
  }
  const digits = at === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${Number(value.toFixed(digits))} ${units[at]}`;
}

/** A count in short form: `1.2 B`, `135 M`, `8,192`.
 * @param {number|null|undefined} count */
export function count(count) {
  if (count === null || count === undefined) return "–";
  if (count >= 1e9) return `${trim(count / 1e9)} B`;
  if (count >= 1e6) return `${trim(count / 1e6)} M`;
  if (count >= 1e5) return `${trim(count / 1e3)} k`;
  return count.toLocaleString("en");
}

/** @param {number} value */
function trim(value) {
  return String(Number(value.toFixed(value >= 100 ? 0 : 1)));
}

/** Seconds in words: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 4 min`, `3 d 2 h`.
 * @param {number} seconds */
export function duration(seconds) {
  const s = Math.max(0, seconds);
  if (s < 0.995) return `${Math.round(s * 1000)} ms`;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  const rounded = Math.round(s);
  if (rounded < 60) return `${rounded} s`;
  if (rounded < 3600) return `${Math.floor(rounded / 60)} min ${rounded % 60} s`;
  if (rounded < 86_400) return `${Math.floor(rounded / 3600)} h ${Math.floor((rounded % 3600) / 60)} min`;
  return `${Math.floor(rounded / 86_400)} d ${Math.floor((rounded % 86_400) / 3600)} h`;
}

/** Seconds in one unit, where space is short: `45 s`, `11 min`, `3 h`, `2 d`.
 * @param {number} seconds */
export function roughly(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  return s < 86_400 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86_400)} d`;
}

/** Whole seconds since a time, for counters on screen. @param {number} since milliseconds since the epoch */
export function elapsed(since) {
  const seconds = Math.max(0, Math.floor((Date.now() - since) / 1000));
  return seconds < 60 ? `${seconds} s` : duration(seconds);
}

/** Seconds between two times as the hive sends them; until now where the second is missing.
 * @param {string|null|undefined} from
 * @param {string|null|undefined} to */
export function between(from, to) {
  if (!from) return 0;
  return ((to ? Date.parse(to) : Date.now()) - Date.parse(from)) / 1000;
}

/** The time since, for lists: `just now`, `5 min ago`, or the date. @param {string} at */
export function ago(at) {
  const seconds = (Date.now() - Date.parse(at)) / 1000;
  if (seconds < 10) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(at).toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
}

/** Date and time of day, in full. @param {string} at */
export function instant(at) {
  return new Date(at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
}

/** The time of day. @param {string|number} at */
export function clock(at) {
  return new Date(at).toLocaleTimeString("en-GB");
}

/** @param {number} part @param {number} total */
export function percent(part, total) {
  return total > 0 ? Math.min(100, (100 * part) / total) : 0;
}

/** The progress of a job: `1.2 of 4 GiB · 70 MiB/s · 12 s left`.
 * @param {import("./types.js").Progress} progress */
export function progressText(progress) {
  const { done, total, unit, rate_per_second: rate, eta_seconds: eta } = progress;
  const show = unit === "bytes" ? bytes : (/** @type {number} */ n) => `${count(n)} ${unit}`;
  const parts = [total ? `${show(done)} of ${show(total)}` : show(done)];
  if (rate !== null && rate !== undefined) parts.push(rate > 0 ? `${show(rate)}/s` : "stalled");
  if (eta !== null && eta !== undefined && (rate ?? 1) > 0) parts.push(`${duration(eta)} left`);
  return parts.join(" · ");
}

/** `model_download` -> `Model download`. @param {string} name */
export const readable = (name) => sentence(name.replaceAll("_", " "));

/** A text that begins with a capital letter. @param {string} text */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
