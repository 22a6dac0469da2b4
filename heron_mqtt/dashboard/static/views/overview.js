// One line a microgrid, the run and what is wrong.

import { diagram } from "./diagram.js";
import { bar, cell, clock, el, number, power, seconds, since } from "../format.js";
import { pagedTable } from "../table.js";

const PAGE = 25, PROBLEMS = 20, BARS = 3;

function runLine(environment) {
  const run = environment.run;
  if (!run) return "no run";
  const where = run.step === null ? "" : `, step ${run.step} of episode ${run.episode}`;
  const at = run.clock ? `, simulated time ${clock(run.clock)}` : "";
  const price = environment.price === null ? "" : `, price ${number(environment.price)} $/MWh`;
  const heard = environment.step_age_s === null ? "" : `, heard ${seconds(environment.step_age_s)} ago`;
  const pace = environment.step_period_s ? `, a step every ${seconds(environment.step_period_s)}` : "";
  const missed = Object.values(environment.microgrids).reduce((sum, one) => sum + (one.missed_so_far || 0), 0);
  return `${run.state}${where}${at}${price}${heard}${pace}${missed ? `, ${missed} deadlines missed` : ""}`;
}

const known = (value) => value !== null && value !== undefined;
const sum = (pairs) => (pairs.length ? pairs.reduce((total, [, p_mw]) => total + p_mw, 0) : null);
const named = (pairs) => pairs.map(([name, p_mw]) => `${name} ${power(p_mw)}`).join(", ");

// What stores energy has a state of charge; the rest generates, or shifts load.
function parts({ one }) {
  const all = Object.entries(one.p_mw || {}), socs = one.soc || {};
  return { rest: all.filter(([name]) => !(name in socs)), stores: all.filter(([name]) => name in socs) };
}

const isOutside = ({ one }) => known(one.vm_min_pu) && (one.vm_min_pu < 0.95 || one.vm_max_pu > 1.05);

function charge({ one }) {
  const socs = Object.entries(one.soc || {});
  const bars = socs.slice(0, BARS).flatMap(([name, soc]) => [bar(soc, `${name} ${Math.round(soc * 100)} %`), ` ${Math.round(soc * 100)} % `]);
  const more = socs.slice(BARS);
  return el("td", {}, ...bars, more.length ? el("span", { class: "soft", title: more.map(([name, soc]) => `${name} ${Math.round(soc * 100)} %`).join(", ") }, `and ${more.length} more`) : null);
}

function step({ one }) {
  const fallbacks = Object.keys(one.fallbacks || {});
  return cell(fallbacks.length ? `model stands in for ${fallbacks.join(", ")}` : one.missed ? `${one.missed} late` : "ok", fallbacks.length || one.missed ? "warn" : "good");
}

const COLUMNS = [
  { name: "microgrid", value: (row) => row.label, show: (row) => el("th", { scope: "row" }, row.label) },
  { name: "load", number: true, value: ({ one }) => one.load_mw, show: ({ one }) => cell(power(one.load_mw), "number") },
  { name: "generation", number: true, value: (row) => sum(parts(row).rest), show: (row) => el("td", { class: "number", title: named(parts(row).rest) }, power(sum(parts(row).rest))) },
  { name: "storage", number: true, value: (row) => sum(parts(row).stores), show: (row) => el("td", { class: "number", title: named(parts(row).stores) }, power(sum(parts(row).stores))) },
  { name: "state of charge", value: ({ one }) => { const socs = Object.values(one.soc || {}); return socs.length ? socs.reduce((a, b) => a + b, 0) / socs.length : null; }, show: charge },
  { name: "voltage pu", value: ({ one }) => (known(one.vm_min_pu) ? Math.max(one.vm_max_pu - 1, 1 - one.vm_min_pu) : null),
    show: (row) => cell(known(row.one.vm_min_pu) ? `${number(row.one.vm_min_pu, 3)} – ${number(row.one.vm_max_pu, 3)}${isOutside(row) ? " outside" : ""}` : "–", isOutside(row) ? "bad" : "") },
  { name: "loading", number: true, value: ({ one }) => one.loading_max_percent,
    show: ({ one }) => cell(known(one.loading_max_percent) ? `${number(one.loading_max_percent, 0)} %` : "–", one.loading_max_percent > 100 ? "number bad" : "number") },
  { name: "traded kWh", number: true, value: ({ one }) => one.traded_mwh, show: ({ one }) => cell(one.traded_mwh === undefined ? "–" : number(one.traded_mwh * 1000), "number") },
  { name: "step", value: ({ one }) => Object.keys(one.fallbacks || {}).length + (one.missed || 0), show: step },
];

function wrong({ problems, problems_since: times = [] }) {
  if (!problems.length) return el("p", { class: "good" }, "✓ all is well");
  const lines = problems.slice(0, PROBLEMS).map((text, n) => el("li", {}, text, times[n] ? el("span", { class: "soft" }, ` since ${since(times[n])}`) : null));
  return el("ul", { class: "problems bad" }, ...lines, problems.length > PROBLEMS ? el("li", {}, `and ${problems.length - PROBLEMS} more`) : null);
}

function noted({ notes = [] }) {
  return notes.slice(0, PROBLEMS).map((text) => el("p", { class: "soft" }, text));
}

function section(env_id) {
  const run = el("p", { class: "soft" }), problems = el("div", {}), grids = el("div", { hidden: "" }), drawing = el("div", {});
  const table = pagedTable({ things: `microgrids of ${env_id}`, columns: COLUMNS, size: PAGE, isQuiet: true });
  grids.append(table.tools, table.table);
  const root = el("section", { "aria-label": env_id }, el("h2", {}, env_id), run, problems, grids, drawing);
  let drawn = null, model = null;
  return {
    root,
    update(environment, network) {
      run.textContent = runLine(environment);
      problems.replaceChildren(wrong(environment), ...noted(environment));
      grids.hidden = Object.keys(environment.microgrids).length === 0;
      table.update(Object.entries(environment.microgrids).map(([label, one]) => ({ label, one })));
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
  const absence = el("p", { class: "bad" }, "No environment is alive at this broker.");
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
      if (there.size) absence.remove();
      else if (!absence.isConnected) main.append(absence);
    },
  };
}
