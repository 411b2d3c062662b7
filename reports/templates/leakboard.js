// Tables get sorting, searching and a choice of columns from DataTables; without scripts they are plain tables.
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark", dark.matches);
dark.addEventListener("change", follow);
follow();

for (const table of document.querySelectorAll("table.data")) {
  const rows = table.tBodies[0].rows.length;
  const hidden = table.dataset.hidden.trim();
  new DataTable(table, {
    autoWidth: false,
    order: [],
    paging: rows > 100,
    pageLength: 50,
    info: rows > 100,
    columnDefs: hidden ? [{ targets: hidden.split(" ").map(Number), visible: false }] : [],
    layout: {
      topStart: { buttons: [{ extend: "colvis", text: "Columns" }] },
      topEnd: { search: { placeholder: "", text: "Search this table: _INPUT_" } },
    },
  });
}
