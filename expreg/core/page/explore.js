// The page of one run: filters and a search choose cells, which a table and the charts (charts.js) show.
// Texts of the run reach the page as textContent, or escaped in charts: none of them is ever read as HTML.
"use strict";

const MOST_CHOICES = 60;  // values of a column that a filter lists
const ROW = 28;           // height of a row of the table in pixels, as in the style sheet
const LONG = 30;          // characters of a value that a column of the table has room for

let head, columns, curves;          // the run: facts, columns in order, curves by row
const byName = new Map();           // columns by name
let rows = [], order = [];          // cells that pass all filters: as they are stored, as the table sorts them
let chosen = -1;                    // the cell that stands out
const unsorted = { column: null, sign: 1 };
let sorting = unsorted;
let problem = "";                   // what is wrong with the search

const $ = (id) => document.getElementById(id);
const whole = (number) => number.toLocaleString("en");

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// --- reading ---------------------------------------------------------------------------------------------------

async function unpacked(id) {
  const text = atob($(id).textContent), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
}

async function start() {
  notice("Opening ...");
  const library = unpacked("library"), lines = (await unpacked("data")).split("\n");
  head = JSON.parse(lines.pop());
  columns = lines.slice(0, head.columns).map(column);
  curves = new Map(lines.slice(head.columns).map(JSON.parse).map(([row, ...values]) => [row, values]));
  for (const c of columns) byName.set(c.name, c);
  if (!head.cells) return notice("No cell is finished yet.");
  notice("");
  build();
  await painted();  // table and filters can be used while the library of the charts is read
  document.head.append(element("script", { textContent: await library }));
  drawCharts();
}

/** Wait until the browser has shown the page as it is. */
function painted() {
  return new Promise((shown) => { requestAnimationFrame(() => setTimeout(shown)); });
}

/** Show a line in place of the page. */
function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
  $("main").hidden = Boolean(text);
}

function build() {
  buildControls();
  buildTable();
  buildFacts();
  watch();
  select();
}

/** A column of JSON with what the page asks of it: at(row) for charts, text(row), ranks() for sorting, distinct. */
function column(line) {
  const { values: stored, ...c } = JSON.parse(line);
  return c.type === "number" ? numeric(c, stored) : textual(c, stored);
}

function numeric(c, stored) {
  const values = new Float64Array(head.cells);
  const distinct = new Set();
  for (let row = 0; row < head.cells; row++) {
    values[row] = stored[row] ?? NaN;
    if (stored[row] !== null && distinct.size <= MOST_CHOICES) distinct.add(stored[row]);
  }
  return Object.assign(c, {
    at: (row) => values[row],
    text: (row) => shown(values[row]),
    ranks: () => values,
    distinct: [...distinct].sort((a, b) => a - b),
  });
}

function textual(c, stored) {
  const codes = stored ?? Array.from(c.levels.keys());
  const { compare } = new Intl.Collator("en");
  const at = (row) => (codes[row] < 0 ? null : c.levels[codes[row]]);
  return Object.assign(c, {
    codes,
    at,
    text: (row) => at(row) ?? "–",
    ranks: () => {
      const ranks = new Float64Array(c.levels.length);
      const sorted = Array.from(c.levels.keys()).sort((a, b) => compare(c.levels[a], c.levels[b]));
      sorted.forEach((level, rank) => { ranks[level] = rank; });
      return Float64Array.from(codes, (code) => (code < 0 ? NaN : ranks[code]));
    },
    distinct: c.levels.slice(0, MOST_CHOICES + 1).sort(compare),
  });
}

function shown(number) {
  if (Number.isNaN(number)) return "–";
  const size = Math.abs(number);
  return size !== 0 && (size < 1e-3 || size >= 1e9) ? number.toExponential().replace("e+", "e") : String(number);
}

// --- controls --------------------------------------------------------------------------------------------------

