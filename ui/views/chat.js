// The chat with a model, over the same OpenAI-compatible gateway that other clients use. Conversations
// are kept in this browser.

import { Problem, cancel, request, submit } from "../lib/api.js";
import { copyButton, h, icon, render } from "../lib/dom.js";
import { ago, bytes, elapsed } from "../lib/format.js";
import { hive } from "../lib/hive.js";
import { markdown } from "../lib/markdown.js";
import { batches } from "../lib/sse.js";
import { View, recall, remember, route } from "../lib/view.js";
import { ended, jobStrip } from "../parts/job-strip.js";
import { button, empty, failureBox, waiting } from "../parts/parts.js";
import { openDownload } from "../parts/download-dialog.js";

/** @typedef {{role: "user"|"assistant", text: string, stats?: string, model?: string, stopped?: boolean}} Message */
/** @typedef {{id: string, at: string, model: string, messages: Message[]}} Conversation */
/** @typedef {{system: string, temperature: string, top_p: string, max_tokens: string, seed: string}} Settings */

const MOST_CONVERSATIONS = 50;
/** @type {Settings} */
const DEFAULTS = { system: "", temperature: "", top_p: "", max_tokens: "", seed: "" };

/** Example messages. */
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
  /** The load or answer in progress. @type {{stop: AbortController, what: "load"|"answer", since: number, job: string}|null} */
  busy = null;
  /** @type {Problem|null} */
  problem = null;
  #atEnd = true;
  #saved = 0;
  /** The ids of conversations that this tab has changed. Other tabs may change the others. */
  #own = new Set();
  /** The ids of conversations that this tab has deleted. */
  #deleted = new Set();

  start() {
    const wanted = route().id;
    if (wanted) this.#choose(wanted);
    addEventListener("hashchange", () => route().page === "chat" && route().id && this.#choose(route().id), {
      signal: this.life.signal,
    });
    addEventListener("pagehide", () => this.#save(), { signal: this.life.signal });
    // Another tab has saved conversations.
    addEventListener("storage", ({ key }) => key === "rbee.chats" && (this.#merge(), this.update()), {
      signal: this.life.signal,
    });
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

  /** The chosen model, else a loaded one, else the first one. */
  get model() {
    const models = this.#models();
    const known = models.find(({ id }) => id === this.now.model);
    return (known ?? models.find(({ id }) => hive.isServed(id)) ?? models[0])?.id ?? "";
  }

  #models() {
    return [...hive.models.values()]
      .filter(({ status }) => status === "available")
      .sort((a, b) => Number(hive.isServed(b.id)) - Number(hive.isServed(a.id)) || (a.id < b.id ? -1 : 1));
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
          ? h(
              "select",
              {
                "aria-label": "Model",
                class: "grow-select",
                ".value": model,
                disabled: busy !== null,
                onchange: (/** @type {any} */ event) => this.#choose(event.target.value),
              },
              ...models.map(({ id, size_bytes: size }) =>
                h(
                  "option",
                  { value: id, selected: id === model },
                  `${id} · ${hive.isServed(id) ? "loaded" : `${bytes(size)}, not loaded`}`,
                ),
              ),
            )
          : h(
              "select",
              { "aria-label": "Model", class: "grow-select", disabled: true, key: "none" },
              h("option", null, hive.hasSnapshot ? "No model yet" : "Waiting for the models"),
            ),
        h(
          "div",
          { class: "actions" },
          this.all.length > 0
            ? h(
                "select",
                {
                  "aria-label": "Conversation",
                  class: "history",
                  ".value": now.id,
                  disabled: busy !== null,
                  onchange: (/** @type {any} */ event) => this.#open(event.target.value),
                },
                ...[...(this.all.includes(now) ? [] : [now]), ...this.all].map((each) =>
                  h(
                    "option",
                    { value: each.id, selected: each.id === now.id },
                    each.messages.length
                      ? `${excerpt(each.messages[0].text)} · ${ago(each.at)}`
                      : "New conversation",
                  ),
                ),
              )
            : null,
          now.messages.length
            ? button("New", () => this.#new(), { disabled: busy !== null }, icon("plus"))
            : null,
          now.messages.length
            ? button(
                "Delete",
                () => this.#forget(),
                {
                  disabled: busy !== null,
                  class: "icon-only",
                  "aria-label": "Delete this conversation",
                  title: "Delete this conversation",
                },
                icon("trash"),
              )
            : null,
          h(
            "button",
            {
              type: "button",
              class: "icon",
              "aria-label": "Parameters",
              title: "Parameters",
              "aria-expanded": String(this.showSettings),
              onclick: () => ((this.showSettings = !this.showSettings), this.update()),
            },
            icon("gear"),
          ),
        ),
      ),
      this.showSettings ? this.#parameters() : null,
      h(
        "div",
        {
          class: "talk",
          tabindex: "0",
          role: "log",
          "aria-label": "Conversation",
          "aria-live": "off",
          onscroll: (/** @type {any} */ event) =>
            (this.#atEnd =
              event.target.scrollHeight - event.target.scrollTop - event.target.clientHeight < 40),
        },
        !hive.hasSnapshot
          ? waiting("Waiting for the hive's list of models", hive.connection.since)
          : models.length === 0
            ? empty(
                "No model to chat with yet",
                "The chat needs a model: any GGUF file of a chat model.",
                button("Download a model", () => openDownload(), { class: "primary" }, icon("download")),
              )
            : now.messages.length === 0
              ? empty(
                  hive.isServed(model) ? "Send a message" : "Send a message; the model is loaded first",
                  [
                    "It goes only to ",
                    h("strong", null, model),
                    " on this machine. The conversation stays in this browser.",
                  ],
                  ...OPENINGS.map((text) =>
                    button(text, () => ((this.draft = text), this.#send()), { class: "small" }),
                  ),
                )
              : null,
        ...now.messages.map((message, index) => this.#message(message, index)),
        busy?.what === "load"
          ? h(
              "div",
              { class: "card", role: "status" },
              h("p", { class: "muted" }, "The model is loading. Your message is sent once it is loaded."),
              busy.job ? jobStrip(busy.job) : waiting("Waiting for the hive to accept the job", busy.since),
            )
          : null,
        busy?.what === "answer" && last?.role === "assistant" && !last.text
          ? waiting(
              `Waiting for the first word of ${model}`,
              busy.since,
              button("Stop", () => this.#stop(), { class: "small" }),
            )
          : null,
        this.problem
          ? failureBox(
              this.problem,
              button("Try again", () => this.#answer()),
            )
          : null,
      ),
      h(
        "form",
        {
          class: "composer",
          onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), this.#send()),
        },
        h("label", { class: "visually-hidden", for: "draft" }, "Your message"),
        h("textarea", {
          id: "draft",
          rows: 1,
          placeholder: models.length ? "Message" : "Get a model first",
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
          ? h(
              "button",
              {
                type: "button",
                class: "primary icon",
                "aria-label": busy.what === "load" ? "Stop loading" : "Stop",
                onclick: () => this.#stop(),
              },
              icon("stop"),
            )
          : h(
              "button",
              {
                type: "submit",
                class: "primary icon",
                "aria-label": "Send",
                disabled: !this.draft.trim() || models.length === 0,
              },
              icon("up"),
            ),
      ),
      h(
        "p",
        { class: "help composer-help" },
        busy?.what === "answer"
          ? `Answering for ${elapsed(busy.since)}`
          : "Enter sends, Shift+Enter starts a new line",
      ),
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
    if (message.role === "user")
      return h(
        "article",
        { class: "message user", key: `m${index}`, "aria-label": "You" },
        h("p", null, message.text),
      );
    const growing = last && this.busy?.what === "answer";
    return h(
      "article",
      {
        class: "message assistant",
        key: `m${index}`,
        "aria-label": message.model ?? "Answer",
        "aria-busy": growing ? "true" : null,
      },
      h("markdown-text", { class: "prose", ".text": message.text }),
      growing
        ? message.text
          ? h("span", { class: "muted small-text num" }, message.stats ?? "")
          : null
        : h(
            "div",
            { class: "message-foot muted small-text num" },
            h(
              "span",
              null,
              [message.model, message.stats, message.stopped ? "stopped" : ""].filter(Boolean).join(" · "),
            ),
            copyButton(message.text),
            last && !this.busy
              ? button("Regenerate", () => this.#regenerate(), { class: "small quiet" }, icon("again"))
              : null,
          ),
    );
  }

  #parameters() {
    /** @type {(name: keyof Settings, label: string, placeholder: string, more: Record<string, any>) => HTMLElement} */
    const number = (name, label, placeholder, more) =>
      h(
        "div",
        { class: "field" },
        h("label", { for: `p-${name}` }, label),
        h("input", {
          id: `p-${name}`,
          type: "number",
          ".value": this.settings[name],
          placeholder,
          oninput: (/** @type {any} */ event) => this.#set(name, event.target.value),
          ...more,
        }),
      );
    return h(
      "section",
      { class: "card parameters", "aria-label": "Parameters" },
      h(
        "div",
        { class: "field wide" },
        h("label", { for: "p-system" }, "System prompt"),
        h("textarea", {
          id: "p-system",
          rows: 2,
          ".value": this.settings.system,
          placeholder: "None",
          oninput: (/** @type {any} */ event) => this.#set("system", event.target.value),
        }),
      ),
      number("temperature", "Temperature", "the engine's default", { min: 0, max: 2, step: 0.1 }),
      number("top_p", "Top p", "the engine's default", { min: 0, max: 1, step: 0.05 }),
      number("max_tokens", "Maximum tokens", "no limit", { min: 1, step: 1 }),
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
      if (!hive.isServed(model)) await this.#load(model, stop);
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
    if (this.isConnected && document.activeElement === document.body)
      /** @type {HTMLElement|null} */ (this.querySelector("#draft"))?.focus();
  }

  /** Loads the model and shows the job in the conversation. @param {string} model @param {AbortController} stop */
  async #load(model, stop) {
    this.busy = { stop, what: "load", since: Date.now(), job: "" };
    this.update();
    const job = await submit({ ModelLoad: { id: model } });
    this.busy.job = job;
    this.update();
    const { state, failure } = await ended(job, stop.signal);
    if (state === "failed" && failure) throw new Problem(failure);
    if (state === "cancelled")
      throw new Problem({ code: "cancelled", message: `Loading ${model} was cancelled` });
  }

  /** @param {Conversation} conversation @param {Message} message @param {AbortSignal} signal */
  async #stream(conversation, message, signal) {
    const { settings } = this;
    const system = settings.system.trim();
    const messages = conversation.messages
      .filter((each) => each !== message)
      .map(({ role, text }) => ({ role, content: text }));
    /** @type {Record<string, any>} */
    const body = {
      model: conversation.model,
      messages: [...(system ? [{ role: "system", content: system }] : []), ...messages],
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
        if (chunk.error)
          throw new Problem({ code: chunk.error.code ?? "engine", message: chunk.error.message });
        const delta = chunk.choices?.[0]?.delta?.content;
        if (delta) {
          first ||= performance.now();
          pieces += 1;
          message.text += delta;
        }
        const seconds = first ? (performance.now() - first) / 1000 : 0;
        // The clock starts with the first piece, so that the rate excludes it.
        if (pieces > 1 && seconds > 0.2) message.stats = `${rate((pieces - 1) / seconds)}`;
        const { timings, usage } = chunk;
        if (timings?.predicted_per_second) message.stats = rate(timings.predicted_per_second);
        if (usage?.completion_tokens)
          message.stats = [`${usage.completion_tokens} tokens`, message.stats].filter(Boolean).join(" · ");
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
    this.#deleted.add(this.now.id);
    this.all = this.all.filter((each) => each !== this.now);
    this.now = this.all[0] ?? fresh(this.model);
    this.problem = null;
    this.#save();
    this.update();
  }

  /** Takes over conversations that other tabs have saved. */
  #merge() {
    const others = recall("chats", /** @type {Conversation[]} */ ([])).filter(
      ({ id }) => !this.#own.has(id) && !this.#deleted.has(id),
    );
    const own = this.all.filter(({ id }) => this.#own.has(id));
    this.all = [...own, ...others]
      .sort((one, other) => (one.at < other.at ? 1 : -1))
      .slice(0, MOST_CONVERSATIONS);
    this.now = this.all.find(({ id }) => id === this.now.id) ?? this.now;
  }

  #save() {
    this.#saved = Date.now();
    this.#merge();
    const kept = this.all.filter(({ messages }) => messages.length > 0);
    // If the storage is full, the oldest conversations are dropped.
    for (
      let most = kept.length;
      most >= 0 && !remember("chats", kept.slice(0, most));
      most = Math.floor(most / 2) - (most === 0 ? 1 : 0)
    );
  }
}

/** Shows Markdown. It is converted only when its text changes, not each time the view draws. */
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
  return {
    id: `${Date.now()}-${Math.random().toString(36).slice(2, 8)}`,
    at: new Date().toISOString(),
    model,
    messages: [],
  };
}

/** @param {string} text */
const excerpt = (text) => (text.length > 32 ? `${text.slice(0, 31)}…` : text);

customElements.define("markdown-text", MarkdownText);
customElements.define("hive-chat", Chat);
