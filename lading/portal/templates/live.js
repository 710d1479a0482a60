"use strict";
// Keeps a table current: its address is in data-live. While the focus is inside, nothing is replaced.
for (const box of document.querySelectorAll("[data-live]")) {
  setInterval(async () => {
    if (document.hidden || box.contains(document.activeElement)) return;
    try {
      const answer = await fetch(box.dataset.live);
      if (answer.ok) box.innerHTML = await answer.text();
    } catch { /* the service restarts; the next round finds it again */ }
  }, 2000);
}
