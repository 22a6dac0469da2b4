// Stops, authority, leases, faults and births: the newest first.

import { cell, el, seconds } from "../format.js";

export function open(main, store) {
  const kinds = el("select", { onchange: () => update(store) }, ...["all", "stop", "run", "agent", "device", "authority", "lease", "fault", "fallback", "back", "owner", "late", "error"].map((name) => el("option", {}, name)));
  const rows = el("tbody", {});
  main.append(
    el("div", { class: "tools" }, el("label", {}, "kind", kinds)),
    el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Events" }, el("table", {},
      el("thead", {}, el("tr", {}, ...["since", "at (UTC)", "kind", "who", "what"].map((name) => el("th", { scope: "col" }, name)))), rows)));
  function update({ snapshot }) {
    if (!snapshot) return;
    const all = snapshot.environments.flatMap((environment) => environment.events).filter((one) => kinds.value === "all" || one.kind === kinds.value);
    rows.replaceChildren(...all.slice(0, 200).map((one) => el("tr", {},
      cell(one.kept ? "before" : seconds(one.ago_s), "number"), cell(one.kept ? "–" : one.at.slice(11, 19)), cell(one.kind), cell(one.subject),
      cell(one.what, one.what.startsWith("EMERGENCY") || one.what.startsWith("fault") || one.what.startsWith("offline") ? "bad" : ""))));
  }
  return { update };
}
