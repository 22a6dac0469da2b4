// A table that filters, sorts and pages, so that a thousand rows stay usable.

import { el } from "./format.js";
import { isPressed, waitForRelease } from "./pressed.js";

const isNothing = (value) => value === null || value === undefined;

function compare(x, y) {
  if (x === y) return 0;
  if (isNothing(x)) return 1;
  if (isNothing(y)) return -1;
  if (typeof x === "string" && typeof y === "string") return x.localeCompare(y, "en", { numeric: true });
  return x < y ? -1 : 1;
}

// `columns`: name, value(one) to sort by, show(one) makes the cell, number: right-aligned.
// Rows have key and label; a button in a row keeps the focus if it has data-key.
export function pagedTable({ things, columns, size, extra = [], keep = () => true, isQuiet = false }) {
  let sort = columns[0], down = false, page = 0, newest = [];
  const again = () => { page = 0; draw(); };
  const filter = el("input", { type: "search", oninput: again });
  const back = el("button", { type: "button", onclick: () => { page -= 1; draw(); } }, "earlier");
  const on = el("button", { type: "button", onclick: () => { page += 1; draw(); } }, "later");
  const where = el("span", { class: "soft", role: "status" });
  const headings = el("tr", {}), rows = el("tbody", {});
  const tools = el("div", { class: "tools" }, el("label", {}, "filter by name", filter), ...extra, back, on, where);
  const table = el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": things },
    el("table", {}, el("thead", {}, headings), rows));
  for (const place of [rows, headings]) waitForRelease(place);

  function heading(column) {
    const order = column === sort ? (down ? "descending" : "ascending") : "none";
    const button = el("button", { type: "button", onclick: () => { down = column === sort ? !down : false; sort = column; draw(); } }, column.name);
    return el("th", { scope: "col", class: column.number ? "number" : "", "aria-sort": order }, button);
  }

  function draw() {
    if (isPressed()) return;
    const wanted = filter.value.toLowerCase();
    const all = newest.filter((one) => one.label.toLowerCase().includes(wanted) && keep(one));
    all.sort((a, b) => (down ? -1 : 1) * compare(sort.value(a), sort.value(b)) || compare(a.label, b.label));
    const pages = Math.max(1, Math.ceil(all.length / size));
    page = Math.max(0, Math.min(page, pages - 1));
    tools.hidden = isQuiet && newest.length <= size;
    back.disabled = page === 0;
    on.disabled = page === pages - 1;
    const text = `${all.length} ${things}, page ${page + 1} of ${pages}`;
    if (where.textContent !== text) where.textContent = text;
    const active = document.activeElement;
    const focused = active && headings.contains(active) ? active.textContent : null;
    headings.replaceChildren(...columns.map(heading));
    if (focused) for (const button of headings.querySelectorAll("button")) if (button.textContent === focused) button.focus();
    const key = active && rows.contains(active) ? active.dataset.key : null;
    rows.replaceChildren(...all.slice(page * size, (page + 1) * size).map((one) => el("tr", { "data-row": one.label }, ...columns.map((column) => column.show(one)))));
    if (key) for (const button of rows.querySelectorAll("button")) if (button.dataset.key === key) button.focus();
  }

  return { tools, table, again, update(all) { newest = all; draw(); } };
}
