// Sites that a pass computes only where an edit asks for them, as `Model.sites(on_demand=True)` has them: what each head
// or the MLP reads, and what each head adds to the stream. An edit sees what lies there, [head, d_model] row after row
// (the MLP's input: [d_model]), and writes into it; positions without edits are left as the fused pass has them.

import { changesAt } from "./edits.mjs";
import { dot } from "./tensors.mjs";

const LETTERS = ["Q", "K", "V"];
const HEAD_INPUTS = ["hook_attn_in", ...LETTERS.map(inputOf)];
const ON_DEMAND = new Set([...HEAD_INPUTS, "attn.hook_result", "hook_mlp_in"]);

/** Whether a site is one of these, in a model of that many blocks. */
export function isOnDemand(site, nLayers) {
  const block = /^blocks\.(\d+)\.(.*)$/.exec(site);
  return block !== null && Number(block[1]) < nLayers && ON_DEMAND.has(block[2]);
}

/** What a block's MLP reads: the stream itself, or a copy with the edits of hook_mlp_in. */
export function mlpInput(stream, name, width, from, to, edits) {
  const changes = [...changesAt(edits, `${name}.hook_mlp_in`, from, to)];
  if (!changes.length) return stream;
  const copy = stream.slice(0, to * width);
  for (const [position, change] of changes) change(copy.subarray(position * width, (position + 1) * width), position);
  return copy;
}

/**
 * Queries, keys and values of the positions at which heads read something else than the stream: edits of hook_attn_in,
 * which all three read, then of hook_q_input, hook_k_input and hook_v_input. `x` is the stream before the block.
 */
export function projectHeadInputs(model, run, name, x, from, edits) {
  const { d_model, n_heads, d_head, eps } = model.config;
  const changesOf = (site) => groupedByPosition(changesAt(edits, `${name}.${site}`, from, run.length));
  const changes = new Map(HEAD_INPUTS.map((site) => [site, changesOf(site)]));
  const positions = new Set([...changes.values()].flatMap((byPosition) => [...byPosition.keys()]));
  if (!positions.size) return;
  if (edits.some(({ site }) => site.startsWith(`${name}.ln1.`)))
    throw new Error(`${name}: inputs of heads and their LayerNorm cannot be edited together; edit one of them`);

  const weight = (rest) => model.weights.get(`${name}.${rest}`);
  const edited = (values, site, position) => {
    for (const change of changes.get(site).get(position) ?? []) change(values, position);
    return values;
  };
  for (const i of positions) {
    const stream = x.subarray(i * d_model, (i + 1) * d_model);
    const copies = new Float32Array(n_heads * d_model);
    for (let head = 0; head < n_heads; head++) copies.set(stream, head * d_model);
    edited(copies, "hook_attn_in", i);
    for (const letter of LETTERS) {
      const inputs = edited(copies.slice(), inputOf(letter), i);
      const projected = run.at(`${name}.attn.hook_${letter.toLowerCase()}`, i);
      const [W, b] = [weight(`attn.W_${letter}`), weight(`attn.b_${letter}`)];
      for (let head = 0; head < n_heads; head++) {
        const row = inputs.subarray(head * d_model, (head + 1) * d_model);
        normalize(row, weight("ln1.w"), weight("ln1.b"), eps);
        for (let o = head * d_head; o < (head + 1) * d_head; o++)
          projected[o] = b[o] + dot(row, 0, W, o * d_model, d_model);
      }
    }
  }
}

/** The attention's output at the positions where what a head adds to it, hook_result, is edited. */
export function sumResults(model, run, name, from, edits) {
  const { d_model, n_heads, d_head } = model.config;
  const [W, b] = [model.weights.get(`${name}.attn.W_O`), model.weights.get(`${name}.attn.b_O`)];
  const byPosition = groupedByPosition(changesAt(edits, `${name}.attn.hook_result`, from, run.length));
  for (const [i, changes] of byPosition) {
    const z = run.at(`${name}.attn.hook_z`, i);
    const results = new Float32Array(n_heads * d_model);
    for (let head = 0; head < n_heads; head++) {
      const start = head * d_head;
      for (let o = 0; o < d_model; o++)
        results[head * d_model + o] = dot(z, start, W, o * n_heads * d_head + start, d_head);
    }
    for (const change of changes) change(results, i);
    const output = run.at(`${name}.hook_attn_out`, i);
    output.set(b);
    results.forEach((value, k) => (output[k % d_model] += value));
  }
}

function inputOf(letter) {
  return `hook_${letter.toLowerCase()}_input`;
}

/** [position, change] as changes by position, each in their order. */
function groupedByPosition(pairs) {
  const byPosition = new Map();
  for (const [position, change] of pairs) byPosition.set(position, [...(byPosition.get(position) ?? []), change]);
  return byPosition;
}

/** LayerNorm of one row, in its place. */
function normalize(x, w, b, eps) {
  let sum = 0;
  for (let k = 0; k < x.length; k++) sum += x[k];
  const mean = sum / x.length;
  let square = 0;
  for (let k = 0; k < x.length; k++) square += (x[k] - mean) ** 2;
  const scale = Math.sqrt(square / x.length + eps);
  for (let k = 0; k < x.length; k++) x[k] = ((x[k] - mean) / scale) * w[k] + b[k];
}
