// The chat with a model. `lib/conversations.js` keeps the conversations, `lib/completion.js` streams the
// answers.

import { Problem } from "../lib/api.js";
import { caller } from "../lib/caller.js";
import { complete } from "../lib/completion.js";
import { Conversations } from "../lib/conversations.js";
import { h, icon, kept } from "../lib/dom.js";
import { others } from "../lib/fleet.js";
import { ago, bytes, elapsed } from "../lib/format.js";
import { canChat, doubtNote, hive, isLoadable, isServing } from "../lib/hive.js";
import { live } from "../lib/live.js";
import { rows, stateAt } from "../lib/places.js";
import { recall, remember } from "../lib/storage.js";
import { View, link, route } from "../lib/view.js";
import { DEFAULTS, parameters, settingsOf } from "../parts/chat-settings.js";
import { messageOf } from "../parts/message.js";
import { select } from "../parts/fields.js";
import { openLoad } from "../parts/load-dialog.js";
import { allowed, button, empty, failureBox, progressBar, waiting } from "../parts/parts.js";
import { downloadButton } from "../parts/download-dialog.js";
import { showNote } from "../parts/toasts.js";

/** @typedef {import("../lib/conversations.js").Message} Message */
/** @typedef {import("../lib/conversations.js").Conversation} Conversation */
/** @typedef {import("../parts/chat-settings.js").Settings} Settings */
/** The answer in progress, and what it waits for.
 * @typedef {{stop: AbortController, since: number, wait: import("../lib/completion.js").Wait|null}} Busy */
/** What can be asked: a model, or a variant of one.
 * `where`: the hives that may answer, where there are several or another one.
 * @typedef {{id: string, isServed: boolean, label: string, where: string[]}} Choice */

/** Example messages. */
const OPENINGS = ["Who are you?", "What is a GGUF file?", "Write a haiku about bees"];
/** How often a growing answer is saved, in milliseconds. */
const SAVE_MS = 1000;
/** The longest answer that is read out, in characters. */
const MOST_ANNOUNCED = 2000;

