"use strict";
const job = document.getElementById("job");
if (job && !["done", "failed", "cancelled"].includes(job.dataset.state)) {
  const source = new EventSource(`/api/requests/${job.dataset.job}/events`);
  source.addEventListener("job", (event) => {
    const now = JSON.parse(event.data);
    const plan = now.plan || {};
    const planned = { units: (plan.units || 0) + (plan.units_done || 0), units_done: plan.units_done };
    const progress = now.progress || planned;
    document.getElementById("state").textContent = now.state;
    const units = document.getElementById("units");
    units.max = progress.units || 1;
    units.value = progress.units_done || 0;
    document.getElementById("figures").textContent =
      `${progress.units_done || 0} of ${progress.units || "?"} units`;
    document.getElementById("hours").textContent = String(Number(now.gpu_hours.toPrecision(3)));
    const isOver = ["done", "failed", "cancelled"].includes(now.state);
    if (isOver) source.close();
    if (isOver || (now.state === "waiting") !== (job.dataset.state === "waiting")) location.reload();
  });
}
const search = document.getElementById("search");
if (search) {
  const rows = [...document.querySelectorAll("#archives tbody tr")];
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      count += row.hidden ? 0 : 1;
    }
    document.getElementById("count").textContent = `${count} archives`;
  });
}
