// One message of a conversation.

import { code } from "../lib/code.js";
import { copyButton, h, icon } from "../lib/dom.js";
import { button } from "./parts.js";
import "../lib/markdown.js";

/** @typedef {import("../lib/conversations.js").Message} Message */

/** Why an answer ended, where that is not because it was complete. @type {Record<string, string>} */
const ENDS = {
  length: "Cut off at a limit: the maximum of tokens, or the context of the model.",
  content_filter: "The engine withheld a part of the answer.",
};

/** @param {Message} message
 * @param {{isGrowing: boolean, again: (() => void)|null}} options `again`: makes the answer anew */
export function messageOf(message, { isGrowing, again }) {
  if (message.role === "user") {
    return h("article", { class: "message user", "aria-label": "You" }, h("p", null, message.text));
  }
  const { text, reasoning, calls, stats } = message;
  const label = message.model ?? "Answer";
  return h(
    "article",
    { class: "message assistant", "aria-label": label, "aria-busy": isGrowing ? "true" : null },
    reasoning ? thoughts(reasoning, isGrowing && !text) : null,
    h("markdown-text", { class: "prose", ".text": text }),
    calls ? h("div", { class: "calls" }, ...calls.filter(Boolean).map(call)) : null,
    isGrowing ? h("span", { class: "muted small-text num" }, stats ?? "") : null,
    isGrowing ? null : ending(message),
    isGrowing ? null : foot(message, again),
  );
}

/** @param {string} text @param {boolean} isThinking */
function thoughts(text, isThinking) {
  return h(
    "details",
    { class: "thoughts", open: isThinking },
    h("summary", { class: "muted" }, isThinking ? "Thinking" : "Reasoning"),
    h("p", { class: "as-written muted" }, text),
  );
}

/** @param {{name: string, arguments: string}} call */
function call({ name, arguments: given }) {
  return h(
    "div",
    null,
    h("p", null, "The model calls the tool ", h("strong", null, name), ":"),
    code(given, "json"),
  );
}

/** What the reader has to know about how the answer ended. @param {Message} message */
function ending({ text, calls, finish, broken, stopped }) {
  const why = broken ? "Broke off: the answer is incomplete." : ENDS[finish ?? ""];
  const bare = text || calls || stopped ? "" : "The answer has no text.";
  if (!why && !bare) return null;
  return h("p", { class: "ending" }, icon("alert"), h("span", null, [bare, why].filter(Boolean).join(" ")));
}

/** @param {Message} message @param {(() => void)|null} again */
function foot({ text, model, stats, stopped }, again) {
  return h(
    "div",
    { class: "message-foot muted small-text num" },
    h("span", null, [model, stats, stopped ? "stopped" : ""].filter(Boolean).join(" · ")),
    text ? copyButton(text) : null,
    again ? button("Regenerate", again, { class: "small quiet" }, icon("again")) : null,
  );
}
