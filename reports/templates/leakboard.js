// Tables get sorting, searching and a choice of columns from DataTables; without scripts they are plain tables.
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark", dark.matches);
dark.addEventListener("change", follow);
follow();

const narrow = window.matchMedia("(max-width: 47rem)");
const numbers = (list) => (list.trim() ? list.trim().split(" ").map(Number) : []);

function enhance(table) {
  const rows = table.tBodies[0].rows.length;
  const wide = numbers(table.dataset.wide);
  const made = new DataTable(table, {
    autoWidth: false,
    order: [],
    paging: rows > 100,
    pageLength: 50,
    info: rows > 100,
    columnDefs: [{ targets: [...numbers(table.dataset.hidden), ...(narrow.matches ? wide : [])], visible: false }],
    layout: {
      topStart: { buttons: [{ extend: "colvis", text: "Columns" }] },
      topEnd: { search: { placeholder: "", text: "Search this table: _INPUT_" } },
    },
  });
  narrow.addEventListener("change", () => made.columns(wide).visible(!narrow.matches));
}

for (const table of document.querySelectorAll("table.data")) {
  const folded = table.closest("details:not([open])");
  if (folded) folded.addEventListener("toggle", () => enhance(table), { once: true });
  else enhance(table);
}
