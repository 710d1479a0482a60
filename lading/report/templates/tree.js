"use strict";
// The browser over a size tree. Entries: directory [name, size, files, number, piece],
// file [name, size(, mtime)], link [name, -2], other [name, -1].
const ROW = 24, MAP_CELLS = 300, MAP_INSIDE = 60, MAP_OPENED = 12, MAP_TITLE = 18, RESULTS = 2000;
const listings = new Map(), parents = new Map(), waiting = new Map();
let columns = [];

const isFolder = entry => entry.length === 5;
const bytes = entry => Math.max(0, entry[1]);
const element = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);
const byId = id => document.getElementById(id);

function sizeText(entry) {
  if (entry[1] === -2) return "link";
  if (entry[1] === -1) return "special";
  return formatBytes(entry[1]);
}
function formatBytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
  let unit = 0;
  while (count >= 999.5 && unit < units.length - 1) { count /= 1000; unit += 1; }
  return (unit ? Number(count.toPrecision(3)) : count) + " " + units[unit];
}
// Control characters and lone surrogates, which stand for bytes that are no UTF-8, as escapes.
function show(name) {
  return name.replace(/[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g,
    sign => { const code = sign.charCodeAt(0); return code >= 0xdc80 && code <= 0xdcff ? "\\x" + (code - 0xdc00).toString(16) : "\\u" + code.toString(16).padStart(4, "0"); });
}

// A piece is a script that calls lading(number, {directory: entries}).
function lading(piece, directories) {
  for (const [number, entries] of Object.entries(directories)) {
    listings.set(+number, entries);
    for (const entry of entries) if (isFolder(entry)) parents.set(entry[3], [+number, entry]);
  }
  waiting.get(piece)?.resolve();
}
function loadPiece(piece) {
  if (!waiting.has(piece)) {
    const job = {};
    job.promise = new Promise((resolve, reject) => { job.resolve = resolve; job.reject = reject; });
    waiting.set(piece, job);
    const script = element("script", { src: `${folder}/p${piece}.js` });
    script.onload = () => script.remove();
    script.onerror = () => { waiting.delete(piece); job.reject(new Error(`${script.src} is missing; run make report again`)); };
    document.head.append(script);
  }
  return waiting.get(piece).promise;
}
async function listing(number, piece) {
  if (!listings.has(number)) await loadPiece(piece);
  return listings.get(number);
}

class Column {
  constructor(entries, label, wide = false) {
    this.entries = entries;
    this.order = order(entries);
    this.selected = -1;
    this.largest = 1;
    for (const entry of entries) this.largest = Math.max(this.largest, bytes(entry));
    this.box = element("div", { className: wide ? "column wide" : "column", tabIndex: 0 });
    this.box.setAttribute("role", "listbox");
    this.box.setAttribute("aria-label", label);
    this.rows = element("div", { className: "rows" });
    this.rows.style.height = entries.length * ROW + "px";
    this.box.append(this.rows);
    this.box.addEventListener("scroll", () => this.draw(), { passive: true });
    this.box.addEventListener("click", event => {
      const row = event.target.closest(".row");
      if (row) { this.box.focus(); select(this, +row.dataset.place); }
    });
    this.box.addEventListener("keydown", event => onKey(event, this));
  }
  entry(place) { return this.entries[this.order ? this.order[place] : place]; }
  // Only the rows in sight are in the document, so a directory of a million entries costs as much as one of fifty.
  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 10);
    const last = Math.min(this.entries.length, Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW) + 10);
    const rows = [];
    for (let place = first; place < last; place++) {
      const entry = this.entry(place);
      const row = element("div", { className: isFolder(entry) ? "row folder" : "row", id: `${this.box.dataset.id}-${place}` });
      row.style.top = place * ROW + "px";
      row.dataset.place = place;
      row.setAttribute("role", "option");
      row.setAttribute("aria-selected", place === this.selected);
      row.setAttribute("aria-setsize", this.entries.length);
      row.setAttribute("aria-posinset", place + 1);
      const bar = element("span", { className: "bar" });
      bar.style.width = 100 * bytes(entry) / this.largest + "%";
      row.append(bar, element("span", { className: "name", textContent: show(entry.label ?? entry[0]) + (isFolder(entry) ? "/" : "") }),
        element("span", { className: "number", textContent: sizeText(entry) }));
      rows.push(row);
    }
    this.rows.replaceChildren(...rows);
    if (this.selected >= 0) this.box.setAttribute("aria-activedescendant", `${this.box.dataset.id}-${this.selected}`);
  }
  reveal(place) {
    const top = place * ROW;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + ROW > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + ROW - this.box.clientHeight;
  }
}
function order(entries) {
  if (byId("order").value === "name") return null;
  return Uint32Array.from(entries.keys()).sort((a, b) => bytes(entries[b]) - bytes(entries[a]));
}

