"use strict";
// Times in the zone of this browser: the page gives them in UTC. "sv" writes a date as 2024-05-27 16:07:59.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const clock = new Intl.DateTimeFormat("sv", { dateStyle: "short", timeStyle: "medium" });
function localise(part) {
  if (!zone) return;
  for (const time of part.querySelectorAll("time[datetime]")) {
    time.title = time.dateTime;
    time.textContent = clock.format(new Date(time.dateTime));
  }
  for (const name of part.querySelectorAll("[data-zone]")) name.textContent = zone;
}
localise(document);
if (zone) for (const field of document.querySelectorAll("[data-own-zone]")) field.value = zone;
// From an error to its cell, ready to be corrected.
for (const link of document.querySelectorAll(".errors a")) {
  link.addEventListener("click", () => document.querySelector(link.getAttribute("href"))?.focus());
}
// Keeps a table current: its address is in data-live. While the focus is inside, nothing is replaced.
for (const box of document.querySelectorAll("[data-live]")) {
  setInterval(async () => {
    if (document.hidden || box.contains(document.activeElement)) return;
    try {
      const answer = await fetch(box.dataset.live);
      if (!answer.ok) return;
      box.innerHTML = await answer.text();
      localise(box);
    } catch { /* the service restarts; the next round finds it again */ }
  }, 2000);
}
