"use strict";
// The description is beside the page. Its address is told from this script's, which is right also where the page
// was opened with a slash at its end.
const beside = document.currentScript.src.replace(/(docs\/)+start\.js$/, "");
window.ui = SwaggerUIBundle({
  url: beside + "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  // Nothing leaves the hive.
  validatorUrl: null,
});
