// Which view is shown, and what stands above every view. Without control it never sends anything.

import { changed, isCutOff, lookAt, onChange, store } from "./store.js";
import { plain, since } from "./format.js";
import * as time from "./time.js";
import * as overview from "./views/overview.js";
import * as devices from "./views/devices.js";
import * as messages from "./views/messages.js";
import * as events from "./views/events.js";

const VIEWS = { overview, devices, messages, events };

let shown = null, viewName = null, shownOfRecord = false, control = null;

// Only a page that was started with --control has this file at all.
async function addControl() {
  control = await import("./views/control.js");
  VIEWS.control = control;
  document.getElementById("control-link").hidden = false;
  await control.resume();
  if (location.hash === "#control") show();
}

function say(place, told) {
  const text = plain(told);
  if (place.textContent !== text) place.textContent = text;
}

function draw() {
  const { snapshot } = store;
  const link = document.getElementById("link");
  const text = isCutOff() ? "CUT OFF: this page hears nothing" : store.record ? "record" : snapshot && !snapshot.connected ? "the broker is away" : "live";
  const isWell = text === "live" || text === "record";
  say(link, text);
  link.classList.toggle("cut", !isWell);
  document.body.classList.toggle("stale", !isWell);
  time.update(store);
  if (shown && shownOfRecord !== Boolean(store.record)) show(); // a record's views have other columns
  if (snapshot && snapshot.control && !control) {
    control = {};
    addControl();
  }
  if (control && control.header) control.header(document.getElementById("person"), store);
  if (!snapshot) return;
  say(document.getElementById("broker"), snapshot.broker);
  const stops = snapshot.environments.filter((one) => one.stop);
  const banner = document.getElementById("stop");
  banner.hidden = stops.length === 0;
  say(banner, stops.map((one) => `EMERGENCY STOP in ${one.env_id}, by ${one.stop.who || "unknown"}: ${one.stop.why || "no reason given"}${one.stop.since ? `, since ${since(one.stop.since)}` : ""}`).join(" · "));
  // what was sent for another view may lack what this one shows
  if (shown && (store.record || snapshot.view === viewName)) shown.update(store);
}

function show() {
  const wanted = location.hash.slice(1);
  const name = VIEWS[wanted] ? wanted : "overview";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const main = document.getElementById("view");
  if (shown && shown.close) shown.close();
  main.replaceChildren();
  shownOfRecord = Boolean(store.record);
  shown = VIEWS[name].open(main, store);
  viewName = name;
  lookAt(name);
  draw();
}

onChange(draw);
addEventListener("hashchange", show);
setInterval(changed, 500); // ages go on, and silence is noticed
show();
