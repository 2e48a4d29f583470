// Edits of a model's activations, as probes/interventions has them: an edit is {site, position, change}, and a change
// writes into the activation at that site and position. `position` null means every position.
//
// At a site with heads the activation is [head, d_head], at scores and pattern [head, key], row after row.

/** [position, change] of the edits at a site, in their order, at positions from ... to - 1. */
export function* changesAt(edits, site, from, to) {
  for (const edit of edits) {
    if (edit.site !== site) continue;
    if (edit.position === null) for (let i = from; i < to; i++) yield [i, edit.change];
    else if (edit.position >= from && edit.position < to) yield [edit.position, edit.change];
  }
}

/** Put `values` in the activation's place. */
export const patch = (values) => (x) => x.set(values);

/** Put the values of one head [d_head] in its place. */
export const patchHead = (values, head) => (x) => x.set(values, head * values.length);

/** Add `scale * values`. */
export const add = (values, scale) => (x) => {
  for (let k = 0; k < x.length; k++) x[k] += scale * values[k];
};

export const zero = () => (x) => x.fill(0);

/**
 * Move x towards `aim` [features] in the subspace that the rows of `basis` (orthonormal, [features] each) span.
 *
 * With the read-outs of a probe as that subspace and the mean activation of a value as the aim, it is the least shift
 * after which the read-outs are those of that mean: `Steering` in probes/interventions/directions.py. `dose` 1 goes all
 * the way.
 */
export const steer =
  (basis, aim, dose = 1) =>
  (x) => {
    const missing = Float64Array.from(aim, (value, k) => value - x[k]);
    for (const direction of basis) {
      let share = 0;
      for (let k = 0; k < missing.length; k++) share += missing[k] * direction[k];
      for (let k = 0; k < missing.length; k++) x[k] += dose * share * direction[k];
    }
  };

/** Orthonormal rows that span the same as `vectors` (Gram and Schmidt, twice, largest remainder first). */
export function orthonormal(vectors, tolerance = 1e-5) {
  const rest = vectors.map((vector) => Float64Array.from(vector));
  const squares = rest.map((vector) => square(vector));
  const smallest = Math.max(...squares) * tolerance ** 2;
  const basis = [];
  for (;;) {
    const next = squares.indexOf(Math.max(...squares));
    if (next < 0 || !(squares[next] > smallest)) return basis;
    const direction = rest[next];
    for (const other of basis) remove(direction, other); // again: rounding left some
    const size = Math.sqrt(square(direction));
    for (let k = 0; k < direction.length; k++) direction[k] /= size;
    basis.push(direction);
    squares[next] = 0;
    rest.forEach((vector, i) => {
      if (squares[i] === 0) return;
      remove(vector, direction);
      squares[i] = square(vector);
    });
  }
}

function square(vector) {
  let sum = 0;
  for (const value of vector) sum += value * value;
  return sum;
}

function remove(vector, direction) {
  let share = 0;
  for (let k = 0; k < vector.length; k++) share += vector[k] * direction[k];
  for (let k = 0; k < vector.length; k++) vector[k] -= share * direction[k];
}

/**
 * Take attention edges away in one layer: the query at `query` no longer attends to `keys`; `head` null is all heads.
 *
 * "block" makes the scores -Infinity, so that the other keys get the mass; "zero" the pattern 0, the rest stays.
 */
export function edgeEdit(model, layer, query, keys, head = null, mode = "block") {
  const { n_ctx, n_heads } = model.config;
  const heads = head === null ? Array.from({ length: n_heads }, (_, h) => h) : [head];
  const site = `blocks.${layer}.attn.hook_${mode === "block" ? "attn_scores" : "pattern"}`;
  const value = mode === "block" ? -Infinity : 0;
  const change = (x) => heads.forEach((h) => keys.forEach((key) => (x[h * n_ctx + key] = value)));
  return { site, position: query, change };
}

/** The site of the residual stream after a layer; -1: before the first. */
export function siteOf(layer) {
  return layer < 0 ? "blocks.0.hook_resid_pre" : `blocks.${layer}.hook_resid_post`;
}
