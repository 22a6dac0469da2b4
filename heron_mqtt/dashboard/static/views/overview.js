// One line a microgrid, the run and what is wrong.

import { diagram } from "./diagram.js";
import { bar, cell, clock, el, number, power, seconds } from "../format.js";

const HEADINGS = ["microgrid", "load", "devices", "state of charge", "voltage pu", "loading", "traded kWh", "step"];
const NUMBERS = new Set(["load", "devices", "loading", "traded kWh"]);

function runLine(environment) {
  const run = environment.run;
  if (!run) return "no run";
  const where = run.step === null ? "" : `, step ${run.step} of episode ${run.episode}`;
  const at = run.clock ? `, simulated time ${clock(run.clock)}` : "";
  const price = environment.price === null ? "" : `, price ${number(environment.price)} $/MWh`;
  const heard = environment.step_age_s === null ? "" : `, heard ${seconds(environment.step_age_s)} ago`;
  return `${run.state}${where}${at}${price}${heard}`;
}

function microgrid(name, one) {
  const devices = Object.entries(one.p_mw || {});
  const total = devices.reduce((sum, [, p]) => sum + p, 0);
  const socs = Object.entries(one.soc || {});
  const fallbacks = Object.keys(one.fallbacks || {});
  const low = one.vm_min_pu, high = one.vm_max_pu;
  const outside = low !== null && low !== undefined && (low < 0.95 || high > 1.05);
  return el("tr", {},
    el("th", { scope: "row" }, name),
    cell(power(one.load_mw), "number"),
    el("td", { class: "number", title: devices.map(([n, p]) => `${n} ${power(p)}`).join(", ") }, power(devices.length ? total : null)),
    el("td", {}, ...socs.flatMap(([n, soc]) => [bar(soc, `${n} ${Math.round(soc * 100)} %`), ` ${Math.round(soc * 100)} % `])),
    cell(low === null || low === undefined ? "–" : `${number(low, 3)} – ${number(high, 3)}${outside ? " outside" : ""}`, outside ? "bad" : ""),
    cell(one.loading_max_percent === null || one.loading_max_percent === undefined ? "–" : `${number(one.loading_max_percent, 0)} %`,
      one.loading_max_percent > 100 ? "number bad" : "number"),
    cell(one.traded_mwh === undefined ? "–" : number(one.traded_mwh * 1000), "number"),
    cell(fallbacks.length ? `model stands in for ${fallbacks.join(", ")}` : one.missed ? `${one.missed} late` : "ok", fallbacks.length || one.missed ? "warn" : "good"));
}

function table(environment) {
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": `Microgrids of ${environment.env_id}` },
    el("table", {},
      el("thead", {}, el("tr", {}, ...HEADINGS.map((text) => el("th", { scope: "col", class: NUMBERS.has(text) ? "number" : "" }, text)))),
      el("tbody", {}, ...Object.entries(environment.microgrids).map(([name, one]) => microgrid(name, one)))));
}

function section(env_id) {
  const run = el("p", { class: "soft" }), problems = el("div", {}), grids = el("div", {}), drawing = el("div", {});
  const root = el("section", { "aria-label": env_id }, el("h2", {}, env_id), run, problems, grids, drawing);
  let drawn = null, model = null;
  return {
    root,
    update(environment, network) {
      run.textContent = runLine(environment);
      problems.replaceChildren(environment.problems.length
        ? el("ul", { class: "problems bad" }, ...environment.problems.map((text) => el("li", {}, text)))
        : el("p", { class: "good" }, "✓ all is well"));
      if (!grids.contains(document.activeElement)) grids.replaceChildren(...(Object.keys(environment.microgrids).length ? [table(environment)] : []));
      if (network !== model) {
        model = network;
        drawn = model ? diagram(model) : null;
        drawing.replaceChildren(...(drawn ? [el("h3", {}, "Network"), drawn.root] : []));
      }
      if (drawn) drawn.update(environment);
    },
  };
}

export function open(main) {
  const nobody = el("p", { class: "bad" }, "No environment is alive at this broker.");
  const sections = new Map();
  return {
    update({ snapshot, networks }) {
      const there = new Set(snapshot.environments.map((one) => one.env_id));
      for (const [env_id, one] of sections) if (!there.has(env_id)) { one.root.remove(); sections.delete(env_id); }
      for (const environment of snapshot.environments) {
        let one = sections.get(environment.env_id);
        if (!one) {
          one = section(environment.env_id);
          sections.set(environment.env_id, one);
          main.append(one.root);
        }
        one.update(environment, (networks.get(environment.env_id) || {}).model || null);
      }
      if (there.size) nobody.remove();
      else if (!nobody.isConnected) main.append(nobody);
    },
  };
}
