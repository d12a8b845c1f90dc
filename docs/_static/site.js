// Names the column of each cell of a table, which site.css shows on a phone. Regions that scroll can have the focus.
// A flag does not break after its dashes.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.docutils")) {
    const titles = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
    if (!titles.length || table.querySelector("[colspan], [rowspan]")) continue;
    table.classList.add("stacked");
    table.classList.toggle("dense", titles.length > 6);
    for (const row of table.tBodies[0].rows) {
      [...row.cells].forEach((cell, column) => {
        if (column && titles.length > 2 && titles[column]) cell.dataset.column = titles[column];
      });
    }
  }
  for (const word of document.querySelectorAll("code.literal .pre")) {
    word.classList.toggle("short", /^--?\w.{0,25}$/.test(word.textContent));
  }
  for (const code of document.querySelectorAll("div.highlight pre")) {
    code.tabIndex = 0;
  }
});
