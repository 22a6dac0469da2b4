// Control: a login, and requests with a confirmation that names the consequence. What came of each stands above every view.

import { el, power, seconds } from "../format.js";
import { changed, socket, store } from "../store.js";

const WHY = 500;
let person = null, link = null, number = 0;
const waiting = new Map();

// -- login --------------------------------------------------------------------------------------------

async function session(headers = {}) {
  const answer = await fetch("session", { headers: { "X-Heron-Page": "1", ...headers } }).catch(() => null);
  const about = answer && answer.ok ? await answer.json() : null;
  if (about) await open_link(about);
  return Boolean(about);
}

export const resume = () => session();

function logIn(name, password) {
  return new Promise((resolve) => {
    const login = socket("/login");
    let said = false;
    login.addEventListener("open", () => login.send(JSON.stringify({ name, password })));
    login.addEventListener("message", async (event) => {
      said = true;
      const { ticket, error } = JSON.parse(event.data);
      resolve(error || ((await session({ "X-Heron-Ticket": ticket })) ? "" : "the login was not taken: try again"));
    });
    login.addEventListener("close", () => { if (!said) resolve("the server does not answer"); });
  });
}

function open_link({ who, csrf }) {
  return new Promise((resolve) => {
    const mine = link = socket("/control");
    mine.addEventListener("open", () => mine.send(JSON.stringify({ csrf })));
    mine.addEventListener("message", (event) => {
      const said = JSON.parse(event.data);
      if (!person) {
        person = { who, levels: said.levels, gates: said.gates };
        store.acknowledge = (env_id, event) => ask({ do: "acknowledge", env_id, event: event.n });
        changed();
        resolve();
      } else if (waiting.has(said.id)) {
        waiting.get(said.id)(said);
        waiting.delete(said.id);
      }
    });
    mine.addEventListener("close", () => {
      if (link !== mine) return resolve();
      for (const answer of waiting.values()) answer({ ok: false, text: "the connection ended before there was an answer: look whether it happened", lines: [] });
      waiting.clear();
      person = link = null;
      store.acknowledge = null;
      changed();
      resolve();
    });
  });
}

// -- requests -----------------------------------------------------------------------------------------

async function ask(request) {
  if (!link) return show({ ok: false, text: "no operator is logged in: nothing was sent", lines: [] });
  const id = ++number;
  show({ ok: null, text: `${request.do}: waiting for proof`, lines: [] });
  const answered = new Promise((resolve) => waiting.set(id, resolve));
  link.send(JSON.stringify({ id, ...request }));
  show(await answered);
}

function show({ ok, text, lines }) {
  const place = document.getElementById("result");
  place.className = ok === null ? "soft" : ok ? "good" : "bad";
  place.replaceChildren(el("p", {}, `${ok === null ? "…" : ok ? "✓" : "✖"} ${text}`), lines.length ? el("ul", {}, ...lines.map((line) => el("li", {}, line))) : "",
    el("button", { type: "button", onclick: () => { place.hidden = true; } }, "close"));
  place.hidden = false;
}

