// The score: the tokens in a row, arcs over them, and beneath each the machine's state, what probes read of it at every
// layer, and what the model expects next.

import { placeName } from "./acts.mjs";
import { arcsPicture, flowOf } from "./arcs.mjs";
import { fill, glyph, h, percent } from "./dom.mjs";
import { INSTRUCTIONS, REGISTERS, VOCAB } from "./instructions.mjs";
import { lengthOf, valueAt } from "./machine.mjs";
import { classOf, classText } from "./probes.mjs";
import { massOn } from "./session.mjs";
import { isSeq, same, show } from "./values.mjs";

const LEFT = 118; // pixels of the labels
const STEPS = [46, 92]; // of a token, at least and at most
const MAX_ENTRIES = 6; // of the stack that are shown
const ARCS = 104;

/** Draw the score. `act` has what clicks do: token, layer, place, edit, block. */
export function drawScore(view, computed, session, act) {
  const { text } = computed;
  const tokens = [-1, ...text].map((_, i) => i - 1);
  const head = h("thead", {}, tokenRow(view, computed, tokens, act));
  const step = stepFor(tokens.length);
  const bodies = [
    section(
      "state",
      "The machine",
      "what it holds after each token; click a value to change it",
      stateRows(view, computed, tokens, act),
    ),
    section("probes", "The model, read", readWords(view), probeRows(view, computed, session, tokens, act)),
    section("next", "The model, next", "what it expects behind each token", nextRows(view, computed, session, tokens)),
  ];
  const geometry = { left: LEFT, step, height: ARCS };
  const picture = arcsPicture(
    text.length,
    flowOf(computed.graph),
    attentionOf(view, computed),
    view.token,
    geometry,
    act.block,
  );
  const columns = h(
    "colgroup",
    {},
    h("col", { style: { width: `${LEFT}px` } }),
    ...tokens.map(() => h("col", { style: { width: `${step}px` } })),
  );
  const width = { width: `${LEFT + step * tokens.length}px` };
  fill(
    "score",
    picture,
    h("table", { style: width, "aria-label": "The program, token by token" }, columns, head, ...bodies),
  );
}

/** Bring the chosen token's column into view, without moving the page. */
export function scrollToToken(token) {
  const box = document.getElementById("score");
  const step = (box.firstChild.clientWidth - LEFT) / box.querySelectorAll(".token").length;
  const [begin, end] = [(token + 1) * step, (token + 2) * step + LEFT];
  if (begin < box.scrollLeft) box.scrollLeft = Math.max(0, begin - step);
  else if (end > box.scrollLeft + box.clientWidth) box.scrollLeft = end - box.clientWidth + step;
}

/** The width of a token's column: as wide as there is room for, within bounds. */
function stepFor(n) {
  const room = document.getElementById("score").clientWidth - LEFT - 24;
  return Math.floor(Math.min(STEPS[1], Math.max(STEPS[0], room / n)));
}

function section(name, title, words, rows) {
  const caption = h(
    "th",
    { colspan: 99, scope: "rowgroup" },
    h("span", { class: "caption" }, h("b", {}, title), ` ${words}`),
  );
  return h("tbody", { class: name }, h("tr", { class: "section" }, caption), ...rows);
}

function tokenRow(view, { text }, tokens, act) {
  const end = lengthOf(text);
  const cells = tokens.map((i) => {
    const name = i < 0 ? "the marker that every program begins with" : INSTRUCTIONS.get(text[i]).name;
    const attributes = {
      class: `token${i === view.token ? " here" : ""}${i < 0 || i >= end ? " quiet" : ""}`,
      key: `token ${i}`,
      title: i < 0 ? name : `${i}: ${name} — ${INSTRUCTIONS.get(text[i]).doc}`,
      "aria-label": i < 0 ? name : `token ${i}, ${text[i]}: ${name}`,
      "aria-pressed": i === view.token ? "true" : "false",
      onclick: () => act.token(i),
    };
    return h("th", { scope: "col" }, h("button", attributes, i < 0 ? "▸" : glyph(text[i])));
  });
  return h("tr", { class: "tokens" }, h("th", { scope: "row", class: "label" }, "token"), ...cells);
}

/** The places that are shown: as deep as the stack becomes, and the registers that are in use. */
export function placesOf({ text, machine, counterfactual }) {
  const states = [...machine.states, ...(counterfactual?.states ?? [])];
  const depth = Math.min(MAX_ENTRIES, Math.max(1, ...states.map((state) => state.stack.length)));
  const used = REGISTERS.filter((register) => text.includes(register) || text.includes(register.toUpperCase()));
  return [...Array.from({ length: depth }, (_, k) => `stack.${k}`), ...used.map((register) => `reg.${register}`)];
}

function label(key, text, title, isHere, onPick) {
  const attributes = { class: "pick", key, title, "aria-pressed": isHere ? "true" : "false", onclick: onPick };
  return h("th", { scope: "row", class: `label${isHere ? " here" : ""}` }, h("button", attributes, text));
}

