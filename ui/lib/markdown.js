// Converts Markdown from models to elements. It creates nodes and never parses HTML, so a model cannot
// inject markup. Supports headings, lists, quotes, tables, rules and fenced code; within a line
// emphasis, code and links (only http and https).

import { copyButton, h } from "./dom.js";

/** @param {string} text @returns {HTMLElement[]} */
export function markdown(text) {
  return blocks(text.replaceAll("\r\n", "\n").split("\n"), 0, { level: 1 });
}

const FENCE = /^ {0,3}(```+|~~~+)\s*([^`\s]*)/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ROW = /^\s*\|(.+)\|\s*$/;
/** The deepest nesting of lists and quotes: a model may nest them without end. */
const DEEPEST = 8;

/** @param {string[]} lines @param {number} depth
 * @param {{level: number}} heading the level of the last heading, at first that of the page
 * @returns {HTMLElement[]} */
function blocks(lines, depth, heading) {
  /** @type {HTMLElement[]} */
  const out = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    const titled = HEADING.exec(line);
    if (line.trim() === "") {
      at += 1;
    } else if (fence) {
      const end = lines.findIndex((next, index) => index > at && next.trim().startsWith(fence[1]));
      const last = end < 0 ? lines.length : end;
      out.push(code(lines.slice(at + 1, last).join("\n"), fence[2]));
      at = last + 1;
    } else if (titled) {
      // Below the page's own heading and without skipped levels, whatever the model writes.
      heading.level = Math.min(6, titled[1].length + 1, heading.level + 1);
      out.push(h(`h${heading.level}`, null, ...inline(titled[2])));
      at += 1;
    } else if (RULE.test(line)) {
      out.push(h("hr", null));
      at += 1;
    } else if (line.trimStart().startsWith(">") && depth < DEEPEST) {
      const from = at;
      while (at < lines.length && lines[at].trimStart().startsWith(">")) at += 1;
      const quoted = lines.slice(from, at).map((each) => each.trimStart().replace(/^> ?/, ""));
      out.push(h("blockquote", null, ...blocks(quoted, depth + 1, heading)));
    } else if (ITEM.test(line) && depth < DEEPEST) {
      const [list, next] = listAt(lines, at, depth, heading);
      out.push(list);
      at = next;
    } else if (ROW.test(line) && /^\s*\|?[\s:|-]+\|?\s*$/.test(lines[at + 1] ?? "")) {
      const from = at;
      while (at < lines.length && ROW.test(lines[at])) at += 1;
      out.push(table(lines.slice(from, at)));
    } else {
      const from = at;
      do at += 1;
      while (at < lines.length && lines[at].trim() !== "" && !starts(lines[at]));
      out.push(h("p", null, ...withBreaks(lines.slice(from, at))));
    }
  }
  return out;
}

/** Whether a line ends the paragraph before it. @param {string} line */
function starts(line) {
  return FENCE.test(line) || HEADING.test(line) || ITEM.test(line) || RULE.test(line) || /^\s*>/.test(line);
}

/** @param {string[]} lines @param {number} from @param {number} depth @param {{level: number}} heading @returns {[HTMLElement, number]} */
function listAt(lines, from, depth, heading) {
  const first = /** @type {RegExpExecArray} */ (ITEM.exec(lines[from]));
  const indent = first[1].length;
  const ordered = /\d/.test(first[2]);
  /** @type {HTMLElement[]} */
  const items = [];
  let at = from;
  while (at < lines.length) {
    const match = ITEM.exec(lines[at]);
    if (!match || match[1].length !== indent || /\d/.test(match[2]) !== ordered) break;
    const inner = [match[3]];
    at += 1;
    while (at < lines.length) {
      const line = lines[at];
      const deeper = /^\s*/.exec(line)?.[0].length ?? 0;
      if (line.trim() === "" ? !isInside(lines[at + 1], indent) : deeper <= indent) break;
      inner.push(line.slice(Math.min(deeper, indent + 2)));
      at += 1;
    }
    const plain = inner.length === 1;
    items.push(h("li", null, ...(plain ? inline(inner[0]) : blocks(inner, depth + 1, heading))));
    while (at < lines.length && lines[at].trim() === "" && ITEM.test(lines[at + 1] ?? "")) at += 1;
  }
  const start = ordered ? Number.parseInt(first[2], 10) : 1;
  return [h(ordered ? "ol" : "ul", start === 1 ? null : { start }, ...items), at];
}

/** @param {string|undefined} line @param {number} indent */
const isInside = (line, indent) =>
  line !== undefined && line.trim() !== "" && (/^\s*/.exec(line)?.[0].length ?? 0) > indent;

/** @param {string[]} rows */
function table(rows) {
  const cells = (/** @type {string} */ row) =>
    (ROW.exec(row)?.[1] ?? "").split("|").map((cell) => cell.trim());
  const head = cells(rows[0]);
  const body = rows
    .slice(2)
    .map((row) => h("tr", null, ...cells(row).map((cell) => h("td", null, ...inline(cell)))));
  const top = h("tr", null, ...head.map((cell) => h("th", null, ...inline(cell))));
  return h(
    "div",
    { class: "scroll-x", tabindex: "0", role: "group", "aria-label": "Table" },
    h("table", null, h("thead", null, top), h("tbody", null, ...body)),
  );
}

/** @param {string} text @param {string} language */
export function code(text, language) {
  return h(
    "figure",
    { class: "code" },
    h("figcaption", null, h("span", null, language || "text"), copyButton(text)),
    h("pre", { tabindex: "0", "aria-label": "Code" }, h("code", null, text)),
  );
}

/** @param {string[]} lines @returns {Array<Node|string>} */
function withBreaks(lines) {
  return lines.flatMap((line, index) =>
    index === 0 ? inline(line.trim()) : [h("br", null), ...inline(line.trim())],
  );
}

const INLINE =
  /(`+)(.+?)\1|\*\*(.+?)\*\*|__(.+?)__|\*([^\s*][^*]*?)\*|(?<![\w])_([^\s_][^_]*?)_(?![\w])|~~(.+?)~~|\[([^\]]{1,500})\]\((https?:\/\/[^\s)]{1,2000})\)|(https?:\/\/[^\s<>()"']{1,2000})/g;

/** @param {string} text @param {number} [depth] @returns {Array<Node|string>} */
function inline(text, depth = 0) {
  if (depth > 4) return [text];
  /** @type {Array<Node|string>} */
  const out = [];
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    if (match.index > from) out.push(text.slice(from, match.index));
    const [all, , coded, strong, strong2, em, em2, gone, label, target, bare] = match;
    const within = (/** @type {string} */ inner) => inline(inner, depth + 1);
    if (coded !== undefined) out.push(h("code", null, coded));
    else if (strong ?? strong2) out.push(h("strong", null, ...within(strong ?? strong2)));
    else if (em ?? em2) out.push(h("em", null, ...within(em ?? em2)));
    else if (gone) out.push(h("s", null, ...within(gone)));
    else if (label) out.push(anchor(target, label));
    else if (bare) out.push(anchor(bare, bare));
    from = match.index + all.length;
  }
  if (from < text.length) out.push(text.slice(from));
  return out;
}

/** @param {string} href @param {string} label */
function anchor(href, label) {
  return h("a", { href, rel: "noopener noreferrer nofollow", target: "_blank" }, label);
}
