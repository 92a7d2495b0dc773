// Who uses this page, by its token, and what they may do. Where the hive asks for no token, everybody may do
// everything.

import { capabilities, forgetCapabilities, tokens } from "./api.js";
import { hive } from "./hive.js";

/** @typedef {import("./types.js").Role} Role */

/** The roles; each may do what those before it may. @type {Role[]} */
export const ROLES = ["read", "use", "manage"];

class Caller {
  /** Whether the hive has said who it is. */
  isKnown = false;
  /** Null where the hive asks for no token. @type {import("./types.js").Capabilities["caller"]} */
  card = null;

  /** Whether the hive asks for a token. */
  get isAsked() {
    return this.card !== null;
  }

  /** Whether an operation, such as `ModelLoad` or `model_load`, may be submitted.
   * @param {string} operation */
  may(operation) {
    const name = operation.replace(/(?:^|_)([a-z])/g, (_, letter) => letter.toUpperCase());
    return this.card === null || this.card.operations.includes(name);
  }

  /** Whether the caller has at least that role. @param {Role} role */
  has(role) {
    return this.card === null || ROLES.indexOf(this.card.role) >= ROLES.indexOf(role);
  }

  /** Why something is not allowed; empty where it is. @param {string} what an operation, or a role */
  refusal(what) {
    const role = ROLES.find((role) => role === what);
    if (role ? this.has(role) : this.may(what)) return "";
    return (
      `Not allowed: this needs the role “${role ?? "manage"}”, and the token “${this.card?.name}” has ` +
      `“${this.card?.role}”. Whoever manages the hive can make another one.`
    );
  }
}

export const caller = new Caller();

/** Asks the hive who the caller is. */
export async function refreshCaller() {
  forgetCapabilities();
  await know();
}

async function know() {
  try {
    const card = (await capabilities()).caller;
    if (caller.isKnown && JSON.stringify(card) === JSON.stringify(caller.card)) return;
    caller.card = card;
    caller.isKnown = true;
    hive.changed("caller");
  } catch {
    // It stays what it was; the next connection asks again.
  }
}

let wasLive = false;
hive.addEventListener("connection", () => {
  const isLive = hive.connection.state === "live";
  // A hive that was away may have other tokens now.
  if (isLive && !wasLive) caller.isKnown ? refreshCaller() : know();
  wasLive = isLive;
});
tokens.addEventListener("changed", refreshCaller);
