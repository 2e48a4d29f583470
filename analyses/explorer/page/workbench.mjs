// The panel in which things are done: a value is set, or an activation of a second program is put in.

import { HOWS, PARTS, placeName, sourceFault } from "./acts.mjs";
import { field, fill, h, select } from "./dom.mjs";
import { valueAt } from "./machine.mjs";
import { findSource } from "./sources.mjs";
import { isInt, parseValue, same, show } from "./values.mjs";

const ROLE_NAMES = {
  arose: "where it is made",
  stored: "where it is stored",
  between: "while it is held",
  loaded: "where it is loaded",
  consumed: "where it is taken",
  overwritten: "where it is overwritten",
  decision: "at the end",
  here: "here",
};

/** The occurrences of the value that lies in a place after a token: [{role, token, editAt, place}], the clicked first. */
export function occurrencesOf(computed, token, place) {
  const number = computed.graph.held.get(token)?.[place];
  const here = { role: "here", token, editAt: token, place };
  if (number === undefined) return [here];
  const rows = computed.graph.occurrences.filter((row) => row.value === number);
  const isClicked = (row) => row.token === token && row.editAt === token && row.place === place;
  const clicked = rows.find((row) => isClicked(row) && row.role !== "decision") ?? rows.find(isClicked);
  return clicked ? [clicked, ...rows.filter((row) => row !== clicked)] : [here, ...rows];
}

/** Draw the panel. `draft` is what its fields hold: {occurrence, value, how, patch: {source, from, part}}. */
export function drawWorkbench(view, computed, session, draft, act) {
  fill("change", ...setForm(view, computed, session, draft, act));
  fill("patch", ...patchForm(view, computed, session, draft, act));
}

function layerOptions(config) {
  return Array.from({ length: config.n_layers + 1 }, (_, k) => [
    k - 1,
    k ? `after layer ${k - 1}` : "before the first layer",
  ]);
}

// --- a value ----------------------------------------------------------------------------------------------------------

function setForm(view, computed, session, draft, act) {
  const isThere = view.token >= 0 && valueAt(computed.machine.states[view.token], view.place) !== undefined;
  if (!isThere)
    return [
      h(
        "p",
        { class: "note" },
        `Nothing lies in the ${placeName(view.place)} at the chosen token; click a value above.`,
      ),
    ];
  const rows = occurrencesOf(computed, view.token, view.place);
  const row = rows[draft.occurrence] ?? rows[0];
  const now = valueAt(computed.machine.states[row.editAt], row.place);
  const options = rows.map((item, i) => [
    i,
    `${ROLE_NAMES[item.role]}: “${computed.text[item.token]}” (${item.token})`,
  ]);
  const value = parseValue(draft.value);
  const hows = Object.entries(HOWS).filter(([how]) => how !== "steer" || session.probes.has(row.place));
  const fault = faultOf(draft, row, value, now, view, session);
  const values = {
    key: "new value",
    value: draft.value,
    size: 7,
    inputmode: "text",
    autocomplete: "off",
    "aria-invalid": value ? "false" : "true",
    oninput: (event) => act.draft({ value: event.target.value }),
  };
  return [
    h(
      "p",
      { class: "what" },
      `The ${placeName(row.place)} holds ${now ? show(now) : "nothing"} there. Set another value: the machine runs on from it, and the model's activation is changed at that token to see whether it follows.`,
    ),
    h(
      "div",
      { class: "fields" },
      field("value", h("input", values)),
      field(
        "where",
        select("occurrence", options, rows.indexOf(row), (i) => act.draft({ occurrence: Number(i) })),
      ),
      field(
        "layer",
        select("set layer", layerOptions(session.model.config), view.layer, (layer) => act.layer(Number(layer))),
      ),
      field(
        "how",
        select("how", hows, draft.how, (how) => act.draft({ how })),
      ),
    ),
    h(
      "div",
      { class: "row" },
      h(
        "button",
        {
          class: "primary",
          key: "set",
          disabled: Boolean(fault),
          onclick: () => act.add(setAct(draft, row, now, view, computed)),
        },
        "Set it",
      ),
      h("span", { class: "note", role: "status" }, fault),
    ),
  ];
}

function faultOf(draft, row, value, now, view, session) {
  if (!value) return "A value is an integer, a sequence such as (1 2 3), or NAN.";
  if (now === undefined) return "Nothing lies there.";
  if (same(value, now)) return "That is what it holds; set another value.";
  if (draft.how === "exchange" && !isInt(value))
    return "An exchange needs an integer; steer, or change the machine only.";
  if (draft.how === "steer" && row.token !== row.editAt)
    return "The probe reads states after a token; steer where the value still lies there.";
  if (draft.how === "steer" && !session.probes.steering(view.layer, row.place, value))
    return "The probe of this place knows no such value; exchange instead.";
  return "";
}

function setAct(draft, row, now, view, computed) {
  const source =
    draft.how === "exchange" ? (findSource(computed.text, row.editAt, row.place, parseValue(draft.value)) ?? "") : "";
  return {
    kind: "set",
    token: row.token,
    editAt: row.editAt,
    place: row.place,
    value: show(parseValue(draft.value)),
    old: show(now),
    layer: view.layer,
    how: draft.how,
    source,
  };
}

// --- a second program -------------------------------------------------------------------------------------------------

function patchForm(view, computed, session, draft, act) {
  const { config } = session.model;
  const { source, from, part } = draft.patch;
  const heads = Array.from({ length: config.n_heads }, (_, head) => [`z${head}`, `head ${head}`]);
  const fault = source ? sourceFault(source, config) : "Type a second program.";
  const tokens = [[-1, "the marker"], ...[...source].map((token, i) => [i, `“${token}” (${i})`])];
  const chosen = from === null ? Math.min(view.token, source.length - 1) : from;
  const problem =
    fault ||
    (part !== "stream" && view.layer < 0 ? "Before the first layer there is only the stream; choose a layer." : "");
  const input = {
    key: "source",
    value: source,
    spellcheck: "false",
    autocomplete: "off",
    autocapitalize: "off",
    "aria-invalid": fault && source ? "true" : "false",
    oninput: (event) => act.draft({ patch: { ...draft.patch, source: event.target.value } }),
  };
  const patchAct = () => ({ kind: "patch", token: view.token, from: chosen, source, part, layer: view.layer });
  return [
    h(
      "p",
      { class: "what" },
      "Put what the model computed of a second program in the place of what it computes of the first, at the chosen token and layer.",
    ),
    h(
      "div",
      { class: "fields" },
      field("second program", h("input", input)),
      field(
        "its token",
        select("from", fault ? [] : tokens, chosen, (i) => act.draft({ patch: { ...draft.patch, from: Number(i) } })),
      ),
      field(
        "layer",
        select("patch layer", layerOptions(config), view.layer, (layer) => act.layer(Number(layer))),
      ),
      field(
        "what",
        select("part", [...Object.entries(PARTS), ...heads], part, (value) =>
          act.draft({ patch: { ...draft.patch, part: value } }),
        ),
      ),
    ),
    h(
      "div",
      { class: "row" },
      h(
        "button",
        { class: "primary", key: "patch", disabled: Boolean(problem), onclick: () => act.add(patchAct()) },
        "Patch it in",
      ),
      h("span", { class: "note", role: "status" }, problem),
    ),
  ];
}