function buildControls() {
  const first = preferred();
  const usable = columns.filter((c) => c.type === "number" || c.distinct.length <= MOST_CHOICES);
  for (const id of ["x", "y", "colour"]) {
    $(id).append(...usable.map((c) => new Option(c.name, c.name, c === first[id], c === first[id])));
  }
  head.kinds.forEach((name, kind) => $("kind").append(new Option(name, kind)));
  for (const id of ["x", "y"]) {
    suggestLog(id);
    $(id).addEventListener("change", () => suggestLog(id));
  }
  for (const id of ["x", "y", "colour", "x-log", "y-log", "kind", "step-log"]) $(id).addEventListener("change", draw);
  for (const c of columns) {
    const repeats = c.type === "text" && c.distinct.length <= head.cells / 2 && c.name !== "status_detail";
    const many = c.distinct.length;
    if ((c.axis || repeats) && many > 1 && many <= MOST_CHOICES) $("filters").append(filter(c));
  }
}

/** The columns that are shown first: x a swept number, y steps or the first result, colour another setting. */
function preferred() {
  const many = (c) => c.distinct.length;
  const swept = columns.filter((c) => c.axis && c.name !== "replicate" && many(c) > 1);
  const axes = swept.reverse().sort((a, b) => many(b) - many(a));  // of equally many the last, which is most often m
  const numbers = columns.filter((c) => c.type === "number" && many(c) > 1);
  const x = axes.find((c) => c.type === "number" && many(c) > 2) ?? axes[0] ?? numbers[0] ?? columns[0];
  const y = numbers.find((c) => c.name === "steps") ?? numbers.find((c) => !c.axis && many(c) > MOST_CHOICES)
    ?? numbers.find((c) => !c.axis) ?? byName.get("status");
  const colour = axes.find((c) => c !== x && many(c) <= MOST_COLOURS) ?? byName.get("status");
  return { x, y, colour };
}

/** Widths, residuals and the like get a logarithmic axis: positive numbers, over more than a factor of 20. */
function suggestLog(id) {
  const c = byName.get($(id).value), box = $(`${id}-log`);
  box.disabled = c?.type !== "number";
  box.checked = !box.disabled && spans(c, Array.from({ length: head.cells }, (_, row) => row)).log;
}

