// What the tests ask the page's modules, as functions of plain data: run under Node, or in a browser where there is none.

import { continuationIsTrue, run, trueSet } from "../../../analyses/explorer/page/machine.mjs";
import { Model } from "../../../analyses/explorer/page/model.mjs";
import { provenance } from "../../../analyses/explorer/page/provenance.mjs";
import { decodeTensors } from "../../../analyses/explorer/page/tensors.mjs";
import { parseValue, show } from "../../../analyses/explorer/page/values.mjs";

const stateText = ({ stack, registers, fuel }) =>
  `${stack.map(show).join(" ")} | ${Object.values(registers).map(show).join(" ")} | ${fuel}`;

export const TASKS = {
  /** The state after every token of each text, one line each; edits {at, place, value as text}. */
  states: (cases) =>
    cases.map(({ text, edits }) => {
      const changes = (edits ?? []).map((edit) => ({ ...edit, value: parseValue(edit.value) }));
      return run(text, changes).states.map(stateText).join("\n");
    }),

  trueSets: (cases) =>
    cases.map(({ text, edits }) => {
      const changes = edits ? edits.map((edit) => ({ ...edit, value: parseValue(edit.value) })) : null;
      return trueSet(text, changes).map(Number);
    }),

  continuations: (cases) =>
    cases.map(({ text, cut, edits }) => {
      const changes = edits.map((edit) => ({ ...edit, value: parseValue(edit.value) }));
      return continuationIsTrue(text, cut, changes);
    }),

  provenance: (texts) =>
    texts.map((text) => {
      const { values, occurrences, edges } = provenance(text);
      return {
        values: values.map(({ arose, at, content }) => `${arose} ${at} ${show(content)}`),
        occurrences: occurrences.map(({ value, role, token, editAt, place }) =>
          [value, role, token, editAt, place].join(" "),
        ),
        edges: edges.map((edge) =>
          [edge.value, edge.element, edge.query, edge.key, edge.kind, edge.queryAt, edge.keyAt].join(" "),
        ),
      };
    }),

  /** Logits of the tokens [position, d_vocab]. */
  logits: (request) => {
    const model = modelOf(request);
    return logitsOf(model.read(model.newRun(), request.tokens));
  },

  /** The last token's logits of programs that are read one after another into the same run. */
  rereads: (request) => {
    const model = modelOf(request);
    const run = model.newRun();
    return request.programs.map((tokens) => logitsOf(model.read(run, tokens)).at(-1));
  },

  /** Logits [edit, position, d_vocab] with values added at a site and position, edit by edit. */
  edits: (request) => {
    const model = modelOf(request);
    const base = model.read(model.newRun(), request.tokens);
    const changed = model.newRun();
    return editsOf(request, model).map((edit) => logitsOf(model.edit(changed, base, [edit])));
  },

  /** Logits [position, d_vocab] with all of the edits at once. */
  editsTogether: (request) => {
    const model = modelOf(request);
    const base = model.read(model.newRun(), request.tokens);
    return logitsOf(model.edit(model.newRun(), base, editsOf(request, model)));
  },
};

const editsOf = ({ edits, position }, model) =>
  edits.map(({ site, values }) => ({ site, position, change: addition(values, site, model.config.n_ctx) }));

const modelOf = ({ config, entries, base64 }) => new Model(config, decodeTensors(base64, entries));
const logitsOf = (run) => run.tokens.map((_, position) => Array.from(run.logits(position)));

/** Add values; those of scores and patterns, [head, key], have fewer keys than the page has room for. */
function addition(values, site, nCtx) {
  const isAttention = /hook_(attn_scores|pattern)$/.test(site);
  const width = isAttention ? nCtx : values.length && values[0].length;
  return (x) => values.forEach((row, h) => [row].flat().forEach((value, k) => (x[h * (width || 1) + k] += value)));
}
