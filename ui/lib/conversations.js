// The conversations, which are kept in this browser. Several tabs may change them at the same time: a tab
// writes the conversations that it has changed itself, and takes over the others.

import { nameOf, recall, remember } from "./storage.js";

/** What a model has answered besides text, and how the answer ended.
 * @typedef {object} Message
 * @property {"user"|"assistant"} role
 * @property {string} text
 * @property {string} [reasoning]
 * @property {Array<{name: string, arguments: string}>} [calls] tools that the model wants to be called
 * @property {string} [finish] why it ended, in the words of the API: `stop`, `length`, `tool_calls`
 * @property {string} [stats]
 * @property {string} [model]
 * @property {boolean} [stopped] whether the user stopped it
 * @property {boolean} [broken] whether it broke off */
/** @typedef {{id: string, at: string, model: string, messages: Message[]}} Conversation */

const KEY = "chats";

export class Conversations {
  /** The newest first. @type {Conversation[]} */
  all = recall(KEY, []);
  /** Whether the browser has kept them: its storage may be full. */
  isKept = true;
  /** The ids of conversations that this tab has changed. @type {Set<string>} */
  #own = new Set();
  /** The ids of conversations that this tab has deleted. @type {Set<string>} */
  #deleted = new Set();

  /** @param {string} model @returns {Conversation} */
  fresh(model) {
    const id = `${Date.now()}-${Math.random().toString(36).slice(2, 8)}`;
    return { id, at: new Date().toISOString(), model, messages: [] };
  }

  /** Notes that this tab changes a conversation, which becomes the newest.
   * @param {Conversation} conversation */
  touch(conversation) {
    conversation.at = new Date().toISOString();
    this.#own.add(conversation.id);
    this.#deleted.delete(conversation.id);
    if (!this.all.includes(conversation)) this.all = [conversation, ...this.all];
  }

  /** @param {Conversation} conversation */
  remove(conversation) {
    this.#deleted.add(conversation.id);
    this.#own.delete(conversation.id);
    this.all = this.all.filter(({ id }) => id !== conversation.id);
    this.save();
  }

  /** Takes a removal back. @param {Conversation} conversation */
  restore(conversation) {
    this.#deleted.delete(conversation.id);
    this.#own.add(conversation.id);
    this.all = [...this.all, conversation];
    this.save();
  }

  /** Takes over what other tabs have saved. */
  merge() {
    const others = recall(KEY, /** @type {Conversation[]} */ ([])).filter(
      ({ id }) => !this.#own.has(id) && !this.#deleted.has(id),
    );
    const own = this.all.filter(({ id }) => this.#own.has(id));
    this.all = [...own, ...others].sort((one, other) => (one.at < other.at ? 1 : -1));
  }

  /** Saves all of them. None is dropped to make room: where the storage is full, `isKept` tells. */
  save() {
    this.merge();
    this.isKept = remember(
      KEY,
      this.all.filter(({ messages }) => messages.length > 0),
    );
  }

  /** Calls `listen` when another tab has saved conversations. @param {() => void} listen
   * @param {AbortSignal} signal */
  onOtherTab(listen, signal) {
    const changed = (/** @type {StorageEvent} */ { key }) => {
      if (key !== nameOf(KEY)) return;
      this.merge();
      listen();
    };
    addEventListener("storage", changed, { signal });
  }
}
