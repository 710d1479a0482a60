"use strict";
// Filters and sorts the table of releases; without it all rows are there, the worst first.
{
  const table = document.getElementById("fleet"), tools = document.getElementById("fleet-tools"), body = table.tBodies[0];
  const rows = [...body.rows].filter(row => row.dataset.k !== undefined);
  const entries = rows.map(row => ({ row, state: row.cells[0].classList[1], name: row.cells[1].textContent.toLowerCase(), keys: row.dataset.k.split(",").map(Number) }));
  const field = document.getElementById("fleet-name"), boxes = [...tools.querySelectorAll("input[type=checkbox]")];
  function filter() {
    const wanted = field.value.trim().toLowerCase(), states = new Set(boxes.filter(box => box.checked).map(box => box.value));
    let shown = 0;
    for (const entry of entries) {
      const here = states.has(entry.state) && entry.name.includes(wanted);
      if (entry.row.hidden === here) entry.row.hidden = !here;
      shown += here;
    }
    document.getElementById("fleet-shown").textContent = `${shown.toLocaleString("en")} of ${entries.length.toLocaleString("en")} shown`;
  }
  tools.hidden = false;
  tools.addEventListener("input", filter);
  tools.addEventListener("submit", event => event.preventDefault());
  filter();
  // Table roles go missing in some browsers where rows are laid out as grids.
  table.setAttribute("role", "table");
  for (const head of table.tHead.rows[0].cells) head.setAttribute("role", "columnheader");
  for (const head of table.querySelectorAll("th[data-sort]")) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: head.textContent });
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending", key = head.dataset.sort;
      for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const way = down ? -1 : 1;
      entries.sort((a, b) => way * (key === "name" ? a.name.localeCompare(b.name, "en", { numeric: true }) : a.keys[key] - b.keys[key]));
      body.append(...entries.map(entry => entry.row));
    });
  }
}