/** The least and the largest value of a column in some rows, and whether a logarithmic scale suits them. */
function spans(c, some) {
  let low = Infinity, high = -Infinity;
  for (const row of some) {
    const value = c.at(row);
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return { low, high, log: low > 0 && high > 20 * low };
}

/** A list of the values of a column, each to be chosen or not; leaves in `c.passes` how to make the test of a row. */
function filter(c) {
  const name = (value) => (c.type === "number" ? shown(value) : value || "(empty)");
  const boxes = c.distinct.map(() => element("input", { type: "checkbox", defaultChecked: true }));
  const flip = element("button", { type: "button" });
  const labels = boxes.map((box, i) => element("label", {}, box, name(c.distinct[i])));
  const title = element("summary");
  const list = element("div", {}, flip, ...labels);
  const made = element("details", { className: "filter", title: c.meaning }, title, list);
  made.addEventListener("change", select);
  flip.addEventListener("click", () => {
    const on = !boxes.some((box) => box.checked);
    for (const box of boxes) box.checked = on;
    select();
  });
  c.passes = () => {
    const values = c.distinct.filter((_, i) => boxes[i].checked), all = values.length === boxes.length;
    const listed = values.length === 1 ? name(values[0]) : `${values.length} of ${boxes.length}`;
    title.textContent = `${c.name}: ${all ? "all" : listed}`;
    made.classList.toggle("active", !all);
    flip.textContent = values.length ? "none" : "all";
    const passing = new Set(values);
    return all ? null : (row) => passing.has(c.at(row));
  };
  return made;
}

const COMPARE = {
  "=": (a, b) => a === b, "!=": (a, b) => a !== b,
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
};

/** The test of one word of the search: a condition on a column, or what is in a text or equal to a number. */
function wordTest(word) {
  const [, name, sign, text] = /^(.+?)(<=|>=|!=|=|<|>)(.*)$/.exec(word) ?? [];
  if (sign) {
    const c = byName.get(name), value = c?.type === "number" ? Number(text) : text;
    if (!c) problem = `no column “${name}”`;
    else if (text === "" || Number.isNaN(value)) problem = `${word}: expected a ${c.type} behind ${sign}`;
    else return (row) => COMPARE[sign](c.at(row), value);
    return () => true;
  }
  const lower = word.toLowerCase(), value = Number(word);
  const hits = (c) => c.levels.map((level) => level.toLowerCase().includes(lower));
  const texts = columns.filter((c) => c.levels).map((c) => [c.codes, hits(c)]);
  const numbers = Number.isNaN(value) ? [] : columns.filter((c) => !c.levels);
  return (row) => texts.some(([codes, hit]) => hit[codes[row]]) || numbers.some((c) => c.at(row) === value);
}

/** Choose the cells that pass every filter and every word of the search, and show them. */
function select() {
  problem = "";
  const words = $("search").value.split(/\s+/).filter(Boolean);
  const tests = [...columns.map((c) => c.passes?.()).filter(Boolean), ...words.map(wordTest)];
  rows = [];
  for (let row = 0; row < head.cells; row++) if (tests.every((test) => test(row))) rows.push(row);
  const of = rows.length === head.cells ? "" : ` of ${whole(head.cells)}`;
  const count = `${whole(rows.length)}${of} cell${head.cells === 1 ? "" : "s"}`;
  $("count").textContent = count + (problem && `; ${problem}`);
  $("count").classList.toggle("error", problem !== "");
  if (!rows.includes(chosen)) chosen = -1;
  if (chosen < 0) $("chosen").replaceChildren();
  sort();
  draw();
}

function watch() {
  let waiting;
  $("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(select, 120); });
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("controls").addEventListener("reset", () => setTimeout(() => {
    sorting = unsorted;
    ["x", "y"].forEach(suggestLog);
    select();
  }));
  const close = (target) => document.querySelectorAll(".filter[open]").forEach((open) => {
    if (!open.contains(target)) open.open = false;
  });
  document.addEventListener("click", (event) => close(event.target));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") close(null); });
  darkness.addEventListener("change", draw);
  for (const when of ["beforeprint", "afterprint"]) addEventListener(when, () => {
    document.documentElement.classList.toggle("printing", when === "beforeprint");
    draw();
  });
}

function draw() {
  drawCharts();
  drawTable();
}

// --- table -----------------------------------------------------------------------------------------------------

const table = $("grid").firstElementChild;

function buildTable() {
  const sample = spread(Array.from({ length: head.cells }, (_, row) => row), 300);
  for (const c of columns) {
    const longest = Math.max(c.name.length + 2, ...sample.map((row) => c.text(row).length));
    table.querySelector("colgroup").append(element("col", { style: `width: ${Math.min(longest, LONG) + 4}ch` }));
    const button = element("button", { type: "button", title: c.meaning });
    button.addEventListener("click", () => {
      sorting = { column: c, sign: sorting.column === c ? -sorting.sign : 1 };
      sort();
      drawTable();
    });
    table.querySelector("thead tr").append(element("th", { scope: "col", className: c.type }, button));
  }
  $("grid").addEventListener("scroll", () => requestAnimationFrame(drawTable));
  table.addEventListener("keydown", keys);
  table.querySelector("tbody").addEventListener("click", (event) => {
    const line = event.target.closest("tr[data-row]");
    if (line) choose(Number(line.dataset.row), false);
  });
}

function sort() {
  order = rows.slice();
  $("grid").scrollTop = 0;
  if (!sorting.column) return;
  const ranks = sorting.column.ranks(), missing = (row) => Number.isNaN(ranks[row]);
  order.sort((a, b) => missing(a) - missing(b) || sorting.sign * (ranks[a] - ranks[b]) || a - b);
}

/** Show the rows in view; those above and below are two empty rows as high as they would be. */
function drawTable() {
  const first = Math.max(Math.floor($("grid").scrollTop / ROW) - 8, 0);
  const end = Math.min(first + Math.ceil($("grid").clientHeight / ROW) + 18, order.length);
  const gap = (count) => element("tr", { ariaHidden: "true" },
    element("td", { colSpan: columns.length, style: `height: ${count * ROW}px` }));
  const cell = (text, className) => (
    element("td", { className, textContent: text, title: text.length > LONG ? text : "" }));
  const lines = order.slice(first, end).map((row, i) => {
    const properties = { id: `row-${row}`, ariaRowIndex: first + i + 2, ariaSelected: row === chosen };
    const line = element("tr", properties, ...columns.map((c) => cell(c.text(row), c.type)));
    line.dataset.row = row;
    return line;
  });
  table.querySelector("tbody").replaceChildren(gap(first), ...lines, gap(Math.max(order.length - end, 0)));
  table.ariaRowCount = order.length + 1;
  table.setAttribute("aria-activedescendant", chosen < 0 ? "" : `row-${chosen}`);
  table.querySelectorAll("th").forEach((th, i) => {
    const sign = sorting.column === columns[i] ? sorting.sign : 0;
    th.ariaSort = ["descending", "none", "ascending"][sign + 1];
    th.firstChild.textContent = columns[i].name + [" ▼", "", " ▲"][sign + 1];
  });
}

function keys(event) {
  const page = Math.max(Math.floor($("grid").clientHeight / ROW) - 2, 1), now = order.indexOf(chosen);
  const places = {
    ArrowDown: now + 1, ArrowUp: now - 1, PageDown: now + page, PageUp: now - page, Home: 0, End: order.length - 1,
  };
  if (event.target !== table || !order.length || !(event.key in places)) return;
  event.preventDefault();
  choose(order[Math.min(Math.max(places[event.key], 0), order.length - 1)], true);
}

// --- one cell, and what is not in the table --------------------------------------------------------------------

let drawing;

/** Let a cell stand out in charts and table, and list all of its values. */
function choose(row, scroll) {
  chosen = row;
  const top = order.indexOf(row) * ROW, room = $("grid").clientHeight - 2 * ROW;
  const hidden = top < $("grid").scrollTop || top > $("grid").scrollTop + room;
  if (scroll && top >= 0 && hidden) $("grid").scrollTop = Math.max(top - room / 2, 0);
  drawTable();
  clearTimeout(drawing);
  drawing = setTimeout(drawCharts, 60);  // while a key is kept down the charts do not follow
  const title = element("h2", { textContent: `Cell ${byName.get("cell")?.text(row) ?? row}` });
  $("chosen").replaceChildren(title, facts(element("dl"), columns.map((c) => [c.name, c.text(row), c.meaning])));
}

function facts(list, entries) {
  const pair = (name, value) => [element("dt", { textContent: name }), element("dd", { textContent: value })];
  list.append(...entries.map(([name, value, title = ""]) => element("div", { title }, ...pair(name, value))));
  return list;
}

function buildFacts() {
  facts($("same").querySelector("dl"), Object.entries(head.same));
  facts($("meanings").querySelector("dl"), columns.map((c) => [c.name, c.meaning || "a swept setting"]));
  $("same").hidden = !Object.keys(head.same).length;
  const left = head.left_out.join(", ");
  const elsewhere = "expreg query and expreg export have them.";
  $("left-out").textContent = left && `Left out to keep the page small: ${left}. ${elsewhere}`;
}

start().then(() => {
  document.documentElement.dataset.ready = Math.round(performance.now());
}).catch((error) => {
  notice(`The page could not be shown: ${error.message}. It needs a browser of 2023 or later.`);
  throw error;
});
