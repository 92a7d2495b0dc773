// Loads the page's modules once the frame is painted, which needs none of them: on a small machine they
// would delay the first paint.

// Preloads all modules at once: found import by import, they would take one round trip for each level.
const MODULES = [
  "client.js",
  "main.js",
  "lib/api.js",
  "lib/caller.js",
  "lib/catalog.js",
  "lib/code.js",
  "lib/completion.js",
  "lib/conversations.js",
  "lib/dom.js",
  "lib/elsewhere.js",
  "lib/engines.js",
  "lib/events.js",
  "lib/fleet.js",
  "lib/format.js",
  "lib/hive.js",
  "lib/jobs.js",
  "lib/live.js",
  "lib/markdown.js",
  "lib/model-settings.js",
  "lib/other-settings.js",
  "lib/place.js",
  "lib/places.js",
  "lib/plan.js",
  "lib/sha256.js",
  "lib/sight.js",
  "lib/sources.js",
  "lib/storage.js",
  "lib/usage.js",
  "lib/view.js",
  "parts/chat-settings.js",
  "parts/choices.js",
  "parts/delete-dialog.js",
  "parts/diagnosis-dialog.js",
  "parts/dialog.js",
  "parts/download-dialog.js",
  "parts/downloads.js",
  "parts/engines.js",
  "parts/fields.js",
  "parts/fleet-dialogs.js",
  "parts/graph.js",
  "parts/job-strip.js",
  "parts/load-dialog.js",
  "parts/load-plan.js",
  "parts/log-controls.js",
  "parts/message.js",
  "parts/other-workers.js",
  "parts/parts.js",
  "parts/places.js",
  "parts/residency.js",
  "parts/result.js",
  "parts/settings-dialog.js",
  "parts/spawn-dialog.js",
  "parts/toasts.js",
  "parts/token-dialog.js",
  "parts/token.js",
  "parts/transfer.js",
  "parts/virtual-list.js",
  "parts/where-field.js",
  "views/callers.js",
  "views/chat.js",
  "views/fleet.js",
  "views/job.js",
  "views/jobs.js",
  "views/models.js",
  "views/overview.js",
  "views/workers.js",
];

let isStarted = false;

function start() {
  if (isStarted) return;
  isStarted = true;
  for (const module of MODULES) {
    const link = document.createElement("link");
    link.rel = "modulepreload";
    link.href = new URL(module, import.meta.url).href;
    document.head.append(link);
  }
  import("./main.js");
}

// A hidden page is not painted, and not every browser reports the paint.
new PerformanceObserver(start).observe({ type: "paint", buffered: true });
setTimeout(start, document.hidden ? 0 : 250);
