// What is wrong with the layout of the page as it is shown: controls that something covers, and what leaves
// the window or its container. The script of a function that returns texts.
const isShown = (e) => e.checkVisibility({ visibilityProperty: true }) && !e.matches(".skip");
const name = (e) => `${e.tagName} ${e.getAttribute("aria-label") ?? (e.innerText || e.id || e.className)}`.slice(0, 60);
const box = (rect) => [rect.left, rect.top, rect.right, rect.bottom].map(Math.round).join(" ");
const leaves = (rect) => rect.left < -0.5 || rect.right > innerWidth + 0.5;
const found = [];
const top = document.querySelector("dialog[open]") ?? document.body;
for (const e of top.querySelectorAll("a[href], button, input, select, textarea, summary")) {
  if (!isShown(e) || e.getClientRects().length === 0) continue;
  e.scrollIntoView({ block: "center", inline: "nearest", behavior: "instant" });
  // A link of several lines has a rectangle for each.
  const rects = e.getClientRects();
  const rect = rects[rects.length >> 1];
  const hit = document.elementFromPoint((rect.left + rect.right) / 2, (rect.top + rect.bottom) / 2);
  const isOwn = hit === e || e.contains(hit) || [...(e.labels ?? [])].some((label) => label.contains(hit));
  if (!isOwn) found.push(`${name(e)} (${box(rect)}) lies under ${hit ? name(hit) : "the edge of the window"}`);
  if (leaves(e.getBoundingClientRect())) found.push(`${name(e)} leaves the window`);
  if (e.tagName === "BUTTON" && e.scrollWidth > e.clientWidth + 1) {
    found.push(`${name(e)} has ${e.scrollWidth} px in ${e.clientWidth} px`);
  }
}
const main = document.querySelector("main");
for (const e of [document.scrollingElement, main]) {
  if (e.scrollWidth > e.clientWidth + 1) found.push(`${e.tagName} scrolls sideways`);
}
for (const e of document.querySelectorAll(".toast, .card, .message")) {
  if (isShown(e) && leaves(e.getBoundingClientRect())) found.push(`${name(e)} leaves the window`);
}
// A name has the room of twenty characters, or of all its own.
for (const e of document.querySelectorAll("tbody th")) {
  const wanted = Math.min(20, e.innerText.length) * 6;
  if (isShown(e) && e.clientWidth < wanted) found.push(`${name(e)} has ${e.clientWidth} px for its name`);
}
return found;
