// The store, the connection, and which view is shown. The page only reads: it never sends a word.

import * as overview from "./views/overview.js";
import * as devices from "./views/devices.js";
import * as messages from "./views/messages.js";
import * as events from "./views/events.js";

const VIEWS = { overview, devices, messages, events };
const KEPT = 500; // messages and points of a plot
const CUT_MS = 2000;

export const store = { snapshot: null, messages: [], history: new Map(), heardAt: 0, connected: false };

let shown = null;

function take(snapshot) {
  store.heardAt = Date.now();
  store.messages.push(...snapshot.messages);
  store.messages.splice(0, Math.max(0, store.messages.length - KEPT));
  store.snapshot = snapshot;
  const now = Date.now() / 1000;
  for (const environment of snapshot.environments) {
    for (const [label, device] of Object.entries(environment.devices)) {
      const key = `${environment.env_id}/${label}`;
      const points = store.history.get(key) || { t: [], told: [], done: [] };
      points.t.push(now);
      points.told.push(device.setpoint_mw === null ? null : device.setpoint_mw * 1000);
      points.done.push(device.p_mw === null || device.p_mw === undefined ? null : device.p_mw * 1000);
      if (points.t.length > KEPT) for (const series of Object.values(points)) series.shift();
      store.history.set(key, points);
    }
  }
  draw();
}

function draw() {
  const { snapshot } = store;
  const cut = !store.connected || Date.now() - store.heardAt > CUT_MS;
  const link = document.getElementById("link");
  const text = cut ? "CUT OFF: this page hears nothing" : snapshot && !snapshot.connected ? "the broker is away" : "live";
  if (link.textContent !== text) link.textContent = text;
  link.classList.toggle("cut", text !== "live");
  if (!snapshot) return;
  document.getElementById("broker").textContent = snapshot.broker;
  const stops = snapshot.environments.filter((one) => one.stop);
  const banner = document.getElementById("stop");
  const said = stops.map((one) => `EMERGENCY STOP in ${one.env_id}, by ${one.stop.who || "unknown"}: ${one.stop.why || "no reason given"}`).join(" · ");
  banner.hidden = stops.length === 0;
  if (banner.textContent !== said) banner.textContent = said;
  if (shown) shown.update(store);
}

function show() {
  const name = location.hash.slice(1) || "overview";
  const view = VIEWS[name] || overview;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${VIEWS[name] ? name : "overview"}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const main = document.getElementById("view");
  main.replaceChildren();
  shown = view.open(main, store);
  draw();
}

function connect() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
  socket.addEventListener("open", () => { store.connected = true; });
  socket.addEventListener("message", (event) => take(JSON.parse(event.data)));
  socket.addEventListener("close", () => {
    store.connected = false;
    draw();
    setTimeout(connect, 1000);
  });
}

addEventListener("hashchange", show);
setInterval(draw, 500);
show();
connect();
