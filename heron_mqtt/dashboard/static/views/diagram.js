// The one-line diagram: buses coloured by voltage, lines and transformers by loading, devices by what they do.
// Drawn once for a network; after that only classes change. Every colour has a sign or a width beside it.

import { el, number, power } from "../format.js";

const SVG = "http://www.w3.org/2000/svg";
const STEP = { x: 74, y: 48 }, WIDE = 1100, TALL = 640, PAD = 60;
const MANY = 90; // buses: beyond, only the chosen one is named
const LETTERS = { battery: "B", generator: "G", pv: "PV", flexible_load: "L", load: "L", ev_charger: "EV", heat_pump: "HP" };
const LOADINGS = [[50, "l0"], [80, "l1"], [100, "l2"], [Infinity, "l3"]];

function node(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const voltageClass = (vm) => vm === null || vm === undefined ? "none" : vm < 0.95 ? "low2" : vm < 0.98 ? "low1" : vm <= 1.02 ? "mid" : vm <= 1.05 ? "high1" : "high2";
const loadingClass = (percent) => percent === null || percent === undefined ? "none" : LOADINGS.find(([limit]) => percent <= limit)[1];
const voltageText = (vm) => vm === null || vm === undefined ? "no voltage known" : `${number(vm, 4)} pu${vm < 0.95 ? ", low" : vm > 1.05 ? ", high" : ""}`;
const loadingText = (percent) => percent === null || percent === undefined ? "no loading known" : `${number(percent, 1)} %${percent > 100 ? ", overloaded" : ""}`;

function places(model) {
  if (model.laid_out) return model.bus_x.map((x, i) => [PAD + x * STEP.x, PAD + model.bus_y[i] * STEP.y]);
  const low = [Math.min(...model.bus_x), Math.min(...model.bus_y)], high = [Math.max(...model.bus_x), Math.max(...model.bus_y)];
  const scale = Math.min(WIDE / (high[0] - low[0] || 1), TALL / (high[1] - low[1] || 1));
  return model.bus_x.map((x, i) => [PAD + (x - low[0]) * scale, PAD + (model.bus_y[i] - low[1]) * scale]);
}

// From the supply down, then to the right: in a radial network nothing crosses.
function route(model, at, from, to) {
  let [a, b] = [at[from], at[to]];
  if (!model.laid_out || a[1] === b[1] || a[0] === b[0]) return { path: `M${a} L${b}`, middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2] };
  if (a[1] > b[1]) [a, b] = [b, a];
  const x = a[0] + (b[0] > a[0] ? 14 : -14); // beside the bus, not through what hangs below it
  return { path: `M${a} L${x} ${a[1]} L${x} ${b[1]} L${b}`, middle: [(x + b[0]) / 2, b[1]] };
}