function put(column) {
  column.box.dataset.id = "c" + columns.length;
  columns.push(column);
  byId("columns").append(column.box);
  column.draw();
}
function cut(length) {
  for (const column of columns.splice(length)) column.box.remove();
}
async function select(column, place, focusNext = false) {
  if (place < 0 || place >= column.entries.length) return;
  const depth = columns.indexOf(column);
  column.selected = place;
  column.reveal(place);
  column.draw();
  const entry = column.entry(place);
  if (column.results) return openPath(entry.path, false);
  cut(depth + 1);
  describe();
  if (!isFolder(entry)) { if (mapped !== column.entries) drawMap(column.entries); return markMap(entry); }
  const entries = await listing(entry[3], entry[4]);
  if (columns[depth] !== column || column.selected !== place) return;   // the person moved on meanwhile
  put(new Column(entries, show(entry[0])));
  byId("columns").scrollLeft = 1e9;
  drawMap(entries);
  if (focusNext) { columns.at(-1).box.focus(); if (entries.length) select(columns.at(-1), 0); }
}
function currentPath() {
  return columns.filter(column => column.selected >= 0 && !column.results).map(column => column.entry(column.selected)[0]);
}
function describe() {
  const path = currentPath(), column = columns.findLast(column => column.selected >= 0 && !column.results);
  const entry = column?.entry(column.selected);
  byId("path").textContent = [root.name, ...path].map(show).join("/");
  byId("fact").textContent = entry ? [sizeText(entry),
    isFolder(entry) ? entry[2].toLocaleString("en") + " files" : entry[2] ? new Date(entry[2] * 1000).toISOString().slice(0, 19).replace("T", " ") : "",
    (100 * bytes(entry) / Math.max(1, root.size)).toPrecision(3) + " %"].filter(Boolean).join(" · ") : "";
  byId("copy-link").hidden = !(site.base && entry && !isFolder(entry) && entry[1] >= 0);
  const hash = path.map(encodeName).join("/");
  if (location.hash.slice(1) !== hash) history.replaceState(null, "", "#" + hash);
}
// encodeURIComponent refuses lone surrogates: they stand for raw bytes, so they become those bytes.
function encodeName(name) {
  return Array.from(name, sign => { const code = sign.codePointAt(0); return code >= 0xdc80 && code <= 0xdcff ? "%" + (code - 0xdc00).toString(16).toUpperCase() : encodeURIComponent(sign.isWellFormed?.() === false ? "\ufffd" : sign); }).join("");
}
function linkOf(path) {
  const relative = path.join("/");
  for (const [source, target] of site.remap)
    if (relative === source || relative.startsWith(source + "/"))
      return site.base + (target + relative.slice(source.length)).split("/").filter(Boolean).map(encodeName).join("/");
  return site.base + (site.prefix + relative).split("/").map(encodeName).join("/");
}

