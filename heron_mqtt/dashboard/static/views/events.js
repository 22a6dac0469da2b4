// Stops, authority, leases, faults and births: the newest first.

import { cell, el, seconds, since } from "../format.js";
import { isPressed, waitForRelease } from "../pressed.js";
import { store as known } from "../store.js";

// Who has seen it; who is logged in may say so.
function acknowledged(env_id, one) {
  if (one.acknowledged) return cell(`${one.acknowledged.who}, ${one.acknowledged.at.slice(11, 19)}`);
  if (!known.acknowledge) return cell("–", "soft");
  return el("td", {}, el("button", { type: "button", class: "small", "data-event": String(one.n), onclick: () => known.acknowledge(env_id, one) }, "acknowledge"));
}

export function open(main, store) {
  const kinds = el("select", { onchange: () => update(store) }, ...["all", "stop", "run", "agent", "device", "authority", "lease", "refusal", "fault", "fallback", "back", "owner", "late", "error"].map((name) => el("option", {}, name)));
  const rows = el("tbody", {});
  waitForRelease(rows);
  main.append(
    el("div", { class: "tools" }, el("label", {}, "kind", kinds)),
    store.record ? "" : el("p", { class: "soft" }, "kept: the broker had this message when watching began."),
    el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Events" }, el("table", {},
      el("thead", {}, el("tr", {}, ...["age", "at (UTC)", "kind", "who", "what", "acknowledged by"].map((name) => el("th", { scope: "col" }, name)))), rows)));
  function update({ snapshot }) {
    if (!snapshot || isPressed()) return;
    const all = snapshot.environments.flatMap((environment) => environment.events.map((one) => ({ ...one, env_id: environment.env_id }))).filter((one) => kinds.value === "all" || one.kind === kinds.value);
    const focused = document.activeElement && rows.contains(document.activeElement) ? document.activeElement.dataset.event : null;
    rows.replaceChildren(...all.slice(0, 200).map((one) => el("tr", {},
      cell(one.kept ? "kept" : seconds(one.ago_s), "number"), cell(!one.kept || one.is_since ? since(one.at).replace(" UTC", "") : "–"), cell(one.kind), cell(one.subject),
      cell(one.what, one.what.startsWith("EMERGENCY") || one.what.startsWith("fault") || one.what.startsWith("offline") || one.kind === "refusal" || one.what.includes("REFUSED") || one.what.includes("NOT SAFE") ? "bad" : ""), acknowledged(one.env_id, one))));
    if (focused) for (const button of rows.querySelectorAll("button")) if (button.dataset.event === focused) button.focus();
  }
  return { update };
}
