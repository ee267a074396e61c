// The charts of the page, drawn by plotly.js: a scatter of cells, and the curves of some of them.
"use strict";

const MOST_POINTS = 5000, MOST_CURVES = 200;  // drawn at a time
const MOST_COLOURS = 12;                      // values that have an entry in the legend each
const PALETTE = [  // Okabe and Ito, then Tol: what can be seen on white and on black
  "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
  "#a5744f", "#aa4499", "#44aa99", "#999933", "#8d86d9", "#6b8f71",
];
const VIRIDIS = [
  "#440154", "#482878", "#3e4a89", "#31688e", "#26838f", "#1f9d8a", "#6cce5a", "#b6de2b", "#fee825",
];
const CONFIG = {
  showSendToCloud: false, plotlyServerURL: "",  // nothing leaves the page
  responsive: true, displaylogo: false, doubleClick: "reset", typesetMath: false,
  modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
};

const darkness = matchMedia("(prefers-color-scheme: dark)");
const printing = () => document.documentElement.classList.contains("printing");
const narrow = () => innerWidth < 700;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const escaped = (text) => text.replace(/[&<>$]/g, (sign) => `&#${sign.charCodeAt(0)};`);  // neither tags nor TeX

/** At most `most` of a list, evenly spread, first and last among them. */
function spread(list, most) {
  if (list.length <= most) return list;
  return Array.from({ length: most }, (_, i) => list[Math.round((i * (list.length - 1)) / (most - 1))]);
}

/** A colour between dark and light, without the end of the scale that the background would swallow. */
function viridis(share) {
  const place = (darkness.matches && !printing() ? 0.4 + 0.6 * share : 0.88 * share) * (VIRIDIS.length - 1);
  const i = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const mixed = [1, 3, 5].map((k) => {
    const [from, to] = [VIRIDIS[i], VIRIDIS[i + 1]].map((colour) => parseInt(colour.slice(k, k + 2), 16));
    return Math.round(from + (place - i) * (to - from));
  });
  return `rgb(${mixed})`;
}

/** Colours by the chosen column, `of(row)`: a few values `listed` in a legend, or a scale from `low` to `high`. */
function colours() {
  const c = byName.get($("colour").value), none = css("--soft");
  if (c.type === "text" || c.distinct.length <= MOST_COLOURS) {
    const places = new Map(c.distinct.map((value, i) => [value, i])), last = Math.max(c.distinct.length - 1, 1);
    const colour = (i) => (c.type === "number" ? viridis(i / last) : PALETTE[i % PALETTE.length]);
    return { c, listed: true, of: (row) => (places.has(c.at(row)) ? colour(places.get(c.at(row))) : none) };
  }
  const span = spans(c, rows), scale = span.log ? Math.log10 : (value) => value;
  const [low, high] = [scale(span.low), scale(span.high)];
  const share = (row) => (scale(c.at(row)) - low) / (high - low || 1);
  return { c, low, high, log: span.log, scale, of: (row) => (Number.isNaN(share(row)) ? none : viridis(share(row))) };
}

/** What is shown where the mouse is: settings, status, steps, what is on the axes, and the name of the cell. */
function hover(row) {
  const asked = ["x", "y", "colour"].map((id) => byName.get($(id).value));
  const settings = columns.filter((c) => c.axis || c.name === "status" || c.name === "steps");
  const named = new Set([...settings, ...asked, byName.get("cell")].filter(Boolean));
  return [...named].map((c) => `${escaped(c.name)} = ${escaped(c.text(row).slice(0, 80))}`).join("<br>");
}

function layout(x, y, legend) {
  const axis = ([title, type]) => ({
    title: { text: escaped(title), standoff: 10 }, type,
    nticks: type === "log" ? 5 : undefined, exponentformat: "power",
    gridcolor: css("--line"), linecolor: css("--line"), zeroline: false, automargin: true,
  });
  const font = { color: css("--ink"), size: 12, family: "system-ui, sans-serif" };
  return {
    xaxis: axis(x), yaxis: axis(y), uirevision: JSON.stringify([x, y]), hovermode: "closest", font,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 60, r: 15, t: 15, b: 50 },
    hoverlabel: { align: "left", bgcolor: css("--paper"), bordercolor: css("--line"), font },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--blue") },
    legend: { title: { text: escaped(legend) }, ...(narrow() ? { orientation: "h", y: -0.25 } : {}) },
    ...(printing() ? { width: 500, height: 320 } : {}),
  };
}

async function show(id, traces, arrangement, label) {
  $(id).ariaLabel = label;
  const plot = await Plotly.react(id, traces, arrangement, CONFIG);
  if (plot.dataset.listens) return;
  plot.dataset.listens = "yes";
  plot.on("plotly_click", ({ points: [{ data: { cells }, pointNumber }] }) => {
    choose(cells[pointNumber] ?? cells[0], true);  // a curve has many points and one cell
  });
}

function drawCharts() {
  $("curves-part").hidden = !curves.size;
  if (!window.Plotly) return;  // it is still being read
  const hue = colours();
  drawScatter(hue);
  if (curves.size) drawCurves(hue);
}

// --- scatter ---------------------------------------------------------------------------------------------------

