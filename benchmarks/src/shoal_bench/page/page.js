// Draws the charts of the page, and shows in them the contestants that are ticked.
"use strict";
const charts = JSON.parse(document.getElementById("charts").textContent);
const boxes = [...document.querySelectorAll("input[name=contestant]")];
const views = [];

function show() {
  const names = boxes.filter((box) => box.checked).map((box) => box.value);
  for (const view of views) view.signal("shown", names).runAsync();
}

for (const [id, spec] of Object.entries(charts)) {
  vegaEmbed(document.getElementById(id), spec, { renderer: "svg", actions: false, tooltip: { theme: "page" } }).then(
    (drawn) => views.push(drawn.view),
  );
}
for (const box of boxes) box.addEventListener("change", show);
document.getElementById("contestants").hidden = false;