// Nothing is sent before the user has confirmed what will happen; the safe button has the focus.
function confirm(title, consequence, action, done, items = []) {
  const why = el("input", { type: "text", maxlength: String(WHY) });
  const dialog = el("dialog", { "aria-labelledby": "confirm-title" },
    el("h2", { id: "confirm-title" }, title), el("p", {}, consequence),
    items.length ? el("ul", {}, ...items.map(([sign, text]) => el("li", {}, `${sign} ${text}`))) : "",
    el("label", {}, "why, for the record", why),
    el("div", { class: "tools" }, el("button", { type: "button", autofocus: "", onclick: () => dialog.close() }, "cancel"),
      el("button", { type: "button", class: "danger", onclick: () => { dialog.close(); done(why.value); } }, action)));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function stop(environment) {
  const devices = Object.entries(environment.devices).filter(([, one]) => !["model", "offline"].includes(one.health)).map(([label]) => label);
  confirm(`Stop ${environment.env_id}?`, `Every device of ${environment.env_id} goes to its safe state at once and refuses setpoints until the stop is released, those that connect later too. ` +
    (devices.length ? `Known to be there: ${devices.slice(0, 12).join(", ")}${devices.length > 12 ? ` and ${devices.length - 12} more` : ""}.` : "No device is known to be there."),
    `stop ${environment.env_id}`, (why) => ask({ do: "stop", env_id: environment.env_id, why }));
}

function release(environment) {
  confirm(`Release the stop of ${environment.env_id}?`, `Gateways may send setpoints again at once, and devices follow them: they may begin to move. The stop is by ${environment.stop.who || "unknown"}: ${environment.stop.why || "no reason given"}.`,
    `release ${environment.env_id}`, (why) => ask({ do: "release", env_id: environment.env_id, why }));
}

const MEANS = {
  simulated: (d) => `${d} is left alone: its model stands in, and no setpoint is sent.`,
  emulated: (d) => `Setpoints are sent to the emulator ${d}, unbounded by a band.`,
  shadow: (d) => `${d} is read and never written to; a lease that is held is given back, and it goes to its safe state.`,
  limited: (d) => `Setpoints move ${d}, within the band of the scenario.`,
  full: (d) => `Setpoints move ${d} over its whole nameplate.`,
};

// Which gates stand before a level, and what is seen of each from here; the gateway decides.
function gatesOf(device, present, level) {
  return (person.gates[present] || {})[level].map((text) => {
    if (text.startsWith("health")) return [device.health === "online" ? "✓" : "✖", `${text}; it is ${device.health}`];
    if (text.startsWith("telemetry")) return [device.age_s !== null && device.age_s < 2 ? "✓" : "✖", `${text}; the newest is ${seconds(device.age_s)} old`];
    if (text.startsWith("ladder")) return ["✖", text];
    return ["?", `${text}: the gateway knows`];
  });
}

// -- the view -----------------------------------------------------------------------------------------

export function header(place, { snapshot }) {
  const state = person ? JSON.stringify([person.who, snapshot.environments.map((one) => [one.env_id, Boolean(one.stop)])]) : "";
  if (place.dataset.state === state) return;
  place.dataset.state = state;
  place.hidden = !person;
  if (!person) return place.replaceChildren();
  const byName = (env_id) => store.snapshot.environments.find((one) => one.env_id === env_id);
  place.replaceChildren(`${person.who} `,
    ...snapshot.environments.map(({ env_id, stop: stands }) => stands
      ? el("button", { type: "button", onclick: () => release(byName(env_id)) }, `release ${env_id}`)
      : el("button", { type: "button", class: "danger", onclick: () => stop(byName(env_id)) }, `STOP ${env_id}`)),
    el("button", { type: "button", onclick: () => link.send(JSON.stringify({ do: "logout" })) }, "log out"));
}

function loginForm() {
  const name = el("input", { type: "text", autocomplete: "username", required: "" });
  const password = el("input", { type: "password", autocomplete: "current-password", required: "" });
  const said = el("p", { class: "bad", role: "alert" });
  const go = el("button", { type: "submit" }, "log in");
  return el("form", { class: "login", onsubmit: async (event) => {
    event.preventDefault();
    go.disabled = true;
    said.textContent = "";
    said.textContent = await logIn(name.value, password.value);
    password.value = "";
    go.disabled = false;
  } }, el("h2", {}, "Log in to control"), el("label", {}, "name", name), el("label", {}, "password", password), go, said);
}

function forms() {
  const device = el("select", { oninput: () => levels() });
  const state = el("p", { class: "soft", role: "status" });
  const level = el("select", { oninput: () => levels() }, ...person.levels.map((one) => el("option", {}, one)));
  const gates = el("ul", {});
  const kw = el("input", { type: "number", step: "any", value: "0" });
  const kvar = el("input", { type: "number", step: "any", value: "0" });
  const minutes = el("input", { type: "number", min: "0.1", max: "1440", step: "any", value: "10" });
  const kind = el("select", {}, ...["silence", "stuck", "frozen", "offset", "ignore_setpoints", "reject_setpoints", "garbage", "reboot"].map((one) => el("option", {}, one)));
  const steps = el("input", { type: "number", min: "1", max: "1000000", value: "1" });
  const offset = el("input", { type: "number", step: "any", value: "0" });
  const fault = el("button", { type: "submit" }, "have this fault…");
  let listed = "";

  const chosen = () => {
    const [env_id, label] = JSON.parse(device.value || "[null, null]");
    const environment = store.snapshot.environments.find((one) => one.env_id === env_id);
    return environment && environment.devices[label] ? { env_id, label, one: environment.devices[label] } : null;
  };
  const present = (one) => (one.authority ? one.authority.level : "simulated");
  function levels() {
    const now = chosen();
    if (!now) return;
    const found = gatesOf(now.one, present(now.one), level.value);
    const texts = found.length ? found.map(([sign, text]) => `${sign} ${text}`) : ["✓ no gate: it is granted, and takes effect at once"];
    if (gates.textContent !== texts.join("")) gates.replaceChildren(...texts.map((text) => el("li", {}, text)));
  }
  const form = (title, done, ...parts) => el("form", { onsubmit: (event) => { event.preventDefault(); const now = chosen(); if (now) done(now); } }, el("h3", {}, title), ...parts);
  const root = el("div", { class: "control" }, el("h2", {}, "One device"), el("label", {}, "device", device), state,
    form("Authority", ({ env_id, label, one }) => confirm(`${label}: ${level.value}?`, `${MEANS[level.value](label)} It is at ${present(one)} now.`, `ask for ${level.value}`,
      (why) => ask({ do: "authority", env_id, device: label, level: level.value, why }), gatesOf(one, present(one), level.value)),
    el("label", {}, "level", level), el("div", {}, "Gates", gates), el("button", { type: "submit" }, "ask for this level…")),
    form("In hand", ({ env_id, label }) => {
      const [p, q, t] = [Number(kw.value) / 1000, Number(kvar.value) / 1000, Number(minutes.value) * 60];
      confirm(`Take ${label} in hand?`, `${label} is told ${power(p)} (${p > 0 ? "into the grid" : p < 0 ? "out of the grid" : "nothing"}) for ${seconds(t)}, within nameplate, band and lease. What its agent decides does not reach it meanwhile.`, `take ${label}`,
        (why) => ask({ do: "take", env_id, device: label, p_mw: p, q_mvar: q, for_s: t, why }));
    }, el("label", {}, "kW, positive = into the grid", kw), el("label", {}, "kvar", kvar), el("label", {}, "minutes", minutes), el("button", { type: "submit" }, "take in hand…"),
    el("button", { type: "button", onclick: () => { const now = chosen(); if (now) confirm(`Give ${now.label} back?`, `${now.label} follows its agent again at once.`, `give ${now.label} back`, (why) => ask({ do: "take", env_id: now.env_id, device: now.label, for_s: 0, why })); } }, "give back…")),
    form("Fault of an emulator", ({ env_id, label }) => confirm(`${label}: ${kind.value}?`, `The emulator ${label} has the fault ${kind.value} for ${steps.value} steps, from its next step on. Gateway and agents treat it as they would a real device's.`, `have the fault`,
      (why) => ask({ do: "fault", env_id, device: label, kind: kind.value, steps: Number(steps.value), value: Number(offset.value) / 1000, why })),
    el("label", {}, "fault", kind), el("label", {}, "steps", steps), el("label", {}, "offset kW", offset), fault));

  return {
    root,
    update() {
      const all = store.snapshot.environments.flatMap((one) => Object.keys(one.devices).map((label) => [one.env_id, label]));
      if (JSON.stringify(all) !== listed && document.activeElement !== device) {
        listed = JSON.stringify(all);
        const before = device.value;
        device.replaceChildren(...all.map(([env_id, label]) => el("option", { value: JSON.stringify([env_id, label]) }, store.snapshot.environments.length > 1 ? `${env_id}: ${label}` : label)));
        if (all.some((pair) => JSON.stringify(pair) === before)) device.value = before;
      }
      const now = chosen();
      const hand = now && now.one.manual ? `, under manual control of ${now.one.manual.who}` : "";
      const text = now ? `${now.one.health}, at ${present(now.one)}${hand}, told ${power(now.one.setpoint_mw)}, measures ${power(now.one.p_mw)}` : "no device is known";
      if (state.textContent !== text) state.textContent = text;
      fault.disabled = !now || present(now.one) !== "emulated";
      levels();
    },
  };
}

export function open(main) {
  let shown = null, parts = null;
  return {
    update({ snapshot }) {
      if (!snapshot) return;
      if (shown !== Boolean(person)) {
        shown = Boolean(person);
        parts = person ? forms() : null;
        main.replaceChildren(parts ? parts.root : loginForm());
      }
      if (parts) parts.update();
    },
  };
}
