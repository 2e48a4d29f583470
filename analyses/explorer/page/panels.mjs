// The panels under the score that tell: what comes next, what the model answers, and what its heads attend to.

import { describe } from "./acts.mjs";
import { fill, glyph, h, percent } from "./dom.mjs";
import { VOCAB } from "./instructions.mjs";
import { blocks } from "./score.mjs";
import { massOn } from "./session.mjs";
import { show } from "./values.mjs";

const LISTED = 8;

export function tokenName(text, token) {
  return token < 0 ? "the marker" : `“${text[token]}” (token ${token})`;
}

// --- what comes next --------------------------------------------------------------------------------------------------

export function drawNext(view, computed, session) {
  const { asIs, edited } = session.next(computed, view.token);
  const sets = session.trueSet(computed, view.token + 1);
  const order = [...asIs.keys()].sort(
    (a, b) => Math.max(asIs[b], edited?.[b] ?? 0) - Math.max(asIs[a], edited?.[a] ?? 0),
  );
  const rows = order.slice(0, LISTED).map((id) => {
    const bars = [bar(asIs[id], "as-is"), edited && bar(edited[id], "edited")];
    const marks = [mark(sets.asIs[id]), sets.edited && mark(sets.edited[id])];
    return h(
      "tr",
      {},
      h("th", { scope: "row", class: "glyph" }, glyph(VOCAB[id])),
      ...bars.map((item) => item && h("td", {}, item)).filter(Boolean),
      ...marks.map((item) => item && h("td", { class: "mark" }, item)).filter(Boolean),
    );
  });
  const titles = ["token", "model", edited && "with the changes", "true", sets.edited && "true after the edit"];
  const head = h(
    "tr",
    {},
    ...titles.filter((title) => title !== null).map((title) => h("th", { scope: "col" }, title)),
  );
  fill(
    "next",
    h(
      "p",
      { class: "what" },
      `Behind ${tokenName(computed.text, view.token)}: the model's probabilities, beside what the machine says of each token.`,
    ),
    h("table", { class: "next" }, h("thead", {}, head), h("tbody", {}, ...rows)),
    truthLine("Made true by", sets.asIs, asIs),
    sets.edited && truthLine("After the edit, by", sets.edited, edited ?? asIs),
  );
}

function bar(share, kind) {
  return h("span", { class: `bar ${kind}`, style: { "--share": share.toFixed(3) } }, percent(share));
}

function mark(isTrue) {
  return h(
    "span",
    { class: isTrue ? "yes" : "no", "aria-label": isTrue ? "makes the program true" : "does not" },
    isTrue ? "●" : "○",
  );
}

function truthLine(words, isTrue, probabilities) {
  const tokens = [...VOCAB].filter((_, id) => isTrue[id]);
  if (!tokens.length) return h("p", { class: "set" }, `${words} no single token.`);
  const shown = tokens.length > 24 ? `${tokens.length} of the 65 tokens` : tokens.map(glyph).join(" ");
  return h(
    "p",
    { class: "set" },
    `${words} `,
    h("code", {}, shown),
    ` — ${percent(massOn(probabilities, isTrue))} of the probability.`,
  );
}

// --- what the model answers -------------------------------------------------------------------------------------------

export function drawAnswer(view, computed, session, act) {
  const { asIs, edited, isOpen } = session.answers(computed, view.token);
  const prefix = computed.text.slice(0, view.token + 1);
  const rows = [answerRow("as it is", prefix, asIs)];
  if (edited) rows.push(answerRow("with the changes", prefix, edited));
  const hasEdit = asIs.isTrueEdited !== null;
  const titles = ["the model", "goes on with", "true", ...(hasEdit ? ["true after the edit"] : [])];
  const head = h("tr", {}, ...titles.map((title) => h("th", { scope: "col" }, title)));
  fill(
    "answer",
    h(
      "p",
      { class: "what" },
      `What the model writes behind ${tokenName(computed.text, view.token)}, and whether the machine holds the whole program true.`,
    ),
    isOpen && h("p", { class: "note" }, "This token stands inside a definition that is still open."),
    h("table", { class: "answers" }, h("thead", {}, head), h("tbody", {}, ...rows)),
    h("p", { class: "finding", role: "status" }, verdict(view, computed, asIs, edited)),
    h("ul", { class: "acts" }, ...view.acts.map((item, i) => actItem(item, i, computed, act))),
    view.acts.length > 0 &&
      h("button", { class: "quiet", key: "clear", onclick: () => act.acts([]) }, "Undo all changes"),
  );
}

function answerRow(name, prefix, answer) {
  const program = h(
    "code",
    { class: "written" },
    h("span", { class: "given" }, prefix.slice(-14)),
    h("b", {}, answer.written),
  );
  const cells = [h("td", { class: "mark" }, mark(answer.isTrue))];
  if (answer.isTrueEdited !== null) cells.push(h("td", { class: "mark" }, mark(answer.isTrueEdited)));
  return h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, program), ...cells);
}

/** What was found, in a sentence. */
function verdict(view, computed, asIs, edited) {
  if (!view.acts.length)
    return asIs.isTrue
      ? "The model's answer makes the program true."
      : "The model's answer does not make the program true.";
  if (!edited) return "Only the machine is changed: choose a layer and a way to change the model too.";
  if (edited.written === asIs.written)
    return "The model answers as before: what was changed is not what it answers by here.";
  if (edited.isTrueEdited === null) return "The model answers something else.";
  if (edited.isTrueEdited && edited.isTrue)
    return "The model answers something else that is true before the edit and after it: this tells nothing.";
  if (edited.isTrueEdited && !asIs.isTrueEdited)
    return "The model now answers as the machine does after the edit: it uses what was changed here.";
  return edited.isTrueEdited
    ? "The model answers something else, and it is true after the edit, as its answer was before."
    : "The model answers something else, but not what the machine holds true after the edit.";
}

