"use strict";
const cellOf = (row, at) => row.cells[at].dataset.value ?? row.cells[at].textContent.trim();
const compare = (a, b) => {
  if (a === "" || b === "") return (a === "") - (b === "");
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
};
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const falls = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [cellOf(a, head.cellIndex), cellOf(b, head.cellIndex)];
      return x === "" || y === "" || !falls ? compare(x, y) : compare(y, x);  // empty cells stay last
    });
    body.append(...rows);
    document.getElementById("said").textContent = `${table.dataset.title} sorted by ${button.textContent}, ${falls ? "falling" : "rising"}`;
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details:not(.data)").forEach((one) => { one.open = true; }));
const ink = { labelColor: "currentColor", titleColor: "currentColor" };
const config = { axis: ink, legend: ink, header: ink, title: { color: "currentColor" } };
const draw = async () => {
  if (typeof vegaEmbed === "undefined") return;
  for (const spec of document.querySelectorAll("script.spec")) {
    const place = document.getElementById(`drawing-${spec.dataset.name}`);
    const theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    const fresh = document.createElement("div");
    const options = { actions: false, renderer: "svg", config, tooltip: { theme }, logLevel: 1 };  // errors: a panel may lack a layer
    await vegaEmbed(fresh, JSON.parse(spec.textContent), options);
    place.replaceChildren(fresh);
    place.classList.add("drawn");
  }
};
draw().finally(() => { document.body.dataset.ready = "true"; });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
