"use strict";
const form = document.querySelector("form");
const items = [...document.querySelectorAll(".archives > li")];
const count = document.querySelector("#count");
const table = document.querySelector("#comparison");
const boxes = items.map((item) => item.querySelector("input[type=checkbox]"));

function filter() {
  const wanted = new FormData(form);
  const words = String(wanted.get("search")).toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const item of items) {
    const text = item.textContent.toLowerCase();
    const fits =
      words.every((word) => text.includes(word)) &&
      ["dataset", "teacher", "recipe"].every((name) => !wanted.get(name) || item.dataset[name] === wanted.get(name)) &&
      Number(item.dataset.views) >= Number(wanted.get("views") || 0) &&
      (!wanted.get("size") || Number(item.dataset.bytes) <= Number(wanted.get("size")) * 1e6);
    item.hidden = !fits;
    shown += fits;
  }
  count.textContent = `${shown} of ${items.length} archives`;
}

function compare() {
  const chosen = items.filter((item, number) => boxes[number].checked);
  boxes.forEach((box) => (box.disabled = chosen.length === 2 && !box.checked));
  table.hidden = chosen.length !== 2;
  if (table.hidden) return;
  const [one, other] = chosen.map((item) => JSON.parse(item.dataset.values));
  const body = table.querySelector("tbody");
  body.replaceChildren();
  for (const name of Object.keys(one)) {
    const row = body.insertRow();
    row.className = one[name] === other[name] ? "" : "differs";
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head);
    for (const value of [one[name], other[name]]) row.insertCell().textContent = value || "—";
  }
  table.focus();
}

form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
boxes.forEach((box) => box.addEventListener("change", compare));
document.querySelectorAll(".scripted").forEach((part) => (part.hidden = false));
filter();
