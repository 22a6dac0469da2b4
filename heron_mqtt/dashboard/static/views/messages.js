// How much is said where, what was lost, and a live tail; a message opened as JSON.

import { cell, el, number } from "../format.js";

export function open(main, store) {
  const filter = el("input", { type: "search", placeholder: "devices/MG1", oninput: () => update(store) });
  let paused = false, opened = null;
  const pause = el("button", { type: "button", "aria-pressed": "false", onclick: () => { paused = !paused; pause.setAttribute("aria-pressed", String(paused)); pause.textContent = paused ? "go on" : "pause"; } }, "pause");
  const counts = el("tbody", {});
  const tail = el("ol", { class: "tail" });
  const one = el("pre", { hidden: "" });
  main.append(
    el("h2", {}, "Channels"),
    el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Channels" }, el("table", {},
      el("thead", {}, el("tr", {}, ...["channel", "messages", "a second", "lost", "repeated"].map((name, n) => el("th", { scope: "col", class: n ? "number" : "" }, name)))), counts)),
    el("h2", {}, "Live"),
    el("div", { class: "tools" }, el("label", {}, "filter by channel", filter), pause), one, tail);

  function update({ snapshot, messages }) {
    if (!snapshot) return;
    counts.replaceChildren(...snapshot.environments.flatMap((environment) => Object.entries(environment.channels).map(([name, kind]) => el("tr", {},
      el("th", { scope: "row" }, name), cell(String(kind.messages), "number"), cell(number(kind.rate, 1), "number"),
      cell(String(kind.lost), kind.lost ? "number bad" : "number"), cell(String(kind.repeated), kind.repeated ? "number warn" : "number")))));
    if (paused || tail.contains(document.activeElement)) return;
    const wanted = filter.value;
    tail.replaceChildren(...messages.filter((message) => message.channel.includes(wanted)).slice(-60).reverse().map((message) => el("li", {},
      el("button", { type: "button", onclick: () => {
        opened = message;
        one.hidden = false;
        let text = message.text;
        try { text = JSON.stringify(JSON.parse(message.text), null, 2); } catch { /* cut off, or no JSON: as it came */ }
        one.textContent = `${message.env_id}/${message.channel}  ${message.at}${message.retained ? "  kept by the broker" : ""}\n${text}`;
      } }, `${message.at.slice(11, 23)}  ${message.channel}  ${message.readable ? "" : "UNREADABLE "}${message.text}`))));
  }
  return { update };
}
