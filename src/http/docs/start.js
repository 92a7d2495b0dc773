"use strict";
// The description is beside the page. Its address is told from this script's, which is right also where the page
// was opened with a slash at its end.
const beside = document.currentScript.src.replace(/(docs\/)+start\.js$/, "");
// Swagger UI has its colours by a class.
const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", colour);
colour();
window.ui = SwaggerUIBundle({
  url: beside + "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  // Nothing leaves the hive.
  validatorUrl: null,
});
