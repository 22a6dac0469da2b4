// How much is said where, what was lost, and a live tail; a message opened as JSON.

import { cell, el, milliseconds, number, plain } from "../format.js";
import { socket } from "../store.js";

const KEPT = 500;

// What an impaired network did to the messages of a channel.
function network(kind) {
  const parts = Object.entries(kind.network || {}).map(([what, count]) => `${count} ${what}`);
  if (kind.delay_mean_s !== null && kind.delay_mean_s !== undefined) parts.push(`${milliseconds(kind.delay_mean_s)} on average, ${milliseconds(kind.delay_max_s)} at most`);
  return parts.join(", ") || "–";
}

export function open(main, store) {
  const filter = el("input", { type: "search", placeholder: "devices/MG1", oninput: () => { clearTimeout(typing); typing = setTimeout(listen, 300); } });
  let paused = false, newest = [], tailing = null, typing = null;
  const pause = el("button", { type: "button", "aria-pressed": "false", onclick: () => { paused = !paused; pause.setAttribute("aria-pressed", String(paused)); pause.textContent = paused ? "go on" : "pause"; } }, "pause");
  const counts = el("tbody", {});
  const tail = el("ol", { class: "tail" });
  const one = el("pre", { hidden: "" });
  main.append(
    el("h2", {}, "Channels"),
    el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Channels" }, el("table", {},
      el("thead", {}, el("tr", {}, ...["channel", "messages", "a second", "lost", "repeated", ...(store.record ? ["the network"] : ["delay, mean", "delay, longest"])].map((name, n) => el("th", { scope: "col", class: n && name !== "the network" ? "number" : "" }, name)))), counts)),
    store.record ? "" : el("p", { class: "soft" }, "Delay: how much later than the quickest message of its sender, of the newest 200; clocks of machines are not compared."),
    el("h2", {}, store.record ? "Newest" : "Live"),
    el("div", { class: "tools" }, el("label", {}, "filter by channel", filter), pause), one, tail);

  // A tail of its own, which the server filters: of a thousand devices only those that are looked for.
  function listen() {
    if (store.record) return;
    if (tailing) tailing.close();
    newest = [];
    const mine = tailing = socket(`/tail?filter=${encodeURIComponent(filter.value)}`);
    mine.addEventListener("message", (event) => {
      newest.push(...JSON.parse(event.data));
      newest.splice(0, Math.max(0, newest.length - KEPT));
    });
    mine.addEventListener("close", () => { if (tailing === mine) { tailing = null; typing = setTimeout(listen, 1000); } });
  }
  listen();

  // Of a record, those up to its step.
  let shown = "";
  async function read() {
    const wanted = `messages?n=${store.snapshot.at}&filter=${encodeURIComponent(filter.value)}`;
    if (wanted === shown) return;
    shown = wanted;
    const answer = await fetch(wanted).catch(() => null);
    if (!answer || !answer.ok || wanted !== shown) return;
    newest = await answer.json();
    update(store);
  }

  function update({ snapshot }) {
    if (!snapshot) return;
    if (store.record) read();
    counts.replaceChildren(...snapshot.environments.flatMap((environment) => Object.entries(environment.channels).map(([name, kind]) => el("tr", {},
      el("th", { scope: "row" }, name), cell(String(kind.messages), "number"), cell(number(kind.rate, 1), "number"),
      cell(String(kind.lost), kind.lost ? "number bad" : "number"), cell(String(kind.repeated), kind.repeated ? "number warn" : "number"),
      ...(store.record ? [cell(network(kind))] : [cell(milliseconds(kind.delay_mean_s), "number"), cell(milliseconds(kind.delay_max_s), "number")])))));
    if (paused || tail.contains(document.activeElement)) return;
    tail.replaceChildren(...newest.slice(-60).reverse().map((message) => el("li", {},
      el("button", { type: "button", onclick: () => {
        one.hidden = false;
        let text = message.text;
        try { text = JSON.stringify(JSON.parse(message.text), null, 2); } catch { /* cut off, or no JSON: as it came */ }
        one.textContent = plain(`${message.env_id}/${message.channel}  ${message.at}${message.retained ? "  kept by the broker" : ""}\n${text}`);
      } }, `${message.at.slice(11, 23)}  ${message.channel}  ${message.readable ? "" : "UNREADABLE "}${message.note ? `[${message.note}] ` : ""}${message.text}`))));
  }
  function close() {
    const mine = tailing;
    tailing = null;
    clearTimeout(typing);
    if (mine) mine.close();
  }
  return { update, close };
}
