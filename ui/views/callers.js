// The callers: their tokens, and how much they use the hive.

import { changeToken } from "../lib/api.js";
import { caller } from "../lib/caller.js";
import { h, icon } from "../lib/dom.js";
import { ago, count, duration, instant } from "../lib/format.js";
import { hive } from "../lib/hive.js";
import { live } from "../lib/live.js";
import { isFirst, refreshTokens, tokenList, usage } from "../lib/usage.js";
import { View } from "../lib/view.js";
import { choice } from "../parts/choices.js";
import { select } from "../parts/fields.js";
import { button, chip, retryBox, waiting } from "../parts/parts.js";
import { showProblem } from "../parts/toasts.js";
import { openRevoke, openToken } from "../parts/token-dialog.js";

/** @typedef {import("../lib/types.js").Token} Token */
/** @typedef {import("../lib/types.js").UsageSums} Sums */

/** Days before today, as `since` of a report takes them. */
const PERIODS = [
  choice("1h", "Today"),
  choice("144h", "7 days"),
  choice("696h", "30 days"),
  choice("2136h", "90 days"),
  choice("8736h", "365 days"),
];
const EVERYBODY = choice("", "All callers");
/** What a hive says that asks for no token. */
const OPEN =
  "This hive asks nobody for a token: whoever reaches it may do everything. That is right where only you " +
  "do. To share it, make a token for yourself first; then one for each person and program, with what each " +
  "may do.";

class Callers extends View {
  /** @type {import("../lib/hive.js").Topic[]} */
  static topics = ["callers", "connection"];
  since = "696h";
  /** The one whose usage is shown; empty for all. */
  of = "";
  /** All who were in a report, to choose from. @type {Set<string>} */
  known = new Set();

  start() {
    if (caller.isKnown) this.#read();
    hive.on(["caller"], () => this.#read(), this.life.signal);
  }

  #read() {
    refreshTokens();
    this.#report();
  }

  #report() {
    usage.read({ UsageReport: { since: this.since, caller: this.of || null } });
  }

  draw() {
    for (const row of usage.value?.usage ?? []) this.known.add(row.caller);
    return [
      h(
        "div",
        { class: "page-head" },
        h("h1", null, "Callers"),
        h("p", { class: "muted" }, "Who may use this hive, and who uses it how much."),
        h(
          "div",
          { class: "actions" },
          button(
            "Make a token",
            openToken,
            { class: "primary", needs: "TokenCreate", disabled: !tokenList.value },
            icon("plus"),
          ),
        ),
      ),
      // Both at once, so that neither moves the other.
      ...(this.#isReady()
        ? [this.#tokens(), this.#usage()]
        : [waiting("Waiting for the hive's list of tokens", hive.asked)]),
    ];
  }

  #isReady() {
    const tokens = !caller.may("TokenList") || tokenList.value || tokenList.problem;
    return caller.isKnown && Boolean(tokens) && Boolean(usage.value || usage.problem);
  }

  #tokens() {
    const { value: tokens, since, problem } = tokenList;
    return h(
      "section",
      { class: "card spaced", "aria-labelledby": "tokens-title", "aria-busy": since ? "true" : null },
      h(
        "div",
        { class: "card-head" },
        h("h2", { id: "tokens-title" }, "Tokens"),
        // Others have it in the note at the top of the page.
        caller.card?.role === "manage"
          ? button("Use another token", () => changeToken().catch(showProblem), { class: "small" })
          : null,
      ),
      caller.card
        ? h(
            "p",
            { class: "muted small-text" },
            `This page uses the token “${caller.card.name}”, which has the role “${caller.card.role}”`,
            caller.card.name === "manager" ? ": it is the one of the hive's token file." : ".",
          )
        : null,
      retryBox(problem, refreshTokens),
      since && problem ? waiting("Waiting for the list of tokens", since) : null,
      !caller.may("TokenList")
        ? h("p", null, "Only tokens with the role “manage” may see which others there are.")
        : null,
      tokens && isFirst() ? h("p", null, OPEN) : null,
      tokens?.length === 0 && !isFirst()
        ? h("p", null, "There is no other token. Make one for each person and program that uses the hive.")
        : null,
      tokens?.length ? tokenTable(tokens) : null,
    );
  }

  #usage() {
    const { value: report, since, problem } = usage;
    const callers = [...this.known].sort().map((name) => choice(name, name));
    const total = report?.total;
    return h(
      "section",
      { class: "card spaced", "aria-labelledby": "usage-title", "aria-busy": since ? "true" : null },
      h(
        "div",
        { class: "card-head wrap" },
        h("h2", { id: "usage-title" }, "Usage"),
        h("span", { class: "muted num" }, total ? requests(total.requests) : "\u00a0"),
        select({ "aria-label": "Period" }, PERIODS, this.since, (since) => {
          this.since = since;
          this.#report();
        }),
        select({ "aria-label": "Caller" }, [EVERYBODY, ...callers], this.of, (of) => {
          this.of = of;
          this.#report();
        }),
      ),
      retryBox(problem, () => this.#report()),
      since && problem ? waiting("Waiting for the usage", since) : null,
      report && report.total.requests === 0
        ? h(
            "p",
            { class: "muted" },
            `No requests to models from ${date(report.since)} to ${date(report.until)}. `,
            "Days are those of UTC.",
          )
        : null,
      report?.usage.length
        ? [
            sumsTable(
              "Usage by caller and model",
              ["Caller", "Model"],
              report.usage.map((row) => ({
                key: `${row.caller} ${row.model}`,
                names: [row.caller, row.model ?? "no model that the hive knows"],
                sums: row,
              })),
            ),
            h("h3", null, "By day"),
            sumsTable(
              "Usage by day",
              ["Day"],
              report.days.toReversed().map((row) => ({ key: row.date, names: [date(row.date)], sums: row })),
            ),
            h("p", { class: "muted small-text" }, "Days are those of UTC."),
          ]
        : null,
    );
  }
}