function onKey(event, column) {
  const depth = columns.indexOf(column), page = Math.max(1, Math.floor(column.box.clientHeight / ROW) - 1);
  const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -1e12, End: 1e12 };
  if (event.key in moves) select(column, Math.max(0, Math.min(column.entries.length - 1, column.selected + moves[event.key])));
  else if (event.key === "ArrowRight" || event.key === "Enter") {
    const next = columns[depth + 1];
    if (next) { next.box.focus(); if (next.selected < 0) select(next, 0); }
  } else if ((event.key === "ArrowLeft" || event.key === "Backspace") && depth > 0) {
    cut(depth + 1);
    column.selected = -1;
    columns[depth - 1].box.focus();
    column.draw();
    describe();
  } else return;
  event.preventDefault();
}

// Squarified treemap: Bruls, Huizing, van Wijk, "Squarified treemaps" (2000).
function squarify(values, x, y, width, height) {
  const cells = [], total = values.reduce((sum, value) => sum + value, 0), scale = width * height / total;
  let start = 0;
  while (start < values.length && width > 0 && height > 0) {
    const side = Math.min(width, height);
    let end = start, sum = 0, worst = Infinity;
    while (end < values.length) {
      const grown = sum + values[end] * scale;
      const ratio = Math.max(side * side * values[start] * scale / (grown * grown), grown * grown / (side * side * values[end] * scale));
      if (ratio > worst) break;
      worst = ratio; sum = grown; end += 1;
    }
    const depth = sum / side;
    let along = 0;
    for (; start < end; start++) {
      const length = values[start] * scale / depth;
      cells.push(width >= height ? [x, y + along, depth, length] : [x + along, y, length, depth]);
      along += length;
    }
    if (width >= height) { x += depth; width -= depth; } else { y += depth; height -= depth; }
  }
  return cells;
}
function hue(text) { let value = 7; for (const sign of text) value = (value * 31 + sign.codePointAt(0)) % 360; return value; }
let mapped = [], mapCells = new Map();
function drawMap(entries) {
  mapped = entries;
  const box = byId("map");
  const pickHere = entry => { const column = columns.findLast(column => column.entries === entries); return column && pick(column, entry); };
  const cells = drawCells(entries, MAP_CELLS, 0, 0, box.clientWidth, box.clientHeight, pickHere);
  box.replaceChildren(...cells.map(({ cell }) => cell));
  mapCells = new Map(cells.map(({ cell, entry }) => [entry, cell]));
  // What lies inside the largest directories follows when it is there; the click never waits for it.
  for (const { cell, entry, width, height } of cells.filter(({ entry, width, height }) => isFolder(entry) && width > 90 && height > 60).slice(0, MAP_OPENED))
    listing(entry[3], entry[4]).then(inner => {
      if (mapped !== entries) return;
      const pickInside = async child => { await pickHere(entry); const column = columns.findLast(column => column.entries === inner); return column && pick(column, child); };
      cell.append(...drawCells(inner, MAP_INSIDE, 2, MAP_TITLE, width - 6, height - MAP_TITLE - 4, pickInside).map(({ cell }) => cell));
    }).catch(error => { byId("path").textContent = error.message; });
}
// Shows where the selected file lies; the smallest have no cell.
function markMap(entry) {
  for (const cell of byId("map").querySelectorAll(".on")) cell.classList.remove("on");
  mapCells.get(entry)?.classList.add("on");
}
// The largest of the entries as cells of one rectangle, largest first.
function drawCells(entries, most, x, y, width, height, onPick) {
  const largest = entries.filter(entry => entry[1] > 0).sort((a, b) => b[1] - a[1]).slice(0, most);
  return squarify(largest.map(entry => entry[1]), x, y, width, height).map(([left, top, width, height], index) => {
    const entry = largest[index], folderCell = isFolder(entry);
    const cell = element("div", { className: folderCell ? "cell" : "cell file", title: `${show(entry[0])} · ${sizeText(entry)}` });
    Object.assign(cell.style, { left: left + "px", top: top + "px", width: width + "px", height: height + "px",
      background: `hsl(${hue(entry[0])} ${folderCell ? 45 : 12}% var(--map))` });
    if (width > 50 && height > 16) cell.textContent = show(entry[0]);
    cell.addEventListener("click", event => { event.stopPropagation(); onPick(entry); });
    return { cell, entry, width, height };
  });
}
function pick(column, entry) {
  for (let place = 0; place < column.entries.length; place++) if (column.entry(place) === entry) return select(column, place);
}

