"use strict";
// Tables of class "sorts" are sorted by a click on a column's name; long ones get a field that filters their rows.
const value = (row, column) => {
  const text = row.cells[column].textContent.trim(), number = parseFloat(text);
  return Number.isNaN(number) ? text : number;
};
const compare = (a, b) => typeof a === typeof b
  ? (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }))
  : (typeof a === "number" ? -1 : 1);
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], rows = [...body.rows];
  const sort = column => {
    const head = heads[column], descending = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(each => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const keyed = rows.map((row, place) => [value(row, column), place, row]);
    keyed.sort((a, b) => (descending ? -1 : 1) * compare(a[0], b[0]) || a[1] - b[1]);
    body.append(...keyed.map(entry => entry[2]));
  };
  heads.forEach((head, column) => {
    head.classList.add("sorts");
    head.tabIndex = 0;
    head.title = "sort";
    head.addEventListener("click", () => sort(column));
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(column); });
  });
  if (rows.length > 10) {
    const field = document.createElement("input");
    field.type = "search";
    field.className = "filter";
    field.placeholder = "filter " + rows.length + " rows, such as attn";
    field.setAttribute("aria-label", "filter rows");
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
    (table.closest(".scroll") || table).before(field);
  }
}
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach(each => { each.open = true; });
});
addEventListener("afterprint", () => opened.forEach(each => { each.open = false; }));
