"use strict";
// Tables that sort, filter and unfold; links that open what they lead to. Without this script everything is shown.
const element = (tag, properties, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};
const sections = [...document.querySelectorAll("details.section")];

// A number at the beginning of a cell, thousands with commas; NaN where there is none.
const leading = (text) => parseFloat(text.replaceAll(",", ""));

function sort(table, column) {
  const head = table.tHead.rows[0].cells[column];
  const descending = head.ariaSort === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.ariaSort = descending ? "descending" : "ascending";
  const text = (row) => row.cells[column].textContent.trim();
  const rows = [...table.tBodies[0].rows];
  const numeric = rows.every((row) => !text(row) || !isNaN(leading(text(row))));
  const compare = numeric ? (a, b) => leading(a) - leading(b) : (a, b) => a.localeCompare(b, "en", { numeric: true });
  rows.sort((a, b) => {
    if (!text(a) || !text(b)) return (text(a) ? 0 : 1) - (text(b) ? 0 : 1);  // empty cells stay last
    return (descending ? -1 : 1) * compare(text(a), text(b));
  });
  table.tBodies[0].append(...rows);
}

function equip(box) {
  const table = box.querySelector("table");
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = element("button", { type: "button", title: "Sort by this column" }, ...cell.childNodes);
    button.onclick = () => sort(table, column);
    cell.append(button);
  });
  const tools = element("p", { className: "tools" });
  if (table.tBodies[0].rows.length > 8) {
    const filter = element("input", { type: "search", placeholder: "Filter rows", ariaLabel: "Filter rows" });
    filter.oninput = () => {
      const words = filter.value.toLowerCase().split(/\s+/);
      for (const row of table.tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    };
    tools.append(filter);
  }
  if (box.classList.contains("foldable")) {
    const unfold = element("button", { type: "button", ariaPressed: "false" }, "All columns");
    unfold.onclick = () => { unfold.ariaPressed = String(box.classList.toggle("all")); };
    tools.append(unfold);
  }
  if (tools.children.length) box.prepend(tools);
}

// Open the section that the address names, or the one around the row that it names.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const section = target && target.closest("details.section");
  if (!section) return;
  section.open = true;
  target.scrollIntoView();
}

document.documentElement.classList.add("scripted");
document.querySelectorAll("div.table").forEach(equip);
document.querySelectorAll("[data-open]").forEach((button) => {
  button.onclick = () => sections.forEach((section) => { section.open = button.dataset.open === "all"; });
  button.parentElement.hidden = false;
});
addEventListener("hashchange", reveal);
document.addEventListener("click", (event) => { // a second click on the same link changes no address
  const link = event.target.closest("a[href^='#']");
  if (link && link.hash === location.hash) reveal();
});
let closed = [];
addEventListener("beforeprint", () => {
  closed = sections.filter((section) => !section.open);
  closed.forEach((section) => { section.open = true; });
});
addEventListener("afterprint", () => closed.forEach((section) => { section.open = false; }));
reveal();
