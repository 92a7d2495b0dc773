// Jobs in words, and their requests as commands for a terminal.

import { bytes, readable } from "./format.js";
import { hive, isOurs } from "./hive.js";
import { at } from "./place.js";
import { partialsOf } from "./sources.js";

/** @typedef {import("./types.js").Job} Job */

/** The last part of a source, by which people recognise it. @param {string} source */
export function shortSource(source) {
  const bare = String(source).replace(/[?#].*$/, "");
  return bare.split("/").filter(Boolean).pop() ?? bare;
}

/** `Download tiny.gguf`. @param {Pick<Job, "operation"|"request">} job */
export function title({ operation, request }) {
  const id = request.id ?? request.model ?? "";
  switch (operation) {
    case "model_download":
      return `${request.dry_run ? "Plan download of" : "Download"} ${shortSource(request.model ?? "")}`;
    case "model_load":
      return `${request.dry_run ? "Estimate for" : "Load"} ${id}`;
    case "model_unload":
      return `Unload ${id}`;
    case "model_delete":
      return `Delete ${id}`;
    case "model_get":
      return `Look up ${id}`;
    case "worker_spawn":
      return `Start a worker for ${id}`;
    case "worker_process_delete":
      return `Stop worker ${request.pid}`;
    case "worker_process_get":
      return `Look up worker ${request.pid}`;
    case "worker_process_list":
      return "List workers";
    case "model_list":
      return "List models";
    case "residency_get":
      return "List what is in memory";
    case "model_settings_get":
      return `Look up the settings of ${id}`;
    case "model_settings_set":
      return `Set up ${id}`;
    case "model_diagnose":
      return `Find out why ${id || "a request"} is slow`;
    case "memory_lease":
      return `Lease ${bytes(request.bytes)} of memory`;
    case "memory_release":
      return "Give leased memory back";
    case "hub_login":
      return "Keep a token of the Hub";
    case "hub_logout":
      return "Forget the token of the Hub";
    case "token_create":
      return `Make the token ${request.name}`;
    case "token_revoke":
      return `Revoke the token ${request.name}`;
    case "token_list":
      return "List the tokens";
    case "usage_report":
      return "Report the usage";
    case "hive_check":
      return "Check the hive";
    case "fleet_status":
      return "Look at the fleet";
    case "fleet_up":
      return "Start the fleet of this machine";
    case "fleet_invite":
      return "Invite a machine into the fleet";
    case "fleet_join":
      return `Join the fleet at ${request.address}`;
    case "fleet_leave":
      return "Leave the fleet";
    case "fleet_expel":
      return `Expel ${request.name} from the fleet`;
    case "worker_install":
      return `${request.dry_run ? "Plan the installation of" : "Install"} ${engineOf(request)}`;
    case "worker_remove":
      return `Remove ${engineOf(request)}`;
    case "worker_catalog_list":
      return "List the engines to install";
    case "worker_list_installed":
      return "List installed engines";
    case "worker_catalog_get":
    case "worker_installed_get":
      return `Look up ${request.worker_id}`;
    default:
      return `${readable(operation)}${id ? ` ${id}` : ""}`;
  }
}

/** @param {Record<string, any>} request */
const engineOf = ({ worker_id: id, version }) => (version && version !== "latest" ? `${id} ${version}` : id);

/** @type {Record<string, string>} */
const STATES = {
  queued: "Queued",
  running: "Running",
  succeeded: "Done",
  failed: "Failed",
  cancelled: "Cancelled",
};

/** @param {Job} job */
export function stateWord(job) {
  return isPaused(job) ? "Paused" : (STATES[job.state] ?? job.state);
}

/** @param {Job} job */
export const isDownload = (job) => job.operation === "model_download" && !job.request.dry_run;

/** @param {Job} job */
export const isInstall = (job) => job.operation === "worker_install" && !job.request.dry_run;

/** Whether a job changes nothing: a read, or the plan of an act. @param {Job} job */
export const isReadOnly = (job) => job.kind === "read" || job.request.dry_run === true;

/** Whether a download was cancelled and left a partial, which a resumed download continues.
 * @param {Job} job */
export const isPaused = (job) =>
  job.state === "cancelled" &&
  isOurs(job) &&
  isDownload(job) &&
  partialsOf(job.request.model, hive.models.values()).length > 0;

/** The outcome of a job in a few words; empty where there is none.
 * @param {Job} job */
export function outcome({ failure, result, message }) {
  if (failure) return failure.message;
  if (!result) return message ?? "";
  if (result.worker_id) return `worker ${result.pid} on ${result.device}`;
  if (typeof result.freed_bytes === "number") return `${bytes(result.freed_bytes)} freed`;
  if (result.obstacle) return `engine '${result.engine}' cannot run it`;
  if (typeof result.required_bytes === "number")
    return result.fits
      ? `fits: ${bytes(result.required_bytes)}`
      : `does not fit: ${bytes(result.missing_bytes)} missing`;
  if (result.format && typeof result.size_bytes === "number")
    return [bytes(result.size_bytes), result.quantization].filter(Boolean).join(" · ");
  if (result.worker_type && result.version) return [result.version, bytes(result.size)].join(" · ");
  if (typeof result.free_bytes === "number") return `${bytes(result.transfer_bytes)} to transfer`;
  return "";
}

/** The name of an action within its operation: `model_download_verify` is `Verify`.
 * @param {string} action @param {string} operation */
export function step(action, operation) {
  const own = action.startsWith(`${operation}_`) ? action.slice(operation.length + 1) : action;
  return readable(own);
}

/** The request as a `curl` command, quoted for a POSIX shell, without the token itself.
 * @param {Record<string, any>} request @param {boolean} token */
export function curl(request, token) {
  const quote = (/** @type {string} */ text) => `'${text.replaceAll("'", `'\\''`)}'`;
  const auth = token ? ' \\\n  -H "Authorization: Bearer $RBEE_HIVE_TOKEN"' : "";
  const lines = [
    `curl -sS ${location.origin}${at("/v1/jobs")}${auth}`,
    "-H 'Content-Type: application/json'",
    `-d ${quote(JSON.stringify(request))}`,
  ];
  return lines.join(" \\\n  ");
}
