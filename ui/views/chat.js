// Talking to a model, through the gateway that any client of OpenAI's API uses. Conversations stay
// in this browser.

import { Problem, cancel, request, submit } from "../lib/api.js";
import { copyButton, h, icon, render } from "../lib/dom.js";
import { ago, bytes, elapsed } from "../lib/format.js";
import { hive } from "../lib/hive.js";
import { markdown } from "../lib/markdown.js";
import { batches } from "../lib/sse.js";
import { View, place, recall, remember } from "../lib/view.js";
import { ended, jobStrip } from "../parts/job-strip.js";
import { button, empty, failureBox, waiting } from "../parts/parts.js";
import { openDownload } from "../parts/download-dialog.js";

/** @typedef {{role: "user"|"assistant", text: string, stats?: string, model?: string, stopped?: boolean}} Message */
/** @typedef {{id: string, at: string, model: string, messages: Message[]}} Conversation */
/** @typedef {{system: string, temperature: string, top_p: string, max_tokens: string, seed: string}} Settings */

const MOST_CONVERSATIONS = 50;
/** @type {Settings} */
const DEFAULTS = { system: "", temperature: "", top_p: "", max_tokens: "", seed: "" };

/** First words for whoever has none. */
const OPENINGS = ["Who are you?", "What is a GGUF file?", "Write a haiku about bees"];