export function diagram(model) {
  const at = places(model);
  const width = Math.max(...at.map(([x]) => x)) + PAD, height = Math.max(...at.map(([, y]) => y)) + PAD;
  const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, class: "oneline", "aria-hidden": "true", width: String(width), height: String(height) });
  const parts = []; // what can be chosen: { shape, text() }, in the order of the drawing
  const open = new Set(model.line_open);
  let results = {}, devices = {}, microgrids = {};

  model.link_from.forEach((from, i) => svg.append(node("path", { class: "branch link", d: route(model, at, from, model.link_to[i]).path })));
  const lines = model.line.map((name, i) => {
    const shape = node("path", { class: "branch", d: route(model, at, model.line_from[i], model.line_to[i]).path });
    parts.push({ shape, at: route(model, at, model.line_from[i], model.line_to[i]).middle,
      text: () => `${name}: ${open.has(i) ? "open" : loadingText((results.line_loading_percent || [])[i])}, from ${model.bus[model.line_from[i]]} to ${model.bus[model.line_to[i]]}` });
    svg.append(shape);
    return shape;
  });
  const trafos = model.trafo.map((name, i) => {
    const { path, middle: [x, y] } = route(model, at, model.trafo_hv[i], model.trafo_lv[i]);
    const shape = node("g", { class: "branch trafo" }, node("path", { d: path }), node("circle", { cx: x - 4, cy: y, r: 7 }), node("circle", { cx: x + 4, cy: y, r: 7 }));
    parts.push({ shape, at: [x, y], text: () => `${name}: transformer, ${loadingText((results.trafo_loading_percent || [])[i])}` });
    svg.append(shape);
    return shape;
  });
  const hung = new Map();
  const boxes = model.device.map((label, i) => {
    const bus = model.device_bus[i], nth = hung.get(bus) || 0;
    hung.set(bus, nth + 1);
    const [x, y] = [at[bus][0] - 10 + nth * 34, at[bus][1] + 9];
    const arrow = node("text", { x: x + 25, y: y + 10.5, class: "arrow" });
    const shape = node("g", { class: "device" }, node("rect", { x, y, width: 20, height: 14, rx: 3 }),
      node("text", { x: x + 10, y: y + 10.5 }, LETTERS[model.device_kind[i]] || model.device_kind[i].slice(0, 2).toUpperCase()), arrow);
    parts.push({ shape, at: [x + 10, y + 7], text: () => {
      const one = seen(label);
      return `${label}: ${model.device_kind[i]} at ${model.bus[bus]}, ${power(one.p_mw)}${one.health ? `, ${one.health}` : ""}`;
    } });
    svg.append(shape);
    return { label, shape, arrow };
  });
  const buses = model.bus.map((name, i) => {
    const [x, y] = at[i];
    const mark = node("text", { x, y: y + 3.5, class: "mark" });
    const shape = node("g", { class: "bus" }, node("circle", { cx: x, cy: y, r: model.supply.includes(i) ? 9 : 6 }), mark);
    if (model.bus.length <= MANY) shape.append(node("text", { x, y: y - 10, class: "name" }, name.length > 12 ? `${name.slice(0, 11)}…` : name));
    parts.push({ shape, at: [x, y], text: () => `${name}${model.bus_agent[i] ? ` of ${model.bus_agent[i]}` : ""}: ${voltageText((results.vm_pu || [])[i])}, ${number(model.bus_kv[i], 2)} kV nominal${model.supply.includes(i) ? ", external grid" : ""}` });
    svg.append(shape);
    return { shape, mark };
  });
  for (const agent of new Set(model.bus_agent)) {
    if (!agent) continue;
    const first = at.filter((_, i) => model.bus_agent[i] === agent).reduce((a, b) => (b[0] < a[0] || (b[0] === a[0] && b[1] < a[1]) ? b : a));
    svg.append(node("text", { x: first[0], y: first[1] - 22, class: "agent" }, agent));
  }

  // What it measures; of one that is simulated, what it did in the last step.
  function seen(label) {
    const one = devices[label] || {}, cut = label.indexOf("/");
    if (one.p_mw !== null && one.p_mw !== undefined) return one;
    return { health: one.health, p_mw: ((microgrids[label.slice(0, cut)] || {}).p_mw || {})[label.slice(cut + 1)] };
  }

  const said = el("p", { class: "chosen", role: "status" }, "Choose an element with the pointer, or with the arrow keys.");
  const pane = el("div", { class: "wide drawing", tabindex: "0", role: "group", "aria-label": "One-line diagram. Arrow keys go from element to element." }, svg);
  let chosen = -1, zoom = 1;
  function choose(index) {
    if (chosen >= 0) parts[chosen].shape.classList.remove("chosen");
    chosen = index;
    if (index >= 0) parts[index].shape.classList.add("chosen");
    tell();
  }
  function tell() {
    const text = chosen < 0 ? said.textContent : parts[chosen].text();
    if (said.textContent !== text) said.textContent = text;
  }
  // The nearest element in the direction of the key; sideways counts twice.
  pane.addEventListener("keydown", (event) => {
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] || [0, 0];
    if (!dx && !dy) return;
    event.preventDefault();
    if (chosen < 0) return choose(parts.length - model.bus.length + (model.supply[0] || 0)); // where the power comes from
    const here = parts[chosen].at;
    let best = -1, least = Infinity;
    parts.forEach((part, i) => {
      const [x, y] = [part.at[0] - here[0], part.at[1] - here[1]];
      const along = x * dx + y * dy, beside = Math.abs(x * dy) + Math.abs(y * dx);
      if (i !== chosen && along > 0.5 && along + 2 * beside < least) [best, least] = [i, along + 2 * beside];
    });
    if (best < 0) return;
    choose(best);
    const box = parts[best].shape.getBoundingClientRect(), frame = pane.getBoundingClientRect();
    pane.scrollBy(box.x < frame.x || box.right > frame.right ? box.x - frame.x - frame.width / 2 : 0, box.y < frame.y || box.bottom > frame.bottom ? box.y - frame.y - frame.height / 2 : 0);
  });
  parts.forEach((part, i) => part.shape.addEventListener("click", () => choose(i)));
  const scale = (factor) => () => {
    zoom = Math.max(0.3, Math.min(4, zoom * factor));
    svg.setAttribute("width", String(width * zoom));
    svg.setAttribute("height", String(height * zoom));
  };
  const summary = el("p", { class: "soft" });
  const root = el("div", {}, summary, pane, said,
    el("div", { class: "tools" }, el("button", { type: "button", onclick: scale(1.25) }, "larger"), el("button", { type: "button", onclick: scale(0.8) }, "smaller")),
    el("ul", { class: "legend", "aria-label": "Legend" },
      ...[["low2", "below 0.95 pu, ▼"], ["low1", "below 0.98"], ["mid", "0.98 to 1.02"], ["high1", "above 1.02"], ["high2", "above 1.05 pu, ▲"]].map(([kind, text]) => el("li", { class: `key bus-key ${kind}` }, text)),
      ...[["l0", "loading up to 50 %"], ["l1", "up to 80 %"], ["l2", "up to 100 %"], ["l3", "overloaded"]].map(([kind, text]) => el("li", { class: `key line-key ${kind}` }, text)),
      el("li", { class: "key line-key open" }, "open")));

  return {
    root,
    update(environment) {
      results = environment.grid || {};
      ({ devices, microgrids } = environment);
      const vm = results.vm_pu || [], line = results.line_loading_percent || [], trafo = results.trafo_loading_percent || [];
      lines.forEach((shape, i) => shape.setAttribute("class", `branch ${open.has(i) ? "open" : loadingClass(line[i])}${shape.classList.contains("chosen") ? " chosen" : ""}`));
      trafos.forEach((shape, i) => shape.setAttribute("class", `branch trafo ${loadingClass(trafo[i])}${shape.classList.contains("chosen") ? " chosen" : ""}`));
      buses.forEach(({ shape, mark }, i) => {
        shape.setAttribute("class", `bus ${voltageClass(vm[i])}${shape.classList.contains("chosen") ? " chosen" : ""}`);
        const sign = vm[i] < 0.95 ? "▼" : vm[i] > 1.05 ? "▲" : "";
        if (mark.textContent !== sign) mark.textContent = sign;
      });
      boxes.forEach(({ label, shape, arrow }) => {
        const one = seen(label);
        const bad = ["silent", "fault", "offline"].includes(one.health);
        shape.setAttribute("class", `device${bad ? " away" : ""}${shape.classList.contains("chosen") ? " chosen" : ""}`);
        const sign = bad ? "✖" : one.p_mw > 1e-6 ? "▲" : one.p_mw < -1e-6 ? "▼" : "";
        if (arrow.textContent !== sign) arrow.textContent = sign;
      });
      const text = sentence(model, vm, line, trafo, results);
      if (summary.textContent !== text) summary.textContent = text;
      tell();
    },
  };
}

function extreme(values, names, better) {
  let best = -1;
  values.forEach((value, i) => { if (value !== null && (best < 0 || better(value, values[best]))) best = i; });
  return best < 0 ? null : [values[best], names[best]];
}

function sentence(model, vm, line, trafo, results) {
  const size = `${model.bus.length} buses, ${model.line.length} lines, ${model.trafo.length} transformers, ${model.device.length} devices`;
  if (results.diverged) return `${size}. The power flow of step ${results.step} has no solution: ${results.diverged}`;
  const low = extreme(vm, model.bus, (a, b) => a < b), high = extreme(vm, model.bus, (a, b) => a > b);
  const busy = extreme([...line, ...trafo], [...model.line, ...model.trafo], (a, b) => a > b);
  if (!low || !high) return `${size}. No results yet.`;
  const loaded = busy ? `, most loaded ${busy[1]} ${number(busy[0], 0)} %` : "";
  return `${size}. Step ${results.step}, by power flow: lowest ${low[1]} ${number(low[0], 3)} pu, highest ${high[1]} ${number(high[0], 3)} pu${loaded}.`;
}
