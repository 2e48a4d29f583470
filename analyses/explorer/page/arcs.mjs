// The arcs over the tokens: where values come from (the machine), and what a head attends to (the model).

import { h, percent } from "./dom.mjs";

const FLOW = { load_store: "register", operand: "stack", store: "stack", shuffle: "stack", decision: "stack" };
const SHOWN = 0.08; // attention that is drawn

/** The data flow as arcs, each pair of tokens once: [{query, key, kind}]; the kind is "register" or "stack". */
export function flowOf(graph) {
  const arcs = new Map();
  for (const { kind, query, key } of graph.edges) {
    if (!FLOW[kind] || query === key || (kind === "decision" && arcs.has(`${query} ${key}`))) continue;
    const isRegister = FLOW[kind] === "register";
    if (isRegister || !arcs.has(`${query} ${key}`)) arcs.set(`${query} ${key}`, { query, key, kind: FLOW[kind] });
  }
  return [...arcs.values()];
}

/**
 * The picture. geometry: {left, step, height}, the middle of token i at left + (i + 1.5) * step (the marker is -1).
 * attention: [{query, key, weight, isBlocked}] of the head that is looked at; onBlock(query, key) is a click on one.
 */
export function arcsPicture(n, flow, attention, selected, geometry, onBlock) {
  const { left, step, height } = geometry;
  const x = (token) => left + (token + 1.5) * step;
  const width = left + (n + 1) * step;
  const curve = (query, key) => {
    const reach = Math.min(height - 8, 14 + 13 * Math.sqrt(query - key) * 1.6);
    const [from, to] = [x(key), x(query)];
    return `M ${from} ${height} C ${from} ${height - reach * 1.3}, ${to} ${height - reach * 1.3}, ${to} ${height}`;
  };
  const paths = flow.map(({ query, key, kind }) =>
    h("path", { class: `flow ${kind}${query === selected ? " here" : ""}`, d: curve(query, key) }),
  );
  for (const { query, key, weight, isBlocked } of attention) {
    if (key === query || (weight < SHOWN && !isBlocked)) continue;
    const words = `attention from token ${query} to ${key < 0 ? "the marker" : `token ${key}`}: ${percent(weight)}`;
    const attributes = { d: curve(query, key), "stroke-width": 1 + 5 * weight, "stroke-opacity": 0.25 + 0.75 * weight };
    const seen = isBlocked ? { d: attributes.d, class: "attention blocked" } : { ...attributes, class: "attention" };
    const hit = { d: attributes.d, class: "hit", onclick: () => onBlock(query, key) };
    const title = h("title", {}, `${words}; click to ${isBlocked ? "let it pass again" : "block it"}`);
    paths.push(h("g", { class: query === selected ? "here" : "other" }, h("path", seen), h("path", hit, title)));
  }
  const words = `${flow.length} arcs of data flow over the tokens${attention.length ? ", and the attention of a head" : ""}`;
  return h(
    "svg",
    { class: "arcs", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words },
    ...paths,
  );
}
