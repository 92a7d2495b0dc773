// The fleet: its hives with their memory, what each has and does, and who is let in.

import { maker, refreshFleet } from "../lib/fleet.js";
import { h, icon } from "../lib/dom.js";
import { between, bytes, count, instant, roughly } from "../lib/format.js";
import { hive } from "../lib/hive.js";
import { live } from "../lib/live.js";
import { View, link } from "../lib/view.js";
import { openExpel, openInvite } from "../parts/fleet-dialogs.js";
import { button, chip, empty, failureBox, stack, waiting } from "../parts/parts.js";
import { standing } from "../parts/places.js";

/** @typedef {import("../lib/types.js").FleetStatus} FleetStatus */
/** @typedef {import("../lib/types.js").FleetHive} FleetHive */

/** While all is well, some hive tells something new more often than this, in milliseconds. */
const SILENCE_MS = 12_000;

class Fleet extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["fleet", "connection"];
  /** When the last news of the fleet came. */
  #heardAt = Date.now();

  start() {
    hive.on(["fleet"], () => (this.#heardAt = Date.now()), this.life.signal);
    if (hive.fleet) refreshFleet();
    const timer = setInterval(() => this.#ask(), SILENCE_MS / 4);
    this.life.signal.addEventListener("abort", () => clearInterval(timer));
  }

  /** No event tells that this hive's own connection is lost, but then none comes: it is asked. */
  #ask() {
    const isSilent = Date.now() - this.#heardAt >= SILENCE_MS;
    if (hive.fleet && hive.connection.state === "live" && isSilent) refreshFleet();
  }

  draw() {
    const { fleet } = hive;
    const head = (/** @type {Array<HTMLElement|null>} */ ...more) =>
      h("div", { class: "page-head" }, h("h1", null, "Fleet"), ...more);
    if (!hive.hasSnapshot) return [head(), waiting("Waiting for the hive", hive.asked)];
    if (!fleet) return [head(), alone()];
    const silent = fleet.hives.filter(({ presence, end }) => presence === "unreachable" && !end).length;
    const all = fleet.hives.filter(({ end }) => !end).length;
    const words = [fleet.fleet, all === 1 ? "1 hive" : `${count(all)} hives`];
    if (silent) words.push(`${count(silent)} cannot be reached`);
    return [
      head(
        chip(fleet.is_in ? "ready" : "crashed", fleet.is_in ? "connected" : "not connected"),
        h("p", { class: "muted num" }, words.join(" · ")),
        maker()
          ? h(
              "div",
              { class: "actions" },
              button(
                "Invite a machine",
                openInvite,
                { class: "primary", needs: "FleetInvite" },
                icon("plus"),
              ),
            )
          : null,
      ),
      fleet.trouble ? failureBox(fleet.trouble) : null,
      h("div", { class: "cards" }, ...fleet.hives.map((each) => card(each, fleet))),
      fleet.places.length ? kept(fleet) : null,
      h("p", { class: "muted small-text" }, `By way of ${fleet.nats.join(", ")}`, unpublished(fleet)),
    ];
  }
}

/** How a fleet is made. */
const alone = () =>
  empty("This hive stands alone", [
    "Several machines can work as one: with ",
    h("code", null, "rbee-hive fleet up"),
    " this one makes a fleet, and prints the line that the next machine joins by.",
  ]);

/** The models that are kept on several hives. @param {FleetStatus} fleet */
const kept = ({ places }) =>
  h(
    "section",
    { "aria-labelledby": "kept-title" },
    h("h2", { id: "kept-title" }, "Kept on several hives"),
    h(
      "ul",
      { class: "lines residents" },
      ...places.map((place) =>
        h(
          "li",
          { key: place.model },
          h("a", { href: link("models", place.model), class: "grow" }, place.model),
          h("p", { class: "muted" }, [place.hives.join(", "), standing(place)].filter(Boolean).join(" · ")),
        ),
      ),
    ),
  );

/** What of this hive the others may not know yet. @param {FleetStatus} fleet */
function unpublished({ unpublished: jobs }) {
  if (jobs === 0) return null;
  const which = jobs === 1 ? "1 job of this hive runs" : `${count(jobs)} jobs of this hive run`;
  return ` · ${which}, or has events that the fleet does not have yet`;
}

/** @param {FleetHive} one @param {FleetStatus} fleet */
function card(one, fleet) {
  const { hive: name, version, platform, hostname, url, devices, started_at: at } = one;
  const isHere = name === fleet.hive;
  const isGone = one.end !== undefined;
  /** @type {(name: string, value: import("../lib/dom.js").Child) => HTMLElement} */
  const fact = (name, value) => h("div", null, h("dt", null, name), h("dd", { class: "num" }, value));
  return h(
    "article",
    { class: `card worker${isHere ? " chosen" : ""}`, key: name, "aria-label": `Hive ${name}` },
    h(
      "div",
      { class: "card-head" },
      h("h2", null, name, isHere ? h("span", { class: "muted" }, " (this one)") : null),
      presence(one),
    ),
    h("p", { class: "muted small-text" }, [hostname, platform, `rbee-hive ${version}`].join(" · ")),
    version === hive.version || isGone
      ? null
      : h("p", { class: "field-error" }, icon("alert"), `This hive has version ${hive.version}.`),
    h("div", null, ...devices.map(bar)),
    h(
      "dl",
      { class: "numbers" },
      fact("Models", count(one.models)),
      fact("Workers", count(one.workers)),
      fact("Jobs", count(one.jobs)),
      fact(
        "Uptime",
        h("span", { title: instant(at) }, isGone ? "–" : live(() => roughly(between(at, null)))),
      ),
    ),
    h(
      "div",
      { class: "actions" },
      isHere
        ? h("span", { class: "muted small-text" }, url)
        : h(
            "a",
            { class: "button small", href: url, rel: "noreferrer" },
            icon("arrow"),
            h("span", null, url),
          ),
      isHere || one.lets_in || !maker()
        ? null
        : button(
            "Expel",
            () => openExpel(one),
            { class: "small", "aria-label": `Expel ${name}`, needs: "FleetExpel" },
            icon("close"),
          ),
    ),
  );
}

/** Whether it can be reached; where it cannot, since when. @param {FleetHive} one */
function presence({ presence: now, silent_since: since, end }) {
  const state = end ? "stopped" : now === "reachable" ? "ready" : "unresponsive";
  if (!since) return chip(state, end ?? now);
  return h(
    "span",
    { class: "since", title: `silent since ${instant(since)}` },
    chip(state, end ?? now),
    live(() => `for ${roughly(between(since, null))}`),
  );
}

/** @param {FleetHive["devices"][number]} device */
function bar({ device, capacity_bytes: capacity, free_bytes: free }) {
  const used = Math.max(0, capacity - free);
  const said = `${bytes(free)} of ${bytes(capacity)} free`;
  return h(
    "div",
    { class: "device-bar", key: device },
    h("p", null, h("strong", null, device), h("span", { class: "muted num" }, said)),
    stack([{ size: used, kind: "used" }], capacity, `${device}: ${said}`),
  );
}

customElements.define("hive-fleet", Fleet);
