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
        occurrences: occurrences.map(({ value, role, token, editAt, place }) => [value, role, token, editAt, place].join(" ")),
        edges: edges.map((edge) => [edge.value, edge.element, edge.query, edge.key, edge.kind, edge.queryAt, edge.keyAt].join(" ")),
      };
    }),

  /** Logits of the tokens [position, d_vocab]. */
  logits: ({ config, entries, base64, tokens }) => {
    const model = new Model(config, decodeTensors(base64, entries));
    const run = model.read(model.newRun(), tokens);
    return tokens.map((_, position) => Array.from(run.logits(position)));
  },
};
