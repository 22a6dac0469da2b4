// Every device: filter, sort, pages, and one of them as a plot of what it was told and what it did.

import { HEALTH, SIGN, cell, el, milliseconds, power, seconds } from "../format.js";
import { pagedTable } from "../table.js";

const PAGE = 50;
const PLOT_EVERY_MS = 1000;

// Each with what it is sorted by, and how that is written.
const written = (value) => (value === null || value === undefined || value === "" ? "–" : String(value));
const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(value * 100)} %`);
const COLUMNS = [
  ["authority", (d) => (d.authority ? d.authority.level : ""), written],
  ["lease of", (d) => (d.lease && d.lease.state === "held" ? d.lease.holder || "by hand" : ""), written],
  ["left", (d) => d.lease_left_s, seconds, true],
  ["told", (d) => d.setpoint_mw, power, true],
  ["measured", (d) => d.p_mw, power, true],
  ["residual", (d) => d.residual_mw, power, true],
  ["charge", (d) => d.soc, percent, true],
  ["age", (d) => d.age_s, seconds, true],
  ["answers in", (d) => d.answer_s, milliseconds, true],
  ["setpoints", (d) => d.setpoints, written, true],
  ["fallbacks", (d) => d.fallbacks, written, true],
];

function health(one) {
  const { health: state, why } = one.device;
  const stoodIn = why && HEALTH[state] === "good";
  return cell(`${stoodIn ? "▲" : SIGN[state] || ""} ${state}${why ? `: ${why}` : ""}`, `${stoodIn ? "warn" : HEALTH[state] || ""}${why ? " reason" : ""}`);
}

export function open(main, store) {
  let chosen = null, plot = null, points = null, asked = 0;
  const only = el("select", { onchange: () => table.again() },
    ...["all", "not well", "online", "silent", "fault", "offline"].map((name) => el("option", {}, name)));
  const figure = el("div", { class: "plot" });
  const button = (one) => el("button", { type: "button", "data-key": one.key, "aria-pressed": String(chosen !== null && chosen.key === one.key), onclick: () => choose(one) }, one.label);
  const table = pagedTable({
    things: "devices", size: PAGE, extra: [el("label", {}, "health", only)],
    keep: ({ device }) => only.value === "all" || device.health === only.value || (only.value === "not well" && !["online", "model"].includes(device.health)),
    columns: [
      { name: "device", value: (one) => one.label, show: (one) => el("th", { scope: "row" }, button(one)) },
      { name: "health", value: (one) => one.device.health, show: health },
      // how long a device takes to answer is seen live only
      ...COLUMNS.filter(([name]) => name !== "answers in" || !store.record).map(([name, of, write, number = false]) => ({
        name, number, value: (one) => of(one.device), show: (one) => cell(write(of(one.device)), number ? "number" : "") })),
    ],
  });
  main.append(table.tools, figure, table.table);

  // By day and by night: the plot has its colours from when it was drawn.
  const night = matchMedia("(prefers-color-scheme: dark)");
  function redraw() {
    if (plot) plot.destroy();
    plot = null;
    drawPlot();
  }
  night.addEventListener("change", redraw);

  function drawPlot() {
    if (!points) return;
    const data = [points.t, points.done, points.told];
    if (plot) return plot.setData(data);
    const style = getComputedStyle(document.documentElement);
    const axis = { stroke: style.getPropertyValue("--text"), grid: { stroke: style.getPropertyValue("--line"), width: 1 } };
    const at = (drawn, values) => values.map((value) => new Date(value * 1000).toLocaleTimeString("en-GB"));
    const now = (drawn, value) => (value === null ? "–" : new Date(value * 1000).toLocaleTimeString("en-GB"));
    const kw = (drawn, value) => (value === null ? "–" : `${value.toFixed(2)} kW`);
    plot = new uPlot({
      title: chosen.label, width: Math.min(900, main.clientWidth - 20), height: 220, scales: { x: { time: !store.record } },
      axes: [store.record ? { ...axis, label: "step" } : { ...axis, values: at, space: 80 }, { ...axis, label: "kW", size: 60 }],
      series: [store.record ? { label: "step" } : { label: "time", value: now }, { label: "measured", stroke: style.getPropertyValue("--fill"), width: 2, points: { show: false }, value: kw },
        { label: "told", stroke: "#d55e00", width: 2, dash: [6, 6], spanGaps: false, points: { show: false }, value: kw }],
      hooks: { draw: [markStep] },
    }, data, figure);
  }

  // Where the slider of a record is.
  function markStep(drawn) {
    if (!store.record || !store.snapshot) return;
    const x = drawn.valToPos(store.snapshot.at, "x", true);
    drawn.ctx.save();
    drawn.ctx.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
    drawn.ctx.beginPath();
    drawn.ctx.moveTo(x, drawn.bbox.top);
    drawn.ctx.lineTo(x, drawn.bbox.top + drawn.bbox.height);
    drawn.ctx.stroke();
    drawn.ctx.restore();
  }

  // Of a record the whole day at once; live, what the server has kept: a page that is loaded anew has it, too.
  async function read() {
    const one = chosen;
    asked = Date.now();
    const answer = await fetch(`series?env_id=${encodeURIComponent(one.env_id)}&device=${encodeURIComponent(one.name)}`).catch(() => null);
    if (!answer || !answer.ok || chosen !== one) return;
    const series = await answer.json();
    const kw = (values) => values.map((mw) => (mw === null ? null : mw * 1000));
    if (chosen !== one) return;
    points = { t: series.t, told: kw(series.told), done: kw(series.done) };
    drawPlot();
  }

  function choose(one) {
    chosen = chosen !== null && chosen.key === one.key ? null : one;
    plot = points = null;
    figure.replaceChildren();
    if (chosen !== null) read();
    update(store);
  }

  function update({ snapshot, record }) {
    if (!snapshot) return;
    const many = snapshot.environments.length > 1;
    table.update(snapshot.environments.flatMap(({ env_id, devices }) => Object.entries(devices).map(([name, device]) => ({
      key: JSON.stringify([env_id, name]), env_id, name, label: many ? `${env_id}: ${name}` : name, device }))));
    if (record) drawPlot();
    else if (chosen !== null && Date.now() - asked >= PLOT_EVERY_MS) read();
  }
  return { update, close: () => night.removeEventListener("change", redraw) };
}