class Chat extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["models", "workers", "others", "connection"];
  conversations = new Conversations();
  /** @type {Conversation} */
  now = this.conversations.all[0] ?? this.conversations.fresh("");
  /** @type {Settings} */
  settings = { ...DEFAULTS, ...recall("chat.settings", {}) };
  draft = recall("chat.draft", "");
  showSettings = false;
  /** @type {Choice[]} */
  choices = [];
  /** @type {Choice|undefined} */
  chosen;
  /** @type {Busy|null} */
  busy = null;
  /** @type {Problem|null} */
  problem = null;
  /** What a screen reader is told: the answer, once it is complete. */
  announced = "";
  #atEnd = true;
  #saved = 0;

  start() {
    const { signal } = this.life;
    const choose = () => route().page === "chat" && route().id && this.#choose(route().id);
    choose();
    addEventListener("hashchange", choose, { signal });
    others.watch(signal);
    addEventListener("pagehide", () => this.#save(), { signal });
    this.conversations.onOtherTab(() => this.#taken(), signal);
    // The text of an answer arrives after the view has drawn.
    this.addEventListener("rendered", () => this.#scrollToEnd(), { signal });
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

  /** Finds what can be asked, what is loaded first, and which of it is chosen: else a loaded one, else the
   * first one. */
  #look() {
    const workers = [...hive.workers.values()].filter(isServing);
    const served = new Set(workers.map(({ model }) => model));
    const models = hive.loadableModels().filter(canChat);
    const known = new Set(models.map(({ id }) => id));
    const isVariant = (/** @type {string} */ id) => !known.has(id) && known.has(hive.modelOf(id));
    const variants = new Set([...served, this.now.model].filter(isVariant));
    /** @type {(id: string, size: string) => Choice} */
    const choice = (id, size) => {
      const isServed = served.has(id);
      return { id, isServed, label: `${id} · ${isServed ? "loaded" : `${size}not loaded`}`, where: [] };
    };
    this.choices = [
      ...[...variants].map((id) => choice(id, "")),
      ...models.map((model) => {
        const own = choice(model.id, `${bytes(model.size_bytes)}, `);
        return own.isServed ? own : { ...own, label: own.label + doubtNote(model) };
      }),
    ];
    if (others.isKnown) this.choices = withOthers(this.choices);
    this.choices.sort((a, b) => Number(b.isServed) - Number(a.isServed));
    this.chosen = this.choices.find(({ id }) => id === this.now.model) ?? this.choices[0];
  }

  /** The id of what is chosen. */
  get model() {
    return this.chosen?.id ?? "";
  }

  draw() {
    this.#look();
    const hasModels = this.choices.length > 0;
    return h(
      "div",
      { class: "chat" },
      this.#head(),
      this.showSettings ? parameters(this.settings, () => remember("chat.settings", this.settings)) : null,
      this.#talk(),
      this.#composer(hasModels),
      h(
        "p",
        { class: "help composer-help" },
        this.busy
          ? [this.busy.wait ? "Waiting for " : "Answering for ", live(since(this.busy))]
          : "Enter sends, Shift+Enter starts a new line",
      ),
      h("p", { class: "visually-hidden", role: "status", "aria-live": "polite" }, this.announced),
    );
  }

  #head() {
    const { now, busy, conversations } = this;
    const locked = busy !== null;
    return h(
      "div",
      { class: "page-head" },
      h("h1", null, "Chat"),
      this.#modelList(),
      h(
        "div",
        { class: "actions" },
        conversations.all.length > 0 ? this.#history() : null,
        now.messages.length ? button("New", () => this.#new(), { disabled: locked }, icon("plus")) : null,
        now.messages.length
          ? button(
              "Delete",
              () => this.#forget(),
              { disabled: locked, class: "icon-only", ...named("Delete this conversation") },
              icon("trash"),
            )
          : null,
        h(
          "button",
          {
            type: "button",
            class: "icon",
            ...named("Parameters"),
            "aria-expanded": String(this.showSettings),
            onclick: () => ((this.showSettings = !this.showSettings), this.update()),
          },
          icon("gear"),
        ),
      ),
    );
  }

  #modelList() {
    const { choices, model, busy } = this;
    if (choices.length === 0) {
      const text = hive.hasSnapshot ? "No model yet" : "Waiting for the models";
      const props = { "aria-label": "Model", class: "grow-select", disabled: true, key: "none" };
      return h("select", props, h("option", null, text));
    }
    const list = choices.map(({ id, label }) => /** @type {const} */ ([id, label]));
    const props = { "aria-label": "Model", class: "grow-select", disabled: busy !== null };
    return kept("models", [model, busy !== null, list.join("\n")], () =>
      select(props, list, model, (id) => this.#choose(id)),
    );
  }

  #history() {
    const { now, busy, conversations } = this;
    const all = conversations.all.includes(now) ? conversations.all : [now, ...conversations.all];
    const label = (/** @type {Conversation} */ { at, messages: [first] }) =>
      first ? `${excerpt(first.text)} · ${ago(at)}` : "New conversation";
    const list = all.map((each) => /** @type {const} */ ([each.id, label(each)]));
    const props = { "aria-label": "Conversation", class: "history", disabled: busy !== null };
    return kept("history", [now.id, busy !== null, list.join("\n")], () =>
      select(props, list, now.id, (id) => this.#open(id)),
    );
  }

  #talk() {
    const { now, busy, problem, model } = this;
    const last = now.messages.at(-1);
    const isUnanswered = last?.role === "user" && !busy && !problem && this.choices.length > 0;
    return h(
      "div",
      {
        class: "talk",
        tabindex: "0",
        role: "log",
        "aria-label": "Conversation",
        "aria-live": "off",
        onscroll: (/** @type {any} */ { target }) =>
          (this.#atEnd = target.scrollHeight - target.scrollTop - target.clientHeight < 40),
      },
      this.#opening(),
      ...now.messages.map((message, at) => this.#message(message, at)),
      busy && last?.role === "assistant" && isBare(last) ? this.#waiting(busy) : null,
      problem ? this.#failed(problem) : null,
      // A message whose answer failed can be sent again, to another model too.
      isUnanswered
        ? h(
            "div",
            { class: "actions" },
            button(`Ask ${model}`, () => this.#answer(), { needs: "use" }, icon("again")),
          )
        : null,
      this.conversations.isKept ? null : this.#storageFull(),
    );
  }

  /** What the answer waits for: its place in the queue, and how far the load is. @param {Busy} busy */
  #waiting({ since, wait }) {
    const job = wait?.job ? hive.jobs.get(wait.job) : undefined;
    const stop = button("Stop", () => this.#stop(), { class: "small" });
    return h(
      "div",
      { class: wait ? "card wait" : "wait" },
      waiting(
        wait ? `Waiting for ${this.model}` : `Waiting for the first word of ${this.model}`,
        since,
        stop,
      ),
      wait?.text ? h("p", { class: "muted num" }, `Place ${wait.text}`) : null,
      job?.progress && !job.ended_at ? progressBar(job.progress, `Progress of the load`) : null,
      job
        ? h("a", { class: "small-text muted", href: link("jobs", job.job_id) }, "The job of the load")
        : null,
    );
  }

  /** @param {Problem} problem */
  #failed(problem) {
    const model = hive.models.get(hive.modelOf(this.model));
    // A hive may be set not to load what requests ask for.
    const load =
      problem.code === "model_not_loaded" && model
        ? button("Load it", () => openLoad(model), { needs: "ModelLoad" }, icon("play"))
        : null;
    const again = button("Try again", () => this.#answer(), { needs: "use" });
    return failureBox(problem, again, load);
  }

  #opening() {
    const { chosen } = this;
    if (!hive.hasSnapshot) return waiting("Waiting for the hive's list of models", hive.connection.since);
    if (!chosen) {
      return empty(
        "No model to chat with yet",
        "The chat needs a model: any GGUF file of a chat model.",
        downloadButton(),
      );
    }
    if (this.now.messages.length > 0) return null;
    const open = (/** @type {string} */ text) =>
      button(text, () => ((this.draft = text), this.#send()), { class: "small", needs: "use" });
    return empty(
      chosen.isServed ? "Send a message" : "Send a message; the model is loaded first",
      [
        "It goes only to ",
        h("strong", null, chosen.id),
        ` on ${chosen.where.join(" or ") || "this machine"}. The conversation stays in this browser.`,
      ],
      ...OPENINGS.map(open),
    );
  }

  /** @param {Message} message @param {number} at */
  #message(message, at) {
    const isLast = at === this.now.messages.length - 1;
    const isGrowing = isLast && this.busy !== null;
    const again = isLast && !this.busy ? () => this.#answer() : null;
    // Its fields change in place while it grows.
    const shows = [message.role, message.text, message.reasoning, JSON.stringify(message.calls)];
    const ends = [message.finish, message.stats, message.model, message.stopped, message.broken];
    return kept(`${this.now.id} ${at}`, [...shows, ...ends, isGrowing, again !== null], () =>
      messageOf(message, { isGrowing, again }),
    );
  }

  #storageFull() {
    const problem = new Problem({
      code: "storage_full",
      message:
        "this browser has no room left for conversations: what is new in them is lost when the tab is closed",
      hint: "delete conversations that you no longer need",
    });
    return failureBox(problem);
  }

  /** @param {boolean} hasModels */
  #composer(hasModels) {
    const { busy } = this;
    return h(
      "form",
      {
        class: "composer",
        onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), this.#send()),
      },
      h("label", { class: "visually-hidden", for: "draft" }, "Your message"),
      h("textarea", {
        id: "draft",
        rows: 1,
        placeholder: !caller.has("use")
          ? "Your token may not use models"
          : hasModels
            ? "Message"
            : "Get a model first",
        ...allowed({ disabled: !hasModels, needs: "use" }),
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
              "aria-label": "Stop",
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
              ...allowed({ disabled: !this.draft.trim() || !hasModels, needs: "use" }),
            },
            icon("up"),
          ),
    );
  }

  drawn() {
    this.#scrollToEnd();
    const draft = /** @type {HTMLTextAreaElement|null} */ (this.querySelector("#draft"));
    if (draft) {
      draft.style.blockSize = "auto";
      draft.style.blockSize = `${Math.min(200, draft.scrollHeight + 2)}px`;
    }
  }

  #scrollToEnd() {
    const talk = this.querySelector(".talk");
    if (talk && this.#atEnd) talk.scrollTop = talk.scrollHeight;
  }

  #send() {
    const text = this.draft.trim();
    if (!text || this.busy || !this.model) return;
    this.now.messages.push({ role: "user", text });
    this.draft = "";
    remember("chat.draft", "");
    this.#atEnd = true;
    this.#answer();
  }

  #stop() {
    this.busy?.stop.abort();
  }

  /** Answers the last message of the user. An answer that is there already, whole or half, gives way to the
   * new one, and is not a part of what the model is asked; it stays if nothing new comes. */
  async #answer() {
    const { model, now } = this;
    const { messages } = now;
    const before = messages.at(-1)?.role === "assistant" ? messages.pop() : undefined;
    const stop = new AbortController();
    /** @type {Message} */
    const answer = { role: "assistant", text: "", model };
    this.problem = null;
    this.announced = "";
    now.model = model;
    this.conversations.touch(now);
    const body = request(now, this.settings);
    messages.push(answer);
    /** @type {Busy} */
    const busy = (this.busy = { stop, since: Date.now(), wait: null });
    this.#save();
    this.update();
    try {
      await complete(body, answer, {
        signal: stop.signal,
        onPiece: () => this.#grown(),
        onWait: (wait) => {
          busy.wait = wait.text || wait.job ? wait : null;
          this.update();
        },
      });
      this.announced = `${model} has answered. ${answer.text.slice(0, MOST_ANNOUNCED)}`;
    } catch (error) {
      if (stop.signal.aborted) answer.stopped = true;
      else answer.broken = true;
      if (answer.broken) this.problem = Problem.of(error);
    }
    if ((answer.stopped || answer.broken) && isBare(answer)) {
      messages.pop();
      if (before) messages.push(before);
    }
    this.busy = null;
    this.#save();
    this.update();
    const draft = /** @type {HTMLElement|null} */ (this.querySelector("#draft"));
    if (this.isConnected && document.activeElement === document.body) draft?.focus();
  }

  #grown() {
    if (this.busy) this.busy.wait = null;
    this.update();
    if (Date.now() - this.#saved > SAVE_MS) this.#save();
  }

  /** @param {string} id */
  #open(id) {
    this.now = this.conversations.all.find((each) => each.id === id) ?? this.now;
    this.problem = null;
    this.#atEnd = true;
    this.update();
  }

  #new() {
    this.now = this.conversations.fresh(this.model);
    this.problem = null;
    this.update();
    requestAnimationFrame(() => /** @type {HTMLElement|null} */ (this.querySelector("#draft"))?.focus());
  }

  #forget() {
    const { now, conversations } = this;
    conversations.remove(now);
    this.now = conversations.all[0] ?? conversations.fresh(this.model);
    this.problem = null;
    this.update();
    const undo = () => {
      conversations.restore(now);
      if (!this.busy) this.#open(now.id);
    };
    showNote(`The conversation “${excerpt(now.messages[0]?.text ?? "")}” was deleted.`, ["Undo", undo]);
  }

  /** Other tabs have saved conversations. */
  #taken() {
    this.now = this.conversations.all.find(({ id }) => id === this.now.id) ?? this.now;
    this.update();
  }

  #save() {
    this.#saved = Date.now();
    this.conversations.save();
    this.#taken();
  }
}