/** @param {Token[]} tokens */
const tokenTable = (tokens) =>
  h(
    "div",
    { class: "list" },
    h(
      "table",
      { class: "grid-table stacked plain-rows" },
      h("caption", { class: "visually-hidden" }, "Tokens"),
      head(["Name", "Role", "Limits", "Models", "Expires", "Last used", "Uses", ""], new Set([6])),
      h("tbody", null, ...tokens.map(tokenRow)),
    ),
  );

/** @param {Token} token */
function tokenRow(token) {
  const { name, role, expires_at: end, last_used_at: last, models } = token;
  const limits = [
    token.requests_per_minute && `${count(token.requests_per_minute)} a minute`,
    token.concurrent && `${count(token.concurrent)} at once`,
  ].filter(Boolean);
  const at = (/** @type {string} */ time) => h("time", { datetime: time, title: instant(time) }, ago(time));
  return h(
    "tr",
    { key: name },
    h("th", { scope: "row" }, name, name === caller.card?.name ? " (this page's)" : ""),
    h("td", { "data-label": "Role" }, role),
    h("td", { "data-label": "Limits" }, limits.join(", ") || "none"),
    h("td", { "data-label": "Models" }, models ? models.join(", ") || "none" : "all"),
    h(
      "td",
      { "data-label": "Expires" },
      token.expired ? chip("failed", "expired") : end ? expiry(end) : "never",
    ),
    h("td", { "data-label": "Last used" }, last ? at(last) : "not yet"),
    h("td", { class: "num", "data-label": "Uses" }, count(token.uses)),
    h(
      "td",
      { class: "row-actions" },
      button("Revoke", () => openRevoke(token), {
        class: "small",
        "aria-label": `Revoke ${name}`,
        needs: "TokenRevoke",
      }),
    ),
  );
}

/** How long a token still lasts. @param {string} end */
const expiry = (end) =>
  h(
    "time",
    { datetime: end, title: instant(end) },
    live(() => {
      const left = (Date.parse(end) - Date.now()) / 1000;
      return left > 0 ? `in ${duration(left)}` : "expired";
    }),
  );

/** A table of sums, with the names of what each is the sum of. @param {string} label @param {string[]} names
 * @param {Array<{key: string, names: string[], sums: Sums}>} rows */
function sumsTable(label, names, rows) {
  const columns = ["Requests", "Failed", "Refused", "Tokens read", "Tokens written", "Each took"];
  const numbers = new Set(columns.map((_, at) => names.length + at));
  return h(
    "div",
    { class: "list" },
    h(
      "table",
      { class: "grid-table stacked plain-rows" },
      h("caption", { class: "visually-hidden" }, label),
      head([...names, ...columns], numbers),
      h(
        "tbody",
        null,
        ...rows.map(({ key, names: [first, ...others], sums }) => {
          const values = [
            count(sums.requests),
            count(sums.failed),
            count(sums.refused),
            count(sums.prompt_tokens),
            count(sums.completion_tokens),
            sums.requests ? duration(sums.total_ms / sums.requests / 1000) : "–",
          ];
          return h(
            "tr",
            { key },
            h("th", { scope: "row" }, first),
            ...others.map((name, at) => h("td", { "data-label": names[at + 1] }, name)),
            ...values.map((value, at) => h("td", { class: "num", "data-label": columns[at] }, value)),
          );
        }),
      ),
    ),
  );
}

/** @param {string[]} columns @param {Set<number>} numbers the columns of numbers */
const head = (columns, numbers) =>
  h(
    "thead",
    null,
    h(
      "tr",
      null,
      ...columns.map((name, at) =>
        name ? h("th", { scope: "col", class: numbers.has(at) ? "num" : null }, name) : h("td", null),
      ),
    ),
  );

/** @param {number} number */
const requests = (number) => `${count(number)} ${number === 1 ? "request" : "requests"}`;

/** A day in words. @param {string} day such as `2026-11-27` */
const date = (day) =>
  new Date(day).toLocaleDateString("en-GB", {
    day: "numeric",
    month: "short",
    year: "numeric",
    timeZone: "UTC",
  });

customElements.define("hive-callers", Callers);
