"use strict";
// Tables can be sorted and filtered; without this script they are read as they are.
(() => {
  const LEAST_ROWS = 10;

  const key = (row, column) => {
    const cell = row.cells[column];
    const given = cell.dataset.number;
    if (given !== undefined) {
      return given === "inf" ? Infinity : Number(given);
    }
    return cell.textContent.trim();
  };

  const compare = (a, b) => {
    const numbers = typeof a === "number" && typeof b === "number";
    if (numbers) return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };

  const sortBy = (table, column, heading) => {
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
    body.append(...rows.map(([, row]) => row));
  };

  const makeSortable = (table) => {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sortBy(table, column, heading));
      heading.append(button);
    });
  };

  const MARKS = { bad: "wrong", note: "with a note", idle: "not run", good: "ok" };

  const makeFilter = (table) => {
    const rows = [...table.tBodies[0].rows];
    const caption = table.caption.textContent;
    const bar = document.createElement("div");
    bar.className = "filter";
    const search = document.createElement("input");
    search.type = "search";
    search.placeholder = "Filter rows";
    search.setAttribute("aria-label", `Filter rows of: ${caption}`);
    const select = document.createElement("select");
    select.setAttribute("aria-label", `Which rows of: ${caption}`);
    select.append(new Option("all rows", ""));
    for (const [mark, words] of Object.entries(MARKS)) {
      if (table.querySelector(`tbody .${mark}`)) select.append(new Option(words, mark));
    }
    const count = document.createElement("output");
    const apply = () => {
      const wanted = search.value.toLowerCase();
      let shown = 0;
      for (const row of rows) {
        const marked = !select.value || row.querySelector(`:scope > .${select.value}`);
        row.hidden = !marked || !row.textContent.toLowerCase().includes(wanted);
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = `${shown} of ${rows.length} rows`;
    };
    search.addEventListener("input", apply);
    select.addEventListener("change", apply);
    bar.append(search);
    if (select.options.length > 2) bar.append(select);
    bar.append(count);
    table.closest(".table-box").before(bar);
    apply();
  };

  for (const table of document.querySelectorAll("main table")) {
    if (table.tBodies[0].rows.length > 1) makeSortable(table);
    if (table.tBodies[0].rows.length >= LEAST_ROWS) makeFilter(table);
  }

  // What is folded is printed all the same.
  const folded = () => document.querySelectorAll("details:not([open])");
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...folded()];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });
})();
