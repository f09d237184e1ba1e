"use strict";
// Sorting for readers who have scripts on. Scenes move within their dataset; means stay where they are, gaps last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  const original = new Map(Array.from(table.querySelectorAll("tr.scene"), (row, place) => [row, place]));

  const keyOf = (row, column) => {
    const cell = row.cells[column];
    if (!cell || cell.classList.contains("missing") || cell.classList.contains("reason")) return null;
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));

  const sort = (column, direction) => {
    heads.forEach((head, place) => head.setAttribute("aria-sort", place === column ? direction : "none"));
    const sign = direction === "descending" ? -1 : 1;
    for (const body of table.tBodies) {
      const there = Array.from(body.querySelectorAll("tr.scene"));
      if (there.length === 0) continue;
      const below = there[there.length - 1].nextSibling;
      const rows = there.sort((one, other) => original.get(one) - original.get(other));
      if (direction !== "none") {
        rows.sort((one, other) => {
          const a = keyOf(one, column);
          const b = keyOf(other, column);
          if (a === null || b === null) return (a === null) - (b === null);
          return sign * compare(a, b);
        });
      }
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
// Paper has nothing to unfold, and a link may lead into what is folded.
const unfold = (part) => { for (; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true; };
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(unfold));
