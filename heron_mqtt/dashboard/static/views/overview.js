// One line a microgrid, the run and what is wrong.

import { bar, cell, el, number, power, seconds } from "../format.js";

const HEADINGS = ["microgrid", "load", "devices", "state of charge", "voltage pu", "loading", "traded kWh", "step"];
const NUMBERS = new Set(["load", "devices", "loading", "traded kWh"]);

function runLine(environment) {
  const run = environment.run;
  if (!run) return "no run";
  const where = run.step === null ? "" : `, step ${run.step} of episode ${run.episode}`;
  const clock = run.clock ? `, simulated time ${run.clock.slice(0, 16).replace("T", " ")}` : "";
  const price = environment.price === null ? "" : `, price ${number(environment.price)} $/MWh`;
  return `${run.state}${where}${clock}${price}, heard ${seconds(environment.step_age_s)} ago`;
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

export function open(main) {
  const place = el("div", {});
  main.append(place);
  return {
    update({ snapshot }) {
      const parts = snapshot.environments.map((environment) => el("section", {},
        el("h2", {}, environment.env_id),
        el("p", { class: "soft" }, runLine(environment)),
        environment.problems.length
          ? el("ul", { class: "problems bad" }, ...environment.problems.map((text) => el("li", {}, text)))
          : el("p", { class: "good" }, "all is well"),
        el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": `Microgrids of ${environment.env_id}` },
          el("table", {},
            el("thead", {}, el("tr", {}, ...HEADINGS.map((text) => el("th", { scope: "col", class: NUMBERS.has(text) ? "number" : "" }, text)))),
            el("tbody", {}, ...Object.entries(environment.microgrids).map(([name, one]) => microgrid(name, one)))))));
      place.replaceChildren(...(parts.length ? parts : [el("p", { class: "bad" }, "No environment is alive at this broker.")]));
    },
  };
}