/** The choices of this hive with those of the others, as far as this one's gateway passes requests on.
 * @param {Choice[]} own @returns {Choice[]} */
function withOthers(own) {
  const known = new Map(own.map((choice) => [choice.id, choice]));
  for (const { id, model, places } of rows()) {
    const hives = others.served.get(id) ?? [];
    const where = places.filter((place) => hives.includes(place.hive));
    const isElsewhere = where.some((place) => !place.isHere);
    if (!isElsewhere || !isLoadable(model) || !canChat(model)) continue;
    const loaded = where.filter((place) => stateAt(place) === "loaded").map((place) => place.hive);
    const names = where.map((place) => place.hive);
    const state = loaded.length
      ? `loaded on ${loaded.join(", ")}`
      : `${bytes(model.size_bytes)}, not loaded, on ${names.join(", ")}`;
    known.set(id, { id, isServed: loaded.length > 0, label: `${id} · ${state}`, where: names });
  }
  return [...known.values()];
}

/** What the model is asked. @param {Conversation} conversation @param {Settings} settings */
function request({ model, messages }, settings) {
  const system = settings.system.trim();
  return {
    model,
    messages: [
      ...(system ? [{ role: "system", content: system }] : []),
      ...messages.map(({ role, text }) => ({ role, content: text })),
    ],
    ...settingsOf(settings),
  };
}

/** Whether an answer has nothing to show yet. @param {Message} answer */
const isBare = ({ text, reasoning, calls }) => !text && !reasoning && !calls;

/** @param {Busy} busy */
const since = (busy) => () => elapsed(busy.since);

/** @param {string} name */
const named = (name) => ({ "aria-label": name, title: name });

/** @param {string} text */
const excerpt = (text) => (text.length > 32 ? `${text.slice(0, 31)}…` : text);

customElements.define("hive-chat", Chat);