class Chat extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["models", "workers", "connection"];
  static tick = 1000;
  /** @type {Conversation[]} */
  all = recall("chats", []);
  /** @type {Conversation} */
  now = this.all[0] ?? fresh("");
  /** @type {Settings} */
  settings = { ...DEFAULTS, ...recall("chat.settings", {}) };
  draft = recall("chat.draft", "");
  showSettings = false;
  /** What is under way. @type {{stop: AbortController, what: "load"|"answer", since: number, job: string}|null} */
  busy = null;
  /** @type {Problem|null} */
  problem = null;
  #atEnd = true;
  #saved = 0;
  /** The ids of what this tab has changed; all else may be changed by others. */
  #own = new Set();
  /** The ids of what it has deleted. */
  #gone = new Set();

  start() {
    const wanted = place().id;
    if (wanted) this.#choose(wanted);
    addEventListener("hashchange", () => place().page === "chat" && place().id && this.#choose(place().id), { signal: this.life.signal });
    addEventListener("pagehide", () => this.#save(), { signal: this.life.signal });
    // Another tab has kept something.
    addEventListener("storage", ({ key }) => key === "rbee.chats" && (this.#merge(), this.update()), { signal: this.life.signal });
  }

  disconnectedCallback() {
    this.#save();
    super.disconnectedCallback();
  }

  /** @param {string} model */
  #choose(model) {
    if (this.busy) return;
    this.now.model = model;
    this.problem = null;
    this.update();
  }

  /** The chosen model, else the one that is loaded, else the only one. */
  get model() {
    const models = this.#models();
    const known = models.find(({ id }) => id === this.now.model);
    return (known ?? models.find(({ id }) => hive.serves(id)) ?? models[0])?.id ?? "";
  }

  #models() {
    return [...hive.models.values()].filter(({ status }) => status === "available").sort((a, b) => Number(hive.serves(b.id)) - Number(hive.serves(a.id)) || (a.id < b.id ? -1 : 1));
  }

  draw() {
    const models = this.#models();
    const { model, busy, now } = this;
    const last = now.messages[now.messages.length - 1];
    return h(
      "div",
      { class: "chat" },
      h(
        "div",
        { class: "page-head" },
        h("h1", null, "Chat"),
        models.length
          ? h("select", { "aria-label": "Model", class: "grow-select", ".value": model, disabled: busy !== null, onchange: (/** @type {any} */ event) => this.#choose(event.target.value) }, ...models.map(({ id, size_bytes: size }) => h("option", { value: id, selected: id === model }, `${id} · ${hive.serves(id) ? "loaded" : `${bytes(size)}, not loaded`}`)))
          : h("select", { "aria-label": "Model", class: "grow-select", disabled: true, key: "none" }, h("option", null, hive.known ? "No model yet" : "Waiting for the models")),
        h(
          "div",
          { class: "actions" },
          this.all.length > 0
            ? h("select", { "aria-label": "Conversation", class: "history", ".value": now.id, disabled: busy !== null, onchange: (/** @type {any} */ event) => this.#open(event.target.value) }, ...[...(this.all.includes(now) ? [] : [now]), ...this.all].map((each) => h("option", { value: each.id, selected: each.id === now.id }, each.messages.length ? `${excerpt(each.messages[0].text)} · ${ago(each.at)}` : "New conversation")))
            : null,
          now.messages.length ? button("New", () => this.#new(), { disabled: busy !== null }, icon("plus")) : null,
          now.messages.length ? button("Delete", () => this.#forget(), { disabled: busy !== null, class: "icon-only", "aria-label": "Delete this conversation", title: "Delete this conversation" }, icon("trash")) : null,
          h("button", { type: "button", class: "icon", "aria-label": "Parameters", title: "Parameters", "aria-expanded": String(this.showSettings), onclick: () => ((this.showSettings = !this.showSettings), this.update()) }, icon("gear")),
        ),
      ),
      this.showSettings ? this.#parameters() : null,
      h(
        "div",
        { class: "talk", tabindex: "0", role: "log", "aria-label": "Conversation", "aria-live": "off", onscroll: (/** @type {any} */ event) => (this.#atEnd = event.target.scrollHeight - event.target.scrollTop - event.target.clientHeight < 40) },
        !hive.known
          ? waiting("Waiting for the hive's list of models", hive.connection.since)
          : models.length === 0
            ? empty("Nobody to talk to yet", "Chatting needs a model. Any GGUF file of a chat model will do.", button("Download a model", () => openDownload(), { class: "primary" }, icon("download")))
            : now.messages.length === 0
              ? empty(hive.serves(model) ? "Say something" : "Say something; the model is loaded first", ["It goes to ", h("strong", null, model), " on this machine, and nowhere else. The conversation stays in this browser."], ...OPENINGS.map((text) => button(text, () => ((this.draft = text), this.#send()), { class: "small" })))
              : null,
        ...now.messages.map((message, index) => this.#message(message, index)),
        busy?.what === "load" ? h("div", { class: "card", role: "status" }, h("p", { class: "muted" }, "The model is not loaded yet. Your message goes out as soon as it is."), busy.job ? jobStrip(busy.job) : waiting("Waiting for the hive to take the job", busy.since)) : null,
        busy?.what === "answer" && last?.role === "assistant" && !last.text ? waiting(`Waiting for the first word of ${model}`, busy.since, button("Stop", () => this.#stop(), { class: "small" })) : null,
        this.problem ? failureBox(this.problem, button("Try again", () => this.#answer())) : null,
      ),
      h(
        "form",
        { class: "composer", onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), this.#send()) },
        h("label", { class: "visually-hidden", for: "draft" }, "Your message"),
        h("textarea", {
          id: "draft",
          rows: 1,
          placeholder: models.length ? "Message" : "First get a model",
          disabled: models.length === 0,
          ".value": this.draft,
          oninput: (/** @type {any} */ event) => {
            this.draft = event.target.value;
            remember("chat.draft", this.draft);
            this.update();
          },
          onkeydown: (/** @type {KeyboardEvent} */ event) => {
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            this.#send();
          },
        }),
        busy
          ? h("button", { type: "button", class: "primary icon", "aria-label": busy.what === "load" ? "Stop loading" : "Stop", onclick: () => this.#stop() }, icon("stop"))
          : h("button", { type: "submit", class: "primary icon", "aria-label": "Send", disabled: !this.draft.trim() || models.length === 0 }, icon("up")),
      ),
      h("p", { class: "help composer-help" }, busy?.what === "answer" ? `Answering for ${elapsed(busy.since)}` : "Enter sends, Shift and Enter begins a new line"),
    );
  }

  drawn() {
    const talk = this.querySelector(".talk");
    if (talk && this.#atEnd) talk.scrollTop = talk.scrollHeight;
    const draft = /** @type {HTMLTextAreaElement|null} */ (this.querySelector("#draft"));
    if (draft) {
      draft.style.blockSize = "auto";
      draft.style.blockSize = `${Math.min(200, draft.scrollHeight + 2)}px`;
    }
  }

  /** @param {Message} message @param {number} index */
  #message(message, index) {
    const last = index === this.now.messages.length - 1;
    if (message.role === "user") return h("article", { class: "message user", key: `m${index}`, "aria-label": "You" }, h("p", null, message.text));
    const growing = last && this.busy?.what === "answer";
    return h(
      "article",
      { class: "message assistant", key: `m${index}`, "aria-label": message.model ?? "Answer", "aria-busy": growing ? "true" : null },
      h("markdown-text", { class: "prose", ".text": message.text }),
      growing
        ? message.text ? h("span", { class: "muted small-text num" }, message.stats ?? "") : null
        : h(
            "div",
            { class: "message-foot muted small-text num" },
            h("span", null, [message.model, message.stats, message.stopped ? "stopped" : ""].filter(Boolean).join(" · ")),
            copyButton(message.text),
            last && !this.busy ? button("Regenerate", () => this.#regenerate(), { class: "small quiet" }, icon("again")) : null,
          ),
    );
  }

  #parameters() {
    /** @type {(name: keyof Settings, label: string, placeholder: string, more: Record<string, any>) => HTMLElement} */
    const number = (name, label, placeholder, more) =>
      h("div", { class: "field" }, h("label", { for: `p-${name}` }, label), h("input", { id: `p-${name}`, type: "number", ".value": this.settings[name], placeholder, oninput: (/** @type {any} */ event) => this.#set(name, event.target.value), ...more }));
    return h(
      "section",
      { class: "card parameters", "aria-label": "Parameters" },
      h("div", { class: "field whole" }, h("label", { for: "p-system" }, "System prompt"), h("textarea", { id: "p-system", rows: 2, ".value": this.settings.system, placeholder: "None", oninput: (/** @type {any} */ event) => this.#set("system", event.target.value) })),
      number("temperature", "Temperature", "the engine's own", { min: 0, max: 2, step: 0.1 }),
      number("top_p", "Top p", "the engine's own", { min: 0, max: 1, step: 0.05 }),
      number("max_tokens", "Most tokens", "until it ends", { min: 1, step: 1 }),
      number("seed", "Seed", "random", { step: 1 }),
    );
  }

  /** @param {keyof Settings} name @param {string} value */
  #set(name, value) {
    this.settings[name] = value;
    remember("chat.settings", this.settings);
  }

  #send() {
    const text = this.draft.trim();
    if (!text || this.busy || !this.model) return;
    this.now.messages.push({ role: "user", text });
    this.draft = "";
    remember("chat.draft", "");
    this.#atEnd = true;
    if (!this.all.includes(this.now)) this.all = [this.now, ...this.all];
    this.#answer();
  }

  #regenerate() {
    if (this.now.messages[this.now.messages.length - 1]?.role === "assistant") this.now.messages.pop();
    this.#answer();
  }

  #stop() {
    const { busy } = this;
    if (!busy) return;
    busy.stop.abort();
    if (busy.what === "load" && busy.job) cancel(busy.job).catch(() => {});
  }

  async #answer() {
    const { model } = this;
    const conversation = this.now;
    const stop = new AbortController();
    this.problem = null;
    this.#own.add(conversation.id);
    conversation.model = model;
    conversation.at = new Date().toISOString();
    /** @type {Message|null} */
    let message = null;
    try {
      if (!hive.serves(model)) await this.#load(model, stop);
      message = { role: "assistant", text: "", model };
      conversation.messages.push(message);
      this.busy = { stop, what: "answer", since: Date.now(), job: "" };
      this.#save();
      this.update();
      await this.#stream(conversation, message, stop.signal);
    } catch (error) {
      if (message && stop.signal.aborted) message.stopped = true;
      else if (!stop.signal.aborted) this.problem = Problem.of(error);
    }
    if (message && !message.text) conversation.messages.splice(conversation.messages.indexOf(message), 1);
    this.busy = null;
    this.#save();
    this.update();
    if (this.isConnected && document.activeElement === document.body) /** @type {HTMLElement|null} */ (this.querySelector("#draft"))?.focus();
  }

  /** Loads the model, narrated in place. @param {string} model @param {AbortController} stop */
  async #load(model, stop) {
    this.busy = { stop, what: "load", since: Date.now(), job: "" };
    this.update();
    const job = await submit({ ModelLoad: { id: model } });
    this.busy.job = job;
    this.update();
    const { state, failure } = await ended(job, stop.signal);
    if (state === "failed" && failure) throw new Problem(failure);
    if (state === "cancelled") throw new Problem({ code: "cancelled", message: `Loading ${model} was cancelled` });
  }

  /** @param {Conversation} conversation @param {Message} message @param {AbortSignal} signal */
  async #stream(conversation, message, signal) {
    const { settings } = this;
    const system = settings.system.trim();
    const said = conversation.messages.filter((each) => each !== message).map(({ role, text }) => ({ role, content: text }));
    /** @type {Record<string, any>} */
    const body = {
      model: conversation.model,
      messages: [...(system ? [{ role: "system", content: system }] : []), ...said],
      stream: true,
      stream_options: { include_usage: true },
    };
    for (const name of /** @type {const} */ (["temperature", "top_p", "max_tokens", "seed"])) {
      const value = Number.parseFloat(settings[name]);
      if (Number.isFinite(value)) body[name] = value;
    }
    const response = await request("POST", "/v1/chat/completions", { body, signal });
    let first = 0;
    let pieces = 0;
    for await (const batch of batches(/** @type {ReadableStream<Uint8Array>} */ (response.body))) {
      for (const { data } of batch) {
        if (data === "[DONE]") continue;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Problem({ code: chunk.error.code ?? "engine", message: chunk.error.message });
        const delta = chunk.choices?.[0]?.delta?.content;
        if (delta) {
          first ||= performance.now();
          pieces += 1;
          message.text += delta;
        }
        const seconds = first ? (performance.now() - first) / 1000 : 0;
        // The first piece starts the clock: it is not in the rate.
        if (pieces > 1 && seconds > 0.2) message.stats = `${rate((pieces - 1) / seconds)}`;
        const { timings, usage } = chunk;
        if (timings?.predicted_per_second) message.stats = rate(timings.predicted_per_second);
        if (usage?.completion_tokens) message.stats = [`${usage.completion_tokens} tokens`, message.stats].filter(Boolean).join(" · ");
      }
      this.update();
      if (Date.now() - this.#saved > 1000) this.#save();
    }
  }

  /** @param {string} id */
  #open(id) {
    this.now = this.all.find((each) => each.id === id) ?? this.now;
    this.problem = null;
    this.#atEnd = true;
    this.update();
  }

  #new() {
    this.now = fresh(this.model);
    this.problem = null;
    this.update();
    requestAnimationFrame(() => /** @type {HTMLElement|null} */ (this.querySelector("#draft"))?.focus());
  }

  #forget() {
    this.#gone.add(this.now.id);
    this.all = this.all.filter((each) => each !== this.now);
    this.now = this.all[0] ?? fresh(this.model);
    this.problem = null;
    this.#save();
    this.update();
  }

  /** Takes over what other tabs have kept meanwhile. */
  #merge() {
    const others = recall("chats", /** @type {Conversation[]} */ ([])).filter(({ id }) => !this.#own.has(id) && !this.#gone.has(id));
    const own = this.all.filter(({ id }) => this.#own.has(id));
    this.all = [...own, ...others].sort((one, other) => (one.at < other.at ? 1 : -1)).slice(0, MOST_CONVERSATIONS);
    this.now = this.all.find(({ id }) => id === this.now.id) ?? this.now;
  }

  #save() {
    this.#saved = Date.now();
    this.#merge();
    const kept = this.all.filter(({ messages }) => messages.length > 0);
    // A full storage gives up the oldest first.
    for (let most = kept.length; most >= 0 && !remember("chats", kept.slice(0, most)); most = Math.floor(most / 2) - (most === 0 ? 1 : 0));
  }
}

/** Markdown that is made into elements when its text changes, and not with every drawing. */
class MarkdownText extends HTMLElement {
  $own = true;
  #text = "";

  get text() {
    return this.#text;
  }

  set text(text) {
    this.#text = text;
    render(this, ...markdown(text));
  }
}

/** @param {number} perSecond */
const rate = (perSecond) => `${perSecond < 10 ? perSecond.toFixed(1) : Math.round(perSecond)} tokens/s`;

/** @param {string} model @returns {Conversation} */
function fresh(model) {
  return { id: `${Date.now()}-${Math.random().toString(36).slice(2, 8)}`, at: new Date().toISOString(), model, messages: [] };
}

/** @param {string} text */
const excerpt = (text) => (text.length > 32 ? `${text.slice(0, 31)}…` : text);

customElements.define("markdown-text", MarkdownText);
customElements.define("hive-chat", Chat);
