"use strict";
// Sorting for readers who have scripts on. Scenes move within their dataset; means stay below them, gaps last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  const original = new Map(Array.from(table.querySelectorAll("tr.scene"), (row, place) => [row, place]));

  const keyOf = (row, column) => {
    const cell = row.cells[column];
    if (!cell || cell.classList.contains("missing") || cell.classList.contains("reason")) return null;
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));

  const sort = (column, direction) => {
    heads.forEach((head, place) => head.setAttribute("aria-sort", place === column ? direction : "none"));
    const sign = direction === "descending" ? -1 : 1;
    for (const body of table.tBodies) {
      const rows = Array.from(body.querySelectorAll("tr.scene")).sort((one, other) => original.get(one) - original.get(other));
      if (direction !== "none") {
        rows.sort((one, other) => {
          const a = keyOf(one, column);
          const b = keyOf(other, column);
          if (a === null || b === null) return (a === null) - (b === null);
          return sign * compare(a, b);
        });
      }
      const below = body.querySelector("tr.mean");
      for (const row of rows) body.insertBefore(row, below);
    }
  };

  const next = { none: "ascending", ascending: "descending", descending: "none" };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sort(column, next[head.getAttribute("aria-sort")]));
  });
}
// Paper has nothing to unfold.
window.addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
