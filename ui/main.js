// The frame of the page: it connects to the hive, shows the view that the URL names, and shows the
// state of the connection.

import { NO_ANSWER, changeToken, onTokenNeeded } from "./lib/api.js";
import { caller } from "./lib/caller.js";
import { h, render } from "./lib/dom.js";
import { start, tryNow } from "./lib/events.js";
import { clock, duration, elapsed } from "./lib/format.js";
import { hive } from "./lib/hive.js";
import { recall, remember } from "./lib/storage.js";
import { route } from "./lib/view.js";
import { button } from "./parts/parts.js";
import { showProblem } from "./parts/toasts.js";
import { askForToken } from "./parts/token.js";
import "./views/callers.js";
import "./views/chat.js";
import "./views/fleet.js";
import "./views/job.js";
import "./views/jobs.js";
import "./views/models.js";
import "./views/overview.js";
import "./views/workers.js";

const PAGES = /** @type {const} */ ({
  overview: ["Overview", "hive-overview"],
  models: ["Models", "hive-models"],
  workers: ["Workers", "hive-workers"],
  jobs: ["Jobs", "hive-jobs"],
  chat: ["Chat", "hive-chat"],
  callers: ["Callers", "hive-callers"],
  fleet: ["Fleet", "hive-fleet"],
});

/** @param {string} id */
const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

let shown = "";
/** The chat view is kept, so that an answer continues while another view is shown.
 * @type {HTMLElement|null} */
let chat = null;

function show() {
  const { page, id } = route();
  const known = page in PAGES;
  const name = /** @type {keyof typeof PAGES} */ (known ? page : "overview");
  const element = name === "jobs" && id ? "hive-job" : PAGES[name][1];
  for (const anchor of document.querySelectorAll("#nav a")) {
    const here = anchor instanceof HTMLElement && anchor.dataset.page === name;
    if (here) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  document.title = `${id ? `${id} · ` : ""}${PAGES[name][0]} · rbee hive`;
  const main = byId("main");
  // Each job gets an element of its own; the other views follow the URL themselves.
  const wanted = element === "hive-job" ? `${element} ${id}` : element;
  if (!known) render(main, notFound(page));
  else if (shown !== wanted) {
    const view = (element === "hive-chat" && chat) || document.createElement(element);
    if (element === "hive-chat") chat = view;
    main.replaceChildren(view);
    main.scrollTop = 0;
    if (shown) main.focus({ preventScroll: true });
  }
  shown = known ? wanted : "";
}

/** @param {string} page */
function notFound(page) {
  return h(
    "section",
    { class: "empty" },
    h("h1", null, "There is no such page"),
    h("p", null, `This hive has no page “${page}”.`),
    h("a", { class: "button", href: "#/" }, "Go to the overview"),
  );
}

/** Shows the state of the connection: where it is lost, since when, and a way to reconnect. */
function connection() {
  const { state, since, retryAt, cause } = hive.connection;
  const label = state === "live" ? "Live" : state === "lost" ? "No connection" : "Connecting";
  render(byId("connection"), h("span", { class: "dot", "data-state": state }), h("span", null, label));
  const wait = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
  const lost = h(
    "div",
    { class: "banner" },
    h(
      "p",
      null,
      h("strong", null, "The hive does not answer"),
      cause && cause !== NO_ANSWER ? ` (${cause})` : "",
      `. No connection for ${elapsed(since)}; this page shows the state at ${clock(since)}. `,
      retryAt ? `Trying again in ${duration(Math.max(1, wait))}.` : "Trying now.",
    ),
    h("button", { type: "button", onclick: tryNow, disabled: !retryAt }, "Try now"),
  );
  // Reports no loss that lasts a second or less.
  render(byId("banner"), state === "lost" && Date.now() - since > 1000 ? lost : null);
  document.documentElement.dataset.connection = state;
}

/** Says what the caller may not do, which is off in all views. */
function callerNote() {
  const { card } = caller;
  const isLimited = card !== null && card.role !== "manage";
  const may = card?.role === "use" ? "use models and look at everything" : "look at everything";
  const note = () =>
    h(
      "div",
      { class: "note" },
      h(
        "p",
        { id: "caller-note" },
        `With the token “${card?.name}”, of the role “${card?.role}”, you may ${may}. `,
        card?.role === "use" ? "The rest needs the role " : "Chats need the role “use”, the rest ",
        "“manage”: ask whoever manages this hive.",
      ),
      button("Use another token", () => changeToken().catch(showProblem), { class: "small" }),
    );
  render(byId("caller"), isLimited ? note() : null);
}

function counts() {
  const running = hive.runningJobs().length;
  const badge = byId("jobs-count");
  badge.hidden = running === 0;
  badge.textContent = String(running);
  badge.title = `${running} running`;
  if (hive.hiveId) byId("hive-name").textContent = hive.hiveId;
}

/** The fleet has a page of its own where the hive is in one. */
function fleetLink() {
  const anchor = byId("fleet-link");
  anchor.hidden = hive.fleet === null;
}

const THEMES = ["system", "light", "dark"];

/** @param {string} theme */
function applyTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const label = { system: "system setting", light: "light", dark: "dark" }[theme];
  byId("theme").setAttribute("aria-label", `Colours: ${label}`);
  byId("theme").title = `Colours: ${label}`;
}

applyTheme(recall("theme", "system"));
byId("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(recall("theme", "system")) + 1) % THEMES.length];
  remember("theme", next);
  applyTheme(next);
});
onTokenNeeded(askForToken);
addEventListener("hashchange", show);
hive.addEventListener("connection", connection);
hive.addEventListener("caller", callerNote);
hive.addEventListener("jobs", counts);
hive.addEventListener("fleet", fleetLink);
setInterval(() => hive.connection.state !== "live" && connection(), 500);
document.querySelector(".skip")?.addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
show();
start();