function stateRows(view, computed, tokens, act) {
  const { machine, counterfactual, text } = computed;
  return placesOf(computed).map((place) => {
    const cells = tokens.map((i) => {
      const now = i < 0 ? undefined : valueAt(machine.states[i], place);
      const then = counterfactual && i >= 0 ? valueAt(counterfactual.states[i], place) : now;
      const differs = (now === undefined) !== (then === undefined) || (now && then && !same(now, then));
      if (now === undefined && then === undefined) return h("td", { class: column(view, i) });
      const words = `${placeName(place)} after token ${i} ${text[i]}: ${now ? show(now) : "nothing"}${differs ? `, changed to ${then ? show(then) : "nothing"}` : ""}`;
      const attributes = {
        class: "value",
        key: `value ${place} ${i}`,
        title: words,
        onclick: () => act.edit(i, place),
      };
      const parts = differs
        ? [h("s", {}, now ? short(now) : "–"), h("i", {}, " → "), h("b", {}, then ? short(then) : "–")]
        : [now ? short(now) : "–"];
      return h("td", { class: `${column(view, i)}${differs ? " changed" : ""}` }, h("button", attributes, ...parts));
    });
    const title = `${placeName(place)}: read it at every layer`;
    return h(
      "tr",
      {},
      label(`place ${place}`, shortName(place), title, view.place === place, () => act.place(place)),
      ...cells,
    );
  });
}

/** A place as the label of a row. */
function shortName(place) {
  const [kind, name] = place.split(".");
  if (kind === "reg") return `register ${name}`;
  return name === "0" ? "stack top" : (["", "2nd", "3rd"][name] ?? `${Number(name) + 1}th`);
}

function short(value) {
  const text = show(value);
  return isSeq(value) && text.length > 6 ? `(${value.items.length})` : text;
}

const column = (view, i) => (i === view.token ? "here" : "");

function readWords(view) {
  return `what probes read of the ${placeName(view.place)} at each layer: blue agrees with the machine, orange does not; the stronger, the surer`;
}

function probeRows(view, computed, session, tokens, act) {
  const { model, probes } = session;
  if (!probes.has(view.place))
    return [
      h(
        "tr",
        {},
        h("td", { class: "none", colspan: 99 }, `No probe came with this page for the ${placeName(view.place)}.`),
      ),
    ];
  const run = computed.changed ?? computed.base;
  const states = (computed.counterfactual ?? computed.machine).states;
  const layers = Array.from({ length: model.config.n_layers + 1 }, (_, k) => k - 1);
  return layers.map((layer) => {
    const { accuracy, from_token } = probes.get(layer, view.place);
    const name = layer < 0 ? "before" : `layer ${layer}`;
    const cells = tokens.map((i) => {
      if (i < 0) return h("td", { class: column(view, i) }); // no probe was fitted to the marker
      const reading = probes.read(run, layer, view.place, i + 1);
      const truth = classOf(valueAt(states[i], view.place));
      const agrees = reading.class === truth;
      const words = `${name}, token ${i}: reads ${classText(reading.class)} (${percent(reading.confidence)}); the machine holds ${classText(truth)}`;
      const style = { "--sure": reading.confidence.toFixed(2) };
      return h(
        "td",
        { class: `reading ${agrees ? "agrees" : "differs"} ${column(view, i)}`, style, title: words },
        classText(reading.class),
      );
    });
    const title = `On held-out programs this probe is right at ${percent(accuracy)} of the tokens where something lies there; the token alone gives ${percent(from_token)}.`;
    const row = label(`layer ${layer}`, name, title, view.layer === layer, () => act.layer(layer));
    row.append(h("small", {}, percent(accuracy)));
    return h("tr", { class: view.layer === layer ? "current" : "" }, row, ...cells);
  });
}

function nextRows(view, computed, session, tokens) {
  const rows = { guess: [], mass: [] };
  for (const i of tokens) {
    const { asIs, edited } = session.next(computed, i);
    const probabilities = edited ?? asIs;
    const sets = session.trueSet(computed, i + 1);
    const isTrue = sets.edited ?? sets.asIs;
    const best = probabilities.indexOf(Math.max(...probabilities));
    const words = `behind token ${i} the model expects ${VOCAB[best]} (${percent(probabilities[best])})`;
    const style = { "--sure": probabilities[best].toFixed(2) };
    rows.guess.push(
      h(
        "td",
        { class: `guess ${isTrue[best] ? "agrees" : ""} ${column(view, i)}`, style, title: words },
        glyph(VOCAB[best]),
      ),
    );
    const mass = massOn(probabilities, isTrue);
    const told =
      mass === null
        ? "no single token makes the program true here"
        : `${percent(mass)} of the probability is on tokens that make it true`;
    const bar = mass === null ? "·" : h("span", { class: "mass", style: { "--share": mass.toFixed(3) } });
    rows.mass.push(h("td", { class: column(view, i), title: told, "aria-label": told }, bar));
  }
  const named = (text, title) => h("th", { scope: "row", class: "label", title }, h("span", {}, text));
  return [
    h(
      "tr",
      {},
      named("expects", "The model's most likely next token; blue where it makes the program true."),
      ...rows.guess,
    ),
    h(
      "tr",
      {},
      named("on true", "How much of the probability is on tokens that make the program true, of the 65."),
      ...rows.mass,
    ),
  ];
}

/** The attention of the chosen head, from every token; blocked edges too. */
function attentionOf(view, computed) {
  if (!view.head) return [];
  const [layer, head] = view.head;
  const run = computed.changed ?? computed.base;
  const edges = [];
  for (let query = 0; query < computed.text.length; query++) {
    const weights = run.pattern(layer, head, query + 1);
    weights.forEach((weight, key) => {
      const isBlocked = blocks(view.acts, layer, head, query, key - 1);
      edges.push({ query, key: key - 1, weight, isBlocked });
    });
  }
  return edges;
}

/** Whether some act blocks that edge of that head. */
export function blocks(acts, layer, head, query, key) {
  const isHere = (act) => act.kind === "block" && act.query === query && act.key === key;
  return acts.some((act) => isHere(act) && [-1, layer].includes(act.layer) && [-1, head].includes(act.head));
}
