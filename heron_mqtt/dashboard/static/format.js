// Numbers and elements, as every view writes them. Text from the network becomes text, never markup.

// A name that turns the direction of writing could make the page say something else than it does.
const TURNS = /[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
export const plain = (text) => text.replace(TURNS, "\ufffd");

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (typeof child === "string" ? plain(child) : child)));
  return node;
}

export function power(mw) {
  if (mw === null || mw === undefined) return "–";
  const size = Math.abs(mw);
  return size >= 1 ? `${mw.toFixed(3)} MW` : `${(mw * 1000).toFixed(size >= 0.1 ? 1 : 2)} kW`;
}

export function number(value, digits = 2) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 100) return `${value.toFixed(1)} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${Math.round(value / 3600)} h`;
}

export function milliseconds(value_s) {
  if (value_s === null || value_s === undefined) return "–";
  return value_s < 1 ? `${(value_s * 1000).toFixed(value_s < 0.01 ? 1 : 0)} ms` : seconds(value_s);
}

// A moment as a person reads it: the time of day, and the day where that is not today.
export function since(text) {
  if (!text) return "";
  const at = new Date(text), day = at.toISOString().slice(0, 10);
  return `${day === new Date().toISOString().slice(0, 10) ? "" : `${day} `}${at.toISOString().slice(11, 19)} UTC`;
}

export const clock = (text) => (text ? text.slice(0, 16).replace("T", " ") : "");

export function cell(text, kind = "") {
  return el("td", { class: kind }, text);
}

export function bar(share, label) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 10");
  svg.setAttribute("preserveAspectRatio", "none");
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  rect.setAttribute("height", "10");
  rect.setAttribute("width", String(100 * Math.max(0, Math.min(1, share))));
  svg.append(rect);
  return el("span", { class: "bar", role: "img", "aria-label": label }, svg);
}

export const HEALTH = { online: "good", silent: "bad", fault: "bad", offline: "bad", unborn: "warn", model: "soft", unknown: "warn" };
export const SIGN = { online: "●", silent: "▲", fault: "✖", offline: "✖", unborn: "▲", model: "○", unknown: "?" };
