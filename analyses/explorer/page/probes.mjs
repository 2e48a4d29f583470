// The probes that came with the model: what they read in each place of the state, and the shift that sets it.

import { orthonormal, siteOf, steer } from "./edits.mjs";
import { isInt, isSeq, NAN } from "./values.mjs";

const [NOTHING, A_NAN, A_SEQ] = [1000, 1001, 1002]; // as in analyses/explorer/readings.py
const WORDS = { [NOTHING]: "∅", [A_NAN]: "NAN", [A_SEQ]: "(…)" };

/** The class of what lies in a place; undefined is an entry that the stack does not have. */
export function classOf(value) {
  if (value === undefined) return NOTHING;
  if (value === NAN) return A_NAN;
  return isInt(value) ? value.v : isSeq(value) ? A_SEQ : NOTHING;
}

export function classText(number) {
  return WORDS[number] ?? String(number);
}

export class Probes {
  /** list: the probes as Python describes them; tensors: their vectors and means. */
  constructor(list, tensors, width) {
    this.width = width;
    this.byKey = new Map(list.map((entry) => [`${entry.layer} ${entry.place}`, prepared(entry, tensors, width)]));
  }

  get(layer, place) {
    return this.byKey.get(`${layer} ${place}`);
  }

  has(place) {
    return this.get(-1, place) !== undefined;
  }

  /** What the probe of a place reads after a layer: {class, confidence}; null where there is no probe. */
  read(run, layer, place, position) {
    const probe = this.get(layer, place);
    if (!probe) return null;
    const scores = this.scores(probe, run.at(siteOf(layer), position));
    let best = 0;
    for (let k = 1; k < scores.length; k++) if (scores[k] > scores[best]) best = k;
    let total = 0;
    for (const score of scores) total += Math.exp(score - scores[best]);
    return { class: probe.values[best], confidence: 1 / total };
  }

  /** The read-outs of an activation, one per class. */
  scores(probe, x) {
    const { vectors, intercepts } = probe;
    return intercepts.map((intercept, k) => {
      let sum = intercept;
      for (let i = 0, at = k * this.width; i < this.width; i++) sum += x[i] * vectors[at + i];
      return sum;
    });
  }

  /** The change that makes the probe of a place read a value; null where it knows no such value. */
  steering(layer, place, value, dose = 1) {
    const probe = this.get(layer, place);
    const k = probe ? probe.values.indexOf(classOf(value)) : -1;
    if (k < 0) return null;
    probe.basis ??= orthonormal(
      probe.values.map((_, i) => probe.vectors.subarray(i * this.width, (i + 1) * this.width)),
    );
    return steer(probe.basis, probe.means.subarray(k * this.width, (k + 1) * this.width), dose);
  }
}

/** A probe whose vectors have no part that all classes share. */
function prepared(entry, tensors, width) {
  const name = `probe ${entry.layer} ${entry.place}`;
  const vectors = Float64Array.from(tensors.get(`${name} vectors`), (value) => value * entry.scale);
  const n = entry.values.length;
  for (let i = 0; i < width; i++) {
    let mean = 0;
    for (let k = 0; k < n; k++) mean += vectors[k * width + i] / n;
    for (let k = 0; k < n; k++) vectors[k * width + i] -= mean;
  }
  return { ...entry, vectors, means: tensors.get(`${name} means`), basis: null };
}
