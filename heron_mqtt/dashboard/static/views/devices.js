// Every device: filter, sort, pages, and one of them as a plot of what it was told and what it did.

import { HEALTH, SIGN, cell, el, power, seconds } from "../format.js";
import { store as known } from "../store.js";

const PAGE = 50;
const COLUMNS = [
  ["device", (one) => one.label],
  ["health", (one) => one.device.health],
  ["authority", (one) => (one.device.authority ? one.device.authority.level : "")],
  ["lease of", (one) => (one.device.lease && one.device.lease.state === "held" ? one.device.lease.holder || "by hand" : "")],
  ["left", (one) => one.device.lease_left_s],
  ["told", (one) => one.device.setpoint_mw],
  ["measured", (one) => one.device.p_mw],
  ["charge", (one) => one.device.soc],
  ["residual", (one) => one.device.residual_mw],
  ["age", (one) => one.device.age_s],
  ["setpoints", (one) => one.device.setpoints],
  ["fallbacks", (one) => one.device.fallbacks],
];
const NUMBERS = new Set(["left", "told", "measured", "charge", "residual", "age", "setpoints", "fallbacks"]);

// A row that is replaced between pressing and letting go would lose the click.
let pressed = false;
addEventListener("pointerup", () => setTimeout(() => { pressed = false; }, 0));
addEventListener("pointercancel", () => { pressed = false; });

function text(name, value) {
  if (value === null || value === undefined || value === "") return "–";
  if (name === "told" || name === "measured" || name === "residual") return power(value);
  if (name === "age" || name === "left") return seconds(value);
  if (name === "charge") return `${Math.round(value * 100)} %`;
  return String(value);
}

// The residual, measured minus model, is known to the gateway alone: it stands in records.
const columns = () => COLUMNS.filter(([name]) => name !== "residual" || known.record);

export function open(main, store) {
  let sort = "device", down = false, page = 0, chosen = null, plot = null, recorded = null;
  const filter = el("input", { type: "search", oninput: () => { page = 0; update(store); } });
  const only = el("select", { onchange: () => { page = 0; update(store); } },
    ...["all", "not well", "online", "silent", "fault", "offline"].map((name) => el("option", {}, name)));
  const back = el("button", { type: "button", onclick: () => { page -= 1; update(store); } }, "earlier");
  const on = el("button", { type: "button", onclick: () => { page += 1; update(store); } }, "later");
  const where = el("span", { class: "soft", role: "status" });
  const headings = el("tr", {});
  const rows = el("tbody", {});
  const figure = el("div", { class: "plot" });
  main.append(
    el("div", { class: "tools" },
      el("label", {}, "filter by name", filter),
      el("label", {}, "health", only),
      back, on, where),
    figure,
    el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Devices" },
      el("table", {}, el("thead", {}, headings), rows)));

  function drawPlot() {
    const points = chosen === null ? null : store.record ? recorded : store.history.get(chosen);
    if (!points) return;
    const data = [points.t, points.told, points.done];
    if (plot) { plot.setData(data); return; }
    const style = getComputedStyle(document.documentElement);
    const axis = { stroke: style.getPropertyValue("--text"), grid: { stroke: style.getPropertyValue("--line") } };
    plot = new uPlot({
      title: chosen, width: Math.min(900, main.clientWidth - 20), height: 220, scales: { x: { time: !store.record } },
      axes: [store.record ? { ...axis, label: "step" } : axis, { ...axis, label: "kW" }],
      series: [store.record ? { label: "step" } : {}, { label: "told", stroke: "#d55e00", dash: [6, 4], spanGaps: false }, { label: "measured", stroke: style.getPropertyValue("--fill"), width: 2 }],
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

  // Of a record the whole day at once.
  async function read(key) {
    const label = key.slice(key.indexOf("/") + 1);
    const answer = await fetch(`series?device=${encodeURIComponent(label)}`).catch(() => null);
    if (!answer || !answer.ok) return;
    const series = await answer.json();
    const kw = (values) => values.map((mw) => (mw === null ? null : mw * 1000));
    if (chosen !== key) return;
    recorded = { t: series.t, told: kw(series.told), done: kw(series.done) };
    drawPlot();
  }

  function choose(key) {
    chosen = chosen === key ? null : key;
    plot = null;
    recorded = null;
    figure.replaceChildren();
    if (store.record && chosen !== null) read(chosen);
    else drawPlot();
  }

  for (const place of [rows, headings]) place.addEventListener("pointerdown", () => { pressed = true; });

  function update({ snapshot }) {
    if (!snapshot || pressed) return;
    const wanted = filter.value.toLowerCase();
    const many = snapshot.environments.length > 1;
    let all = snapshot.environments.flatMap((environment) => Object.entries(environment.devices).map(([label, device]) => ({
      key: `${environment.env_id}/${label}`, label: many ? `${environment.env_id}: ${label}` : label, device })));
    all = all.filter((one) => one.label.toLowerCase().includes(wanted) && (only.value === "all" || one.device.health === only.value ||
      (only.value === "not well" && !["online", "model"].includes(one.device.health))));
    const value = COLUMNS.find(([name]) => name === sort)[1];
    all.sort((a, b) => {
      const x = value(a), y = value(b);
      const order = x === y ? a.label.localeCompare(b.label, "en", { numeric: true }) : x === null || x === undefined ? 1 : y === null || y === undefined ? -1 : x < y ? -1 : 1;
      return down ? -order : order;
    });
    const pages = Math.max(1, Math.ceil(all.length / PAGE));
    page = Math.max(0, Math.min(page, pages - 1));
    back.disabled = page === 0;
    on.disabled = page === pages - 1;
    where.textContent = `${all.length} devices, page ${page + 1} of ${pages}`;
    const focused = document.activeElement && headings.contains(document.activeElement) ? document.activeElement.textContent : null;
    headings.replaceChildren(...columns().map(([name]) => el("th", { scope: "col", class: NUMBERS.has(name) ? "number" : "", "aria-sort": name === sort ? (down ? "descending" : "ascending") : "none" },
      el("button", { type: "button", onclick: () => { down = name === sort ? !down : false; sort = name; update(store); } }, name))));
    if (focused) for (const button of headings.querySelectorAll("button")) if (button.textContent === focused) button.focus();
    const key = document.activeElement && rows.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    rows.replaceChildren(...all.slice(page * PAGE, (page + 1) * PAGE).map((one) => el("tr", { "data-device": one.label },
      ...columns().map(([name, of]) => {
        const shown = text(name, of(one));
        if (name === "device") return el("th", { scope: "row" }, el("button", { type: "button", "data-key": one.key, "aria-pressed": String(chosen === one.key), onclick: () => choose(one.key) }, shown));
        if (name === "health") return cell(`${one.device.why && HEALTH[shown] === "good" ? "▲" : SIGN[shown] || ""} ${shown}${one.device.why ? `: ${one.device.why}` : ""}`, `${one.device.why && HEALTH[shown] === "good" ? "warn" : HEALTH[shown] || ""} reason`);
        return cell(shown, NUMBERS.has(name) ? "number" : "");
      }))));
    if (key) for (const button of rows.querySelectorAll("button")) if (button.dataset.key === key) button.focus();
    drawPlot();
  }
  return { update };
}
