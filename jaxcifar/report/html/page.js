"use strict";
// Draws the charts that the page's data describe, and redraws them as the reader chooses.

const report = JSON.parse(document.getElementById("report").textContent);
const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6b6b6b"];
const DARK = ["#4aa8e0", "#ff8a4c", "#2fc79a", "#e39cc3", "#8fd0f5", "#f5be41", "#b5b5b5"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const X_LABELS = {epoch: "epoch", step: "step", minutes: "minutes of training"};
const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
const choice = {x: "epoch", log: false, smoothing: 0, seeds: "band", hidden: new Set()};
let printing = false;

const isDark = () => prefersDark.matches && !printing;
const color = (group) => (isDark() ? DARK : LIGHT)[group % LIGHT.length];
const array = (number) => report.arrays[number];

function translucent(hex) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${r},${g},${b},0.2)`;
}

// Exponential moving average without the bias towards 0 of its first values.
function smooth(values, decay) {
  if (!decay) return values;
  let average = 0, weight = 0;
  return values.map((value) => {
    if (value === null) return null;
    average = decay * average + (1 - decay) * value;
    weight = decay * weight + (1 - decay);
    return average / weight;
  });
}

function layout(more) {
  const text = isDark() ? "#e6e8eb" : "#1c1e21", line = isDark() ? "#3a3f47" : "#d9dce1";
  const axis = {gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true};
  const {xaxis = {}, yaxis = {}, ...rest} = more;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: {color: text, family: "system-ui, sans-serif", size: 12},
    margin: {l: 55, r: 15, t: 28, b: 45}, showlegend: false, hovermode: "closest",
    modebar: {bgcolor: "rgba(0,0,0,0)", color: line, activecolor: text},
    hoverlabel: {namelength: -1},
    xaxis: {...axis, ...xaxis}, yaxis: {...axis, ...yaxis}, ...rest,
  };
}

function lines(chart) {
  const traces = [], scale = chart.percent ? 100 : 1;
  for (const line of chart.lines) {
    const hidden = choice.hidden.has(line.group) && report.names.length > 1 && !chart.x_axis;
    const single = choice.seeds === "single";
    if (hidden || (line.member ? !single : single && line.spread !== null)) continue;
    const x = array(line.x[chart.x_axis] ?? line.x[choice.x] ?? line.x.step);
    const decay = chart.x_axis ? 0 : choice.smoothing;
    const y = smooth(array(line.y).map((v) => (v === null ? null : v * scale)), decay);
    const paint = color(report.names.length > 1 && !chart.x_axis ? line.group : line.style);
    if (line.spread !== null) {
      const spread = array(line.spread).map((v) => v * scale);
      const ends = [y.map((v, i) => v - spread[i]), y.map((v, i) => v + spread[i])];
      ends.forEach((end, upper) => traces.push({
        x, y: end, mode: "lines", line: {width: 0, color: paint}, hoverinfo: "skip",
        fill: upper ? "tonexty" : "none", fillcolor: translucent(paint),
      }));
    }
    traces.push({
      x, y, name: line.label, mode: x.length < 30 ? "lines+markers" : "lines",
      line: {color: paint, width: line.member ? 1 : 2, dash: DASHES[line.style % DASHES.length]},
      marker: {size: 5},
      hovertemplate: `%{y:.5g} at %{x:.5g}<extra>${line.label.replaceAll("<", "&lt;")}</extra>`,
    });
  }
  const log = choice.log && !chart.percent && !chart.x_axis;
  return [traces, layout({
    xaxis: {title: {text: chart.x_axis || X_LABELS[choice.x]}},
    yaxis: {title: {text: chart.y_label + (chart.percent ? ", %" : "")}, type: log ? "log" : "linear"},
    showlegend: (report.names.length === 1 || Boolean(chart.x_axis)) && chart.lines.length > 1,
    legend: {orientation: "h", y: 1.12},
  })];
}

function intervals(chart) {
  const scale = chart.percent ? 100 : 1, names = chart.names.slice().reverse();
  const [x, low, high] = [chart.values, chart.low, chart.high].map(
    (values) => values.map((v) => v * scale).reverse());
  const shapes = chart.zero ? [{type: "line", x0: 0, x1: 0, y0: 0, y1: 1, yref: "paper",
    line: {color: isDark() ? "#a0a7b2" : "#5c6370", dash: "dot"}}] : [];
  return [[{
    x, y: names.map((_, i) => i), mode: "markers", type: "scatter",
    marker: {size: 8, color: color(0)}, text: names,
    error_x: {type: "data", symmetric: false, array: high.map((v, i) => v - x[i]),
      arrayminus: low.map((v, i) => x[i] - v), color: color(0)},
    hovertemplate: "%{text}: %{x:.2f}<extra></extra>",
  }], layout({
    xaxis: {title: {text: chart.x_label}}, shapes,
    yaxis: {tickvals: names.map((_, i) => i), ticktext: names, showgrid: false, zeroline: false,
      range: [-0.6, names.length - 0.4]},
  })];
}

function heatmap(chart) {
  const shown = chart.log
    ? chart.values.map((row) => row.map((v) => (v > 0 ? Math.log10(v) : null))) : chart.values;
  const finite = shown.flat().filter((v) => v !== null);
  const powers = [];
  for (let p = Math.floor(Math.min(...finite)); chart.log && p <= Math.max(...finite) + 1; p++) powers.push(p);
  const by_step = typeof chart.x[0] === "number";
  return [[{
    type: "heatmap", z: shown, x: by_step ? chart.x : chart.x.map((_, i) => i),
    y: chart.y.map((_, i) => i), customdata: chart.values.map((row, i) => row.map((v, j) => [chart.y[i], chart.x[j], v])),
    colorscale: "Cividis", hoverongaps: false, xgap: chart.show_values ? 1 : 0, ygap: chart.show_values ? 1 : 0,
    colorbar: {title: {text: chart.value_label, side: "right"}, thickness: 12,
      ...(chart.log && powers.length < 15 ? {tickvals: powers, ticktext: powers.map((p) => `1e${p}`)} : {})},
    ...(chart.show_values ? {text: shown.map((row) => row.map((v) => (v ? v.toFixed(1) : ""))),
      texttemplate: "%{text}", textfont: {size: 10}} : {}),
    hovertemplate: "%{customdata[0]}, %{customdata[1]}: %{customdata[2]:.4g}<extra></extra>",
  }], layout({
    xaxis: {title: {text: chart.x_label}, showgrid: false,
      ...(by_step ? {} : {tickvals: chart.x.map((_, i) => i), ticktext: chart.x, tickangle: -45})},
    yaxis: {title: {text: chart.y_label}, autorange: "reversed", showgrid: false,
      tickvals: every(chart.y, 30).map(([i]) => i), ticktext: every(chart.y, 30).map(([, name]) => name)},
  })];
}

// At most so many entries, evenly chosen, each with its index.
function every(names, count) {
  const stride = Math.ceil(names.length / count);
  return names.map((name, i) => [i, name]).filter(([i]) => i % stride === 0);
}

function reliability(chart) {
  const middle = chart.edges.slice(1).map((edge, i) => (edge + chart.edges[i]) / 2);
  const kept = chart.counts.map((n, i) => i).filter((i) => chart.counts[i]);
  const pick = (values) => kept.map((i) => values[i]);
  const grey = isDark() ? "#a0a7b2" : "#5c6370";
  return [[
    {x: [0, 1], y: [0, 1], mode: "lines", line: {color: grey, dash: "dot"}, hoverinfo: "skip"},
    {x: pick(chart.confidence), y: pick(chart.accuracy), mode: "lines+markers",
      line: {color: color(0)}, marker: {size: 7}, text: pick(chart.counts),
      hovertemplate: "probability %{x:.3f}, accuracy %{y:.3f}, %{text} images<extra></extra>"},
    {x: pick(middle), y: pick(chart.counts), type: "bar", yaxis: "y2", marker: {color: color(1)},
      width: 0.8 / chart.counts.length, hovertemplate: "%{y} images<extra></extra>"},
  ], layout({
    xaxis: {title: {text: "probability of the predicted class"}, range: [0, 1], anchor: "y2"},
    yaxis: {title: {text: "accuracy"}, range: [0, 1.02], domain: [0.34, 1]},
    yaxis2: {title: {text: "images"}, type: "log", domain: [0, 0.24], automargin: true,
      gridcolor: isDark() ? "#3a3f47" : "#d9dce1"},
  })];
}

function parallel(chart) {
  const last = chart.dimensions[chart.dimensions.length - 1];
  return [[{
    type: "parcoords",
    line: {color: last.values, colorscale: "Cividis", reversescale: isDark() ? false : true},
    dimensions: chart.dimensions.map((d) => ({
      label: d.label, values: d.values,
      ...(d.ticks ? {tickvals: d.ticks.map(([v]) => v), ticktext: d.ticks.map(([, t]) => t)} : {}),
    })),
  }], layout({margin: {l: 80, r: 80, t: 60, b: 25}})];
}

const DRAW = {Lines: lines, Intervals: intervals, Heatmap: heatmap, Reliability: reliability, Parallel: parallel};

function draw(element) {
  const chart = report.charts[element.dataset.chart];
  const [traces, chartLayout] = DRAW[chart.kind](chart);
  const buttons = chart.kind === "Parallel" ? ["toImage"] : ["toImage", "zoom2d", "pan2d", "resetScale2d"];
  const options = {displaylogo: false, responsive: true, modeBarButtons: [buttons]};
  return Plotly.react(element, traces, chartLayout, options);
}

const plots = [...document.querySelectorAll(".plot")];
const isOpen = (element) => !element.closest("details:not([open])");

function drawAll(kind) {
  for (const element of plots) {
    if (isOpen(element) && (!kind || report.charts[element.dataset.chart].kind === kind)) draw(element);
  }
}

for (const details of document.querySelectorAll("section > details")) {
  details.addEventListener("toggle", () => {
    if (details.open) details.querySelectorAll(".plot").forEach(draw);
  });
}

function control(id, set) {
  document.getElementById(id)?.addEventListener("input", (event) => {
    set(event.target);
    drawAll("Lines");
  });
}
control("x", (input) => { choice.x = input.value; });
control("log", (input) => { choice.log = input.checked; });
control("smoothing", (input) => { choice.smoothing = Number(input.value); });
control("seeds", (input) => { choice.seeds = input.value; });

function drawLegend() {
  document.querySelectorAll(".legend button").forEach((button, group) => {
    const line = button.querySelector("line");
    line.setAttribute("stroke", color(group));
    line.setAttribute("stroke-dasharray", ["", "6 3", "2 3", "6 2 2 2"][Math.floor(group / 7) % 4]);
  });
}
document.querySelectorAll(".legend button").forEach((button, group) => {
  button.addEventListener("click", () => {
    choice.hidden.has(group) ? choice.hidden.delete(group) : choice.hidden.add(group);
    button.setAttribute("aria-pressed", String(!choice.hidden.has(group)));
    drawAll("Lines");
  });
});

// Sorts by numbers where both cells begin with one, otherwise by text; empty cells come last.
function compare(a, b) {
  if (!a || !b) return (a ? 0 : 1) - (b ? 0 : 1);
  const [x, y] = [a, b].map((text) => parseFloat(text.replaceAll(",", "")));
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", {numeric: true}) : x - y;
}
for (const header of document.querySelectorAll("th button")) {
  header.addEventListener("click", () => {
    const cell = header.parentElement, table = cell.closest("table");
    const down = cell.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    cell.setAttribute("aria-sort", down ? "descending" : "ascending");
    const text = (row) => row.cells[cell.cellIndex].textContent;
    const rows = [...table.tBodies[0].rows].sort(
      (a, b) => (!text(a) || !text(b) || !down ? compare(text(a), text(b)) : compare(text(b), text(a))));
    table.tBodies[0].append(...rows);
  });
}

prefersDark.addEventListener("change", () => { drawLegend(); drawAll(); });
function forPrint(on) {
  printing = on;
  const width = on ? "680px" : "";
  plots.forEach((element) => { element.style.width = width; });
  if (on) document.querySelectorAll("section > details").forEach((details) => {
    if (details.querySelector(".plot, .pictures")) details.open = true;
  });
  drawLegend();
  drawAll();
  if (!on) plots.filter(isOpen).forEach((element) => Plotly.Plots.resize(element));
}
window.addEventListener("beforeprint", () => forPrint(true));
window.addEventListener("afterprint", () => forPrint(false));

drawLegend();
drawAll();
