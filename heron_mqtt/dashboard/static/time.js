// The time of a record: a slider over its steps, and marks where something happened.

import { clock, el } from "./format.js";
import { store, take } from "./store.js";

const PLAY_MS = 400;
let parts = null, wanted = null, asking = false, playing = null;

function build(place) {
  const slider = el("input", { type: "range", min: "0", max: "0", value: "0", "aria-label": "step of the record", list: "marks", oninput: () => go(Number(slider.value)) });
  const marks = el("datalist", { id: "marks" });
  const where = el("output", { class: "where", for: "time-slider" });
  const about = el("p", { class: "soft" });
  const failure = el("p", { class: "bad", role: "alert", hidden: "" });
  const jump = el("select", { "aria-label": "go to", onchange: () => { if (jump.value !== "") go(Number(jump.value)); jump.value = ""; } });
  const button = (text, label, action) => el("button", { type: "button", "aria-label": label, onclick: action }, text);
  const play = button("play", "play", () => (playing ? stop() : start()));
  slider.id = "time-slider";
  place.append(about, failure, el("div", { class: "slider" }, button("|◀", "first step", () => go(0)), button("◀", "one step back", () => go(at() - 1)), play,
    button("▶", "one step on", () => go(at() + 1)), button("▶|", "last step", () => go(last())), slider, where, jump), marks);
  return { slider, marks, where, about, failure, jump, play, drawn: "" };
}

const last = () => store.record.steps - 1;
const at = () => wanted ?? 0;

function start() {
  if (at() >= last()) go(0);
  playing = setInterval(() => (at() >= last() ? stop() : go(at() + 1)), PLAY_MS);
  parts.play.textContent = "pause";
  parts.play.setAttribute("aria-label", "pause");
}

function stop() {
  clearInterval(playing);
  playing = null;
  parts.play.textContent = "play";
  parts.play.setAttribute("aria-label", "play");
}

// One question at a time: while the slider moves, the steps between are left out.
async function go(n) {
  wanted = Math.max(0, Math.min(n, last()));
  parts.slider.value = String(wanted);
  if (asking) return;
  asking = true;
  try {
    for (let asked = -1; asked !== wanted;) {
      asked = wanted;
      const answer = await fetch(`at?n=${asked}`);
      if (answer.ok) take(await answer.json());
      say(parts.failure, answer.ok ? "" : await answer.text());
    }
  } catch { /* the page says that it is cut off */ } finally {
    asking = false;
  }
}

function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
  place.hidden = text === "";
}

export function update() {
  const place = document.getElementById("time"), { record } = store;
  if (!record) return;
  if (!parts) parts = build(place);
  place.hidden = false;
  if (record.failure) return say(parts.failure, record.failure);
  const ended = record.is_ended ? "" : ", being written, or cut off";
  const merged = record.merged.length ? `, merged with ${record.merged.join(", ")}` : "";
  say(parts.about, `${record.file}: ${record.scenario}, ${record.mode}, recorded by ${record.role} at ${clock(record.begun_at)} UTC, ${record.steps} steps${ended}${merged}` +
    `${record.has_messages ? "" : ", without messages"}${record.lost_rows ? `, ${record.lost_rows} rows are missing` : ""}${record.why_no_grid ? `. No diagram: ${record.why_no_grid}` : ""}`);
  parts.slider.max = String(Math.max(0, last()));
  parts.slider.disabled = record.steps === 0;
  const drawn = JSON.stringify(record.marks);
  if (drawn !== parts.drawn) {
    parts.drawn = drawn;
    parts.marks.replaceChildren(...record.marks.map((mark) => el("option", { value: String(mark.n) })));
    parts.jump.replaceChildren(el("option", { value: "" }, record.marks.length ? `go to (${record.marks.length})` : "no marks"),
      ...record.marks.map((mark) => el("option", { value: String(mark.n) }, `${mark.n}: ${mark.subject}: ${mark.what}`.slice(0, 80))));
  }
  if (wanted === null && record.steps > 0) go(last());
  const run = store.snapshot && store.snapshot.environments[0].run;
  const text = record.steps === 0 ? "no step yet" : run ? `step ${run.step} of episode ${run.episode}, ${at() + 1} of ${record.steps}${run.clock ? `, ${clock(run.clock)}` : ""}` : "";
  if (parts.where.textContent !== text) parts.where.textContent = text;
  parts.slider.setAttribute("aria-valuetext", text);
}
