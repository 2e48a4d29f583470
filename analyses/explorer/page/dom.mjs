// Elements of the page. Text is always set as text, so that nothing which is typed or linked becomes markup.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "path", "g", "title", "circle", "rect"]);

/**
 * An element: `h("button", {class: "token", onclick: f, "aria-label": "..."}, "7")`.
 *
 * Functions are listeners; false, null and undefined leave an attribute out, true makes it empty. `key` names the
 * element across renderings, so that it keeps the focus.
 */
export function h(tag, attributes = {}, ...children) {
  const element = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (name === "key") element.dataset.key = value;
    else if (name === "style")
      for (const [property, setting] of Object.entries(value)) element.style.setProperty(property, setting);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const $ = (id) => document.getElementById(id);

/** Put children into an element in place of what is there; what had the focus, known by its key, has it again. */
export function fill(id, ...children) {
  const parent = $(id);
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  parent.replaceChildren(...children.flat().filter(Boolean));
  if (focused) parent.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

/** A select: options [[value, text]]. */
export function select(key, options, current, onPick, attributes = {}) {
  const items = options.map(([value, text]) =>
    h("option", { value, selected: String(value) === String(current) }, text),
  );
  return h("select", { ...attributes, key, onchange: (event) => onPick(event.target.value) }, ...items);
}

/** A field with its label above it. */
export function field(label, control) {
  return h("label", { class: "field" }, h("span", {}, label), control);
}

/** A share as per cent. */
export function percent(share) {
  const value = 100 * share;
  return value > 0 && value < 0.1 ? "<0.1 %" : `${value.toFixed(value < 9.95 ? 1 : 0)} %`;
}

/** A token as people see it. */
export function glyph(token) {
  return token === " " ? "␣" : token;
}
