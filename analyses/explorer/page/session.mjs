// What a view shows, computed: the machine's states, the model's run, both again under the acts, and what the model
// writes from the chosen token on. Runs are kept, so that a change computes what lies behind it and no more.

import { bodyOf, machineEdits, modelEdits } from "./acts.mjs";
import { END, VOCAB } from "./instructions.mjs";
import { allTrue } from "./values.mjs";
import { continuationIsTrue, firstUnknown, opening, run, trueSet } from "./machine.mjs";
import { provenance } from "./provenance.mjs";
import { softmax } from "./tensors.mjs";

const IDS = new Map([...VOCAB].map((token, id) => [token, id]));
const MAX_WRITTEN = 24; // tokens that the model writes at most

/** The model's tokens of a text: the marker, then its ids. */
export function idsOf(text) {
  return [IDS.get(END), ...[...text].map((token) => IDS.get(token))];
}

export class Session {
  constructor(model, probes) {
    this.model = model;
    this.probes = probes;
    this.base = model.newRun();
    this.changed = model.newRun();
    this.writing = model.newRun();
    this.sources = new Map(); // runs of source programs, by text
    this.trueSets = new Map(); // by prefix, without edits
  }

  /** Why a text is no program that the model can read; empty where it is. */
  fault(program) {
    const unknown = firstUnknown(program);
    if (unknown) {
      return `“${unknown.character}” at position ${unknown.position} is not one of the 65 instructions; take it out`;
    }
    const longest = this.model.config.n_ctx - 1;
    return bodyOf(program).length > longest ? `the model reads ${longest} tokens at most; shorten the program` : "";
  }

  /** All that a view shows of a program without fault. */
  compute({ program, acts }) {
    if (this.last?.program === program && this.last.acts === acts) return this.last.computed;
    const computed = this.computeAnew(program, acts);
    this.last = { program, acts, computed };
    return computed;
  }

  computeAnew(program, acts) {
    const text = bodyOf(program);
    this.model.read(this.base, idsOf(text));
    const readSource = (source) => this.readSource(source);
    const { edits, faults } = modelEdits(acts, { model: this.model, probes: this.probes, readSource });
    const onMachine = machineEdits(acts);
    const hasEdits = edits.length > 0;
    if (hasEdits) this.model.edit(this.changed, this.base, edits);
    return {
      text,
      machine: run(text),
      graph: this.graphOf(text),
      counterfactual: onMachine.length ? run(text, onMachine) : null,
      base: this.base,
      changed: hasEdits ? this.changed : null,
      edits,
      onMachine,
      faults: new Map(faults),
    };
  }

  graphOf(text) {
    if (this.graphText !== text) [this.graphText, this.graph] = [text, provenance(text)];
    return this.graph;
  }

  readSource(source) {
    const text = bodyOf(source);
    if (!this.sources.has(text)) {
      if (this.sources.size >= 4) this.sources.delete(this.sources.keys().next().value);
      this.sources.set(text, this.model.read(this.model.newRun(), idsOf(text)));
    }
    return this.sources.get(text);
  }

  /** Which tokens the machine holds true after the first n tokens, as it is and under edits of its state. */
  trueSet(computed, n) {
    const prefix = computed.text.slice(0, n);
    if (!this.trueSets.has(prefix)) {
      if (this.trueSets.size > 4000) this.trueSets.clear();
      this.trueSets.set(prefix, trueSet(prefix));
    }
    const edits = computed.onMachine.filter((edit) => edit.at < n);
    return { asIs: this.trueSets.get(prefix), edited: edits.length ? trueSet(prefix, edits) : null };
  }

  /** The next token's probabilities after token i, of the model as it is and with the edits. */
  next(computed, i) {
    const asIs = softmax(computed.base.logits(i + 1));
    return { asIs, edited: computed.changed ? softmax(computed.changed.logits(i + 1)) : null };
  }

  /** What the model writes after token i, as it is and with the edits, and what the machine says of both. */
  answers(computed, i) {
    const prefix = computed.text.slice(0, i + 1);
    const edits = computed.onMachine.filter((edit) => edit.at <= i);
    const judge = (written) => {
      const text = prefix + written;
      const isTrue = run(text).isTrue;
      return { written, isTrue, isTrueEdited: edits.length ? continuationIsTrue(text, i + 1, edits) : null };
    };
    return {
      asIs: judge(this.write(computed.base, i)),
      edited: computed.changed ? judge(this.write(computed.changed, i)) : null,
      isOpen: opening(prefix) >= 0,
    };
  }

  /** Greedy tokens behind token i, through the first `.`. */
  write(source, i) {
    const writing = this.writing;
    writing.copyFrom(source);
    writing.tokens.length = i + 2;
    let written = "";
    while (written.length < MAX_WRITTEN) {
      const logits = writing.logits(writing.length - 1);
      const token = VOCAB[logits.indexOf(Math.max(...logits))];
      written += token;
      if (token === END || writing.length >= this.model.config.n_ctx) break;
      this.model.append(writing, IDS.get(token));
    }
    return written;
  }
}

/** The share of probability that falls on tokens of a set; null where the set is empty. */
export function massOn(probabilities, isTrue) {
  if (!isTrue.some(Boolean)) return null;
  return probabilities.reduce((sum, p, id) => sum + (isTrue[id] ? p : 0), 0);
}

/** Whether all values of a state are true, and there is one. */
export const stateIsTrue = (state) => allTrue(state.stack);
