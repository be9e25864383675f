"use strict";
// Sorting by a column: a button in each header, numbers as numbers, what is no number last, ties in the order they came.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const original = Array.from(body.rows);
  table.querySelectorAll("thead th").forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    header.replaceChildren(button);
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" };
      const order = next[header.getAttribute("aria-sort") || "none"];
      table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
      if (order !== "none") header.setAttribute("aria-sort", order);
      const sign = order === "descending" ? -1 : 1;
      const rows = order === "none" ? original : original.slice().sort((a, b) => sign * compare(key(a), key(b)) || 0);
      if (order !== "none") rows.sort((a, b) => empty(key(a)) - empty(key(b)));
      body.replaceChildren(...rows);
    });
    function key(row) {
      return row.cells[column].textContent.trim();
    }
  });
}
function empty(text) {
  return text === "" || text === "–" ? 1 : 0;
}
function number(text) {
  const found = /^[+-]?[\d,]*\.?\d+/.exec(text);
  return found ? Number(found[0].replaceAll(",", "")) : NaN;
}
function compare(a, b) {
  const x = number(a);
  const y = number(b);
  if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  return a < b ? -1 : a > b ? 1 : 0;
}