async function openPath(path, focus = true) {
  cut(0);
  put(new Column(await listing(0, 0), root.name));
  drawMap(columns[0].entries);
  for (const name of path) {
    const column = columns.at(-1);
    let place = 0;
    while (place < column.entries.length && column.entry(place)[0] !== name) place += 1;
    if (place === column.entries.length) break;
    await select(column, place);
  }
  describe();
  if (focus) (columns.findLast(column => column.selected >= 0) ?? columns[0]).box.focus();
}
function pathTo(number) {
  const path = [];
  for (let step = parents.get(number); step; step = parents.get(step[0])) path.unshift(step[1][0]);
  return path;
}
// Searching reads every piece once, in the background, and shows hits as they come.
let searching = 0;
async function search(text) {
  const mine = ++searching, wanted = text.toLowerCase(), found = [];
  cut(0);
  byId("map").replaceChildren();
  if (!wanted) return openPath([]);
  let seen = 0;
  const done = new Set();
  const showFound = () => {
    cut(0);
    const column = new Column(found, "Search results", true);
    column.results = true;
    put(column);
    const over = found.length >= RESULTS, hits = `${over ? "the first " : ""}${found.length.toLocaleString("en")} hit${found.length === 1 ? "" : "s"}`;
    byId("path").textContent = over || seen === pieceCount ? hits : `${hits}, ${Math.floor(100 * seen / pieceCount)} % searched`;
    byId("fact").textContent = "";
  };
  for (let piece = 0; piece < pieceCount && found.length < RESULTS; piece++) {
    await loadPiece(piece);
    if (mine !== searching) return;
    const before = found.length;
    for (const [number, entries] of listings) {
      if (done.has(number)) continue;
      done.add(number);
      for (const entry of entries)
        if (found.length < RESULTS && entry[0].toLowerCase().includes(wanted)) {
          const path = [...pathTo(number), entry[0]];
          found.push(Object.assign([...entry], { label: path.join("/"), path }));
        }
    }
    seen = piece + 1;
    if (found.length !== before || piece === pieceCount - 1 || piece % 20 === 0) showFound();
  }
  showFound();
  drawMap(found);
}

byId("total").textContent = `${formatBytes(root.size)} · ${root.files.toLocaleString("en")} files · ${root.entries.toLocaleString("en")} entries`;
byId("search").addEventListener("submit", event => { event.preventDefault(); search(byId("query").value.trim()); });
byId("query").addEventListener("keydown", event => { if (event.key === "Escape") { byId("query").value = ""; search(""); } });
byId("order").addEventListener("change", () => { for (const column of columns) { const entry = column.selected >= 0 ? column.entry(column.selected) : null; column.order = order(column.entries); if (entry) { for (let place = 0; place < column.entries.length; place++) if (column.entry(place) === entry) column.selected = place; } column.draw(); } });
// A page from a bucket without TLS has no clipboard of its own: it copies what is selected.
async function copy(button, text) {
  const label = button.textContent;
  try { await navigator.clipboard.writeText(text); }
  catch {
    const area = element("textarea", { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
}
byId("copy-path").addEventListener("click", event => copy(event.target, [root.name, ...currentPath()].join("/")));
byId("copy-link").addEventListener("click", event => copy(event.target, linkOf(currentPath())));
document.addEventListener("keydown", event => { if (event.key === "/" && event.target.tagName !== "INPUT") { event.preventDefault(); byId("query").focus(); } });
addEventListener("resize", () => { for (const column of columns) column.draw(); drawMap(mapped); });
const wanted = location.hash.slice(1).split("/").filter(Boolean).map(part => { try { return decodeURIComponent(part); } catch { return part; } });
openPath(wanted).catch(error => { byId("path").textContent = error.message; });