function actItem(item, i, computed, act) {
  const fault = computed.faults.get(item);
  const remove = {
    class: "remove",
    key: `remove ${i}`,
    "aria-label": `undo: ${describe(item, computed.text)}`,
    onclick: () => act.drop(i),
  };
  const source =
    item.kind === "set" && item.how === "exchange" && item.source
      ? h("small", {}, " from ", h("code", {}, item.source))
      : null;
  return h(
    "li",
    { class: fault ? "faulty" : "" },
    describe(item, computed.text),
    source,
    fault && h("em", {}, ` — not made: ${fault}`),
    h("button", remove, "×"),
  );
}

// --- heads ------------------------------------------------------------------------------------------------------------

const ROLE_WORDS = {
  load_store: "from a load to its store",
  load_origin: "from a load to where the value was made",
  store: "from a store to what it stores",
  operand: "from an instruction to what it takes",
  operand_origin: "from an instruction to where its operands were made",
  decision: "from the end to what lies on the stack",
  decision_origin: "from the end to where what lies on the stack was made",
};

export function drawHeads(view, computed, session, roles, act) {
  const { n_layers, n_heads } = session.model.config;
  const run = computed.changed ?? computed.base;
  const keys = [
    ...new Set(
      computed.graph.edges
        .filter((edge) => edge.query === view.token && edge.key !== view.token)
        .map((edge) => edge.key),
    ),
  ];
  const rows = Array.from({ length: n_layers }, (_, layer) => {
    const cells = Array.from({ length: n_heads }, (_, head) => {
      const pattern = run.pattern(layer, head, view.token + 1);
      const mass = keys.reduce((sum, key) => sum + pattern[key + 1], 0);
      const isHere = view.head && view.head[0] === layer && view.head[1] === head;
      const words = `head ${layer}.${head}: ${percent(mass)} of its attention along the data flow`;
      const attributes = {
        key: `head ${layer} ${head}`,
        title: words,
        "aria-label": words,
        "aria-pressed": isHere ? "true" : "false",
        style: { "--share": mass.toFixed(2) },
        onclick: () => act.head(isHere ? null : [layer, head]),
      };
      return h("td", {}, h("button", attributes, keys.length ? percent(mass).replace(" %", "") : "·"));
    });
    return h("tr", {}, h("th", { scope: "row" }, layer), ...cells);
  });
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, "layer"),
    ...Array.from({ length: n_heads }, (_, i) => h("th", { scope: "col" }, `.${i}`)),
  );
  const told = keys.length
    ? `that reach ${keys.map((key) => `“${computed.text[key]}” (${key})`).join(", ")}, where its values come from`
    : "— it takes no value from another token";
  fill(
    "heads",
    h(
      "p",
      { class: "what" },
      `Per cent of each head's attention from ${tokenName(computed.text, view.token)} ${told}. Choose a head to see its arcs.`,
    ),
    h(
      "div",
      { class: "columns" },
      h("table", { class: "heads" }, h("thead", {}, head), h("tbody", {}, ...rows)),
      view.head ? edgeList(view, computed, run, roles, act) : h("p", { class: "note" }, "No head is chosen."),
    ),
  );
}

function edgeList(view, computed, run, roles, act) {
  const [layer, head] = view.head;
  const pattern = run.pattern(layer, head, view.token + 1);
  const order = [...pattern.keys()].sort((a, b) => pattern[b] - pattern[a]);
  const listed = order.filter((key, i) => i < 6 || blocks(view.acts, layer, head, view.token, key - 1));
  const items = listed.map((position) => {
    const key = position - 1;
    const isBlocked = blocks(view.acts, layer, head, view.token, key);
    const control =
      key === view.token
        ? null
        : h(
            "button",
            { class: "quiet", key: `block ${key}`, onclick: () => act.block(view.token, key) },
            isBlocked ? "unblock" : "block",
          );
    return h(
      "li",
      {},
      h("code", {}, key < 0 ? "▸" : computed.text[key]),
      h("small", {}, key < 0 ? " marker" : ` ${key}`),
      h("span", { class: "bar as-is", style: { "--share": pattern[position].toFixed(3) } }, percent(pattern[position])),
      control,
    );
  });
  const mine = roles.filter((role) => role.layer === layer && role.head === head);
  const known = mine.length
    ? `Over many programs this head attends ${mine.map(({ kind, mass, baseline }) => `${ROLE_WORDS[kind]} (${percent(mass)}; tokens and distances alone predict ${percent(baseline)})`).join("; ")}.`
    : "Over many programs this head attends along no kind of data flow beyond what tokens and distances predict.";
  return h(
    "div",
    { class: "edges" },
    h("h3", {}, `Head ${layer}.${head}`),
    h("ul", {}, ...items),
    h("p", { class: "note" }, known),
  );
}

/** The machine's end, in words, under the program. */
export function drawVerdict(computed) {
  const { machine, counterfactual } = computed;
  const words = (result) =>
    `${result.outputs.length ? result.outputs.map(show).join(" ") : "nothing"} — ${result.isTrue ? "true" : "false"}`;
  const causes = machine.causes.flatMap((list, i) => list.map((cause) => `token ${i}: ${cause}`));
  fill(
    "verdict",
    h("span", { class: machine.isTrue ? "yes" : "no" }, `The machine leaves ${words(machine)}.`),
    counterfactual && h("span", { class: "after" }, ` After the edit: ${words(counterfactual)}.`),
    causes.length > 0 &&
      h("span", { class: "note" }, ` NAN at ${causes.slice(0, 2).join("; ")}${causes.length > 2 ? " …" : ""}.`),
  );
}