/** One axis of the scatter: its column, its type, and whether a row has a place on it. */
function dimension(id) {
  const c = byName.get($(id).value), log = $(`${id}-log`).checked && c.type === "number";
  const type = c.type === "text" ? "category" : log ? "log" : "linear";
  const placed = c.type === "text" ? (v) => v !== null : log ? (v) => v > 0 : (v) => !Number.isNaN(v);
  const at = c.type === "text" ? (row) => escaped(c.at(row)) : c.at;
  return { c, type, at, fits: (row) => placed(c.at(row)) };
}

function drawScatter(hue) {
  const [x, y] = [dimension("x"), dimension("y")];
  const possible = rows.filter((row) => x.fits(row) && y.fits(row)), drawn = spread(possible, MOST_POINTS);
  const points = (cells, marker, more) => ({
    type: "scatter", mode: "markers", x: cells.map(x.at), y: cells.map(y.at), cells, text: cells.map(hover),
    hoverinfo: "text", showlegend: false, marker, ...more,
  });
  const size = drawn.length > 1000 ? { size: 5, opacity: 0.6 } : { size: 7, opacity: 0.8 };
  const traces = hue.listed ? groups(hue, drawn).map((cells) => (
    points(cells, { ...size, color: hue.of(cells[0]) }, { name: escaped(hue.c.text(cells[0])), showlegend: true })
  )) : [points(drawn, { ...size, ...scaled(hue, drawn) })];
  if (chosen >= 0 && x.fits(chosen) && y.fits(chosen)) {
    traces.push(points([chosen], { size: 15, color: "rgba(0,0,0,0)", line: { width: 3, color: css("--red") } }));
  }
  const label = `${y.c.name} over ${x.c.name} of ${drawn.length} cells, coloured by ${hue.c.name}`;
  show("scatter", traces, layout([x.c.name, x.type], [y.c.name, y.type], hue.c.name), label);
  const without = rows.length - possible.length;
  const positive = [x, y].some(({ type }) => type === "log") ? "positive " : "";
  $("scatter-note").textContent = [
    drawn.length < possible.length
      && `${whole(drawn.length)} of ${whole(possible.length)} cells are drawn, evenly spread; filters bring others.`,
    without > 0 && `${whole(without)} have no ${positive}value here.`,
  ].filter(Boolean).join(" ");
}

/** The rows by the value of the colour, in the order of the legend. */
function groups(hue, some) {
  const found = new Map([...hue.c.distinct.map((value) => [value, []]), [undefined, []]]);
  for (const row of some) (found.get(hue.c.at(row)) ?? found.get(undefined)).push(row);
  return [...found.values()].filter((cells) => cells.length);
}

/** Marker colours on a scale, with its bar. */
function scaled(hue, some) {
  const powers = hue.log ? { tickprefix: "10<sup>", ticksuffix: "</sup>" } : {};
  return {
    color: some.map((row) => hue.scale(hue.c.at(row))), cmin: hue.low, cmax: hue.high,
    colorscale: [0, 0.25, 0.5, 0.75, 1].map((share) => [share, viridis(share)]),
    colorbar: { title: { text: escaped(hue.c.name), side: "right" }, thickness: 12, outlinewidth: 0, ...powers },
  };
}

// --- curves ----------------------------------------------------------------------------------------------------

function drawCurves(hue) {
  const possible = rows.filter((row) => curves.has(row)), drawn = spread(possible, MOST_CURVES);
  const main = Number($("kind").value), name = head.kinds[main];
  const values = drawn.flatMap((row) => curves.get(row)[1 + main].filter((value) => value !== null));
  const least = values.reduce((a, b) => Math.min(a, b), Infinity);
  const line = (row, kind, style, more) => ({
    type: "scatter", mode: "lines", x: curves.get(row)[0], y: curves.get(row)[1 + kind], cells: [row],
    text: hover(row), hoverinfo: "x+y+text", showlegend: false, line: style, ...more,
  });
  const opacity = curves.has(chosen) ? 0.35 : 0.75;
  const traces = drawn.filter((row) => row !== chosen)
    .map((row) => line(row, main, { width: 1.2, color: hue.of(row) }, { opacity }));
  if (curves.has(chosen)) traces.push(...head.kinds.map((kind, i) => {
    const style = i === main ? { width: 3.5, color: css("--red") } : { width: 2, color: css("--ink"), dash: "dash" };
    const trace = line(chosen, i, style, { name: escaped(kind), showlegend: true });
    // a prediction that goes on falling must not press all else against the upper edge
    return i === main ? trace : { ...trace, y: trace.y.map((value) => (value < least / 3 ? null : value)) };
  }));
  const types = [$("step-log").checked, least > 0].map((log) => (log ? "log" : "linear"));
  const label = `${name} over steps of ${drawn.length} cells, coloured by ${hue.c.name}`;
  show("curves", traces, layout(["step", types[0]], [name, types[1]], ""), label);
  const some = `${whole(head.curves)} of ${whole(head.all_curves)} cells`;
  $("curves-note").textContent = [
    drawn.length < possible.length && `${drawn.length} of ${whole(possible.length)} curves are drawn, evenly spread.`,
    head.curves < head.all_curves && `To stay small the page has the curves of ${some}, chosen at random.`,
    chosen >= 0 && !curves.has(chosen) && "The selected cell has no curve here.",
  ].filter(Boolean).join(" ");
}
